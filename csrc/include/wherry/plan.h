/* SPDX-License-Identifier: Apache-2.0
 *
 * The launch plan: the one definition of what Python hands to C.
 *
 * A plan is a flat buffer: a header, one ordered list of operations, and a heap of bytes that the operations refer to by
 * offset and length. Python (wherry.plan) writes it and decides everything in it; C (csrc/core, csrc/host) checks every
 * bound (decode.c) and executes it. There are no pointers in it, and nothing in it depends on which container is made:
 * what varies between containers of one configuration are *text slots* (enum wherry_slot), filled in when it is executed.
 *
 * Three processes execute one plan. Each operation names its executor:
 *
 *     caller     the front or a Python program, on the host: state directory, cgroups, hooks of the runtime, publishing
 *     launcher   the static program, host credentials, one thread: joins namespaces, clones init, then serves it
 *     init       the container's first process, from clone to execve
 *
 * The list is in order of execution over all three. The caller runs its operations up to and with OP_LAUNCH, the launcher its
 * own up to and with OP_CLONE. From there init walks the list: it runs its own operations, and asks the executor of any
 * other ("run step k") and waits for the answer, which may carry one descriptor for a register. specs/handshake.md draws it.
 *
 * Descriptors live in numbered *registers*; a plan holds register numbers, never descriptor numbers. The registers
 * 0 .. inherited_registers-1 are filled by the caller and inherited by the launcher; where one stays empty (optional), its number is closed.
 */
#ifndef WHERRY_PLAN_H
#define WHERRY_PLAN_H

#include <stdint.h>

enum {
	WHERRY_PLAN_MAGIC = 0x4e504857,   /* "WHPN" */
	WHERRY_LAUNCH_MAGIC = 0x4e4c4857, /* "WHLN" */
	WHERRY_RECORD_MAGIC = 0x43524857, /* "WHRC" */
	WHERRY_VERSION = 1,
	WHERRY_BUILD_ID_SIZE = 16,
	WHERRY_BOOT_ID_SIZE = 36, /* as /proc/sys/kernel/random/boot_id prints it, without newline */
	WHERRY_MAX_PLAN = 8 << 20,
	WHERRY_MAX_STEPS = 16384,
	WHERRY_MAX_REGISTERS = 64,
	WHERRY_MAX_PATH = 4096,
	WHERRY_SLOT_MARK = 1, /* in a template: this byte, then 0x40 + slot number, stands for the slot's text */
	WHERRY_NO_REGISTER = 0xffff,
};

/* Bytes in the heap. `offset` counts from the start of the buffer; the byte after the text is NUL and not counted; the text
 * itself holds no NUL. {0, 0} = absent. */
struct wherry_text {
	uint32_t offset, length;
};

/* As wherry_text, with slot marks inside. */
struct wherry_template {
	uint32_t offset, length;
};

/* Any bytes, 8-byte aligned. */
struct wherry_blob {
	uint32_t offset, length;
};

/* `count` consecutive struct wherry_text at `offset` (8-byte aligned). */
struct wherry_list {
	uint32_t offset, count;
};

enum wherry_slot {
	WHERRY_SLOT_ID,          /* container id */
	WHERRY_SLOT_BUNDLE,      /* absolute path of the bundle */
	WHERRY_SLOT_BUNDLE_JSON, /* the same, escaped for the inside of a JSON string */
	WHERRY_SLOT_DIRECTORY,   /* <root>/<id> */
	WHERRY_SLOT_CREATED,     /* RFC 3339 UTC with nanoseconds */
	WHERRY_SLOT_PID,         /* host pid of init, decimal; "0" before it exists. In init: its own pid as it sees it */
	WHERRY_SLOT_START_TIME,  /* field 22 of /proc/PID/stat of init, decimal */
	WHERRY_SLOT_COUNT,
};

enum wherry_executor {
	WHERRY_CALLER = 1,
	WHERRY_LAUNCHER = 2,
	WHERRY_INIT = 3,
};

