/* SPDX-License-Identifier: Apache-2.0
 *
 * The whole chain with the real static program: a caller made of these lines, the launcher, init. What is asked of the kernel is
 * real, so all of it needs root.
 */
#include "check.h"
#include "planmaker.h"

#include <dirent.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <sys/wait.h>

static struct planmaker plan;
static const struct caller_options no_options;

#define NEEDS_ROOT() \
	do { \
		if (geteuid() != 0) \
			CHECK_SKIP("needs root"); \
	} while (0)

enum { EXIT_NOT_EXECUTED = 255 };

static const char *path_in(const struct caller *c, const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s", c->directory, name);
	return path;
}

/* LAUNCH (step 0), then CLONE (step 1) with `flags`. */
static struct wherry_op_clone *begin_plan(uint64_t flags)
{
	struct wherry_op_clone *clone;

	plan_begin(&plan);
	PLAN_ADD(&plan, OP_LAUNCH, WHERRY_CALLER, wherry_op_launch);
	clone = PLAN_ADD(&plan, OP_CLONE, WHERRY_LAUNCHER, wherry_op_clone);
	clone->flags = flags;
	clone->into_cgroup = WHERRY_NO_REGISTER;
	return clone;
}

static void add_hostname(const char *name)
{
	PLAN_ADD(&plan, OP_HOSTNAME, WHERRY_INIT, wherry_op_hostname)->name = plan_text(&plan, name);
}

/* A container that runs `arguments`, created. */
static void create_program(struct caller *c, const char *const arguments[], const struct caller_options *options)
{
	caller_prepare(c);
	begin_plan(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS);
	plan.registers = 1;
	plan_rootfs(&plan, WHERRY_INIT, path_in(c, "rootfs"), 0);
	plan_program(&plan, arguments);
	plan_finish(&plan);
	CHECK_EQUAL(caller_launch(c, &plan, options), 0);
	CHECK_EQUAL(caller_create(c, &plan), 0);
	CHECK_EQUAL(caller_wait_launcher(c), 0);
}

static void create_shell(struct caller *c, const char *script, const struct caller_options *options)
{
	const char *const arguments[] = { "/bin/sh", "-c", script, NULL };

	create_program(c, arguments, options);
}

/* ---- a life ------------------------------------------------------------------------------------------------------------ */

static void create_start_run(void)
{
	struct caller c;

	NEEDS_ROOT();
	create_shell(&c, "echo pid $$; exit 7", &no_options);
	CHECK(caller_is_created(&c));
	CHECK_EQUAL(caller_start(&c), 0);
	CHECK_TEXT(caller_output(&c), "pid 1\n");
	CHECK(!caller_is_created(&c));
	CHECK_EQUAL(WEXITSTATUS(caller_wait(&c)), 7);
	caller_end(&c);
}

static unsigned long long status_mask(pid_t pid, const char *field)
{
	char path[64], line[256];
	unsigned long long mask = ~0ULL;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, field, strlen(field)))
			mask = strtoull(line + strlen(field), NULL, 16);
	if (file)
		fclose(file);
	return mask;
}

/* Whatever the caller ignores or blocks (make leaves 32 and 33 ignored, Python SIGPIPE), the program gets none of it. */
static void signals_are_default(void)
{
	static const char *const arguments[] = { "/bin/sleep", "60", NULL };
	struct caller c;
	uint64_t old;

	NEEDS_ROOT();
	sys_signal(SIGPIPE, SIG_IGN);
	sys_signal(32, SIG_IGN);
	sys_signal(64, SIG_IGN);
	sys_signal_mask(SIG_BLOCK, 1ULL << (SIGUSR1 - 1) | 1ULL << (SIGTERM - 1), &old);
	create_program(&c, arguments, &no_options);
	sys_signal_mask(SIG_SETMASK, old, NULL);
	CHECK_EQUAL(caller_start(&c), 0);
	CHECK_EQUAL(status_mask(c.init, "SigIgn:"), 0);
	CHECK_EQUAL(status_mask(c.init, "SigBlk:"), 0);
	CHECK_EQUAL(status_mask(c.init, "SigCgt:"), 0);
	sys_signal(SIGPIPE, SIG_DFL);
	sys_signal(32, SIG_DFL);
	sys_signal(64, SIG_DFL);
	caller_end(&c);
}

