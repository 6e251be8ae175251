/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernel as the core sees it: system calls that a libc may lack, constants newer than Linux 6.1, and descriptors that end
 * by attribute. Do not include <linux/mount.h> or <linux/prctl.h> beside it: glibc or musl define the same names in headers of their own.
 *
 * Convention: sys_NAME() is the system call NAME as libc would wrap it: -1 and errno. close, cleanup and steal keep errno.
 */
#ifndef WHERRY_SYS_H
#define WHERRY_SYS_H

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/keyctl.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <linux/nsfs.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

/* ---- small things -------------------------------------------------------------------------------------------------- */

#ifndef TEMP_FAILURE_RETRY
#define TEMP_FAILURE_RETRY(expression) \
	({ \
		__typeof__(expression) result_; \
		do \
			result_ = (expression); \
		while (result_ == -1 && errno == EINTR); \
		result_; \
	})
#endif

#define WHERRY_LENGTH(array) (sizeof(array) / sizeof((array)[0]))

static inline void wherry_close(int *fd)
{
	int saved = errno;

	if (*fd >= 0 && close(*fd) < 0)
		errno = saved;
	*fd = -1;
}

/* cleanup_fd int fd = -1; closes at the end of the scope whatever is in it then. */
#define cleanup_fd __attribute__((cleanup(wherry_close)))

