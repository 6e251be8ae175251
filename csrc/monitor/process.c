/* SPDX-License-Identifier: Apache-2.0
 *
 * The processes of one container, from the request to make one to its release.
 *
 *     helper at work   -> made (its pid is known) -> ended (record written, told, reaped) -> released
 */
#include "monitor.h"

#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

static bool alive(const struct process *p)
{
	return p->helper || (p->pid && !p->ended);
}

/* ---- the table */

static struct process *find(const struct monitor *m, uint32_t number)
{
	for (uint32_t i = 0; i < m->processes; i++)
		if (m->process[i]->number == number && !m->process[i]->released)
			return m->process[i];
	return NULL;
}

static struct process *add(struct monitor *m, const struct monitor_message *r)
{
	struct process *p;

	if (m->processes == MAX_PROCESSES || find(m, r->head.process) || r->head.length[TEXT_NAME] >= MAX_NAME || r->head.length[TEXT_META] >= MAX_META)
		return NULL;
	p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	p->number = r->head.process;
	p->pidfd = p->helper_socket = p->execution = p->master = -1;
	p->hold[0] = p->hold[1] = p->hold[2] = p->log[0] = p->log[1] = -1;
	memcpy(p->name, r->text[TEXT_NAME], r->head.length[TEXT_NAME]);
	memcpy(p->meta, r->text[TEXT_META], r->head.length[TEXT_META]);
	p->meta_size = r->head.length[TEXT_META];
	m->process[m->processes++] = p;
	return p;
}

static void let_go(struct process *p)
{
	pump_end(&p->pump);
	for (int i = 0; i < 3; i++)
		wherry_close(&p->hold[i]);
	for (int i = 0; i < 2; i++)
		wherry_close(&p->log[i]);
	wherry_close(&p->master);
	wherry_close(&p->pidfd);
	wherry_close(&p->helper_socket);
	wherry_close(&p->execution);
}

static void drop(struct monitor *m, struct process *p)
{
	let_go(p);
	for (uint32_t i = 0; i < m->processes; i++)
		if (m->process[i] == p) {
			m->process[i] = m->process[--m->processes];
			break;
		}
	munmap(p, sizeof(*p));
}

/* ---- telling */

void monitor_tell(struct monitor *m, struct monitor_message *message)
{
	for (size_t i = 0; i < MAX_CONNECTIONS; i++)
		if (m->connection[i] >= 0)
			monitor_send(m->connection[i], message); /* who does not listen is found by poll */
}

/* All but the one who has heard it from the helper. */
static void tell_others(struct monitor *m, const struct process *p, struct monitor_message *message)
{
	bool heard = message->head.status && m->peer[p->asked] == p->peer;

	for (size_t i = 0; i < MAX_CONNECTIONS; i++)
		if (m->connection[i] >= 0 && !(heard && i == p->asked))
			monitor_send(m->connection[i], message);
}

static void tell(struct monitor *m, const struct process *p, uint16_t kind)
{
	monitor_empty(&m->report, kind, p->number);
	m->report.head.pid = p->pid;
	monitor_tell(m, &m->report);
}

void process_list(struct monitor *m, int connection)
{
	for (uint32_t i = 0; i < m->processes; i++) {
		const struct process *p = m->process[i];

		if (!p->pid || p->ended || exec_under_way(p))
			continue;
		monitor_empty(&m->report, MONITOR_PROCESS, p->number);
		m->report.head.pid = p->pid;
		m->report.text[TEXT_NAME] = p->name;
		m->report.text[TEXT_META] = p->meta;
		m->report.fd[MONITOR_FD_PROCESS] = p->pidfd;
		m->report.fd[MONITOR_FD_MASTER] = p->master;
		monitor_send(connection, &m->report);
	}
	monitor_empty(&m->report, MONITOR_LISTED, 0);
	m->report.head.value = MONITOR_COPIES;
	monitor_send(connection, &m->report);
}

/* ---- making one */

