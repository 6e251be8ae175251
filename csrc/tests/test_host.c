/* SPDX-License-Identifier: Apache-2.0
 *
 * The caller's side with the real static program: create, start, state, kill, delete through host.h alone, and what is left when
 * something fails on the way. Each test ends with a census: no child, no descriptor, no file, no cgroup may stay.
 */
#include "check.h"
#include "planmaker.h"
#include "wherry/host.h"

#include <dirent.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#define NEEDS_ROOT() \
	do { \
		if (geteuid() != 0) \
			CHECK_SKIP("needs root"); \
	} while (0)

static struct planmaker plan;
static struct host_create create;

/* ---- the bed ------------------------------------------------------------------------------------------------------------- */

static struct {
	char directory[64], root[80], rootfs[80];
	int output[2];
	int fds; /* that were open before */
	struct host_request request;
} bed;

static int count_fds(void)
{
	DIR *directory = opendir("/proc/self/fd");
	int count = 0;

	while (readdir(directory))
		count++;
	closedir(directory);
	return count;
}

static const char *bed_path(const char *name)
{
	static char path[4][256];
	static int turn;

	turn = (turn + 1) % 4;
	snprintf(path[turn], sizeof(path[turn]), "%s/%s", bed.directory, name);
	return path[turn];
}

static void bed_begin(void)
{
	strcpy(bed.directory, "/tmp/wherry-host-XXXXXX");
	CHECK(mkdtemp(bed.directory) != NULL);
	snprintf(bed.root, sizeof(bed.root), "%s/state", bed.directory);
	snprintf(bed.rootfs, sizeof(bed.rootfs), "%s/rootfs", bed.directory);
	CHECK_EQUAL(mkdir(bed.rootfs, 0755), 0);
	bed.fds = count_fds();
	CHECK_EQUAL(pipe2(bed.output, O_CLOEXEC), 0);
	bed.request = (struct host_request){
		.root = bed.root, .id = "one", .bundle = "/bundle", .bundle_json = "/bundle", .config = "{}", .config_size = 2,
		.stdio = { -1, bed.output[1], -1 }, .program = wherry_seal_program(wherry_program_start, (size_t)(wherry_program_end - wherry_program_start)),
	};
}

static bool is_empty(const char *path)
{
	DIR *directory = opendir(path);
	int count = 0;

	while (directory && readdir(directory))
		count++;
	if (directory)
		closedir(directory);
	return count <= 2;
}

static void bed_end(void)
{
	char command[128];

	close(bed.output[0]);
	if (bed.output[1] >= 0)
		close(bed.output[1]);
	close(bed.request.program);
	CHECK(is_empty(bed.root));
	CHECK_EQUAL(count_fds(), bed.fds);
	CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
	snprintf(command, sizeof(command), "rm -rf %s", bed.directory);
	CHECK_EQUAL(system(command), 0);
}

static const char *bed_output(void)
{
	static char text[4096];
	size_t length = 0;
	ssize_t got;

	close(bed.output[1]);
	bed.output[1] = -1;
	while ((got = read(bed.output[0], text + length, sizeof(text) - 1 - length)) > 0)
		length += (size_t)got;
	text[length] = 0;
	return text;
}

static const char *content(const char *path)
{
	static char text[4096];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);

	close(fd);
	text[got > 0 ? got : 0] = 0;
	return fd < 0 ? "(missing)" : text;
}

/* ---- plans --------------------------------------------------------------------------------------------------------------- */

static void plan_claim(void)
{
	struct wherry_op_claim *claim;

	plan_begin(&plan);
	claim = PLAN_ADD(&plan, OP_CLAIM, WHERRY_CALLER, wherry_op_claim);
	claim->state_head = plan_template(&plan, "{\"id\":\"\001\100\",\"pid\":");
	claim->state_middle = plan_template(&plan, ",\"status\":\"");
	claim->state_tail = plan_template(&plan, "\",\"created\":\"\001\104\"}\n");
}

static uint16_t plan_cgroup(const char *path, const char *mount, uint32_t flags)
{
	struct wherry_op_cgroup_directory *directory = PLAN_ADD(&plan, OP_CGROUP_DIRECTORY, WHERRY_CALLER, wherry_op_cgroup_directory);

	directory->path = plan_template(&plan, path);
	directory->mount_length = (uint32_t)strlen(mount);
	directory->flags = flags;
	directory->out = plan.registers++;
	return directory->out;
}

static uint16_t plan_tasks(uint16_t directory)
{
	struct wherry_op_open_tasks *tasks = PLAN_ADD(&plan, OP_OPEN_TASKS, WHERRY_CALLER, wherry_op_open_tasks);

	tasks->file = plan_text(&plan, "tasks");
	tasks->directory = directory;
	tasks->out = plan.registers++;
	return tasks->out;
}

static void plan_launch(void)
{
	struct wherry_op_clone *clone;

	plan.inherited = plan.registers;
	PLAN_ADD(&plan, OP_LAUNCH, WHERRY_CALLER, wherry_op_launch);
	clone = PLAN_ADD(&plan, OP_CLONE, WHERRY_LAUNCHER, wherry_op_clone);
	clone->flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS;
	clone->into_cgroup = WHERRY_NO_REGISTER;
}

