/* SPDX-License-Identifier: Apache-2.0
 *
 * Hooks: what they get, how they may end, and that the caller stays whole, threads and ignored signals included.
 */
#include "build.h"

#include <pthread.h>

enum { BIG_STATE = 300 << 10, THREADS = 8, RUNS_PER_THREAD = 10 };

static const char *const no_environment[] = { NULL };
static char place[] = "/tmp/wherry-hook-XXXXXX";

static const char *in_place(const char *name)
{
	static char path[4][128];
	static unsigned int turn;

	turn = (turn + 1) % 4;
	snprintf(path[turn], sizeof(path[turn]), "%s/%s", place, name);
	return path[turn];
}

static const char *content(const char *name)
{
	static char text[8192];
	int fd = open(in_place(name), O_RDONLY | O_CLOEXEC);

	text[0] = 0;
	if (fd >= 0)
		build_read_all(fd, text, sizeof(text));
	close(fd);
	return text;
}

static int run_shell(const char *script, const char *state, uint32_t timeout, int *status, enum wherry_call *call)
{
	const char *const argv[] = { "sh", "-c", script, "hook", place, NULL };

	return wherry_run_hook("/bin/sh", argv, no_environment, state, strlen(state), timeout, status, call);
}

static void test_state_on_stdin(void)
{
	enum wherry_call call;
	int status;

	CHECK_EQUAL(run_shell("cat > $1/state", "{\"id\":\"x\"}", 0, &status, &call), 0);
	CHECK_EQUAL(status, 0);
	CHECK_TEXT(content("state"), "{\"id\":\"x\"}");
}

static void test_exit_status(void)
{
	enum wherry_call call;
	int status;

	CHECK_EQUAL(run_shell("exit 7", "", 5, &status, &call), -WHERRY_HOOK_FAILED);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
	CHECK_EQUAL(call, WHERRY_CALL_HOOK);
	CHECK_EQUAL(run_shell("kill -TERM $$", "", 5, &status, &call), -WHERRY_HOOK_FAILED);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
}

static void test_program_cannot_be_executed(void)
{
	const char *const argv[] = { "x", NULL };
	enum wherry_call call;
	int status;

	CHECK_EQUAL(wherry_run_hook("/nowhere/x", argv, no_environment, "s", 1, 5, &status, &call), -ENOENT);
	CHECK_EQUAL(call, WHERRY_CALL_EXECVE);
	build_write(in_place("plain"), "#!/bin/sh\n", 0644);
	CHECK_EQUAL(wherry_run_hook(in_place("plain"), argv, no_environment, "s", 1, 5, &status, &call), -EACCES);
	CHECK_EQUAL(waitpid(-1, NULL, WNOHANG), -1); /* nothing is left to reap */
	CHECK_EQUAL(errno, ECHILD);
}

static void test_environment_and_arguments_are_exact(void)
{
	const char *const argv[] = { "name", "-c", "tr '\\0' '\\n' < /proc/self/environ > $1/environ; echo \"$0 $2\" > $1/arguments", "zero", place, "two", NULL };
	const char *const envp[] = { "PATH=/usr/bin:/bin", "A=b c", NULL };
	enum wherry_call call;
	int status;

	CHECK_EQUAL(wherry_run_hook("/bin/sh", argv, envp, "", 0, 5, &status, &call), 0);
	CHECK(strstr(content("environ"), "A=b c\n") != NULL);
	CHECK(strstr(content("environ"), "HOME=") == NULL);
	CHECK_TEXT(content("arguments"), "zero two\n");
}

static void test_state_that_nobody_reads(void)
{
	static char state[BIG_STATE];
	const char *const sleeper[] = { "sh", "-c", "exec 0<&-; sleep 0.1", NULL }, *const reader[] = { "sh", "-c", "wc -c > $1/count", "x", place, NULL };
	enum wherry_call call;
	sigset_t pending;
	int status;

	memset(state, ' ', sizeof(state));
	CHECK_EQUAL(wherry_run_hook("/bin/true", (const char *const[]){ "true", NULL }, no_environment, state, sizeof(state), 5, &status, &call), 0);
	CHECK_EQUAL(wherry_run_hook("/bin/sh", sleeper, no_environment, state, sizeof(state), 5, &status, &call), 0);
	sigpending(&pending);
	CHECK(!sigismember(&pending, SIGPIPE));
	CHECK_EQUAL(wherry_run_hook("/bin/sh", reader, (const char *const[]){ "PATH=/usr/bin:/bin", NULL }, state, sizeof(state), 5, &status, &call), 0);
	CHECK_EQUAL(atoi(content("count")), BIG_STATE);
}

