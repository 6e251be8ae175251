/* SPDX-License-Identifier: Apache-2.0
 *
 * The rootfs as a whole: attached, sealed (read-only and masked paths, sysctls), and made "/".
 */
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include "mount.h"
#include "wherry/sys.h"

enum {
	NULL_MAJOR = 1,
	NULL_MINOR = 3,
	STACKED = 32, /* mounts over one another on the host's /proc */
};

/* ---- attach --------------------------------------------------------------------------------------------------------- */

static bool is_isolated(const struct wherry_machine *m)
{
	for (uint32_t i = 0; i < m->code.steps; i++) {
		const struct wherry_op_propagation *op = (const void *)m->code.step[i];

		if (op->op.code == OP_PROPAGATION)
			return (op->flags & MS_REC) && (op->flags & (MS_SLAVE | MS_PRIVATE));
	}
	return false;
}

/* Where the plan leaves the mounts shared: what is attached must not appear on the host, and pivot_root refuses a shared parent. Only the
 * root of a mount can be made private, so this goes up until one is met. */
static void isolate_parent(const char *path)
{
	char parent[WHERRY_MAX_PATH];

	strcpy(parent, path);
	while (mount(NULL, *parent ? parent : "/", NULL, MS_PRIVATE, NULL) < 0 && *parent)
		*strrchr(parent, '/') = 0;
}

static bool is_working_directory(int tree)
{
	struct stat root, here;

	return fstat(tree, &root) == 0 && fstatat(AT_FDCWD, "", &here, AT_EMPTY_PATH) == 0 && root.st_dev == here.st_dev &&
	       root.st_ino == here.st_ino;
}

/* Its own place, where hooks look for it. In a user namespace init may not be able to walk there (a directory of the host's root, 0700); then
 * the working directory, where the launcher stood on that place before the clone (rootfs_stand), since it takes no path to attach
 * there; and last on top of "/": no path lookup ends there, and all that the pivot wants is a mount point below its root. */
static int attach_somewhere(int tree, const char *path)
{
	cleanup_fd int target = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (target >= 0)
		return mount_attach(tree, target);
	if (is_working_directory(tree))
		return mount_attach(tree, AT_FDCWD);
	/* a user namespace's mounts are slaves from the start: what a plan shares again, it shares with nobody */
	if (mount(NULL, "/", NULL, MS_SLAVE, NULL) < 0)
		return -errno;
	target = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return target < 0 ? -errno : mount_attach(tree, target);
}

/* In the host's own mount namespace: on a mount of our own, which shares nothing. What is mounted on it later stays there whatever the host
 * shares its mounts with, and goes with it. */
static int attach_on_host(int tree, const char *path)
{
	cleanup_fd int place = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), base = -1;
	int result;

	if (place < 0)
		return -errno;
	base = mount_clone(place, "", false);
	if (base < 0)
		return base;
	result = mount_attach(base, place);
	if (!result)
		result = mount_propagation(base, MS_PRIVATE);
	return result ? result : mount_attach(tree, base);
}

int op_attach_rootfs(struct wherry_machine *m, const struct wherry_op_attach_rootfs *op)
{
	bool on_host = op->flags & WHERRY_ATTACH_ON_HOST;
	cleanup_fd int tree = wherry_steal(&m->registers[op->tree]);
	char path[WHERRY_MAX_PATH];
	ssize_t length = wherry_expand(m, op->path, path, sizeof(path));
	int result;

	if (length < 0)
		return wherry_fail(m, WHERRY_CALL_OPEN, (int)-length);
	if (!on_host && !is_isolated(m) && *path == '/')
		isolate_parent(path);
	result = on_host ? attach_on_host(tree, path) : attach_somewhere(tree, path);
	if (result < 0)
		return wherry_fail(m, WHERRY_CALL_MOVE_MOUNT, -result);
	/* a slave stays one, so that mounts of the host still arrive where the plan wants them; shared is what the pivot refuses */
	result = mount_propagation(tree, MS_SLAVE);
	if (result < 0)
		return wherry_fail(m, WHERRY_CALL_MOUNT_SETATTR, -result);
	wherry_close(&m->rootfs);
	m->rootfs = wherry_steal(&tree);
	if (chdir("/") < 0 && errno != EACCES) /* not to stand below the rootfs; where that is refused, until the pivot */
		return wherry_fail_errno(m, WHERRY_CALL_CHDIR);
	return 0;
}