static void plan_attach(uint16_t tasks)
{
	PLAN_ADD(&plan, OP_ATTACH_TASKS, WHERRY_INIT, wherry_op_attach_tasks)->tasks = tasks;
}

static void plan_hook(enum wherry_executor executor, const char *script)
{
	const char *const arguments[] = { "sh", "-c", script, NULL };
	struct wherry_op_hook *hook = PLAN_ADD(&plan, OP_HOOK, executor, wherry_op_hook);

	hook->path = plan_text(&plan, "/bin/sh");
	hook->arguments = plan_list(&plan, arguments);
	hook->environment = plan_list(&plan, (const char *const[]){ NULL });
	hook->state = plan_template(&plan, "{\"pid\":\001\105}");
	hook->kind = executor == WHERRY_CALLER ? WHERRY_HOOK_CREATE_RUNTIME : WHERRY_HOOK_CREATE_CONTAINER;
}

static void plan_end(const char *script)
{
	const char *const arguments[] = { "/bin/sh", "-c", script, NULL };
	uint32_t before;

	plan_rootfs(&plan, WHERRY_INIT, bed.rootfs, plan.registers++);
	before = plan.steps_size;
	plan_program(&plan, arguments);
	for (uint32_t at = before; at < plan.steps_size;) {
		struct wherry_op *op = (void *)(plan.steps + at);

		if (op->code == OP_PUBLISH)
			((struct wherry_op_publish *)op)->state_file = plan_template(&plan, "{\"pid\":\001\105}\n");
		at += op->size;
	}
	plan_finish(&plan);
	bed.request.plan = plan.plan;
	bed.request.plan_size = plan.size;
}

static void plan_plain(const char *script)
{
	plan_claim();
	plan_launch();
	plan_end(script);
}

/* ---- shorthands ---------------------------------------------------------------------------------------------------------- */

static struct host_container container;

static int open_it(void)
{
	return host_open(&container, bed.root, bed.request.id);
}

static void reap_init(pid_t pid)
{
	int status;

	CHECK_EQUAL(waitpid(pid, &status, 0), pid);
}

/* Kills, reaps, removes. */
static void end_it(void)
{
	pid_t pid;

	CHECK_EQUAL(open_it(), 0);
	pid = container.head->pid;
	CHECK_EQUAL(host_destroy(&container, true), 0);
	host_close(&container);
	reap_init(pid);
}

static void create_it(void)
{
	CHECK_EQUAL(host_create_begin(&create, &bed.request), 0);
	if (create.failure.kind)
		fprintf(stderr, "step %u call %u error %d\n", create.failure.step, create.failure.call, create.failure.error);
	CHECK(create.finished);
	host_create_release(&create);
}

/* ---- a life -------------------------------------------------------------------------------------------------------------- */

static void create_start_delete(void)
{
	struct wherry_message failure;
	char expected[64];
	struct stat status;
	pid_t pid;

	NEEDS_ROOT();
	bed_begin();
	plan_plain("echo hello $$");
	bed.request.pid_file = bed_path("pid");
	umask(027);
	create_it();
	umask(022);
	CHECK_EQUAL(open_it(), 0);
	CHECK_EQUAL(host_status(&container), HOST_CREATED);
	pid = container.head->pid;
	snprintf(expected, sizeof(expected), "%d", pid);
	CHECK_TEXT(content(bed_path("pid")), expected);
	CHECK(stat(bed_path("pid"), &status) == 0 && (status.st_mode & 07777) == 0640);
	snprintf(expected, sizeof(expected), "{\"pid\":%d}\n", pid);
	CHECK_TEXT(content(bed_path("state/one/state.json")), expected);
	CHECK_TEXT(content(bed_path("state/one/config.json")), "{}");
	CHECK(stat(bed.root, &status) == 0 && (status.st_mode & 07777) == 0700);
	CHECK(stat(bed_path("state/one"), &status) == 0 && (status.st_mode & 07777) == 0700);
	CHECK_TEXT(host_text(&container, container.head->state_head), "{\"id\":\"one\",\"pid\":");
	CHECK_EQUAL(host_start(&container, &failure), 0);
	CHECK_TEXT(bed_output(), "hello 1\n");
	reap_init(pid);
	CHECK_EQUAL(host_status(&container), HOST_STOPPED);
	CHECK_EQUAL(host_start(&container, &failure), -WHERRY_NOT_CREATED);
	CHECK_EQUAL(host_signal(&container, SIGTERM), -ESRCH);
	CHECK_EQUAL(host_destroy(&container, false), 0);
	host_close(&container);
	CHECK_EQUAL(open_it(), -ENOENT);
	host_close(&container);
	bed_end();
}

