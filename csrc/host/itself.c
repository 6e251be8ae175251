/* SPDX-License-Identifier: Apache-2.0
 *
 * An exec without a launcher: a process that is there for it alone joins the container's namespaces, clones init itself, and answers its questions (a
 * terminal, a listener, a pid file). Where init has none, not even this process is needed: alone.c.
 */
#include "parts.h"

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

/* The socket between the two is what questions come by. */
static int clone_init(struct host_create *c)
{
	struct wherry_machine *m = &c->machine;
	int pair[2], result;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_SOCKETPAIR);
	m->callers[0] = pair[0];
	m->callers[1] = c->execution;
	m->callers[2] = c->request.target;
	for (size_t i = 0; i < WHERRY_LENGTH(c->request.own); i++)
		m->callers[3 + i] = c->request.own[i];
	m->caller = pair[1];
	result = wherry_clone_itself(m);
	wherry_close(&m->caller);
	m->caller = pair[0];
	wherry_close(&m->start_fifo);
	wherry_close(&m->result_fifo);
	wherry_decimal((uint64_t)m->init, c->slot_pid);
	return result;
}

int host_launch_itself(struct wherry_machine *m)
{
	struct host_create *c = host_of(m);
	int result = take_stdio(c);

	if (result < 0)
		return wherry_fail(m, WHERRY_CALL_DUP, -result);
	for (uint16_t i = m->code.plan->inherited_registers; i < WHERRY_MAX_REGISTERS; i++)
		wherry_set_register(m, i, -1); /* directories of the host, which no launcher would have */
	result = wherry_prepare_clone(m);
	return result < 0 ? result : clone_init(c);
}