static void fail(struct monitor *m, struct process *p, int error)
{
	writer_forget(m, p); /* before the server tries again, with the same pipes */
	if (kept_is_gone(&p->failure))
		kept_drop(m);
	helper_describe(&m->report, p->number, &p->failure, error);
	monitor_tell(m, &m->report);
	drop(m, p);
}

static int start_helper(struct monitor *m, struct process *p, struct monitor_message *r)
{
	int pair[2];
	pid_t helper;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	r->head.pid = getpid();
	helper = fork();
	if (helper == 0) {
		close(pair[0]);
		helper_run((struct helper_ends){ .monitor = pair[1], .server = m->connection[p->asked], .directory = m->directory_path }, r);
	}
	close(pair[1]);
	p->helper_socket = pair[0];
	if (helper < 0)
		return -errno;
	p->helper = helper;
	return 0;
}

/* What the helper alone needs is closed by whoever has received it. */
static void begin(struct monitor *m, size_t from, struct monitor_message *r)
{
	struct process *p = add(m, r);
	int result;

	if (!p) {
		monitor_empty(&m->report, MONITOR_FAILED, r->head.process);
		m->report.head.error = EAGAIN;
		m->report.head.step = UINT32_MAX;
		monitor_tell(m, &m->report);
		return;
	}
	if (r->head.kind != MONITOR_EXEC)
		host_join(m->directory_path, sizeof(m->directory_path), r->text[TEXT_ROOT], r->text[TEXT_ID]);
	p->asked = from;
	p->peer = m->peer[from];
	for (int i = 0; i < 3; i++)
		p->hold[i] = wherry_steal(&r->fd[MONITOR_FD_HOLD_IN + i]);
	p->pump.input = wherry_steal(&r->fd[MONITOR_FD_INPUT]);
	p->pump.output = wherry_steal(&r->fd[MONITOR_FD_OUTPUT]);
	p->pump.master = -1;
	for (int i = 0; i < 2; i++)
		p->log[i] = wherry_steal(&r->fd[MONITOR_FD_LOG_OUT + i]);
	helper_raise_files(); /* not before: the server may have set the limit just now */
	writer_begin(m, p);
	result = exec_begin(m, p, r);
	if (result > 0)
		result = start_helper(m, p, r);
	if (result < 0)
		fail(m, p, -result);
}

