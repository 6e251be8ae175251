/* SPDX-License-Identifier: Apache-2.0
 *
 * host_exec with the real static program, into the namespaces of the test itself: what comes back, and that nothing stays.
 */
#include "check.h"
#include "planmaker.h"
#include "wherry/host.h"
#include "wherry/sys.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define NEEDS_ROOT() \
	do { \
		if (geteuid() != 0) \
			CHECK_SKIP("needs root"); \
	} while (0)

static struct planmaker plan;
static struct host_create create;
static char directory[64], pid_file[80], script[80];
static struct host_request request;
static const char *by_path; /* the mount namespace is joined by it, and not by the target */
static uint32_t before;     /* CLONE_NEW* that is joined before the clone */

static void bed_begin(void)
{
	strcpy(directory, "/tmp/wherry-exec-XXXXXX");
	CHECK(mkdtemp(directory) != NULL);
	snprintf(pid_file, sizeof(pid_file), "%s/pid", directory);
	snprintf(script, sizeof(script), "%s/script", directory);
	request = (struct host_request){
		.root = directory, .id = "one", .bundle = "", .bundle_json = "", .pid_file = pid_file, .stdio = { -1, -1, -1 },
		.program = wherry_seal_program(wherry_program_start, (size_t)(wherry_program_end - wherry_program_start)),
		.target = sys_pidfd_open(getpid(), 0),
	};
}

static void bed_end(void)
{
	unlink(script);
	unlink(pid_file);
	CHECK_EQUAL(rmdir(directory), 0);
	close(request.program);
	close(request.target);
	CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
}

static struct wherry_op_join *add_join(enum wherry_executor executor, uint32_t type)
{
	struct wherry_op_join *join = PLAN_ADD(&plan, OP_JOIN, executor, wherry_op_join);

	join->type = type;
	join->from = 0;
	return join;
}

/* The target's mount namespace, which is our own but for a test that says otherwise: that makes "/" the root that programs are looked up in. */
static void plan_exec(const char *const arguments[])
{
	struct wherry_op_open_namespace *open;
	struct wherry_op_program *program;

	plan_begin(&plan);
	plan.registers = 1;
	plan.inherited = !by_path;
	if (!by_path)
		PLAN_ADD(&plan, OP_OPEN_TARGET, WHERRY_CALLER, wherry_op_open_target)->out = 0;
	PLAN_ADD(&plan, OP_LAUNCH, WHERRY_CALLER, wherry_op_launch);
	if (by_path) {
		open = PLAN_ADD(&plan, OP_OPEN_NAMESPACE, WHERRY_LAUNCHER, wherry_op_open_namespace);
		open->path = plan_text(&plan, by_path);
		open->type = CLONE_NEWNS;
		open->out = 0;
	}
	if (before)
		add_join(WHERRY_LAUNCHER, before)->keep = 1;
	PLAN_ADD(&plan, OP_CLONE, WHERRY_LAUNCHER, wherry_op_clone)->into_cgroup = WHERRY_NO_REGISTER;
	add_join(WHERRY_INIT, CLONE_NEWNS);
	program = PLAN_ADD(&plan, OP_PROGRAM, WHERRY_INIT, wherry_op_program);
	program->arguments = plan_list(&plan, arguments);
	PLAN_ADD(&plan, OP_PUBLISH, WHERRY_CALLER, wherry_op_publish);
	PLAN_ADD(&plan, OP_EXECUTE, WHERRY_INIT, wherry_op_execute);
	plan.flags |= WHERRY_PLAN_EXEC;
	plan_finish(&plan);
	request.plan = plan.plan;
	request.plan_size = plan.size;
}

static void a_process(void)
{
	int status;

	NEEDS_ROOT();
	bed_begin();
	plan_exec((const char *const[]){ "/bin/sh", "-c", "exit 7", NULL });
	CHECK_EQUAL(host_exec(&create, &request), 0);
	CHECK_EQUAL(access(pid_file, F_OK), 0);
	CHECK_EQUAL(waitpid(create.machine.init, &status, 0), create.machine.init);
	CHECK_EQUAL(WEXITSTATUS(status), 7);
	host_create_release(&create);
	bed_end();
}

