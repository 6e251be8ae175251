/* SPDX-License-Identifier: Apache-2.0
 *
 * Loads the seccomp filter, and gets its notify descriptor out.
 *
 * With a listener there is a trap: the filter may send sendmsg() itself to the supervisor, which cannot answer because it has no
 * descriptor yet. So the filter's process makes no system call between loading it and the supervisor's having it. A helper,
 * forked before, sends it: CLONE_FILES gives it the descriptor the moment it exists, and a shared page tells it the number. What it
 * sends is the request for the next step (OP_LISTENER), so init only waits for that step's answer; a recvmsg() that the filter
 * holds back is answered by then.
 *
 *     init                         helper                        caller
 *     fork ----------------------> waits for the number
 *     seccomp() = N
 *     page: N  ................... sees N
 *                                  WHERRY_RUN step+1, fd N ----> sends it to listenerPath
 *     waits  <--------------------------------------------------- WHERRY_DONE
 */
#include "wherry/core.h"
#include "wherry/sys.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#ifndef SECCOMP_FILTER_FLAG_NEW_LISTENER
#define SECCOMP_FILTER_FLAG_NEW_LISTENER (1UL << 3)
#endif

enum {
	NOT_YET = -1,
	GIVEN_UP = -2, /* the filter was refused */
	HELPER_NAP_NS = 20 * 1000,
};

/* The page that init and its helper share. */
struct handover {
	pid_t init;
	int notify; /* descriptor number, NOT_YET or GIVEN_UP */
};

static int load(const struct wherry_machine *m, const struct wherry_op_seccomp *op, unsigned int flags)
{
	struct sock_fprog program = {
		.len = (unsigned short)(op->filter.length / sizeof(struct sock_filter)),
		.filter = (struct sock_filter *)(uintptr_t)wherry_bytes(&m->code, op->filter),
	};

	return sys_seccomp(SECCOMP_SET_MODE_FILTER, flags, &program);
}

/* The helper. It ends with init: nobody else would end it. */
static void helper_main(struct wherry_machine *m, const struct handover *page)
{
	const struct timespec nap = { .tv_nsec = HELPER_NAP_NS };
	const struct wherry_message request = { .kind = WHERRY_RUN, .step = m->current + 1 };
	int notify;

	while ((notify = __atomic_load_n(&page->notify, __ATOMIC_ACQUIRE)) == NOT_YET) {
		if (getppid() != page->init)
			_exit(1);
		nanosleep(&nap, NULL);
	}
	if (notify == GIVEN_UP)
		_exit(0);
	_exit(wherry_send(m->caller, &request, notify) < 0);
}

/* Init would have to wait for it after the filter is in force, and wait4() may be filtered: the kernel reaps it instead. execve and
 * wherry_reset_signals() undo this. */
static void let_kernel_reap(void)
{
	const struct sigaction action = { .sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT };

	sigaction(SIGCHLD, &action, NULL);
}

static pid_t fork_helper(struct wherry_machine *m, struct handover *page)
{
	struct clone_args args = { .flags = CLONE_FILES, .exit_signal = SIGCHLD };
	pid_t pid;

	let_kernel_reap();
	pid = sys_clone3(&args, sizeof(args));
	if (pid == 0)
		helper_main(m, page);
	return pid;
}

static int load_with_listener(struct wherry_machine *m, const struct wherry_op_seccomp *op, struct handover *page)
{
	/* one thread: there is nothing to synchronise, and the kernel refuses both flags together */
	unsigned int flags = (op->flags & ~(unsigned int)SECCOMP_FILTER_FLAG_TSYNC) | SECCOMP_FILTER_FLAG_NEW_LISTENER;
	int notify;

	page->init = getpid();
	page->notify = NOT_YET;
	if (fork_helper(m, page) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_FORK);
	notify = load(m, op, flags);
	/* from here to the answer of the next step: no system call but the wait for it */
	__atomic_store_n(&page->notify, notify < 0 ? GIVEN_UP : notify, __ATOMIC_RELEASE);
	if (notify < 0)
		return wherry_fail_errno(m, WHERRY_CALL_SECCOMP);
	m->registers[op->listener] = notify;
	m->requested = m->current + 1;
	return 0;
}

int op_seccomp(struct wherry_machine *m, const struct wherry_op_seccomp *op)
{
	struct handover *page;

	if (op->listener == WHERRY_NO_REGISTER)
		return load(m, op, op->flags) < 0 ? wherry_fail_errno(m, WHERRY_CALL_SECCOMP) : 0;
	if (m->current + 1 >= m->code.steps || m->code.step[m->current + 1]->code != OP_LISTENER || m->registers[op->listener] >= 0)
		return wherry_fail(m, WHERRY_CALL_SECCOMP, WHERRY_BAD_PLAN);
	page = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		return wherry_fail_errno(m, WHERRY_CALL_SECCOMP);
	return load_with_listener(m, op, page); /* the page stays: munmap() would be a system call too */
}
