/* SPDX-License-Identifier: Apache-2.0
 *
 * The caller's side on the host: what create, start, state, kill and delete do outside of the container. Compiled into the
 * extension (wherry._native, called by Python) and into the static program (the front), so that a create from the plan cache
 * and one from a fresh plan are the same code. No allocation: the structs are big and have static or caller-owned storage.
 */
#ifndef WHERRY_HOST_H
#define WHERRY_HOST_H

#include "core.h"

/* Something on the host that a Python caller makes besides the plan (a systemd unit, a resctrl group), for the journal. */
struct host_extra {
	uint32_t kind; /* enum wherry_journal_kind */
	const char *name;
};

/* Files and directories of cgroups that somebody has open, by their paths. */
enum { HOST_MAX_KEPT = 12 };
struct host_kept {
	uint32_t count;
	int fd[HOST_MAX_KEPT];
	const char *path[HOST_MAX_KEPT];
};

/* What varies between two creates from one plan. Texts are borrowed until the create is released. */
struct host_request {
	const void *plan;
	size_t plan_size;
	const char *root;           /* --root, absolute; exists or is made 0700 */
	const char *id, *bundle, *bundle_json;
	const char *directory;      /* <root>/<id>, where somebody has it already; or NULL */
	const void *config;         /* bytes of config.json, kept as a copy in the state directory */
	size_t config_size;
	const char *pid_file;       /* or NULL */
	const char *console_socket; /* or NULL */
	const char *pidfd_socket;   /* or NULL */
	int console_master;         /* out (in host_create.request): master of the pty where there is no console socket (attached run); else -1 */
	bool console_as_is;         /* who reads that master shows its bytes on no terminal of its own: newlines keep their carriage returns */
	uint32_t preserve_fds;
	int stdio[3];               /* -1 = inherit our own */
	int program;                /* sealed memfd of the static program (wherry_seal_program) */
	uint32_t deadline_ms;       /* for everything but hooks and the interlude; 0 = 120 s */
	const struct host_extra *extra; /* journal entries that follow those of the plan */
	uint32_t extra_count;
	struct wherry_span *trace;  /* or NULL: zeroed shared memory, one for each step of the plan, kept by the caller of this ... */
	int trace_fd;               /* ... and the memfd behind it */
	int (*launch)(struct wherry_machine *m); /* exec: host_launch_itself, where we are a process of the static program that is there for this alone, with ...
	                             * exactly the descriptors that are named here; else NULL */
	int own[3];                 /* ... and these, which are not for the process: -1 = none */
	const struct host_kept *kept; /* exec: what the plan's steps need not open; or NULL */
	int target;                 /* exec: pidfd of the container's init, which must live until the process is published */
};

/* A file's bytes, in pages to be unmapped. */
struct host_bytes {
	const void *bytes;
	size_t size;
};

/* One create in progress, or a created container. */
struct host_create {
	struct host_request request;
	int root, directory;        /* state root and container directory; the directory is flocked */
	int record;
	bool claimed;
	bool waiting;               /* begin stopped at the interlude; init waits for the answer to step `served` */
	bool finished;              /* the commit has been sent */
	bool pid_file_made;
	bool missing_file;          /* the last OP_CGROUP_WRITE found no such file */
	const void *next_write;     /* the OP_CGROUP_WRITE that goes on in value_file, which the last one has left open for it */
	int value_file;
	uint32_t served;            /* the last step that init asked for: it asks in order, each step once */
	uint32_t journal_offset, journal_count, journal_next;
	int64_t deadline;           /* CLOCK_MONOTONIC, ms; while waiting: what is left of it */
	int console_socket, pidfd_socket, listener_socket; /* connected before anything is made */
	int execution;              /* exec: the reading end of init's result fifo, which is a pipe */
	pid_t launcher;
	int launcher_pidfd;
	uint64_t start_time;        /* of init */
	struct wherry_message failure; /* what failed; kind = WHERRY_FAILED */
	int undo_error;             /* what the undoing could not do, as errno; the state directory is then left for gc */
	char slot_pid[24], slot_start_time[24], slot_created[40];
	struct wherry_machine machine; /* the caller's operations find the rest by it. What stands before its table of steps is what an exec writes: one page */
	char slot_directory[WHERRY_MAX_PATH];
};

