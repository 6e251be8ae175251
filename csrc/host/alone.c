/* SPDX-License-Identifier: Apache-2.0
 *
 * An exec in one fork. What fork costs is most of an exec, so neither launcher nor helper stands between who is asked for it and the process: that one is
 * cloned into the container's pid namespace (and its v2 cgroup), does what a launcher would do, and goes on as init. Whatever may hang hangs there, and
 * who has cloned it goes on with his work: the end of a pipe says that the program executes, and what comes through it what failed.
 */
#include "parts.h"

#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

/* ---- before the clone ----------------------------------------------------------------------------------------------------- */

static const struct wherry_op *find(const struct wherry_code *code, uint16_t wanted, uint32_t *step)
{
	for (*step = 0; *step < code->steps; ++*step)
		if (code->step[*step]->code == wanted)
			return code->step[*step];
	return NULL;
}

/* Namespaces that are joined by their paths are so on kernels where a pid namespace cannot be joined by a pidfd. */
static bool is_alone(const struct host_create *c)
{
	const struct wherry_code *code = &c->machine.code;
	uint32_t step;

	return !wherry_asks_caller(code) && !c->request.pid_file && c->pidfd_socket < 0 && wherry_may_launch_itself(code) &&
	       !find(code, OP_OPEN_NAMESPACE, &step);
}

static int fail(struct host_create *c, int result)
{
	host_fail(c, c->machine.current, result);
	host_create_release(c);
	return result;
}

int host_alone_open(struct host_create *c, const struct host_request *request)
{
	uint32_t launch = 0;
	int result = host_exec_prepare(c, request, &launch);

	if (result < 0)
		return fail(c, result);
	if (!is_alone(c)) {
		host_create_release(c);
		return 1;
	}
	for (uint32_t step = 0; result == 0 && step < launch; step++)
		result = host_run_step(c, step);
	return result < 0 ? fail(c, result) : 0;
}

/* ---- the clone ------------------------------------------------------------------------------------------------------------ */

/* 0: the plan joins none. Else what we clone next is there: 1, or -errno as of the step that joins it. */
static int enter_pids(struct wherry_machine *m, int target)
{
	for (uint32_t step = 0; step < m->code.steps; step++) {
		const struct wherry_op_join *op = (const void *)m->code.step[step];

		if (op->op.code != OP_JOIN || op->op.executor != WHERRY_LAUNCHER || !(op->type & CLONE_NEWPID))
			continue;
		if (setns(target, CLONE_NEWPID) == 0)
			return 1;
		m->current = step;
		return wherry_fail_errno(m, WHERRY_CALL_SETNS);
	}
	return 0;
}

/* While the container's first process ends its pid namespace takes nobody: ENOMEM. */
static pid_t clone_there(struct host_create *c, const struct wherry_op_clone *op, int own_pids)
{
	struct wherry_machine *m = &c->machine;
	int joins = enter_pids(m, c->request.target);
	pid_t pid;

	if (joins < 0)
		return joins;
	pid = wherry_clone_ahead(m, op);
	if (pid != 0 && joins && setns(own_pids, CLONE_NEWPID) < 0) /* our own: or all that we make from here on would be the container's */
		abort();
	return pid;
}

pid_t host_alone_clone(struct host_create *c, int own_pids)
{
	struct wherry_machine *m = &c->machine;
	const struct wherry_op_clone *op = (const void *)find(&m->code, OP_CLONE, &m->current);
	int result = host_check_target(c);
	pid_t pid;

	if (result < 0)
		return fail(c, wherry_fail(m, WHERRY_CALL_NONE, -result));
	result = host_open_execution(c);
	if (result == 0 && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) /* it is among the container's processes before it can hide itself */
		result = wherry_fail_errno(m, WHERRY_CALL_DUMPABLE);
	if (result < 0)
		return fail(c, result);
	pid = clone_there(c, op, own_pids);
	if (pid < 0 && host_check_target(c) < 0)
		pid = wherry_fail(m, WHERRY_CALL_NONE, ESRCH);
	if (pid < 0)
		return fail(c, pid);
	if (pid > 0) {
		int execution = wherry_steal(&c->execution), pidfd = wherry_steal(&m->init_pidfd);

		fcntl(execution, F_SETFL, O_NONBLOCK); /* whoever still has its other end */
		host_create_release(c);
		c->execution = execution;
		m->init_pidfd = pidfd;
		m->init = pid;
	}
	return pid;
}

/* ---- the child ------------------------------------------------------------------------------------------------------------ */

/* The first of all: it is seen from the container, and has everything that its parent has. */
static int keep_own(struct host_create *c)
{
	struct wherry_machine *m = &c->machine;
	const uint16_t registers = m->code.plan->inherited_registers;
	int *own[3 + WHERRY_MAX_REGISTERS] = { &m->result_fifo, &m->start_fifo, &c->request.target };
	int fds[WHERRY_LENGTH(own) + 3], result;
	size_t count = 3;

	for (int i = 0; i < 3; i++)
		fds[i] = c->request.stdio[i] >= 0 ? c->request.stdio[i] : i;
	for (uint16_t i = 0; i < registers; i++)
		own[3 + i] = &m->registers[i];
	for (size_t i = 0; i < 3U + registers; i++) {
		if (*own[i] < 0)
			continue;
		fds[count] = *own[i];
		*own[i] = (int)count++;
	}
	result = wherry_place_fds(fds, count);
	result = result < 0 ? result : wherry_close_from((int)count);
	result = result < 0 ? result : wherry_cloexec_from(3);
	c->execution = m->init_pidfd = -1;
	for (size_t i = 0; i < WHERRY_LENGTH(m->callers); i++)
		m->callers[i] = -1;
	return result < 0 ? wherry_fail(m, WHERRY_CALL_DUP, -result) : 0;
}

/* Nobody is asked whether the container lives still, so this is the last moment to look: its namespaces have been joined, and what is in its pid
 * namespace ends with that. */
void host_alone_become(struct host_create *c)
{
	struct wherry_machine *m = &c->machine;
	int result = keep_own(c);

	if (result == 0)
		result = wherry_prepare_clone(m);
	if (result == 0 && host_check_target(c) < 0)
		result = wherry_fail(m, WHERRY_CALL_NONE, ESRCH);
	wherry_close(&c->request.target);
	_exit(wherry_go_on_as_init(m, result));
}

/* ---- how it went ----------------------------------------------------------------------------------------------------------- */

/* Its publication, and what failed before that or behind it. */
int host_alone_result(int execution, struct wherry_message *failure)
{
	struct wherry_message said[2];
	ssize_t size = TEMP_FAILURE_RETRY(read(execution, said, sizeof(said)));
	size_t count = size > 0 ? (size_t)size / sizeof(said[0]) : 0;

	*failure = (struct wherry_message){ .kind = WHERRY_FAILED, .step = UINT32_MAX, .error = size < 0 ? errno : EPROTO };
	if (size == 0)
		failure->error = WHERRY_INIT_DIED;
	else if (size > 0 && count * sizeof(said[0]) == (size_t)size && said[count - 1].kind == WHERRY_FAILED && said[count - 1].error > 0)
		*failure = said[count - 1];
	else if (size == (ssize_t)sizeof(said[0]) && said[0].kind == WHERRY_RUN)
		return 0;
	return -failure->error;
}
