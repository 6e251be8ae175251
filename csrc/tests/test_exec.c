/* SPDX-License-Identifier: Apache-2.0
 *
 * host_exec with the real static program, into the namespaces of the test itself: what comes back, and that nothing stays.
 */
#include "check.h"
#include "planmaker.h"
#include "wherry/host.h"
#include "wherry/sys.h"

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

/* Our own mount namespace, joined as a container's would be: that makes "/" the root that programs are looked up in. */
static void plan_exec(const char *const arguments[])
{
	struct wherry_op_open_namespace *open;
	struct wherry_op_program *program;
	struct wherry_op_join *join;

	plan_begin(&plan);
	PLAN_ADD(&plan, OP_LAUNCH, WHERRY_CALLER, wherry_op_launch);
	open = PLAN_ADD(&plan, OP_OPEN_NAMESPACE, WHERRY_LAUNCHER, wherry_op_open_namespace);
	open->path = plan_text(&plan, "/proc/self/ns/mnt");
	open->type = CLONE_NEWNS;
	open->out = plan.registers++;
	PLAN_ADD(&plan, OP_CLONE, WHERRY_LAUNCHER, wherry_op_clone)->into_cgroup = WHERRY_NO_REGISTER;
	join = PLAN_ADD(&plan, OP_JOIN, WHERRY_INIT, wherry_op_join);
	join->type = CLONE_NEWNS;
	join->from = open->out;
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

static const struct check_case cases[] = {
	{ "a_process", a_process },
	{ "a_failure_after_the_commit", a_failure_after_the_commit },
	{ "a_container_that_has_ended", a_container_that_has_ended },
	{ "a_plan_of_the_other_kind", a_plan_of_the_other_kind },
};

CHECK_MAIN(cases)