void rootfs_stand(struct wherry_machine *m)
{
	char path[WHERRY_MAX_PATH];

	for (uint32_t i = m->current; i < m->code.steps; i++) {
		const struct wherry_op_attach_rootfs *op = (const void *)m->code.step[i];

		if (op->op.code != OP_ATTACH_ROOTFS || wherry_expand(m, op->path, path, sizeof(path)) < 0)
			continue;
		if (chdir(path) < 0)
			return; /* init attaches it elsewhere */
	}
}

/* What hides paths, while the first of its kind is kept. */
static int masked_directory = -1, masked_file = -1;

/* ---- pivot ---------------------------------------------------------------------------------------------------------- */

/* Takes what is mounted on `path` away; what is locked to its place is covered. Whoever sees the host's procfs and sysfs whole may mount new
 * ones, without the masks. */
static int take_away(struct wherry_machine *m, const char *path)
{
	cleanup_fd int fd = -1;
	struct statfs fs;

	/* slaves first: what is mounted below a shared mount would go from the host as well */
	for (int i = 0; i < STACKED; i++)
		if (mount(NULL, path, NULL, MS_SLAVE | MS_REC, NULL) < 0 || umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
			break;
	fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fstatfs(fd, &fs) < 0 || (fs.f_type != PROC_SUPER_MAGIC && fs.f_type != SYSFS_MAGIC))
		return 0;
	return rootfs_mask_directory(m, fd);
}

/* --no-pivot, for hosts that run from the initial ramfs: the rootfs is moved over "/", the host's mounts stay below it. */
static int move_root(struct wherry_machine *m)
{
	int result;

	if (mount(NULL, "/", NULL, MS_SLAVE, NULL) < 0) /* else the host would lose its /proc with us */
		return wherry_fail_errno(m, WHERRY_CALL_MOUNT);
	result = take_away(m, "/proc");
	if (!result)
		result = take_away(m, "/sys");
	if (result < 0)
		return result;
	if (fchdir(m->rootfs) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_CHDIR);
	/* ELOOP: it stands there already (attach_somewhere) */
	if (mount(".", "/", NULL, MS_MOVE, NULL) < 0 && errno != ELOOP)
		return wherry_fail_errno(m, WHERRY_CALL_MOUNT);
	return chroot(".") < 0 ? wherry_fail_errno(m, WHERRY_CALL_CHROOT) : 0;
}

/* The host's mounts become slaves, so that taking them away here takes nothing away there. The working directory stays in the new root. */
static int release_old_root(struct wherry_machine *m, int old)
{
	const struct wherry_mount_attr slave = { .propagation = MS_SLAVE };
	int result = mount_without_setattr ? -1 : sys_mount_setattr(old, "", AT_EMPTY_PATH | AT_RECURSIVE, &slave);

	if (result < 0) { /* before 5.12; mount(2) on the descriptor would need the /proc that is no longer there */
		if (fchdir(old) < 0)
			return wherry_fail_errno(m, WHERRY_CALL_CHDIR);
		if (mount(NULL, ".", NULL, MS_SLAVE | MS_REC, NULL) < 0)
			return wherry_fail_errno(m, WHERRY_CALL_MOUNT);
		if (fchdir(m->rootfs) < 0)
			return wherry_fail_errno(m, WHERRY_CALL_CHDIR);
	}
	/* from the new root, "." is what is mounted over it: the old one */
	return umount2(".", MNT_DETACH) < 0 ? wherry_fail_errno(m, WHERRY_CALL_UMOUNT) : 0;
}

/* A container that waits for its start keeps no descriptor that it has no use for. */
static void forget_masks(void)
{
	wherry_close(&masked_directory);
	wherry_close(&masked_file);
}

static int change_root(struct wherry_machine *m, int root)
{
	if (fchdir(root) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_CHDIR);
	return chroot(".") < 0 ? wherry_fail_errno(m, WHERRY_CALL_CHROOT) : 0;
}

int op_chroot(struct wherry_machine *m, const struct wherry_op_mount_point *op)
{
	char path[WHERRY_MAX_PATH];
	ssize_t length = wherry_expand(m, op->path, path, sizeof(path));

	if (length < 0)
		return wherry_fail(m, WHERRY_CALL_OPEN, (int)-length);
	wherry_close(&m->rootfs);
	m->rootfs = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return m->rootfs < 0 ? wherry_fail_errno(m, WHERRY_CALL_OPEN) : change_root(m, m->rootfs);
}

