/* SPDX-License-Identifier: Apache-2.0
 *
 * The caller as a server: from the launch to the commit init walks the plan, and asks here for each step that is the caller's. Steps
 * come once and in order. Every wait has the socket, both pidfds and the deadline; the time that hooks take does not count.
 */
#include "parts.h"

#include <poll.h>
#include <string.h>
#include <sys/wait.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

enum { LAST_WORDS_MS = 2000 }; /* between the end of the socket and the exit status */

/* ---- failures ------------------------------------------------------------------------------------------------------------ */

int host_fail(struct host_create *c, uint32_t step, int result)
{
	c->failure = (struct wherry_message){
		.kind = WHERRY_FAILED, .step = step, .error = -result, .call = c->machine.failed_call, .value = c->machine.failed_value,
	};
	return result;
}

int host_refuse(struct host_create *c, uint32_t step, enum wherry_call call, int error, uint64_t value)
{
	c->machine.failed_call = call;
	c->machine.failed_value = value;
	return host_fail(c, step, -error);
}

/* As waitpid() would say it; 0 where somebody else has reaped. The process is left for whoever cleans up. */
static uint64_t last_status(int pidfd)
{
	struct pollfd item = { .fd = pidfd, .events = POLLIN };
	siginfo_t info = { .si_pid = 0 };

	if (pidfd < 0 || TEMP_FAILURE_RETRY(poll(&item, 1, LAST_WORDS_MS)) <= 0 ||
	    TEMP_FAILURE_RETRY(waitid((idtype_t)P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOWAIT)) < 0)
		return 0;
	return info.si_code == CLD_EXITED ? (uint64_t)(uint32_t)info.si_status << 8 : (uint64_t)(uint32_t)info.si_status;
}

/* The socket has ended without a word. */
int host_report_death(struct host_create *c)
{
	if (c->machine.init_pidfd >= 0)
		return host_refuse(c, c->machine.current, WHERRY_CALL_NONE, WHERRY_INIT_DIED, last_status(c->machine.init_pidfd));
	return host_refuse(c, c->machine.current, WHERRY_CALL_NONE, WHERRY_LAUNCHER_DIED, last_status(c->launcher_pidfd));
}

/* ---- the caller's operations ------------------------------------------------------------------------------------------------ */

static int run_hook(struct wherry_machine *m, const struct wherry_op_hook *op)
{
	int64_t before = host_now_ms();
	int result = op_hook(m, op);

	host_of(m)->deadline += host_now_ms() - before;
	return result;
}

/* Python's part, where there is one: then this is the moment at which begin, or finish, returns. */
static int pause_for_interlude(struct wherry_machine *m, const struct wherry_op *op)
{
	(void)op;
	host_of(m)->waiting = m->code.plan->flags & WHERRY_PLAN_INTERLUDE;
	return 0;
}

#define OPERATIONS(X) \
	X(OP_CLAIM, op_claim) \
	X(OP_MOUNT_POINT, op_mount_point) \
	X(OP_CGROUP_DIRECTORY, op_cgroup_directory) \
	X(OP_CGROUP_CONTROLLERS, op_cgroup_controllers) \
	X(OP_CGROUP_CPUSET, op_cgroup_cpuset) \
	X(OP_CGROUP_WRITE, op_cgroup_write) \
	X(OP_CGROUP_DEVICES, op_cgroup_devices) \
	X(OP_CGROUP_CHOWN, op_cgroup_chown) \
	X(OP_OPEN_TASKS, op_open_tasks) \
	X(OP_OPEN_TARGET, op_open_target) \
	X(OP_LAUNCH, op_launch) \
	X(OP_HOOK, run_hook) \
	X(OP_NETWORK_DEVICES, pause_for_interlude) \
	X(OP_UNIT, pause_for_interlude) \
	X(OP_LISTENER, op_listener) \
	X(OP_PUBLISH, op_publish)

static int dispatch(struct wherry_machine *m, const struct wherry_op *op)
{
	switch (op->code) {
#define RUN(opcode, function) \
	case opcode: \
		return function(m, (const void *)op);
		OPERATIONS(RUN)
#undef RUN
	}
	return wherry_fail(m, WHERRY_CALL_NONE, WHERRY_BAD_PLAN);
}

int host_run_step(struct host_create *c, uint32_t step)
{
	struct wherry_machine *m = &c->machine;
	int result;

	m->current = step;
	m->failed_call = WHERRY_CALL_NONE;
	m->failed_value = 0;
	wherry_stamp(m, step, false);
	result = dispatch(m, m->code.step[step]);
	wherry_stamp(m, step, true);
	return result < 0 ? host_fail(c, m->current, result) : 0; /* OP_LAUNCH may have come further */
}

/* ---- messages --------------------------------------------------------------------------------------------------------------- */

int host_answer(struct host_create *c, uint32_t step, int result)
{
	const struct wherry_message answer = { .kind = result < 0 ? WHERRY_FAILED : WHERRY_DONE, .step = step, .error = -result };
	int sent = wherry_send(c->machine.caller, &answer, -1);

	if (result < 0)
		return result;
	if (sent < 0)
		return sent == -EPIPE ? host_report_death(c) : host_refuse(c, step, WHERRY_CALL_SEND, -sent, 0);
	c->finished |= c->machine.code.step[step]->code == OP_PUBLISH;
	return 0;
}