enum wherry_opcode {
	/* on the host, before there is a process */
	OP_CLAIM = 1,          /* caller: state directory, record, config copy, fifos */
	OP_CGROUP_DIRECTORY,   /* caller: make (or take) one cgroup directory */
	OP_CGROUP_CONTROLLERS, /* caller, v2: enable controllers in every ancestor's cgroup.subtree_control */
	OP_CGROUP_CPUSET,      /* caller, v1: copy cpuset.cpus and cpuset.mems down from the nearest filled ancestor */
	OP_CGROUP_WRITE,       /* caller: one value into one file of a cgroup directory */
	OP_CGROUP_DEVICES,     /* caller, v2: load and attach a BPF_CGROUP_DEVICE program */
	OP_CGROUP_CHOWN,       /* caller: give directory and listed files to an owner */
	OP_OPEN_TASKS,         /* caller, v1: open a tasks file for writing (before any user namespace exists) */
	OP_LAUNCH,             /* caller: start the launcher from the sealed memfd */
	/* the launcher, before clone */
	OP_OOM_SCORE_ADJ,
	OP_OPEN_NAMESPACE, /* launcher: open a namespace by path and check its type */
	OP_JOIN,           /* launcher or init: setns, to one namespace, or to several of a process */
	OP_UNSHARE,        /* launcher (time) or init (cgroup, ...): unshare */
	OP_TIME_OFFSETS,   /* launcher or init: write /proc/self/timens_offsets */
	OP_CLONE,          /* launcher: clone3 with CLONE_PARENT; the child is init */
	/* init from here on, other executors where asked */
	OP_ATTACH_TASKS, /* init: write 0 to a tasks register */
	OP_WRITE_MAPS,   /* launcher: setgroups, uid_map, gid_map of init */
	OP_BECOME_ROOT,  /* init: setresgid, setresuid 0 in the new user namespace */
	OP_KEYRING,      /* init: a new session keyring */
	OP_LOOPBACK_UP,
	OP_HOSTNAME,
	OP_DOMAINNAME,
	OP_PROPAGATION,     /* init: propagation of "/" before anything is mounted */
	OP_OPEN_TREE,       /* init or launcher: open_tree(OPEN_TREE_CLONE) of a host path, into a register */
	OP_IDMAP_TREE,      /* launcher: give a tree in a register an id mapping */
	OP_ATTACH_ROOTFS,   /* init: mount the tree in a register as the future root; opens the root descriptor */
	OP_MOUNT_BIND,      /* init: attach a tree in a register to a destination in the rootfs */
	OP_MOUNT_FS,        /* init: a new filesystem on a destination */
	OP_MOUNT_CGROUP2,   /* init: ladder: cgroup2, else bind of the own cgroup, else a read-only tmpfs */
	OP_MOUNT_SYSFS,     /* init: ladder: sysfs, else recursive bind of the host's /sys */
	OP_REMOUNT,         /* init: change the flags of what is mounted on a destination ("remount" in the options) */
	OP_MOUNT_ATTRIBUTES,/* init: mount_setattr and propagation on a destination */
	OP_SYMLINK,         /* init: a symlink inside the rootfs */
	OP_DIRECTORY,       /* init: a directory inside the rootfs */
	OP_DEVICE_NODE,     /* init: mknod below a verified directory */
	OP_CONSOLE,         /* init: pty from the container's devpts; the master goes to the caller with OP_PUBLISH */
	OP_HOOK,            /* caller or init */
	OP_NETWORK_DEVICES, /* caller: point where a Python caller moves network devices and does resctrl (see wherry_interlude) */
	OP_SYSCTL,
	OP_READONLY_PATH,
	OP_MASKED_PATH,
	OP_PIVOT,
	OP_ROOT_ATTRIBUTES, /* init: read-only root and propagation of "/" after the pivot */
	OP_PERSONALITY,
	OP_SCHEDULER,
	OP_IO_PRIORITY,
	OP_MEMORY_POLICY,
	OP_CPU_AFFINITY, /* init: reset to all processors, or set */
	OP_RLIMIT,       /* launcher (prlimit of init) or init */
	OP_SECURITY_LABEL,
	OP_UMASK,
	OP_WORKING_DIRECTORY,
	OP_NO_NEW_PRIVILEGES,
	OP_SECCOMP,
	OP_LISTENER, /* caller: hand the seccomp notify descriptor to listenerPath */
	OP_BOUNDING,
	OP_IDENTITY,
	OP_CAPABILITIES,
	OP_PROGRAM, /* init: look the program up (PATH of the process), fill HOME; nothing is executed yet */
	OP_PUBLISH, /* caller: pid known to all: record, state.json, pid file, console and pidfd sockets. Its answer is the commit */
	OP_WAIT_START,
	OP_EXECUTE,
	OP_UNIT, /* caller: point where a Python caller has systemd take init into a unit (see WHERRY_PLAN_INTERLUDE); cgroup steps may follow */
	OP_LANDLOCK, /* init, after the pivot: path rules that the process cannot leave */
	OP_CREATE_TREE, /* launcher: a new filesystem, into a register: one whose ids are to be mapped before it is attached */
	OP_MOUNT_POINT, /* caller: where a rootfs is attached in the caller's own mount namespace: a directory in that of the container, journaled */
	OP_CHROOT, /* init of an exec: into what is attached there */
	OP_OPEN_TARGET, /* caller, exec: a pidfd of the container's first process, by which all that it lives in can be joined in one step */
	OP_COUNT_PLUS_1,
};

