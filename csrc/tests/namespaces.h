/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of namespace.c and maps.c share: plans, one process that runs them, and looks from outside at where init is.
 */
#ifndef WHERRY_TESTS_NAMESPACES_H
#define WHERRY_TESTS_NAMESPACES_H

#include "check.h"
#include "planmaker.h"

#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

#pragma GCC diagnostic ignored "-Wunused-function" /* no test needs all of it */

static struct planmaker plan;
static const struct caller_options no_options;

enum { MAPPED = 100000, NOBODY = 65534 };

#define NEEDS_ROOT() \
	do { \
		if (geteuid() != 0) \
			CHECK_SKIP("needs root"); \
	} while (0)

/* ---- helpers -------------------------------------------------------------------------------------------------------------- */

/* CHECKs in a child that may spoil its namespaces and credentials. */
static void in_child(void (*run)(void))
{
	pid_t child = fork();
	int status;

	if (!child) {
		check_failures = 0;
		run();
		fflush(stdout);
		check_exit();
	}
	CHECK(waitpid(child, &status, 0) == child);
	CHECK_EQUAL(status, 0);
}

/* The same inside some of the namespaces of a process; one more fork, for the pid namespace. */
static void inside(int pidfd, int namespaces, void (*run)(void))
{
	pid_t child = fork();
	int status;

	if (!child) {
		check_failures = 0;
		CHECK(setns(pidfd, namespaces) == 0);
		run();
		check_exit();
	}
	CHECK(waitpid(child, &status, 0) == child);
	CHECK_EQUAL(status, 0);
}

static void private_mounts(void)
{
	CHECK(unshare(CLONE_NEWNS) == 0);
	CHECK(mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL) == 0);
}

static const char *join_path(const char *directory, const char *name)
{
	static char paths[64][256];
	static int next;
	char *path = paths[next++ % 64];

	snprintf(path, sizeof(paths[0]), "%s/%s", directory, name);
	return path;
}

static void write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	CHECK(fd >= 0 && wherry_write_all(fd, text, strlen(text)) == 0);
	close(fd);
}

static const char *read_text(const char *path)
{
	static char text[4096];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	text[size < 0 ? 0 : size] = 0;
	if (fd >= 0)
		close(fd);
	return text;
}

static const char *proc_path(pid_t pid, const char *file)
{
	char directory[32];

	snprintf(directory, sizeof(directory), "/proc/%d", pid);
	return join_path(directory, file);
}

static ino_t namespace_of(pid_t pid, const char *name)
{
	struct stat file;

	return stat(proc_path(pid, name), &file) == 0 ? file.st_ino : 0;
}

static bool shares(pid_t one, pid_t other, const char *name)
{
	return namespace_of(one, name) == namespace_of(other, name);
}

