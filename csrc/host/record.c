/* SPDX-License-Identifier: Apache-2.0
 *
 * The record of a container: <root>/<id>/record, a journal of what stands on the host and what later verbs need without a
 * configuration. Written as a whole before the first host step, then field by field, each by one pwrite.
 */
#include "parts.h"

#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { MAX_RECORD = 16 << 20 };

/* ---- writing ------------------------------------------------------------------------------------------------------- */

size_t host_template_bound(const struct wherry_machine *m, struct wherry_template text)
{
	const uint8_t *at = m->code.base + text.offset, *end = at + text.length;
	size_t bound = text.length + 1;

	for (; at < end; at++) {
		unsigned int slot = at[0] == WHERRY_SLOT_MARK && at + 1 < end ? at[1] - 0x40U : WHERRY_SLOT_COUNT;

		if (slot < WHERRY_SLOT_COUNT && m->slots[slot])
			bound += strlen(m->slots[slot]);
	}
	return bound;
}

/* A record that grows in a buffer. */
struct writer {
	struct host_create *create;
	uint8_t *base;
	size_t at, size;
	int error;
};

static struct wherry_text put_template(struct writer *w, struct wherry_template text)
{
	ssize_t length = wherry_expand(&w->create->machine, text, (char *)w->base + w->at, w->size - w->at);
	struct wherry_text out = { (uint32_t)w->at, (uint32_t)length };

	if (length < 0) {
		w->error = (int)length;
		return (struct wherry_text){ 0 };
	}
	w->at += (size_t)length + 1;
	return out;
}

static struct wherry_text put_text(struct writer *w, const char *text)
{
	struct wherry_text out = { (uint32_t)w->at, (uint32_t)strlen(text) };

	memcpy(w->base + w->at, text, out.length + 1);
	w->at += out.length + 1;
	return out;
}

static const struct wherry_op_cgroup_directory *as_directory(const struct wherry_op *op)
{
	return op->code == OP_CGROUP_DIRECTORY ? (const void *)op : NULL;
}

static const struct wherry_op_mount_point *as_mount_point(const struct wherry_op *op)
{
	return op->code == OP_MOUNT_POINT ? (const void *)op : NULL;
}

static size_t record_bound(struct host_create *c, const struct wherry_op_claim *op)
{
	const struct wherry_machine *m = &c->machine;
	size_t bound = sizeof(struct wherry_record) + host_template_bound(m, op->state_head) + host_template_bound(m, op->state_middle) +
		       host_template_bound(m, op->state_tail);

	c->journal_count = c->request.extra_count;
	for (uint32_t i = 0; i < m->code.steps; i++) {
		const struct wherry_op_cgroup_directory *directory = as_directory(m->code.step[i]);

		const struct wherry_op_mount_point *point = as_mount_point(m->code.step[i]);

		if (!directory && !point)
			continue;
		c->journal_count++;
		bound += host_template_bound(m, directory ? directory->path : point->path);
	}
	for (uint32_t i = 0; i < c->request.extra_count; i++)
		bound += strlen(c->request.extra[i].name) + 1;
	return bound + c->journal_count * sizeof(struct wherry_journal_entry);
}

static void put_journal(struct writer *w, struct wherry_journal_entry *entry)
{
	const struct host_create *c = w->create;

	for (uint32_t i = 0; i < c->machine.code.steps; i++) {
		const struct wherry_op_cgroup_directory *directory = as_directory(c->machine.code.step[i]);

		if (!directory)
			continue;
		entry->kind = directory->flags & WHERRY_CGROUP_V2 ? WHERRY_JOURNAL_CGROUP_V2 : WHERRY_JOURNAL_CGROUP_V1;
		entry->mount_length = directory->mount_length;
		entry->path = put_template(w, directory->path);
		entry++;
	}
	for (uint32_t i = 0; i < c->machine.code.steps; i++) {
		const struct wherry_op_mount_point *point = as_mount_point(c->machine.code.step[i]);

		if (!point)
			continue;
		entry->kind = WHERRY_JOURNAL_MOUNT;
		entry->path = put_template(w, point->path);
		entry++;
	}
	for (uint32_t i = 0; i < c->request.extra_count; i++, entry++) {
		entry->kind = (uint8_t)c->request.extra[i].kind;
		entry->path = put_text(w, c->request.extra[i].name);
	}
}

