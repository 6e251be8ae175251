/* SPDX-License-Identifier: Apache-2.0
 *
 * The caller's operations one by one: a plan is made and its steps are called directly, with a temporary directory in the place of a cgroup
 * mount. test_cgroup.c has them on real hierarchies, test_host.c in whole creates.
 */
#include "check.h"
#include "planmaker.h"
#include "wherry/host.h"

#include "../host/parts.h"

#include <linux/bpf.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define NEEDS_ROOT() \
	do { \
		if (geteuid() != 0) \
			CHECK_SKIP("needs root"); \
	} while (0)

static struct planmaker plan;
static struct host_create c;
static char top[64], tree[80];

static const char *at(const char *directory, const char *name)
{
	static char path[8][256];
	static int turn;

	turn = (turn + 1) % 8;
	snprintf(path[turn], sizeof(path[turn]), "%s/%s", directory, name);
	return path[turn];
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	CHECK(fd >= 0 && wherry_write_all(fd, text, strlen(text)) == 0);
	close(fd);
}

static const char *content(const char *path)
{
	static char text[4096];

	return host_read_file(AT_FDCWD, path, text, sizeof(text)) < 0 ? "(missing)" : text;
}

/* ---- a plan to be called step by step ------------------------------------------------------------------------------------------------ */

static void begin(void)
{
	struct wherry_op_claim *claim;

	strcpy(top, "/tmp/wherry-ops-XXXXXX");
	CHECK(mkdtemp(top) != NULL);
	snprintf(tree, sizeof(tree), "%s/cgroup", top);
	CHECK_EQUAL(mkdir(tree, 0755), 0);
	plan_begin(&plan);
	plan.registers = 4;
	claim = PLAN_ADD(&plan, OP_CLAIM, WHERRY_CALLER, wherry_op_claim);
	claim->state_head = plan_template(&plan, "{\"id\":\"\1@\",\"pid\":");
	claim->state_middle = plan_template(&plan, ",\"status\":\"");
	claim->state_tail = plan_template(&plan, "\"}\n");
}

/* Below the mount. */
static struct wherry_template in_mount(const char *path)
{
	return plan_template(&plan, at(tree, path));
}

/* Not by the decoder: it wants a whole launch. */
static void find_steps(struct wherry_code *code)
{
	code->base = plan.plan;
	code->size = plan.size;
	code->plan = (const void *)plan.plan;
	code->steps = code->plan->steps;
	for (uint32_t i = 0, offset = code->plan->steps_offset; i < code->steps; i++) {
		code->step[i] = (const void *)(plan.plan + offset);
		offset += code->step[i]->size;
	}
}

static void prepare(void)
{
	plan_finish(&plan);
	memset(&c, 0, sizeof(c));
	for (int i = 0; i < WHERRY_MAX_REGISTERS; i++)
		c.machine.registers[i] = -1;
	c.root = c.directory = c.record = c.console_socket = c.pidfd_socket = c.listener_socket = c.launcher_pidfd = -1;
	c.machine.caller = c.machine.helper = c.machine.init_pidfd = c.machine.start_fifo = c.machine.result_fifo = c.machine.pending_fd = c.machine.rootfs = -1;
	c.machine.executor = WHERRY_CALLER;
	c.request = (struct host_request){ .root = at(top, "state"), .id = "one", .bundle = "/bundle", .bundle_json = "/bundle", .config = "{}", .config_size = 2,
		.plan = plan.plan, .plan_size = plan.size, .program = -1, .trace_fd = -1, .target = -1, .console_master = -1, .stdio = { -1, -1, -1 } };
	c.machine.slots[WHERRY_SLOT_ID] = "one";
	for (int i = 1; i < WHERRY_SLOT_COUNT; i++)
		c.machine.slots[i] = "-";
	find_steps(&c.machine.code);
}

static const void *step(uint32_t number)
{
	c.machine.current = number;
	return c.machine.code.step[number];
}

static int claim(void)
{
	return op_claim(&c.machine, step(0));
}

static void end(void)
{
	char command[128];

	for (uint16_t i = 0; i < WHERRY_MAX_REGISTERS; i++)
		wherry_set_register(&c.machine, i, -1);
	wherry_close(&c.record);
	wherry_close(&c.directory);
	wherry_close(&c.root);
	wherry_close(&c.machine.start_fifo);
	wherry_close(&c.machine.result_fifo);
	snprintf(command, sizeof(command), "rm -rf %s", top);
	CHECK_EQUAL(system(command), 0);
}

