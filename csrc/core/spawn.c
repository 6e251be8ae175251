/* SPDX-License-Identifier: Apache-2.0
 *
 * The static program as a file that nothing of the host can be reached through, and the way to start a program from a process that
 * may have threads: clone with the memory shared and the caller waiting, so that nothing is copied, on a stack of its own.
 */
#include "wherry/core.h"
#include "wherry/sys.h"

#include <dirent.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum {
	MAX_FDS = 7 + WHERRY_MAX_REGISTERS + 1024 + 1, /* slots, registers, preserved descriptors, the memory of a timeline */
	STACK_SIZE = 32 << 10,
	LAST_SIGNAL = 64,
	ALL_SEALS = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE,
};

/* ---- the sealed program ------------------------------------------------------------------------------------------------ */

/* No F_SEAL_FUTURE_WRITE: it has had kernel bugs, and F_SEAL_WRITE says more. */
static int seal_memfd(const void *bytes, size_t size, unsigned int flags)
{
	cleanup_fd int fd = sys_memfd_create("wherry", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);

	if (fd < 0 || wherry_write_all(fd, bytes, size) < 0)
		return -errno;
	/* the seal of the mode bits came with MFD_EXEC: where it is unknown, the others do */
	if (fcntl(fd, F_ADD_SEALS, ALL_SEALS | F_SEAL_EXEC) < 0 && fcntl(fd, F_ADD_SEALS, ALL_SEALS) < 0)
		return -errno;
	return wherry_steal(&fd);
}

