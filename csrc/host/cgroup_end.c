/* SPDX-License-Identifier: Apache-2.0
 *
 * The end of a cgroup: signals to all of its processes, killing them, removing directories. A process is signalled through a pidfd after
 * its number was seen in the list once more, so a number that was given to another process meanwhile hits nobody outside.
 */
#include "parts.h"

#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

enum { BATCH = 64, WALK_DEPTH = 32, KILL_ROUNDS = 200, REMOVE_ROUNDS = 200, WALK = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC };

/* ---- lists of processes ------------------------------------------------------------------------------------------------ */

struct reader {
	int fd;
	size_t at, end;
	char buffer[4096];
};

/* The next number of a cgroup.procs file. 1, 0 at its end, or -errno. Numbers of other pid namespaces read 0 and are left out. */
static int next_pid(struct reader *r, pid_t *pid)
{
	uint64_t number = 0;
	bool digits = false;

	for (;;) {
		if (r->at == r->end) {
			ssize_t got = TEMP_FAILURE_RETRY(read(r->fd, r->buffer, sizeof(r->buffer)));

			if (got <= 0)
				return got < 0 ? -errno : 0;
			r->at = 0;
			r->end = (size_t)got;
		}
		char c = r->buffer[r->at++];

		if (c >= '0' && c <= '9') {
			number = number * 10 + (uint64_t)(c - '0');
			digits = true;
		} else if (digits && number > 0 && number < INT32_MAX) {
			*pid = (pid_t)number;
			return 1;
		} else {
			number = 0;
			digits = false;
		}
	}
}

struct batch {
	size_t count;
	pid_t pid[BATCH];
	int pidfd[BATCH];
	bool listed[BATCH];
};

static void look_again(int directory, struct batch *b)
{
	cleanup_fd int fd = openat(directory, "cgroup.procs", O_RDONLY | O_CLOEXEC);
	struct reader r = { .fd = fd };
	pid_t pid;

	while (fd >= 0 && next_pid(&r, &pid) > 0)
		for (size_t i = 0; i < b->count; i++)
			if (b->pid[i] == pid)
				b->listed[i] = true;
}

static void signal_batch(int directory, struct batch *b, int signal)
{
	for (size_t i = 0; i < b->count; i++) {
		b->pidfd[i] = sys_pidfd_open(b->pid[i], 0);
		b->listed[i] = false;
	}
	look_again(directory, b);
	for (size_t i = 0; i < b->count; i++) {
		if (b->pidfd[i] >= 0 && b->listed[i])
			sys_pidfd_send_signal(b->pidfd[i], signal, NULL, 0);
		wherry_close(&b->pidfd[i]);
	}
	b->count = 0;
}

/* Number of processes that were there, or -errno. */
static int signal_members(int directory, int signal)
{
	cleanup_fd int fd = openat(directory, "cgroup.procs", O_RDONLY | O_CLOEXEC);
	struct reader r = { .fd = fd };
	struct batch b = { .count = 0 };
	int members = 0, result;
	pid_t pid;

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	while ((result = next_pid(&r, &pid)) > 0) {
		if (pid == getpid())
			continue;
		members++;
		b.pid[b.count++] = pid;
		if (b.count == BATCH)
			signal_batch(directory, &b, signal);
	}
	signal_batch(directory, &b, signal);
	/* a threaded v2 cgroup lists no processes (EOPNOTSUPP); its domain does; one that is being removed gives ENODEV */
	return result < 0 && result != -EOPNOTSUPP && result != -ENODEV ? result : members;
}

/* ---- walking ----------------------------------------------------------------------------------------------------------- */

struct directory_entry { /* struct linux_dirent64 */
	uint64_t inode;
	int64_t offset;
	uint16_t size;
	uint8_t type;
	char name[];
};

enum { IS_DIRECTORY = 4 }; /* DT_DIR; cgroup filesystems always tell */

typedef int (*visit)(int parent, const char *name, int depth, int argument);

/* Calls `each` for every child directory. The sum of what it returns, or the first error. */
static int each_child(int directory, visit each, int depth, int argument)
{
	_Alignas(8) char buffer[2048];
	int sum = 0;
	ssize_t got;

	while ((got = sys_getdents64(directory, buffer, sizeof(buffer))) > 0) {
		for (ssize_t at = 0; at < got;) {
			const struct directory_entry *entry = (const void *)(buffer + at);
			int result = 0;

			if (entry->type == IS_DIRECTORY && strcmp(entry->name, ".") != 0 && strcmp(entry->name, "..") != 0)
				result = depth > 0 ? each(directory, entry->name, depth - 1, argument) : -ELOOP;
			if (result < 0)
				return result;
			sum += result;
			at += entry->size;
		}
	}
	return got < 0 && errno != ENOENT ? -errno : sum;
}

static int signal_tree(int parent, const char *name, int depth, int signal)
{
	cleanup_fd int directory = openat(parent, name, WALK);
	int here, below;

	if (directory < 0)
		return errno == ENOENT ? 0 : -errno;
	here = signal_members(directory, signal);
	if (here < 0)
		return here;
	below = each_child(directory, signal_tree, depth, signal);
	return below < 0 ? below : here + below;
}