/* The launcher and init stamp the caller's memory, up to the execution. */
static void every_step_is_stamped_where_asked(void)
{
	const size_t size = WHERRY_MAX_STEPS * sizeof(struct wherry_span);
	const struct wherry_code *code = &create.machine.code;
	struct wherry_message failure;
	struct wherry_span *span;
	pid_t pid;

	NEEDS_ROOT();
	bed_begin();
	plan_plain("true");
	bed.request.trace_fd = sys_memfd_create("wherry-trace", MFD_CLOEXEC);
	CHECK_EQUAL(ftruncate(bed.request.trace_fd, (off_t)size), 0);
	span = bed.request.trace = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, bed.request.trace_fd, 0);
	CHECK(span != MAP_FAILED);
	create_it();
	for (uint32_t i = 0; i < code->steps && code->step[i]->code != OP_WAIT_START; i++)
		CHECK(span[i].begin && span[i].end >= span[i].begin);
	CHECK(!span[code->steps - 1].begin);
	CHECK_EQUAL(open_it(), 0);
	pid = container.head->pid;
	CHECK_EQUAL(host_start(&container, &failure), 0);
	CHECK(span[code->steps - 1].begin >= span[code->steps - 2].end);
	CHECK(!span[code->steps - 1].end); /* it did not come back */
	reap_init(pid);
	CHECK_EQUAL(host_destroy(&container, false), 0);
	host_close(&container);
	munmap(span, size);
	close(bed.request.trace_fd);
	bed_end();
}

static void running_is_neither_created_nor_stopped(void)
{
	struct wherry_message failure;
	pid_t pid;

	NEEDS_ROOT();
	bed_begin();
	plan_plain("trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done");
	create_it();
	CHECK_EQUAL(open_it(), 0);
	CHECK_EQUAL(host_start(&container, &failure), 0);
	CHECK_EQUAL(host_status(&container), HOST_RUNNING);
	CHECK_EQUAL(host_start(&container, &failure), -WHERRY_NOT_CREATED);
	pid = container.head->pid;
	CHECK_EQUAL(read(bed.output[0], (char[8]){ 0 }, 8), 3);
	CHECK_EQUAL(host_signal(&container, SIGTERM), 0);
	reap_init(pid);
	CHECK_EQUAL(host_destroy(&container, false), 0);
	host_close(&container);
	bed_end();
}

static void start_tells_why_it_failed(void)
{
	struct wherry_message failure;
	pid_t pid;

	NEEDS_ROOT();
	bed_begin();
	plan_claim();
	plan.flags |= WHERRY_PLAN_NO_PROCESS;
	plan_launch();
	plan_rootfs(&plan, WHERRY_INIT, bed.rootfs, plan.registers++);
	PLAN_ADD(&plan, OP_PUBLISH, WHERRY_CALLER, wherry_op_publish)->state_file = plan_template(&plan, "");
	PLAN_ADD(&plan, OP_WAIT_START, WHERRY_INIT, wherry_op_wait_start);
	plan_finish(&plan);
	bed.request.plan = plan.plan;
	bed.request.plan_size = plan.size;
	create_it();
	CHECK_EQUAL(open_it(), 0);
	pid = container.head->pid;
	CHECK_EQUAL(host_start(&container, &failure), -WHERRY_PROGRAM_NOT_FOUND);
	CHECK_EQUAL(failure.kind, WHERRY_FAILED);
	reap_init(pid);
	CHECK_EQUAL(host_destroy(&container, false), 0);
	host_close(&container);
	bed_end();
}

static void a_killed_created_container_is_stopped(void)
{
	struct wherry_message failure;
	pid_t pid;

	NEEDS_ROOT();
	bed_begin();
	plan_plain("echo never");
	create_it();
	CHECK_EQUAL(open_it(), 0);
	pid = container.head->pid;
	CHECK_EQUAL(host_signal(&container, SIGTERM), 0);
	reap_init(pid);
	CHECK_EQUAL(host_status(&container), HOST_STOPPED);
	CHECK_EQUAL(host_start(&container, &failure), -WHERRY_NOT_CREATED);
	CHECK_EQUAL(host_destroy(&container, false), 0);
	host_close(&container);
	CHECK_TEXT(bed_output(), "");
	bed_end();
}

/* ---- the claim ------------------------------------------------------------------------------------------------------------ */

static void an_id_is_given_once(void)
{
	NEEDS_ROOT();
	bed_begin();
	plan_plain("true");
	create_it();
	CHECK_EQUAL(host_create_begin(&create, &bed.request), -WHERRY_EXISTS);
	CHECK_EQUAL(create.failure.error, WHERRY_EXISTS);
	CHECK_EQUAL(open_it(), 0);
	CHECK_EQUAL(host_status(&container), HOST_CREATED);
	host_close(&container);
	end_it();
	create_it();
	end_it();
	bed_end();
}

static void bad_ids_are_refused(void)
{
	static const char *const bad[] = { "", ".", "..", "a/b", "@plans", "/" };

	bed_begin();
	plan_plain("true");
	for (size_t i = 0; i < WHERRY_LENGTH(bad); i++) {
		bed.request.id = bad[i];
		CHECK_EQUAL(host_create_begin(&create, &bed.request), -EINVAL);
		CHECK_EQUAL(host_open(&container, bed.root, bad[i]), -ENOENT);
		host_close(&container);
	}
	bed_end();
}

