/* SPDX-License-Identifier: Apache-2.0
 *
 * The caller's operations on cgroups: directories, controllers, values, devices, owners. No pid is ever written to cgroup.procs: that write
 * takes a lock which waits for an RCU grace period (7 to 14 ms).
 */
#include "parts.h"

#include <linux/bpf.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/xattr.h>

enum { MAKE_TRIES = 8, MAX_VALUE = 4096 };

static bool lacks_permission(int error)
{
	return error == EACCES || error == EPERM || error == EROFS;
}

/* ---- who is in it -------------------------------------------------------------------------------------------------- */

/* Does the flat-keyed file hold the line "KEY 1"? */
static bool event_is_set(const char *text, const char *key)
{
	size_t length = strlen(key);

	for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n')
		if (strncmp(line, key, length) == 0 && line[length] == ' ' && line[length + 1] == '1')
			return true;
	return false;
}

static int use_v2(int directory)
{
	char text[MAX_VALUE];
	ssize_t got = host_read_file(directory, "cgroup.events", text, sizeof(text));

	if (got < 0)
		return (int)got;
	if (event_is_set(text, "populated"))
		return HOST_CGROUP_POPULATED;
	got = host_read_file(directory, "cgroup.freeze", text, sizeof(text));
	return got > 0 && text[0] == '1' ? HOST_CGROUP_FROZEN : HOST_CGROUP_FREE;
}

static int use_v1(int directory)
{
	char text[32];
	ssize_t got = host_read_file(directory, "cgroup.procs", text, sizeof(text));

	if (got != 0)
		return got < 0 && got != -EOVERFLOW ? (int)got : HOST_CGROUP_POPULATED;
	got = host_read_file(directory, "freezer.state", text, sizeof(text));
	return got > 0 && strncmp(text, "THAWED", 6) != 0 ? HOST_CGROUP_FROZEN : HOST_CGROUP_FREE;
}

int host_cgroup_use(int directory, bool v2)
{
	return v2 ? use_v2(directory) : use_v1(directory);
}

/* ---- directories --------------------------------------------------------------------------------------------------- */

/* Opens the next component of *at below `parent`, where there is one. 1 = opened, 0 = no more components. */
static int next_component(const char **at, char name[NAME_MAX + 1])
{
	const char *start = *at, *end;

	while (*start == '/')
		start++;
	if (!*start)
		return 0;
	end = strchr(start, '/');
	if (!end)
		end = start + strlen(start);
	if (end - start > NAME_MAX)
		return -ENAMETOOLONG;
	memcpy(name, start, (size_t)(end - start));
	name[end - start] = 0;
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return -EINVAL;
	*at = end;
	return 1;
}

enum { WALK = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC };

/* A place on the way down: an open directory and the components that are still to go. */
struct place {
	int directory;
	const char *rest;
	int depth; /* components that are missing, or that we made */
};

/* Goes as deep as there are directories. */
static int walk_existing(int mount, const char *path, struct place *place)
{
	char name[NAME_MAX + 1];
	int result;

	*place = (struct place){ .directory = fcntl(mount, F_DUPFD_CLOEXEC, 0), .rest = path };
	if (place->directory < 0)
		return -errno;
	for (const char *at = path; (result = next_component(&at, name)) > 0;) {
		int next = place->depth ? -1 : openat(place->directory, name, WALK);

		if (next < 0 && !place->depth && errno != ENOENT)
			return -errno;
		place->depth += next < 0;
		if (next < 0)
			continue; /* only counted */
		wherry_close(&place->directory);
		place->directory = next;
		place->rest = at;
	}
	return result;
}

/* A parent that we make says so itself: whoever's container is the last one in it removes it (cgroup_remove). Where the kernel takes no such
 * mark, the journal of the container that made it is all there is. */
static void mark_parent(int directory)
{
	if (fsetxattr(directory, "trusted." HOST_CGROUP_MARK, "1", 1, 0) < 0)
		(void)!fsetxattr(directory, "user." HOST_CGROUP_MARK, "1", 1, 0);
}