/* Every operation starts with this; `size` is the size of the whole struct, a multiple of 8. `place` is the JSON pointer of
 * the config field that the operation comes from, "" where it comes from none. */
struct wherry_op {
	uint16_t code;
	uint8_t executor;
	uint8_t reserved;
	uint32_t size;
	struct wherry_text place;
};

enum wherry_plan_flags {
	WHERRY_PLAN_CACHEABLE = 1 << 0,      /* a byte-identical config on the same host facts gives this plan */
	WHERRY_PLAN_INTERLUDE = 1 << 1,      /* the caller must be Python: it has work at OP_UNIT, OP_NETWORK_DEVICES, or both */
	WHERRY_PLAN_NEW_USER = 1 << 2,       /* a new user namespace */
	WHERRY_PLAN_TERMINAL = 1 << 3,       /* process.terminal: needs a console socket, or an attached run */
	WHERRY_PLAN_POSTSTART = 1 << 4,      /* has poststart hooks: start is Python's */
	WHERRY_PLAN_POSTSTOP = 1 << 5,       /* has poststop hooks: delete is Python's */
	WHERRY_PLAN_SHARED_PID = 1 << 6,     /* no pid namespace of its own: delete and kill --all go through the cgroup */
	WHERRY_PLAN_ROOTLESS = 1 << 7,
	WHERRY_PLAN_NO_PROCESS = 1 << 8,     /* config without process: create works, start must fail */
	WHERRY_PLAN_EXEC = 1 << 9,           /* one more process for a container: no claim, no start to wait for, OP_PUBLISH keeps no record */
	WHERRY_PLAN_UNIT = 1 << 10,          /* in a unit of systemd: delete is Python's */
	WHERRY_PLAN_WARNED = 1 << 11,        /* its compiler had warnings, which are not in it */
};

struct wherry_plan {
	uint32_t magic;
	uint16_t version;
	uint16_t header_size;
	uint32_t size; /* of the whole buffer */
	uint32_t flags;
	uint8_t build_id[WHERRY_BUILD_ID_SIZE];
	uint32_t steps;       /* number of operations */
	uint32_t steps_offset; /* operations stand here, one after the other */
	uint32_t steps_size;  /* bytes of all operations */
	uint16_t registers;   /* how many are used */
	uint16_t inherited_registers;
	struct wherry_text facts_key; /* fingerprint of the host facts it was compiled for (facts_key(), lower-case hex) */
	uint64_t reserved;
};

/* ---- operations ---------------------------------------------------------------------------------------------------- */

struct wherry_op_claim {
	struct wherry_op op;
	struct wherry_template state_head; /* what `state` prints, up to the value of "pid" ... */
	struct wherry_template state_middle; /* ... from there to the value of "status" (without quotes) ... */
	struct wherry_template state_tail; /* ... and the rest, newline included. Pretty JSON */
};

enum wherry_cgroup_flags {
	WHERRY_CGROUP_V2 = 1 << 0,
	WHERRY_CGROUP_EXISTING = 1 << 1, /* may exist already (shared); without it a populated or frozen one is refused */
	WHERRY_CGROUP_OPTIONAL = 1 << 2, /* no permission (rootless without delegation) is no error: the register stays empty */
	WHERRY_CGROUP_WHERE_POSSIBLE = 1 << 3, /* controllers: one that cannot be enabled is left out */
	WHERRY_CGROUP_JOIN = 1 << 4, /* it is there and belongs to the container: opened, neither made nor journaled */
};

struct wherry_op_cgroup_directory {
	struct wherry_op op;
	struct wherry_template path; /* absolute, below a cgroup mount */
	uint32_t mount_length;       /* so many bytes of the path are the mount point, which must exist */
	uint32_t flags;
	uint16_t out;                /* register: O_DIRECTORY descriptor */
	uint16_t reserved[3];
};

struct wherry_op_cgroup_controllers {
	struct wherry_op op;
	struct wherry_template path;
	uint32_t mount_length;
	uint32_t flags; /* WHERRY_CGROUP_OPTIONAL */
	struct wherry_text controllers; /* "cpu memory": each is enabled by itself, one that is absent is an error */
};

struct wherry_op_cgroup_cpuset {
	struct wherry_op op;
	struct wherry_template path;
	uint32_t mount_length;
	uint32_t flags;
};

enum wherry_write_flags {
	WHERRY_WRITE_MISSING_OK = 1 << 0,  /* no such file: nothing to do */
	WHERRY_WRITE_IGNORE = 1 << 1,      /* any error is ignored (the specification says MAY) */
	WHERRY_WRITE_ALTERNATIVE = 1 << 2, /* only where the write before it (in the list) found no such file */
};

struct wherry_op_cgroup_write {
	struct wherry_op op;
	struct wherry_text file, value;
	uint16_t directory; /* register */
	uint16_t reserved;
	uint32_t flags;
};

