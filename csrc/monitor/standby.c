/* SPDX-License-Identifier: Apache-2.0
 *
 * The monitor's side of the helper that stays: one for a container, for a second after its last exec. It has joined the container's namespaces, and the
 * next exec by the same plan is one clone. While it makes one it is that process's helper as any other; while it waits it is here.
 */
#include "monitor.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* Execs come one after the other, or every ten seconds as probes do: then it is cheaper to begin anew than to keep memory, and a namespace. */
enum { STAY_MS = 1000 };

void standby_prepare(struct monitor *m)
{
	void *word = mmap(NULL, sizeof(*m->word), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	m->word = word == MAP_FAILED ? NULL : word;
	m->standby.socket = -1;
}

static bool in_use(const struct monitor *m)
{
	for (uint32_t i = 0; i < m->processes; i++)
		if (m->process[i]->may_stay)
			return true;
	return false;
}

static bool ordinary(const struct monitor_message *r)
{
	return r->head.kind == MONITOR_EXEC && !r->head.length[TEXT_EXTRA] && !r->head.length[TEXT_PID_FILE];
}

static void assign(struct monitor *m, struct process *p)
{
	*m->word = (struct helper_word){ 0 };
	p->may_stay = true;
}

void standby_assign(struct monitor *m, struct process *p, const struct monitor_message *r)
{
	struct stat plan;

	if (!m->word || !ordinary(r) || in_use(m) || fstat(r->fd[MONITOR_FD_PLAN], &plan) < 0)
		return;
	standby_end(m); /* one of another plan */
	assign(m, p);
	p->plan_device = plan.st_dev;
	p->plan_file = plan.st_ino;
}

bool standby_take(struct monitor *m, struct process *p, const struct monitor_message *r)
{
	struct standby *s = &m->standby;
	struct stat plan;

	if (!s->pid || !ordinary(r) || s->asked != p->asked || s->peer != p->peer || fstat(r->fd[MONITOR_FD_PLAN], &plan) < 0 ||
	    plan.st_dev != s->plan_device || plan.st_ino != s->plan_file)
		return false;
	monitor_empty(&m->report, MONITOR_EXEC, p->number);
	for (int i = 0; i < 3; i++)
		m->report.fd[MONITOR_FD_STDIN + i] = r->fd[MONITOR_FD_STDIN + i];
	assign(m, p);
	if (monitor_send(s->socket, &m->report) < 0) { /* it has ended, and is not reaped yet */
		p->may_stay = false;
		return false;
	}
	p->helper = s->pid;
	p->helper_socket = wherry_steal(&s->socket);
	p->plan_device = s->plan_device;
	p->plan_file = s->plan_file;
	s->pid = 0;
	return true;
}

void standby_keep(struct monitor *m, struct process *p, bool inside)
{
	m->standby = (struct standby){
		.pid = p->helper, .socket = wherry_steal(&p->helper_socket), .plan_device = p->plan_device, .plan_file = p->plan_file,
		.asked = p->asked, .peer = p->peer, .until = host_now_ms() + STAY_MS,
	};
	p->helper = 0;
	if (!inside)
		standby_end(m);
}

/* It waits for our word and nothing else: its end takes no time. */
void standby_end(struct monitor *m)
{
	struct standby *s = &m->standby;

	if (!s->pid)
		return;
	kill(s->pid, SIGKILL); /* our child, not reaped yet */
	while (waitpid(s->pid, NULL, 0) < 0 && errno == EINTR)
		;
	standby_reaped(m, s->pid);
}

void standby_reaped(struct monitor *m, pid_t pid)
{
	if (m->standby.pid != pid)
		return;
	m->standby.pid = 0;
	wherry_close(&m->standby.socket);
}

int standby_tend(struct monitor *m)
{
	int64_t left = m->standby.pid ? m->standby.until - host_now_ms() : 0;

	if (left <= 0)
		standby_end(m);
	return m->standby.pid ? (int)left : -1;
}

/* ---- between a clone and the helper's word ---------------------------------------------------------------------------------- */

bool standby_speaks_of(const struct monitor *m, pid_t pid)
{
	for (uint32_t i = 0; i < m->processes; i++) {
		const struct process *p = m->process[i];

		if (p->may_stay && p->helper_socket >= 0 && m->word->cloned == pid)
			return true;
	}
	return false;
}

/* Init has ended without a word, as our child: the helper could not ask how. As waitpid() says it. */
void standby_add_status(const struct monitor *m, struct monitor_head *failure)
{
	siginfo_t info = { .si_pid = 0 };

	if (failure->error != WHERRY_INIT_DIED || failure->value || !m->word->cloned ||
	    waitid(P_PID, (id_t)m->word->cloned, &info, WEXITED | WNOWAIT | WNOHANG) < 0 || !info.si_pid)
		return;
	failure->value = (uint64_t)(uint32_t)info.si_status << (info.si_code == CLD_EXITED ? 8 : 0);
}

bool standby_has_made(const struct monitor *m, struct monitor_message *made)
{
	pid_t pid = m->word->cloned;

	if (!pid)
		return false;
	if (!m->word->made) { /* whoever asked is told that it failed */
		kill(pid, SIGKILL);
		return false;
	}
	made->head.pid = pid;
	made->fd[MONITOR_FD_PROCESS] = sys_pidfd_open(pid, 0);
	return true;
}