/* Gives the descriptor away: return wherry_steal(&fd); */
static inline int wherry_steal(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

/* Moves a descriptor that is below `floor` to there or above, close-on-exec: a process with closed stdio gets 0, 1 or 2 from open(), and
 * a later dup2 would overwrite it. 0, or -1 and errno. */
int wherry_lift(int *fd, int floor);
/* Decimal digits of `value`, NUL-terminated. Returns the length. `out` holds at least 21 bytes. */
size_t wherry_decimal(uint64_t value, char *out);
/* "/proc/self/fd/N". `out` holds at least 32 bytes. Returns `out`. */
const char *wherry_fd_path(int fd, char *out);
/* Writes all of it, or -1 and errno. */
int wherry_write_all(int fd, const void *data, size_t size);
/* Opens `path` below `directory` (AT_FDCWD), writes `data` by one write(2), closes. 0, or -1 and errno; *call_opened tells which failed
 * (true = the open went well). `call_opened` may be NULL. */
int wherry_write_file(int directory, const char *path, const void *data, size_t size, bool *call_opened);
/* Waits until `pidfd`'s process has ended and reaps it; at the deadline (-1 = none) it is killed. 0 = *status is set,
 * -ETIMEDOUT = killed and reaped, or -errno. */
int wherry_wait_child(pid_t pid, int pidfd, int deadline_ms, int *status);

/* ---- system calls that the C library lacks or wraps with more than the call -------------------------------------------- */

struct wherry_mount_attr { /* struct mount_attr */
	uint64_t attr_set, attr_clr, propagation, userns_fd;
};

int sys_openat2(int directory, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve);
int sys_open_tree(int directory, const char *path, unsigned int flags);
int sys_move_mount(int from_directory, const char *from, int to_directory, const char *to, unsigned int flags);
int sys_mount_setattr(int directory, const char *path, unsigned int flags, const struct wherry_mount_attr *attr);
int sys_fsopen(const char *type, unsigned int flags);
int sys_fsconfig(int fs, unsigned int command, const char *key, const void *value, int aux);
int sys_fsmount(int fs, unsigned int flags, unsigned int attributes);
int sys_fspick(int directory, const char *path, unsigned int flags);
int sys_pivot_root(const char *new_root, const char *put_old);
int sys_memfd_create(const char *name, unsigned int flags);
int sys_execveat(int directory, const char *path, const char *const argv[], const char *const envp[], int flags);
int sys_close_range(unsigned int first, unsigned int last, unsigned int flags);
int sys_pidfd_open(pid_t pid, unsigned int flags);
int sys_pidfd_send_signal(int pidfd, int signal, siginfo_t *info, unsigned int flags);
int sys_pidfd_getfd(int pidfd, int fd, unsigned int flags);
pid_t sys_clone3(struct clone_args *args, size_t size); /* without CLONE_VM: the child returns 0 on its copy of the stack */
ssize_t sys_getdents64(int directory, void *buffer, size_t size);
long sys_keyctl(int operation, unsigned long a2, unsigned long a3, unsigned long a4, unsigned long a5);
int sys_seccomp(unsigned int operation, unsigned int flags, void *argument);
int sys_capget(void *header, void *data);
int sys_capset(void *header, const void *data);
/* Of this thread alone: libc's setres*id() and setgroups() signal every thread, which no child of clone may do. */
int sys_setresuid(uid_t real, uid_t effective, uid_t saved);
int sys_setresgid(gid_t real, gid_t effective, gid_t saved);
int sys_setgroups(size_t count, const gid_t *groups);
int sys_sched_setattr(pid_t pid, const void *attr, unsigned int flags);
int sys_sched_setaffinity(pid_t pid, size_t size, const void *mask);
int sys_ioprio_set(int which, int who, int priority);
int sys_set_mempolicy(int mode, const unsigned long *nodes, unsigned long max_node);
int sys_prlimit(pid_t pid, unsigned int resource, const uint64_t set[2], uint64_t get[2]);
int sys_bpf(int command, void *attr, unsigned int size);
long sys_personality(unsigned long domain);
int sys_getcwd(char *buffer, size_t size); /* as the kernel says it: "(unreachable)..." is passed through; -1, or the length with NUL */
/* Sets a disposition raw, 1..64, the two that libc keeps for itself included. `handler` SIG_DFL, SIG_IGN, or a function that never returns. */
int sys_signal(int signal, void (*handler)(int));
int sys_signal_mask(int how, uint64_t set, uint64_t *old); /* bit n-1 = signal n */

/* ---- constants ----------------------------------------------------------------------------------------------------- */

/* fcntl, memfd */
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* 6.3 */
#endif
#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U /* 6.3 */
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020 /* 6.3 */
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#ifndef AT_EMPTY_PATH
#define AT_EMPTY_PATH 0x1000
#endif
#ifndef AT_HANDLE_FID
#define AT_HANDLE_FID 0x200 /* 6.5 */
#endif
#ifndef STATX_MNT_ID
#define STATX_MNT_ID 0x00001000U
#endif
#ifndef STATX_MNT_ID_UNIQUE
#define STATX_MNT_ID_UNIQUE 0x00004000U /* 6.8 */
#endif

/* the mount API */
#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
#ifndef OPEN_TREE_CLOEXEC
#define OPEN_TREE_CLOEXEC O_CLOEXEC
#endif
#ifndef OPEN_TREE_NAMESPACE
#define OPEN_TREE_NAMESPACE 2 /* 7.0 */
#endif
#ifndef MOVE_MOUNT_F_SYMLINKS
#define MOVE_MOUNT_F_SYMLINKS 0x00000001
#define MOVE_MOUNT_F_AUTOMOUNTS 0x00000002
#define MOVE_MOUNT_F_EMPTY_PATH 0x00000004
#define MOVE_MOUNT_T_SYMLINKS 0x00000010
#define MOVE_MOUNT_T_AUTOMOUNTS 0x00000020
#define MOVE_MOUNT_T_EMPTY_PATH 0x00000040
#endif
#ifndef MOVE_MOUNT_SET_GROUP
#define MOVE_MOUNT_SET_GROUP 0x00000100
#endif
#ifndef MOVE_MOUNT_BENEATH
#define MOVE_MOUNT_BENEATH 0x00000200 /* 6.5 */
#endif
#ifndef FSOPEN_CLOEXEC
#define FSOPEN_CLOEXEC 0x00000001
#endif
#ifndef FSMOUNT_CLOEXEC
#define FSMOUNT_CLOEXEC 0x00000001
#endif
#ifndef FSPICK_CLOEXEC
#define FSPICK_CLOEXEC 0x00000001
#define FSPICK_SYMLINK_NOFOLLOW 0x00000002
#define FSPICK_NO_AUTOMOUNT 0x00000004
#define FSPICK_EMPTY_PATH 0x00000008
#endif
#ifndef FSCONFIG_SET_FLAG
#define FSCONFIG_SET_FLAG 0
#define FSCONFIG_SET_STRING 1
#define FSCONFIG_SET_BINARY 2
#define FSCONFIG_SET_PATH 3
#define FSCONFIG_SET_PATH_EMPTY 4
#define FSCONFIG_SET_FD 5
#define FSCONFIG_CMD_CREATE 6
#define FSCONFIG_CMD_RECONFIGURE 7
#endif
#ifndef FSCONFIG_CMD_CREATE_EXCL
#define FSCONFIG_CMD_CREATE_EXCL 8 /* 6.6 */
#endif
#ifndef MOUNT_ATTR_RDONLY
#define MOUNT_ATTR_RDONLY 0x00000001
#define MOUNT_ATTR_NOSUID 0x00000002
#define MOUNT_ATTR_NODEV 0x00000004
#define MOUNT_ATTR_NOEXEC 0x00000008
#define MOUNT_ATTR__ATIME 0x00000070
#define MOUNT_ATTR_RELATIME 0x00000000
#define MOUNT_ATTR_NOATIME 0x00000010
#define MOUNT_ATTR_STRICTATIME 0x00000020
#define MOUNT_ATTR_NODIRATIME 0x00000080
#endif
#ifndef MOUNT_ATTR_IDMAP
#define MOUNT_ATTR_IDMAP 0x00100000
#endif
#ifndef MOUNT_ATTR_NOSYMFOLLOW
#define MOUNT_ATTR_NOSYMFOLLOW 0x00200000
#endif
#ifndef MS_NOSYMFOLLOW
#define MS_NOSYMFOLLOW 256
#endif
#ifndef ST_NOSYMFOLLOW
#define ST_NOSYMFOLLOW 0x2000
#endif

/* processes */
#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000
#endif
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif
#ifndef CLONE_NEWCGROUP
#define CLONE_NEWCGROUP 0x02000000
#endif
#ifndef PIDFD_NONBLOCK
#define PIDFD_NONBLOCK O_NONBLOCK
#endif
#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
#ifndef TIOCGPTPEER
#define TIOCGPTPEER 0x5441 /* _IO('T', 0x41) */
#endif

#endif