struct wherry_op_cgroup_devices {
	struct wherry_op op;
	struct wherry_blob program; /* struct bpf_insn[] */
	uint16_t directory;
	uint16_t reserved[3];
};

struct wherry_op_cgroup_chown {
	struct wherry_op op;
	struct wherry_list files; /* names in the directory; missing ones are skipped */
	uint32_t uid, gid;
	uint16_t directory;
	uint16_t reserved[3];
};

struct wherry_op_open_tasks {
	struct wherry_op op;
	struct wherry_text file; /* "tasks"; without a directory (WHERRY_NO_REGISTER) the whole path of one that is there already */
	uint16_t directory, out;
	uint32_t flags;
};

struct wherry_op_launch {
	struct wherry_op op;
};

struct wherry_op_open_target {
	struct wherry_op op;
	uint16_t out;
	uint16_t reserved[3];
};

struct wherry_op_oom_score_adj {
	struct wherry_op op;
	int32_t value;
	uint32_t reserved;
};

struct wherry_op_open_namespace {
	struct wherry_op op;
	struct wherry_text path;
	uint32_t type; /* CLONE_NEW* */
	uint16_t out;
	uint16_t reserved;
};

struct wherry_op_join {
	struct wherry_op op;
	uint32_t type; /* CLONE_NEW*; several where `from` is a pidfd */
	uint16_t from;
	uint16_t keep; /* another step joins from it: the register is not emptied */
	uint32_t root_uid, root_gid; /* a user namespace, by the launcher: who is its root on the host gets our pipes on stdio; -1 = nobody */
};

struct wherry_op_unshare {
	struct wherry_op op;
	uint64_t flags;
};

struct wherry_op_time_offsets {
	struct wherry_op op;
	struct wherry_text lines;
};

struct wherry_op_clone {
	struct wherry_op op;
	uint64_t flags;        /* CLONE_NEW* of the new namespaces */
	uint16_t into_cgroup;  /* register of a cgroup v2 directory, or WHERRY_NO_REGISTER */
	uint16_t reserved[3];
};

struct wherry_op_attach_tasks {
	struct wherry_op op;
	uint16_t tasks;
	uint16_t reserved[3];
};

enum wherry_maps_flags {
	WHERRY_MAPS_DENY_SETGROUPS = 1 << 0,
};

struct wherry_op_write_maps {
	struct wherry_op op;
	struct wherry_text uid_map, gid_map;         /* "0 1000 1\n..." */
	struct wherry_text uid_program, gid_program; /* newuidmap, newgidmap (absolute) or absent: written directly */
	uint64_t flags;
};

struct wherry_op_become_root {
	struct wherry_op op;
};

struct wherry_op_keyring {
	struct wherry_op op;
	struct wherry_template name;
};

struct wherry_op_loopback_up {
	struct wherry_op op;
};

struct wherry_op_hostname { /* and domainname */
	struct wherry_op op;
	struct wherry_text name;
};

struct wherry_op_propagation {
	struct wherry_op op;
	uint64_t flags; /* MS_SLAVE|MS_REC, MS_PRIVATE|MS_REC, ...; the parent mount of the rootfs becomes private for sure */
};

enum wherry_tree_flags {
	WHERRY_TREE_RECURSIVE = 1 << 0,
	WHERRY_TREE_NO_SYMLINK = 1 << 1, /* the rootfs: its path may not end in a symbolic link */
	WHERRY_TREE_ON_HOST = 1 << 2, /* no mount namespace: this and each later clone is a slave of what it was cloned from */
};

struct wherry_op_open_tree {
	struct wherry_op op;
	struct wherry_template source;
	uint32_t flags;
	uint16_t out;
	uint16_t reserved;
};

struct wherry_op_create_tree { /* begins as wherry_op_open_tree does */
	struct wherry_op op;
	struct wherry_template source;
	uint32_t flags;
	uint16_t out;
	uint16_t reserved;
	struct wherry_text type, data;
	uint64_t superblock;
};

struct wherry_op_idmap_tree {
	struct wherry_op op;
	struct wherry_text uid_map, gid_map; /* absent: the container's own user namespace */
	uint16_t tree;
	uint16_t reserved;
	uint32_t recursive;
};

enum wherry_attach_flags {
	WHERRY_ATTACH_ON_HOST = 1 << 0, /* no mount namespace: at the place of OP_MOUNT_POINT, and nothing else on the host is touched */
};

struct wherry_op_attach_rootfs {
	struct wherry_op op;
	struct wherry_template path; /* where it is attached: its own place */
	uint16_t tree;
	uint16_t flags; /* enum wherry_attach_flags */
	uint32_t reserved;
};

