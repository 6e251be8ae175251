/* SPDX-License-Identifier: Apache-2.0
 *
 * Init: the container's first process, from the clone to execve. It walks the plan, runs its own operations, and asks the launcher
 * or the caller for theirs. Until OP_PUBLISH is answered it dies with the caller; from then on it lives by itself, waits for the
 * start, and what fails goes to the result fifo.
 */
#include "wherry/core.h"
#include "wherry/sys.h"

#include <poll.h>
#include <sys/signalfd.h>

enum { FAILED = 255 }; /* exit status: the user's program was not executed */

/* What the walk remembers between steps. */
struct walk {
	uint32_t last_served; /* by the launcher; 0 = none */
	bool announced;       /* the launcher has told the caller of us */
	bool silent;          /* the caller knows what failed, or is gone */
};

/* ---- who runs what ----------------------------------------------------------------------------------------------------- */

/* A tasks file that init may not write itself (older kernels check the writer's credentials, and init's user namespace is not mapped
 * yet) is written by the launcher: so it stays until the last of them. */
bool wherry_served_by_launcher(const struct wherry_op *op)
{
	return op->executor == WHERRY_LAUNCHER || (op->executor == WHERRY_INIT && op->code == OP_ATTACH_TASKS);
}

uint32_t wherry_last_served(const struct wherry_code *code)
{
	uint32_t step = code->steps;

	while (step-- > 0 && code->step[step]->code != OP_CLONE)
		if (wherry_served_by_launcher(code->step[step]))
			return step;
	return 0;
}

/* ---- sends and waits ------------------------------------------------------------------------------------------------------ */

static int send_to_launcher(struct wherry_machine *m, const struct wherry_message *message)
{
	int error = wherry_send(m->helper, message, -1);

	return error == -EPIPE ? -WHERRY_LAUNCHER_DIED : error;
}

/* A message of the launcher; the caller's end ends the wait too. There is no deadline of our own: the caller has one for everything. */
static int receive_from_launcher(struct wherry_machine *m, struct wherry_message *message, int *fd)
{
	struct pollfd peers[] = { { .fd = m->helper, .events = POLLIN }, { .fd = m->caller } };
	int error;

	if (fd)
		*fd = -1;
	do {
		if (TEMP_FAILURE_RETRY(poll(peers, WHERRY_LENGTH(peers), -1)) < 0)
			return wherry_fail_errno(m, WHERRY_CALL_POLL);
		if (peers[1].revents)
			return -EPIPE;
	} while (!peers[0].revents);
	error = wherry_receive(m->helper, message, fd);
	return error == -EPIPE ? -WHERRY_LAUNCHER_DIED : error;
}

/* The caller hears of init by the launcher, and of anything else from init only afterwards. */
static int await_announcement(struct wherry_machine *m, struct walk *walk)
{
	struct wherry_message go;
	int error = walk->announced ? 0 : receive_from_launcher(m, &go, NULL);

	/* a launcher that could not tell the caller leaves nobody who waits for us */
	walk->silent |= error != 0;
	walk->announced = true;
	return error;
}

static int send_to_caller(struct wherry_machine *m, const struct wherry_message *message, int fd)
{
	return wherry_send(m->caller, message, fd);
}

/* No deadline: hooks take what they take. The end of the caller is the end of the wait. */
static int receive_from_caller(struct wherry_machine *m, struct wherry_message *message)
{
	return wherry_receive(m->caller, message, NULL);
}

/* ---- steps of others ------------------------------------------------------------------------------------------------------ */

/* Where the descriptor of an answer goes; a step without a register takes none. */
static int keep_answer_fd(struct wherry_machine *m, const struct wherry_op *op, int *fd)
{
	if (!wherry_gives_tree(op))
		return *fd < 0 ? 0 : -EPROTO;
	if (*fd < 0)
		return -EPROTO;
	wherry_set_register(m, ((const struct wherry_op_open_tree *)op)->out, wherry_steal(fd));
	return 0;
}

static int ask_launcher(struct wherry_machine *m, struct walk *walk, uint32_t step)
{
	const struct wherry_message run = { .kind = WHERRY_RUN, .step = step };
	struct wherry_message done;
	cleanup_fd int fd = -1;
	int error = await_announcement(m, walk);

	if (!error)
		error = send_to_launcher(m, &run);
	if (!error)
		error = receive_from_launcher(m, &done, &fd);
	if (error == -EPIPE)
		walk->silent = true;
	if (error)
		return error;
	if (done.step != step || (done.kind != WHERRY_DONE && done.kind != WHERRY_FAILED))
		return wherry_fail(m, WHERRY_CALL_RECEIVE, EPROTO);
	if (done.kind == WHERRY_FAILED) {
		m->failed_value = done.value;
		return wherry_fail(m, (enum wherry_call)done.call, done.error);
	}
	return keep_answer_fd(m, m->code.step[step], &fd);
}

