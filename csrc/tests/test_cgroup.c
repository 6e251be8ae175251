/* SPDX-License-Identifier: Apache-2.0
 *
 * The caller's cgroup operations on the hierarchies of this host, in directories of our own: who may be joined, what is journaled, what is
 * removed. v1 and v2, each where the host has it.
 */
#include "check.h"
#include "planmaker.h"
#include "wherry/host.h"

#include <dirent.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#define PIDS "/sys/fs/cgroup/pids"
#define FREEZER "/sys/fs/cgroup/freezer"
#define CPUSET "/sys/fs/cgroup/cpuset"
#define NAME "wherry-cgroup-test"

static struct planmaker plan;
static struct host_create create;
static char root[64];
static char unified[64]; /* where cgroup2 is mounted */

static bool writable(const char *mount)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/cgroup.procs", mount);
	return geteuid() == 0 && access(path, W_OK) == 0;
}

#define NEEDS(mount) \
	do { \
		if (!writable(mount)) \
			CHECK_SKIP("needs root and a writable " mount); \
	} while (0)

#define NEEDS_UNIFIED() \
	do { \
		strcpy(unified, access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/unified"); \
		if (!writable(unified)) \
			CHECK_SKIP("needs root and a writable cgroup2"); \
	} while (0)

static const char *join(const char *a, const char *b)
{
	static char path[8][256];
	static int turn;

	turn = (turn + 1) % 8;
	snprintf(path[turn], sizeof(path[turn]), "%s/%s", a, b);
	return path[turn];
}

static void put(const char *path, const char *text)
{
	CHECK(wherry_write_file(AT_FDCWD, path, text, strlen(text), NULL) == 0);
}

static bool exists(const char *path)
{
	return access(path, F_OK) == 0;
}

/* A child that waits in the cgroup (by the way that needs no move: it writes 0 itself). */
static pid_t sleeper(const char *cgroup, const char *file)
{
	int ready[2];
	char byte;
	pid_t pid;

	CHECK_EQUAL(pipe2(ready, O_CLOEXEC), 0);
	pid = fork();
	if (!pid) {
		if (wherry_write_file(AT_FDCWD, join(cgroup, file), "0", 1, NULL) < 0)
			_exit(1);
		close(ready[1]);
		for (;;)
			pause();
	}
	close(ready[1]);
	CHECK_EQUAL(read(ready[0], &byte, 1), 0);
	close(ready[0]);
	return pid;
}

static int reap(pid_t pid)
{
	int status = -1;

	waitpid(pid, &status, 0);
	return status;
}

/* ---- plans that end after the cgroups: OP_LAUNCH fails, since there is no program ------------------------------------------------ */

static void begin(void)
{
	struct wherry_op_claim *claim;

	strcpy(root, "/tmp/wherry-cgroup-XXXXXX");
	CHECK(mkdtemp(root) != NULL);
	plan_begin(&plan);
	claim = PLAN_ADD(&plan, OP_CLAIM, WHERRY_CALLER, wherry_op_claim);
	claim->state_head = claim->state_middle = claim->state_tail = plan_template(&plan, "-");
}

static uint16_t directory(const char *path, const char *mount, uint32_t flags)
{
	struct wherry_op_cgroup_directory *op = PLAN_ADD(&plan, OP_CGROUP_DIRECTORY, WHERRY_CALLER, wherry_op_cgroup_directory);

	op->path = plan_template(&plan, path);
	op->mount_length = (uint32_t)strlen(mount);
	op->flags = flags;
	op->out = plan.registers++;
	return op->out;
}

static void write_value(uint16_t where, const char *file, const char *value, uint32_t flags)
{
	struct wherry_op_cgroup_write *op = PLAN_ADD(&plan, OP_CGROUP_WRITE, WHERRY_CALLER, wherry_op_cgroup_write);

	op->file = plan_text(&plan, file);
	op->value = plan_text(&plan, value);
	op->directory = where;
	op->flags = flags;
}

/* A hook that looks around while all stands, then fails: so the caller comes back with everything undone. */
static void look(const char *script)
{
	const char *const arguments[] = { "sh", "-c", script, NULL };
	const char *const nothing[] = { NULL };
	struct wherry_op_clone *clone;
	struct wherry_op_hook *hook;

	plan.inherited = plan.registers;
	PLAN_ADD(&plan, OP_LAUNCH, WHERRY_CALLER, wherry_op_launch);
	clone = PLAN_ADD(&plan, OP_CLONE, WHERRY_LAUNCHER, wherry_op_clone);
	clone->into_cgroup = WHERRY_NO_REGISTER;
	clone->flags = CLONE_NEWNS;
	hook = PLAN_ADD(&plan, OP_HOOK, WHERRY_CALLER, wherry_op_hook);
	hook->path = plan_text(&plan, "/bin/sh");
	hook->arguments = plan_list(&plan, arguments);
	hook->environment = plan_list(&plan, nothing);
	hook->state = plan_template(&plan, "");
	PLAN_ADD(&plan, OP_PUBLISH, WHERRY_CALLER, wherry_op_publish)->state_file = plan_template(&plan, "");
	PLAN_ADD(&plan, OP_EXECUTE, WHERRY_INIT, wherry_op_execute);
	plan_finish(&plan);
}

static int run(void)
{
	struct host_request request = {
		.plan = plan.plan, .plan_size = plan.size, .root = root, .id = "one", .bundle = "/b", .bundle_json = "/b", .config = "", .config_size = 0,
		.stdio = { -1, -1, -1 }, .program = wherry_seal_program(wherry_program_start, (size_t)(wherry_program_end - wherry_program_start)),
	};
	int result = host_create_begin(&create, &request);

	close(request.program);
	host_create_release(&create);
	CHECK_EQUAL(create.undo_error, 0);
	CHECK_EQUAL(rmdir(root), 0); /* nothing is left in it */
	return result;
}

/* The script says what must hold while everything stands: its status 42 is "held". */
static void expect_held(const char *script)
{
	char wrapped[2048];

	snprintf(wrapped, sizeof(wrapped), "set -eu; trap 'exit 41' EXIT; %s; trap - EXIT; exit 42", script);
	look(wrapped);
	CHECK_EQUAL(run(), -WHERRY_HOOK_FAILED);
	CHECK_EQUAL(WEXITSTATUS(create.failure.value), 42);
}

/* ---- directories ------------------------------------------------------------------------------------------------------------------ */

static void made_with_parents_and_removed(void)
{
	NEEDS(PIDS);
	begin();
	write_value(directory(PIDS "/" NAME "/a/\001\100", PIDS, 0), "pids.max", "77", 0);
	expect_held("test $(cat " PIDS "/" NAME "/a/one/pids.max) = 77");
	CHECK(!exists(PIDS "/" NAME));
}

static void parents_of_others_stay(void)
{
	NEEDS(PIDS);
	mkdir(PIDS "/" NAME, 0755);
	begin();
	directory(PIDS "/" NAME "/a/b", PIDS, 0);
	expect_held("test -d " PIDS "/" NAME "/a/b");
	CHECK(exists(PIDS "/" NAME));
	CHECK(!exists(PIDS "/" NAME "/a"));
	CHECK_EQUAL(rmdir(PIDS "/" NAME), 0);
}

/* Somebody else moved in below a parent that we made: it stays, and that is no error. */
static void shared_parents_stay(void)
{
	NEEDS(PIDS);
	begin();
	directory(PIDS "/" NAME "/a", PIDS, 0);
	expect_held("mkdir " PIDS "/" NAME "/other");
	CHECK(!exists(PIDS "/" NAME "/a"));
	CHECK_EQUAL(rmdir(PIDS "/" NAME "/other"), 0);
	CHECK_EQUAL(rmdir(PIDS "/" NAME), 0);
}

/* Leaves that the container made in its own cgroup go with it. */
static void children_go_with_it(void)
{
	NEEDS(PIDS);
	begin();
	directory(PIDS "/" NAME, PIDS, 0);
	expect_held("mkdir -p " PIDS "/" NAME "/x/y " PIDS "/" NAME "/z");
	CHECK(!exists(PIDS "/" NAME));
}

static void an_existing_empty_one_is_taken_and_stays(void)
{
	NEEDS(PIDS);
	CHECK_EQUAL(mkdir(PIDS "/" NAME, 0755), 0);
	begin();
	directory(PIDS "/" NAME, PIDS, 0);
	expect_held("true");
	CHECK_EQUAL(rmdir(PIDS "/" NAME), 0);
}

static void a_populated_one_is_refused(void)
{
	pid_t pid;

	NEEDS(PIDS);
	CHECK_EQUAL(mkdir(PIDS "/" NAME, 0755), 0);
	pid = sleeper(PIDS "/" NAME, "tasks");
	begin();
	directory(PIDS "/" NAME, PIDS, 0);
	look("exit 42");
	CHECK_EQUAL(run(), -WHERRY_CGROUP_POPULATED);
	CHECK_EQUAL(kill(pid, 0), 0); /* whose it is nobody asked: it lives */
	/* shared on purpose */
	begin();
	directory(PIDS "/" NAME, PIDS, WHERRY_CGROUP_EXISTING);
	expect_held("true");
	CHECK_EQUAL(kill(pid, 0), 0);
	kill(pid, SIGKILL);
	reap(pid);
	CHECK_EQUAL(rmdir(PIDS "/" NAME), 0);
}

static void a_frozen_one_is_refused(void)
{
	NEEDS(FREEZER);
	CHECK_EQUAL(mkdir(FREEZER "/" NAME, 0755), 0);
	put(FREEZER "/" NAME "/freezer.state", "FROZEN");
	begin();
	directory(FREEZER "/" NAME, FREEZER, 0);
	look("exit 42");
	CHECK_EQUAL(run(), -WHERRY_CGROUP_FROZEN);
	CHECK_EQUAL(rmdir(FREEZER "/" NAME), 0);
}

static void paths_do_not_leave_the_mount(void)
{
	NEEDS(PIDS);
	begin();
	directory(PIDS "/../escape", PIDS, 0);
	look("exit 42");
	CHECK_EQUAL(run(), -EINVAL);
}

/* ---- v2 ------------------------------------------------------------------------------------------------------------------------------ */

static void v2_made_and_removed(void)
{
	char script[256];

	NEEDS_UNIFIED();
	begin();
	directory(join(unified, NAME "/a"), unified, WHERRY_CGROUP_V2);
	snprintf(script, sizeof(script), "test $(cat %s) = 0", join(unified, NAME "/a/cgroup.freeze"));
	expect_held(script);
	CHECK(!exists(join(unified, NAME)));
}

static void v2_populated_and_frozen_are_refused(void)
{
	pid_t pid;

	NEEDS_UNIFIED();
	CHECK_EQUAL(mkdir(join(unified, NAME), 0755), 0);
	CHECK_EQUAL(mkdir(join(unified, NAME "/below"), 0755), 0);
	pid = sleeper(join(unified, NAME "/below"), "cgroup.procs");
	begin();
	directory(join(unified, NAME), unified, WHERRY_CGROUP_V2);
	look("exit 42");
	CHECK_EQUAL(run(), -WHERRY_CGROUP_POPULATED);
	kill(pid, SIGKILL);
	reap(pid);
	CHECK_EQUAL(rmdir(join(unified, NAME "/below")), 0);
	put(join(unified, NAME "/cgroup.freeze"), "1");
	begin();
	directory(join(unified, NAME), unified, WHERRY_CGROUP_V2);
	look("exit 42");
	CHECK_EQUAL(run(), -WHERRY_CGROUP_FROZEN);
	CHECK_EQUAL(rmdir(join(unified, NAME)), 0);
}

static void controllers_op(const char *path, const char *controllers)
{
	struct wherry_op_cgroup_controllers *op = PLAN_ADD(&plan, OP_CGROUP_CONTROLLERS, WHERRY_CALLER, wherry_op_cgroup_controllers);

	op->path = plan_template(&plan, path);
	op->mount_length = (uint32_t)strlen(unified);
	op->controllers = plan_text(&plan, controllers);
}

static void v2_absent_controllers_are_named(void)
{
	NEEDS_UNIFIED();
	begin();
	directory(join(unified, NAME "/a"), unified, WHERRY_CGROUP_V2);
	controllers_op(join(unified, NAME "/a"), "nosuch");
	look("exit 42");
	CHECK_EQUAL(run(), -WHERRY_CGROUP_CONTROLLER_MISSING);
	CHECK_EQUAL(create.failure.value, strlen(unified));
	CHECK(!exists(join(unified, NAME)));
}

static bool offers(const char *controller)
{
	char text[1024] = "";
	int fd = open(join(unified, "cgroup.controllers"), O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	text[got > 0 ? got : 0] = 0;
	return strstr(text, controller) != NULL;
}

static void v2_controllers_are_enabled_above_the_leaf(void)
{
	char script[512];
	uint16_t where;

	NEEDS_UNIFIED();
	if (!offers("pids") || !offers("memory"))
		CHECK_SKIP("needs pids and memory on cgroup2");
	begin();
	where = directory(join(unified, NAME "/a/b"), unified, WHERRY_CGROUP_V2);
	controllers_op(join(unified, NAME "/a/b"), "pids memory");
	write_value(where, "pids.max", "33", 0);
	write_value(where, "memory.max", "64000000", 0);
	snprintf(script, sizeof(script), "cd %s/" NAME "; test $(cat a/b/pids.max) = 33; grep -q memory a/cgroup.subtree_control; test -z \"$(cat a/b/cgroup.subtree_control)\"",
		 unified);
	expect_held(script);
	CHECK(!exists(join(unified, NAME)));
}

static void v2_processes_in_an_ancestor_are_told(void)
{
	pid_t pid;

	NEEDS_UNIFIED();
	if (!offers("memory"))
		CHECK_SKIP("needs memory on cgroup2");
	CHECK_EQUAL(mkdir(join(unified, NAME), 0755), 0);
	pid = sleeper(join(unified, NAME), "cgroup.procs");
	begin();
	directory(join(unified, NAME "/a"), unified, WHERRY_CGROUP_V2);
	controllers_op(join(unified, NAME "/a"), "memory"); /* cpu and pids may be enabled beside processes */
	look("exit 42");
	CHECK_EQUAL(run(), -WHERRY_CGROUP_INTERNAL_PROCESSES);
	CHECK_EQUAL(create.failure.value, strlen(join(unified, NAME)));
	kill(pid, SIGKILL);
	reap(pid);
	CHECK_EQUAL(rmdir(join(unified, NAME)), 0);
}

static void v2_device_programs_are_attached(void)
{
	static const struct { uint8_t code, registers; int16_t offset; int32_t value; } allow[] = { { 0xb7, 0, 0, 1 }, { 0x95, 0, 0, 0 } };
	static const struct { uint8_t code, registers; int16_t offset; int32_t value; } bad[] = { { 0xff, 0, 0, 1 } };
	struct wherry_op_cgroup_devices *op;

	NEEDS_UNIFIED();
	for (int good = 1; good >= 0; good--) {
		uint16_t where;

		begin();
		where = directory(join(unified, NAME), unified, WHERRY_CGROUP_V2);
		op = PLAN_ADD(&plan, OP_CGROUP_DEVICES, WHERRY_CALLER, wherry_op_cgroup_devices);
		op->program = good ? plan_blob(&plan, allow, sizeof(allow)) : plan_blob(&plan, bad, sizeof(bad));
		op->directory = where;
		if (good) {
			expect_held("true");
		} else {
			look("exit 42");
			CHECK_EQUAL(run(), -EINVAL);
			CHECK_EQUAL(create.failure.call, WHERRY_CALL_BPF_LOAD);
		}
		CHECK(!exists(join(unified, NAME)));
	}
}

/* ---- values ---------------------------------------------------------------------------------------------------------------------------- */

static void missing_files_and_refused_values(void)
{
	uint16_t where;

	NEEDS(PIDS);
	begin();
	where = directory(PIDS "/" NAME, PIDS, 0);
	write_value(where, "no.such.file", "1", WHERRY_WRITE_MISSING_OK);
	write_value(where, "pids.max", "55", WHERRY_WRITE_ALTERNATIVE);
	write_value(where, "pids.max", "66", WHERRY_WRITE_ALTERNATIVE); /* the one before found its file */
	write_value(where, "pids.max", "nonsense", WHERRY_WRITE_IGNORE);
	expect_held("test $(cat " PIDS "/" NAME "/pids.max) = 55");
	begin();
	where = directory(PIDS "/" NAME, PIDS, 0);
	write_value(where, "pids.max", "nonsense", 0);
	look("exit 42");
	CHECK_EQUAL(run(), -EINVAL);
	CHECK_EQUAL(create.failure.call, WHERRY_CALL_WRITE);
	begin();
	where = directory(PIDS "/" NAME, PIDS, 0);
	write_value(where, "no.such.file", "1", 0);
	look("exit 42");
	CHECK_EQUAL(run(), -ENOENT);
	CHECK_EQUAL(create.failure.call, WHERRY_CALL_OPEN);
	CHECK(!exists(PIDS "/" NAME));
}

static void cpusets_are_filled_from_above(void)
{
	struct wherry_op_cgroup_cpuset *op;
	char script[512];

	NEEDS(CPUSET);
	begin();
	directory(CPUSET "/" NAME "/a/b", CPUSET, 0);
	op = PLAN_ADD(&plan, OP_CGROUP_CPUSET, WHERRY_CALLER, wherry_op_cgroup_cpuset);
	op->path = plan_template(&plan, CPUSET "/" NAME "/a/b");
	op->mount_length = sizeof(CPUSET) - 1;
	snprintf(script, sizeof(script), "test \"$(cat %s)\" = \"$(cat %s)\"; test \"$(cat %s)\" = \"$(cat %s)\"", CPUSET "/cpuset.cpus",
		 CPUSET "/" NAME "/a/b/cpuset.cpus", CPUSET "/cpuset.mems", CPUSET "/" NAME "/a/b/cpuset.mems");
	expect_held(script);
	CHECK(!exists(CPUSET "/" NAME));
}

static void owners_are_given(void)
{
	static const char *const files[] = { "cgroup.procs", "no.such.file", NULL };
	struct wherry_op_cgroup_chown *op;
	uint16_t where;

	NEEDS(PIDS);
	begin();
	where = directory(PIDS "/" NAME, PIDS, 0);
	op = PLAN_ADD(&plan, OP_CGROUP_CHOWN, WHERRY_CALLER, wherry_op_cgroup_chown);
	op->files = plan_list(&plan, files);
	op->uid = 1234;
	op->gid = 2345;
	op->directory = where;
	expect_held("cd " PIDS "/" NAME "; test $(stat -c %u:%g .) = 1234:2345; test $(stat -c %u:%g cgroup.procs) = 1234:2345;"
		    "test $(stat -c %u tasks) = 0");
}

/* ---- the end ----------------------------------------------------------------------------------------------------------------------------- */

static void kill_reaches_everyone(void)
{
	pid_t pids[3];

	NEEDS(PIDS);
	CHECK_EQUAL(mkdir(PIDS "/" NAME, 0755) | mkdir(PIDS "/" NAME "/x", 0755) | mkdir(PIDS "/" NAME "/x/y", 0755), 0);
	pids[0] = sleeper(PIDS "/" NAME, "tasks");
	pids[1] = sleeper(PIDS "/" NAME "/x", "tasks");
	pids[2] = sleeper(PIDS "/" NAME "/x/y", "tasks");
	CHECK_EQUAL(cgroup_kill(PIDS "/" NAME, false), 0);
	for (int i = 0; i < 3; i++)
		CHECK_EQUAL(WTERMSIG(reap(pids[i])), SIGKILL);
	CHECK_EQUAL(cgroup_kill(PIDS "/" NAME, false), 0);
	CHECK_EQUAL(cgroup_remove(PIDS "/" NAME, sizeof(PIDS) - 1, 1), 0);
	CHECK_EQUAL(cgroup_remove(PIDS "/" NAME, sizeof(PIDS) - 1, 1), 0);
	CHECK_EQUAL(cgroup_kill(PIDS "/" NAME, false), 0);
	CHECK(!exists(PIDS "/" NAME));
}

static void kill_reaches_the_frozen(void)
{
	pid_t pid;

	NEEDS(FREEZER);
	CHECK_EQUAL(mkdir(FREEZER "/" NAME, 0755), 0);
	pid = sleeper(FREEZER "/" NAME, "tasks");
	put(FREEZER "/" NAME "/freezer.state", "FROZEN");
	CHECK_EQUAL(cgroup_kill(FREEZER "/" NAME, false), 0);
	CHECK_EQUAL(WTERMSIG(reap(pid)), SIGKILL);
	CHECK_EQUAL(cgroup_remove(FREEZER "/" NAME, sizeof(FREEZER) - 1, 1), 0);
}

static void v2_kill_reaches_everyone(void)
{
	pid_t pids[2];

	NEEDS_UNIFIED();
	CHECK_EQUAL(mkdir(join(unified, NAME), 0755) | mkdir(join(unified, NAME "/x"), 0755), 0);
	pids[0] = sleeper(join(unified, NAME), "cgroup.procs");
	pids[1] = sleeper(join(unified, NAME "/x"), "cgroup.procs");
	put(join(unified, NAME "/cgroup.freeze"), "1");
	CHECK_EQUAL(cgroup_kill(join(unified, NAME), true), 0);
	CHECK_EQUAL(WTERMSIG(reap(pids[0])), SIGKILL);
	CHECK_EQUAL(WTERMSIG(reap(pids[1])), SIGKILL);
	CHECK_EQUAL(cgroup_remove(join(unified, NAME), (uint32_t)strlen(unified), 1), 0);
}

static void make_marked(const char *path)
{
	CHECK_EQUAL(mkdir(path, 0755), 0);
	if (setxattr(path, "trusted.wherry.parent", "1", 1, 0) < 0)
		CHECK_EQUAL(setxattr(path, "user.wherry.parent", "1", 1, 0), 0);
}

/* Whoever comes last removes the parents that another container made, and no others. */
static void the_last_one_removes_the_parents(void)
{
	NEEDS(PIDS);
	CHECK_EQUAL(mkdir(PIDS "/" NAME, 0755), 0); /* somebody else's */
	make_marked(PIDS "/" NAME "/x");
	make_marked(PIDS "/" NAME "/x/y");
	CHECK_EQUAL(mkdir(PIDS "/" NAME "/x/y/one", 0755) | mkdir(PIDS "/" NAME "/x/y/two", 0755), 0);
	CHECK_EQUAL(cgroup_remove(PIDS "/" NAME "/x/y/one", sizeof(PIDS) - 1, 3), 0);
	CHECK(exists(PIDS "/" NAME "/x/y/two"));
	CHECK_EQUAL(cgroup_remove(PIDS "/" NAME "/x/y/two", sizeof(PIDS) - 1, 1), 0);
	CHECK(!exists(PIDS "/" NAME "/x"));
	CHECK(exists(PIDS "/" NAME));
	CHECK_EQUAL(rmdir(PIDS "/" NAME), 0);
}

/* What is made on the way says so; the leaf, which holds processes, needs no mark. */
static void parents_are_marked(void)
{
	NEEDS(PIDS);
	CHECK_EQUAL(mkdir(PIDS "/" NAME, 0755), 0);
	begin();
	directory(PIDS "/" NAME "/x/y", PIDS, 0);
	expect_held("cd " PIDS "/" NAME "; python3 -c 'import os, sys; sys.exit([any(\"wherry.parent\" in name for name in os.listxattr(path))"
		    " for path in (\".\", \"x\", \"x/y\")] != [False, True, False])'");
	CHECK(!exists(PIDS "/" NAME "/x"));
	CHECK_EQUAL(rmdir(PIDS "/" NAME), 0);
}

/* More processes than one batch holds. */
static void kill_reaches_many(void)
{
	pid_t pids[150];

	NEEDS(PIDS);
	CHECK_EQUAL(mkdir(PIDS "/" NAME, 0755), 0);
	for (size_t i = 0; i < WHERRY_LENGTH(pids); i++)
		pids[i] = sleeper(PIDS "/" NAME, "tasks");
	CHECK_EQUAL(cgroup_kill(PIDS "/" NAME, false), 0);
	for (size_t i = 0; i < WHERRY_LENGTH(pids); i++)
		CHECK_EQUAL(WTERMSIG(reap(pids[i])), SIGKILL);
	CHECK_EQUAL(cgroup_remove(PIDS "/" NAME, sizeof(PIDS) - 1, 1), 0);
}

/* ---- a caller that dies in the middle ------------------------------------------------------------------------------------------------ */

/* What a killed create leaves is found by its journal: nobody is at it, its processes have ended, and destroy leaves nothing. */
static void a_killed_create_is_cleaned_up_by_the_next_command(void)
{
	struct host_container container;
	int status;
	pid_t pid;

	NEEDS(PIDS);
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	begin();
	directory(PIDS "/" NAME "/a", PIDS, 0);
	look("kill -9 $PPID");
	pid = fork();
	if (!pid) {
		run();
		_exit(1);
	}
	CHECK_EQUAL(WTERMSIG(reap(pid)), SIGKILL);
	CHECK_EQUAL(host_open(&container, root, "one"), 0);
	CHECK_EQUAL(container.head->status, WHERRY_RECORD_CREATING);
	CHECK_EQUAL(host_status(&container), HOST_STOPPED);
	CHECK_EQUAL(host_lock(&container, 0), 0);
	CHECK_EQUAL(host_destroy(&container, true), 0);
	host_close(&container);
	CHECK(!exists(PIDS "/" NAME));
	CHECK_EQUAL(rmdir(root), 0);
	/* launcher, init and hook have come to us: none waits for anything, they all have ended with their caller */
	while ((pid = waitpid(-1, &status, 0)) > 0)
		;
	prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0);
}

/* Between `begun` and `done` nobody knows who made a directory: an empty one is removed, one with processes is reported. */
static void what_was_only_begun_is_not_killed(void)
{
	const uint8_t begun[3] = { WHERRY_JOURNAL_BEGUN, 1, 0 };
	struct host_container container;
	int record;
	pid_t pid, other;

	NEEDS(PIDS);
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	begin();
	directory(PIDS "/" NAME, PIDS, 0);
	look("kill -9 $PPID");
	pid = fork();
	if (!pid) {
		run();
		_exit(1);
	}
	reap(pid);
	other = sleeper(PIDS "/" NAME, "tasks");
	record = open(join(root, "one/record"), O_WRONLY | O_CLOEXEC);
	CHECK_EQUAL(pwrite(record, begun, sizeof(begun), sizeof(struct wherry_record) + offsetof(struct wherry_journal_entry, state)), 3);
	close(record);
	CHECK_EQUAL(host_open(&container, root, "one"), 0);
	CHECK_EQUAL(host_destroy(&container, true), -EBUSY);
	CHECK_EQUAL(kill(other, 0), 0);
	kill(other, SIGKILL);
	reap(other);
	CHECK_EQUAL(host_destroy(&container, true), 0);
	host_close(&container);
	CHECK(!exists(PIDS "/" NAME));
	CHECK_EQUAL(rmdir(root), 0);
	while (waitpid(-1, NULL, 0) > 0)
		;
	prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0);
}

static const struct check_case cases[] = {
	{ "made_with_parents_and_removed", made_with_parents_and_removed },
	{ "parents_of_others_stay", parents_of_others_stay },
	{ "shared_parents_stay", shared_parents_stay },
	{ "children_go_with_it", children_go_with_it },
	{ "an_existing_empty_one_is_taken_and_stays", an_existing_empty_one_is_taken_and_stays },
	{ "a_populated_one_is_refused", a_populated_one_is_refused },
	{ "a_frozen_one_is_refused", a_frozen_one_is_refused },
	{ "paths_do_not_leave_the_mount", paths_do_not_leave_the_mount },
	{ "v2_made_and_removed", v2_made_and_removed },
	{ "v2_populated_and_frozen_are_refused", v2_populated_and_frozen_are_refused },
	{ "v2_absent_controllers_are_named", v2_absent_controllers_are_named },
	{ "v2_controllers_are_enabled_above_the_leaf", v2_controllers_are_enabled_above_the_leaf },
	{ "v2_processes_in_an_ancestor_are_told", v2_processes_in_an_ancestor_are_told },
	{ "v2_device_programs_are_attached", v2_device_programs_are_attached },
	{ "missing_files_and_refused_values", missing_files_and_refused_values },
	{ "cpusets_are_filled_from_above", cpusets_are_filled_from_above },
	{ "owners_are_given", owners_are_given },
	{ "kill_reaches_everyone", kill_reaches_everyone },
	{ "kill_reaches_the_frozen", kill_reaches_the_frozen },
	{ "v2_kill_reaches_everyone", v2_kill_reaches_everyone },
	{ "the_last_one_removes_the_parents", the_last_one_removes_the_parents },
	{ "parents_are_marked", parents_are_marked },
	{ "kill_reaches_many", kill_reaches_many },
	{ "a_killed_create_is_cleaned_up_by_the_next_command", a_killed_create_is_cleaned_up_by_the_next_command },
	{ "what_was_only_begun_is_not_killed", what_was_only_begun_is_not_killed },
};

CHECK_MAIN(cases)