enum wherry_mount_flags {
	WHERRY_MOUNT_COPY_UP = 1 << 0,       /* tmpcopyup */
	WHERRY_MOUNT_TARGET_MODE = 1 << 1,   /* tmpfs: mode= of the existing target, before the given data */
	WHERRY_MOUNT_PROC_TARGET = 1 << 2,   /* proc, sysfs: the target must be a real directory, no symlink on the way */
	WHERRY_MOUNT_KEEP_LOCKED = 1 << 3,   /* bind: when the kernel refuses, keep the flags that the source has locked */
	WHERRY_MOUNT_CREATE = 1 << 4,        /* missing destination is created inside the rootfs */
	WHERRY_MOUNT_ON_PROC = 1 << 5,       /* the destination lies in the container's /proc and was allowed by name */
	WHERRY_MOUNT_READONLY_LATE = 1 << 6, /* fresh tmpfs and /dev: read-only only when all is mounted (OP_MOUNT_ATTRIBUTES does it) */
};

/* MOUNT_ATTR_* to set and to clear; both 0 = leave as they are. For atime, `clear` holds the whole MOUNT_ATTR__ATIME. */
struct wherry_attributes {
	uint64_t set, clear;
	uint64_t recursive_set, recursive_clear;
	uint64_t propagation[4]; /* MS_* with MS_REC where recursive, applied in order; 0 ends */
};

struct wherry_op_mount_bind {
	struct wherry_op op;
	struct wherry_text destination;
	struct wherry_attributes attributes;
	uint16_t tree;
	uint16_t reserved;
	uint32_t flags;
};

struct wherry_op_mount_fs { /* and cgroup2, sysfs */
	struct wherry_op op;
	struct wherry_text destination, type;
	struct wherry_template source;
	struct wherry_text data;      /* comma-joined filesystem options */
	uint64_t superblock;          /* MS_SYNCHRONOUS and the like, for the superblock */
	struct wherry_attributes attributes;
	uint64_t flags;
};

struct wherry_op_remount {
	struct wherry_op op;
	struct wherry_text destination, data;
	uint64_t superblock;
	struct wherry_attributes attributes;
	uint64_t flags;
};

struct wherry_op_mount_attributes {
	struct wherry_op op;
	struct wherry_text destination;
	struct wherry_attributes attributes;
};

enum wherry_symlink_flags {
	WHERRY_SYMLINK_TARGET_MUST_EXIST = 1 << 0, /* made only where the target exists (in the rootfs; /proc/... is looked up there) */
	WHERRY_SYMLINK_REPLACE = 1 << 1,           /* what is there is removed first (ptmx) */
};

struct wherry_op_symlink {
	struct wherry_op op;
	struct wherry_text target, path;
	uint64_t flags;
};

struct wherry_op_directory {
	struct wherry_op op;
	struct wherry_text path;
	uint32_t mode;
	uint32_t reserved;
};

struct wherry_op_device_node {
	struct wherry_op op;
	struct wherry_text path;
	uint32_t mode; /* S_IFCHR, S_IFBLK or S_IFIFO, with permissions */
	uint32_t major, minor;
	uint32_t uid, gid;
	uint32_t reserved;
};

struct wherry_op_console {
	struct wherry_op op;
	uint16_t height, width; /* 0 = leave */
	uint32_t uid;           /* owner of the pty: process.user.uid */
};

enum wherry_hook_kind {
	WHERRY_HOOK_PRESTART = 1,
	WHERRY_HOOK_CREATE_RUNTIME,
	WHERRY_HOOK_CREATE_CONTAINER,
	WHERRY_HOOK_START_CONTAINER,
	WHERRY_HOOK_POSTSTART,
	WHERRY_HOOK_POSTSTOP,
};

struct wherry_op_hook {
	struct wherry_op op;
	struct wherry_text path;
	struct wherry_list arguments, environment; /* none = an empty environment; a last entry "HOME=" becomes the HOME that OP_PROGRAM has found */
	struct wherry_template state;              /* whole JSON for stdin; SLOT_PID is the pid as the hook's side sees it */
	uint32_t timeout;                          /* seconds, 0 = none */
	uint32_t kind;
};

struct wherry_op_network_devices {
	struct wherry_op op;
};

enum wherry_unit_flags {
	WHERRY_UNIT_USER = 1 << 0,  /* of the user's own manager */
	WHERRY_UNIT_SLICE = 1 << 1, /* a slice: systemd moves no process into one, the caller does */
};

struct wherry_op_unit {
	struct wherry_op op;
	struct wherry_template name;    /* "wherry-<id>.scope" */
	struct wherry_template cgroup;  /* what it must become, below the mount of its hierarchy */
	struct wherry_text slice;
	struct wherry_list properties;  /* "NAME=SIGNATURE VALUE", the value as JSON */
	uint64_t flags;
};

