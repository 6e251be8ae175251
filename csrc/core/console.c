/* SPDX-License-Identifier: Apache-2.0
 *
 * The container's terminal: a pty from the container's own devpts, on stdio, as controlling terminal and on /dev/console.
 *
 * Nothing here trusts a name below the rootfs: the devpts is recognised by its filesystem, the slave comes from the master by
 * ioctl and never from /dev/pts/N, and what is mounted on /dev/console is that descriptor (CVE-2025-52565). Line settings stay as the
 * kernel makes them: whoever receives the master sets what its own terminal needs.
 */
#include "wherry/core.h"
#include "wherry/sys.h"

#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#ifndef DEVPTS_SUPER_MAGIC
#define DEVPTS_SUPER_MAGIC 0x1cd1
#endif

enum {
	PTMX_MAJOR = 5,
	PTMX_MINOR = 2,
	CONSOLE_FILE_MODE = 0666,
};

static bool is_devpts(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && (unsigned long)fs.f_type == DEVPTS_SUPER_MAGIC;
}

static bool is_ptmx(int fd)
{
	struct stat node;

	return is_devpts(fd) && fstat(fd, &node) == 0 && S_ISCHR(node.st_mode) && node.st_rdev == makedev(PTMX_MAJOR, PTMX_MINOR);
}

/* Directory first: in a verified devpts nobody can put a file, so opening "ptmx" there cannot open anything else. */
static int open_master(struct wherry_machine *m)
{
	cleanup_fd int directory = securepath_open(m->rootfs, "dev/pts", O_PATH | O_DIRECTORY | O_CLOEXEC, 0), master = -1;

	if (directory < 0)
		return wherry_fail(m, WHERRY_CALL_PTY, -directory);
	if (!is_devpts(directory))
		return wherry_fail(m, WHERRY_CALL_PTY, ENODEV);
	master = openat(directory, "ptmx", O_RDWR | O_NOCTTY | O_NOFOLLOW | O_CLOEXEC);
	if (master < 0)
		return wherry_fail_errno(m, WHERRY_CALL_PTY);
	if (!is_ptmx(master))
		return wherry_fail(m, WHERRY_CALL_PTY, ENODEV);
	if (wherry_lift(&master, STDERR_FILENO + 1) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_DUP);
	return wherry_steal(&master);
}

static int open_slave(struct wherry_machine *m, int master)
{
	cleanup_fd int slave = -1;
	int unlocked = 0;

	if (ioctl(master, TIOCSPTLCK, &unlocked) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_PTY);
	slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (slave < 0)
		return wherry_fail_errno(m, WHERRY_CALL_PTY);
	if (wherry_lift(&slave, STDERR_FILENO + 1) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_DUP);
	return wherry_steal(&slave);
}

static int set_up_slave(struct wherry_machine *m, const struct wherry_op_console *op, int slave)
{
	const struct winsize size = { .ws_row = op->height, .ws_col = op->width };

	if (fchown(slave, op->uid, (gid_t)-1) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_FCHOWN);
	if ((op->height || op->width) && ioctl(slave, TIOCSWINSZ, &size) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_PTY);
	return 0;
}

/* An empty file to mount on, or the one that the image has; a symlink would put the terminal somewhere else. */
static int open_console_target(struct wherry_machine *m)
{
	const char *name = NULL;
	cleanup_fd int parent = securepath_parent(m->rootfs, "dev/console", &name), made = -1;
	cleanup_fd int target = -1;
	struct stat file;

	if (parent < 0)
		return wherry_fail(m, WHERRY_CALL_OPEN, -parent);
	made = openat(parent, name, O_RDONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, CONSOLE_FILE_MODE);
	if (made < 0 && errno != EEXIST)
		return wherry_fail_errno(m, WHERRY_CALL_OPEN);
	target = openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (target < 0 || fstat(target, &file) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_OPEN);
	if (S_ISLNK(file.st_mode))
		return wherry_fail(m, WHERRY_CALL_OPEN, WHERRY_SYMLINK_REFUSED);
	if (S_ISDIR(file.st_mode))
		return wherry_fail(m, WHERRY_CALL_OPEN, EISDIR);
	return wherry_steal(&target);
}

static int mount_console(struct wherry_machine *m, int slave)
{
	cleanup_fd int target = open_console_target(m), tree = -1;

	if (target < 0)
		return target;
	tree = sys_open_tree(slave, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
	if (tree < 0)
		return wherry_fail_errno(m, WHERRY_CALL_OPEN_TREE);
	if (sys_move_mount(tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_MOVE_MOUNT);
	return 0;
}

/* A session leader without a terminal gets this one. */
static int take_stdio(struct wherry_machine *m, int slave)
{
	if (setsid() < 0 && getsid(0) != getpid())
		return wherry_fail_errno(m, WHERRY_CALL_SETSID);
	if (ioctl(slave, TIOCSCTTY, 0) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_PTY);
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (dup2(slave, fd) < 0)
			return wherry_fail_errno(m, WHERRY_CALL_DUP);
	return 0;
}

int op_console(struct wherry_machine *m, const struct wherry_op_console *op)
{
	cleanup_fd int master = open_master(m), slave = -1;
	int result;

	if (master < 0)
		return master;
	slave = open_slave(m, master);
	if (slave < 0)
		return slave;
	result = set_up_slave(m, op, slave);
	if (result == 0 && !(m->code.plan->flags & WHERRY_PLAN_EXEC)) /* the container's console is its first process's */
		result = mount_console(m, slave);
	if (result == 0)
		result = take_stdio(m, slave);
	if (result == 0)
		m->pending_fd = wherry_steal(&master);
	return result;
}
