// SPDX-License-Identifier: Apache-2.0
//
// Beside an attached run: no interpreter, one epoll-free loop over a signalfd, init's pidfd and, with a terminal, the pty. Ends with init's
// status, after it has removed the container as `delete` would.
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "wherry/front.h"
#include "wherry/sys.h"

enum {
	MAX_PREFIX = 8,
	MAX_VARIABLES = 4096,
	KILL_WAIT_MS = 10000, // what a v1 freezer holds does not end; who waits for it is let go all the same
};

struct attention {
	struct host_container container;
	const struct front *front;
	int signals, master;
	bool input; // stdin is still read
	struct termios before;
	bool raw;
	pid_t init;
	int64_t deadline; // CLOCK_MONOTONIC in ms, 0 = none
	bool late;        // it has passed, and all has been killed
};

// Signals that a terminal stop or a fault of our own raises are ours; all else is the container's.
static void forwarded(sigset_t *set)
{
	sigfillset(set);
	sigdelset(set, SIGSEGV);
	sigdelset(set, SIGBUS);
	sigdelset(set, SIGILL);
	sigdelset(set, SIGFPE);
	sigdelset(set, SIGABRT);
}

int attend_prepare(bool subreaper)
{
	sigset_t set;

	forwarded(&set);
	// whoever ignores the ends of children hears of none, and the kernel reaps them
	if (sys_signal(SIGCHLD, SIG_DFL) || sigprocmask(SIG_SETMASK, &set, NULL))
		return -errno;
	if (subreaper && prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
		return -errno;
	return 0;
}

static void copy_size(struct attention *a)
{
	struct winsize size;

	if (a->master >= 0 && !ioctl(STDIN_FILENO, TIOCGWINSZ, &size))
		ioctl(a->master, TIOCSWINSZ, &size);
}

static void terminal_begin(struct attention *a)
{
	struct termios raw;

	if (a->master < 0)
		return;
	copy_size(a);
	if (tcgetattr(STDIN_FILENO, &a->before))
		return;
	raw = a->before;
	cfmakeraw(&raw);
	raw.c_oflag = a->before.c_oflag; // carriage returns are this terminal's: the container's console adds none
	a->raw = !tcsetattr(STDIN_FILENO, TCSANOW, &raw);
}

static void terminal_end(struct attention *a)
{
	if (a->raw)
		tcsetattr(STDIN_FILENO, TCSANOW, &a->before);
	a->raw = false;
}

// One read and all of its bytes written; false at the end of either side.
static bool copy(int from, int to)
{
	char buffer[4096];
	ssize_t got = TEMP_FAILURE_RETRY(read(from, buffer, sizeof(buffer)));

	return got > 0 && !wherry_write_all(to, buffer, (size_t)got);
}

void attend_drain(int master)
{
	while (master >= 0 && poll(&(struct pollfd){master, POLLIN, 0}, 1, 0) > 0 && copy(master, STDOUT_FILENO))
		;
}

// Reaps what has ended (we are a subreaper). True, with *status, when init is among it.
static bool reap(struct attention *a, int *status)
{
	bool ended = false;

	for (;;) {
		int got;
		pid_t pid = waitpid(-1, &got, WNOHANG);

		if (pid <= 0)
			return ended;
		if (pid == a->init) {
			*status = WIFSIGNALED(got) ? 128 + WTERMSIG(got) : WEXITSTATUS(got);
			ended = true;
		}
	}
}

static bool on_signal(struct attention *a, int *status)
{
	struct signalfd_siginfo info;

	if (read(a->signals, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return false;
	if (info.ssi_signo == SIGCHLD)
		return reap(a, status);
	if (info.ssi_signo == SIGWINCH && a->master >= 0)
		copy_size(a);
	else if (info.ssi_signo != SIGPIPE && info.ssi_signo != SIGURG)
		kill(a->init, (int)info.ssi_signo); // our child, and not reaped yet: the number is its own
	return false;
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

// How long poll may wait; 0 at the deadline.
static int left(const struct attention *a)
{
	int64_t ms = a->deadline - now_ms();

	return !a->deadline ? -1 : ms < 0 ? 0 : ms > INT_MAX ? INT_MAX : (int)ms;
}

static void end_late(struct attention *a)
{
	int pidfd = sys_pidfd_open(a->init, 0); // our child, and not reaped yet

	host_kill_tree(a->init, pidfd);
	wherry_close(&pidfd);
	a->late = true;
	a->deadline = now_ms() + KILL_WAIT_MS;
}

static int serve(struct attention *a)
{
	int status = -1;

	while (status < 0 && !reap(a, &status)) {
		struct pollfd polled[3] = {
			{a->signals, POLLIN, 0},
			{a->master, POLLIN, 0},
			{a->input && a->master >= 0 ? STDIN_FILENO : -1, POLLIN, 0},
		};

		if (!left(a)) {
			if (a->late)
				break;
			end_late(a);
			continue;
		}
		if (poll(polled, 3, left(a)) < 0 && errno != EINTR)
			return 1;
		if (polled[1].revents && !copy(a->master, STDOUT_FILENO))
			wherry_close(&a->master);
		if (polled[2].revents && !copy(STDIN_FILENO, a->master))
			a->input = false;
		if (polled[0].revents)
			on_signal(a, &status);
	}
	attend_drain(a->master);
	return status;
}

// Poststop hooks are Python's: `wherry delete` does the whole of it.
static void remove_by_python(const struct front *f)
{
	const char *words[MAX_PREFIX + 6];
	sigset_t none;
	size_t count = 0;
	pid_t child = _Fork(); // one thread, and no handlers of atfork: fork() would bring musl's locks along

	if (child > 0)
		waitpid(child, NULL, 0);
	if (child)
		return;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	while (f->python && f->python[count] && count < MAX_PREFIX) {
		words[count] = f->python[count];
		count++;
	}
	if (!f->python)
		words[count++] = "wherry";
	for (size_t i = 0; i < 5; i++)
		words[count++] = (const char *const[]){"--root", f->root, "delete", "--force", f->id}[i];
	words[count] = NULL;
	if (f->python)
		execve(words[0], (char *const *)words, environ);
	else
		front_python(&(struct front){.argv = (char **)words});
	_exit(1);
}

static void remove_container(struct attention *a)
{
	if (a->front->keep || a->front->process)
		return;
	if (a->container.head->flags & (WHERRY_PLAN_POSTSTOP | WHERRY_PLAN_UNIT) || host_lock(&a->container, 10000) ||
	    host_destroy(&a->container, true))
		remove_by_python(a->front);
}

// Python says what has happened: the whole of its command line is there. It is told by a variable.
static int become_late(struct attention *a)
{
	static const char *variables[MAX_VARIABLES];
	sigset_t none;
	size_t count = 0;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	wherry_close(&a->master);
	for (char **e = environ; *e && count < MAX_VARIABLES - 2; e++)
		variables[count++] = *e;
	variables[count] = "WHERRY_LATE=1";
	execve(a->front->python[0], (char *const *)a->front->python, (char *const *)variables);
	return 1;
}

int attend(const struct front *f, int master)
{
	static struct attention a;
	sigset_t set;
	int status;

	a.front = f;
	a.deadline = f->deadline;
	a.master = master;
	a.input = true;
	forwarded(&set);
	a.signals = signalfd(-1, &set, SFD_CLOEXEC);
	a.init = f->process;
	if (a.signals < 0 || (!f->process && host_open(&a.container, f->root, f->id)))
		return 1;
	if (!f->process)
		a.init = a.container.head->pid;
	terminal_begin(&a);
	status = serve(&a);
	terminal_end(&a);
	remove_container(&a);
	return a.late ? become_late(&a) : status;
}

static int64_t number(const char *digits)
{
	int64_t value = 0;

	while (*digits >= '0' && *digits <= '9')
		value = value * 10 + *digits++ - '0';
	return value;
}

// wherry-attend ROOT ID LETTERS MASTER PYTHON...: Python has created and started, and becomes this. Letters: k = keep the container,
// s = be a subreaper, x = an exec (ID is the number of its process, our child), - = neither. The rest of the words start Python's command line;
// with tMILLISECONDS, the moment of CLOCK_MONOTONIC at which an exec is killed, they are the whole of it.
int attend_main(int argc, char **argv)
{
	static struct front f;
	int master = -1;

	if (argc < 6)
		return 1;
	f.root = argv[1];
	f.id = argv[2];
	f.keep = strchr(argv[3], 'k');
	if (strchr(argv[3], 's') && prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
		return 1;
	if (strchr(argv[3], 'x'))
		f.process = (pid_t)number(f.id);
	if (strchr(argv[3], 't'))
		f.deadline = number(strchr(argv[3], 't') + 1);
	if (argv[4][0] != '-')
		master = (int)number(argv[4]);
	f.python = (const char *const *)(argv + 5);
	return attend(&f, master);
}