static void a_root_that_others_write_to_is_refused(void)
{
	bed_begin();
	plan_plain("true");
	CHECK_EQUAL(mkdir(bed.root, 0700), 0);
	CHECK_EQUAL(chmod(bed.root, 0770), 0);
	CHECK_EQUAL(host_create_begin(&create, &bed.request), -WHERRY_UNSAFE_DIRECTORY);
	CHECK_EQUAL((create.failure.value >> 32) & 07777, 0770);
	CHECK_EQUAL(open_it(), -WHERRY_UNSAFE_DIRECTORY);
	host_close(&container);
	bed_end();
}

static void a_bad_plan_touches_nothing(void)
{
	bed_begin();
	plan_plain("true");
	plan.plan[0] ^= 1;
	CHECK_EQUAL(host_create_begin(&create, &bed.request), -WHERRY_BAD_PLAN);
	CHECK(access(bed.root, F_OK) < 0);
	/* decodes, but claims nothing */
	plan_begin(&plan);
	plan_launch();
	plan_end("true");
	CHECK_EQUAL(host_create_begin(&create, &bed.request), -WHERRY_BAD_PLAN);
	CHECK(access(bed.root, F_OK) < 0);
	bed_end();
}

static void sockets_come_first(void)
{
	bed_begin();
	plan_plain("true");
	bed.request.pidfd_socket = bed_path("nobody-listens");
	CHECK_EQUAL(host_create_begin(&create, &bed.request), -ENOENT);
	CHECK_EQUAL(create.failure.call, WHERRY_CALL_PIDFD_SOCKET);
	CHECK(access(bed.root, F_OK) < 0);
	bed_end();
}

/* ---- failures and what they leave ------------------------------------------------------------------------------------------ */

static void expect_failure(int error, enum wherry_opcode code)
{
	const struct wherry_op *op = (const void *)plan.steps;

	CHECK_EQUAL(host_create_begin(&create, &bed.request), -error);
	CHECK_EQUAL(create.failure.error, error);
	CHECK_EQUAL(create.undo_error, 0);
	for (uint32_t i = 0; i < create.failure.step && i < plan.count; i++)
		op = (const void *)((const char *)op + op->size);
	CHECK_EQUAL(op->code, code);
}

static void a_failing_init_step_undoes_all(void)
{
	NEEDS_ROOT();
	bed_begin();
	plan_claim();
	plan_launch();
	PLAN_ADD(&plan, OP_SYSCTL, WHERRY_INIT, wherry_op_sysctl)->path = plan_text(&plan, "no/such");
	((struct wherry_op_sysctl *)(void *)(plan.steps + plan.steps_size - sizeof(struct wherry_op_sysctl)))->value = plan_text(&plan, "1");
	plan_end("true");
	expect_failure(ENOENT, OP_SYSCTL);
	bed_end();
}

static void a_failing_launcher_step_undoes_all(void)
{
	struct wherry_op_open_namespace *open;

	NEEDS_ROOT();
	bed_begin();
	plan_claim();
	PLAN_ADD(&plan, OP_LAUNCH, WHERRY_CALLER, wherry_op_launch);
	open = PLAN_ADD(&plan, OP_OPEN_NAMESPACE, WHERRY_LAUNCHER, wherry_op_open_namespace);
	open->path = plan_text(&plan, "/no/such/namespace");
	open->type = CLONE_NEWNET;
	open->out = plan.registers++;
	PLAN_ADD(&plan, OP_CLONE, WHERRY_LAUNCHER, wherry_op_clone)->into_cgroup = WHERRY_NO_REGISTER;
	plan_end("true");
	expect_failure(ENOENT, OP_OPEN_NAMESPACE);
	bed_end();
}

static void a_failing_hook_undoes_all(void)
{
	NEEDS_ROOT();
	bed_begin();
	plan_claim();
	plan_launch();
	plan_hook(WHERRY_CALLER, "exit 7");
	plan_end("true");
	expect_failure(WHERRY_HOOK_FAILED, OP_HOOK);
	CHECK_EQUAL(WEXITSTATUS(create.failure.value), 7);
	bed_end();
}

static void hooks_learn_the_host_pid(void)
{
	char script[256], expected[64];
	pid_t pid;

	NEEDS_ROOT();
	bed_begin();
	plan_claim();
	plan_launch();
	snprintf(script, sizeof(script), "cat > %s", bed_path("seen"));
	plan_hook(WHERRY_CALLER, script);
	plan_end("true");
	create_it();
	CHECK_EQUAL(open_it(), 0);
	pid = container.head->pid;
	host_close(&container);
	snprintf(expected, sizeof(expected), "{\"pid\":%d}", pid);
	CHECK_TEXT(content(bed_path("seen")), expected);
	end_it();
	bed_end();
}

