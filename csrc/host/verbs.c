/* SPDX-License-Identifier: Apache-2.0
 *
 * start, state, kill and the lock, on the record of a container. Nothing here believes a stored flag: alive is what has the start time,
 * created is what reads the start fifo, paused is what the freezer says.
 */
#include "parts.h"

#include <poll.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

enum { LOCK_STEP_MS = 2 };

/* ---- who and where ----------------------------------------------------------------------------------------------------------- */

bool host_same_boot(const struct host_container *c)
{
	char boot_id[40];

	return host_boot_id(boot_id) == 0 && strcmp(boot_id, c->head->boot_id) == 0;
}

int host_pidfd(const struct host_container *c)
{
	if (!c->head || !c->head->pid || !host_same_boot(c))
		return -ESRCH;
	return host_open_process(c->head->pid, c->head->start_time);
}

static const struct wherry_journal_entry *journal(const struct host_container *c)
{
	return (const void *)((const char *)c->head + c->head->journal_offset);
}

static bool stands(const struct wherry_journal_entry *entry)
{
	return entry->state == WHERRY_JOURNAL_DONE || entry->state == WHERRY_JOURNAL_FOREIGN;
}

/* Does a v1 hierarchy's mount point bear the freezer's name? */
static bool names_freezer(const char *path, uint32_t mount_length)
{
	static const char name[] = "freezer";

	for (uint32_t at = 0; at + sizeof(name) - 1 <= mount_length; at++)
		if (memcmp(path + at, name, sizeof(name) - 1) == 0)
			return true;
	return false;
}

/* The cgroup that speaks for all processes: v1's freezer where there is one, else the v2 one, else any. */
static const struct wherry_journal_entry *main_cgroup(const struct host_container *c, bool freezer_only)
{
	const struct wherry_journal_entry *entry = journal(c), *best = NULL;
	int rank = 0;

	for (uint32_t i = 0; i < c->head->journal_count; i++, entry++) {
		bool v2 = entry->kind == WHERRY_JOURNAL_CGROUP_V2;
		bool freezer = v2 || (entry->kind == WHERRY_JOURNAL_CGROUP_V1 && names_freezer(host_text(c, entry->path), entry->mount_length));
		int worth = freezer ? (v2 ? 2 : 3) : 1;

		if (entry->kind > WHERRY_JOURNAL_CGROUP_V2 || !stands(entry) || worth <= rank || (freezer_only && !freezer))
			continue;
		rank = worth;
		best = entry;
	}
	return best;
}

/* ---- state ------------------------------------------------------------------------------------------------------------------- */

static bool is_paused(const struct host_container *c)
{
	const struct wherry_journal_entry *entry = main_cgroup(c, true);

	return entry && host_cgroup_frozen(host_text(c, entry->path), entry->kind == WHERRY_JOURNAL_CGROUP_V2);
}

/* Only init reads `start`, and only until it executes the program. */
static bool is_created(const struct host_container *c)
{
	cleanup_fd int fd = openat(c->directory, "start", O_WRONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);

	return fd >= 0;
}

int host_status(const struct host_container *c)
{
	const struct wherry_record *r = c->head;

	if (!r || !host_same_boot(c))
		return HOST_STOPPED;
	if (r->status == WHERRY_RECORD_CREATING)
		return host_alive(r->owner_pid, r->owner_start) ? HOST_CREATING : HOST_STOPPED;
	if (!host_alive(r->pid, r->start_time))
		return HOST_STOPPED;
	if (is_paused(c))
		return HOST_PAUSED;
	if (is_created(c))
		return HOST_CREATED;
	/* a fifo without a reader is a program that executes, or an init that was killed and is no zombie yet */
	return host_dies_unstarted(r->pid, r->start_time) ? HOST_STOPPED : HOST_RUNNING;
}

/* ---- lock -------------------------------------------------------------------------------------------------------------------- */

