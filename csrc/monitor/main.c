/* SPDX-License-Identifier: Apache-2.0
 *
 * wherry-monitor: a loop over the servers that are connected, the children that end, the helpers that speak and the terminals that are pumped. It begins
 * with descriptor 3, the connection to the server that started it, and 4, a locked file: who gets that lock knows that no monitor is at work. It ends
 * when there is nothing more to wait for.
 */
#include "monitor.h"

#include <poll.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

enum { FIRST_CONNECTION = 3, KEPT_MS = 1000, ITEMS_EACH = 4, FIXED_ITEMS = 3 + MAX_CONNECTIONS };

static struct monitor monitor __attribute__((aligned(4096))); /* the size of a page */
static char of_server[MAX_MESSAGE], of_helper[MAX_MESSAGE];
static struct pollfd items[FIXED_ITEMS + MAX_PROCESSES * ITEMS_EACH];

/* All signals are blocked: who wants to end a container kills it, and not us. */
static int prepare(struct monitor *m)
{
	sigset_t all, child;

	prctl(PR_SET_NAME, "wherry-monitor", 0, 0, 0); /* it is executed by a descriptor */
	m->request.data = of_server;
	m->answer.data = of_helper;
	m->listener = m->directory = m->events = m->writer_socket = m->pids = -1;
	for (size_t i = 0; i < MAX_CONNECTIONS; i++)
		m->connection[i] = -1;
	m->connection[0] = FIRST_CONNECTION;
	sigfillset(&all);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	if (wherry_cloexec_from(FIRST_CONNECTION) || wherry_close_from(MONITOR_LOCK + 1) || wherry_reset_signals() ||
	    sigprocmask(SIG_SETMASK, &all, NULL) < 0 || chdir("/") < 0)
		return -1;
	m->signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	return m->signals < 0 ? -1 : prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
}

static bool has_connection(const struct monitor *m)
{
	for (size_t i = 0; i < MAX_CONNECTIONS; i++)
		if (m->connection[i] >= 0)
			return true;
	return false;
}

static void accept_one(struct monitor *m)
{
	cleanup_fd int fd = accept4(m->listener, NULL, NULL, SOCK_CLOEXEC);
	struct ucred peer = { .uid = (uid_t)-1 };
	socklen_t size = sizeof(peer);

	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.uid != geteuid())
		return;
	for (size_t i = 0; i < MAX_CONNECTIONS; i++)
		if (m->connection[i] < 0) {
			m->connection[i] = wherry_steal(&fd);
			m->peer[i]++;
			process_list(m, m->connection[i]);
			return;
		}
}

/* What a server has sent, to the last word; its end. */
static void serve(struct monitor *m, size_t from)
{
	int *connection = &m->connection[from];
	int got;

	while ((got = monitor_receive(*connection, &m->request)) == 1) {
		process_request(m, from, &m->request);
		monitor_close_fds(&m->request);
	}
	if (got == -EAGAIN || got == -EPROTO)
		return;
	wherry_close(connection);
	if (!has_connection(m))
		process_forget_creates(m);
}

static size_t fill_items(const struct monitor *m)
{
	size_t count = FIXED_ITEMS;

	items[0] = (struct pollfd){ m->signals, POLLIN, 0 };
	items[1] = (struct pollfd){ m->listener, POLLIN, 0 };
	for (size_t i = 0; i < MAX_CONNECTIONS; i++)
		items[2 + i] = (struct pollfd){ m->connection[i], POLLIN, 0 };
	items[2 + MAX_CONNECTIONS] = (struct pollfd){ m->writer_socket, POLLIN, 0 };
	for (uint32_t i = 0; i < m->processes; i++) {
		if (m->process[i]->released)
			continue;
		items[count] = exec_under_way(m->process[i]) ? (struct pollfd){ .fd = m->process[i]->execution } /* its end */
							    : (struct pollfd){ m->process[i]->helper_socket, POLLIN, 0 };
		count += 1 + pump_poll(&m->process[i]->pump, items + count + 1);
	}
	return count;
}

/* In the order of the items, before any process comes or goes. */
static void run_processes(struct monitor *m)
{
	const struct pollfd *item = items + FIXED_ITEMS;

	for (uint32_t i = 0; i < m->processes; i++) {
		struct process *p = m->process[i];

		if (p->released)
			continue;
		if (p->pump.buffer && (item[1].revents || item[2].revents || item[3].revents))
			pump_run(&p->pump, item + 1);
		process_pumped(m, p);
		if (item[0].revents)
			process_hear(m, p);
		item += ITEMS_EACH;
	}
}

static void drain_signals(int signals)
{
	struct signalfd_siginfo info;

	while (read(signals, &info, sizeof(info)) > 0)
		;
}

/* The children before the servers: what has ended is told before what is asked. */
static int run_once(struct monitor *m)
{
	bool again = !writer_tend(m) || process_waiting(m);
	int wait = exec_tend(m);
	size_t count = fill_items(m);

	if (poll(items, count, wait < 0 && again ? KEPT_MS : wait) < 0 && errno != EINTR)
		return -1;
	run_processes(m);
	if (items[2 + MAX_CONNECTIONS].revents)
		writer_hear(m);
	if (items[0].revents)
		drain_signals(m->signals);
	if (items[0].revents)
		process_reap(m);
	for (size_t i = 0; i < MAX_CONNECTIONS; i++)
		if (items[2 + i].revents && m->connection[i] == items[2 + i].fd)
			serve(m, i);
	if (items[1].revents)
		accept_one(m);
	return 0;
}

/* A monitor that has made nothing yet lives as long as its server. */
static bool over(const struct monitor *m, bool begun)
{
	return begun ? process_over(m) : !has_connection(m);
}

int main(int argc, char *argv[])
{
	bool begun = false;

	monitor.name = argc ? argv[0] : (char[]){ "" };
	if (prepare(&monitor) < 0)
		return 1;
	while (!over(&monitor, begun)) {
		if (run_once(&monitor) < 0)
			return 1;
		begun |= monitor.processes > 0;
	}
	writer_end(&monitor);
	return 0;
}
