/* SPDX-License-Identifier: Apache-2.0
 *
 * System calls by their names, and the few helpers that every part needs. Raw calls: nothing here takes a lock, allocates, or
 * speaks for other threads, so all of it may run after clone.
 */
#include "wherry/sys.h"

#include <poll.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

enum { KERNEL_SIGSET_SIZE = 8 };

#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

/* ---- helpers ------------------------------------------------------------------------------------------------------- */

int wherry_lift(int *fd, int floor)
{
	int above;

	if (*fd >= floor)
		return 0;
	above = fcntl(*fd, F_DUPFD_CLOEXEC, floor);
	if (above < 0)
		return -1;
	wherry_close(fd);
	*fd = above;
	return 0;
}

size_t wherry_decimal(uint64_t value, char *out)
{
	char digits[20];
	size_t count = 0;

	do
		digits[count++] = (char)('0' + value % 10);
	while (value /= 10);
	for (size_t i = 0; i < count; i++)
		out[i] = digits[count - 1 - i];
	out[count] = 0;
	return count;
}

const char *wherry_fd_path(int fd, char *out)
{
	static const char prefix[] = "/proc/self/fd/";

	memcpy(out, prefix, sizeof(prefix));
	wherry_decimal((uint64_t)fd, out + sizeof(prefix) - 1);
	return out;
}

int wherry_write_all(int fd, const void *data, size_t size)
{
	const char *rest = data;

	while (size) {
		ssize_t written = TEMP_FAILURE_RETRY(write(fd, rest, size));

		if (written < 0)
			return -1;
		rest += written;
		size -= (size_t)written;
	}
	return 0;
}

