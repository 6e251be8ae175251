/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs a hook: a program of the host (or, for startContainer, of the container) with the container's state on its stdin.
 *
 * The same code runs in init, in the front, and in a threaded Python process. So: nothing is allocated, the child is a
 * CLONE_VM|CLONE_VFORK one on a stack of its own that makes raw system calls only, and every signal is blocked around the
 * clone, because a handler of the caller that ran in the child would write into the caller's memory.
 */
#include "wherry/core.h"
#include "wherry/sys.h"

#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

enum {
	CHILD_STACK = 64 << 10,
	MAX_ARENA = 64 << 20, /* arguments, environment and state of one hook */
	LONGEST_POLL_MS = 3600 * 1000,
	EXIT_NO_EXEC = 127,
};

#define SIGNAL_BIT(signal) (UINT64_C(1) << ((signal) - 1))

/* What parent and child share: the child has the parent's memory until it executes. */
struct hook_child {
	const char *path;
	const char *const *argv, *const *envp;
	int input; /* the pipe's reading end, above 2 */
	int error; /* errno of what failed in the child */
	enum wherry_call call;
};

/* One run. */
struct hook_run {
	pid_t pid;
	int pidfd;
	int output;       /* the pipe's writing end, -1 once all is written or the hook has closed its stdin */
	const char *rest;
	size_t left;
	int64_t deadline; /* CLOCK_MONOTONIC, ms; -1 = none */
};

/* ---- the child ------------------------------------------------------------------------------------------------------- */

static int child_fails(struct hook_child *child, enum wherry_call call)
{
	child->error = errno;
	child->call = call;
	_exit(EXIT_NO_EXEC);
}

static int child_main(void *argument)
{
	struct hook_child *child = argument;

	setpgid(0, 0); /* cannot fail in a fresh child; the group is what a timeout kills */
	if (dup2(child->input, STDIN_FILENO) < 0)
		return child_fails(child, WHERRY_CALL_DUP);
	/* what a hook says belongs into the runtime's error output, never into the container's stdout */
	if (dup2(STDERR_FILENO, STDOUT_FILENO) < 0 && errno != EBADF)
		return child_fails(child, WHERRY_CALL_DUP);
	/* closed, not marked: an interpreter line may name /proc/self/fd/N, and that is opened before close-on-exec acts */
	if (wherry_close_from(STDERR_FILENO + 1) < 0)
		return child_fails(child, WHERRY_CALL_CLOSE_RANGE);
	wherry_reset_signals();
	execve(child->path, (char *const *)child->argv, (char *const *)child->envp);
	return child_fails(child, WHERRY_CALL_EXECVE);
}

/* ---- starting -------------------------------------------------------------------------------------------------------- */

static int open_pipe(int *input, int *output)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -1;
	*input = ends[0];
	*output = ends[1];
	if (wherry_lift(input, STDERR_FILENO + 1) < 0 || wherry_lift(output, STDERR_FILENO + 1) < 0)
		return -1;
	/* only our end: O_NONBLOCK belongs to the open file, and the two ends of a pipe are two of them */
	return fcntl(*output, F_SETFL, O_NONBLOCK);
}

