/* SPDX-License-Identifier: Apache-2.0
 *
 * The end of a container: processes, cgroups, the state directory, in this order. The journal says what is ours; every step may have
 * been done before, so a delete that was interrupted is simply done again.
 */
#include "parts.h"

#include <string.h>
#include <sys/mount.h>

enum { END_WAIT_MS = 10 * 1000, STACKED = 32 };

static int kill_init(const struct host_container *c)
{
	cleanup_fd int pidfd = host_pidfd(c);

	if (pidfd < 0)
		return pidfd == -ESRCH ? 0 : pidfd;
	host_signal(c, SIGKILL); /* thaws, where a frozen v1 cgroup would keep it */
	return host_kill_and_wait(pidfd, END_WAIT_MS); /* its status is for whoever is its parent */
}

/* Written by pwrite; the mapping shows it. */
static int mark(const struct host_container *c, uint32_t index, enum wherry_journal_state state)
{
	const uint8_t value = (uint8_t)state;
	size_t offset = c->head->journal_offset + index * sizeof(struct wherry_journal_entry) + offsetof(struct wherry_journal_entry, state);

	return host_record_set(c->record, offset, &value, sizeof(value));
}

/* Whoever is in a cgroup that we made exclusively is of this container. One whose making was cut short (`begun`) may be another's by
 * now: it is removed when it is empty, and nobody in it is killed. */
static int end_cgroup(const struct host_container *c, const struct wherry_journal_entry *entry, bool kill_members)
{
	const char *path = host_text(c, entry->path);
	int result = 0;

	if (kill_members && entry->state == WHERRY_JOURNAL_DONE)
		result = cgroup_kill(path, entry->kind == WHERRY_JOURNAL_CGROUP_V2);
	return result < 0 ? result : cgroup_remove(path, entry->mount_length, entry->made_depth);
}

static int end_resctrl(const struct host_container *c, const struct wherry_journal_entry *entry)
{
	const char *path = host_text(c, entry->path);

	return path[0] == '/' && rmdir(path) < 0 && errno != ENOENT ? -errno : 0;
}

/* What is shared with the host goes private first: else its end would be the end of the host's own. Whatever is mounted there is ours. */
static int end_mount(const char *path)
{
	for (int i = 0; i < STACKED; i++) {
		if (mount(NULL, path, NULL, MS_PRIVATE | MS_REC, NULL) < 0)
			break;
		if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
			return -errno;
	}
	if (errno != EINVAL && errno != ENOENT)
		return -errno;
	return rmdir(path) < 0 && errno != ENOENT ? -errno : 0;
}

static int end_entry(const struct host_container *c, uint32_t index, bool kill_members)
{
	const struct wherry_journal_entry *entry = (const void *)((const char *)c->head + c->head->journal_offset);
	int result = 0;

	entry += index;
	if (entry->state != WHERRY_JOURNAL_BEGUN && entry->state != WHERRY_JOURNAL_DONE)
		return 0;
	switch ((enum wherry_journal_kind)entry->kind) {
	case WHERRY_JOURNAL_CGROUP_V1:
	case WHERRY_JOURNAL_CGROUP_V2:
		result = end_cgroup(c, entry, kill_members);
		break;
	case WHERRY_JOURNAL_RESCTRL:
		result = end_resctrl(c, entry);
		break;
	case WHERRY_JOURNAL_MOUNT:
		result = end_mount(host_text(c, entry->path));
		break;
	case WHERRY_JOURNAL_UNIT:
		return 0; /* Python's, before it comes here; the unit ends with its last process anyhow */
	}
	return result < 0 ? result : mark(c, index, WHERRY_JOURNAL_UNDONE);
}

/* All entries are tried; the first error is the answer. */
static int end_journal(const struct host_container *c, bool kill_members)
{
	int first = 0;

	for (uint32_t i = 0; i < c->head->journal_count; i++) {
		int result = end_entry(c, i, kill_members);

		if (result < 0 && first == 0)
			first = result;
	}
	return first;
}

int host_destroy(struct host_container *c, bool kill_first)
{
	int result = 0, more;

	if (c->head && host_same_boot(c)) { /* since another boot nothing that the journal names is ours */
		result = host_record_owner(c->record, WHERRY_RECORD_DELETING);
		if (result == 0 && kill_first)
			result = kill_init(c);
		more = result == 0 ? end_journal(c, kill_first || c->head->flags & WHERRY_PLAN_SHARED_PID) : 0;
		if (result < 0 || more < 0)
			return result < 0 ? result : more;
	}
	if (!c->head) { /* nobody knows what there is: what is mounted here is not to be removed file by file */
		char path[64] = "/proc/self/fd/";

		strcpy(path + 14 + wherry_decimal((uint64_t)c->directory, path + 14), "/" WHERRY_MOUNT_POINT);
		result = end_mount(path);
	}
	return result < 0 ? result : host_remove_tree(c->root, c->id);
}