/* ---- claim ------------------------------------------------------------------------------------------------------------------------- */

static void claiming(void)
{
	struct stat status;

	begin();
	prepare();
	umask(0);
	CHECK_EQUAL(claim(), 0);
	CHECK(stat(at(top, "state/one"), &status) == 0 && (status.st_mode & 07777) == 0700);
	CHECK_TEXT(content(at(top, "state/one/config.json")), "{}");
	CHECK(stat(at(top, "state/one/plan"), &status) == 0 && status.st_size == (off_t)plan.size && (status.st_mode & 07777) == 0600);
	CHECK(stat(at(top, "state/one/start"), &status) == 0 && S_ISFIFO(status.st_mode));
	CHECK(stat(at(top, "state/one/result"), &status) == 0 && S_ISFIFO(status.st_mode));
	CHECK(stat(at(top, "state/one/record"), &status) == 0 && (status.st_mode & 07777) == 0600);
	CHECK(c.claimed && c.machine.start_fifo >= 0 && c.machine.result_fifo >= 0);
	end();
}

static void claimed_twice(void)
{
	begin();
	prepare();
	CHECK_EQUAL(mkdir(at(top, "state"), 0700), 0);
	CHECK_EQUAL(mkdir(at(top, "state/one"), 0700), 0);
	CHECK_EQUAL(claim(), -WHERRY_EXISTS);
	CHECK_EQUAL(c.machine.failed_call, WHERRY_CALL_MKDIR);
	CHECK(!c.claimed);
	CHECK(access(at(top, "state/one/record"), F_OK) < 0);
	end();
}

static void claimed_where_others_write(void)
{
	begin();
	prepare();
	CHECK_EQUAL(mkdir(at(top, "state"), 0700), 0);
	CHECK_EQUAL(chmod(at(top, "state"), 0777), 0);
	CHECK_EQUAL(claim(), -WHERRY_UNSAFE_DIRECTORY);
	CHECK_EQUAL((c.machine.failed_value >> 32) & 07777, 0777);
	CHECK(access(at(top, "state/one"), F_OK) < 0);
	end();
}

/* ---- cgroup directories ------------------------------------------------------------------------------------------------------------- */

static void add_directory(const char *path, uint32_t flags, uint16_t out)
{
	struct wherry_op_cgroup_directory *op = PLAN_ADD(&plan, OP_CGROUP_DIRECTORY, WHERRY_CALLER, wherry_op_cgroup_directory);

	op->path = in_mount(path);
	op->mount_length = (uint32_t)strlen(tree);
	op->flags = flags;
	op->out = out;
}

static void directories(void)
{
	struct wherry_machine *m = &c.machine;

	begin();
	add_directory("a/\1@", WHERRY_CGROUP_V2, 1);
	add_directory("a/one", WHERRY_CGROUP_V2, 2);
	add_directory("a/one", WHERRY_CGROUP_V2 | WHERRY_CGROUP_EXISTING, 2);
	add_directory("a/none", WHERRY_CGROUP_JOIN, 3);
	add_directory("a/one", WHERRY_CGROUP_JOIN, 3);
	add_directory("a/../../../etc", WHERRY_CGROUP_V2, 3);
	prepare();
	CHECK_EQUAL(claim(), 0);
	CHECK_EQUAL(op_cgroup_directory(m, step(1)), 0);
	CHECK(m->registers[1] >= 0 && access(at(tree, "a/one"), F_OK) == 0);
	CHECK_EQUAL(op_cgroup_directory(m, step(2)), -ENOENT); /* it is there, and says not who is in it: no cgroup */
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_READ);
	put(at(tree, "a/one/cgroup.events"), "populated 1\nfrozen 0\n");
	CHECK_EQUAL(op_cgroup_directory(m, step(2)), -WHERRY_CGROUP_POPULATED);
	put(at(tree, "a/one/cgroup.events"), "populated 0\nfrozen 1\n");
	put(at(tree, "a/one/cgroup.freeze"), "1\n");
	CHECK_EQUAL(op_cgroup_directory(m, step(2)), -WHERRY_CGROUP_FROZEN);
	put(at(tree, "a/one/cgroup.freeze"), "0\n");
	CHECK_EQUAL(op_cgroup_directory(m, step(3)), 0);
	CHECK(m->registers[2] >= 0);
	CHECK_EQUAL(op_cgroup_directory(m, step(4)), -ENOENT); /* to be joined: never made */
	CHECK(access(at(tree, "a/none"), F_OK) < 0);
	CHECK_EQUAL(op_cgroup_directory(m, step(5)), 0);
	CHECK_EQUAL(op_cgroup_directory(m, step(6)), -EINVAL);
	end();
}

