/* SPDX-License-Identifier: Apache-2.0
 *
 * The mounts of a container: trees of the host attached to places in the rootfs, and new filesystems. A place is found or made once,
 * as a descriptor inside m->rootfs; a mount is made detached; move_mount joins the two. See attach.c for older kernels.
 */
#include "mount.h"

#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "wherry/sys.h"

#ifndef CGROUP2_SUPER_MAGIC
#define CGROUP2_SUPER_MAGIC 0x63677270
#endif

enum { PROCFS_ROOT_INODE = 1 };

/* Where something is to be mounted. */
struct place {
	int fd;
	bool made;    /* it was missing */
	bool is_root; /* the rootfs itself */
};

/* What is to be mounted there. */
struct tree {
	int fd;
	bool attached; /* by mount(2) */
	bool late;     /* attributes are still to be set, once it is attached: the kernel has no mount_setattr */
	uint64_t set, clear;
};

#define cleanup_place __attribute__((cleanup(close_place)))
#define cleanup_tree __attribute__((cleanup(close_tree)))

static void close_place(struct place *place)
{
	wherry_close(&place->fd);
}

static void close_tree(struct tree *tree)
{
	wherry_close(&tree->fd);
}

static bool is_root_path(const char *path)
{
	return !path[strspn(path, "/")];
}

static bool is_directory(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISDIR(st.st_mode);
}

static bool is_procfs(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC;
}

