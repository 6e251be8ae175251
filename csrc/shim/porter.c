/* SPDX-License-Identifier: Apache-2.0
 *
 * The porter's life: wake, awake, parked, wake.
 */
#include "porter.h"

#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

static struct porter porter;
static struct porter_message message;

static void complain(const struct porter *p, const char *text)
{
	const char *id = "";
	struct iovec parts[4];

	for (char **word = p->argv; *word && word[1]; word++)
		if (!strcmp(*word, "-id"))
			id = word[1];
	parts[0] = (struct iovec){ (void *)(uintptr_t)"level=error msg=\"", 17 };
	parts[1] = (struct iovec){ (void *)(uintptr_t)text, strlen(text) };
	parts[2] = (struct iovec){ (void *)(uintptr_t)"\" shim=", 7 };
	parts[3] = (struct iovec){ (void *)(uintptr_t)id, strlen(id) };
	if (writev(STDERR_FILENO, parts, 4) > 0)
		(void)!write(STDERR_FILENO, "\n", 1);
}

/* ---- children */

static void tell(struct porter *p, pid_t pid, int status)
{
	const struct porter_head head = { PORTER_MAGIC, PORTER_ENDED_ONE, pid, status, -1 };

	if (p->line >= 0 && !porter_send(p->control, &head, NULL, 0))
		p->told++;
}

/* The oldest. */
static void forget(struct porter *p, size_t count)
{
	p->ends -= count;
	memmove(p->ended, p->ended + count, p->ends * sizeof(p->ended[0]));
}

static void remember(struct porter *p, pid_t pid, int status)
{
	if (p->ends == PORTER_ENDED)
		forget(p, 1);
	p->ended[p->ends].pid = pid;
	p->ended[p->ends++].status = status;
}

