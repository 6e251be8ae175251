/* SPDX-License-Identifier: Apache-2.0
 *
 * What the parts of the C core share: the machine that walks a plan, and one function per operation.
 *
 * Rules: functions return 0 (or a value >= 0) or -errno; a refusal that no errno says is -(enum wherry_refusal). A function that
 * fails names the system call with wherry_fail(). No allocation, no stdio, no locale anywhere below here: the code runs
 * after clone. Every descriptor is close-on-exec and ends by cleanup_fd.
 */
#ifndef WHERRY_CORE_H
#define WHERRY_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "plan.h"

/* A checked plan: decode.c has looked at every bound, so the rest may trust offsets. */
struct wherry_code {
	const uint8_t *base;
	size_t size;
	const struct wherry_plan *plan;
	uint32_t steps;
	const struct wherry_op *step[WHERRY_MAX_STEPS + 1];
};

enum { WHERRY_CALLERS = 6, WHERRY_FEW_TEXTS = 128 };

/* By OP_PROGRAM, for OP_EXECUTE. */
struct wherry_prepared {
	const char *name;       /* argv[0] */
	const char *candidates; /* what is left of PATH behind the one found; NULL = it was no search */
	const char *program;    /* what OP_EXECUTE executes */
	const char **argv, **envp;
	const char *home;       /* "HOME=...", NULL = none */
};

/* Everything one executor knows. One per process, static storage. What is written on the way of every process stands together, with the beginning of the
 * table of steps behind it: each of its pages is copied for each process that writes into it. */
struct wherry_machine {
	const uint8_t *launch;                     /* struct wherry_launch, NULL in the caller */
	const char *slots[WHERRY_SLOT_COUNT];
	int registers[WHERRY_MAX_REGISTERS];       /* -1 = empty */
	enum wherry_executor executor;
	int caller;                                /* socket to the caller (launcher, init), or to the child (in the caller). -1: see wherry_asks_caller() */
	int helper;                                /* init: socket to the launcher; launcher: socket to init */
	pid_t init;                                /* launcher and caller: host pid of init */
	int init_pidfd;
	int start_fifo, result_fifo;
	int signals;                               /* init: a signalfd; all signals are blocked until the start. 0 or less = none */
	uint32_t preserve_fds;                     /* they stand at 3 .. 3+preserve_fds-1, close-on-exec until OP_EXECUTE clears that; all else is above */
	int rootfs;                                /* init: O_PATH descriptor of the future root (of "/" after the pivot) */
	int pending_fd;                            /* descriptor that travels with the next WHERRY_RUN; -1 = none. Owned */
	uint32_t current;                          /* step that runs */
	uint32_t failed_call;                      /* set by wherry_fail() */
	uint64_t failed_value;
	bool published;                            /* init: failures now go to the result fifo */
	uint32_t requested;                        /* init: WHERRY_RUN of this step is sent already (by OP_SECCOMP's helper): only wait for the answer. 0 = none */
	bool directory_refused;                    /* OP_WORKING_DIRECTORY stage 0 was not allowed: stage 1 tries again */
	struct wherry_span *trace;                 /* shared by all executors, one for each step; NULL = nobody wants a timeline */
	bool by_caller;                            /* there is no launcher: the caller clones init itself, and knows of it at once */
	int callers[WHERRY_CALLERS];               /* init, where by_caller: the caller's descriptors, which are not ours; -1 = none */
	bool unattached;                           /* init, cloned ahead: the kernel could not clone it into its cgroup */
	bool ordered;                              /* descriptors are as the program gets them; of ours only the two fifos are left (OP_WAIT_START) */
	char own_pid[24];                          /* init: as it sees it */
	struct wherry_prepared prepared;           /* init */
	const char *vectors[WHERRY_FEW_TEXTS];     /* of `prepared`, where they have room */
	struct wherry_code code;
	char program[WHERRY_MAX_PATH];             /* of `prepared`, where it was searched for */
	char home[WHERRY_MAX_PATH];                /* of `prepared` */
};

/* Records which call failed and returns -error. error > 0 is an errno or an enum wherry_refusal. */
int wherry_fail(struct wherry_machine *m, enum wherry_call call, int error);
/* The same with errno. */
int wherry_fail_errno(struct wherry_machine *m, enum wherry_call call);