/* The first process is made: its directory is ours, and who looks for us finds us there. */
static void settle(struct monitor *m)
{
	m->directory = open(m->directory_path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (m->directory >= 0)
		m->listener = record_listen(m);
}

static void made(struct monitor *m, struct process *p, struct monitor_message *answer)
{
	int input = p->pump.input, output = p->pump.output;

	p->pid = answer->head.pid;
	if (!p->number)
		settle(m);
	tell_others(m, p, answer);
	p->pidfd = wherry_steal(&answer->fd[MONITOR_FD_PROCESS]);
	p->master = wherry_steal(&answer->fd[MONITOR_FD_MASTER]);
	if (p->master < 0) {
		wherry_close(&input);
		wherry_close(&output);
		return;
	}
	pump_begin(&p->pump, fcntl(p->master, F_DUPFD_CLOEXEC, 3), input, output);
}

/* The container's first process: what is inside its namespaces must end before its end is told. */
static bool first_lives(const struct monitor *m)
{
	const struct process *first = find(m, 0);

	return first && alive(first);
}

/* One word of it; false at its end. */
static bool hear(struct monitor *m, struct process *p)
{
	int got = monitor_receive(p->helper_socket, &m->answer);

	if (got == -EAGAIN)
		return false;
	if (got <= 0) {
		wherry_close(&p->helper_socket);
		return false;
	}
	if (m->answer.head.kind == MONITOR_KEEP) {
		kept_take(m, &m->answer);
		monitor_close_fds(&m->answer);
		return true;
	}
	if (m->answer.head.kind == MONITOR_FAILED)
		writer_forget(m, p);
	if (m->answer.head.kind == MONITOR_MADE)
		made(m, p, &m->answer);
	else
		monitor_tell(m, &m->answer);
	if (m->answer.head.kind == MONITOR_FAILED)
		p->ended = true;
	monitor_close_fds(&m->answer);
	return true;
}

/* Of one that makes itself. */
static void hear_execution(struct monitor *m, struct process *p)
{
	if (!exec_made(p))
		return; /* told when it has ended: then nothing of it is left */
	monitor_empty(&m->answer, MONITOR_MADE, p->number);
	m->answer.head.pid = p->pid;
	m->answer.fd[MONITOR_FD_PROCESS] = wherry_steal(&p->pidfd);
	made(m, p, &m->answer);
	monitor_close_fds(&m->answer);
}

static void hear_helper(struct monitor *m, struct process *p)
{
	while (p->helper_socket >= 0 && hear(m, p))
		;
}

void process_hear(struct monitor *m, struct process *p)
{
	if (p->execution >= 0)
		hear_execution(m, p);
	hear_helper(m, p);
}

/* A create that was cut short leaves us its hook, which has a process group of its own, or init, which is about to end. */
static void end_children(void)
{
	char list[1024];
	uint64_t child;

	if (host_read_file(AT_FDCWD, "/proc/thread-self/children", list, sizeof(list)) < 0)
		return;
	for (const char *at = list; host_parse_number(at, &child) == 0; at = strchr(at, ' ') ? strchr(at, ' ') + 1 : "") {
		kill(-(pid_t)child, SIGKILL);
		kill((pid_t)child, SIGKILL);
	}
	while (TEMP_FAILURE_RETRY(waitpid(-1, NULL, 0)) > 0)
		;
}

/* It has said all that it had to say. */
static void helper_ended(struct monitor *m, struct process *p)
{
	p->helper = 0;
	wherry_close(&p->helper_socket);
	if (p->pid)
		return;
	if (!p->number && !p->ended)
		end_children();
	if (!p->ended) /* without a word */
		fail(m, p, ECHILD);
	else
		drop(m, p);
}

void process_forget_creates(struct monitor *m)
{
	for (uint32_t i = 0; i < m->processes; i++) { /* our children, not reaped yet */
		const struct process *p = m->process[i];

		if (p->helper && !p->pid)
			kill(p->helper, SIGKILL);
		if (p->execution >= 0)
			kill(p->pid, SIGKILL);
	}
}

/* ---- the end of one */

/* It is reaped only when both is done: a status is lost where we and every server are killed in between. Of an exec in a container that lives the
 * telling comes first: the file may take longer than all the rest of its end. Else who has been told may remove the directory under it. */
static void ended(struct monitor *m, struct process *p, const siginfo_t *info)
{
	const bool tell_first = p->number && first_lives(m);
	struct ending ending = { .status = info->si_code == CLD_EXITED ? info->si_status : 128 + info->si_status };

	if (!p->number)
		kept_drop(m);
	writer_drain(m, p); /* who has the record has the output */
	ending.signal = info->si_code == CLD_EXITED ? 0 : info->si_status;
	ending.oom = record_oom_kills(m->events);
	clock_gettime(CLOCK_REALTIME, &ending.at);
	p->ended = true;
	if (!tell_first)
		record_write(m, p, &ending);
	monitor_empty(&m->report, MONITOR_ENDED, p->number);
	m->report.head.pid = p->pid;
	m->report.head.status = ending.status;
	m->report.head.signal = ending.signal;
	m->report.head.oom = ending.oom;
	m->report.head.seconds = ending.at.tv_sec;
	m->report.head.nanoseconds = (uint32_t)ending.at.tv_nsec;
	monitor_tell(m, &m->report);
	if (tell_first)
		record_write(m, p, &ending);
	wherry_close(&p->pidfd);
	wherry_close(&p->hold[0]);
}

static void reap_one(struct monitor *m, const siginfo_t *info)
{
	struct process *of = NULL;
	bool helper = false;

	for (uint32_t i = 0; i < m->processes && !of; i++) {
		struct process *p = m->process[i];

		helper = p->helper == info->si_pid;
		if (helper || (p->pid == info->si_pid && !p->ended))
			of = p;
	}
	writer_reaped(m, info->si_pid);
	if (of && !helper && of->execution >= 0)
		hear_execution(m, of);
	if (of && !helper && exec_under_way(of)) {
		exec_ended(of, info);
		waitpid(info->si_pid, NULL, 0);
		fail(m, of, 0);
		return;
	}
	if (of && !helper)
		ended(m, of, info);
	waitpid(info->si_pid, NULL, 0);
	if (of && helper)
		helper_ended(m, of);
}

/* A process is our child once its helper has ended, and the helper has told of it before. So helpers are heard between the look at who has ended and
 * the search for who that was: heard before, one could speak and end, and its process too, just behind that. */
void process_reap(struct monitor *m)
{
	for (;;) {
		siginfo_t info = { .si_pid = 0 };

		if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || !info.si_pid)
			return;
		for (uint32_t i = 0; i < m->processes; i++)
			hear_helper(m, m->process[i]);
		reap_one(m, &info);
	}
}