static int fill_record(struct writer *w, const struct wherry_op_claim *op)
{
	struct host_create *c = w->create;
	struct wherry_record *r = (void *)w->base;
	int result;
	char state;

	*r = (struct wherry_record){ .magic = WHERRY_RECORD_MAGIC, .version = WHERRY_VERSION, .status = WHERRY_RECORD_CREATING,
				     .flags = c->machine.code.plan->flags, .owner_pid = getpid(),
				     .journal_offset = sizeof(*r), .journal_count = c->journal_count };
	result = host_boot_id(r->boot_id);
	if (result == 0)
		result = host_process(getpid(), &state, &r->owner_start);
	if (result < 0)
		return result;
	memcpy(r->build_id, wherry_build_id, sizeof(r->build_id));
	for (uint32_t i = 0; i < c->machine.code.steps; i++)
		if (c->machine.code.step[i]->code == OP_KEYRING)
			r->flags |= WHERRY_RECORD_KEYRING;
	c->journal_offset = r->journal_offset;
	w->at = sizeof(*r) + c->journal_count * sizeof(struct wherry_journal_entry);
	r->state_head = put_template(w, op->state_head);
	r->state_middle = put_template(w, op->state_middle);
	r->state_tail = put_template(w, op->state_tail);
	put_journal(w, (void *)(w->base + r->journal_offset));
	r->size = (uint32_t)w->at;
	return w->error;
}

int host_record_write(struct host_create *c, const struct wherry_op_claim *op)
{
	cleanup_scratch struct host_scratch scratch = { 0 };
	struct writer w = { .create = c, .size = record_bound(c, op) };
	int result;

	if (w.size > MAX_RECORD)
		return -EFBIG;
	result = host_scratch(&scratch, w.size);
	if (result < 0)
		return result;
	w.base = (uint8_t *)scratch.base;
	result = fill_record(&w, op);
	if (result < 0)
		return result;
	c->record = host_write_replace(c->directory, "record", w.base, w.at, 0600);
	return c->record < 0 ? c->record : 0;
}

int host_record_set(int record, size_t offset, const void *value, size_t size)
{
	ssize_t written = TEMP_FAILURE_RETRY(pwrite(record, value, size, (off_t)offset));

	if (written < 0)
		return errno == EBADF ? -EROFS : -errno; /* as map_record() has had to open it */
	return (size_t)written == size ? 0 : -EIO;
}

/* The start time goes before the number, and the status last: a reader in between finds an owner that is dead or alive, never a wrong one. */
int host_record_owner(int record, enum wherry_record_status status)
{
	struct {
		int32_t pid;
		uint16_t status;
	} us = { .pid = getpid(), .status = (uint16_t)status };
	uint64_t start;
	char state;
	int result = host_process(us.pid, &state, &start);

	if (result == 0)
		result = host_record_set(record, offsetof(struct wherry_record, owner_start), &start, sizeof(start));
	if (result == 0)
		result = host_record_set(record, offsetof(struct wherry_record, owner_pid), &us.pid, sizeof(us.pid));
	return result < 0 ? result : host_record_set(record, offsetof(struct wherry_record, status), &us.status, sizeof(us.status));
}

/* kind stays; state and depth are one write */
int host_journal_mark(struct host_create *c, uint32_t index, enum wherry_journal_state state, uint16_t made_depth)
{
	struct {
		uint8_t state, depth[2];
	} mark = { .state = (uint8_t)state };
	size_t offset = c->journal_offset + index * sizeof(struct wherry_journal_entry) + offsetof(struct wherry_journal_entry, state);

	_Static_assert(offsetof(struct wherry_journal_entry, made_depth) == offsetof(struct wherry_journal_entry, state) + 1, "adjacent");
	if (index >= c->journal_count)
		return -EINVAL;
	memcpy(mark.depth, &made_depth, sizeof(made_depth));
	return host_record_set(c->record, offset, &mark, sizeof(mark));
}

int host_create_mark(struct host_create *c, uint32_t index, enum wherry_journal_state state)
{
	if (index >= c->request.extra_count || c->record < 0)
		return -EINVAL;
	return host_journal_mark(c, c->journal_count - c->request.extra_count + index, state, 0);
}