/* create.c. Each returns 0 or -errno / -refusal with c->failure filled, and has then undone all that was done (host_create_undo).
 *   begin:  decode, claim, cgroups, launch, and serve init until OP_UNIT or OP_NETWORK_DEVICES of a plan with WHERRY_PLAN_INTERLUDE, else to the end
 *   finish: from there to the next such step (c->waiting), else to the end (OP_PUBLISH); nothing to do for a plan without an interlude
 *   abort:  the caller's own interlude failed: undo */
int host_create_begin(struct host_create *c, const struct host_request *request);
int host_create_finish(struct host_create *c);
void host_create_abort(struct host_create *c);
void host_create_release(struct host_create *c); /* closes what is open; the container lives on */

/* A container whose init somebody else makes (CRIU): begin runs the plan's steps up to the launch, finish takes the process, which is a child of
 * ours, for init and publishes it; nothing of the plan in between is executed. Fails as above; host_create_abort where CRIU fails. */
int host_restore_begin(struct host_create *c, const struct host_request *request);
/* Between the two: the caller's steps behind the launch. Limits are those that wait for a unit of systemd; hooks are run with that pid. A failure
 * undoes nothing; host_create_abort does, once the processes that somebody else has made are gone. */
enum host_restore_part { HOST_RESTORE_LIMITS, HOST_RESTORE_HOOKS };
int host_restore_steps(struct host_create *c, enum host_restore_part part, pid_t pid);
int host_restore_finish(struct host_create *c, pid_t init, int console_master);

/* A plan with WHERRY_PLAN_EXEC, to the moment when its program executes; a failure is reported as above. Nothing is claimed or journaled: root, id
 * and bundle fill slots, config is not looked at. machine.init and init_pidfd are the new process. */
int host_exec(struct host_create *c, const struct host_request *request);
/* The same without its end, in which the launcher is waited for: host_await_settled(). The process is there, and may be told of. */
int host_exec_begin(struct host_create *c, const struct host_request *request);
/* itself.c: launches without a launcher where the plan allows that. */
int host_launch_itself(struct wherry_machine *m);

/* alone.c: an exec in one fork. The caller opens what is to be open and clones; all the rest is done by the process that is made. Nobody waits: c->execution
 * says how it went.
 *   open:   decodes, and runs the caller's steps up to the launch. 0; 1: the plan wants another process, or questions: host_exec(); -errno with c->failure
 *   clone:  the process, a child of ours, in the container's pid namespace; own_pids: an open descriptor of ours. Its pid, with c->execution and
 *           machine.init_pidfd; 0 in the child, which goes on with become(); -errno with c->failure. Nothing else is open then.
 *   become: in the child
 *   result: once c->execution has come to its end. 0 = the program executes (or has ended since); -errno with *failure, which is WHERRY_INIT_DIED for an
 *           end without a word. A process that has failed ends by itself. */
int host_alone_open(struct host_create *c, const struct host_request *request);
pid_t host_alone_clone(struct host_create *c, int own_pids);
void host_alone_become(struct host_create *c) __attribute__((noreturn));
int host_alone_result(int execution, struct wherry_message *failure);

/* Journals what the caller made itself: state of request.extra[index]. */
int host_create_mark(struct host_create *c, uint32_t index, enum wherry_journal_state state);

