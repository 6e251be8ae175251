// SPDX-License-Identifier: Apache-2.0
//
// For the static programs alone, where their libc is musl: the functions that musl makes bigger than they need, with fast searches of long texts,
// locks for threads that they have not, the vDSO, and substitutes for what kernels before 5.0 lack. Linked before libc.a, these take their
// places and save 7 KB of 100. Each is one system call or one loop, with the contract of its manual page as far as it is used here:
// no threads, no cancellation, no signal handlers. What plans and tables are searched with (memchr, strlen, strspn) stays musl's.
//
// Compiled without LTO and as freestanding: else the compiler makes a call of strlen out of the loop in strlen.
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#include "wherry/sys.h"

// ---- strings ----------------------------------------------------------------------------------------------------------

char *strchrnul(const char *text, int wanted)
{
	while (*text && *text != (char)wanted)
		text++;
	return (char *)text;
}

char *strchr(const char *text, int wanted)
{
	char *found = strchrnul(text, wanted);

	return *found == (char)wanted ? found : NULL;
}

int strncmp(const char *one, const char *other, size_t size)
{
	for (; size; one++, other++, size--)
		if (*one != *other || !*one)
			return (unsigned char)*one - (unsigned char)*other;
	return 0;
}

int strcmp(const char *one, const char *other)
{
	return strncmp(one, other, (size_t)-1);
}

char *strstr(const char *text, const char *wanted)
{
	size_t length = strlen(wanted);

	for (; strncmp(text, wanted, length); text++)
		if (!*text)
			return NULL;
	return (char *)text;
}

// ---- files ------------------------------------------------------------------------------------------------------------

static unsigned int mode_of(int flags, va_list arguments)
{
	return flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, unsigned int) : 0;
}

int open(const char *path, int flags, ...)
{
	va_list arguments;
	unsigned int mode;

	va_start(arguments, flags);
	mode = mode_of(flags, arguments);
	va_end(arguments);
	return (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_LARGEFILE, mode);
}

int openat(int directory, const char *path, int flags, ...)
{
	va_list arguments;
	unsigned int mode;

	va_start(arguments, flags);
	mode = mode_of(flags, arguments);
	va_end(arguments);
	return (int)syscall(SYS_openat, directory, path, flags | O_LARGEFILE, mode);
}

// A command without an argument reads a word of its own frame, which the kernel does not look at.
int fcntl(int fd, int command, ...)
{
	unsigned long argument;
	va_list arguments;

	va_start(arguments, command);
	argument = va_arg(arguments, unsigned long);
	va_end(arguments);
	return (int)syscall(SYS_fcntl, fd, command, argument);
}

#if defined(__x86_64__) || defined(__aarch64__) || (defined(__riscv) && __riscv_xlen == 64)
// On these, musl's struct stat is the kernel's.
int fstatat(int directory, const char *restrict path, struct stat *restrict status, int flags)
{
	return (int)syscall(SYS_newfstatat, directory, path, status, flags);
}
int fstat(int fd, struct stat *status)
{
	return fstatat(fd, "", status, AT_EMPTY_PATH);
}
#endif

int fchmod(int fd, mode_t mode)
{
	return (int)syscall(SYS_fchmod, fd, mode);
}

int fchmodat(int directory, const char *path, mode_t mode, int flags)
{
	if (flags) {
		errno = EOPNOTSUPP;
		return -1;
	}
	return (int)syscall(SYS_fchmodat, directory, path, mode);
}

int fchown(int fd, uid_t uid, gid_t gid)
{
	return (int)syscall(SYS_fchown, fd, uid, gid);
}

int fchdir(int fd)
{
	return (int)syscall(SYS_fchdir, fd);
}

int utimensat(int directory, const char *path, const struct timespec times[2], int flags)
{
	return (int)syscall(SYS_utimensat, directory, path, times, flags);
}

int pipe2(int ends[2], int flags)
{
	return (int)syscall(SYS_pipe2, ends, flags);
}

int dup3(int from, int to, int flags)
{
	return (int)syscall(SYS_dup3, from, to, flags);
}

void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
	return (void *)syscall(SYS_mmap, address, size, protection, flags, fd, offset);
}

// ---- sockets ----------------------------------------------------------------------------------------------------------

int socket(int domain, int type, int protocol)
{
	return (int)syscall(SYS_socket, domain, type, protocol);
}

int socketpair(int domain, int type, int protocol, int pair[2])
{
	return (int)syscall(SYS_socketpair, domain, type, protocol, pair);
}

// ---- processes, signals, time ------------------------------------------------------------------------------------------

pid_t fork(void)
{
	return (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	return (int)syscall(SYS_clock_gettime, clock, now);
}

int nanosleep(const struct timespec *wanted, struct timespec *left)
{
	return (int)syscall(SYS_nanosleep, wanted, left);
}

int sigprocmask(int how, const sigset_t *restrict set, sigset_t *restrict old)
{
	return (int)syscall(SYS_rt_sigprocmask, how, set, old, 8);
}