static bool same_place(int one, int other)
{
	struct stat a, b;

	return fstat(one, &a) == 0 && fstat(other, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino &&
	       securepath_mount_id(one) == securepath_mount_id(other);
}

/* ---- places -------------------------------------------------------------------------------------------------------- */

static int fail_path(struct wherry_machine *m, int error, uint64_t flags)
{
	if (error == -ELOOP && (flags & WHERRY_MOUNT_PROC_TARGET))
		return wherry_fail(m, WHERRY_CALL_OPENAT2, WHERRY_SYMLINK_REFUSED);
	return wherry_fail(m, WHERRY_CALL_OPENAT2, -error);
}

/* The ladder ensure_target: what is there, or a directory or an empty file by the kind of what will be mounted. */
static int find_place(struct wherry_machine *m, const char *path, bool directory, uint64_t flags, struct place *place)
{
	uint64_t resolve = flags & WHERRY_MOUNT_PROC_TARGET ? RESOLVE_NO_SYMLINKS : 0;

	place->made = false;
	place->is_root = is_root_path(path);
	if (place->is_root) {
		place->fd = fcntl(m->rootfs, F_DUPFD_CLOEXEC, 3);
		return place->fd < 0 ? wherry_fail_errno(m, WHERRY_CALL_FCNTL) : 0;
	}
	place->fd = securepath_open(m->rootfs, path, O_PATH | (resolve ? O_DIRECTORY : 0), resolve);
	if (place->fd == -ENOENT && (flags & WHERRY_MOUNT_CREATE)) {
		place->made = true;
		place->fd = securepath_create(m->rootfs, path, directory, directory ? MODE_DIRECTORY : MODE_FILE, resolve);
	}
	if (place->fd < 0)
		return fail_path(m, place->fd, flags);
	/* by a symlink in the image: what was mounted before would be gone from under the container */
	if (same_place(place->fd, m->rootfs))
		return wherry_fail(m, WHERRY_CALL_OPENAT2, WHERRY_NOT_IN_ROOTFS);
	return 0;
}

/* Nothing may be mounted below the container's /proc but what the plan allows by name: a file that stands in for one of procfs fools whoever
 * reads or writes it in good faith. procfs itself may be covered by procfs alone. The path of the plan says little here, since the image
 * may have symlinks on the way; the filesystem of the place does. */
static int check_proc(struct wherry_machine *m, const struct place *place, const char *path, bool procfs, uint64_t flags)
{
	struct stat st;

	path += strspn(path, "/");
	if (!procfs && !strncmp(path, "proc", 4) && !path[4 + strspn(path + 4, "/")])
		return wherry_fail(m, WHERRY_CALL_FSTATFS, WHERRY_NOT_PROCFS);
	if ((flags & WHERRY_MOUNT_ON_PROC) || !is_procfs(place->fd))
		return 0;
	if (fstat(place->fd, &st) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_STAT);
	if (st.st_ino != PROCFS_ROOT_INODE)
		return wherry_fail(m, WHERRY_CALL_FSTATFS, WHERRY_INSIDE_PROC);
	return procfs ? 0 : wherry_fail(m, WHERRY_CALL_FSTATFS, WHERRY_NOT_PROCFS);
}

/* ---- attributes ---------------------------------------------------------------------------------------------------- */

/* In a user namespace the flags of the host's mounts are locked. The retry keeps what is set, and changes only what was asked for: atime
 * is in `clear` only where an option named it; nosymfollow is never locked. */
static int try_attributes(int (*change)(int fd, uint64_t set, uint64_t clear), const struct tree *tree, uint64_t flags)
{
	int result = change(tree->fd, tree->set, tree->clear);

	if (result == -EPERM && (flags & WHERRY_MOUNT_KEEP_LOCKED) && (tree->clear & ~(uint64_t)MOUNT_ATTR__ATIME))
		result = change(tree->fd, tree->set, tree->clear & (MOUNT_ATTR__ATIME | MOUNT_ATTR_NOSYMFOLLOW));
	return result == -EPERM && tree->clear ? -WHERRY_LOCKED_FLAG : result;
}

static int set_one(int fd, uint64_t set, uint64_t clear)
{
	return mount_set(fd, false, set, clear);
}

/* Those of the top mount first, then the recursive ones. */
static int set_attributes(struct wherry_machine *m, struct tree *tree, const struct wherry_attributes *a, uint64_t flags)
{
	int result;

	tree->set = a->set;
	tree->clear = a->clear;
	result = try_attributes(set_one, tree, flags);
	if (result == -ENOSYS) {
		tree->late = true;
		result = 0;
	}
	if (!result)
		result = mount_set(tree->fd, true, a->recursive_set, a->recursive_clear);
	if (result == -ENOSYS)
		result = -WHERRY_UNSUPPORTED;
	if (result == -EPERM && a->recursive_clear)
		result = -WHERRY_LOCKED_FLAG;
	return result < 0 ? wherry_fail(m, WHERRY_CALL_MOUNT_SETATTR, -result) : 0;
}

static int set_late_attributes(struct wherry_machine *m, struct tree *tree, uint64_t flags)
{
	int result = tree->late ? try_attributes(mount_remount, tree, flags) : 0;

	tree->late = false;
	return result < 0 ? wherry_fail(m, WHERRY_CALL_MOUNT, -result) : 0;
}

static int set_propagation(struct wherry_machine *m, int fd, const struct wherry_attributes *a)
{
	for (size_t i = 0; i < WHERRY_LENGTH(a->propagation) && a->propagation[i]; i++) {
		int result = mount_propagation(fd, a->propagation[i]);

		if (result < 0)
			return wherry_fail(m, WHERRY_CALL_MOUNT_SETATTR, -result);
	}
	return 0;
}

static int attach(struct wherry_machine *m, struct tree *tree, struct place *place, const struct wherry_attributes *a, uint64_t flags)
{
	int result = tree->attached ? 0 : mount_attach(tree->fd, place->fd);

	if (result < 0)
		return wherry_fail(m, WHERRY_CALL_MOVE_MOUNT, -result);
	result = set_late_attributes(m, tree, flags);
	if (!result)
		result = set_propagation(m, tree->fd, a);
	if (!result && place->is_root) { /* what comes after goes into the new root, and the pivot will be to it */
		wherry_close(&m->rootfs);
		m->rootfs = wherry_steal(&tree->fd);
	}
	return result;
}

/* ---- trees of the host ---------------------------------------------------------------------------------------------- */

int op_propagation(struct wherry_machine *m, const struct wherry_op_propagation *op)
{
	return mount(NULL, "/", NULL, op->flags, NULL) < 0 ? wherry_fail_errno(m, WHERRY_CALL_MOUNT) : 0;
}

/* What is looked at is what is cloned: the descriptor, never the name once more. Through open_tree, which mounts what is mounted on demand. */
static int clone_unless_symlink(const char *source, bool recursive)
{
	cleanup_fd int fd = sys_open_tree(AT_FDCWD, source, OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	return S_ISLNK(st.st_mode) ? -WHERRY_SYMLINK_REFUSED : mount_clone(fd, "", recursive);
}

int op_open_tree(struct wherry_machine *m, const struct wherry_op_open_tree *op)
{
	const bool recursive = op->flags & WHERRY_TREE_RECURSIVE;
	char source[WHERRY_MAX_PATH];
	ssize_t length = wherry_expand(m, op->source, source, sizeof(source));
	int fd;

	if (length < 0)
		return wherry_fail(m, WHERRY_CALL_OPEN_TREE, (int)-length);
	mount_clones_are_slaves |= op->flags & WHERRY_TREE_ON_HOST;
	fd = op->flags & WHERRY_TREE_NO_SYMLINK ? clone_unless_symlink(source, recursive) : mount_clone(AT_FDCWD, source, recursive);
	if (fd < 0)
		return wherry_fail(m, WHERRY_CALL_OPEN_TREE, -fd);
	wherry_set_register(m, op->out, fd);
	return 0;
}

bool wherry_gives_tree(const struct wherry_op *op)
{
	return op->code == OP_OPEN_TREE || op->code == OP_CREATE_TREE;
}

int op_create_tree(struct wherry_machine *m, const struct wherry_op_create_tree *op)
{
	char source[WHERRY_MAX_PATH];
	ssize_t length = wherry_expand(m, op->source, source, sizeof(source));
	struct mount_request request = {
		.type = wherry_text(&m->code, op->type),
		.source = length > 0 ? source : NULL,
		.data = wherry_text(&m->code, op->data),
		.superblock = op->superblock,
	};
	enum wherry_call call = WHERRY_CALL_FSOPEN;
	int fd = length < 0 ? (int)length : mount_create(&request, &call);

	if (fd < 0)
		return wherry_fail(m, call, -fd);
	wherry_set_register(m, op->out, fd);
	return 0;
}

int op_mount_bind(struct wherry_machine *m, const struct wherry_op_mount_bind *op)
{
	cleanup_tree struct tree tree = { .fd = wherry_steal(&m->registers[op->tree]) };
	cleanup_place struct place place = { .fd = -1 };
	const char *destination = wherry_text(&m->code, op->destination);
	struct stat st;
	int result;

	if (fstat(tree.fd, &st) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_STAT);
	result = find_place(m, destination, S_ISDIR(st.st_mode), op->flags, &place);
	if (!result && is_directory(place.fd) != S_ISDIR(st.st_mode)) /* move_mount would say EINVAL, as for many other things */
		result = wherry_fail(m, WHERRY_CALL_MOVE_MOUNT, ENOTDIR);
	if (!result)
		result = check_proc(m, &place, destination, is_procfs(tree.fd), op->flags);
	if (!result)
		result = set_attributes(m, &tree, &op->attributes, op->flags);
	return result ? result : attach(m, &tree, &place, &op->attributes, op->flags);
}

/* ---- new filesystems ------------------------------------------------------------------------------------------------ */

/* What mount(2) has mounted is found again by its path. Whoever flips symlinks meanwhile can make this find another place in the rootfs, not
 * one outside of it, and the mount is where it belongs. */
static int mount_by_path(struct wherry_machine *m, const struct mount_request *request, const char *destination, const struct place *place)
{
	int result, fd;

	if (place->is_root)
		return wherry_fail(m, WHERRY_CALL_FSOPEN, WHERRY_UNSUPPORTED);
	result = mount_classic(request, place->fd);
	if (result < 0)
		return wherry_fail(m, WHERRY_CALL_MOUNT, -result);
	fd = securepath_open(m->rootfs, destination, O_PATH | O_DIRECTORY, 0);
	if (fd < 0)
		return wherry_fail(m, WHERRY_CALL_OPENAT2, -fd);
	if (same_place(fd, place->fd)) {
		close(fd);
		return wherry_fail(m, WHERRY_CALL_OPENAT2, WHERRY_NOT_IN_ROOTFS);
	}
	return fd;
}

static int new_tree(struct wherry_machine *m, const struct mount_request *request, const char *destination, const struct place *place,
		    struct tree *tree)
{
	enum wherry_call call = WHERRY_CALL_FSOPEN;

	tree->fd = mount_create(request, &call);
	if (tree->fd == -WHERRY_UNSUPPORTED) {
		tree->fd = mount_by_path(m, request, destination, place);
		tree->attached = true;
		return tree->fd < 0 ? tree->fd : 0;
	}
	return tree->fd < 0 ? wherry_fail(m, call, -tree->fd) : 0;
}

static int fill_request(struct wherry_machine *m, const struct wherry_op_mount_fs *op, char *source, struct mount_request *request)
{
	const struct wherry_attributes *a = &op->attributes;
	ssize_t length = wherry_expand(m, op->source, source, WHERRY_MAX_PATH);

	if (length < 0)
		return wherry_fail(m, WHERRY_CALL_FSCONFIG, (int)-length);
	*request = (struct mount_request){
		.type = wherry_text(&m->code, op->type),
		.source = length ? source : NULL,
		.data = wherry_text(&m->code, op->data),
		.superblock = op->superblock,
		.attributes = (a->set & ~a->recursive_clear) | a->recursive_set,
	};
	if (op->flags & WHERRY_MOUNT_READONLY_LATE)
		request->attributes &= ~(uint64_t)MOUNT_ATTR_RDONLY;
	return 0;
}

/* "mode=1777" of what is there. */
static const char *mode_option(int fd, char out[16])
{
	struct stat st;
	char *end = out + 5;

	if (fstat(fd, &st) < 0)
		return NULL;
	memcpy(out, "mode=", 5);
	for (int shift = 9; shift >= 0; shift -= 3)
		*end++ = (char)('0' + (st.st_mode >> shift & 7));
	*end = 0;
	return out;
}

/* The contents that the mount will hide go into it; read-only comes after. */
static int fill_tree(struct wherry_machine *m, struct tree *tree, const struct place *place, bool readonly)
{
	const struct wherry_attributes a = { .set = readonly ? MOUNT_ATTR_RDONLY : 0 };
	int result = copy_up(place->fd, tree->fd);

	if (result < 0)
		return wherry_fail(m, WHERRY_CALL_COPY_UP, -result);
	return set_attributes(m, tree, &a, 0);
}

int op_mount_fs(struct wherry_machine *m, const struct wherry_op_mount_fs *op)
{
	cleanup_tree struct tree tree = { .fd = -1 };
	cleanup_place struct place place = { .fd = -1 };
	const char *destination = wherry_text(&m->code, op->destination);
	char source[WHERRY_MAX_PATH], mode[16];
	struct mount_request request;
	bool readonly;
	int result = fill_request(m, op, source, &request);

	if (!result)
		result = find_place(m, destination, true, op->flags, &place);
	if (!result)
		result = check_proc(m, &place, destination, !strcmp(request.type, "proc"), op->flags);
	if (result < 0)
		return result;
	if ((op->flags & WHERRY_MOUNT_TARGET_MODE) && !place.made)
		request.first = mode_option(place.fd, mode);
	readonly = (op->flags & WHERRY_MOUNT_COPY_UP) && (request.attributes & MOUNT_ATTR_RDONLY);
	if (readonly)
		request.attributes &= ~(uint64_t)MOUNT_ATTR_RDONLY;
	result = new_tree(m, &request, destination, &place, &tree);
	if (!result && (op->flags & WHERRY_MOUNT_COPY_UP))
		result = fill_tree(m, &tree, &place, readonly);
	return result ? result : attach(m, &tree, &place, &op->attributes, 0);
}

/* ---- ladders ------------------------------------------------------------------------------------------------------- */

/* A clone of what the host has mounted stands in for a new mount: it gets the attributes all the same, below as well. Kernels without
 * mount_setattr set them on the top mount alone. */
static int use_clone(struct wherry_machine *m, struct tree *tree, const struct mount_request *request, bool recursive)
{
	int result = mount_set(tree->fd, recursive, request->attributes & ~(uint64_t)MOUNT_ATTR__ATIME, 0);

	if (result == -ENOSYS) {
		tree->set = request->attributes;
		tree->late = true;
		result = 0;
	}
	return result < 0 ? wherry_fail(m, WHERRY_CALL_MOUNT_SETATTR, -result) : 0;
}

/* sysfs shows the network namespace that it is mounted in, so the kernel wants one that belongs to our user namespace. */
int op_mount_sysfs(struct wherry_machine *m, const struct wherry_op_mount_fs *op)
{
	cleanup_tree struct tree tree = { .fd = -1 };
	cleanup_place struct place place = { .fd = -1 };
	const char *destination = wherry_text(&m->code, op->destination);
	char source[WHERRY_MAX_PATH];
	struct mount_request request;
	int result = fill_request(m, op, source, &request);

	if (!result)
		result = find_place(m, destination, true, op->flags, &place);
	if (!result)
		result = check_proc(m, &place, destination, false, op->flags);
	if (result < 0)
		return result;
	result = new_tree(m, &request, destination, &place, &tree);
	if (result == -EPERM) {
		tree = (struct tree){ .fd = mount_clone(AT_FDCWD, "/sys", true) };
		if (tree.fd < 0)
			return wherry_fail(m, WHERRY_CALL_OPEN_TREE, -tree.fd);
		result = use_clone(m, &tree, &request, true);
	}
	return result ? result : attach(m, &tree, &place, &op->attributes, 0);
}

/* Whether the plan makes or joins a namespace of this type. */
static bool has_own(const struct wherry_machine *m, uint64_t type)
{
	for (uint32_t i = 0; i < m->code.steps; i++) {
		const struct wherry_op *op = m->code.step[i];

		if ((op->code == OP_CLONE && (((const struct wherry_op_clone *)op)->flags & type)) ||
		    (op->code == OP_UNSHARE && (((const struct wherry_op_unshare *)op)->flags & type)) ||
		    (op->code == OP_JOIN && ((const struct wherry_op_join *)op)->type == type))
			return true;
	}
	return false;
}

/* The directory of the container's own cgroup on the host, or only the place where its hierarchy is mounted. */
static int clone_cgroup(const struct wherry_machine *m, bool mount_point)
{
	const struct wherry_op_cgroup_directory *last = NULL;
	char path[WHERRY_MAX_PATH] = "/sys/fs/cgroup";
	struct statfs fs;
	int fd;

	for (uint32_t i = 0; i < m->code.steps; i++) {
		const struct wherry_op_cgroup_directory *op = (const void *)m->code.step[i];

		if (op->op.code == OP_CGROUP_DIRECTORY && (op->flags & WHERRY_CGROUP_V2))
			last = op;
	}
	if (!last && !mount_point)
		return -ENOENT;
	if (last && wherry_expand(m, last->path, path, sizeof(path)) < 0)
		return -ENAMETOOLONG;
	if (last && mount_point && last->mount_length < sizeof(path))
		path[last->mount_length] = 0;
	fd = mount_clone(AT_FDCWD, path, false);
	if (fd >= 0 && (fstatfs(fd, &fs) < 0 || fs.f_type != CGROUP2_SUPER_MAGIC)) {
		close(fd);
		return -ENOENT;
	}
	return fd;
}

/* With a cgroup namespace of its own: cgroup2, which shows the own cgroup as the root. Else the host's mount is cloned, because mounting cgroup2
 * from the host's cgroup namespace would set nsdelegate and the other options of the host's hierarchy anew; not in a user namespace,
 * where the kernel would not give the whole hierarchy either. Where that is refused: the own cgroup, cloned; and without one nothing at all. */
int op_mount_cgroup2(struct wherry_machine *m, const struct wherry_op_mount_fs *op)
{
	cleanup_tree struct tree tree = { .fd = -1 };
	cleanup_place struct place place = { .fd = -1 };
	const char *destination = wherry_text(&m->code, op->destination);
	char source[WHERRY_MAX_PATH];
	struct mount_request request;
	int result = fill_request(m, op, source, &request);

	if (!result)
		result = find_place(m, destination, true, op->flags, &place);
	if (!result)
		result = check_proc(m, &place, destination, false, op->flags);
	if (result < 0)
		return result;
	if (!has_own(m, CLONE_NEWCGROUP) && !has_own(m, CLONE_NEWUSER))
		tree.fd = clone_cgroup(m, true);
	if (tree.fd < 0) {
		result = new_tree(m, &request, destination, &place, &tree);
		if (!result)
			return attach(m, &tree, &place, &op->attributes, 0);
		if (result != -EPERM && result != -EBUSY && result != -ENOENT)
			return result;
		tree = (struct tree){ .fd = clone_cgroup(m, false) };
	}
	if (tree.fd < 0)
		return rootfs_mask_directory(m, place.fd);
	result = use_clone(m, &tree, &request, false);
	return result ? result : attach(m, &tree, &place, &op->attributes, 0);
}

/* ---- changes of what is mounted ---------------------------------------------------------------------------------------- */

static int change(struct wherry_machine *m, const struct place *place, const struct wherry_attributes *a, uint64_t flags)
{
	struct tree tree = { .fd = place->fd }; /* attached, and stays the place's */
	int result = set_attributes(m, &tree, a, flags);

	if (!result)
		result = set_late_attributes(m, &tree, flags);
	return result ? result : set_propagation(m, tree.fd, a);
}

int op_remount(struct wherry_machine *m, const struct wherry_op_remount *op)
{
	cleanup_place struct place place = { .fd = -1 };
	const struct mount_request request = { .data = wherry_text(&m->code, op->data), .superblock = op->superblock };
	enum wherry_call call = WHERRY_CALL_MOUNT;
	int result = find_place(m, wherry_text(&m->code, op->destination), true, 0, &place);

	if (result < 0)
		return result;
	if (request.superblock || (request.data && *request.data))
		result = mount_reconfigure(place.fd, &request, &call);
	if (result < 0)
		return wherry_fail(m, call, -result);
	return change(m, &place, &op->attributes, op->flags);
}

int op_mount_attributes(struct wherry_machine *m, const struct wherry_op_mount_attributes *op)
{
	cleanup_place struct place place = { .fd = -1 };
	int result = find_place(m, wherry_text(&m->code, op->destination), true, 0, &place);

	return result ? result : change(m, &place, &op->attributes, 0);
}