static void the_death_of_init_is_told(void)
{
	NEEDS_ROOT();
	bed_begin();
	plan_claim();
	plan_launch();
	plan_hook(WHERRY_CALLER, "read state; kill -9 $(echo \"$state\" | tr -dc 0-9)");
	plan_end("true");
	CHECK_EQUAL(host_create_begin(&create, &bed.request), -WHERRY_INIT_DIED);
	CHECK_EQUAL(WTERMSIG(create.failure.value), SIGKILL);
	bed_end();
}

static void the_deadline_ends_a_create(void)
{
	NEEDS_ROOT();
	bed_begin();
	plan_claim();
	plan_launch();
	plan_hook(WHERRY_INIT, "exec sleep 600");
	plan_end("true");
	bed.request.deadline_ms = 300;
	CHECK_EQUAL(host_create_begin(&create, &bed.request), -WHERRY_DEADLINE);
	bed_end();
}

static void a_pid_file_that_cannot_be_written_undoes_all(void)
{
	NEEDS_ROOT();
	bed_begin();
	plan_plain("true");
	bed.request.pid_file = "/proc/self/nowhere/pid";
	CHECK_EQUAL(host_create_begin(&create, &bed.request), -ENOENT);
	CHECK_EQUAL(create.failure.call, WHERRY_CALL_PID_FILE);
	bed_end();
}

/* SIGCHLD ignored: the kernel reaps by itself, and every wait says ECHILD. */
static void works_where_nobody_can_reap(void)
{
	NEEDS_ROOT();
	bed_begin();
	signal(SIGCHLD, SIG_IGN);
	plan_plain("true");
	create_it();
	CHECK_EQUAL(open_it(), 0);
	CHECK_EQUAL(host_destroy(&container, true), 0);
	host_close(&container);
	plan_claim();
	plan_launch();
	plan_hook(WHERRY_CALLER, "exit 1");
	plan_end("true");
	CHECK_EQUAL(host_create_begin(&create, &bed.request), -WHERRY_HOOK_FAILED);
	signal(SIGCHLD, SIG_DFL);
	bed_end();
}

static void other_children_are_left_alone(void)
{
	pid_t child;
	int status;

	NEEDS_ROOT();
	bed_begin();
	child = fork();
	if (!child)
		_exit(9);
	plan_claim();
	plan_launch();
	plan_hook(WHERRY_CALLER, "exit 1");
	plan_end("true");
	CHECK_EQUAL(host_create_begin(&create, &bed.request), -WHERRY_HOOK_FAILED);
	CHECK_EQUAL(waitpid(child, &status, 0), child);
	CHECK_EQUAL(WEXITSTATUS(status), 9);
	bed_end();
}

/* ---- the interlude --------------------------------------------------------------------------------------------------------- */

static void plan_with_interlude(void)
{
	plan_claim();
	plan.flags |= WHERRY_PLAN_INTERLUDE;
	plan_launch();
	PLAN_ADD(&plan, OP_NETWORK_DEVICES, WHERRY_CALLER, wherry_op_network_devices);
	plan_end("true");
}

static void the_interlude_is_the_callers(void)
{
	const struct host_extra extra = { WHERRY_JOURNAL_UNIT, "some.scope" };
	const struct wherry_journal_entry *entry;

	NEEDS_ROOT();
	bed_begin();
	plan_with_interlude();
	bed.request.extra = &extra;
	bed.request.extra_count = 1;
	CHECK_EQUAL(host_create_begin(&create, &bed.request), 0);
	CHECK(create.waiting && !create.finished && create.machine.init > 0);
	CHECK_EQUAL(kill(create.machine.init, 0), 0);
	CHECK_EQUAL(host_create_mark(&create, 0, WHERRY_JOURNAL_DONE), 0);
	CHECK_EQUAL(open_it(), 0);
	CHECK_EQUAL(host_status(&container), HOST_CREATING);
	CHECK_EQUAL(host_lock(&container, 0), -EWOULDBLOCK);
	CHECK_EQUAL(host_create_finish(&create), 0);
	CHECK(create.finished);
	CHECK_EQUAL(host_status(&container), HOST_CREATED);
	CHECK_EQUAL(container.head->journal_count, 1);
	entry = (const void *)((const char *)container.head + container.head->journal_offset);
	CHECK_TEXT(host_text(&container, entry->path), "some.scope");
	CHECK_EQUAL(entry->state, WHERRY_JOURNAL_DONE);
	host_close(&container);
	host_create_release(&create);
	end_it();
	bed_end();
}