struct wherry_op_sysctl {
	struct wherry_op op;
	struct wherry_text path, value; /* path with slashes, relative to /proc/sys */
};

struct wherry_op_path { /* readonly path, masked path */
	struct wherry_op op;
	struct wherry_text path;
};

enum wherry_pivot_flags {
	WHERRY_PIVOT_NONE = 1 << 0, /* --no-pivot: MS_MOVE and chroot */
	WHERRY_PIVOT_CHROOT = 1 << 1, /* no mount namespace: chroot alone */
};

#define WHERRY_MOUNT_POINT "rootfs" /* its name, in the container's directory */

struct wherry_op_mount_point { /* and chroot */
	struct wherry_op op;
	struct wherry_template path; /* below the container's directory */
};

struct wherry_op_pivot {
	struct wherry_op op;
	uint64_t flags;
};

struct wherry_op_root_attributes {
	struct wherry_op op;
	uint32_t readonly;
	uint32_t reserved;
	uint64_t propagation; /* MS_*, 0 = leave */
};

struct wherry_op_personality {
	struct wherry_op op;
	uint64_t domain;
};

struct wherry_op_scheduler { /* struct sched_attr of sched_setattr(2), without its size */
	struct wherry_op op;
	uint32_t policy;
	int32_t nice;
	uint64_t flags;
	uint32_t priority, util_min, util_max, reserved;
	uint64_t runtime, deadline, period;
};

struct wherry_op_io_priority {
	struct wherry_op op;
	uint32_t value; /* class << 13 | level */
	uint32_t reserved;
};

struct wherry_op_memory_policy {
	struct wherry_op op;
	uint32_t mode; /* MPOL_* | MPOL_F_* */
	uint32_t max_node;
	struct wherry_blob nodes; /* unsigned long[] bit mask */
};

struct wherry_op_cpu_affinity {
	struct wherry_op op;
	struct wherry_blob mask; /* absent = all processors */
};

struct wherry_op_rlimit {
	struct wherry_op op;
	uint32_t resource;
	uint32_t reserved;
	uint64_t soft, hard;
};

struct wherry_op_security_label {
	struct wherry_op op;
	struct wherry_text module, label; /* "apparmor" | "selinux" */
};

struct wherry_op_umask {
	struct wherry_op op;
	uint32_t mask;
	uint32_t reserved;
};

struct wherry_op_working_directory {
	struct wherry_op op;
	struct wherry_text path;
	uint32_t create; /* 0755 when missing */
	uint32_t stage;  /* 0: before the identity (EACCES is kept for stage 1), 1: after it, and getcwd is checked */
};

struct wherry_op_no_new_privileges {
	struct wherry_op op;
};

struct wherry_op_seccomp {
	struct wherry_op op;
	struct wherry_blob filter; /* struct sock_filter[] */
	uint32_t flags;            /* SECCOMP_FILTER_FLAG_* */
	uint16_t listener;         /* register for the notify descriptor, or WHERRY_NO_REGISTER */
	uint16_t reserved;
};

struct wherry_op_listener {
	struct wherry_op op;
	struct wherry_text path;
	struct wherry_template state; /* container process state JSON */
	uint16_t listener;
	uint16_t reserved[3];
};

struct wherry_op_landlock {
	struct wherry_op op;
	uint64_t handled;           /* LANDLOCK_ACCESS_FS_*: what no path allows is refused */
	struct wherry_list paths;   /* inside of the container */
	struct wherry_blob allowed; /* uint64_t[], one for each path; on what is no directory only the bits for files count */
};

struct wherry_op_bounding {
	struct wherry_op op;
	uint64_t keep; /* bit n = capability n stays */
};

struct wherry_op_identity {
	struct wherry_op op;
	uint32_t uid, gid;
	struct wherry_blob groups; /* uint32_t[] */
	uint64_t skip_setgroups;   /* setgroups is denied in this user namespace */
};

struct wherry_op_capabilities {
	struct wherry_op op;
	uint64_t effective, permitted, inheritable, ambient;
};

enum wherry_program_flags {
	WHERRY_PROGRAM_FILL_HOME = 1 << 0, /* HOME absent or empty: from the container's /etc/passwd, else "/" */
	WHERRY_PROGRAM_ADOPTS = 1 << 1,    /* a subreaper: whatever it starts stays below it, and can be ended with it (exec --timeout) */
};

struct wherry_op_program {
	struct wherry_op op;
	struct wherry_list arguments, environment;
	struct wherry_text path; /* PATH to search, of the process's environment */
	uint32_t uid;            /* for HOME */
	uint32_t flags;
};

struct wherry_op_publish {
	struct wherry_op op;
	struct wherry_template state_file; /* content of state.json; absent in an exec */
};

struct wherry_op_wait_start {
	struct wherry_op op;
};