/* Makes what is missing. ENOENT means that somebody removed a parent just now: the caller tries again. */
static int make_rest(struct place *place)
{
	char name[NAME_MAX + 1];
	int result;

	place->depth = 0;
	while ((result = next_component(&place->rest, name)) > 0) {
		int next;

		if (mkdirat(place->directory, name, 0755) == 0)
			place->depth++;
		else if (errno == EEXIST)
			place->depth = 0; /* only what hangs below the last directory that was there is ours */
		else
			return -errno;
		next = openat(place->directory, name, WALK);
		if (next < 0)
			return -errno;
		if (place->depth && place->rest[strspn(place->rest, "/")])
			mark_parent(next);
		wherry_close(&place->directory);
		place->directory = next;
	}
	return result;
}

/* The whole path, and the place of its mount, opened. */
static int open_mount(struct wherry_machine *m, struct wherry_template template, uint32_t mount_length, char path[WHERRY_MAX_PATH])
{
	ssize_t length = wherry_expand(m, template, path, WHERRY_MAX_PATH);
	char behind;
	int fd;

	if (length < (ssize_t)mount_length)
		return wherry_fail(m, WHERRY_CALL_OPEN, length < 0 ? (int)-length : EINVAL);
	behind = path[mount_length];
	path[mount_length] = 0;
	fd = open(mount_length ? path : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	path[mount_length] = behind;
	return fd < 0 ? wherry_fail_errno(m, WHERRY_CALL_OPEN) : fd;
}

static int take_existing(struct wherry_machine *m, const struct wherry_op_cgroup_directory *op, int directory)
{
	int use = op->flags & WHERRY_CGROUP_EXISTING ? HOST_CGROUP_FREE : host_cgroup_use(directory, op->flags & WHERRY_CGROUP_V2);

	if (use < 0)
		return wherry_fail(m, WHERRY_CALL_READ, -use);
	if (use == HOST_CGROUP_POPULATED)
		return wherry_fail(m, WHERRY_CALL_NONE, WHERRY_CGROUP_POPULATED);
	return use == HOST_CGROUP_FROZEN ? wherry_fail(m, WHERRY_CALL_NONE, WHERRY_CGROUP_FROZEN) : 0;
}

/* Journal, make, journal. After a crash in between, `begun` with the depth that was missing tells gc what it may remove if it is empty. */
static int make_journaled(struct host_create *c, int mount, const char *path, uint32_t index, struct place *place)
{
	int result = -ENOENT;

	for (int tries = 0; result == -ENOENT && tries < MAKE_TRIES; tries++) {
		wherry_close(&place->directory);
		result = walk_existing(mount, path, place);
		if (result == 0 && place->depth)
			result = host_journal_mark(c, index, WHERRY_JOURNAL_BEGUN, (uint16_t)place->depth);
		if (result == 0)
			result = make_rest(place);
	}
	if (result < 0)
		return result;
	return host_journal_mark(c, index, place->depth ? WHERRY_JOURNAL_DONE : WHERRY_JOURNAL_FOREIGN, (uint16_t)place->depth);
}

/* What may be missing for want of permission leaves its register empty. Parents that were made before it was refused stay `begun`. */
static int skip_optional(struct wherry_machine *m, uint32_t index, const struct place *place)
{
	int result = place->depth ? 0 : host_journal_mark(host_of(m), index, WHERRY_JOURNAL_UNDONE, 0);

	return result < 0 ? wherry_fail(m, WHERRY_CALL_WRITE, -result) : 0;
}

static int make_directory(struct wherry_machine *m, const struct wherry_op_cgroup_directory *op, int mount, const char *path)
{
	struct host_create *c = host_of(m);
	uint32_t index = c->journal_next++;
	struct place place = { .directory = -1 };
	int result = make_journaled(c, mount, path, index, &place);

	if (result < 0) {
		wherry_close(&place.directory);
		if (op->flags & WHERRY_CGROUP_OPTIONAL && lacks_permission(-result))
			return skip_optional(m, index, &place);
		return wherry_fail(m, WHERRY_CALL_MKDIR, -result);
	}
	wherry_set_register(m, op->out, place.directory);
	return place.depth ? 0 : take_existing(m, op, place.directory);
}

/* Of a container that exists: opened, never made, and by its whole path at once, for each directory on the way would cost as much again. No symbolic
 * link is followed (a mount point is known by its true path, and cgroupfs has none) and no "..", so it stays below the mount. */
static int open_existing(const char *path, int flags)
{
	cleanup_fd int root = -1;
	char name[NAME_MAX + 1];
	const char *at = path;
	int fd = -1, result;

	while ((result = next_component(&at, name)) > 0)
		;
	if (result < 0 || *path != '/')
		return result < 0 ? result : -EINVAL;
	if (!securepath_without_openat2)
		fd = sys_openat2(AT_FDCWD, path, (uint64_t)(unsigned int)flags | O_CLOEXEC, 0, RESOLVE_NO_SYMLINKS);
	if (fd >= 0)
		return fd;
	if (!securepath_without_openat2 && errno != ENOSYS && errno != EPERM && errno != EAGAIN)
		return -errno;
	root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return root < 0 ? -errno : securepath_open(root, path, flags, RESOLVE_NO_SYMLINKS);
}

/* It may be open already. */
static int take_or_open(struct wherry_machine *m, const char *path, int flags)
{
	const struct host_kept *kept = host_of(m)->request.kept;

	for (uint32_t i = 0; kept && i < kept->count; i++)
		if (strcmp(kept->path[i], path) == 0) {
			int fd = fcntl(kept->fd[i], F_DUPFD_CLOEXEC, 0);

			return fd < 0 ? -errno : fd;
		}
	return open_existing(path, flags);
}

/* Of a container that exists. */
static int join_directory(struct wherry_machine *m, const struct wherry_op_cgroup_directory *op)
{
	char path[WHERRY_MAX_PATH];
	ssize_t length = wherry_expand(m, op->path, path, sizeof(path));
	int directory = length < 0 ? (int)length : take_or_open(m, path, WALK);

	if (directory < 0)
		return wherry_fail(m, WHERRY_CALL_OPEN, -directory);
	wherry_set_register(m, op->out, directory);
	return 0;
}

/* By itself, for an exec has no use for its pages of stack. */
__attribute__((noinline)) static int find_and_make(struct wherry_machine *m, const struct wherry_op_cgroup_directory *op)
{
	char path[WHERRY_MAX_PATH];
	cleanup_fd int mount = open_mount(m, op->path, op->mount_length, path);

	return mount < 0 ? mount : make_directory(m, op, mount, path + op->mount_length);
}

int op_cgroup_directory(struct wherry_machine *m, const struct wherry_op_cgroup_directory *op)
{
	return op->flags & WHERRY_CGROUP_JOIN ? join_directory(m, op) : find_and_make(m, op);
}

/* ---- controllers --------------------------------------------------------------------------------------------------- */

/* Is `word` one of the words in `text`? */
static bool has_word(const char *text, const char *word, size_t length)
{
	while (*text) {
		size_t here = strcspn(text, " \n");

		if (here == length && memcmp(text, word, length) == 0)
			return true;
		text += here + (text[here] != 0);
	}
	return false;
}

/* All of them by one write, which the kernel takes as a whole or not at all. */
static bool enable_all(int directory, const char *wanted)
{
	char words[MAX_VALUE];
	size_t length = 0;

	for (bool begins = true; *wanted; begins = *wanted++ == ' ') {
		if (length + 2 > sizeof(words))
			return false;
		if (begins)
			words[length++] = '+';
		words[length++] = *wanted;
	}
	return wherry_write_file(directory, "cgroup.subtree_control", words, length, NULL) == 0;
}

/* Where they are refused together, one write for each, so that the one which is refused is known, and the others are not lost with it. */
static int enable(int directory, const char *wanted, bool where_possible)
{
	char enabled[MAX_VALUE], word[64] = "+";
	ssize_t got = host_read_file(directory, "cgroup.subtree_control", enabled, sizeof(enabled));
	bool together = true;

	if (got < 0)
		return where_possible ? 0 : (int)got;
	while (*wanted) {
		size_t length = strcspn(wanted, " ");

		if (length + 2 > sizeof(word))
			return -EINVAL;
		memcpy(word + 1, wanted, length);
		if (length && !has_word(enabled, wanted, length)) {
			if (together && enable_all(directory, wanted))
				return 0;
			together = false;
			if (wherry_write_file(directory, "cgroup.subtree_control", word, length + 1, NULL) < 0 && !where_possible)
				return errno == EBUSY ? -WHERRY_CGROUP_INTERNAL_PROCESSES :
				       errno == ENOENT || errno == EINVAL ? -WHERRY_CGROUP_CONTROLLER_MISSING : -errno;
		}
		wanted += length + (wanted[length] == ' ');
	}
	return 0;
}

/* From the mount down to the parent of the leaf. The leaf itself enables nothing: it holds the processes. */
int op_cgroup_controllers(struct wherry_machine *m, const struct wherry_op_cgroup_controllers *op)
{
	const char *controllers = wherry_text(&m->code, op->controllers);
	char path[WHERRY_MAX_PATH], name[NAME_MAX + 1];
	cleanup_fd int at = open_mount(m, op->path, op->mount_length, path);
	const char *rest = path + op->mount_length;
	int more = 0;

	if (at < 0)
		return at;
	while (controllers && (more = next_component(&rest, name)) > 0) {
		int result = enable(at, controllers, op->flags & WHERRY_CGROUP_WHERE_POSSIBLE), next;

		m->failed_value = (uint64_t)(rest - path) - strlen(name) - 1;
		if (result < 0 && !(op->flags & WHERRY_CGROUP_OPTIONAL && lacks_permission(-result)))
			return wherry_fail(m, WHERRY_CALL_WRITE, -result);
		next = *rest ? openat(at, name, WALK) : at;
		if (next < 0)
			return op->flags & WHERRY_CGROUP_OPTIONAL && errno == ENOENT ? 0 : wherry_fail_errno(m, WHERRY_CALL_OPEN);
		if (!*rest)
			return 0;
		wherry_close(&at);
		at = next;
	}
	return more < 0 ? wherry_fail(m, WHERRY_CALL_OPEN, -more) : 0;
}

/* ---- v1 cpuset ----------------------------------------------------------------------------------------------------- */

/* `value` is what the parent has, "" where nobody has looked yet, and becomes what the child has. */
static int fill_from(int parent, int child, const char *file, char value[MAX_VALUE])
{
	char own[MAX_VALUE];
	ssize_t got = host_read_file(child, file, own, sizeof(own));

	if (got > 0 && own[0] != '\n') {
		strcpy(value, own);
		return 0;
	}
	if (got >= 0 && !*value)
		got = host_read_file(parent, file, value, MAX_VALUE);
	if (got < 0)
		return (int)got;
	return wherry_write_file(child, file, value, strlen(value), NULL) < 0 ? -errno : 0;
}

/* A v1 cpuset begins empty and takes no task so (ENOSPC). From the top down each empty one takes what its parent has: that is what the
 * nearest filled ancestor has. */
int op_cgroup_cpuset(struct wherry_machine *m, const struct wherry_op_cgroup_cpuset *op)
{
	char path[WHERRY_MAX_PATH], name[NAME_MAX + 1], cpus[MAX_VALUE], mems[MAX_VALUE];
	cleanup_fd int at = open_mount(m, op->path, op->mount_length, path);
	const char *rest = path + op->mount_length;
	int more;

	if (at < 0)
		return at;
	cpus[0] = mems[0] = 0;
	while ((more = next_component(&rest, name)) > 0) {
		int next = openat(at, name, WALK), result;

		if (next < 0)
			return op->flags & WHERRY_CGROUP_OPTIONAL ? 0 : wherry_fail_errno(m, WHERRY_CALL_OPEN);
		result = fill_from(at, next, "cpuset.cpus", cpus);
		if (result == 0)
			result = fill_from(at, next, "cpuset.mems", mems);
		wherry_close(&at);
		at = next;
		if (result < 0 && !(op->flags & WHERRY_CGROUP_OPTIONAL && lacks_permission(-result)))
			return wherry_fail(m, WHERRY_CALL_WRITE, -result);
	}
	return more < 0 ? wherry_fail(m, WHERRY_CALL_OPEN, -more) : 0;
}

/* ---- values -------------------------------------------------------------------------------------------------------- */

/* Is the step after this one (v1: the next device rule) another value for the same file? */
static const void *next_value(const struct wherry_machine *m, const struct wherry_op_cgroup_write *op)
{
	const struct wherry_op_cgroup_write *next = (const void *)m->code.step[m->current + 1];
	bool same = next && next->op.code == OP_CGROUP_WRITE && next->directory == op->directory && next->file.offset == op->file.offset;

	return same ? next : NULL;
}

/* An empty register is a directory that was optional and could not be had. One write(2) for each value. */
int op_cgroup_write(struct wherry_machine *m, const struct wherry_op_cgroup_write *op)
{
	struct host_create *c = host_of(m);
	const char *value = wherry_text(&m->code, op->value);
	bool wanted = !(op->flags & WHERRY_WRITE_ALTERNATIVE) || c->missing_file, opened;
	cleanup_fd int file = c->next_write == op ? c->value_file : -1;

	c->next_write = NULL;
	if (m->registers[op->directory] < 0 || !wanted)
		return 0;
	c->missing_file = false;
	if (file < 0)
		file = openat(m->registers[op->directory], wherry_text(&m->code, op->file), O_WRONLY | O_CLOEXEC | O_NOCTTY);
	opened = file >= 0;
	errno = opened ? EIO : errno;
	if (opened && TEMP_FAILURE_RETRY(write(file, value ? value : "", op->value.length)) == (ssize_t)op->value.length) {
		c->next_write = next_value(m, op);
		if (c->next_write)
			c->value_file = wherry_steal(&file);
		return 0;
	}
	c->missing_file = !opened && errno == ENOENT;
	if ((c->missing_file && op->flags & WHERRY_WRITE_MISSING_OK) || op->flags & WHERRY_WRITE_IGNORE)
		return 0;
	return wherry_fail_errno(m, opened ? WHERRY_CALL_WRITE : WHERRY_CALL_OPEN);
}

static int load_devices(const void *program, uint32_t size)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
	attr.insns = (uintptr_t)program;
	attr.insn_cnt = size / sizeof(struct bpf_insn);
	attr.license = (uintptr_t)"Apache";
	return sys_bpf(BPF_PROG_LOAD, &attr, sizeof(attr));
}