static void test_timeout_ends_the_group(void)
{
	enum wherry_call call;
	int status = 0, grandchild;

	CHECK_EQUAL(run_shell("sleep 1000 & echo $! > $1/grandchild; wait", "", 1, &status, &call), -WHERRY_HOOK_TIMEOUT);
	CHECK_EQUAL(call, WHERRY_CALL_HOOK);
	grandchild = atoi(content("grandchild"));
	CHECK(grandchild > 1);
	for (int i = 0; i < 500 && kill(grandchild, 0) == 0; i++) {
		char path[64], state[512] = "";
		int fd;

		snprintf(path, sizeof(path), "/proc/%d/stat", grandchild);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		build_read_all(fd, state, sizeof(state));
		close(fd);
		if (strstr(state, ") Z "))
			return; /* ended; its new parent has not reaped it */
		usleep(10000);
	}
	CHECK(kill(grandchild, 0) < 0);
}

/* The timeout also ends a hook that does not read a state larger than the pipe. */
static void test_timeout_while_writing(void)
{
	static char state[BIG_STATE];
	const char *const sleeper[] = { "sleep", "1000", NULL };
	enum wherry_call call;
	int status;

	memset(state, ' ', sizeof(state));
	CHECK_EQUAL(wherry_run_hook("/bin/sleep", sleeper, no_environment, state, sizeof(state), 1, &status, &call), -WHERRY_HOOK_TIMEOUT);
}

/* What a process of a Python program may have: ignored and blocked signals, open descriptors, closed stdin. */
static void inherits_nothing(void)
{
	sigset_t all;
	enum wherry_call call;
	int status, leak = open("/", O_RDONLY | O_DIRECTORY);
	const char *report;

	CHECK(leak > 2 && leak < 10);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_IGN);
	sys_signal(33, SIG_IGN);
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	CHECK_EQUAL(run_shell("while read l; do case $l in Sig*) echo $l;; esac; done < /proc/self/status > $1/signals", "", 5, &status, &call), 0);
	CHECK_EQUAL(run_shell("for fd in 3 4 5 6 7 8 9; do [ -e /proc/self/fd/$fd ] && echo $fd; done > $1/fds; exit 3", "", 5, &status, &call),
		    -WHERRY_HOOK_FAILED);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3);
	report = content("signals");
	CHECK(strstr(report, "SigBlk: 0000000000000000") != NULL);
	CHECK(strstr(report, "SigIgn: 0000000000000000") != NULL);
	CHECK(signal(SIGCHLD, SIG_DFL) == SIG_IGN); /* as it was */
	CHECK(signal(SIGPIPE, SIG_DFL) == SIG_IGN);
	close(0);
	CHECK_EQUAL(run_shell("cat > $1/state", "without stdin", 5, &status, &call), 0);
	CHECK_TEXT(content("state"), "without stdin");
}

static void test_inherits_nothing(void)
{
	in_child(inherits_nothing);
	CHECK_TEXT(content("fds"), "");
}

static void output_goes_to_stderr(void)
{
	int ends[2];
	enum wherry_call call;
	char text[256];
	int status;

	CHECK(pipe2(ends, O_CLOEXEC) == 0);
	dup2(ends[1], 2);
	CHECK_EQUAL(run_shell("echo out; echo err >&2", "", 5, &status, &call), 0);
	close(2);
	close(ends[1]);
	build_read_all(ends[0], text, sizeof(text));
	dup2(1, 2);
	CHECK_TEXT(text, "out\nerr\n");
}

static void test_output_goes_to_stderr(void)
{
	in_child(output_goes_to_stderr);
}

static void test_own_process_group(void)
{
	enum wherry_call call;
	int status;

	CHECK_EQUAL(run_shell("read pid comm state ppid pgrp rest < /proc/self/stat; echo $$ $pgrp > $1/group", "", 5, &status, &call), 0);
	CHECK(atoi(content("group")) > 1);
	CHECK_EQUAL(atoi(content("group")), atoi(strchr(content("group"), ' ')));
	CHECK(atoi(content("group")) != getpgrp());
}