/* ---- reading ------------------------------------------------------------------------------------------------------- */

static bool text_fits(const struct host_container *c, struct wherry_text text)
{
	return text.offset < c->size && text.length < c->size - text.offset && ((const char *)c->head)[text.offset + text.length] == 0;
}

static bool entry_fits(const struct host_container *c, const struct wherry_journal_entry *entry)
{
	bool cgroup = entry->kind == WHERRY_JOURNAL_CGROUP_V1 || entry->kind == WHERRY_JOURNAL_CGROUP_V2;
	const char *path = (const char *)c->head + entry->path.offset;

	if (!text_fits(c, entry->path) || entry->path.length >= WHERRY_MAX_PATH)
		return false;
	if (entry->kind == WHERRY_JOURNAL_MOUNT)
		return path[0] == '/';
	return !cgroup || (path[0] == '/' && entry->mount_length < entry->path.length);
}

static bool record_fits(const struct host_container *c)
{
	const struct wherry_record *r = c->head;
	const struct wherry_journal_entry *entry = (const void *)((const char *)r + r->journal_offset);

	if (r->size != c->size || r->boot_id[sizeof(r->boot_id) - 1] || r->journal_offset > c->size || r->journal_offset % 8 ||
	    r->journal_count > (c->size - r->journal_offset) / sizeof(*entry))
		return false;
	if (!text_fits(c, r->state_head) || !text_fits(c, r->state_middle) || !text_fits(c, r->state_tail))
		return false;
	for (uint32_t i = 0; i < r->journal_count; i++)
		if (!entry_fits(c, entry + i))
			return false;
	return true;
}

static int map_record(struct host_container *c)
{
	const struct wherry_record *r;
	struct stat status;

	c->record = openat(c->directory, "record", O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (c->record < 0 && errno == EROFS) /* enough for all but what changes it */
		c->record = openat(c->directory, "record", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (c->record < 0)
		return errno == ENOENT ? -ENODATA : errno == EISDIR || errno == ELOOP || errno == ENXIO ? -EBADMSG : -errno;
	if (fstat(c->record, &status) < 0)
		return -errno;
	if (status.st_size < (off_t)sizeof(*r) || status.st_size > MAX_RECORD)
		return -EBADMSG;
	r = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, c->record, 0);
	if (r == MAP_FAILED)
		return -errno;
	c->head = r;
	c->size = (size_t)status.st_size;
	if (r->magic != WHERRY_RECORD_MAGIC)
		return -EBADMSG;
	if (r->version != WHERRY_VERSION)
		return -WHERRY_WRONG_VERSION;
	if (!record_fits(c))
		return -EBADMSG;
	/* of the same version, so the layout is known: kept for those who can live with another build */
	return memcmp(r->build_id, wherry_build_id, sizeof(r->build_id)) != 0 ? -WHERRY_OTHER_BUILD : 0;
}

static void unmap_record(struct host_container *c)
{
	if (c->head)
		munmap((void *)c->head, c->size);
	c->head = NULL;
}

int host_open(struct host_container *c, const char *root, const char *id)
{
	int result;

	*c = (struct host_container){ .root = -1, .directory = -1, .record = -1 };
	if (!host_valid_id(id))
		return -ENOENT;
	memcpy(c->id, id, strlen(id) + 1);
	c->root = host_open_root(root, false);
	if (c->root < 0)
		return c->root;
	c->directory = openat(c->root, id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (c->directory < 0) {
		result = errno == ENOTDIR || errno == ELOOP ? -ENOENT : -errno;
		host_close(c);
		return result;
	}
	result = map_record(c);
	if (result < 0 && result != -WHERRY_OTHER_BUILD)
		unmap_record(c); /* nobody looks at a record that has not been checked */
	return result;
}

/* The lock is given back by name: a child that another thread starts at this moment has a copy of the descriptor, and would keep the
 * lock until it executes. */
void host_close(struct host_container *c)
{
	unmap_record(c);
	if (c->directory >= 0)
		flock(c->directory, LOCK_UN);
	wherry_close(&c->record);
	wherry_close(&c->directory);
	wherry_close(&c->root);
}

const char *host_text(const struct host_container *c, struct wherry_text text)
{
	return (const char *)c->head + text.offset;
}