/* A process with namespaces of its own, to be joined. */
static pid_t park(int namespaces)
{
	int ready[2];
	pid_t child;
	char byte;

	CHECK(pipe2(ready, O_CLOEXEC) == 0);
	child = fork();
	if (!child) {
		if (unshare(namespaces) < 0)
			_exit(1);
		if (write(ready[1], "", 1) != 1)
			_exit(1);
		pause();
		_exit(1);
	}
	close(ready[1]);
	CHECK_EQUAL(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return child;
}

static void unpark(pid_t child)
{
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}

/* /proc/PID of a hidden process belongs to the host's root, whoever the process is. */
static uid_t owner_of(pid_t pid)
{
	struct stat file;

	return stat(proc_path(pid, "stat"), &file) == 0 ? file.st_uid : (uid_t)-1;
}

/* ---- plans ------------------------------------------------------------------------------------------------------------------- */

static void begin_plan(void)
{
	plan_begin(&plan);
	PLAN_ADD(&plan, OP_LAUNCH, WHERRY_CALLER, wherry_op_launch);
}

static struct wherry_op_clone *add_clone(uint64_t flags)
{
	struct wherry_op_clone *clone = PLAN_ADD(&plan, OP_CLONE, WHERRY_LAUNCHER, wherry_op_clone);

	clone->flags = flags;
	clone->into_cgroup = WHERRY_NO_REGISTER;
	return clone;
}

static uint16_t new_register(void)
{
	return plan.registers++;
}

static uint16_t add_open_namespace(const char *path, uint32_t type)
{
	struct wherry_op_open_namespace *open = PLAN_ADD(&plan, OP_OPEN_NAMESPACE, WHERRY_LAUNCHER, wherry_op_open_namespace);

	open->path = plan_text(&plan, path);
	open->type = type;
	return open->out = new_register();
}

static void add_join(enum wherry_executor executor, uint32_t type, uint16_t from)
{
	struct wherry_op_join *join = PLAN_ADD(&plan, OP_JOIN, executor, wherry_op_join);

	join->type = type;
	join->from = from;
	join->root_uid = join->root_gid = UINT32_MAX;
}

static void add_join_path(pid_t pid, const char *name, uint32_t type)
{
	add_join(WHERRY_LAUNCHER, type, add_open_namespace(proc_path(pid, name), type));
}

static struct wherry_op_write_maps *add_maps(const char *map)
{
	struct wherry_op_write_maps *maps = PLAN_ADD(&plan, OP_WRITE_MAPS, WHERRY_LAUNCHER, wherry_op_write_maps);

	maps->uid_map = maps->gid_map = plan_text(&plan, map);
	PLAN_ADD(&plan, OP_BECOME_ROOT, WHERRY_INIT, wherry_op_become_root);
	return maps;
}

static void add_bind(enum wherry_executor opener, const char *source, const char *destination)
{
	struct wherry_op_open_tree *open = PLAN_ADD(&plan, OP_OPEN_TREE, opener, wherry_op_open_tree);
	struct wherry_op_mount_bind *bind;

	open->source = plan_template(&plan, source);
	open->out = new_register();
	bind = PLAN_ADD(&plan, OP_MOUNT_BIND, WHERRY_INIT, wherry_op_mount_bind);
	bind->destination = plan_text(&plan, destination);
	bind->tree = open->out;
}

/* "/" attached at the caller's own place, something bound to /mnt of it, pivoted. */
static void add_rootfs(struct caller *c, enum wherry_executor opener, const char *bound)
{
	struct wherry_op_open_tree *open;
	struct wherry_op_attach_rootfs *attach;

	PLAN_ADD(&plan, OP_PROPAGATION, WHERRY_INIT, wherry_op_propagation)->flags = MS_SLAVE | MS_REC;
	open = PLAN_ADD(&plan, OP_OPEN_TREE, opener, wherry_op_open_tree);
	open->source = plan_template(&plan, "/");
	open->flags = WHERRY_TREE_RECURSIVE; /* in a user namespace the kernel does not let go of what is mounted below */
	open->out = new_register();
	attach = PLAN_ADD(&plan, OP_ATTACH_ROOTFS, WHERRY_INIT, wherry_op_attach_rootfs);
	attach->path = plan_template(&plan, join_path(c->directory, "rootfs"));
	attach->tree = open->out;
	if (bound)
		add_bind(opener, bound, "/mnt");
	PLAN_ADD(&plan, OP_PIVOT, WHERRY_INIT, wherry_op_pivot);
}

/* Created, with nothing to execute. */
static void add_end(void)
{
	plan.flags |= WHERRY_PLAN_NO_PROCESS;
	PLAN_ADD(&plan, OP_PUBLISH, WHERRY_CALLER, wherry_op_publish);
	PLAN_ADD(&plan, OP_WAIT_START, WHERRY_INIT, wherry_op_wait_start);
}

/* Runs the plan, and CHECKs what it comes to: 0, or the error that the caller is told. */
static void create(struct caller *c, const struct caller_options *options, int expected)
{
	static struct wherry_code code;
	int error;

	plan_finish(&plan);
	CHECK_EQUAL(wherry_decode(plan.plan, plan.size, &code, NULL), 0);
	CHECK_EQUAL(caller_launch(c, &plan, options), 0);
	error = caller_create(c, &plan);
	CHECK_EQUAL(error, expected);
	if (error != expected)
		fprintf(stderr, "step %u, call %u\n", c->message.step, c->message.call);
	if (!error)
		CHECK_EQUAL(caller_wait_launcher(c), 0);
}

static void add_time(enum wherry_executor executor, bool offsets)
{
	PLAN_ADD(&plan, OP_UNSHARE, executor, wherry_op_unshare)->flags = CLONE_NEWTIME;
	if (offsets)
		PLAN_ADD(&plan, OP_TIME_OFFSETS, executor, wherry_op_time_offsets)->lines = plan_text(&plan, "boottime 7000000 0\n");
}

#endif
