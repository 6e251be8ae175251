/* SPDX-License-Identifier: Apache-2.0
 *
 * Idmapped mounts. The kernel takes the mapping from a user namespace, and a user namespace begins with a process: a child is parked in a new
 * one while its maps are written, and ends as soon as there is a descriptor of the namespace. Runs in the launcher, which has the host's
 * credentials: the kernel wants privilege over the filesystem, which a container's root has not.
 */
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "mount.h"
#include "wherry/sys.h"

#ifndef PIDFD_GET_USER_NAMESPACE
#define PIDFD_GET_USER_NAMESPACE _IO(0xFF, 9) /* 6.11 */
#endif

enum { PATH = 40 };

/* "123/uid_map" */
static const char *below(pid_t pid, const char *file, char out[PATH])
{
	size_t length = wherry_decimal((uint64_t)pid, out);

	strcpy(out + length, file);
	return out;
}

/* /proc, where it counts processes as we do: after a join of somebody's mount namespace it may be another's. */
static int open_own_procfs(struct wherry_machine *m)
{
	cleanup_fd int procfs = open_procfs_mounted(m);
	char own[24], link[24];
	ssize_t length;

	if (procfs < 0)
		return procfs;
	wherry_decimal((uint64_t)getpid(), own);
	length = readlinkat(procfs, "self", link, sizeof(link) - 1);
	link[length < 0 ? 0 : length] = 0;
	if (strcmp(own, link))
		return wherry_fail(m, WHERRY_CALL_FSTATFS, WHERRY_NOT_PROCFS);
	return wherry_steal(&procfs);
}

/* It ends when our end of the pipe does, if we do not end it before. */
__attribute__((noreturn)) static void park(int read_end, int write_end)
{
	char byte;

	close(write_end);
	while (read(read_end, &byte, 1) < 0 && errno == EINTR)
		;
	_exit(0);
}

static int write_maps(struct wherry_machine *m, const struct wherry_op_idmap_tree *op, int procfs, pid_t pid)
{
	const char *uids = wherry_text(&m->code, op->uid_map), *gids = wherry_text(&m->code, op->gid_map);
	char path[PATH];

	if (wherry_write_file(procfs, below(pid, "/uid_map", path), uids, strlen(uids), NULL) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_UID_MAP);
	if (gids && wherry_write_file(procfs, below(pid, "/gid_map", path), gids, strlen(gids), NULL) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_GID_MAP);
	return 0;
}

static int open_namespace(struct wherry_machine *m, int procfs, pid_t pid)
{
	char path[PATH];
	int fd = openat(procfs, below(pid, "/ns/user", path), O_RDONLY | O_CLOEXEC);

	return fd < 0 ? wherry_fail_errno(m, WHERRY_CALL_OPEN) : fd;
}

static int mapped_namespace(struct wherry_machine *m, const struct wherry_op_idmap_tree *op)
{
	struct clone_args args = { .flags = CLONE_NEWUSER, .exit_signal = SIGCHLD };
	cleanup_fd int procfs = open_own_procfs(m), read_end = -1, write_end = -1;
	int ends[2], result;
	pid_t pid;

	if (procfs < 0)
		return procfs;
	if (pipe2(ends, O_CLOEXEC) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_SOCKETPAIR);
	read_end = ends[0];
	write_end = ends[1];
	pid = sys_clone3(&args, sizeof(args));
	if (pid < 0)
		return wherry_fail_errno(m, WHERRY_CALL_CLONE);
	if (!pid)
		park(read_end, write_end);
	result = write_maps(m, op, procfs, pid);
	if (!result)
		result = open_namespace(m, procfs, pid);
	wherry_close(&write_end);
	TEMP_FAILURE_RETRY(waitpid(pid, NULL, __WALL));
	return result;
}

/* The pid is init's for as long as it is not reaped; that it still lives is asked after the descriptor is there. */
static int init_namespace(struct wherry_machine *m)
{
	cleanup_fd int fd = ioctl(m->init_pidfd, PIDFD_GET_USER_NAMESPACE, 0);
	cleanup_fd int procfs = -1;

	if (fd >= 0)
		return wherry_steal(&fd);
	procfs = open_own_procfs(m);
	if (procfs < 0)
		return procfs;
	fd = open_namespace(m, procfs, m->init);
	if (fd >= 0 && sys_pidfd_send_signal(m->init_pidfd, 0, NULL, 0) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_SIGNAL);
	return wherry_steal(&fd);
}

int op_idmap_tree(struct wherry_machine *m, const struct wherry_op_idmap_tree *op)
{
	cleanup_fd int ns = wherry_text(&m->code, op->uid_map) ? mapped_namespace(m, op) : init_namespace(m);
	struct wherry_mount_attr attr = { .attr_set = MOUNT_ATTR_IDMAP };

	if (ns < 0)
		return ns;
	attr.userns_fd = (uint64_t)ns;
	if (sys_mount_setattr(m->registers[op->tree], "", AT_EMPTY_PATH | (op->recursive ? AT_RECURSIVE : 0), &attr) < 0)
		return wherry_fail(m, WHERRY_CALL_MOUNT_SETATTR, errno == ENOSYS ? WHERRY_UNSUPPORTED : errno);
	return 0;
}