/* What travels with a request: the notify descriptor of a filter, or the console's master. */
static int request_fd(struct wherry_machine *m, const struct wherry_op *op)
{
	if (op->code == OP_LISTENER)
		return m->registers[((const struct wherry_op_listener *)op)->listener];
	return op->code == OP_PUBLISH ? m->pending_fd : -1;
}

static void forget_request_fd(struct wherry_machine *m, const struct wherry_op *op)
{
	if (op->code == OP_LISTENER)
		wherry_set_register(m, ((const struct wherry_op_listener *)op)->listener, -1);
	else if (op->code == OP_PUBLISH)
		wherry_close(&m->pending_fd);
}

/* An ordinary user may look into a container of his that is created (exec joins its namespaces) only where its process is not hidden: it has
 * executed nothing in the user namespace that he owns, so its memory counts as his own namespace's, over which he has no power. It is alone in
 * its pid namespace, so nobody in the container can look into it; what it holds is his. */
static void show_to_owner(const struct wherry_machine *m)
{
	const uint32_t needed = WHERRY_PLAN_ROOTLESS | WHERRY_PLAN_NEW_USER;

	if ((m->code.plan->flags & (needed | WHERRY_PLAN_SHARED_PID | WHERRY_PLAN_EXEC)) == needed)
		prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
}

/* Where nobody answers. It fails where nobody reads, and then nothing is executed. */
static int tell_caller(struct wherry_machine *m, struct walk *walk, uint32_t step)
{
	const struct wherry_message run = { .kind = WHERRY_RUN, .step = step };

	if (wherry_write_all(m->result_fifo, &run, sizeof(run)) == 0)
		return 0;
	walk->silent = true;
	return wherry_fail_errno(m, WHERRY_CALL_SEND);
}

static int ask_caller(struct wherry_machine *m, struct walk *walk, uint32_t step)
{
	const struct wherry_op *op = m->code.step[step];
	const struct wherry_message run = { .kind = WHERRY_RUN, .step = step };
	struct wherry_message done;
	int error = await_announcement(m, walk);

	if (op->code == OP_PUBLISH)
		show_to_owner(m);
	if (!error && m->requested != step) /* OP_SECCOMP's helper has asked for a listener already */
		error = send_to_caller(m, &run, request_fd(m, op));
	if (!error)
		error = receive_from_caller(m, &done);
	if (!error && (done.step != step || done.kind != WHERRY_DONE))
		error = -ECANCELED;
	/* its own failure it knows; its end leaves nobody to tell */
	walk->silent |= error != 0;
	if (!error)
		forget_request_fd(m, op);
	return error;
}

/* ---- created ---------------------------------------------------------------------------------------------------------------- */

/* The first process of a pid namespace does not feel a signal whose disposition is the default: a created container could not be ended
 * by SIGTERM. A blocked signal is kept for it all the same, so init reads its signals from a descriptor, and there are no handlers to
 * set and to take away. Made before any filter of the user's is loaded. */
static int collect_signals(struct wherry_machine *m)
{
	uint64_t all = ~(uint64_t)0;

	if (sys_signal_mask(SIG_SETMASK, all, NULL) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_SIGNAL);
	if (m->code.plan->flags & WHERRY_PLAN_EXEC) /* it waits for no start */
		return 0;
	m->signals = (int)syscall(SYS_signalfd4, -1, &all, sizeof(all), SFD_CLOEXEC | SFD_NONBLOCK);
	return m->signals < 0 ? wherry_fail_errno(m, WHERRY_CALL_SIGNAL) : 0;
}

static bool terminates(uint32_t signal)
{
	static const uint8_t others[] = { SIGCHLD, SIGCONT, SIGURG, SIGWINCH, SIGTSTP, SIGTTIN, SIGTTOU };

	for (size_t i = 0; i < WHERRY_LENGTH(others); i++)
		if (others[i] == signal)
			return false;
	return true;
}