/* Found out only by execve, after the pid was published: it comes through the pipe, and the pid file is taken back. */
static void a_failure_after_the_commit(void)
{
	int fd;

	NEEDS_ROOT();
	bed_begin();
	fd = open(script, O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
	CHECK(fd >= 0 && write(fd, "#!/no/such\n", 11) == 11);
	close(fd);
	plan_exec((const char *const[]){ script, NULL });
	CHECK_EQUAL(host_exec(&create, &request), -ENOENT);
	CHECK_EQUAL(create.failure.call, WHERRY_CALL_EXECVE);
	CHECK_EQUAL(create.failure.step, plan.count - 1);
	CHECK(access(pid_file, F_OK) < 0);
	bed_end();
}

static void a_container_that_has_ended(void)
{
	pid_t child;

	NEEDS_ROOT();
	bed_begin();
	close(request.target);
	child = fork();
	if (!child)
		_exit(0);
	request.target = sys_pidfd_open(child, 0);
	CHECK_EQUAL(waitpid(child, NULL, 0), child);
	plan_exec((const char *const[]){ "/bin/true", NULL });
	CHECK_EQUAL(host_exec(&create, &request), -ESRCH);
	CHECK(access(pid_file, F_OK) < 0);
	bed_end();
}

static void a_plan_of_the_other_kind(void)
{
	NEEDS_ROOT();
	bed_begin();
	plan_exec((const char *const[]){ "/bin/true", NULL });
	CHECK_EQUAL(host_create_begin(&create, &request), -WHERRY_BAD_PLAN);
	((struct wherry_plan *)(void *)plan.plan)->flags = 0;
	CHECK_EQUAL(host_exec(&create, &request), -WHERRY_BAD_PLAN);
	bed_end();
}

/* In a process of its own, as a monitor's helper is: the result of `body`, which _exit()s with what is wrong. */
static int in_a_helper(int (*body)(void))
{
	pid_t helper = fork();
	int status;

	if (!helper) {
		request.launch = host_launch_itself;
		request.own[0] = request.own[1] = request.own[2] = -1;
		_exit(body());
	}
	CHECK_EQUAL(waitpid(helper, &status, 0), helper);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int be_the_launcher(void)
{
	char own[24];
	int status;

	wherry_decimal((uint64_t)getpid(), own);
	plan_exec((const char *const[]){ "/bin/sh", "-c", "[ $PPID = $0 ] && exit 7", own, NULL });
	if (host_exec(&create, &request))
		return 1;
	if (create.launcher || create.launcher_pidfd >= 0)
		return 2;
	if (waitpid(create.machine.init, &status, 0) != create.machine.init || WEXITSTATUS(status) != 7)
		return 3;
	unlink(pid_file);
	return 0;
}

static void without_a_launcher(void)
{
	NEEDS_ROOT();
	bed_begin();
	CHECK_EQUAL(in_a_helper(be_the_launcher), 0);
	bed_end();
}

/* What is not for the process, and what it has inherited besides: a pipe whose writing end it must not hold. */
static int hide_a_pipe(void)
{
	int pipes[2], status;
	char byte;

	if (pipe2(pipes, O_CLOEXEC) < 0)
		return 1;
	request.own[0] = pipes[1];
	plan_exec((const char *const[]){ "/bin/sh", "-c", "ls /proc/self/fd | wc -l | grep -qx 4", NULL }); /* 0 to 2, and that of ls */
	if (host_exec(&create, &request))
		return 2;
	close(pipes[1]);
	if (read(pipes[0], &byte, 1) != 0)
		return 3;
	if (waitpid(create.machine.init, &status, 0) != create.machine.init || status)
		return 4;
	unlink(pid_file);
	return 0;
}

static void what_is_the_helpers_own(void)
{
	NEEDS_ROOT();
	bed_begin();
	CHECK_EQUAL(in_a_helper(hide_a_pipe), 0);
	bed_end();
}

static int join_what_is_not_there(void)
{
	by_path = "/no/such/namespace";
	plan_exec((const char *const[]){ "/bin/true", NULL });
	if (host_exec(&create, &request) != -ENOENT)
		return 1;
	return create.failure.step == 1 && create.failure.call == WHERRY_CALL_OPEN ? 0 : 2;
}

/* Before the clone: the target's end shows where it is joined. */
static int join_who_has_ended(void)
{
	pid_t child = fork();

	if (!child)
		_exit(0);
	request.target = sys_pidfd_open(child, 0);
	if (waitpid(child, NULL, 0) != child)
		return 1;
	before = CLONE_NEWUTS;
	plan_exec((const char *const[]){ "/bin/true", NULL });
	if (host_exec(&create, &request) != -ESRCH)
		return 2;
	return create.failure.step == 2 && create.failure.call == WHERRY_CALL_SETNS ? 0 : 3;
}

static int execute_what_is_not_there(void)
{
	plan_exec((const char *const[]){ "/no/such/program", NULL });
	if (host_exec(&create, &request) >= 0 || create.failure.call != WHERRY_CALL_LOOKUP)
		return 1;
	return waitpid(-1, NULL, 0) == -1 && errno == ECHILD ? 0 : 2; /* who was cloned and has failed is reaped */
}

static void failures_without_a_launcher(void)
{
	NEEDS_ROOT();
	bed_begin();
	CHECK_EQUAL(in_a_helper(join_what_is_not_there), 0);
	CHECK_EQUAL(in_a_helper(join_who_has_ended), 0);
	CHECK_EQUAL(in_a_helper(execute_what_is_not_there), 0);
	bed_end();
}

/* ---- in one fork ------------------------------------------------------------------------------------------------------- */

static struct wherry_message said;

static void plan_alone(const char *const arguments[])
{
	plan_exec(arguments);
	request.pid_file = NULL;
}

/* As a monitor does it, but that it waits. */
static int alone(void)
{
	int own = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC), result = host_alone_open(&create, &request);
	struct pollfd end;
	pid_t pid;

	if (result)
		return result;
	pid = host_alone_clone(&create, own);
	if (!pid)
		host_alone_become(&create);
	close(own);
	if (pid < 0)
		return pid;
	end = (struct pollfd){ .fd = create.execution };
	if (poll(&end, 1, 10000) != 1)
		return -ETIMEDOUT;
	result = host_alone_result(create.execution, &said);
	wherry_close(&create.execution);
	return result;
}

/* Whose status is this; nobody else is there. */
static bool ended_with(int status)
{
	int found;

	return waitpid(-1, &found, 0) == create.machine.init && found == status && waitpid(-1, NULL, 0) == -1 && errno == ECHILD;
}

static int make_it(void)
{
	plan_alone((const char *const[]){ "/bin/sh", "-c", "[ `ls /proc/self/fd | wc -l` = 4 ] && exit 7", NULL }); /* 0 to 2, and that of ls */
	if (alone() || create.machine.caller >= 0)
		return 1;
	return ended_with(7 << 8) ? 0 : 2;
}

static int fail_before_the_publication(void)
{
	plan_alone((const char *const[]){ "/no/such/program", NULL });
	if (alone() >= 0 || said.call != WHERRY_CALL_LOOKUP || said.step != plan.count - 3)
		return 1;
	return ended_with(255 << 8) ? 0 : 2;
}

static int fail_behind_it(void)
{
	int fd = open(script, O_WRONLY | O_CREAT | O_CLOEXEC, 0755);

	if (fd < 0 || write(fd, "#!/no/such\n", 11) != 11)
		return 1;
	close(fd);
	plan_alone((const char *const[]){ script, NULL });
	if (alone() != -ENOENT || said.call != WHERRY_CALL_EXECVE || said.step != plan.count - 1)
		return 2;
	return ended_with(255 << 8) ? 0 : 3;
}

/* A filter that kills at the next call: it has told nobody of itself. */
static int die_before_the_publication(void)
{
	const struct sock_filter kill = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	struct wherry_op_seccomp *filter;

	plan_begin(&plan);
	PLAN_ADD(&plan, OP_LAUNCH, WHERRY_CALLER, wherry_op_launch);
	PLAN_ADD(&plan, OP_CLONE, WHERRY_LAUNCHER, wherry_op_clone)->into_cgroup = WHERRY_NO_REGISTER;
	filter = PLAN_ADD(&plan, OP_SECCOMP, WHERRY_INIT, wherry_op_seccomp);
	filter->filter = plan_blob(&plan, &kill, sizeof(kill));
	filter->listener = WHERRY_NO_REGISTER;
	PLAN_ADD(&plan, OP_PUBLISH, WHERRY_CALLER, wherry_op_publish);
	PLAN_ADD(&plan, OP_EXECUTE, WHERRY_INIT, wherry_op_execute);
	plan.flags |= WHERRY_PLAN_EXEC;
	plan_finish(&plan);
	request.plan = plan.plan;
	request.plan_size = plan.size;
	request.pid_file = NULL;
	return alone() == -WHERRY_INIT_DIED && said.error == WHERRY_INIT_DIED && ended_with(SIGSYS) ? 0 : 1;
}

static int find_the_target_ended(void)
{
	pid_t child = fork();

	if (!child)
		_exit(0);
	request.target = sys_pidfd_open(child, 0);
	if (waitpid(child, NULL, 0) != child)
		return 1;
	before = CLONE_NEWPID;
	plan_alone((const char *const[]){ "/bin/true", NULL });
	if (alone() != -ESRCH || create.failure.error != ESRCH || create.execution >= 0)
		return 2;
	return waitpid(-1, NULL, 0) == -1 && errno == ECHILD ? 0 : 3;
}

/* Whoever has got the writing end holds up nobody. */
static int hold_the_other_end(void)
{
	const struct wherry_message run = { .kind = WHERRY_RUN };
	int ends[2];

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) || host_alone_result(ends[0], &said) != -EAGAIN)
		return 1;
	if (write(ends[1], &run, sizeof(run)) != sizeof(run) || host_alone_result(ends[0], &said) != 0)
		return 2;
	return write(ends[1], &run, 5) == 5 && host_alone_result(ends[0], &said) == -EPROTO ? 0 : 3;
}