/* In the journal before it is there: whoever finds a crash takes it away. */
static void mount_point(void)
{
	const struct wherry_journal_entry *entry;
	struct host_container container;
	struct stat status;

	begin();
	PLAN_ADD(&plan, OP_MOUNT_POINT, WHERRY_CALLER, wherry_op_mount_point)->path = plan_template(&plan, at(top, "state/one/rootfs"));
	prepare();
	CHECK_EQUAL(claim(), 0);
	CHECK_EQUAL(op_mount_point(&c.machine, step(1)), 0);
	CHECK(stat(at(top, "state/one/rootfs"), &status) == 0 && S_ISDIR(status.st_mode) && (status.st_mode & 07777) == 0700);
	CHECK_EQUAL(host_open(&container, c.request.root, "one"), 0);
	CHECK_EQUAL(container.head->journal_count, 1);
	entry = (const void *)((const char *)container.head + container.head->journal_offset);
	CHECK(entry->kind == WHERRY_JOURNAL_MOUNT && entry->state == WHERRY_JOURNAL_BEGUN);
	host_close(&container);
	CHECK_EQUAL(op_mount_point(&c.machine, step(1)), -EEXIST);
	CHECK_EQUAL(c.machine.failed_call, WHERRY_CALL_MKDIR);
	end();
}

static void controllers(void)
{
	struct wherry_op_cgroup_controllers *op;

	begin();
	op = PLAN_ADD(&plan, OP_CGROUP_CONTROLLERS, WHERRY_CALLER, wherry_op_cgroup_controllers);
	op->path = in_mount("parent/\1@");
	op->mount_length = (uint32_t)strlen(tree);
	op->controllers = plan_text(&plan, "memory pids");
	prepare();
	CHECK(mkdir(at(tree, "parent"), 0755) == 0 && mkdir(at(tree, "parent/one"), 0755) == 0);
	put(at(tree, "cgroup.subtree_control"), "cpu memory\n");
	put(at(tree, "parent/cgroup.subtree_control"), "");
	put(at(tree, "parent/one/cgroup.subtree_control"), "untouched");
	CHECK_EQUAL(op_cgroup_controllers(&c.machine, step(1)), 0);
	CHECK(!strncmp(content(at(tree, "cgroup.subtree_control")), "+pids", 5)); /* the other one was enabled */
	CHECK_TEXT(content(at(tree, "parent/cgroup.subtree_control")), "+memory +pids"); /* one write for all */
	CHECK_TEXT(content(at(tree, "parent/one/cgroup.subtree_control")), "untouched"); /* the leaf holds the processes */
	unlink(at(tree, "parent/cgroup.subtree_control"));
	CHECK_EQUAL(op_cgroup_controllers(&c.machine, step(1)), -ENOENT);
	CHECK_EQUAL(c.machine.failed_call, WHERRY_CALL_WRITE);
	CHECK_EQUAL(c.machine.failed_value, strlen(tree) + strlen("/parent")); /* so much of the path is the directory that refused */
	end();
}

static void cpuset(void)
{
	struct wherry_op_cgroup_cpuset *op;

	begin();
	op = PLAN_ADD(&plan, OP_CGROUP_CPUSET, WHERRY_CALLER, wherry_op_cgroup_cpuset);
	op->path = in_mount("parent/\1@");
	op->mount_length = (uint32_t)strlen(tree);
	prepare();
	CHECK(mkdir(at(tree, "parent"), 0755) == 0 && mkdir(at(tree, "parent/one"), 0755) == 0);
	put(at(tree, "cpuset.cpus"), "0-7\n");
	put(at(tree, "cpuset.mems"), "0\n");
	put(at(tree, "parent/cpuset.cpus"), "2-3\n");
	put(at(tree, "parent/cpuset.mems"), "");
	put(at(tree, "parent/one/cpuset.cpus"), "");
	put(at(tree, "parent/one/cpuset.mems"), "");
	CHECK_EQUAL(op_cgroup_cpuset(&c.machine, step(1)), 0);
	CHECK_TEXT(content(at(tree, "parent/cpuset.cpus")), "2-3\n"); /* filled: left alone */
	CHECK_TEXT(content(at(tree, "parent/cpuset.mems")), "0\n");
	CHECK_TEXT(content(at(tree, "parent/one/cpuset.cpus")), "2-3\n");
	CHECK_TEXT(content(at(tree, "parent/one/cpuset.mems")), "0\n");
	unlink(at(tree, "parent/one/cpuset.mems"));
	CHECK_EQUAL(op_cgroup_cpuset(&c.machine, step(1)), -ENOENT);
	CHECK_EQUAL(c.machine.failed_call, WHERRY_CALL_WRITE);
	end();
}

