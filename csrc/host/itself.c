/* SPDX-License-Identifier: Apache-2.0
 *
 * An exec without a launcher: a process that is there for it alone joins the container's namespaces and clones init itself. What fork costs is most of
 * an exec. No word is needed between what would be launcher and caller, and none between caller and init where init has no question: then there is no
 * socket either, and the pipe that says how the execution went says everything.
 */
#include "parts.h"

#include <sched.h>
#include <string.h>
#include <sys/socket.h>

static int take_stdio(const struct host_create *c)
{
	cleanup_fd int null = -1;
	int fds[3];

	for (int i = 0; i < 3; i++) {
		fds[i] = host_stdio(c, i, &null);
		if (fds[i] < 0)
			return -errno;
	}
	return wherry_place_fds(fds, WHERRY_LENGTH(fds));
}

static bool is_asked(const struct host_create *c)
{
	return wherry_asks_caller(&c->machine.code) || c->request.pid_file || c->pidfd_socket >= 0;
}

/* Init cannot ask whether the container lives still, so this is the last moment: its namespaces have been joined, and what comes into its
 * pid namespace ends with that. */
static int clone_init(struct host_create *c, int socket)
{
	struct wherry_machine *m = &c->machine;
	int result = host_check_target(c);

	if (result < 0)
		return wherry_fail(m, WHERRY_CALL_NONE, -result);
	m->callers[0] = socket;
	m->callers[1] = c->execution;
	m->callers[2] = c->request.target;
	for (size_t i = 0; i < WHERRY_LENGTH(c->request.own); i++)
		m->callers[3 + i] = c->request.own[i];
	result = wherry_clone_itself(m);
	wherry_close(&m->start_fifo);
	wherry_close(&m->result_fifo);
	wherry_decimal((uint64_t)m->init, c->slot_pid);
	return result;
}

static int clone_asking(struct host_create *c)
{
	struct wherry_machine *m = &c->machine;
	int pair[2], result;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_SOCKETPAIR);
	m->caller = pair[1];
	result = clone_init(c, pair[0]);
	wherry_close(&m->caller);
	m->caller = pair[0];
	return result;
}

/* As if a step of ours had failed. */
static int take_failure(struct wherry_machine *m, const struct wherry_message *failure)
{
	m->current = failure->step;
	m->failed_value = failure->value;
	return wherry_fail(m, (enum wherry_call)failure->call, failure->error);
}

/* Init writes its publication and goes on. That is of no use to us before the end of the pipe, which alone wakes us; what comes behind it is for
 * host_await_execution(). An end without it is init's: then no program was executed. */
static int await_publication(struct host_create *c)
{
	struct wherry_message message;
	int result = host_await_pipe(c, 0);
	ssize_t size;

	if (result < 0)
		return result;
	size = read(c->execution, &message, sizeof(message));
	if (size == 0)
		return host_report_death(c);
	if (size == sizeof(message) && message.kind == WHERRY_FAILED && message.error > 0)
		return take_failure(&c->machine, &message);
	if (size != sizeof(message) || message.kind != WHERRY_RUN)
		return host_refuse(c, c->machine.current, WHERRY_CALL_READ, EPROTO, 0);
	c->finished = true;
	return 0;
}

static int clone_silent(struct host_create *c)
{
	int result = clone_init(c, -1);

	return result < 0 ? result : await_publication(c);
}

int host_launch_itself(struct wherry_machine *m)
{
	struct host_create *c = host_of(m);
	int result = take_stdio(c);

	if (result < 0)
		return wherry_fail(m, WHERRY_CALL_DUP, -result);
	for (uint16_t i = m->code.plan->inherited_registers; i < WHERRY_MAX_REGISTERS; i++)
		wherry_set_register(m, i, -1); /* directories of the host, which no launcher would have */
	m->cloned = c->request.cloned;
	result = wherry_prepare_clone(m);
	if (result < 0)
		return result;
	return is_asked(c) ? clone_asking(c) : clone_silent(c);
}

/* ---- once more ------------------------------------------------------------------------------------------------------------ */

/* By path: then what is joined again would have to be opened and looked at again. */
static bool joins_by_path(const struct wherry_code *code)
{
	for (uint32_t step = 0; step < code->steps; step++)
		if (code->step[step]->code == OP_OPEN_NAMESPACE)
			return true;
	return false;
}

/* A root directory would be the container's. */
bool host_exec_stays(const struct host_create *c)
{
	const struct wherry_machine *m = &c->machine;

	return m->by_caller && m->cloned && *m->cloned == m->init && m->rootfs < 0 && !is_asked(c) && !joins_by_path(&m->code);
}

/* A process may leave its namespaces for others: those that it has now. */
static int join_anew(struct host_create *c)
{
	const struct wherry_code *code = &c->machine.code;

	for (uint32_t step = 0; step < code->steps; step++) {
		const struct wherry_op_join *op = (const void *)code->step[step];

		if (op->op.code == OP_JOIN && op->op.executor == WHERRY_LAUNCHER && setns(c->request.target, (int)op->type) < 0)
			return host_refuse(c, step, WHERRY_CALL_SETNS, errno, 0);
	}
	return 0;
}

/* Forty calls, and 0.06 ms: now nobody waits for them. */
bool host_exec_stay(struct host_create *c)
{
	return wherry_bound_itself(&c->machine) == 0;
}

int host_exec_again(struct host_create *c, const int stdio[3])
{
	struct wherry_machine *m = &c->machine;
	int result = join_anew(c);

	if (result < 0)
		return result;
	wherry_close(&m->init_pidfd);
	m->init = 0;
	c->deadline = host_now_ms() + host_deadline_ms(&c->request);
	memcpy(c->request.stdio, stdio, sizeof(c->request.stdio));
	result = host_open_execution(c);
	if (result == 0) {
		result = take_stdio(c);
		result = result < 0 ? wherry_fail(m, WHERRY_CALL_DUP, -result) : clone_silent(c);
	}
	if (result < 0)
		host_fail(c, m->current, result);
	return host_exec_end(c, result);
}
