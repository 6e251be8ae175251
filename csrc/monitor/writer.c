/* SPDX-License-Identifier: Apache-2.0
 *
 * The monitor's side of the writer (output.c): begun when the first file is to be written, and anew when it was killed. The monitor itself never touches
 * a pipe that a container writes into: who writes can hold up who reads.
 */
#include "monitor.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

static const char title[] = "wherry-outputs"; /* as long as "wherry-monitor" */

enum { DRAIN_MS = 5000, AGAIN_MS = 50 };

static char texts[MAX_MESSAGE];
static struct monitor_message word = { .data = texts };

static void give(const struct monitor *m, const struct process *p)
{
	monitor_empty(&word, MONITOR_COPY, p->copy);
	for (int i = 0; i < 2; i++) {
		word.fd[MONITOR_FD_HOLD_OUT + i] = p->log[i] < 0 ? -1 : p->hold[1 + i];
		word.fd[MONITOR_FD_LOG_OUT + i] = p->log[i];
	}
	monitor_send(m->writer_socket, &word);
}

static bool needed(const struct monitor *m)
{
	for (uint32_t i = 0; i < m->processes; i++)
		if (m->process[i]->copy)
			return true;
	return false;
}

bool writer_tend(struct monitor *m)
{
	int pair[2];

	if (m->writer_socket >= 0 || !needed(m))
		return true;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return false;
	m->writer = fork();
	if (m->writer == 0) {
		if (strlen(m->name) == sizeof(title) - 1)
			memcpy(m->name, title, sizeof(title));
		output_run(pair[1]);
	}
	close(pair[1]);
	if (m->writer < 0) {
		m->writer = 0;
		close(pair[0]);
		return false;
	}
	m->writer_socket = pair[0];
	for (uint32_t i = 0; i < m->processes; i++)
		if (m->process[i]->copy)
			give(m, m->process[i]);
	return true;
}

void writer_begin(struct monitor *m, struct process *p)
{
	if (p->log[0] < 0 && p->log[1] < 0)
		return;
	p->copy = ++m->copies;
	if (m->writer_socket >= 0)
		give(m, p);
	else
		writer_tend(m);
}

static struct process *find(const struct monitor *m, uint32_t copy)
{
	for (uint32_t i = 0; i < m->processes; i++)
		if (m->process[i]->copy == copy)
			return m->process[i];
	return NULL;
}

/* One word of it: the copy that is drained, or 0. */
static uint32_t hear(struct monitor *m, bool *more)
{
	int got = monitor_receive(m->writer_socket, &word);
	struct process *p = got == 1 && word.head.kind == MONITOR_DRAINED && word.head.process ? find(m, word.head.process) : NULL;

	*more = got == 1;
	if (p)
		process_copied(m, p);
	if (got <= 0 && got != -EAGAIN)
		wherry_close(&m->writer_socket);
	return got == 1 && word.head.kind == MONITOR_DRAIN ? word.head.process : 0;
}

void writer_hear(struct monitor *m)
{
	bool more = true;

	while (more && m->writer_socket >= 0)
		hear(m, &more);
}

/* False where there is another writer to be asked. */
static bool await(struct monitor *m, const struct process *p, int64_t deadline)
{
	uint32_t copy = p->copy;
	bool more;

	while (p->copy && m->writer_socket >= 0) {
		struct pollfd item = { m->writer_socket, POLLIN, 0 };
		int64_t left = deadline - host_now_ms();

		if (left <= 0)
			return true;
		if (poll(&item, 1, (int)left) > 0 && hear(m, &more) == copy)
			return true;
	}
	return !p->copy;
}

void writer_drain(struct monitor *m, struct process *p)
{
	int64_t deadline = host_now_ms() + DRAIN_MS;

	while (p->copy && host_now_ms() < deadline) {
		if (!writer_tend(m)) {
			host_sleep_ms(AGAIN_MS);
			continue;
		}
		monitor_empty(&word, MONITOR_DRAIN, p->copy);
		monitor_send(m->writer_socket, &word);
		if (await(m, p, deadline))
			return;
	}
}

void writer_forget(struct monitor *m, struct process *p)
{
	if (!p->copy)
		return;
	monitor_empty(&word, MONITOR_FORGET, p->copy);
	if (m->writer_socket >= 0)
		monitor_send(m->writer_socket, &word);
	p->copy = 0;
}

void writer_reaped(struct monitor *m, pid_t pid)
{
	if (pid != m->writer)
		return;
	m->writer = 0;
	wherry_close(&m->writer_socket);
}

/* Either it has nothing left to do, or what it does is of a container that is deleted. */
void writer_end(struct monitor *m)
{
	wherry_close(&m->writer_socket);
	if (!m->writer)
		return;
	if (process_deleted(m))
		kill(m->writer, SIGKILL);
	TEMP_FAILURE_RETRY(waitpid(m->writer, NULL, 0));
}