/* record.c. A record mapped read-only. -ENOENT: no such id. -ENODATA: an id without a record (claimed this moment, or its create died in the
 * first millisecond). -EBADMSG: any wrong byte. -WHERRY_WRONG_VERSION: of another version. In these cases there is no record (c->head is NULL),
 * but where there is a directory host_lock and host_destroy work. -WHERRY_OTHER_BUILD: same version, another build; the record is there and
 * everything works, but the front leaves it to Python. host_close is called in every case. */
struct host_container {
	int root;
	int directory; /* of <root>/<id> */
	int record;
	const struct wherry_record *head; /* NULL: none that we can read */
	size_t size;
	char id[256];
};
int host_open(struct host_container *c, const char *root, const char *id);
void host_close(struct host_container *c);
const char *host_text(const struct host_container *c, struct wherry_text text);

enum host_status { HOST_CREATING = 1, HOST_CREATED, HOST_RUNNING, HOST_STOPPED, HOST_PAUSED };
/* By liveness (boot id, pid, start time) and by the start fifo, never by a flag. Paused: the freezer of the journal's cgroup. */
int host_status(const struct host_container *c);

/* flock on the directory; -EWOULDBLOCK at the end of the wait, -ENOENT where the container has been deleted meanwhile. */
int host_lock(const struct host_container *c, uint32_t wait_ms);
int host_pidfd(const struct host_container *c); /* of init, checked against its start time; -ESRCH when it is gone */
/* Writes the start byte and waits for the result fifo. 0 = executed; -errno/-refusal with *failure from init. */
int host_start(const struct host_container *c, struct wherry_message *failure);
int host_signal(const struct host_container *c, int signal);      /* init: pidfd, re-check, send. -ESRCH when it is gone */
int host_signal_all(const struct host_container *c, int signal);  /* every process of its cgroup */
/* Kills init where asked (and what is left in a shared pid namespace), removes cgroups and the directory. Every step may have been
 * done before. Used by delete, by a failed create and by gc. */
int host_destroy(struct host_container *c, bool kill_first);

/* cgroup files */
int cgroup_kill(const char *path, bool v2);                 /* all members, recursively; cgroup.kill where it exists */
int cgroup_remove(const char *path, uint32_t mount_length, uint32_t depth); /* rmdir with retries while processes end */

/* facts.c: fingerprint of the host facts that the plan compiler reads: hex SHA-256 over build id, boot id, kernel release, uid,
 * capability sets, user/mnt/pid/net/cgroup namespace numbers, cgroup lines of mountinfo, /proc/self/cgroup, the LSM list. */
int host_facts_key(char out[65]);

/* process.c */
/* SIGKILL to the process and to all that descends from it; 0, or what was in the way of the latter (tree.c). */
int host_kill_tree(pid_t pid, int pidfd);
int host_start_time(pid_t pid, uint64_t *start_time); /* field 22 of /proc/PID/stat; -ESRCH when there is none or it is a zombie */

/* sha256.c */
void sha256(const void *data, size_t size, uint8_t out[32]);
struct sha256 { uint32_t state[8]; uint64_t length; uint8_t block[64]; };
void sha256_begin(struct sha256 *s);
void sha256_add(struct sha256 *s, const void *data, size_t size);
void sha256_end(struct sha256 *s, uint8_t out[32]);
void host_hex(const uint8_t *data, size_t size, char *out); /* lower case, and a NUL */

/* cache.c: <root>/@plans/<SHA-256> ("@" is in no id), 0600 files in a 0700 directory of ours, at most 512 files. The keys are pattern.c's. */
enum wherry_option {
	WHERRY_OPTION_NO_PIVOT = 1 << 0,       /* --no-pivot */
	WHERRY_OPTION_NO_NEW_KEYRING = 1 << 1, /* --no-new-keyring */
	WHERRY_OPTION_ROOTLESS = 1 << 2,       /* --rootless true */
	WHERRY_OPTION_SYSTEMD = 1 << 3,        /* --systemd-cgroup */
	WHERRY_OPTION_PRESERVE_SHIFT = 16,     /* --preserve-fds N stands in the upper half */
};
struct host_cache_key { char hex[65]; };
int host_cache_load(const char *root, const struct host_cache_key *key, const void **plan, size_t *size); /* mmap, decoded and checked */
int host_cache_store(const char *root, const struct host_cache_key *key, const void *plan, size_t size);