/* Kernels before 5.11 charge programs to RLIMIT_MEMLOCK of the process. */
static int load_with_memlock(const void *program, uint32_t size)
{
	static const uint64_t unlimited[2] = { RLIM_INFINITY, RLIM_INFINITY };
	uint64_t old[2];
	int fd = load_devices(program, size);

	if (fd >= 0 || errno != EPERM || sys_prlimit(0, RLIMIT_MEMLOCK, unlimited, old) < 0)
		return fd;
	fd = load_devices(program, size);
	if (fd >= 0)
		fcntl(fd, F_SETFD, FD_CLOEXEC);
	sys_prlimit(0, RLIMIT_MEMLOCK, old, NULL);
	return fd;
}

int op_cgroup_devices(struct wherry_machine *m, const struct wherry_op_cgroup_devices *op)
{
	union bpf_attr attr;
	cleanup_fd int program = -1;

	if (m->registers[op->directory] < 0)
		return 0;
	program = load_with_memlock(wherry_bytes(&m->code, op->program), op->program.length);
	if (program < 0)
		return wherry_fail_errno(m, WHERRY_CALL_BPF_LOAD);
	memset(&attr, 0, sizeof(attr));
	attr.target_fd = (uint32_t)m->registers[op->directory];
	attr.attach_bpf_fd = (uint32_t)program;
	attr.attach_type = BPF_CGROUP_DEVICE;
	attr.attach_flags = BPF_F_ALLOW_MULTI;
	if (sys_bpf(BPF_PROG_ATTACH, &attr, sizeof(attr)) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_BPF_ATTACH);
	return 0;
}