/* One write(2): the files of procfs and cgroupfs take their value whole or not at all. */
int wherry_write_file(int directory, const char *path, const void *data, size_t size, bool *call_opened)
{
	cleanup_fd int fd = TEMP_FAILURE_RETRY(openat(directory, path, O_WRONLY | O_CLOEXEC | O_NOCTTY));
	ssize_t written;

	if (call_opened)
		*call_opened = fd >= 0;
	if (fd < 0)
		return -1;
	written = TEMP_FAILURE_RETRY(write(fd, data, size));
	if (written < 0)
		return -1;
	if ((size_t)written != size) {
		errno = EIO;
		return -1;
	}
	return 0;
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int reap(pid_t pid, int *status)
{
	return TEMP_FAILURE_RETRY(waitpid(pid, status, 0)) < 0 ? -errno : 0;
}

int wherry_wait_child(pid_t pid, int pidfd, int deadline_ms, int *status)
{
	struct pollfd ended = { .fd = pidfd, .events = POLLIN };
	int64_t end = now_ms() + deadline_ms;
	int ready;

	if (deadline_ms < 0 || pidfd < 0)
		return reap(pid, status);
	do {
		int64_t left = end - now_ms();

		ready = poll(&ended, 1, left > 0 ? (int)left : 0);
	} while (ready < 0 && errno == EINTR);
	if (ready > 0)
		return reap(pid, status);
	ready = ready < 0 ? -errno : -ETIMEDOUT;
	sys_pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
	reap(pid, status);
	return ready;
}

/* ---- signals ------------------------------------------------------------------------------------------------------- */

/* The kernel's struct sigaction. Architectures with SA_RESTORER have the field `restorer`; x86 refuses to deliver without one, and
 * since handlers set here never return, any address will do. */
struct kernel_sigaction {
	void (*handler)(int);
	unsigned long flags;
#if defined(__x86_64__) || defined(__i386__) || defined(__aarch64__) || defined(__arm__) || defined(__s390__) || defined(__powerpc__)
#define HAVE_RESTORER 0x04000000UL
	void (*restorer)(void);
#endif
	uint64_t mask;
};

#ifdef HAVE_RESTORER
static void never_restored(void)
{
	__builtin_trap();
}
#endif

int sys_signal(int signal, void (*handler)(int))
{
	struct kernel_sigaction action = { .handler = handler };

#ifdef HAVE_RESTORER
	if (handler != SIG_DFL && handler != SIG_IGN) {
		action.flags = HAVE_RESTORER;
		action.restorer = never_restored;
	}
#endif
	return (int)syscall(SYS_rt_sigaction, signal, &action, NULL, KERNEL_SIGSET_SIZE);
}

int sys_signal_mask(int how, uint64_t set, uint64_t *old)
{
	return (int)syscall(SYS_rt_sigprocmask, how, &set, old, KERNEL_SIGSET_SIZE);
}

/* ---- system calls --------------------------------------------------------------------------------------------------- */

int sys_openat2(int directory, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve)
{
	struct open_how how = { .flags = flags, .mode = mode, .resolve = resolve };

	return (int)syscall(SYS_openat2, directory, path, &how, sizeof(how));
}

int sys_open_tree(int directory, const char *path, unsigned int flags)
{
	return (int)syscall(SYS_open_tree, directory, path, flags);
}

int sys_move_mount(int from_directory, const char *from, int to_directory, const char *to, unsigned int flags)
{
	return (int)syscall(SYS_move_mount, from_directory, from, to_directory, to, flags);
}

int sys_mount_setattr(int directory, const char *path, unsigned int flags, const struct wherry_mount_attr *attr)
{
	return (int)syscall(SYS_mount_setattr, directory, path, flags, attr, sizeof(*attr));
}

int sys_fsopen(const char *type, unsigned int flags)
{
	return (int)syscall(SYS_fsopen, type, flags);
}

int sys_fsconfig(int fs, unsigned int command, const char *key, const void *value, int aux)
{
	return (int)syscall(SYS_fsconfig, fs, command, key, value, aux);
}

int sys_fsmount(int fs, unsigned int flags, unsigned int attributes)
{
	return (int)syscall(SYS_fsmount, fs, flags, attributes);
}

int sys_fspick(int directory, const char *path, unsigned int flags)
{
	return (int)syscall(SYS_fspick, directory, path, flags);
}

int sys_pivot_root(const char *new_root, const char *put_old)
{
	return (int)syscall(SYS_pivot_root, new_root, put_old);
}

int sys_memfd_create(const char *name, unsigned int flags)
{
	return (int)syscall(SYS_memfd_create, name, flags);
}

int sys_execveat(int directory, const char *path, const char *const argv[], const char *const envp[], int flags)
{
	return (int)syscall(SYS_execveat, directory, path, argv, envp, flags);
}

int sys_close_range(unsigned int first, unsigned int last, unsigned int flags)
{
	return (int)syscall(SYS_close_range, first, last, flags);
}

int sys_pidfd_open(pid_t pid, unsigned int flags)
{
	return (int)syscall(SYS_pidfd_open, pid, flags);
}

int sys_pidfd_send_signal(int pidfd, int signal, siginfo_t *info, unsigned int flags)
{
	return (int)syscall(SYS_pidfd_send_signal, pidfd, signal, info, flags);
}

int sys_pidfd_getfd(int pidfd, int fd, unsigned int flags)
{
	return (int)syscall(SYS_pidfd_getfd, pidfd, fd, flags);
}

pid_t sys_clone3(struct clone_args *args, size_t size)
{
	return (pid_t)syscall(SYS_clone3, args, size);
}

ssize_t sys_getdents64(int directory, void *buffer, size_t size)
{
	return syscall(SYS_getdents64, directory, buffer, size);
}

long sys_keyctl(int operation, unsigned long a2, unsigned long a3, unsigned long a4, unsigned long a5)
{
	return syscall(SYS_keyctl, operation, a2, a3, a4, a5);
}

int sys_seccomp(unsigned int operation, unsigned int flags, void *argument)
{
	return (int)syscall(SYS_seccomp, operation, flags, argument);
}

int sys_capget(void *header, void *data)
{
	return (int)syscall(SYS_capget, header, data);
}

int sys_capset(void *header, const void *data)
{
	return (int)syscall(SYS_capset, header, data);
}

int sys_setresuid(uid_t real, uid_t effective, uid_t saved)
{
	return (int)syscall(SYS_setresuid, real, effective, saved);
}

int sys_setresgid(gid_t real, gid_t effective, gid_t saved)
{
	return (int)syscall(SYS_setresgid, real, effective, saved);
}

int sys_setgroups(size_t count, const gid_t *groups)
{
	return (int)syscall(SYS_setgroups, count, groups);
}

int sys_sched_setattr(pid_t pid, const void *attr, unsigned int flags)
{
	return (int)syscall(SYS_sched_setattr, pid, attr, flags);
}

int sys_sched_setaffinity(pid_t pid, size_t size, const void *mask)
{
	return (int)syscall(SYS_sched_setaffinity, pid, size, mask);
}

int sys_ioprio_set(int which, int who, int priority)
{
	return (int)syscall(SYS_ioprio_set, which, who, priority);
}

int sys_set_mempolicy(int mode, const unsigned long *nodes, unsigned long max_node)
{
	return (int)syscall(SYS_set_mempolicy, mode, nodes, max_node);
}

int sys_prlimit(pid_t pid, unsigned int resource, const uint64_t set[2], uint64_t get[2])
{
	return (int)syscall(SYS_prlimit64, pid, resource, set, get);
}

int sys_bpf(int command, void *attr, unsigned int size)
{
	return (int)syscall(SYS_bpf, command, attr, size);
}

long sys_personality(unsigned long domain)
{
	return syscall(SYS_personality, domain);
}

int sys_getcwd(char *buffer, size_t size)
{
	return (int)syscall(SYS_getcwd, buffer, size);
}