/* ---- values, owners, tasks ------------------------------------------------------------------------------------------------------------- */

static void add_write(const char *file, const char *value, uint32_t flags, uint16_t directory)
{
	struct wherry_op_cgroup_write *op = PLAN_ADD(&plan, OP_CGROUP_WRITE, WHERRY_CALLER, wherry_op_cgroup_write);

	op->file = plan_text(&plan, file);
	op->value = plan_text(&plan, value);
	op->flags = flags;
	op->directory = directory;
}

static void values(void)
{
	struct wherry_machine *m = &c.machine;

	begin();
	add_write("pids.max", "20", 0, 1);
	add_write("pids.max", "30", 0, 2); /* an empty register */
	add_write("none", "1", 0, 1);
	add_write("none", "1", WHERRY_WRITE_MISSING_OK, 1);
	add_write("other", "2", WHERRY_WRITE_ALTERNATIVE, 1);
	add_write("pids.max", "40", WHERRY_WRITE_ALTERNATIVE, 1); /* the one before it was there */
	add_write(".", "1", WHERRY_WRITE_IGNORE, 1);
	prepare();
	m->registers[1] = open(tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	put(at(tree, "pids.max"), "");
	put(at(tree, "other"), "");
	CHECK_EQUAL(op_cgroup_write(m, step(1)), 0);
	CHECK_TEXT(content(at(tree, "pids.max")), "20");
	CHECK_EQUAL(op_cgroup_write(m, step(2)), 0);
	CHECK_EQUAL(op_cgroup_write(m, step(3)), -ENOENT);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_OPEN);
	CHECK_EQUAL(op_cgroup_write(m, step(4)), 0);
	CHECK_EQUAL(op_cgroup_write(m, step(5)), 0);
	CHECK_TEXT(content(at(tree, "other")), "2");
	CHECK_EQUAL(op_cgroup_write(m, step(6)), 0);
	CHECK_TEXT(content(at(tree, "pids.max")), "20");
	CHECK_EQUAL(op_cgroup_write(m, step(7)), 0);
	CHECK(access(at(tree, "none"), F_OK) < 0); /* never made */
	end();
}