/* Monitors, and what a killed one leaves. A worker that is awake hears of it at once. What it has not read when it parks the next one is told again. */
static void reap(struct porter *p)
{
	struct signalfd_siginfo info;
	int status;
	pid_t pid;

	while (read(p->signals, &info, sizeof(info)) > 0)
		;
	while ((pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0) {
		status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
		remember(p, pid, status);
		tell(p, pid, status);
	}
}

static _Noreturn void become_monitor(const char *const *words, const int *fds, volatile int *error)
{
	static char *const nothing[] = { NULL };
	const int first = fcntl(fds[0], F_DUPFD_CLOEXEC, 8), second = fcntl(fds[1], F_DUPFD_CLOEXEC, 8);

	wherry_reset_signals();
	setsid(); /* out of the reach of what is sent to the server's group */
	if (dup2(first, 3) == 3 && dup2(second, 4) == 4 && !wherry_cloexec_from(5))
		execve(words[0], (char *const *)(uintptr_t)(words + 1), nothing);
	*error = errno;
	_exit(127);
}

static int start_monitor(const char *const *words, const int *fds, int *pidfd)
{
	volatile int error = 0;
	pid_t pid = vfork();

	if (!pid)
		become_monitor(words, fds, &error);
	if (pid < 0 || error) /* such a child is reaped as any other */
		return -(pid < 0 ? errno : error);
	*pidfd = sys_pidfd_open(pid, 0);
	return pid;
}

static void spawn(struct porter *p, struct porter_message *m)
{
	struct porter_head head = { PORTER_MAGIC, PORTER_SPAWNED, -EINVAL, 0, -1 };
	const char *words[PORTER_WORDS + 1];
	cleanup_fd int pidfd = -1;
	size_t count = 0;

	for (char *at = m->text, *end; at < m->text + m->size; at = end + 1, count++) {
		end = memchr(at, '\0', m->size + 1 - (size_t)(at - m->text));
		if (count < PORTER_WORDS)
			words[count] = at;
	}
	words[count < PORTER_WORDS ? count : PORTER_WORDS] = NULL;
	if (count > 1 && count <= PORTER_WORDS && m->count == 2) /* not a part of what was asked for */
		head.a = start_monitor(words, m->fd, &pidfd);
	porter_close_fds(m);
	porter_send(p->control, &head, &pidfd, pidfd >= 0);
}

/* ---- from one worker to the next */

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static bool hold(struct porter *p, struct porter_message *m)
{
	size_t unheard;

	if (m->count < 2 || m->size != 2 * (m->count - 1) || m->count - 1 > PORTER_MOST || m->head.b < 1)
		return false;
	p->state = m->fd[0];
	p->count = m->count - 1;
	memcpy(p->held, m->fd + 1, p->count * sizeof(p->held[0]));
	for (size_t i = 0; i < p->count; i++)
		p->events[i] = (short)((uint8_t)m->text[2 * i] | (uint8_t)m->text[2 * i + 1] << 8);
	unheard = p->told - (uint32_t)m->head.a;
	if (unheard < p->ends)
		forget(p, p->ends - unheard);
	p->version = m->head.b;
	p->until = m->head.until;
	m->count = 0;
	return true;
}

/* Everything, and no copy of it is kept: who holds a connection, or the end of one, is the worker alone. */
static int give(struct porter *p)
{
	const struct porter_head head = { PORTER_MAGIC, PORTER_TAKE, getpid(), p->version, -1 };
	int line[2], fds[PORTER_MOST + 2], error;
	size_t count = 0;

	if (pipe2(line, O_CLOEXEC) < 0)
		return -errno;
	fds[count++] = line[0];
	if (p->state >= 0)
		fds[count++] = p->state;
	memcpy(fds + count, p->held, p->count * sizeof(p->held[0]));
	error = porter_send(p->control, &head, fds, count + p->count);
	close(line[0]);
	if (error < 0) {
		close(line[1]);
		return error;
	}
	p->line = line[1];
	wherry_close(&p->state);
	while (p->count)
		wherry_close(&p->held[--p->count]);
	p->told = 0;
	for (size_t i = 0; i < p->ends; i++)
		tell(p, p->ended[i].pid, p->ended[i].status);
	return 0;
}

static void pause_ms(struct porter *p, int ms)
{
	struct pollfd item = { p->signals, POLLIN, 0 };

	if (poll(&item, 1, ms) > 0)
		reap(p);
}

/* What is held waits as long as it takes: a program that is being replaced, a machine without a free process. Only a pod that has never had a
 * worker goes without one. */
static bool wake(struct porter *p)
{
	for (int ms = 50, attempt = 0;; attempt++, ms = ms < PORTER_PAUSES_MS / 2 ? 2 * ms : PORTER_PAUSES_MS) {
		if (!porter_begin_worker(p, attempt & 1) && !give(p))
			return true;
		wherry_close(&p->control);
		if (!p->version && attempt)
			return false;
		if (attempt)
			complain(p, "there is no worker yet: trying again");
		pause_ms(p, ms);
	}
}

/* True: parked. */
static bool serve(struct porter *p)
{
	struct pollfd items[] = { { p->signals, POLLIN, 0 }, { p->control, POLLIN, 0 } };
	int got;

	for (;;) {
		if (poll(items, WHERRY_LENGTH(items), -1) < 0 && errno != EINTR)
			return false;
		if (items[0].revents)
			reap(p);
		if (!items[1].revents)
			continue;
		got = porter_receive(p->control, &message);
		if (got == 1 && message.head.kind == PORTER_SPAWN)
			spawn(p, &message);
		else if (got == 1 && message.head.kind == PORTER_PARK && hold(p, &message))
			return true;
		else if (got == 1)
			porter_close_fds(&message);
		else if (got != -EPROTO && got != -EAGAIN && got != -ECONNRESET)
			return false; /* a reset is said once: it went without having read all. What it has said comes after it */
	}
}

/* The worker has let go of its copies when it has ended. */
static void farewell(struct porter *p)
{
	struct pollfd items[] = { { p->signals, POLLIN, 0 }, { p->control, 0, 0 } };
	const int64_t until = now_ms() + 1000;

	while (!items[1].revents && now_ms() < until) {
		if (poll(items, WHERRY_LENGTH(items), 1000) < 0 && errno != EINTR)
			break;
		if (items[0].revents)
			reap(p);
	}
	wherry_close(&p->line); /* which ends it, if it has not */
	wherry_close(&p->control);
}

/* Until somebody has something for a worker. */
static void sleep_on(struct porter *p)
{
	static struct pollfd items[PORTER_MOST + 1];

	for (;;) {
		const int64_t rest = p->until < 0 ? -1 : p->until - now_ms();

		items[0] = (struct pollfd){ p->signals, POLLIN, 0 };
		for (size_t i = 0; i < p->count; i++)
			items[i + 1] = (struct pollfd){ p->events[i] ? p->held[i] : -1, p->events[i], 0 };
		if (p->until >= 0 && rest <= 0)
			return;
		if (poll(items, p->count + 1, rest > 1 << 30 ? 1 << 30 : (int)rest) < 0 && errno != EINTR)
			return;
		if (items[0].revents)
			reap(p);
		for (size_t i = 0; i < p->count; i++)
			if (items[i + 1].revents)
				return;
	}
}

/* ---- the beginning */

/* No signal ends a porter but SIGKILL, as it is with every server. */
static bool prepare(struct porter *p, char **argv)
{
	sigset_t all, child;

	p->argv = argv;
	p->control = p->line = p->state = -1;
	p->until = -1;
	p->held[0] = PORTER_CONTROL;
	p->events[0] = POLLIN;
	p->count = 1;
	sigfillset(&all);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	if (wherry_cloexec_from(PORTER_CONTROL) || wherry_close_from(PORTER_CONTROL + 1) || wherry_reset_signals() ||
	    sigprocmask(SIG_SETMASK, &all, NULL) < 0 || !porter_find_places(p) || chdir("/") < 0)
		return false;
	p->signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	return p->signals >= 0 && !prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
}

int shim_porter(char **argv)
{
	if (!prepare(&porter, argv))
		return 1;
	for (;;) {
		if (!wake(&porter)) {
			complain(&porter, "there is no worker: containerd-shim-wherry-python beside this program does not begin");
			return 1;
		}
		if (!serve(&porter))
			return 1;
		farewell(&porter);
		sleep_on(&porter);
	}
}

bool shim_is_porter(void)
{
	int listens = 0;
	socklen_t size = sizeof(listens);

	return !getsockopt(PORTER_CONTROL, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) && listens;
}