/* A unit of systemd comes first, network devices come later: each time the caller is asked. */
static void one_interlude_follows_the_other(void)
{
	struct wherry_op_unit *unit;

	NEEDS_ROOT();
	bed_begin();
	plan_claim();
	plan.flags |= WHERRY_PLAN_INTERLUDE | WHERRY_PLAN_UNIT;
	plan_launch();
	unit = PLAN_ADD(&plan, OP_UNIT, WHERRY_CALLER, wherry_op_unit);
	unit->name = plan_template(&plan, "wherry-\1@.scope");
	unit->cgroup = plan_template(&plan, "/system.slice/wherry-\1@.scope");
	unit->slice = plan_text(&plan, "system.slice");
	PLAN_ADD(&plan, OP_NETWORK_DEVICES, WHERRY_CALLER, wherry_op_network_devices);
	plan_end("true");
	CHECK_EQUAL(host_create_begin(&create, &bed.request), 0);
	CHECK(create.waiting);
	CHECK_EQUAL(create.machine.code.step[create.served]->code, OP_UNIT);
	CHECK_EQUAL(host_create_finish(&create), 0);
	CHECK(create.waiting && !create.finished);
	CHECK_EQUAL(create.machine.code.step[create.served]->code, OP_NETWORK_DEVICES);
	CHECK_EQUAL(host_create_finish(&create), 0);
	CHECK(!create.waiting && create.finished);
	host_create_release(&create);
	end_it();
	bed_end();
}

static void an_aborted_interlude_undoes_all(void)
{
	NEEDS_ROOT();
	bed_begin();
	plan_with_interlude();
	CHECK_EQUAL(host_create_begin(&create, &bed.request), 0);
	CHECK(create.waiting);
	host_create_abort(&create);
	CHECK_EQUAL(create.undo_error, 0);
	host_create_abort(&create);
	host_create_release(&create);
	bed_end();
}

/* ---- sockets --------------------------------------------------------------------------------------------------------------- */

static int listen_at(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(address.sun_path, path);
	CHECK_EQUAL(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	CHECK_EQUAL(listen(fd, 1), 0);
	return fd;
}

static int receive_fd(int listener, char *text, size_t size)
{
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec part = { .iov_base = text, .iov_len = size - 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	int peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC), fd = -1;
	ssize_t got = recvmsg(peer, &message, MSG_CMSG_CLOEXEC);

	text[got > 0 ? got : 0] = 0;
	if (got > 0 && CMSG_FIRSTHDR(&message))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
	close(peer);
	close(listener);
	return fd;
}

static void the_pidfd_socket_gets_init(void)
{
	struct pollfd item = { .events = POLLIN };
	char text[32];
	int listener;

	NEEDS_ROOT();
	bed_begin();
	listener = listen_at(bed_path("socket"));
	plan_plain("true");
	bed.request.pidfd_socket = bed_path("socket");
	create_it();
	item.fd = receive_fd(listener, text, sizeof(text));
	CHECK(item.fd >= 0);
	CHECK_EQUAL(poll(&item, 1, 0), 0);
	CHECK_EQUAL(sys_pidfd_send_signal(item.fd, SIGKILL, NULL, 0), 0);
	CHECK_EQUAL(poll(&item, 1, 5000), 1);
	close(item.fd);
	end_it();
	bed_end();
}

static void sockets_may_have_long_paths(void)
{
	char name[192] = "", text[32];
	int listener, fd, here = open(".", O_PATH | O_CLOEXEC);

	NEEDS_ROOT();
	bed_begin();
	memset(name, 'd', 160);
	CHECK_EQUAL(mkdir(bed_path(name), 0700), 0);
	CHECK_EQUAL(chdir(bed_path(name)), 0);
	listener = listen_at("socket");
	CHECK_EQUAL(fchdir(here), 0);
	close(here);
	bed.fds--;
	strcat(name, "/socket");
	plan_plain("true");
	bed.request.pidfd_socket = bed_path(name);
	create_it();
	fd = receive_fd(listener, text, sizeof(text));
	CHECK(fd >= 0);
	CHECK_TEXT(text, "pidfd");
	close(fd);
	end_it();
	bed_end();
}

/* ---- the lock, and records that are damaged ---------------------------------------------------------------------------------- */

static void the_lock_ends_with_the_container(void)
{
	struct host_container other;

	NEEDS_ROOT();
	bed_begin();
	plan_plain("true");
	create_it();
	CHECK_EQUAL(open_it(), 0);
	CHECK_EQUAL(host_lock(&container, 0), 0);
	CHECK_EQUAL(host_open(&other, bed.root, "one"), 0);
	CHECK_EQUAL(host_lock(&other, 20), -EWOULDBLOCK);
	reap_init((host_signal(&container, SIGKILL), container.head->pid));
	CHECK_EQUAL(host_destroy(&container, false), 0);
	host_close(&container);
	CHECK_EQUAL(host_lock(&other, 0), -ENOENT);
	CHECK_EQUAL(host_destroy(&other, true), 0); /* a second delete finds nothing to do */
	host_close(&other);
	bed_end();
}

/* As the child of another thread has it between its clone and its execution: a copy of every descriptor. */
static pid_t copy_of_us(void)
{
	pid_t pid = fork();

	if (!pid)
		for (;;)
			pause();
	return pid;
}

static void a_copy_of_the_descriptor_keeps_no_lock(void)
{
	pid_t copy;

	NEEDS_ROOT();
	bed_begin();
	plan_plain("true");
	CHECK_EQUAL(host_create_begin(&create, &bed.request), 0);
	copy = copy_of_us();
	host_create_release(&create);
	CHECK_EQUAL(open_it(), 0);
	CHECK_EQUAL(host_lock(&container, 0), 0);
	kill(copy, SIGKILL);
	waitpid(copy, NULL, 0);
	copy = copy_of_us();
	host_close(&container);
	CHECK_EQUAL(open_it(), 0);
	CHECK_EQUAL(host_lock(&container, 0), 0);
	host_close(&container);
	kill(copy, SIGKILL);
	waitpid(copy, NULL, 0);
	end_it();
	bed_end();
}

static void flip(const char *path, off_t at)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	uint8_t byte = 0;

	CHECK(pread(fd, &byte, 1, at) == 1);
	byte ^= 0x80;
	CHECK(pwrite(fd, &byte, 1, at) == 1);
	close(fd);
}