static void in_one_fork(void)
{
	NEEDS_ROOT();
	bed_begin();
	CHECK_EQUAL(in_a_helper(make_it), 0);
	CHECK_EQUAL(in_a_helper(fail_before_the_publication), 0);
	CHECK_EQUAL(in_a_helper(fail_behind_it), 0);
	CHECK_EQUAL(in_a_helper(die_before_the_publication), 0);
	CHECK_EQUAL(in_a_helper(find_the_target_ended), 0);
	CHECK_EQUAL(in_a_helper(hold_the_other_end), 0);
	bed_end();
}

/* The container's first process: at our word it leaves two namespaces. Then it may be written to no more. */
static _Noreturn void be_the_target(int go, int gone)
{
	char byte;

	if (read(go, &byte, 1) != 1 || unshare(CLONE_NEWNS | CLONE_NEWUTS) < 0 || sethostname("moved", 5) < 0 || write(gone, "", 1) != 1)
		_exit(1);
	pause();
	_exit(0);
}

/* In a pid namespace of its own, as its first process. */
static pid_t start_target(int go, int gone)
{
	struct clone_args args = { .flags = CLONE_NEWPID, .exit_signal = SIGCHLD };
	pid_t pid = sys_clone3(&args, sizeof(args));

	if (!pid)
		be_the_target(go, gone);
	return pid;
}

