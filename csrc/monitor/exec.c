/* SPDX-License-Identifier: Apache-2.0
 *
 * An exec in one fork: the process is cloned here and makes itself (host/alone.c), while we go on. Its pipe comes to its end when its program executes, or
 * when it has failed. It is our child from the start, and until then it is told of by nobody.
 */
#include "monitor.h"

#include <sys/mman.h>
#include <sys/wait.h>

_Static_assert(offsetof(struct monitor, create.machine.code.step) + 64 * sizeof(void *) <= 4096, "what is written for every exec is one page");

static void become(struct monitor *m, const struct monitor_message *r) __attribute__((noreturn));

/* In the child. */
static void become(struct monitor *m, const struct monitor_message *r)
{
	helper_lower_files();
	if (r->head.length[TEXT_EXTRA]) /* execCPUAffinity.initial: where the runtime itself runs until then */
		sys_sched_setaffinity(0, r->head.length[TEXT_EXTRA], r->text[TEXT_EXTRA]);
	host_alone_become(&m->create);
}

static int make(struct monitor *m, struct process *p, const struct monitor_message *r, struct host_request *request)
{
	int result;
	pid_t pid;

	if (m->pids < 0)
		m->pids = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
	if (m->pids < 0)
		return 1;
	result = host_alone_open(&m->create, request);
	if (result)
		return result;
	pid = host_alone_clone(&m->create, m->pids);
	if (pid == 0) /* `p` is not written before: the child would have a copy */
		become(m, r);
	if (pid < 0)
		return pid;
	p->pid = pid;
	p->execution = wherry_steal(&m->create.execution);
	p->pidfd = wherry_steal(&m->create.machine.init_pidfd);
	p->deadline = m->create.deadline;
	return 0;
}

int exec_begin(struct monitor *m, struct process *p, const struct monitor_message *r)
{
	struct host_request request = { 0 };
	int result;

	if (r->head.kind != MONITOR_EXEC)
		return 1;
	result = helper_request(r, &request);
	if (result < 0)
		return result;
	request.directory = m->directory_path;
	request.kept = &m->kept;
	result = make(m, p, r, &request);
	if (result < 0)
		p->failure = m->create.failure;
	if (request.plan_size)
		munmap((void *)(uintptr_t)request.plan, request.plan_size);
	return result;
}

bool exec_under_way(const struct process *p)
{
	return p->execution >= 0 || p->failure.kind;
}

bool exec_made(struct process *p)
{
	int result = host_alone_result(p->execution, &p->failure);

	wherry_close(&p->execution);
	if (result < 0)
		return false;
	p->failure = (struct wherry_message){ .kind = 0 };
	return true;
}

/* As waitpid() says it. */
void exec_ended(struct process *p, const siginfo_t *info)
{
	if (p->failure.error == WHERRY_INIT_DIED && p->deadline < 0)
		p->failure.error = WHERRY_DEADLINE;
	else if (p->failure.error == WHERRY_INIT_DIED)
		p->failure.value = (uint64_t)(uint32_t)info->si_status << (info->si_code == CLD_EXITED ? 8 : 0);
}

int exec_tend(struct monitor *m)
{
	int64_t now = -1, next = INT32_MAX;

	for (uint32_t i = 0; i < m->processes; i++) {
		struct process *p = m->process[i];

		if (p->execution < 0 || p->deadline < 0)
			continue;
		now = now < 0 ? host_now_ms() : now;
		if (p->deadline <= now) {
			kill(p->pid, SIGKILL); /* our child, not reaped yet */
			p->deadline = -1;
		} else if (p->deadline - now < next) {
			next = p->deadline - now;
		}
	}
	return next < INT32_MAX ? (int)next : -1;
}