/* The launcher tells of init, with a pidfd: from here on every use of the number is backed by it. */
static int meet_init(struct host_create *c, const struct wherry_message *message, int *fd)
{
	struct wherry_machine *m = &c->machine;
	char state;
	int result;

	if (m->init || *fd < 0 || message->value == 0 || message->value > INT32_MAX)
		return host_refuse(c, message->step, WHERRY_CALL_RECEIVE, EPROTO, message->value);
	m->init = (pid_t)message->value;
	m->init_pidfd = wherry_steal(fd);
	m->current = message->step;
	/* init may be dead by now, or even reaped where SIGCHLD is ignored, and what it said of its end still to come */
	result = host_process(m->init, &state, &c->start_time);
	if (result < 0 && result != -ESRCH)
		return host_refuse(c, message->step, WHERRY_CALL_OPEN, -result, 0);
	wherry_decimal(message->value, c->slot_pid);
	wherry_decimal(c->start_time, c->slot_start_time);
	return 0;
}

static int serve_step(struct host_create *c, const struct wherry_message *message, int *fd)
{
	struct wherry_machine *m = &c->machine;
	uint32_t step = message->step;
	int result;

	if (!m->init || step <= c->served || step >= m->code.steps || m->code.step[step]->executor != WHERRY_CALLER)
		return host_refuse(c, m->current, WHERRY_CALL_RECEIVE, EPROTO, step);
	c->served = step;
	wherry_close(&m->pending_fd);
	m->pending_fd = wherry_steal(fd);
	result = host_run_step(c, step);
	return c->waiting ? 0 : host_answer(c, step, result);
}

static int take_message(struct host_create *c)
{
	struct wherry_message message;
	cleanup_fd int fd = -1;
	int result = wherry_receive(c->machine.caller, &message, &fd);

	if (result == -EPIPE)
		return host_report_death(c);
	if (result < 0)
		return host_refuse(c, c->machine.current, WHERRY_CALL_RECEIVE, -result, 0);
	switch ((enum wherry_message_kind)message.kind) {
	case WHERRY_LAUNCHED:
		return meet_init(c, &message, &fd);
	case WHERRY_RUN:
		return serve_step(c, &message, &fd);
	case WHERRY_FAILED:
		c->failure = message;
		return message.error > 0 ? -message.error : host_refuse(c, message.step, WHERRY_CALL_RECEIVE, EPROTO, 0);
	case WHERRY_DONE:
		break;
	}
	return host_refuse(c, c->machine.current, WHERRY_CALL_RECEIVE, EPROTO, message.kind);
}

/* ---- waiting ------------------------------------------------------------------------------------------------------------------ */

static int time_left(const struct host_create *c)
{
	int64_t left = c->deadline - host_now_ms();

	return left <= 0 ? 0 : left > INT32_MAX ? INT32_MAX : (int)left;
}

/* What has been said is heard before a death is believed: the socket comes first. */
static int await_message(struct host_create *c)
{
	for (;;) {
		struct pollfd item[2] = { { .fd = c->machine.caller, .events = POLLIN }, { .fd = c->machine.init_pidfd, .events = POLLIN } };
		int left = time_left(c), ready;

		if (c->machine.init_pidfd < 0)
			item[1].fd = c->launcher_pidfd; /* once init exists, the launcher may go when it likes */
		ready = poll(item, 2, left);
		if (ready < 0 && errno != EINTR)
			return host_refuse(c, c->machine.current, WHERRY_CALL_POLL, errno, 0);
		if (ready > 0 && item[0].revents)
			return take_message(c);
		/* poll looks at one descriptor after the other: the last words may have come after the look at the socket */
		if (ready > 0 && item[1].revents)
			return poll(item, 1, 0) > 0 ? take_message(c) : host_report_death(c);
		if (left == 0)
			return host_refuse(c, c->machine.current, WHERRY_CALL_NONE, WHERRY_DEADLINE, 0);
	}
}

int host_serve(struct host_create *c)
{
	int result = 0;

	while (result == 0 && !c->finished && !c->waiting)
		result = await_message(c);
	return result;
}

int host_await_execution(struct host_create *c)
{
	struct pollfd item = { .fd = c->execution, .events = POLLIN };
	int got;

	while (poll(&item, 1, time_left(c)) < 0 && errno == EINTR)
		;
	if (!item.revents)
		return host_refuse(c, c->machine.current, WHERRY_CALL_NONE, WHERRY_DEADLINE, 0);
	got = host_read_result(c->execution, &c->failure);
	if (got == 1)
		return -c->failure.error;
	return got < 0 ? host_refuse(c, c->machine.current, WHERRY_CALL_READ, -got, 0) : 0;
}

/* The end of the socket says that init holds its two fifos and nothing else of ours. The launcher is our child, and has nothing left to
 * do once init has got its last step. */
void host_await_settled(struct host_create *c)
{
	struct pollfd item = { .fd = c->machine.caller, .events = POLLIN };
	int status;

	while (item.fd >= 0 && poll(&item, 1, time_left(c)) < 0 && errno == EINTR)
		;
	if (c->launcher_pidfd >= 0)
		wherry_wait_child(c->launcher, c->launcher_pidfd, time_left(c), &status);
	wherry_close(&c->launcher_pidfd);
	wherry_close(&c->machine.caller);
}