/* Whatever byte is wrong: no crash, and no record that points outside of itself. */
static void damaged_records_are_refused(void)
{
	const char *path;
	struct stat status;
	int refused = 0;

	NEEDS_ROOT();
	bed_begin();
	plan_claim();
	if (access("/sys/fs/cgroup/pids/tasks", F_OK) == 0)
		plan_cgroup("/sys/fs/cgroup/pids/wherry-test/record", "/sys/fs/cgroup/pids", WHERRY_CGROUP_EXISTING);
	else
		plan_cgroup("/sys/fs/cgroup/wherry-test/record", "/sys/fs/cgroup", WHERRY_CGROUP_EXISTING | WHERRY_CGROUP_V2);
	plan_launch();
	plan_end("true");
	create_it();
	path = "state/one/record";
	CHECK_EQUAL(stat(bed_path(path), &status), 0);
	for (off_t at = 0; !check_failures && at < status.st_size; at++) {
		int result;

		flip(bed_path(path), at);
		result = open_it();
		refused += result < 0;
		CHECK(result == 0 || result == -EBADMSG || result == -WHERRY_WRONG_VERSION || result == -WHERRY_OTHER_BUILD);
		if (container.head) {
			host_status(&container);
			CHECK(strlen(host_text(&container, container.head->state_tail)) < (size_t)status.st_size);
		}
		host_close(&container);
		flip(bed_path(path), at);
	}
	CHECK(refused > 50);
	CHECK_EQUAL(truncate(bed_path(path), status.st_size - 1), 0);
	CHECK_EQUAL(open_it(), -EBADMSG);
	host_close(&container);
	CHECK_EQUAL(truncate(bed_path(path), status.st_size), 0);
	end_it();
	bed_end();
}

static void a_claim_without_a_record_can_be_removed(void)
{
	bed_begin();
	CHECK_EQUAL(mkdir(bed.root, 0700), 0);
	CHECK_EQUAL(mkdir(bed_path("state/one"), 0700), 0);
	CHECK_EQUAL(mkfifo(bed_path("state/one/start"), 0600), 0);
	CHECK_EQUAL(open_it(), -ENODATA);
	CHECK_EQUAL(host_lock(&container, 0), 0);
	CHECK_EQUAL(host_destroy(&container, true), 0);
	host_close(&container);
	bed_end();
}

/* A record of another boot names processes and cgroups that are somebody else's now. */
static void another_boot_is_another_world(void)
{
	NEEDS_ROOT();
	bed_begin();
	plan_plain("true");
	create_it();
	CHECK_EQUAL(open_it(), 0);
	flip(bed_path("state/one/record"), offsetof(struct wherry_record, boot_id));
	CHECK_EQUAL(host_status(&container), HOST_STOPPED);
	CHECK_EQUAL(host_signal(&container, SIGKILL), -ESRCH);
	flip(bed_path("state/one/record"), offsetof(struct wherry_record, boot_id));
	CHECK_EQUAL(host_status(&container), HOST_CREATED);
	host_close(&container);
	end_it();
	bed_end();
}

/* The pid lives, but it is another process. */
static void a_reused_pid_is_nobody(void)
{
	pid_t pid;

	NEEDS_ROOT();
	bed_begin();
	plan_plain("true");
	create_it();
	CHECK_EQUAL(open_it(), 0);
	pid = container.head->pid;
	flip(bed_path("state/one/record"), offsetof(struct wherry_record, start_time));
	CHECK_EQUAL(host_status(&container), HOST_STOPPED);
	CHECK_EQUAL(host_signal(&container, SIGKILL), -ESRCH);
	CHECK_EQUAL(host_pidfd(&container), -ESRCH);
	CHECK_EQUAL(kill(pid, 0), 0);
	flip(bed_path("state/one/record"), offsetof(struct wherry_record, start_time));
	host_close(&container);
	end_it();
	bed_end();
}

static void preserved_descriptors_must_be_open(void)
{
	bed_begin();
	plan_plain("true");
	bed.request.preserve_fds = 900;
	CHECK_EQUAL(host_create_begin(&create, &bed.request), -EBADF);
	CHECK(access(bed.root, F_OK) < 0);
	bed_end();
}