struct wherry_op_execute {
	struct wherry_op op;
};

/* ---- what the launcher is given: a sealed memfd ---------------------------------------------------------------------- */

/* Descriptors that the launcher inherits, in this order, from number 3 on. */
enum wherry_inherited {
	WHERRY_FD_LAUNCH = 3, /* this memfd */
	WHERRY_FD_CALLER = 4, /* SOCK_SEQPACKET to the caller */
	WHERRY_FD_START = 5,  /* the start fifo, O_RDWR */
	WHERRY_FD_RESULT = 6, /* the result fifo, O_RDWR (init keeps only a writing end) */
	WHERRY_FD_FIRST_REGISTER = 7, /* inherited registers, then preserved descriptors */
};

struct wherry_launch {
	uint32_t magic;
	uint16_t version;
	uint16_t inherited_registers;
	uint32_t size;
	uint32_t preserve_fds;
	struct wherry_text slots[WHERRY_SLOT_COUNT]; /* offsets from the start of this struct */
	uint32_t plan_offset, plan_size;
	uint32_t trace;    /* 1 = behind the preserved descriptors one more is inherited: memory for a struct wherry_span of each step */
	uint32_t reserved;
};

/* When a step ran, by whomever, in nanoseconds of CLOCK_REALTIME: the only clock that no time namespace moves. 0 = it did not (come back). */
struct wherry_span {
	uint64_t begin, end;
};

/* ---- messages: fixed size, SOCK_SEQPACKET, at most one descriptor each -------------------------------------------------- */

enum wherry_message_kind {
	WHERRY_LAUNCHED = 1, /* launcher -> caller: value = pid of init (in the caller's pid namespace); carries a pidfd */
	WHERRY_RUN = 2,      /* init -> launcher or caller: run step `step`; may carry a descriptor (console, listener) */
	WHERRY_DONE = 3,     /* the answer; may carry a descriptor for the step's register */
	WHERRY_FAILED = 4,   /* to the caller from anyone, or the answer to WHERRY_RUN; then the sender exits */
};

/* What failed. `call` names the system call (enum wherry_call); Python words it from the plan. */
struct wherry_message {
	uint32_t kind;
	uint32_t step;   /* index in the list of operations */
	int32_t error;   /* errno, or an enum wherry_refusal from 1000 on */
	uint32_t call;
	uint64_t value;  /* by kind and call: exit status of a hook, pid, ... */
};

/* Reasons that no errno says. From 1000 on, in the `error` of a message. */
enum wherry_refusal {
	WHERRY_REFUSED_FIRST = 1000,
	WHERRY_BAD_PLAN = 1000,      /* decoder: value = offset */
	WHERRY_WRONG_VERSION,
	WHERRY_EXISTS,               /* the id is taken */
	WHERRY_CGROUP_POPULATED,
	WHERRY_CGROUP_FROZEN,
	WHERRY_WRONG_NAMESPACE_TYPE,
	WHERRY_NOT_IN_ROOTFS,        /* a path that cannot be resolved inside the rootfs */
	WHERRY_NOT_PROCFS,
	WHERRY_SYMLINK_REFUSED,      /* /proc or /sys is a symlink */
	WHERRY_OTHER_NODE,           /* a different file exists at the path of a device */
	WHERRY_HOOK_FAILED,          /* value = wait status */
	WHERRY_HOOK_TIMEOUT,
	WHERRY_PROGRAM_NOT_FOUND,    /* executable file not found in $PATH */
	WHERRY_CWD_OUTSIDE,
	WHERRY_INIT_DIED,            /* value = wait status; step = the last that was heard of */
	WHERRY_LAUNCHER_DIED,
	WHERRY_DEADLINE,
	WHERRY_LOCKED_FLAG,          /* a bind may not clear a flag that the host's mount has locked */
	WHERRY_UNSUPPORTED,          /* the kernel lacks it: call says what */
	WHERRY_CAPABILITY_MISSING,
	WHERRY_UNSAFE_DIRECTORY,            /* --root is not ours, or others may write to it; value = its mode << 32 | uid */
	WHERRY_CGROUP_INTERNAL_PROCESSES,   /* v2: an ancestor holds processes itself, so it cannot enable controllers; value = length of its path */
	WHERRY_CGROUP_CONTROLLER_MISSING,   /* v2: an ancestor has not got the controller; value = length of its path */
	WHERRY_OTHER_BUILD,                 /* a record of the same version, made by another build */
	WHERRY_NOT_CREATED,                 /* start: the container is not in the state `created` */
	WHERRY_INSIDE_PROC,                 /* a mount below the container's /proc that the plan does not allow by name */
};