/* decode.c: checks `size` bytes at `base` (8-byte aligned) and fills `code`. 0, or -WHERRY_BAD_PLAN / -WHERRY_WRONG_VERSION with
 * *where = the offending offset. */
int wherry_decode(const void *base, size_t size, struct wherry_code *code, uint64_t *where);
/* The launcher's memfd, mapped at `base`: checks it, decodes the plan in it, sets m->launch, slots, preserve_fds. */
int wherry_decode_launch(const void *base, size_t size, struct wherry_machine *m, uint64_t *where);
/* Calls `visit` for each reference to a text in the operations of a decoded plan, those in lists included, until it returns other than 0. */
typedef int (*wherry_text_visitor)(void *data, struct wherry_text *text);
int wherry_each_text(void *plan, wherry_text_visitor visit, void *data);
const char *wherry_text(const struct wherry_code *code, struct wherry_text text); /* NUL-terminated; NULL when absent */
const void *wherry_bytes(const struct wherry_code *code, struct wherry_blob blob);
const struct wherry_text *wherry_texts(const struct wherry_code *code, struct wherry_list list);
/* Fills slots into a template. Length without NUL, or -ENAMETOOLONG. `out` is NUL-terminated. */
ssize_t wherry_expand(const struct wherry_machine *m, struct wherry_template text, char *out, size_t size);

/* message.c: one named function per send and per wait. `fd` may be -1 / NULL; a received descriptor is close-on-exec. */
int wherry_send(int socket, const struct wherry_message *message, int fd);
int wherry_receive(int socket, struct wherry_message *message, int *fd); /* -EPIPE at end of file */

/* execute.c */
void wherry_stamp(struct wherry_machine *m, uint32_t step, bool end); /* into m->trace, where there is one */
int wherry_run_step(struct wherry_machine *m, uint32_t step); /* one operation of any executor but the caller's */
int wherry_launcher_main(void);                               /* role launcher of the static program; returns its exit status */
/* The launcher's steps by the caller. false where the plan or our rights want a process of its own for them. */
bool wherry_may_launch_itself(const struct wherry_code *code);
int wherry_prepare_clone(struct wherry_machine *m); /* to OP_CLONE, without it */
int wherry_clone_itself(struct wherry_machine *m);  /* that step, which prepare_clone has left in m->current */
/* The clone before the launcher's steps: they are then the child's, which is what the plan makes. Its pid and m->init_pidfd; 0 in the child, -errno. */
pid_t wherry_clone_ahead(struct wherry_machine *m, const struct wherry_op_clone *op);
/* There, behind wherry_prepare_clone(), in place of OP_CLONE; `error` is what has failed. As wherry_init_main(). */
int wherry_go_on_as_init(struct wherry_machine *m, int error);
/* Behind the clone: has init a question, or a descriptor for the caller? Else there may be no socket (m->caller is -1): init writes its WHERRY_RUN
 * of OP_PUBLISH into the result fifo and goes on, and every failure too. */
bool wherry_asks_caller(const struct wherry_code *code);
/* init, straight after clone; `error` is what already failed. Never returns 0. It makes a session of its own (setsid) before the first step: OP_CONSOLE finds a session leader. */
int wherry_init_main(struct wherry_machine *m, int error);
bool wherry_served_by_launcher(const struct wherry_op *op);   /* after the clone: may init ask the launcher for it? */
bool wherry_gives_tree(const struct wherry_op *op);           /* its register is filled by whoever runs it: a struct wherry_op_open_tree */
uint32_t wherry_last_served(const struct wherry_code *code);  /* the last such step; 0 = none */
int wherry_await_start(struct wherry_machine *m);             /* init: the start byte, or death by a signal; then no signal is blocked */
void wherry_set_register(struct wherry_machine *m, uint16_t number, int fd); /* closes what was in it */
int wherry_close_from(int first);                             /* close_range, or a walk of /proc/self/fd where refused */
int wherry_cloexec_from(int first);                           /* the same, but marks them close-on-exec */
int wherry_reset_signals(void);                               /* every disposition default, mask empty (raw, from 1 to 64) */

