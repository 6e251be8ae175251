/* SPDX-License-Identifier: Apache-2.0
 *
 * The maps of init's user namespace. The launcher writes them, since init in an unmapped namespace may not write any, itself or
 * through newuidmap and newgidmap; init then becomes root of what it was given.
 */
#include "wherry/core.h"
#include "wherry/sys.h"

#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

enum {
	MAP_SIZE = 4096,         /* the kernel takes a map in one write of less than a page */
	MAX_ARGUMENTS = 2 + MAP_SIZE / 2,
	PROGRAM_DEADLINE_MS = 30000,
};

static int write_for_init(const struct wherry_machine *m, const char *file, const char *data)
{
	char path[64] = "/proc/";
	size_t length = strlen(path);

	length += wherry_decimal((uint64_t)m->init, path + length);
	path[length++] = '/';
	memcpy(path + length, file, strlen(file) + 1);
	return wherry_write_file(AT_FDCWD, path, data, strlen(data), NULL);
}

/* PROGRAM PID 0 1000 1 1 100000 65536: the numbers of the map, one argument each. `numbers` is cut up. */
static bool program_arguments(const char *program, char *pid, char *numbers, const char **argv)
{
	size_t count = 0;

	argv[count++] = program;
	argv[count++] = pid;
	while (*numbers) {
		while (*numbers == ' ' || *numbers == '\n')
			*numbers++ = 0;
		if (!*numbers)
			break;
		if (count == MAX_ARGUMENTS)
			return false;
		argv[count++] = numbers;
		while (*numbers && *numbers != ' ' && *numbers != '\n')
			numbers++;
	}
	argv[count] = NULL;
	return true;
}

/* Its complaints go to our stderr, which is the container's. */
static int run_program(struct wherry_machine *m, const char *program, const char *map, enum wherry_call call)
{
	static const char *argv[MAX_ARGUMENTS + 1];
	static char numbers[MAP_SIZE];
	cleanup_fd int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	cleanup_fd int pidfd = -1;
	int fds[] = { null, null, STDERR_FILENO };
	int status, error;
	pid_t child;
	char pid[24];

	if (strlen(map) >= sizeof(numbers))
		return wherry_fail(m, call, E2BIG);
	memcpy(numbers, map, strlen(map) + 1);
	wherry_decimal((uint64_t)m->init, pid);
	if (!program_arguments(program, pid, numbers, argv))
		return wherry_fail(m, call, E2BIG);
	child = wherry_spawn_path(program, argv, fds, WHERRY_LENGTH(fds), &pidfd);
	if (child < 0)
		return wherry_fail(m, call, -child);
	error = wherry_wait_child(child, pidfd, PROGRAM_DEADLINE_MS, &status);
	if (error)
		return wherry_fail(m, call, -error);
	if (status) {
		m->failed_value = (uint64_t)status;
		return wherry_fail(m, call, EPERM);
	}
	return 0;
}

/* The host's id of the container's root; false where it is not the first of a range. */
static bool host_root(const char *map, uint32_t *id)
{
	for (; *map; map = strchrnul(map, '\n'), map += *map == '\n') {
		const char *at = map + 2;

		if (map[0] != '0' || map[1] != ' ')
			continue;
		for (*id = 0; *at >= '0' && *at <= '9'; at++)
			*id = *id * 10 + (uint32_t)(*at - '0');
		return true;
	}
	return false;
}

/* Pipes on stdio that are the launcher's become the container root's: in the container their owner would be nobody, and /dev/stdout could not be
 * opened. Pipes alone: they have no name, so what changes is what our own caller has made; files and devices are the host's. The user of the
 * process gets them from root (op_identity). */
void wherry_give_pipes(uint32_t uid, uint32_t gid)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
		struct statfs fs;
		struct stat pipe;

		if (fstatfs(fd, &fs) == 0 && fs.f_type == PIPEFS_MAGIC && fstat(fd, &pipe) == 0 && pipe.st_uid == geteuid())
			(void)!fchown(fd, uid, gid);
	}
}

/* setgroups is denied before gid_map: without privilege the kernel wants it so. */
int op_write_maps(struct wherry_machine *m, const struct wherry_op_write_maps *op)
{
	const char *uid_map = wherry_text(&m->code, op->uid_map), *gid_map = wherry_text(&m->code, op->gid_map);
	uint32_t uid, gid;
	int error = 0;

	if (op->uid_program.offset)
		error = run_program(m, wherry_text(&m->code, op->uid_program), uid_map, WHERRY_CALL_NEWUIDMAP);
	else if (write_for_init(m, "uid_map", uid_map) < 0)
		error = wherry_fail_errno(m, WHERRY_CALL_UID_MAP);
	if (error)
		return error;
	if ((op->flags & WHERRY_MAPS_DENY_SETGROUPS) && write_for_init(m, "setgroups", "deny") < 0)
		return wherry_fail_errno(m, WHERRY_CALL_SETGROUPS);
	if (op->gid_program.offset)
		error = run_program(m, wherry_text(&m->code, op->gid_program), gid_map, WHERRY_CALL_NEWGIDMAP);
	else if (write_for_init(m, "gid_map", gid_map) < 0)
		error = wherry_fail_errno(m, WHERRY_CALL_GID_MAP);
	if (!error && host_root(uid_map, &uid) && host_root(gid_map, &gid))
		wherry_give_pipes(uid, gid);
	return error;
}

/* The group first: it takes a capability that the change of the user may take away. */
int op_become_root(struct wherry_machine *m, const struct wherry_op_become_root *op)
{
	(void)op;
	if (sys_setresgid(0, 0, 0) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_SETRESGID);
	return sys_setresuid(0, 0, 0) < 0 ? wherry_fail_errno(m, WHERRY_CALL_SETRESUID) : 0;
}