int op_pivot(struct wherry_machine *m, const struct wherry_op_pivot *op)
{
	cleanup_fd int old = -1;
	int result;

	if (op->flags & WHERRY_PIVOT_NONE) {
		result = move_root(m);
		forget_masks();
		return result;
	}
	forget_masks();
	if (op->flags & WHERRY_PIVOT_CHROOT)
		return change_root(m, m->rootfs);
	old = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (old < 0)
		return wherry_fail_errno(m, WHERRY_CALL_OPEN);
	if (fchdir(m->rootfs) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_CHDIR);
	if (sys_pivot_root(".", ".") < 0)
		return wherry_fail_errno(m, WHERRY_CALL_PIVOT_ROOT);
	return release_old_root(m, old);
}

int op_root_attributes(struct wherry_machine *m, const struct wherry_op_root_attributes *op)
{
	int result = op->readonly ? mount_set(m->rootfs, false, MOUNT_ATTR_RDONLY, 0) : 0;

	if (result == -ENOSYS) { /* after the pivot, so it has a name that cannot be anything else */
		uint64_t wanted = mount_current_attributes(m->rootfs) | MOUNT_ATTR_RDONLY;

		result = mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | mount_flags(wanted), NULL) < 0 ? -errno : 0;
	}
	if (result < 0)
		return wherry_fail(m, WHERRY_CALL_MOUNT_SETATTR, -result);
	if (op->propagation && mount(NULL, "/", NULL, op->propagation, NULL) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_MOUNT);
	return 0;
}

/* ---- sysctl --------------------------------------------------------------------------------------------------------- */

/* Below sys, so that no ".." leads to other files of procfs. */
static int open_sysctl(int procfs, const char *path)
{
	const uint64_t strict = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV;
	cleanup_fd int sys = securepath_open(procfs, "sys", O_PATH | O_DIRECTORY, strict);

	return sys < 0 ? sys : securepath_open(sys, path, O_WRONLY | O_NOCTTY, strict);
}

/* One procfs serves all sysctls that stand together in the plan. */
static bool another_follows(const struct wherry_machine *m)
{
	return m->current + 1 < m->code.steps && m->code.step[m->current + 1]->code == OP_SYSCTL;
}

int op_sysctl(struct wherry_machine *m, const struct wherry_op_sysctl *op)
{
	static int procfs = -1;
	const char *value = wherry_text(&m->code, op->value);
	cleanup_fd int fd = -1;
	ssize_t size = value ? (ssize_t)strlen(value) : 0;

	if (procfs < 0)
		procfs = open_procfs(m);
	if (procfs < 0)
		return procfs;
	fd = open_sysctl(procfs, wherry_text(&m->code, op->path));
	if (fd == -EACCES) { /* AppArmor confines us: to it, a file of a detached mount has no path. /proc is still the host's */
		cleanup_fd int mounted = open_procfs_mounted(m);

		fd = mounted < 0 ? fd : open_sysctl(mounted, wherry_text(&m->code, op->path));
	}
	if (!another_follows(m))
		wherry_close(&procfs);
	if (fd < 0)
		return wherry_fail(m, WHERRY_CALL_OPENAT2, -fd);
	if (TEMP_FAILURE_RETRY(write(fd, value ? value : "", (size_t)size)) != size)
		return wherry_fail_errno(m, WHERRY_CALL_WRITE);
	return 0;
}

/* ---- read-only and masked paths ------------------------------------------------------------------------------------- */

/* 0 = there is nothing at the path; *fd is set otherwise. */
static int find(struct wherry_machine *m, const struct wherry_op_path *op, int *fd)
{
	*fd = securepath_open(m->rootfs, wherry_text(&m->code, op->path), O_PATH, 0);
	if (*fd == -ENOENT || *fd == -ENOTDIR)
		return 0;
	return *fd < 0 ? wherry_fail(m, WHERRY_CALL_OPENAT2, -*fd) : 1;
}

/* Attaches `tree` on `target` with `attributes` beside those it has. */
static int cover(struct wherry_machine *m, int tree, int target, uint64_t attributes)
{
	int late = mount_set(tree, false, attributes, 0), result;

	if (late < 0 && late != -ENOSYS)
		return wherry_fail(m, WHERRY_CALL_MOUNT_SETATTR, -late);
	result = mount_attach(tree, target);
	if (result < 0)
		return wherry_fail(m, WHERRY_CALL_MOVE_MOUNT, -result);
	result = late ? mount_remount(tree, attributes, 0) : 0;
	return result < 0 ? wherry_fail(m, WHERRY_CALL_MOUNT, -result) : 0;
}