/* As with the rules for devices of v1: opened once, one write(2) for each value, and closed behind the last. */
static void values_of_one_file(void)
{
	struct wherry_machine *m = &c.machine;
	struct wherry_op_cgroup_write *op;
	int file;

	begin();
	add_write("devices.allow", "a", 0, 1);
	add_write("devices.allow", "bc", 0, 1);
	add_write("devices.deny", "d", 0, 1);
	prepare();
	op = (void *)(uintptr_t)step(2);
	op->file = ((const struct wherry_op_cgroup_write *)step(1))->file; /* as the encoder does: one text, one place */
	m->registers[1] = open(tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	put(at(tree, "devices.allow"), "");
	m->current = 1;
	CHECK_EQUAL(op_cgroup_write(m, step(1)), 0);
	file = c.value_file;
	CHECK(c.next_write == op && fcntl(file, F_GETFD) == FD_CLOEXEC);
	m->current = 2;
	CHECK_EQUAL(op_cgroup_write(m, step(2)), 0);
	CHECK(!c.next_write && fcntl(file, F_GETFD) < 0);
	CHECK_TEXT(content(at(tree, "devices.allow")), "abc");
	m->current = 3;
	CHECK_EQUAL(op_cgroup_write(m, step(3)), -ENOENT);
	CHECK(m->failed_call == WHERRY_CALL_OPEN && c.missing_file);
	end();
}

static void owners(void)
{
	static const char *const names[] = { "cgroup.procs", "missing", NULL };
	struct wherry_op_cgroup_chown *op;
	struct stat status;

	NEEDS_ROOT();
	begin();
	op = PLAN_ADD(&plan, OP_CGROUP_CHOWN, WHERRY_CALLER, wherry_op_cgroup_chown);
	op->files = plan_list(&plan, names);
	op->uid = 1234;
	op->gid = 4321;
	op->directory = 1;
	prepare();
	CHECK_EQUAL(op_cgroup_chown(&c.machine, step(1)), 0); /* an empty register */
	c.machine.registers[1] = open(tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	put(at(tree, "cgroup.procs"), "");
	put(at(tree, "memory.max"), "");
	CHECK_EQUAL(op_cgroup_chown(&c.machine, step(1)), 0);
	CHECK(stat(tree, &status) == 0 && status.st_uid == 1234 && status.st_gid == 4321);
	CHECK(stat(at(tree, "cgroup.procs"), &status) == 0 && status.st_uid == 1234 && status.st_gid == 4321);
	CHECK(stat(at(tree, "memory.max"), &status) == 0 && status.st_uid == 0);
	unlink(at(tree, "cgroup.procs"));
	CHECK_EQUAL(symlink("memory.max", at(tree, "cgroup.procs")), 0); /* no link is followed */
	CHECK_EQUAL(op_cgroup_chown(&c.machine, step(1)), 0);
	CHECK(stat(at(tree, "memory.max"), &status) == 0 && status.st_uid == 0);
	end();
}

static void tasks(void)
{
	struct wherry_op_open_tasks *op;

	begin();
	op = PLAN_ADD(&plan, OP_OPEN_TASKS, WHERRY_CALLER, wherry_op_open_tasks);
	op->file = plan_text(&plan, "tasks");
	op->directory = 1;
	op->out = 2;
	prepare();
	CHECK_EQUAL(op_open_tasks(&c.machine, step(1)), 0); /* an empty register leaves the other one empty */
	CHECK_EQUAL(c.machine.registers[2], -1);
	c.machine.registers[1] = open(tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CHECK_EQUAL(op_open_tasks(&c.machine, step(1)), -ENOENT);
	CHECK_EQUAL(c.machine.failed_call, WHERRY_CALL_OPEN);
	put(at(tree, "tasks"), "");
	CHECK_EQUAL(op_open_tasks(&c.machine, step(1)), 0);
	CHECK_EQUAL(write(c.machine.registers[2], "0", 1), 1);
	CHECK_TEXT(content(at(tree, "tasks")), "0");
	end();
}

static void add_tasks(const char *file)
{
	struct wherry_op_open_tasks *op = PLAN_ADD(&plan, OP_OPEN_TASKS, WHERRY_CALLER, wherry_op_open_tasks);

	op->file = plan_text(&plan, file);
	op->directory = WHERRY_NO_REGISTER;
	op->out = 2;
}

/* What an exec opens: by the whole path, which no link bends and no dots leave. */
static void tasks_by_path(void)
{
	struct wherry_machine *m = &c.machine;

	begin();
	add_tasks(at(tree, "one/tasks"));
	add_tasks(at(tree, "link/tasks"));
	add_tasks(at(tree, "one/../one/tasks"));
	add_tasks("tasks");
	add_directory("link", WHERRY_CGROUP_JOIN | WHERRY_CGROUP_V2, 3);
	add_directory("one", WHERRY_CGROUP_JOIN | WHERRY_CGROUP_V2, 3);
	prepare();
	CHECK(op_open_tasks(m, step(1)) == -ENOENT && m->failed_call == WHERRY_CALL_OPEN);
	CHECK(mkdir(at(tree, "one"), 0755) == 0 && symlink("one", at(tree, "link")) == 0);
	for (int without = 0; without < 2; without++) {
		securepath_without_openat2 = without;
		put(at(tree, "one/tasks"), "");
		CHECK_EQUAL(op_open_tasks(m, step(1)), 0);
		CHECK(fcntl(m->registers[2], F_GETFD) == FD_CLOEXEC && write(m->registers[2], "0", 1) == 1);
		CHECK_TEXT(content(at(tree, "one/tasks")), "0");
		CHECK_EQUAL(op_open_tasks(m, step(2)), -ELOOP);
		CHECK_EQUAL(op_open_tasks(m, step(3)), -EINVAL);
		CHECK_EQUAL(op_open_tasks(m, step(4)), -EINVAL);
		CHECK_EQUAL(op_cgroup_directory(m, step(5)), -ENOTDIR);
		CHECK(m->failed_call == WHERRY_CALL_OPEN && m->registers[3] == -1);
		CHECK_EQUAL(op_cgroup_directory(m, step(6)), 0);
		wherry_set_register(m, 3, -1);
	}
	securepath_without_openat2 = false;
	end();
}

/* A descriptor of its own, of an exec's container alone. */
static void target(void)
{
	struct wherry_machine *m = &c.machine;

	begin();
	PLAN_ADD(&plan, OP_OPEN_TARGET, WHERRY_CALLER, wherry_op_open_target)->out = 2;
	prepare();
	c.request.target = sys_pidfd_open(getpid(), 0);
	CHECK_EQUAL(op_open_target(m, step(1)), -WHERRY_BAD_PLAN);
	CHECK_EQUAL(m->registers[2], -1);
	((struct wherry_plan *)(void *)plan.plan)->flags |= WHERRY_PLAN_EXEC;
	CHECK_EQUAL(op_open_target(m, step(1)), 0);
	CHECK(m->registers[2] != c.request.target && fcntl(m->registers[2], F_GETFD) == FD_CLOEXEC);
	wherry_close(&c.request.target);
	CHECK_EQUAL(syscall(SYS_pidfd_send_signal, m->registers[2], 0, NULL, 0), 0);
	CHECK_EQUAL(op_open_target(m, step(1)), -EBADF);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_DUP);
	end();
}

/* ---- devices: a real cgroup --------------------------------------------------------------------------------------------------------------- */

static uint32_t attached(int cgroup)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.query.target_fd = (uint32_t)cgroup;
	attr.query.attach_type = BPF_CGROUP_DEVICE;
	return sys_bpf(BPF_PROG_QUERY, &attr, sizeof(attr)) < 0 ? 0 : attr.query.prog_cnt;
}

static void devices(void)
{
	const struct bpf_insn allow[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 1 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	const char *unified = access("/sys/fs/cgroup/cgroup.procs", F_OK) == 0 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/unified";
	struct wherry_machine *m = &c.machine;
	char path[128];

	NEEDS_ROOT();
	snprintf(path, sizeof(path), "%s/wherry-ops-test-%d", unified, getpid());
	if (mkdir(path, 0755) < 0)
		CHECK_SKIP("needs a writable cgroup2");
	begin();
	for (int i = 0; i < 2; i++) { /* the second ends nowhere: the kernel refuses it */
		struct wherry_op_cgroup_devices *op = PLAN_ADD(&plan, OP_CGROUP_DEVICES, WHERRY_CALLER, wherry_op_cgroup_devices);

		op->program = plan_blob(&plan, allow, sizeof(allow) >> i);
		op->directory = 1;
	}
	prepare();
	CHECK_EQUAL(op_cgroup_devices(m, step(1)), 0); /* an empty register */
	m->registers[1] = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CHECK_EQUAL(attached(m->registers[1]), 0);
	CHECK_EQUAL(op_cgroup_devices(m, step(1)), 0);
	CHECK_EQUAL(attached(m->registers[1]), 1);
	CHECK(op_cgroup_devices(m, step(2)) < 0);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_BPF_LOAD);
	wherry_set_register(m, 1, open(tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC)); /* no cgroup */
	CHECK(op_cgroup_devices(m, step(1)) < 0);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_BPF_ATTACH);
	CHECK_EQUAL(rmdir(path), 0);
	end();
}