/* The system call or action that failed, for the error text. Append only. */
#define WHERRY_CALLS(X) \
	X(NONE) X(OPEN) X(OPENAT2) X(MKDIR) X(RMDIR) X(UNLINK) X(RENAME) X(MKFIFO) X(WRITE) X(READ) X(FCHOWN) X(FCHMOD) X(STAT) \
	X(MEMFD) X(SOCKETPAIR) X(SEND) X(RECEIVE) X(CONNECT) X(CLONE) X(EXECVE) X(WAIT) X(POLL) X(PIDFD_OPEN) X(SIGNAL) \
	X(SETNS) X(UNSHARE) X(NS_TYPE) X(UID_MAP) X(GID_MAP) X(SETGROUPS) X(SETRESUID) X(SETRESGID) X(NEWUIDMAP) X(NEWGIDMAP) \
	X(KEYCTL) X(IOCTL) X(SETHOSTNAME) X(SETDOMAINNAME) X(MOUNT) X(UMOUNT) X(OPEN_TREE) X(MOVE_MOUNT) X(MOUNT_SETATTR) X(FSOPEN) \
	X(FSCONFIG) X(FSMOUNT) X(PIVOT_ROOT) X(CHROOT) X(CHDIR) X(GETCWD) X(SYMLINK) X(MKNOD) X(PTY) X(SETSID) X(DUP) X(PERSONALITY) \
	X(SCHED_SETATTR) X(SCHED_SETAFFINITY) X(IOPRIO_SET) X(SET_MEMPOLICY) X(PRLIMIT) X(LABEL) X(NO_NEW_PRIVS) X(SECCOMP) \
	X(BOUNDING) X(CAPSET) X(AMBIENT) X(KEEPCAPS) X(LOOKUP) X(BPF_LOAD) X(BPF_ATTACH) X(CLOSE_RANGE) X(FLOCK) X(HOOK) X(COPY_UP) \
	X(FORK) X(DUMPABLE) X(FSTATFS) X(FCNTL) X(OOM_SCORE_ADJ) X(TIME_OFFSETS) X(PID_FILE) X(CONSOLE_SOCKET) X(PIDFD_SOCKET) X(LANDLOCK)

enum wherry_call {
#define WHERRY_CALL_(name) WHERRY_CALL_##name,
	WHERRY_CALLS(WHERRY_CALL_)
#undef WHERRY_CALL_
	WHERRY_CALL_COUNT,
};

/* ---- the record: <root>/<id>/record, the journal of create and what later verbs need ------------------------------------- */

/* Written before the first host step and updated in place (each field by one pwrite). Verbs that find a record of another
 * version or build leave it to Python, which reads state.json and the config copy. Offsets count from the start of the file. */
enum wherry_record_status {
	WHERRY_RECORD_CREATING = 1, /* owner_pid/owner_start name who is at it; dead = a crash: gc finishes or undoes */
	WHERRY_RECORD_PUBLISHED = 2, /* created, running or stopped: read live (the start fifo, the pid) */
	WHERRY_RECORD_DELETING = 3,
};

enum { WHERRY_RECORD_KEYRING = 1 << 30 }; /* the container has a session keyring of its own */

enum wherry_journal_kind {
	WHERRY_JOURNAL_CGROUP_V1 = 1, /* a directory that we made: rmdir */
	WHERRY_JOURNAL_CGROUP_V2 = 2,
	WHERRY_JOURNAL_RESCTRL = 3,
	WHERRY_JOURNAL_UNIT = 4,     /* a systemd unit */
	WHERRY_JOURNAL_MOUNT = 5,    /* a directory of the container's, and all that is mounted there */
};

enum wherry_journal_state {
	WHERRY_JOURNAL_PLANNED = 0,
	WHERRY_JOURNAL_BEGUN = 1,
	WHERRY_JOURNAL_DONE = 2,   /* made by us, exclusively */
	WHERRY_JOURNAL_UNDONE = 3,
	WHERRY_JOURNAL_FOREIGN = 4, /* was there before us: never removed */
};

struct wherry_journal_entry {
	uint8_t kind, state;
	uint16_t made_depth; /* how many trailing path components we made (mkdir -p); removed innermost first */
	uint32_t mount_length;
	struct wherry_text path;
};

struct wherry_record {
	uint32_t magic;
	uint16_t version;
	uint16_t status;
	uint32_t size;
	uint32_t flags; /* enum wherry_plan_flags, and WHERRY_RECORD_KEYRING */
	uint8_t build_id[WHERRY_BUILD_ID_SIZE];
	char boot_id[40]; /* NUL-terminated */
	int32_t owner_pid; /* of create or delete in progress */
	int32_t pid;       /* of init, on the host; 0 = not yet */
	uint64_t owner_start, start_time;
	struct wherry_text state_head, state_middle, state_tail; /* slots filled */
	uint32_t journal_offset, journal_count; /* struct wherry_journal_entry[] */
};

#endif