static int access_mode(pid_t pid, const char *fd)
{
	char path[320], line[64];
	int mode = -1;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%s", pid, fd);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, "flags:", 6))
			mode = (int)strtol(line + 6, NULL, 8) & O_ACCMODE;
	if (file)
		fclose(file);
	return mode;
}

/* Of a created container: stdio, two fifos, its own root and its signals. No socket, no directory of the host, no memfd. */
static void created_holds_its_fifos(void)
{
	struct caller c;
	char path[64], target[128];
	const struct dirent *entry;
	DIR *directory;
	int fifos = 0;

	NEEDS_ROOT();
	create_shell(&c, "true", &no_options);
	CHECK_EQUAL(caller_receive(&c), -EPIPE); /* the socket is the last that it closes */
	snprintf(path, sizeof(path), "/proc/%d/fd", c.init);
	directory = opendir(path);
	CHECK(directory != NULL);
	while (directory && (entry = readdir(directory))) {
		ssize_t length = readlinkat(dirfd(directory), entry->d_name, target, sizeof(target) - 1);

		if (length < 0 || atoi(entry->d_name) < 3)
			continue;
		target[length] = 0;
		if (!strncmp(target, c.directory, strlen(c.directory))) {
			fifos++;
			CHECK_EQUAL(access_mode(c.init, entry->d_name), strstr(target, "result") ? O_WRONLY : O_RDWR);
		} else if (strcmp(target, "anon_inode:[signalfd]")) {
			CHECK_TEXT(target, "/");
		}
	}
	CHECK_EQUAL(fifos, 2);
	if (directory)
		closedir(directory);
	caller_end(&c);
}

static void init_leads_a_session(void)
{
	struct caller c;

	NEEDS_ROOT();
	create_shell(&c, "exec sleep 60", &no_options);
	CHECK_EQUAL(getsid(c.init), c.init);
	caller_end(&c);
}

static void preserved_descriptors(void)
{
	struct caller c;
	int one[2], two[2], fds[2];
	char buffer[16] = "";

	NEEDS_ROOT();
	CHECK(pipe2(one, O_CLOEXEC) == 0 && pipe2(two, O_CLOEXEC) == 0);
	fds[0] = one[1];
	fds[1] = two[1];
	create_shell(&c, "echo a >&3; echo b >&4; for n in 5 6 7 8 9; do ( : >&$n ) 2>/dev/null && echo open $n; done; echo end",
		     &(struct caller_options){ .preserved = fds, .preserve_fds = 2 });
	close(one[1]);
	close(two[1]);
	CHECK_EQUAL(caller_start(&c), 0);
	CHECK_TEXT(caller_output(&c), "end\n");
	CHECK_EQUAL(read(one[0], buffer, sizeof(buffer)), 2);
	CHECK_TEXT(buffer, "a\n");
	CHECK_EQUAL(read(two[0], buffer, sizeof(buffer)), 2);
	CHECK_TEXT(buffer, "b\n");
	close(one[0]);
	close(two[0]);
	caller_end(&c);
}

/* ---- created ------------------------------------------------------------------------------------------------------------- */

static void signals_end_a_created_container(void)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGUSR1, 34, 64 };

	NEEDS_ROOT();
	for (size_t i = 0; i < WHERRY_LENGTH(signals); i++) {
		struct caller c;

		create_shell(&c, "true", &no_options);
		sys_pidfd_send_signal(c.init_pidfd, signals[i], NULL, 0);
		CHECK_EQUAL(WEXITSTATUS(caller_wait(&c)), 128 + signals[i]);
		CHECK(!caller_is_created(&c));
		caller_end(&c);
	}
}

