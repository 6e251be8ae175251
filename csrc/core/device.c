/* SPDX-License-Identifier: Apache-2.0
 *
 * Device nodes, fifos, symlinks and directories in the rootfs: each below a descriptor of its parent.
 */
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "mount.h"
#include "wherry/sys.h"

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452 /* 6.6 */
#endif

/* chmod of an O_PATH descriptor; before fchmodat2 through the host's /proc. */
static int change_mode(int fd, mode_t mode)
{
	char path[32];

	if (syscall(SYS_fchmodat2, fd, "", mode, AT_EMPTY_PATH) == 0)
		return 0;
	if (errno != ENOSYS && errno != EPERM)
		return -1;
	return chmod(wherry_fd_path(fd, path), mode);
}

static bool is_node(const struct stat *st, const struct wherry_op_device_node *op)
{
	if ((st->st_mode & S_IFMT) != (op->mode & S_IFMT))
		return false;
	return S_ISFIFO(st->st_mode) || st->st_rdev == makedev(op->major, op->minor);
}

/* It is ours: made a moment ago. umask was 0, so the mode is right unless the directory has a default ACL. */
static int finish_node(struct wherry_machine *m, const struct wherry_op_device_node *op, int fd, const struct stat *st)
{
	if ((st->st_uid != op->uid || st->st_gid != op->gid) && fchownat(fd, "", op->uid, op->gid, AT_EMPTY_PATH) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_FCHOWN);
	if (((st->st_mode ^ op->mode) & 07777) && change_mode(fd, op->mode & 07777) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_FCHMOD);
	return 0;
}

int op_device_node(struct wherry_machine *m, const struct wherry_op_device_node *op)
{
	const char *name;
	cleanup_fd int parent = securepath_parent(m->rootfs, wherry_text(&m->code, op->path), &name);
	cleanup_fd int fd = -1;
	struct stat st;
	mode_t before;
	int made, error;

	if (parent < 0)
		return wherry_fail(m, WHERRY_CALL_OPENAT2, -parent);
	before = umask(0);
	made = mknodat(parent, name, op->mode, S_ISFIFO(op->mode) ? 0 : makedev(op->major, op->minor));
	error = errno;
	umask(before);
	if (made < 0 && error != EEXIST)
		return wherry_fail(m, WHERRY_CALL_MKNOD, error);
	fd = openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return wherry_fail_errno(m, WHERRY_CALL_OPEN);
	if (fstat(fd, &st) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_STAT);
	/* whatever stands there now, made by us or found, must be the device: what follows changes its owner and mode */
	if (!is_node(&st, op))
		return wherry_fail(m, WHERRY_CALL_MKNOD, WHERRY_OTHER_NODE);
	/* one that was there is left alone: it may be a mount of the host's own node */
	return made < 0 ? 0 : finish_node(m, op, fd, &st);
}

int op_directory(struct wherry_machine *m, const struct wherry_op_directory *op)
{
	cleanup_fd int fd = securepath_make_directories(m->rootfs, wherry_text(&m->code, op->path), op->mode);

	return fd < 0 ? wherry_fail(m, WHERRY_CALL_MKDIR, -fd) : 0;
}

/* Does the target of the symlink at `path` exist? Not followed at the end: /proc/self/fd/0 is there, wherever it leads. */
static int target_exists(struct wherry_machine *m, const char *target, const char *path)
{
	const char *slash = *target == '/' ? NULL : strrchr(path, '/');
	size_t length = slash ? (size_t)(slash + 1 - path) : 0; /* a relative one counts from the directory it stands in */
	char whole[WHERRY_MAX_PATH];
	cleanup_fd int fd = -1;

	if (length + strlen(target) >= sizeof(whole))
		return wherry_fail(m, WHERRY_CALL_OPENAT2, ENAMETOOLONG);
	memcpy(whole, path, length);
	strcpy(whole + length, target);
	fd = securepath_open(m->rootfs, whole, O_PATH | O_NOFOLLOW, 0);
	if (fd == -ENOENT || fd == -ENOTDIR)
		return 0;
	return fd < 0 ? wherry_fail(m, WHERRY_CALL_OPENAT2, -fd) : 1;
}

int op_symlink(struct wherry_machine *m, const struct wherry_op_symlink *op)
{
	const char *target = wherry_text(&m->code, op->target), *path = wherry_text(&m->code, op->path), *name;
	cleanup_fd int parent = -1;
	int result = op->flags & WHERRY_SYMLINK_TARGET_MUST_EXIST ? target_exists(m, target, path) : 1;

	if (result <= 0)
		return result;
	parent = securepath_parent(m->rootfs, path, &name);
	if (parent < 0)
		return wherry_fail(m, WHERRY_CALL_OPENAT2, -parent);
	if (symlinkat(target, parent, name) == 0)
		return 0;
	if (errno != EEXIST)
		return wherry_fail_errno(m, WHERRY_CALL_SYMLINK);
	if (!(op->flags & WHERRY_SYMLINK_REPLACE)) /* the image has one of its own */
		return 0;
	if (unlinkat(parent, name, 0) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_UNLINK);
	return symlinkat(target, parent, name) < 0 ? wherry_fail_errno(m, WHERRY_CALL_SYMLINK) : 0;
}