static void *many_runs(void *argument)
{
	long number = (long)argument;

	for (int i = 0; i < RUNS_PER_THREAD; i++) {
		char script[64], state[64];
		const char *const argv[] = { "sh", "-c", script, NULL };
		enum wherry_call call;
		int status, result;

		snprintf(state, sizeof(state), "%ld-%d\n", number, i);
		snprintf(script, sizeof(script), "read l; [ \"$l\" = %ld-%d ] && exit %ld", number, i, number + 1);
		result = wherry_run_hook("/bin/sh", argv, no_environment, state, strlen(state), 20, &status, &call);
		if (result != -WHERRY_HOOK_FAILED || !WIFEXITED(status) || WEXITSTATUS(status) != number + 1)
			return (void *)1L;
	}
	return NULL;
}

static void test_threads(void)
{
	pthread_t threads[THREADS];
	void *failed;

	for (long i = 0; i < THREADS; i++)
		CHECK(pthread_create(&threads[i], NULL, many_runs, (void *)i) == 0);
	for (long i = 0; i < THREADS; i++) {
		CHECK(pthread_join(threads[i], &failed) == 0);
		CHECK(failed == NULL);
	}
}

/* ---- the operation ------------------------------------------------------------------------------------------------------ */

static struct wherry_op_hook hook_op(const char *script)
{
	return (struct wherry_op_hook){
		.path = build_text("/bin/sh"),
		.arguments = build_list("sh", "-c", script, "hook", place, NULL),
		.environment = build_list("PATH=/usr/bin:/bin", "X=y", NULL),
		.state = build_template("{\"id\":\"\1\x40\",\"pid\":\1\x45}"), /* the marks of WHERRY_SLOT_ID and WHERRY_SLOT_PID */
		.timeout = 5,
	};
}

static void test_operation(void)
{
	struct wherry_machine *m = build_begin();
	struct wherry_op_hook op = hook_op("cat > $1/state; echo $X > $1/x");

	m->slots[WHERRY_SLOT_ID] = "box";
	m->slots[WHERRY_SLOT_PID] = "4711";
	CHECK_EQUAL(op_hook(m, &op), 0);
	CHECK_TEXT(content("state"), "{\"id\":\"box\",\"pid\":4711}");
	CHECK_TEXT(content("x"), "y\n");
	op = hook_op("exit 9");
	CHECK_EQUAL(op_hook(m, &op), -WHERRY_HOOK_FAILED);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_HOOK);
	CHECK_EQUAL(m->failed_value, 9 << 8);
	op.path = build_text("/nowhere/hook");
	CHECK_EQUAL(op_hook(m, &op), -ENOENT);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_EXECVE);
}

/* Without arguments argv[0] is the path, and without environment there is none. */
static void test_operation_defaults(void)
{
	struct wherry_machine *m = build_begin();
	struct wherry_op_hook op = { .path = build_text(in_place("script")), .state = build_template("s") };
	char script[256];

	snprintf(script, sizeof(script), "#!/bin/sh\necho \"$0 $#\" > %s/name\n", place);
	build_write(in_place("script"), script, 0755);
	CHECK_EQUAL(op_hook(m, &op), 0);
	snprintf(script, sizeof(script), "%s 0\n", in_place("script"));
	CHECK_TEXT(content("name"), script);
}

static const struct check_case cases[] = {
	{ "state_on_stdin", test_state_on_stdin },
	{ "exit_status", test_exit_status },
	{ "program_cannot_be_executed", test_program_cannot_be_executed },
	{ "environment_and_arguments_are_exact", test_environment_and_arguments_are_exact },
	{ "state_that_nobody_reads", test_state_that_nobody_reads },
	{ "timeout_ends_the_group", test_timeout_ends_the_group },
	{ "timeout_while_writing", test_timeout_while_writing },
	{ "inherits_nothing", test_inherits_nothing },
	{ "output_goes_to_stderr", test_output_goes_to_stderr },
	{ "own_process_group", test_own_process_group },
	{ "threads", test_threads },
	{ "operation", test_operation },
	{ "operation_defaults", test_operation_defaults },
};

int main(int argc, char **argv)
{
	char command[64];
	int result;

	if (!mkdtemp(place))
		return 1;
	result = check_main(cases, WHERRY_LENGTH(cases), argc, argv);
	snprintf(command, sizeof(command), "rm -rf %s", place);
	return system(command) || result;
}