static void harmless_signals_do_not(void)
{
	struct caller c;

	NEEDS_ROOT();
	create_shell(&c, "exit 3", &no_options);
	sys_pidfd_send_signal(c.init_pidfd, SIGWINCH, NULL, 0);
	sys_pidfd_send_signal(c.init_pidfd, SIGCHLD, NULL, 0);
	sys_pidfd_send_signal(c.init_pidfd, SIGCONT, NULL, 0);
	CHECK_EQUAL(caller_start(&c), 0);
	CHECK_EQUAL(WEXITSTATUS(caller_wait(&c)), 3);
	caller_end(&c);
}

/* What execve refuses is learned by whoever starts. */
static void start_learns_why_nothing_was_executed(void)
{
	struct caller c;
	struct wherry_op_program *program;
	const char *arguments[] = { NULL, NULL };
	int fd;

	NEEDS_ROOT();
	caller_prepare(&c);
	arguments[0] = strdup(path_in(&c, "nonsense"));
	fd = open(arguments[0], O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
	CHECK(fd >= 0 && write(fd, "\x7f" "ELF nonsense", 13) == 13);
	close(fd);
	begin_plan(CLONE_NEWNS | CLONE_NEWPID);
	plan.registers = 1;
	plan_rootfs(&plan, WHERRY_INIT, path_in(&c, "rootfs"), 0);
	program = PLAN_ADD(&plan, OP_PROGRAM, WHERRY_INIT, wherry_op_program);
	program->arguments = plan_list(&plan, arguments);
	PLAN_ADD(&plan, OP_PUBLISH, WHERRY_CALLER, wherry_op_publish);
	PLAN_ADD(&plan, OP_WAIT_START, WHERRY_INIT, wherry_op_wait_start);
	PLAN_ADD(&plan, OP_EXECUTE, WHERRY_INIT, wherry_op_execute);
	plan_finish(&plan);
	CHECK_EQUAL(caller_launch(&c, &plan, &no_options), 0);
	CHECK_EQUAL(caller_create(&c, &plan), 0);
	CHECK_EQUAL(caller_start(&c), ENOEXEC);
	CHECK_EQUAL(c.message.kind, WHERRY_FAILED);
	CHECK_EQUAL(c.message.call, WHERRY_CALL_EXECVE);
	CHECK_EQUAL(c.message.step, plan.count - 1);
	CHECK_EQUAL(WEXITSTATUS(caller_wait(&c)), EXIT_NOT_EXECUTED);
	free((void *)(uintptr_t)arguments[0]);
	caller_end(&c);
}

/* A config without a process can be created, and its start fails. */
static void a_plan_without_a_program(void)
{
	struct caller c;

	NEEDS_ROOT();
	caller_prepare(&c);
	begin_plan(CLONE_NEWPID);
	plan.flags |= WHERRY_PLAN_NO_PROCESS;
	PLAN_ADD(&plan, OP_PUBLISH, WHERRY_CALLER, wherry_op_publish);
	PLAN_ADD(&plan, OP_WAIT_START, WHERRY_INIT, wherry_op_wait_start);
	plan_finish(&plan);
	CHECK_EQUAL(caller_launch(&c, &plan, &no_options), 0);
	CHECK_EQUAL(caller_create(&c, &plan), 0);
	CHECK(caller_is_created(&c));
	CHECK_EQUAL(caller_start(&c), WHERRY_PROGRAM_NOT_FOUND);
	CHECK_EQUAL(WEXITSTATUS(caller_wait(&c)), EXIT_NOT_EXECUTED);
	caller_end(&c);
}

/* ---- who fails, and who says so -------------------------------------------------------------------------------------------- */

static void init_never_speaks_before_it_was_announced(void)
{
	char long_name[80] = "";

	NEEDS_ROOT();
	memset(long_name, 'x', 70);
	for (int i = 0; i < 50; i++) {
		struct caller c;

		caller_prepare(&c);
		begin_plan(CLONE_NEWUTS);
		add_hostname(long_name);
		plan_shell(&plan, "true");
		plan_finish(&plan);
		CHECK_EQUAL(caller_launch(&c, &plan, &no_options), 0);
		CHECK_EQUAL(caller_receive(&c), WHERRY_LAUNCHED);
		CHECK(c.init > 0 && c.init_pidfd >= 0);
		CHECK_EQUAL(caller_receive(&c), WHERRY_FAILED);
		CHECK_EQUAL(c.message.step, 2);
		CHECK_EQUAL(c.message.error, EINVAL);
		CHECK_EQUAL(c.message.call, WHERRY_CALL_SETHOSTNAME);
		CHECK_EQUAL(WEXITSTATUS(caller_wait(&c)), EXIT_NOT_EXECUTED);
		CHECK_EQUAL(caller_wait_launcher(&c), 0);
		CHECK_EQUAL(caller_receive(&c), -EPIPE);
		caller_end(&c);
	}
}

static void launcher_fails_before_the_clone(void)
{
	struct caller c;
	struct wherry_op_open_namespace *open;

	NEEDS_ROOT();
	caller_prepare(&c);
	plan_begin(&plan);
	plan.registers = 1;
	PLAN_ADD(&plan, OP_LAUNCH, WHERRY_CALLER, wherry_op_launch);
	open = PLAN_ADD(&plan, OP_OPEN_NAMESPACE, WHERRY_LAUNCHER, wherry_op_open_namespace);
	open->path = plan_text(&plan, "/proc/self/ns/nothing");
	open->type = CLONE_NEWUTS;
	PLAN_ADD(&plan, OP_CLONE, WHERRY_LAUNCHER, wherry_op_clone)->into_cgroup = WHERRY_NO_REGISTER;
	plan_shell(&plan, "true");
	plan_finish(&plan);
	CHECK_EQUAL(caller_launch(&c, &plan, &no_options), 0);
	CHECK_EQUAL(caller_receive(&c), WHERRY_FAILED);
	CHECK_EQUAL(c.message.step, 1);
	CHECK_EQUAL(c.message.error, ENOENT);
	CHECK_EQUAL(c.message.call, WHERRY_CALL_OPEN);
	CHECK_EQUAL(WEXITSTATUS(caller_wait_launcher(&c)), 1);
	CHECK_EQUAL(caller_receive(&c), -EPIPE);
	caller_end(&c);
}

/* A step that the launcher does for init: init is told, and tells. */
static void launcher_fails_for_init(void)
{
	struct caller c;
	struct wherry_op_open_tree *open;

	NEEDS_ROOT();
	caller_prepare(&c);
	begin_plan(CLONE_NEWNS);
	plan.registers = 1;
	open = PLAN_ADD(&plan, OP_OPEN_TREE, WHERRY_LAUNCHER, wherry_op_open_tree);
	open->source = plan_template(&plan, "/nowhere/at/all");
	plan_shell(&plan, "true");
	plan_finish(&plan);
	CHECK_EQUAL(caller_launch(&c, &plan, &no_options), 0);
	CHECK_EQUAL(caller_create(&c, &plan), ENOENT);
	CHECK_EQUAL(c.message.step, 2);
	CHECK_EQUAL(c.message.call, WHERRY_CALL_OPEN_TREE);
	CHECK_EQUAL(WEXITSTATUS(caller_wait(&c)), EXIT_NOT_EXECUTED);
	CHECK_EQUAL(caller_wait_launcher(&c), 0);
	caller_end(&c);
}

static void a_wrong_plan_is_not_executed(void)
{
	struct caller c;

	caller_prepare(&c);
	begin_plan(0);
	plan_shell(&plan, "true");
	plan_finish(&plan);
	((struct wherry_op *)(void *)(plan.plan + ((struct wherry_plan *)(void *)plan.plan)->steps_offset))->size += 8;
	CHECK_EQUAL(caller_launch(&c, &plan, &no_options), 0);
	CHECK_EQUAL(caller_receive(&c), WHERRY_FAILED);
	CHECK_EQUAL(c.message.error, WHERRY_BAD_PLAN);
	CHECK_EQUAL(c.message.value, ((struct wherry_plan *)(void *)plan.plan)->steps_offset);
	CHECK_EQUAL(WEXITSTATUS(caller_wait_launcher(&c)), 1);
	caller_end(&c);
}

/* NETWORK_DEVICES is the caller's and does nothing: a place to stop at. */
static void create_to_the_first_question(struct caller *c)
{
	struct wherry_op_open_tree *open;

	caller_prepare(c);
	begin_plan(CLONE_NEWNS | CLONE_NEWPID);
	plan.registers = 1;
	PLAN_ADD(&plan, OP_NETWORK_DEVICES, WHERRY_CALLER, wherry_op_network_devices);
	open = PLAN_ADD(&plan, OP_OPEN_TREE, WHERRY_LAUNCHER, wherry_op_open_tree);
	open->source = plan_template(&plan, "/");
	plan_shell(&plan, "true");
	plan_finish(&plan);
	CHECK_EQUAL(caller_launch(c, &plan, &no_options), 0);
	CHECK_EQUAL(caller_receive(c), WHERRY_LAUNCHED);
	CHECK_EQUAL(caller_receive(c), WHERRY_RUN);
	CHECK_EQUAL(c->message.step, 2);
}

static void all_die_with_the_caller(void)
{
	struct caller c;

	NEEDS_ROOT();
	create_to_the_first_question(&c);
	wherry_close(&c.socket);
	CHECK_EQUAL(WEXITSTATUS(caller_wait(&c)), EXIT_NOT_EXECUTED);
	CHECK_EQUAL(caller_wait_launcher(&c), 0);
	caller_end(&c);
}

static void a_refusal_of_the_caller_ends_init(void)
{
	struct caller c;

	NEEDS_ROOT();
	create_to_the_first_question(&c);
	caller_answer(&c, WHERRY_FAILED);
	CHECK_EQUAL(caller_receive(&c), -EPIPE); /* the caller knows: it is not told */
	CHECK_EQUAL(WEXITSTATUS(caller_wait(&c)), EXIT_NOT_EXECUTED);
	CHECK_EQUAL(caller_wait_launcher(&c), 0);
	caller_end(&c);
}

static void an_answer_to_another_question_ends_init(void)
{
	struct caller c;

	NEEDS_ROOT();
	create_to_the_first_question(&c);
	c.message.step++;
	caller_answer(&c, WHERRY_DONE);
	CHECK_EQUAL(WEXITSTATUS(caller_wait(&c)), EXIT_NOT_EXECUTED);
	caller_end(&c);
}

static void the_death_of_the_launcher_is_reported(void)
{
	struct caller c;

	NEEDS_ROOT();
	create_to_the_first_question(&c);
	sys_pidfd_send_signal(c.launcher_pidfd, SIGKILL, NULL, 0);
	CHECK_EQUAL(caller_wait_launcher(&c), SIGKILL);
	caller_answer(&c, WHERRY_DONE);
	CHECK_EQUAL(caller_receive(&c), WHERRY_FAILED);
	CHECK_EQUAL(c.message.error, WHERRY_LAUNCHER_DIED);
	CHECK_EQUAL(c.message.step, 3);
	CHECK_EQUAL(WEXITSTATUS(caller_wait(&c)), EXIT_NOT_EXECUTED);
	caller_end(&c);
}

static void the_death_of_the_caller_ends_a_wait_for_the_launcher(void)
{
	struct caller c;

	NEEDS_ROOT();
	create_to_the_first_question(&c);
	sys_pidfd_send_signal(c.launcher_pidfd, SIGSTOP, NULL, 0);
	caller_answer(&c, WHERRY_DONE);
	wherry_close(&c.socket);
	CHECK_EQUAL(WEXITSTATUS(caller_wait(&c)), EXIT_NOT_EXECUTED);
	sys_pidfd_send_signal(c.launcher_pidfd, SIGCONT, NULL, 0);
	CHECK(caller_wait_launcher(&c) >= 0);
	caller_end(&c);
}

/* After the commit the caller may go. */
static void created_outlives_the_caller(void)
{
	struct caller c;

	NEEDS_ROOT();
	create_shell(&c, "exit 4", &no_options);
	wherry_close(&c.socket);
	CHECK(caller_is_created(&c));
	CHECK_EQUAL(caller_start(&c), 0);
	CHECK_EQUAL(WEXITSTATUS(caller_wait(&c)), 4);
	caller_end(&c);
}

/* ---- descriptors of requests ------------------------------------------------------------------------------------------------- */

static void the_notify_descriptor_reaches_the_caller(void)
{
	static const struct sock_filter allow[] = { BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW) };
	struct wherry_op_listener *listener;
	struct wherry_op_seccomp *seccomp;
	struct caller c;

	NEEDS_ROOT();
	caller_prepare(&c);
	begin_plan(CLONE_NEWPID);
	plan.registers = 1;
	seccomp = PLAN_ADD(&plan, OP_SECCOMP, WHERRY_INIT, wherry_op_seccomp);
	seccomp->filter = plan_blob(&plan, allow, sizeof(allow));
	seccomp->listener = 0;
	seccomp->flags = SECCOMP_FILTER_FLAG_NEW_LISTENER;
	listener = PLAN_ADD(&plan, OP_LISTENER, WHERRY_CALLER, wherry_op_listener);
	listener->path = plan_text(&plan, "/run/agent");
	PLAN_ADD(&plan, OP_NETWORK_DEVICES, WHERRY_CALLER, wherry_op_network_devices);
	plan.flags |= WHERRY_PLAN_NO_PROCESS;
	PLAN_ADD(&plan, OP_PUBLISH, WHERRY_CALLER, wherry_op_publish);
	PLAN_ADD(&plan, OP_WAIT_START, WHERRY_INIT, wherry_op_wait_start);
	plan_finish(&plan);
	CHECK_EQUAL(caller_launch(&c, &plan, &no_options), 0);
	CHECK_EQUAL(caller_receive(&c), WHERRY_LAUNCHED);
	CHECK_EQUAL(caller_receive(&c), WHERRY_RUN);
	CHECK(c.fd >= 0);
	caller_answer(&c, WHERRY_DONE);
	CHECK_EQUAL(caller_receive(&c), WHERRY_RUN);
	CHECK_EQUAL(c.fd, -1);
	caller_end(&c);
}