/* securepath.c: paths inside a root descriptor. Every function resolves with openat2(RESOLVE_IN_ROOT) (retry on EAGAIN) and falls back
 * to a component walk with O_PATH|O_NOFOLLOW where openat2 gives ENOSYS or EPERM. They return an O_PATH (or opened) descriptor. */
int securepath_open(int root, const char *path, int flags, uint64_t extra_resolve);
int securepath_make_directories(int root, const char *path, mode_t mode); /* mkdir -p, step by step; returns O_PATH of the last */
int securepath_make_file(int root, const char *path, mode_t mode);        /* empty file with its parents; O_PATH */
int securepath_parent(int root, const char *path, const char **name);     /* O_PATH of the (made) parent; *name = last component */
extern bool securepath_without_openat2; /* tests: pretend that openat2 does not exist */
int open_procfs(struct wherry_machine *m);  /* verified procfs (magic, root inode) of the present pid namespace: full, detached */

/* hook.c: runs a program with `state` on its stdin, in an own process group, its output to our stderr; kills the group at the timeout.
 * 0, -WHERRY_HOOK_FAILED with *status, -WHERRY_HOOK_TIMEOUT, or -errno of its execve. Usable in a threaded caller: CLONE_VM|CLONE_VFORK
 * with an own stack. `argv` and `envp` end with NULL. */
int wherry_run_hook(const char *path, const char *const argv[], const char *const envp[], const char *state, size_t state_length,
		    uint32_t timeout_seconds, int *status, enum wherry_call *call);

/* maps.c: pipes on stdio that are ours become theirs. With the host's credentials, before the user namespace is entered. */
void wherry_give_pipes(uint32_t uid, uint32_t gid);

/* passwd.c: the home directory of `uid` from the passwd file open at `fd`; bounded line reader. 0, or -ENOENT. */
int passwd_home(int fd, uint32_t uid, char *home, size_t size);

/* spawn.c: the static program as a sealed memfd (ladder: memfd MFD_EXEC, memfd without, detached read-only clone of the file). `bytes` = the
 * program. Returns a descriptor to execute, kept by the caller of this for as long as it likes. */
int wherry_seal_program(const void *bytes, size_t size);
/* Starts `program`, which is ours (execveat, AT_EMPTY_PATH), with `argv`, an empty environment and exactly `fds` as descriptors 0..count-1
 * (-1 = that number stays closed: an empty register), by CLONE_VM|CLONE_VFORK. It begins with all signals blocked: its first act is
 * wherry_reset_signals(). Returns the pid, or -errno of what failed up to and with execve; *pidfd is set. */
int wherry_spawn(int program, const char *const argv[], const int fds[], size_t count, int *pidfd);
/* fds[i] becomes descriptor i and stays open over execve; -1 closes it. 0 or -errno. */
int wherry_place_fds(const int fds[], size_t count);
/* Any program, by path: dispositions are reset and nothing is blocked. */
int wherry_spawn_path(const char *path, const char *const argv[], const int fds[], size_t count, int *pidfd);

/* The operations. `op` has been checked by the decoder. namespace.c, mount.c, rootfs.c, device.c, process.c, ... */
#define WHERRY_OP(function, type) int function(struct wherry_machine *m, const struct type *op)

