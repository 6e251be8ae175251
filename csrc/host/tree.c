/* SPDX-License-Identifier: Apache-2.0
 *
 * The end of a process and of all that descends from it, where no cgroup holds just them (exec --timeout). The process stays, stopped, until
 * the last of them has ended: where it adopts what its descendants leave (WHERRY_PROGRAM_ADOPTS), whoever forked twice is found below it too.
 */
#include "parts.h"

#include <poll.h>
#include <signal.h>
#include <string.h>

enum { MOST_PIDS = 4 << 20, MOST_PROCESSES = 1 << 18, ROUNDS = 300, NAMES = 16 << 10 };

struct tree {
	uint64_t belongs[MOST_PIDS / 64]; /* a bit for each pid */
	struct {
		pid_t pid, parent;
	} process[MOST_PROCESSES];
	size_t count;
	_Alignas(8) char names[NAMES];
};

static bool belongs(const struct tree *t, pid_t pid)
{
	return pid > 0 && pid < MOST_PIDS && t->belongs[pid / 64] >> (pid % 64) & 1;
}

static void take(struct tree *t, pid_t pid)
{
	if (pid > 0 && pid < MOST_PIDS)
		t->belongs[pid / 64] |= 1ULL << (pid % 64);
}

/* "PID (comm) S PPID ..."; 0 where it is gone. */
static pid_t parent_of(int proc, const char *name)
{
	char path[32], text[1024];
	uint64_t parent;
	const char *at;

	if (!host_join(path, sizeof(path), name, "stat") || host_read_file(proc, path, text, sizeof(text)) < 0)
		return 0;
	at = strrchr(text, ')');
	return at && strlen(at) > 4 && !host_parse_number(at + 4, &parent) && parent < MOST_PIDS ? (pid_t)parent : 0;
}

struct directory_entry { /* struct linux_dirent64 */
	uint64_t inode;
	int64_t offset;
	uint16_t size;
	uint8_t type;
	char name[];
};

static int read_processes(struct tree *t)
{
	cleanup_fd int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ssize_t got;

	if (proc < 0)
		return -errno;
	t->count = 0;
	while ((got = sys_getdents64(proc, t->names, sizeof(t->names))) > 0) {
		for (ssize_t at = 0; at < got;) {
			const struct directory_entry *entry = (const void *)(t->names + at);
			uint64_t pid;

			at += entry->size;
			if (host_parse_number(entry->name, &pid) || pid >= MOST_PIDS)
				continue;
			if (t->count == MOST_PROCESSES)
				return -EOVERFLOW;
			t->process[t->count].pid = (pid_t)pid;
			t->process[t->count++].parent = parent_of(proc, entry->name);
		}
	}
	return got < 0 ? -errno : 0;
}

static void find_descendants(struct tree *t, pid_t root)
{
	bool more = true;

	memset(t->belongs, 0, sizeof(t->belongs));
	take(t, root);
	while (more) {
		more = false;
		for (size_t i = 0; i < t->count; i++) {
			if (belongs(t, t->process[i].pid) || !belongs(t, t->process[i].parent))
				continue;
			take(t, t->process[i].pid);
			more = true;
		}
	}
}

/* True where there was somebody to kill. A number that was given to a stranger meanwhile has another parent. */
static bool kill_one(const struct tree *t, pid_t pid)
{
	cleanup_fd int pidfd = sys_pidfd_open(pid, 0);
	struct pollfd item = { .fd = pidfd, .events = POLLIN };
	char path[32] = "/proc/";

	if (pidfd < 0 || poll(&item, 1, 0) != 0)
		return false;
	wherry_decimal((uint64_t)pid, path + strlen(path));
	if (!belongs(t, parent_of(AT_FDCWD, path)))
		return false;
	sys_pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
	return true;
}

static int kill_descendants(struct tree *t, pid_t root)
{
	for (int round = 0; round < ROUNDS; round++) {
		int result = read_processes(t);
		bool any = false;

		if (result < 0)
			return result;
		find_descendants(t, root);
		for (size_t i = 0; i < t->count; i++)
			if (t->process[i].pid != root && belongs(t, t->process[i].pid))
				any |= kill_one(t, t->process[i].pid);
		if (!any)
			return 0;
		host_sleep_ms(round < 10 ? 1 : 10);
	}
	return -EBUSY;
}

int host_kill_tree(pid_t pid, int pidfd)
{
	cleanup_scratch struct host_scratch scratch = { 0 };
	int result = host_scratch(&scratch, sizeof(struct tree));

	/* stopped it neither forks nor ends, so nobody below it is given to somebody else's care */
	if (!sys_pidfd_send_signal(pidfd, SIGSTOP, NULL, 0) && !result)
		result = kill_descendants((struct tree *)(void *)scratch.base, pid);
	sys_pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
	return result;
}