/* pattern.c: the two names of a configuration's plan in the cache. Both cover the host facts and the options that change a plan; `exact` covers
 * every byte of the configuration, `pattern` all but the blanks. */
enum { WHERRY_MAX_BLANKS = 128 };
#define WHERRY_BLANK "@{wherry:" /* in a pattern: this, two hexadecimal digits and "}" stand for the text of a blank */
enum { WHERRY_BLANK_SIZE = sizeof(WHERRY_BLANK) - 1 + 3 };
struct host_blank {
	const char *text; /* in what has been read, which must stay */
	uint32_t length;
	bool variable;    /* of the environment */
};
enum { HOST_NAMESPACES = 8 };
enum host_namespace { HOST_SAME_NAMESPACE, HOST_OTHER_NAMESPACE }; /* the same: also that there is none */
/* What an exec's plan takes from the container itself, and not from its configuration. */
struct host_kind {
	uint32_t flags;   /* of the record */
	uint32_t cgroups; /* blanks 1 to `cgroups` are what follows the mount point in their paths. Blank 0 is the number of its first process */
	uint8_t relations[HOST_NAMESPACES]; /* of its namespaces to ours: user, mnt, pid, net, cgroup, uts, ipc, time */
};
struct host_pattern {
	struct host_cache_key exact, pattern;
	size_t size; /* of all that has been read */
	uint32_t count;
	struct host_kind kind; /* of host_exec_kind() */
	char process[24];      /* blank 0 of it */
	struct host_blank blanks[WHERRY_MAX_BLANKS];
};
/* -EBADMSG: quotes or brackets that do not match. facts: a host_facts_key() that still holds, or NULL. */
int host_pattern_read(struct host_pattern *p, const void *config, size_t size, uint32_t options, const char *facts);
/* The same of an exec's plan in that container. Text: a process.json (`file`), or front.h's writing of the command line. Kept in the container's directory. */
int host_exec_pattern(struct host_pattern *p, const struct host_container *c, bool file, const void *text, size_t size, const char *facts);
/* The same of an exec's plan in all containers of a kind. config: as it is kept; its variables are blanks too where the text has none of its own
 * (`file`). There is no exact name. -EOPNOTSUPP: this container is not like others. Kept with the plans of creates. */
int host_exec_kind(struct host_pattern *p, const struct host_container *c, const struct host_bytes *config, bool file, const void *text, size_t size,
		   const char *facts);
/* The same in two steps, of a process.json: what the container brings, which is the most, and later the text. In between the record must stay, for the
 * blanks are in it, and what the container has been asked for must be so still: its namespaces, and the facts. */
struct host_foreseen {
	struct host_pattern kind; /* not the name */
	struct sha256 name;
};
int host_foresee(struct host_foreseen *f, const struct host_container *c, const char *facts);
int host_foreseen_kind(struct host_pattern *p, const struct host_foreseen *f, const void *text, size_t size);
/* The plan, decoded and checked, in pages to be unmapped: the exact one, else the pattern with these texts. */
int host_pattern_load(const char *root, const struct host_pattern *p, const void **plan, size_t *size);
int host_pattern_fill(const struct host_pattern *p, const void *plan, size_t size, const void **filled, size_t *filled_size);
/* The plan of an exec by what the container has left of it, else by what one of its kind has. */
int host_exec_plan(const struct host_container *c, const char *root, bool file, const void *text, size_t size, const char *facts, const void **plan,
		   size_t *plan_size);

extern const uint8_t wherry_build_id[WHERRY_BUILD_ID_SIZE];

#endif