/* A container that is attached to cgroups of v1 in two hierarchies, to end the file with the whole of it. */
static void cgroups_are_made_joined_and_removed(void)
{
	static const char pids[] = "/sys/fs/cgroup/pids", freezer[] = "/sys/fs/cgroup/freezer";
	struct wherry_message failure;
	uint16_t tasks[2];
	char expected[32];

	NEEDS_ROOT();
	if (access("/sys/fs/cgroup/pids/tasks", W_OK) < 0 || access("/sys/fs/cgroup/freezer/tasks", W_OK) < 0)
		CHECK_SKIP("needs cgroup v1 with pids and freezer");
	bed_begin();
	plan_claim();
	tasks[0] = plan_cgroup("/sys/fs/cgroup/pids/wherry-test/life", pids, 0);
	tasks[1] = plan_cgroup("/sys/fs/cgroup/freezer/wherry-test/life", freezer, 0);
	tasks[0] = plan_tasks(tasks[0]);
	tasks[1] = plan_tasks(tasks[1]);
	plan_launch();
	plan_attach(tasks[0]);
	plan_attach(tasks[1]);
	plan_end("sleep 600 & echo up; wait; echo woken; sleep 600");
	create_it();
	CHECK_EQUAL(open_it(), 0);
	snprintf(expected, sizeof(expected), "%d\n", container.head->pid);
	CHECK_TEXT(content("/sys/fs/cgroup/pids/wherry-test/life/cgroup.procs"), expected);
	CHECK_EQUAL(host_start(&container, &failure), 0);
	CHECK_EQUAL(read(bed.output[0], (char[8]){ 0 }, 8), 3);
	CHECK_EQUAL(host_signal_all(&container, SIGUSR1), 0); /* the first process of a pid namespace does not feel it, its child does */
	CHECK_EQUAL(read(bed.output[0], (char[8]){ 0 }, 8), 6);
	CHECK_EQUAL(host_status(&container), HOST_RUNNING);
	CHECK_EQUAL(system("echo FROZEN > /sys/fs/cgroup/freezer/wherry-test/life/freezer.state"), 0);
	CHECK_EQUAL(host_status(&container), HOST_PAUSED);
	host_close(&container);
	end_it(); /* kills the frozen */
	CHECK(access("/sys/fs/cgroup/pids/wherry-test", F_OK) < 0);
	CHECK(access("/sys/fs/cgroup/freezer/wherry-test", F_OK) < 0);
	bed_end();
}

static const struct check_case cases[] = {
	{ "create_start_delete", create_start_delete },
	{ "every_step_is_stamped_where_asked", every_step_is_stamped_where_asked },
	{ "running_is_neither_created_nor_stopped", running_is_neither_created_nor_stopped },
	{ "start_tells_why_it_failed", start_tells_why_it_failed },
	{ "a_killed_created_container_is_stopped", a_killed_created_container_is_stopped },
	{ "an_id_is_given_once", an_id_is_given_once },
	{ "bad_ids_are_refused", bad_ids_are_refused },
	{ "a_root_that_others_write_to_is_refused", a_root_that_others_write_to_is_refused },
	{ "a_bad_plan_touches_nothing", a_bad_plan_touches_nothing },
	{ "sockets_come_first", sockets_come_first },
	{ "a_failing_init_step_undoes_all", a_failing_init_step_undoes_all },
	{ "a_failing_launcher_step_undoes_all", a_failing_launcher_step_undoes_all },
	{ "a_failing_hook_undoes_all", a_failing_hook_undoes_all },
	{ "hooks_learn_the_host_pid", hooks_learn_the_host_pid },
	{ "the_death_of_init_is_told", the_death_of_init_is_told },
	{ "the_deadline_ends_a_create", the_deadline_ends_a_create },
	{ "a_pid_file_that_cannot_be_written_undoes_all", a_pid_file_that_cannot_be_written_undoes_all },
	{ "works_where_nobody_can_reap", works_where_nobody_can_reap },
	{ "other_children_are_left_alone", other_children_are_left_alone },
	{ "the_interlude_is_the_callers", the_interlude_is_the_callers },
	{ "one_interlude_follows_the_other", one_interlude_follows_the_other },
	{ "an_aborted_interlude_undoes_all", an_aborted_interlude_undoes_all },
	{ "the_pidfd_socket_gets_init", the_pidfd_socket_gets_init },
	{ "sockets_may_have_long_paths", sockets_may_have_long_paths },
	{ "the_lock_ends_with_the_container", the_lock_ends_with_the_container },
	{ "a_copy_of_the_descriptor_keeps_no_lock", a_copy_of_the_descriptor_keeps_no_lock },
	{ "damaged_records_are_refused", damaged_records_are_refused },
	{ "a_claim_without_a_record_can_be_removed", a_claim_without_a_record_can_be_removed },
	{ "another_boot_is_another_world", another_boot_is_another_world },
	{ "a_reused_pid_is_nobody", a_reused_pid_is_nobody },
	{ "preserved_descriptors_must_be_open", preserved_descriptors_must_be_open },
	{ "cgroups_are_made_joined_and_removed", cgroups_are_made_joined_and_removed },
};

CHECK_MAIN(cases)