int op_cgroup_chown(struct wherry_machine *m, const struct wherry_op_cgroup_chown *op)
{
	const struct wherry_text *files = wherry_texts(&m->code, op->files);
	int directory = m->registers[op->directory];

	if (directory < 0)
		return 0;
	if (fchown(directory, op->uid, op->gid) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_FCHOWN);
	for (uint32_t i = 0; i < op->files.count; i++)
		if (fchownat(directory, wherry_text(&m->code, files[i]), op->uid, op->gid, AT_SYMLINK_NOFOLLOW) < 0 && errno != ENOENT)
			return wherry_fail_errno(m, WHERRY_CALL_FCHOWN);
	return 0;
}

int op_open_tasks(struct wherry_machine *m, const struct wherry_op_open_tasks *op)
{
	const char *file = wherry_text(&m->code, op->file);
	int fd;

	if (op->directory == WHERRY_NO_REGISTER)
		fd = take_or_open(m, file, O_WRONLY);
	else if (m->registers[op->directory] < 0)
		return 0;
	else if ((fd = openat(m->registers[op->directory], file, O_WRONLY | O_CLOEXEC)) < 0)
		fd = -errno;
	if (fd < 0)
		return op->flags & WHERRY_CGROUP_OPTIONAL && lacks_permission(-fd) ? 0 : wherry_fail(m, WHERRY_CALL_OPEN, -fd);
	wherry_set_register(m, op->out, fd);
	return 0;
}