static int clone_child(struct hook_child *child, struct hook_run *run)
{
	char *stack = mmap(NULL, CHILD_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	uint64_t old;
	int error;

	if (stack == MAP_FAILED)
		return -1;
	sys_signal_mask(SIG_BLOCK, ~UINT64_C(0), &old);
	run->pid = clone(child_main, stack + CHILD_STACK, CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, child, &run->pidfd);
	error = errno;
	sys_signal_mask(SIG_SETMASK, old, NULL);
	munmap(stack, CHILD_STACK); /* CLONE_VFORK: the child has executed or ended by now */
	errno = error;
	return run->pid < 0 ? -1 : 0;
}

/* ---- feeding and waiting ------------------------------------------------------------------------------------------------ */

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Until the deadline, cut to what poll() can count. */
static int patience(int64_t deadline)
{
	int64_t left = deadline < 0 ? LONGEST_POLL_MS : deadline - now_ms();

	if (left < 0)
		return 0;
	return left > LONGEST_POLL_MS ? LONGEST_POLL_MS : (int)left;
}

/* A hook may close its stdin unread, or end before it has read all: neither is an error. */
static int feed(struct hook_run *run)
{
	ssize_t written = write(run->output, run->rest, run->left);

	if (written < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (written < 0 && errno != EPIPE)
		return -1;
	run->rest += written < 0 ? 0 : written;
	run->left -= written < 0 ? run->left : (size_t)written;
	if (!run->left)
		wherry_close(&run->output);
	return 0;
}

/* 0 when the hook's process has ended, -WHERRY_HOOK_TIMEOUT, or -errno. */
static int serve(struct hook_run *run, enum wherry_call *call)
{
	*call = WHERRY_CALL_POLL;
	if (!run->left)
		wherry_close(&run->output);
	for (;;) {
		struct pollfd wait[2] = { { .fd = run->pidfd, .events = POLLIN }, { .fd = run->output, .events = POLLOUT } };
		int ready = poll(wait, 2, patience(run->deadline));

		if (ready < 0 && errno != EINTR)
			return -errno;
		if (ready > 0 && wait[0].revents)
			return 0;
		if (ready > 0 && wait[1].revents && feed(run) < 0) {
			*call = WHERRY_CALL_WRITE;
			return -errno;
		}
		if (run->deadline >= 0 && now_ms() >= run->deadline) {
			*call = WHERRY_CALL_HOOK;
			return -WHERRY_HOOK_TIMEOUT;
		}
	}
}

/* The whole group, while its leader is unreaped and so holds the number. */
static void kill_group(const struct hook_run *run)
{
	kill(-run->pid, SIGKILL);
	sys_pidfd_send_signal(run->pidfd, SIGKILL, NULL, 0);
}

static int serve_and_reap(struct hook_run *run, int *status, enum wherry_call *call)
{
	int result = serve(run, call);

	if (result < 0)
		kill_group(run);
	if (TEMP_FAILURE_RETRY(waitpid(run->pid, status, __WALL)) < 0 && result == 0) {
		*call = WHERRY_CALL_WAIT;
		return -errno;
	}
	return result;
}

/* ---- signals of the caller ------------------------------------------------------------------------------------------------ */

struct hook_signals {
	struct sigaction child;
	bool child_changed, pipe_was_pending;
	uint64_t mask;
};

/* SIGCHLD ignored (by whoever started us, it survives exec) would reap the hook before we have its status; SIGPIPE of our write
 * is for this thread and must not reach anyone. */
static void signals_guard(struct hook_signals *s)
{
	struct sigaction plain = { .sa_handler = SIG_DFL };
	sigset_t pending;

	sigaction(SIGCHLD, NULL, &s->child);
	s->child_changed = s->child.sa_handler == SIG_IGN || (s->child.sa_flags & SA_NOCLDWAIT);
	if (s->child_changed)
		sigaction(SIGCHLD, &plain, NULL);
	sigpending(&pending);
	s->pipe_was_pending = sigismember(&pending, SIGPIPE) == 1;
	sys_signal_mask(SIG_BLOCK, SIGNAL_BIT(SIGPIPE), &s->mask);
}

static void signals_release(struct hook_signals *s)
{
	const struct timespec now = { 0 };
	sigset_t pipe;

	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE);
	if (!s->pipe_was_pending)
		(void)TEMP_FAILURE_RETRY(sigtimedwait(&pipe, NULL, &now));
	sys_signal_mask(SIG_SETMASK, s->mask, NULL);
	if (s->child_changed)
		sigaction(SIGCHLD, &s->child, NULL);
}

/* ---- the two ways in --------------------------------------------------------------------------------------------------------- */

static int run_guarded(struct hook_child *child, struct hook_run *run, int *status, enum wherry_call *call)
{
	int result;

	*call = WHERRY_CALL_FORK;
	if (clone_child(child, run) < 0)
		return -errno;
	wherry_close(&child->input);
	result = serve_and_reap(run, status, call);
	if (child->error) {
		*call = child->call;
		return -child->error;
	}
	if (result == 0 && *status != 0) {
		*call = WHERRY_CALL_HOOK;
		return -WHERRY_HOOK_FAILED;
	}
	return result;
}

int wherry_run_hook(const char *path, const char *const argv[], const char *const envp[], const char *state, size_t state_length,
		    uint32_t timeout_seconds, int *status, enum wherry_call *call)
{
	struct hook_child child = { .path = path, .argv = argv, .envp = envp, .input = -1 };
	struct hook_run run = { .pidfd = -1, .output = -1, .rest = state, .left = state_length, .deadline = -1 };
	struct hook_signals signals;
	int result;

	*status = 0;
	*call = WHERRY_CALL_FORK;
	result = open_pipe(&child.input, &run.output) < 0 ? -errno : 0;
	if (result == 0) {
		if (timeout_seconds)
			run.deadline = now_ms() + (int64_t)timeout_seconds * 1000;
		signals_guard(&signals);
		result = run_guarded(&child, &run, status, call);
		signals_release(&signals);
	}
	wherry_close(&child.input);
	wherry_close(&run.output);
	wherry_close(&run.pidfd);
	return result;
}

/* An upper bound of what the template becomes. */
static size_t expanded_bound(const struct wherry_machine *m, struct wherry_template text)
{
	const uint8_t *bytes = m->code.base + text.offset;
	size_t bound = text.length + 1;

	for (uint32_t i = 0; i + 1 < text.length; i++) {
		const char *slot = bytes[i] == WHERRY_SLOT_MARK ? m->slots[bytes[i + 1] - 0x40] : NULL;

		bound += slot ? strlen(slot) : 0;
	}
	return bound;
}

static const char **fill_vector(const struct wherry_machine *m, struct wherry_list list, const char **at)
{
	const struct wherry_text *texts = wherry_texts(&m->code, list);

	for (uint32_t i = 0; i < list.count; i++)
		*at++ = wherry_text(&m->code, texts[i]);
	/* last, where the environment is that of the program: HOME may be known here alone */
	if (list.count && m->prepared.home && !strcmp(at[-1], "HOME="))
		at[-1] = m->prepared.home;
	*at++ = NULL;
	return at;
}

static int run_op_hook(struct wherry_machine *m, const struct wherry_op_hook *op, char *arena, size_t state_size)
{
	const char **argv = (const char **)arena, **envp, **end;
	const char *path = wherry_text(&m->code, op->path);
	enum wherry_call call;
	ssize_t length;
	int status, result;

	if (!op->arguments.count) {
		argv[0] = path;
		argv[1] = NULL;
		envp = argv + 2;
	} else {
		envp = fill_vector(m, op->arguments, argv);
	}
	end = fill_vector(m, op->environment, envp);
	length = wherry_expand(m, op->state, (char *)end, state_size);
	if (length < 0)
		return wherry_fail(m, WHERRY_CALL_HOOK, (int)-length);
	result = wherry_run_hook(path, argv, envp, (char *)end, (size_t)length, op->timeout, &status, &call);
	if (result == 0)
		return 0;
	wherry_fail(m, call, -result);
	m->failed_value = (uint64_t)(uint32_t)status;
	return result;
}

int op_hook(struct wherry_machine *m, const struct wherry_op_hook *op)
{
	size_t state_size = expanded_bound(m, op->state);
	size_t size = ((size_t)op->arguments.count + op->environment.count + 4) * sizeof(char *) + state_size;
	char *arena;
	int result;

	if (size > MAX_ARENA)
		return wherry_fail(m, WHERRY_CALL_HOOK, ENAMETOOLONG);
	arena = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (arena == MAP_FAILED)
		return wherry_fail_errno(m, WHERRY_CALL_HOOK);
	/* "/" is still the host's: a relative path is to lead into the container's */
	if (op->kind == WHERRY_HOOK_CREATE_CONTAINER)
		(void)!fchdir(m->rootfs);
	result = run_op_hook(m, op, arena, state_size);
	if (op->kind == WHERRY_HOOK_CREATE_CONTAINER)
		(void)!chdir("/");
	munmap(arena, size);
	return result;
}