/* The top mount becomes read-only and keeps nosuid, nodev and noexec. What the plan has mounted below it stays as the plan said. */
int op_readonly_path(struct wherry_machine *m, const struct wherry_op_path *op)
{
	cleanup_fd int target = -1, tree = -1;
	int result = find(m, op, &target);

	if (result <= 0)
		return result;
	tree = mount_clone(target, "", true);
	if (tree < 0)
		return wherry_fail(m, WHERRY_CALL_OPEN_TREE, -tree);
	return cover(m, tree, target, MOUNT_ATTR_RDONLY);
}

static int new_mask(struct wherry_machine *m, int target)
{
	struct mount_request request = {
		.type = "tmpfs", .source = "tmpfs", .data = "nr_blocks=1,nr_inodes=1", .superblock = MS_RDONLY,
		.attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
	};
	enum wherry_call call = WHERRY_CALL_FSOPEN;
	int fd = mount_create(&request, &call), result;

	if (fd == -EINVAL || fd == -ENOSPC) { /* Ubuntu's 5.4 wants an inode more */
		request.data = "nr_blocks=1,nr_inodes=2";
		fd = mount_create(&request, &call);
	}
	if (fd != -WHERRY_UNSUPPORTED)
		return fd < 0 ? wherry_fail(m, call, -fd) : fd;
	request.data = "nr_blocks=1,nr_inodes=2";
	result = mount_classic(&request, target);
	return result < 0 ? wherry_fail(m, WHERRY_CALL_MOUNT, -result) : -WHERRY_UNSUPPORTED;
}

/* The first is made, all others are clones of it: hosts have one directory to mask for each processor. */
int rootfs_mask_directory(struct wherry_machine *m, int target)
{
	cleanup_fd int tree = masked_directory < 0 ? -1 : mount_clone(masked_directory, "", false);
	struct stat mask, st;
	int result;

	if (masked_directory >= 0 && fstat(masked_directory, &mask) == 0 && fstat(target, &st) == 0 && mask.st_dev == st.st_dev)
		return 0; /* masked already */
	if (tree < 0)
		tree = new_mask(m, target);
	if (tree < 0)
		return tree == -WHERRY_UNSUPPORTED ? 0 : tree;
	result = mount_attach(tree, target);
	if (result < 0)
		return wherry_fail(m, WHERRY_CALL_MOVE_MOUNT, -result);
	if (masked_directory < 0)
		masked_directory = wherry_steal(&tree);
	return 0;
}

static bool is_null(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(NULL_MAJOR, NULL_MINOR);
}

/* The host's /dev/null, never the container's: that one may be a symlink to what the image wants mounted here (CVE-2025-31133). Read-only,
 * which a device does not mind, since the node is the host's own: the container's root shall not change its mode or owner. */
static int mask_file(struct wherry_machine *m, int target)
{
	cleanup_fd int tree = -1, host = -1;
	int result;

	if (is_null(target))
		return 0;
	if (masked_file < 0) {
		host = open("/dev/null", O_PATH | O_NOFOLLOW | O_CLOEXEC);
		if (host < 0)
			return wherry_fail_errno(m, WHERRY_CALL_OPEN);
		if (!is_null(host))
			return wherry_fail(m, WHERRY_CALL_STAT, WHERRY_OTHER_NODE);
	}
	tree = mount_clone(masked_file < 0 ? host : masked_file, "", false);
	if (tree < 0)
		return wherry_fail(m, WHERRY_CALL_OPEN_TREE, -tree);
	result = cover(m, tree, target, masked_file < 0 ? MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC : 0);
	if (!result && masked_file < 0)
		masked_file = wherry_steal(&tree);
	return result;
}

int op_masked_path(struct wherry_machine *m, const struct wherry_op_path *op)
{
	cleanup_fd int target = -1;
	struct stat st;
	int result = find(m, op, &target);

	if (result <= 0)
		return result;
	if (fstat(target, &st) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_STAT);
	return S_ISDIR(st.st_mode) ? rootfs_mask_directory(m, target) : mask_file(m, target);
}