void process_copied(struct monitor *m, struct process *p)
{
	p->copy = 0;
	for (int i = 0; i < 2; i++)
		if (p->log[i] >= 0) {
			wherry_close(&p->hold[1 + i]);
			wherry_close(&p->log[i]);
		}
	if (p->released)
		drop(m, p);
}

void process_pumped(struct monitor *m, struct process *p)
{
	if (p->drained_told || !p->pump.buffer || !pump_ended(&p->pump))
		return;
	pump_end(&p->pump);
	p->drained_told = true;
	tell(m, p, MONITOR_DRAINED);
}

/* ---- requests */

static void release(struct monitor *m, struct process *p)
{
	if (p->ended)
		p->helper = 0; /* it has said all, and is reaped like any orphan */
	if (alive(p))
		return;
	record_remove(m, p);
	p->released = p->copy; /* what it has left in the background may still write */
	if (!p->released)
		drop(m, p);
}

static void relay(struct process *p, struct monitor_message *r)
{
	if (p->helper_socket >= 0)
		monitor_send(p->helper_socket, r);
}

void process_request(struct monitor *m, size_t from, struct monitor_message *r)
{
	struct process *p;

	if (r->head.kind == MONITOR_CREATE || r->head.kind == MONITOR_EXEC || r->head.kind == MONITOR_RESTORE) {
		begin(m, from, r);
		return;
	}
	if (r->head.kind == MONITOR_WATCH) {
		wherry_close(&m->events);
		m->events = wherry_steal(&r->fd[MONITOR_FD_EVENTS]);
		return;
	}
	p = find(m, r->head.process);
	if (!p)
		return;
	switch (r->head.kind) {
	case MONITOR_FINISH:
	case MONITOR_ABORT:
	case MONITOR_MARK:
		relay(p, r);
		break;
	case MONITOR_CLOSE_INPUT:
		wherry_close(&p->hold[0]);
		break;
	case MONITOR_RELEASE:
		release(m, p);
		break;
	}
}

/* ---- what is left */

static bool unread(const struct process *p)
{
	int left = 0;

	if (p->copy)
		return true;
	for (int i = 1; i < 3; i++)
		if (p->hold[i] >= 0 && ioctl(p->hold[i], FIONREAD, &left) == 0 && left > 0)
			return true;
	return p->pump.buffer && !pump_ended(&p->pump);
}

static bool lives(const struct monitor *m)
{
	for (uint32_t i = 0; i < m->processes; i++)
		if (alive(m->process[i]))
			return true;
	return false;
}

bool process_deleted(const struct monitor *m)
{
	struct stat directory;

	return m->directory < 0 || fstat(m->directory, &directory) < 0 || !directory.st_nlink;
}

/* Output that nobody has read yet is kept until somebody has, or until the container is deleted. */
static bool kept(const struct monitor *m)
{
	if (process_deleted(m))
		return false;
	for (uint32_t i = 0; i < m->processes; i++)
		if (unread(m->process[i]))
			return true;
	return false;
}

bool process_waiting(const struct monitor *m)
{
	return m->processes && !lives(m) && kept(m);
}

bool process_over(const struct monitor *m)
{
	return !lives(m) && !kept(m);
}