/* What the process sees: its number, the host name, its mount namespace. */
static bool is_like(int fd, int number, const char *name, pid_t other)
{
	char path[64], namespace[64] = "", expected[160], got[160] = "";

	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", other);
	if (readlink(path, namespace, sizeof(namespace) - 1) < 0)
		return false;
	snprintf(expected, sizeof(expected), "%d %s %s\n", number, name, namespace);
	return read(fd, got, sizeof(got) - 1) > 0 && !strcmp(got, expected);
}

static bool reap(void)
{
	int status;

	return waitpid(create.machine.init, &status, 0) == create.machine.init && status == 7 << 8;
}

/* It is where the target is now; what we make ourselves is where we are; and nothing is made once the target has ended. */
static int follow_what_moves(void)
{
	char byte, name[65] = "", ours[64] = "", children[64] = "";
	int go[2], gone[2], out[2];
	pid_t other;

	if (pipe2(go, O_CLOEXEC) || pipe2(gone, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || gethostname(name, sizeof(name) - 1))
		return 1;
	other = start_target(go[0], gone[1]);
	request.target = sys_pidfd_open(other, 0);
	before = CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET;
	request.stdio[1] = out[1];
	plan_alone((const char *const[]){ "/bin/sh", "-c", "echo $$ `uname -n` `readlink /proc/self/ns/mnt`; exit 7", NULL });
	if (alone() || !is_like(out[0], 2, name, other) || !reap())
		return 2;
	if (readlink("/proc/self/ns/pid", ours, sizeof(ours) - 1) < 0 || readlink("/proc/self/ns/pid_for_children", children, sizeof(children) - 1) < 0 ||
	    strcmp(ours, children))
		return 3;
	if (write(go[1], "", 1) != 1 || read(gone[0], &byte, 1) != 1)
		return 4;
	if (alone() || !is_like(out[0], 5, "moved", other) || !reap()) /* behind the shell and its two children */
		return 5;
	kill(other, SIGKILL);
	waitpid(other, NULL, 0);
	return alone() == -ESRCH && create.failure.error == ESRCH ? 0 : 6;
}

static void where_the_target_is(void)
{
	NEEDS_ROOT();
	bed_begin();
	CHECK_EQUAL(in_a_helper(follow_what_moves), 0);
	bed_end();
}

/* A pid file is written by somebody else; so is a terminal handed over; and what is joined by path may be another's. */
static int want_a_helper(void)
{
	plan_exec((const char *const[]){ "/bin/true", NULL });
	if (host_alone_open(&create, &request) != 1)
		return 1;
	request.pid_file = NULL;
	by_path = "/proc/self/ns/mnt";
	plan_exec((const char *const[]){ "/bin/true", NULL });
	if (host_alone_open(&create, &request) != 1)
		return 2;
	by_path = NULL;
	before = CLONE_NEWUSER;
	plan_exec((const char *const[]){ "/bin/true", NULL });
	if (host_alone_open(&create, &request) != 1)
		return 3;
	((struct wherry_plan *)(void *)plan.plan)->flags = 0;
	return host_alone_open(&create, &request) == -WHERRY_BAD_PLAN && create.failure.error == WHERRY_BAD_PLAN ? 0 : 4;
}

static void who_needs_a_helper(void)
{
	NEEDS_ROOT();
	bed_begin();
	CHECK_EQUAL(in_a_helper(want_a_helper), 0);
	bed_end();
}

static void who_needs_a_launcher(void)
{
	struct wherry_op_join join = { .op = { .code = OP_JOIN, .executor = WHERRY_LAUNCHER }, .type = CLONE_NEWNET };
	struct wherry_op tree = { .code = OP_OPEN_TREE, .executor = WHERRY_LAUNCHER }, time = { .code = OP_UNSHARE, .executor = WHERRY_LAUNCHER };
	static struct wherry_code code;

	NEEDS_ROOT();
	code.steps = 1;
	code.step[0] = &join.op;
	CHECK(wherry_may_launch_itself(&code));
	join.type = CLONE_NEWUSER;
	CHECK(!wherry_may_launch_itself(&code));
	join.type = CLONE_NEWTIME;
	CHECK(!wherry_may_launch_itself(&code));
	code.step[0] = &tree;
	CHECK(!wherry_may_launch_itself(&code));
	code.step[0] = &time;
	CHECK(!wherry_may_launch_itself(&code));
}

static const struct check_case cases[] = {
	{ "a_process", a_process },
	{ "a_failure_after_the_commit", a_failure_after_the_commit },
	{ "a_container_that_has_ended", a_container_that_has_ended },
	{ "a_plan_of_the_other_kind", a_plan_of_the_other_kind },
	{ "without_a_launcher", without_a_launcher },
	{ "what_is_the_helpers_own", what_is_the_helpers_own },
	{ "failures_without_a_launcher", failures_without_a_launcher },
	{ "in_one_fork", in_one_fork },
	{ "where_the_target_is", where_the_target_is },
	{ "who_needs_a_helper", who_needs_a_helper },
	{ "who_needs_a_launcher", who_needs_a_launcher },
};

CHECK_MAIN(cases)