/* ---- freezing ---------------------------------------------------------------------------------------------------------- */

static int write_below(const char *path, const char *file, const char *value)
{
	char whole[WHERRY_MAX_PATH];

	if (!host_join(whole, sizeof(whole), path, file))
		return -ENAMETOOLONG;
	return wherry_write_file(AT_FDCWD, whole, value, strlen(value), NULL) < 0 ? -errno : 0;
}

static int freeze(const char *path, bool v2, bool frozen)
{
	if (v2)
		return write_below(path, "cgroup.freeze", frozen ? "1" : "0");
	return write_below(path, "freezer.state", frozen ? "FROZEN" : "THAWED");
}

bool host_cgroup_frozen(const char *path, bool v2)
{
	char file[WHERRY_MAX_PATH], text[32];
	ssize_t got;

	if (!host_join(file, sizeof(file), path, v2 ? "cgroup.freeze" : "freezer.state"))
		return false;
	got = host_read_file(AT_FDCWD, file, text, sizeof(text));
	return got > 0 && (v2 ? text[0] == '1' : strncmp(text, "THAWED", 6) != 0);
}

int host_cgroup_thaw(const char *path, bool v2)
{
	return freeze(path, v2, false);
}

/* ---- signals and killing ------------------------------------------------------------------------------------------------- */

/* Frozen meanwhile, so that nobody forks away from the signal; a cgroup that was frozen before stays so. */
int host_cgroup_signal(const char *path, bool v2, int signal)
{
	bool was_frozen = host_cgroup_frozen(path, v2);
	bool froze = !was_frozen && freeze(path, v2, true) == 0;
	int result = signal_tree(AT_FDCWD, path, WALK_DEPTH, signal);

	/* v1 delivers nothing to the frozen, not even SIGKILL */
	if (froze || (was_frozen && !v2 && signal == SIGKILL))
		freeze(path, v2, false);
	return result < 0 ? result : 0;
}

int cgroup_kill(const char *path, bool v2)
{
	int result = v2 ? write_below(path, "cgroup.kill", "1") : -ENOENT;

	if (result == 0)
		return 0;
	for (int round = 0; round < KILL_ROUNDS; round++) {
		bool froze = round > 0 && freeze(path, v2, true) == 0; /* the first round is for the common case: nobody, or one */

		result = signal_tree(AT_FDCWD, path, WALK_DEPTH, SIGKILL);
		if (froze || (round == 0 && !v2 && result > 0))
			freeze(path, v2, false);
		if (result <= 0)
			return result;
		host_sleep_ms(round < 10 ? 1 : 10);
	}
	return -EBUSY;
}

/* ---- removing ------------------------------------------------------------------------------------------------------------ */

/* What is not there is removed. On a read-only mount that has to be asked for: it refuses first. */
static int remove_directory(int parent, const char *name)
{
	int error;

	if (unlinkat(parent, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
		return 0;
	error = errno;
	if (error == EROFS && faccessat(parent, name, F_OK, 0) < 0 && errno == ENOENT)
		return 0;
	return -error;
}

static int remove_tree(int parent, const char *name, int depth, int unused)
{
	cleanup_fd int directory = -1;
	int result = remove_directory(parent, name);

	if (result != -EBUSY && result != -ENOTEMPTY)
		return result;
	directory = openat(parent, name, WALK);
	if (directory < 0)
		return errno == ENOENT ? 0 : -errno;
	result = each_child(directory, remove_tree, depth, unused);
	if (result < 0)
		return result;
	return remove_directory(parent, name);
}

/* A killed process leaves its cgroup a moment after the signal. */
static int remove_leaf(const char *path)
{
	int result = 0;

	for (int round = 0; round < REMOVE_ROUNDS; round++) {
		result = remove_tree(AT_FDCWD, path, WALK_DEPTH, 0);
		if (result != -EBUSY && result != -ENOTEMPTY)
			return result;
		host_sleep_ms(round < 10 ? 1 : 10);
	}
	return result;
}

static bool is_marked(const char *path)
{
	char value;

	return getxattr(path, "trusted." HOST_CGROUP_MARK, &value, 1) == 1 || getxattr(path, "user." HOST_CGROUP_MARK, &value, 1) == 1;
}

/* Innermost first: the leaf, `depth` - 1 parents that its container made, and further ones that another container made, whose mark they have.
 * A parent that others use by now stays, without an error. */
int cgroup_remove(const char *path, uint32_t mount_length, uint32_t depth)
{
	char part[WHERRY_MAX_PATH];
	size_t length = strlen(path);
	int result;

	if (!depth)
		return 0;
	if (length >= sizeof(part))
		return -ENAMETOOLONG;
	memcpy(part, path, length + 1);
	result = remove_leaf(part);
	while (result == 0) {
		bool own = depth > 1;
		char *slash = strrchr(part, '/');

		if (!slash || slash <= part + mount_length)
			return 0;
		*slash = 0;
		if (!own && !is_marked(part))
			return 0;
		result = remove_directory(AT_FDCWD, part);
		if (result < 0)
			return !own || result == -EBUSY || result == -ENOTEMPTY ? 0 : result;
		depth -= own;
	}
	return result;
}