/* ---- launch, listener, publish ------------------------------------------------------------------------------------------------------------ */

static void launching(void)
{
	begin();
	PLAN_ADD(&plan, OP_LAUNCH, WHERRY_CALLER, wherry_op_launch);
	prepare();
	CHECK_EQUAL(claim(), 0);
	c.request.program = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
	CHECK(op_launch(&c.machine, step(1)) < 0); /* that is no program */
	CHECK(c.machine.failed_call != WHERRY_CALL_NONE);
	CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
	wherry_close(&c.request.program);
	end();
}

static int received(int socket, char *text, size_t size)
{
	char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
	struct iovec data = { .iov_base = text, .iov_len = size - 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	ssize_t got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
	int fd = -1;

	text[got > 0 ? got : 0] = 0;
	if (CMSG_FIRSTHDR(&message))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
	return fd;
}

static void listener(void)
{
	struct wherry_op_listener *op;
	char text[128];
	int pair[2], ends[2], fd;

	begin();
	op = PLAN_ADD(&plan, OP_LISTENER, WHERRY_CALLER, wherry_op_listener);
	op->path = plan_text(&plan, "/run/agent.sock");
	op->state = plan_template(&plan, "{\"id\":\"\1@\"}");
	op->listener = 3;
	prepare();
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0 && pipe2(ends, O_CLOEXEC) == 0);
	c.listener_socket = pair[0];
	CHECK_EQUAL(op_listener(&c.machine, step(1)), -EBADF); /* none came with the request */
	CHECK_EQUAL(c.machine.failed_call, WHERRY_CALL_RECEIVE);
	c.machine.pending_fd = ends[1];
	CHECK_EQUAL(op_listener(&c.machine, step(1)), 0);
	CHECK_EQUAL(c.machine.registers[3], -1);
	CHECK_EQUAL(c.listener_socket, -1);
	fd = received(pair[1], text, sizeof(text));
	CHECK_TEXT(text, "{\"id\":\"one\"}");
	CHECK(fd >= 0 && write(fd, "x", 1) == 1);
	close(fd);
	CHECK_EQUAL(read(ends[0], text, sizeof(text)), 1);
	CHECK_EQUAL(read(ends[0], text, sizeof(text)), 0); /* ours is closed */
	close(ends[0]);
	close(pair[1]);
	end();
}