/* namespace.c */
WHERRY_OP(op_oom_score_adj, wherry_op_oom_score_adj);
WHERRY_OP(op_open_namespace, wherry_op_open_namespace);
WHERRY_OP(op_join, wherry_op_join);
WHERRY_OP(op_unshare, wherry_op_unshare);
WHERRY_OP(op_time_offsets, wherry_op_time_offsets);
WHERRY_OP(op_clone, wherry_op_clone);
WHERRY_OP(op_attach_tasks, wherry_op_attach_tasks);
WHERRY_OP(op_write_maps, wherry_op_write_maps);
WHERRY_OP(op_become_root, wherry_op_become_root);
WHERRY_OP(op_keyring, wherry_op_keyring);
WHERRY_OP(op_loopback_up, wherry_op_loopback_up);
WHERRY_OP(op_hostname, wherry_op_hostname);
WHERRY_OP(op_domainname, wherry_op_hostname);
/* mount.c, idmap.c, copy_up.c */
WHERRY_OP(op_propagation, wherry_op_propagation);
WHERRY_OP(op_open_tree, wherry_op_open_tree);     /* leaves the tree in registers[op->out] */
WHERRY_OP(op_create_tree, wherry_op_create_tree); /* launcher: the same */
WHERRY_OP(op_idmap_tree, wherry_op_idmap_tree);   /* launcher: the tree is in its own register (it opened it) */
WHERRY_OP(op_attach_rootfs, wherry_op_attach_rootfs);
WHERRY_OP(op_mount_bind, wherry_op_mount_bind);
WHERRY_OP(op_mount_fs, wherry_op_mount_fs);
WHERRY_OP(op_mount_cgroup2, wherry_op_mount_fs);
WHERRY_OP(op_mount_sysfs, wherry_op_mount_fs);
WHERRY_OP(op_remount, wherry_op_remount);
WHERRY_OP(op_mount_attributes, wherry_op_mount_attributes);
/* rootfs.c, device.c */
WHERRY_OP(op_symlink, wherry_op_symlink);
WHERRY_OP(op_directory, wherry_op_directory);
WHERRY_OP(op_device_node, wherry_op_device_node);
WHERRY_OP(op_sysctl, wherry_op_sysctl);
WHERRY_OP(op_readonly_path, wherry_op_path);
WHERRY_OP(op_masked_path, wherry_op_path);
WHERRY_OP(op_pivot, wherry_op_pivot);
WHERRY_OP(op_chroot, wherry_op_mount_point);
WHERRY_OP(op_root_attributes, wherry_op_root_attributes);
void rootfs_stand(struct wherry_machine *m); /* launcher, before the clone: its working directory is the rootfs's own place, see rootfs.c */
/* console.c: leaves the master in m->pending_fd for OP_PUBLISH */
WHERRY_OP(op_console, wherry_op_console);
/* process.c, schedule.c, credentials.c */
WHERRY_OP(op_hook, wherry_op_hook);
WHERRY_OP(op_personality, wherry_op_personality);
WHERRY_OP(op_scheduler, wherry_op_scheduler);
WHERRY_OP(op_io_priority, wherry_op_io_priority);
WHERRY_OP(op_memory_policy, wherry_op_memory_policy);
WHERRY_OP(op_cpu_affinity, wherry_op_cpu_affinity);
WHERRY_OP(op_rlimit, wherry_op_rlimit);           /* prlimit of m->init in the launcher, of itself in init */
WHERRY_OP(op_security_label, wherry_op_security_label);
WHERRY_OP(op_umask, wherry_op_umask);
WHERRY_OP(op_working_directory, wherry_op_working_directory);
WHERRY_OP(op_no_new_privileges, wherry_op_no_new_privileges);
WHERRY_OP(op_seccomp, wherry_op_seccomp);         /* with a listener: the next step must be OP_LISTENER; a helper has then sent its WHERRY_RUN, see m->requested */
WHERRY_OP(op_landlock, wherry_op_landlock);       /* m->failed_value of a path that cannot be opened: its index */
WHERRY_OP(op_bounding, wherry_op_bounding);
WHERRY_OP(op_identity, wherry_op_identity);
WHERRY_OP(op_capabilities, wherry_op_capabilities);
WHERRY_OP(op_program, wherry_op_program);
WHERRY_OP(op_wait_start, wherry_op_wait_start);
WHERRY_OP(op_execute, wherry_op_execute);

/* host/: the caller's operations (host.h has its agenda) */
WHERRY_OP(op_claim, wherry_op_claim);
WHERRY_OP(op_mount_point, wherry_op_mount_point);
WHERRY_OP(op_cgroup_directory, wherry_op_cgroup_directory);
WHERRY_OP(op_cgroup_controllers, wherry_op_cgroup_controllers);
WHERRY_OP(op_cgroup_cpuset, wherry_op_cgroup_cpuset);
WHERRY_OP(op_cgroup_write, wherry_op_cgroup_write);
WHERRY_OP(op_cgroup_devices, wherry_op_cgroup_devices);
WHERRY_OP(op_cgroup_chown, wherry_op_cgroup_chown);
WHERRY_OP(op_open_tasks, wherry_op_open_tasks);
WHERRY_OP(op_open_target, wherry_op_open_target);
WHERRY_OP(op_launch, wherry_op_launch);
WHERRY_OP(op_listener, wherry_op_listener);
WHERRY_OP(op_publish, wherry_op_publish);

#endif