static const struct check_case cases[] = {
	{ "create_start_run", create_start_run },
	{ "signals_are_default", signals_are_default },
	{ "created_holds_its_fifos", created_holds_its_fifos },
	{ "init_leads_a_session", init_leads_a_session },
	{ "preserved_descriptors", preserved_descriptors },
	{ "signals_end_a_created_container", signals_end_a_created_container },
	{ "harmless_signals_do_not", harmless_signals_do_not },
	{ "start_learns_why_nothing_was_executed", start_learns_why_nothing_was_executed },
	{ "a_plan_without_a_program", a_plan_without_a_program },
	{ "init_never_speaks_before_it_was_announced", init_never_speaks_before_it_was_announced },
	{ "launcher_fails_before_the_clone", launcher_fails_before_the_clone },
	{ "launcher_fails_for_init", launcher_fails_for_init },
	{ "a_wrong_plan_is_not_executed", a_wrong_plan_is_not_executed },
	{ "all_die_with_the_caller", all_die_with_the_caller },
	{ "a_refusal_of_the_caller_ends_init", a_refusal_of_the_caller_ends_init },
	{ "an_answer_to_another_question_ends_init", an_answer_to_another_question_ends_init },
	{ "the_death_of_the_launcher_is_reported", the_death_of_the_launcher_is_reported },
	{ "the_death_of_the_caller_ends_a_wait_for_the_launcher", the_death_of_the_caller_ends_a_wait_for_the_launcher },
	{ "created_outlives_the_caller", created_outlives_the_caller },
	{ "the_notify_descriptor_reaches_the_caller", the_notify_descriptor_reaches_the_caller },
};

CHECK_MAIN(cases)
