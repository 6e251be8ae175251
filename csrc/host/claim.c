/* SPDX-License-Identifier: Apache-2.0
 *
 * The claim of an id: mkdir of <root>/<id>, before anything else is done. What EEXIST says is the only truth about who was first.
 */
#include "parts.h"

#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

bool host_valid_id(const char *id)
{
	size_t length = strlen(id);

	return length > 0 && length < sizeof(((struct host_container *)0)->id) && !strchr(id, '/') && id[0] != '@' &&
	       strcmp(id, ".") != 0 && strcmp(id, "..") != 0;
}

/* mkdir -p. The directories above the root become 0700 too: whoever wants others makes them. */
static int make_directories(const char *path)
{
	char part[WHERRY_MAX_PATH];
	size_t length = strlen(path);

	if (length >= sizeof(part))
		return -ENAMETOOLONG;
	memcpy(part, path, length + 1);
	for (char *at = part + 1;; at++) {
		char kept = *at;

		if (kept != '/' && kept)
			continue;
		*at = 0;
		if (mkdir(part, 0700) < 0 && errno != EEXIST)
			return -errno;
		if (!kept)
			return 0;
		*at = kept;
	}
}

static int check_root(int root, uint64_t *value)
{
	struct stat status;

	if (fstat(root, &status) < 0)
		return -errno;
	*value = (uint64_t)status.st_mode << 32 | status.st_uid;
	return status.st_uid != geteuid() || (status.st_mode & 022) ? -WHERRY_UNSAFE_DIRECTORY : 0;
}

static int open_root(const char *path, bool make, uint64_t *value)
{
	cleanup_fd int root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int result;

	if (root < 0 && errno == ENOENT && make) {
		result = make_directories(path);
		if (result < 0)
			return result;
		root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	if (root < 0)
		return -errno;
	result = check_root(root, value);
	return result < 0 ? result : wherry_steal(&root);
}

int host_open_root(const char *path, bool make)
{
	uint64_t value;

	return open_root(path, make, &value);
}

/* Whoever collects garbage may hold the lock of a directory without a record for a moment, and may even remove it. */
static int lock_claimed(int directory)
{
	struct stat status;

	if (TEMP_FAILURE_RETRY(flock(directory, LOCK_EX)) < 0 || fstat(directory, &status) < 0)
		return -errno;
	return status.st_nlink == 0 ? -ENOENT : 0;
}

static int make_directory(struct host_create *c)
{
	struct wherry_machine *m = &c->machine;
	int result;

	c->root = open_root(c->request.root, true, &m->failed_value);
	if (c->root < 0)
		return wherry_fail(m, WHERRY_CALL_OPEN, -c->root);
	if (mkdirat(c->root, c->request.id, 0700) < 0)
		return wherry_fail(m, WHERRY_CALL_MKDIR, errno == EEXIST ? WHERRY_EXISTS : errno);
	c->claimed = true;
	c->directory = openat(c->root, c->request.id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (c->directory < 0)
		return wherry_fail_errno(m, WHERRY_CALL_OPEN);
	result = lock_claimed(c->directory);
	return result < 0 ? wherry_fail(m, WHERRY_CALL_FLOCK, -result) : 0;
}

/* Opened for both directions, so that neither open waits and init never sees the end of the start fifo. */
static int make_fifo(struct host_create *c, const char *name, int *fd)
{
	if (mkfifoat(c->directory, name, 0600) < 0)
		return wherry_fail_errno(&c->machine, WHERRY_CALL_MKFIFO);
	*fd = openat(c->directory, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	return *fd < 0 ? wherry_fail_errno(&c->machine, WHERRY_CALL_OPEN) : 0;
}

/* A mount point that nobody else has: what is mounted there is the container's. The journal names it before it is one; it has done so since the
 * record was written, behind the cgroups. */
int op_mount_point(struct wherry_machine *m, const struct wherry_op_mount_point *op)
{
	struct host_create *c = host_of(m);
	char path[WHERRY_MAX_PATH];
	ssize_t length = wherry_expand(m, op->path, path, sizeof(path));
	int result;

	if (length < 0)
		return wherry_fail(m, WHERRY_CALL_MKDIR, (int)-length);
	if (c->journal_count <= c->request.extra_count)
		return wherry_fail(m, WHERRY_CALL_MKDIR, WHERRY_BAD_PLAN);
	result = host_journal_mark(c, c->journal_count - c->request.extra_count - 1, WHERRY_JOURNAL_BEGUN, 0);
	if (result < 0)
		return wherry_fail(m, WHERRY_CALL_WRITE, -result);
	return mkdir(path, 0700) < 0 ? wherry_fail_errno(m, WHERRY_CALL_MKDIR) : 0;
}

/* The record comes last: where there is one, all the rest is there. */
int op_claim(struct wherry_machine *m, const struct wherry_op_claim *op)
{
	struct host_create *c = host_of(m);
	int result = make_directory(c);

	if (result < 0)
		return result;
	result = host_write_new(c->directory, "config.json", c->request.config, c->request.config_size, 0600);
	if (result == 0) /* a start that fails is worded from it */
		result = host_write_new(c->directory, "plan", c->request.plan, c->request.plan_size, 0600);
	if (result < 0)
		return wherry_fail(m, WHERRY_CALL_WRITE, -result);
	result = make_fifo(c, "start", &m->start_fifo);
	if (result < 0)
		return result;
	result = make_fifo(c, "result", &m->result_fifo);
	if (result < 0)
		return result;
	result = host_record_write(c, op);
	return result < 0 ? wherry_fail(m, WHERRY_CALL_WRITE, -result) : 0;
}