/* False where there is nothing to be read, now or ever. */
static bool take_signal(struct wherry_machine *m)
{
	struct signalfd_siginfo info;

	if (read(m->signals, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return false;
	if (terminates(info.ssi_signo))
		_exit(128 + (int)info.ssi_signo);
	return true;
}

/* The start fifo is open for writing here too, so there is no end of file to wait for, and no reader but us. */
int wherry_await_start(struct wherry_machine *m)
{
	struct pollfd items[] = { { .fd = m->start_fifo, .events = POLLIN }, { .fd = m->signals > 0 ? m->signals : -1, .events = POLLIN } };
	char byte;

	/* a filter without poll: no signal ends us, but the start comes through */
	while (TEMP_FAILURE_RETRY(poll(items, WHERRY_LENGTH(items), -1)) > 0)
		if (!items[1].revents || !take_signal(m))
			break;
	if (TEMP_FAILURE_RETRY(read(m->start_fifo, &byte, 1)) != 1)
		return wherry_fail_errno(m, WHERRY_CALL_READ);
	if (m->signals > 0)
		wherry_close(&m->signals);
	return sys_signal_mask(SIG_SETMASK, 0, NULL) < 0 ? wherry_fail_errno(m, WHERRY_CALL_SIGNAL) : 0;
}

/* ---- the walk ------------------------------------------------------------------------------------------------------------------ */

static int run_own(struct wherry_machine *m, struct walk *walk, uint32_t step)
{
	const struct wherry_op *op = m->code.step[step];
	int error = wherry_run_step(m, step);

	if (op->code == OP_ATTACH_TASKS && (error == -EACCES || error == -EPERM) && !m->by_caller)
		return ask_launcher(m, walk, step);
	return error;
}

static int run_any(struct wherry_machine *m, struct walk *walk, uint32_t step)
{
	const struct wherry_op *op = m->code.step[step];
	int error = 0;

	m->current = step;
	m->failed_call = WHERRY_CALL_NONE;
	m->failed_value = 0;
	if (op->code == OP_SECCOMP) /* its helper speaks to the caller, and init may not be able to any more */
		error = await_announcement(m, walk);
	if (error)
		return error;
	switch ((enum wherry_executor)op->executor) {
	case WHERRY_LAUNCHER:
		return ask_launcher(m, walk, step);
	case WHERRY_CALLER:
		return m->caller < 0 ? tell_caller(m, walk, step) : ask_caller(m, walk, step);
	case WHERRY_INIT:
		break;
	}
	return run_own(m, walk, step);
}

/* With its maps init is a process of its own user namespace: from here on nobody shall look into it. (Whoever could not map a hidden
 * process has joined it by now.) Changing the ids would have hidden it too, but not where they stay the same. */
static int hide_after_maps(struct wherry_machine *m)
{
	return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ? wherry_fail_errno(m, WHERRY_CALL_DUMPABLE) : 0;
}

/* What a step that went well leaves behind. */
static int settle(struct wherry_machine *m, struct walk *walk, uint32_t step)
{
	uint16_t code = m->code.step[step]->code;

	if (walk->announced && step >= walk->last_served)
		wherry_close(&m->helper);
	if (code == OP_WRITE_MAPS)
		return hide_after_maps(m);
	if (code != OP_PUBLISH)
		return 0;
	m->published = true;
	/* cgroup directories of the host among them: a created container holds its fifos and nothing else */
	for (uint16_t i = 0; i < WHERRY_MAX_REGISTERS; i++)
		wherry_set_register(m, i, -1);
	wherry_close(&m->caller);
	return 0;
}

/* To the caller as long as it listens, then to whoever starts the container. */
static void report_failure(struct wherry_machine *m, struct walk *walk, int error)
{
	const struct wherry_message failure = {
		.kind = WHERRY_FAILED, .step = m->current, .error = -error, .call = m->failed_call, .value = m->failed_value,
	};

	if (m->published || (m->caller < 0 && !walk->silent)) {
		wherry_write_all(m->result_fifo, &failure, sizeof(failure));
		return;
	}
	if (!walk->silent && !await_announcement(m, walk))
		send_to_caller(m, &failure, -1);
}

/* Its own session: no signal of the caller's terminal reaches the container, and the console can become its terminal. */
static int begin(struct wherry_machine *m)
{
	m->executor = WHERRY_INIT;
	wherry_close(&m->init_pidfd);
	for (size_t i = 0; m->by_caller && i < WHERRY_CALLERS; i++)
		wherry_close(&m->callers[i]);
	wherry_decimal((uint64_t)getpid(), m->own_pid);
	m->slots[WHERRY_SLOT_PID] = m->own_pid;
	if (setsid() < 0)
		return wherry_fail_errno(m, WHERRY_CALL_SETSID);
	return collect_signals(m);
}

int wherry_init_main(struct wherry_machine *m, int error)
{
	struct walk walk = { .last_served = wherry_last_served(&m->code), .announced = m->by_caller };
	uint32_t step = m->current + 1;

	if (!error)
		error = begin(m);
	for (; !error && step < m->code.steps; step++) {
		error = run_any(m, &walk, step);
		if (!error)
			error = settle(m, &walk, step);
	}
	/* a config without a process has nothing to execute: its start fails, as the end of any plan that comes back does */
	report_failure(m, &walk, error ? error : wherry_fail(m, WHERRY_CALL_EXECVE, WHERRY_PROGRAM_NOT_FOUND));
	return FAILED;
}