static void publishing(void)
{
	struct wherry_op_publish *op;
	struct host_container container;
	char text[64];
	int pair[2], pidfd;

	begin();
	PLAN_ADD(&plan, OP_LAUNCH, WHERRY_CALLER, wherry_op_launch);
	op = PLAN_ADD(&plan, OP_PUBLISH, WHERRY_CALLER, wherry_op_publish);
	op->state_file = plan_template(&plan, "{\"id\":\"\1@\",\"pid\":\1E}\n");
	prepare();
	CHECK_EQUAL(claim(), 0);
	CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	c.machine.init = getpid(); /* as if it were init */
	c.machine.init_pidfd = sys_pidfd_open(getpid(), 0);
	CHECK_EQUAL(host_start_time(getpid(), &c.start_time), 0);
	snprintf(c.slot_pid, sizeof(c.slot_pid), "%d", getpid());
	c.machine.slots[WHERRY_SLOT_PID] = c.slot_pid;
	c.request.pid_file = at(top, "pid");
	c.pidfd_socket = pair[0];
	CHECK_EQUAL(op_publish(&c.machine, step(2)), 0);
	snprintf(text, sizeof(text), "{\"id\":\"one\",\"pid\":%d}\n", getpid());
	CHECK_TEXT(content(at(top, "state/one/state.json")), text);
	CHECK_TEXT(content(at(top, "pid")), c.slot_pid);
	pidfd = received(pair[1], text, sizeof(text));
	CHECK_TEXT(text, "pidfd");
	CHECK(pidfd >= 0);
	CHECK_EQUAL(host_open(&container, c.request.root, "one"), 0);
	CHECK(container.head && container.head->status == WHERRY_RECORD_PUBLISHED && container.head->pid == getpid());
	host_close(&container);
	close(pidfd);
	close(pair[1]);
	c.request.pid_file = "/no/such/directory/pid";
	CHECK_EQUAL(op_publish(&c.machine, step(2)), -ENOENT);
	CHECK_EQUAL(c.machine.failed_call, WHERRY_CALL_PID_FILE);
	wherry_close(&c.machine.init_pidfd);
	end();
}

static const struct check_case cases[] = {
	{ "claiming", claiming },
	{ "claimed_twice", claimed_twice },
	{ "claimed_where_others_write", claimed_where_others_write },
	{ "directories", directories },
	{ "mount_point", mount_point },
	{ "controllers", controllers },
	{ "cpuset", cpuset },
	{ "values", values },
	{ "owners", owners },
	{ "values_of_one_file", values_of_one_file },
	{ "tasks", tasks },
	{ "tasks_by_path", tasks_by_path },
	{ "target", target },
	{ "devices", devices },
	{ "launching", launching },
	{ "listener", listener },
	{ "publishing", publishing },
};

CHECK_MAIN(cases)