/* Where memfds may not be executed (vm.memfd_noexec=2): a file on a tmpfs that is mounted nowhere, and read-only from then on. */
static int detached_copy(const void *bytes, size_t size)
{
	cleanup_fd int fs = sys_fsopen("tmpfs", FSOPEN_CLOEXEC);
	cleanup_fd int mount = -1;
	cleanup_fd int file = -1;

	if (fs < 0 || sys_fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -errno;
	mount = sys_fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
	if (mount < 0)
		return -errno;
	file = openat(mount, "wherry", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0500);
	if (file < 0 || wherry_write_all(file, bytes, size) < 0)
		return -errno;
	wherry_close(&file); /* a file open for writing cannot be executed, nor its filesystem made read-only */
	if (sys_fsconfig(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0) < 0 || sys_fsconfig(fs, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0) < 0)
		return -errno;
	file = openat(mount, "wherry", O_RDONLY | O_CLOEXEC);
	return file < 0 ? -errno : wherry_steal(&file);
}

int wherry_seal_program(const void *bytes, size_t size)
{
	int fd = seal_memfd(bytes, size, MFD_EXEC);
	int copy;

	if (fd == -EINVAL) /* before Linux 6.3 */
		fd = seal_memfd(bytes, size, 0);
	if (fd >= 0 || (fd != -EACCES && fd != -EPERM && fd != -ENOSYS))
		return fd;
	copy = detached_copy(bytes, size);
	return copy >= 0 ? copy : fd; /* the reason that the user can change is the first one */
}

/* ---- descriptors and signals --------------------------------------------------------------------------------------------- */

static int number_of(const char *text)
{
	int number = 0;

	if (*text < '0' || *text > '9')
		return -1;
	for (; *text >= '0' && *text <= '9'; text++)
		number = number * 10 + (*text - '0');
	return number;
}

/* What close_range does, on kernels and under filters that refuse it. /proc/self/fd is read by number, so closing meanwhile skips none. */
static int walk_fds(int first, bool cloexec_only)
{
	cleanup_fd int directory = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char buffer[2048] __attribute__((aligned(8)));
	ssize_t size;

	if (directory < 0)
		return -errno;
	while ((size = sys_getdents64(directory, buffer, sizeof(buffer))) > 0) {
		for (ssize_t at = 0; at < size;) {
			const struct dirent64 *entry = (const void *)(buffer + at);
			int fd = number_of(entry->d_name);

			at += entry->d_reclen;
			if (fd < first || fd == directory)
				continue;
			if (cloexec_only)
				fcntl(fd, F_SETFD, FD_CLOEXEC);
			else
				close(fd);
		}
	}
	return size < 0 ? -errno : 0;
}

int wherry_close_from(int first)
{
	return sys_close_range((unsigned int)first, ~0U, 0) == 0 ? 0 : walk_fds(first, false);
}

int wherry_cloexec_from(int first)
{
	return sys_close_range((unsigned int)first, ~0U, CLOSE_RANGE_CLOEXEC) == 0 ? 0 : walk_fds(first, true);
}

/* Raw and from 1 to 64: libc's sigaction refuses the two signals that it keeps for itself, and a parent may well have left them ignored. */
int wherry_reset_signals(void)
{
	for (int signal = 1; signal <= LAST_SIGNAL; signal++)
		if (signal != SIGKILL && signal != SIGSTOP && sys_signal(signal, SIG_DFL) < 0)
			return -errno;
	return sys_signal_mask(SIG_SETMASK, 0, NULL) < 0 ? -errno : 0;
}

/* ---- starting a program ---------------------------------------------------------------------------------------------------- */

/* What the child reads of its parent's memory, and the one word that it leaves there. */
struct start {
	int program;      /* -1: `path` */
	const char *path;
	const char *const *argv;
	const int *fds;
	size_t count;
	int error;
};

/* Those that stand in the way of others are lifted above the fixed range first. */
int wherry_place_fds(const int fds[], size_t count)
{
	int lifted[MAX_FDS];

	for (size_t i = 0; i < count; i++) {
		lifted[i] = fds[i];
		if (fds[i] < 0 || (size_t)fds[i] >= count || (size_t)fds[i] == i)
			continue;
		lifted[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, (int)count);
		if (lifted[i] < 0)
			return -errno;
	}
	for (size_t i = 0; i < count; i++) {
		int error = 0;

		if (lifted[i] < 0)
			close((int)i);
		else if ((size_t)lifted[i] == i)
			error = fcntl((int)i, F_SETFD, 0);
		else
			error = TEMP_FAILURE_RETRY(dup2(lifted[i], (int)i));
		if (error < 0)
			return -errno;
	}
	return 0;
}

static int start_program(const struct start *start)
{
	static const char *const nothing[] = { NULL };
	int program = start->program;
	int error;

	if (program < 0) {
		error = wherry_reset_signals();
		if (error < 0)
			return error;
	}
	if (program >= 0 && (size_t)program < start->count) {
		program = fcntl(program, F_DUPFD_CLOEXEC, (int)start->count);
		if (program < 0)
			return -errno;
	}
	error = wherry_place_fds(start->fds, start->count);
	if (error < 0)
		return error;
	error = wherry_cloexec_from((int)start->count);
	if (error < 0)
		return error;
	if (program >= 0)
		sys_execveat(program, "", start->argv, nothing, AT_EMPTY_PATH);
	else
		sys_execveat(AT_FDCWD, start->path, start->argv, nothing, 0);
	return -errno;
}

/* Shares the parent's memory: system calls only, and never back into the caller. */
static int child(void *argument)
{
	struct start *start = argument;

	start->error = start_program(start);
	_exit(127);
}

static int spawn(struct start *start, int *pidfd)
{
	char stack[STACK_SIZE] __attribute__((aligned(16)));
	uint64_t mask;
	int pid, saved;

	if (start->count > MAX_FDS)
		return -E2BIG;
	*pidfd = -1;
	/* a handler of the parent must not run on the child's side of the shared memory */
	sys_signal_mask(SIG_SETMASK, ~(uint64_t)0, &mask);
	pid = clone(child, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, start, pidfd);
	saved = errno;
	sys_signal_mask(SIG_SETMASK, mask, NULL);
	if (pid < 0)
		return -saved;
	if (start->error) {
		TEMP_FAILURE_RETRY(waitpid(pid, NULL, 0));
		wherry_close(pidfd);
		return start->error;
	}
	return pid;
}

int wherry_spawn(int program, const char *const argv[], const int fds[], size_t count, int *pidfd)
{
	struct start start = { .program = program, .argv = argv, .fds = fds, .count = count };

	return spawn(&start, pidfd);
}

int wherry_spawn_path(const char *path, const char *const argv[], const int fds[], size_t count, int *pidfd)
{
	struct start start = { .program = -1, .path = path, .argv = argv, .fds = fds, .count = count };

	return spawn(&start, pidfd);
}