int host_lock(const struct host_container *c, uint32_t wait_ms)
{
	int64_t deadline = host_now_ms() + wait_ms;
	struct stat status;

	while (flock(c->directory, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return -errno;
		if (host_now_ms() >= deadline)
			return -EWOULDBLOCK;
		host_sleep_ms(LOCK_STEP_MS);
	}
	if (fstat(c->directory, &status) < 0)
		return -errno;
	return status.st_nlink == 0 ? -ENOENT : 0;
}

/* ---- start ------------------------------------------------------------------------------------------------------------------- */

/* A reader of our own beside the writer, so that init's death between open and write gives no SIGPIPE. */
static int send_start(const struct host_container *c, int *start)
{
	cleanup_fd int guard = -1;

	*start = openat(c->directory, "start", O_WRONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
	if (*start < 0)
		return errno == ENXIO ? -WHERRY_NOT_CREATED : -errno;
	guard = openat(c->directory, "start", O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
	if (guard < 0)
		return -errno;
	return TEMP_FAILURE_RETRY(write(*start, "s", 1)) < 0 ? -errno : 0;
}

int host_read_result(int fd, struct wherry_message *message)
{
	ssize_t got = TEMP_FAILURE_RETRY(read(fd, message, sizeof(*message)));

	if (got < 0)
		return -errno;
	if (got == 0)
		return 0;
	return (size_t)got == sizeof(*message) && message->kind == WHERRY_FAILED && message->error > 0 ? 1 : -EPROTO;
}

/* Did init take the byte? A program that ended at once has; one that died before has not. */
static bool byte_is_left(int start)
{
	int left = 0;

	return ioctl(start, FIONREAD, &left) == 0 && left > 0;
}

static int await_result(int result_fifo, int pidfd, int start, struct wherry_message *failure)
{
	for (;;) {
		struct pollfd item[2] = { { .fd = result_fifo, .events = POLLIN }, { .fd = pidfd, .events = POLLIN } };
		int got, ready = poll(item, 2, -1);

		if (ready < 0 && errno != EINTR)
			return -errno;
		if (ready <= 0)
			continue;
		got = item[0].revents ? host_read_result(result_fifo, failure) : -EAGAIN;
		if (got == 1)
			return -failure->error;
		if (got < 0 && got != -EAGAIN)
			return got;
		/* the end of the file, or of the process: executed, unless the byte still lies there */
		if (got == 0 || (item[1].revents && !item[0].revents))
			return byte_is_left(start) ? -WHERRY_INIT_DIED : 0;
	}
}

int host_start(const struct host_container *c, struct wherry_message *failure)
{
	cleanup_fd int pidfd = host_pidfd(c);
	cleanup_fd int result_fifo = -1;
	cleanup_fd int start = -1;
	int result;

	*failure = (struct wherry_message){ .step = UINT32_MAX };
	if (pidfd < 0)
		return pidfd == -ESRCH ? -WHERRY_NOT_CREATED : pidfd;
	result_fifo = openat(c->directory, "result", O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
	if (result_fifo < 0)
		return -errno;
	result = send_start(c, &start);
	return result < 0 ? result : await_result(result_fifo, pidfd, start, failure);
}

/* ---- kill -------------------------------------------------------------------------------------------------------------------- */

/* v1 keeps even SIGKILL from the frozen. */
static void thaw_for_kill(const struct host_container *c)
{
	const struct wherry_journal_entry *entry = main_cgroup(c, true);

	if (entry && entry->kind == WHERRY_JOURNAL_CGROUP_V1 && host_cgroup_frozen(host_text(c, entry->path), false))
		host_cgroup_thaw(host_text(c, entry->path), false);
}

int host_signal(const struct host_container *c, int signal)
{
	cleanup_fd int pidfd = host_pidfd(c);

	if (pidfd < 0)
		return pidfd;
	if (sys_pidfd_send_signal(pidfd, signal, NULL, 0) < 0)
		return -errno;
	if (signal == SIGKILL)
		thaw_for_kill(c);
	return 0;
}

int host_signal_all(const struct host_container *c, int signal)
{
	const struct wherry_journal_entry *entry = c->head && host_same_boot(c) ? main_cgroup(c, false) : NULL;
	int result;

	if (entry)
		return host_cgroup_signal(host_text(c, entry->path), entry->kind == WHERRY_JOURNAL_CGROUP_V2, signal);
	result = host_signal(c, signal);
	return result == -ESRCH ? 0 : result;
}
