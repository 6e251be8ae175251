/* SPDX-License-Identifier: Apache-2.0
 *
 * Makes one process, as a child of the monitor that ends when it is made: the process is then the monitor's, which is a subreaper, and
 * a create that hangs holds up nobody's terminal. It dies with the monitor, and until the commit init dies with it. Most execs need none: exec.c.
 */
#include "monitor.h"

#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

enum { MAX_EXTRA = 64, MAX_WORDS = 64, ANSWER = 3, ENOUGH_FILES = 256 };
enum own { MONITOR = 3, SERVER, LOCK, TARGET, PROGRAM, OWN }; /* an exec's descriptors */

static char texts[MAX_MESSAGE];
/* In one page, for all of it is written in every exec, by us and then by the process. */
static struct {
	struct monitor_message message; /* answers, and what comes from the server by way of the monitor */
	struct host_create create;
} job __attribute__((aligned(4096)));
static struct host_extra extra[MAX_EXTRA];
static uint64_t files[2]; /* soft and hard limit */

static int map(int fd, const void **base, size_t *size)
{
	struct stat file;
	void *mapped;

	*base = "";
	*size = 0;
	if (fd < 0)
		return 0;
	if (fstat(fd, &file) < 0)
		return -errno;
	if (!file.st_size)
		return 0;
	mapped = mmap(NULL, (size_t)file.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (mapped == MAP_FAILED)
		return -errno;
	*base = mapped;
	*size = (size_t)file.st_size;
	return 0;
}

/* Each a byte of its kind and a text. The last one ends with the NUL behind TEXT_EXTRA at the latest. */
static uint32_t read_extra(const struct monitor_message *request)
{
	const char *at = request->text[TEXT_EXTRA], *end = at + request->head.length[TEXT_EXTRA];
	uint32_t count = 0;

	for (; at < end && count < request->head.count && count < MAX_EXTRA; count++) {
		extra[count] = (struct host_extra){ .kind = (uint8_t)*at, .name = at + 1 };
		at += 1 + strlen(at + 1) + 1;
	}
	return count;
}

int helper_request(const struct monitor_message *r, struct host_request *request)
{
	int result = map(r->fd[MONITOR_FD_PLAN], &request->plan, &request->plan_size);

	if (result == 0)
		result = map(r->fd[MONITOR_FD_CONFIG], &request->config, &request->config_size);
	request->root = r->text[TEXT_ROOT];
	request->id = r->text[TEXT_ID];
	request->bundle = r->text[TEXT_BUNDLE];
	request->bundle_json = r->text[TEXT_BUNDLE_JSON];
	request->pid_file = r->head.length[TEXT_PID_FILE] ? r->text[TEXT_PID_FILE] : NULL;
	request->console_master = -1;
	request->console_as_is = true;
	for (int i = 0; i < 3; i++)
		request->stdio[i] = r->fd[MONITOR_FD_STDIN + i];
	request->program = r->fd[MONITOR_FD_PROGRAM];
	request->target = r->fd[MONITOR_FD_TARGET];
	request->extra = extra;
	return result;
}

static void say(int socket, uint16_t kind, uint32_t process)
{
	monitor_empty(&job.message, kind, process);
	job.message.head.pid = job.create.machine.init;
	monitor_send(socket, &job.message);
}

/* Of a container: it is known, so whoever hears of that comes first. Where descriptors are scarce nothing is kept. */
static void give_kept(int socket, struct monitor_message *kept)
{
	if (files[0] < ENOUGH_FILES)
		return;
	sched_yield();
	monitor_send(socket, kept);
}

/* Of an exec first to the server that waits for it, then to the monitor, which tells the others. */
static void say_made(const struct helper_ends *ends, uint32_t process)
{
	struct monitor_message kept;

	if (process == 0)
		kept_gather(&job.create, &kept);
	monitor_empty(&job.message, MONITOR_MADE, process);
	job.message.head.pid = job.create.machine.init;
	job.message.fd[MONITOR_FD_PROCESS] = wherry_steal(&job.create.machine.init_pidfd);
	job.message.fd[MONITOR_FD_MASTER] = job.create.request.console_master;
	if (process == 0)
		host_create_release(&job.create); /* the lock: whoever hears of it may start it */
	else
		job.message.head.status = monitor_send(ends->server, &job.message) == 0;
	monitor_send(ends->monitor, &job.message);
	if (process == 0)
		give_kept(ends->monitor, &kept);
	if (process > 0) {
		sched_yield(); /* who hears of it may be waiting for this processor: our end takes longer than his work */
		host_await_settled(&job.create);
	}
}

void helper_describe(struct monitor_message *failed, uint32_t process, const struct wherry_message *failure, int error)
{
	monitor_empty(failed, MONITOR_FAILED, process);
	failed->head.error = failure->kind ? failure->error : error;
	failed->head.step = failure->kind ? failure->step : UINT32_MAX;
	failed->head.call = failure->call;
	failed->head.value = failure->value;
}

static void say_failure(int socket, uint32_t process, int error)
{
	helper_describe(&job.message, process, &job.create.failure, error);
	job.message.head.undo = job.create.undo_error;
	monitor_send(socket, &job.message);
}

static int await_word(int socket)
{
	struct pollfd item = { .fd = socket, .events = POLLIN };
	int got;

	do {
		if (poll(&item, 1, -1) < 0 && errno != EINTR)
			return -errno;
		got = monitor_receive(socket, &job.message);
	} while (got == -EAGAIN);
	return got == 1 ? job.message.head.kind : MONITOR_ABORT;
}

static int next_word(int socket)
{
	int word = await_word(socket);

	monitor_close_fds(&job.message);
	return word;
}

/* The server's own part of a create, while init waits. The end of the socket is an abort. */
static int interlude(int socket, uint32_t process)
{
	int word;

	say(socket, MONITOR_WAITING, process);
	while ((word = next_word(socket)) == MONITOR_MARK)
		host_create_mark(&job.create, job.message.head.index, (enum wherry_journal_state)job.message.head.status);
	if (word == MONITOR_FINISH)
		return host_create_finish(&job.create);
	host_create_abort(&job.create);
	job.create.waiting = false;
	return -ECANCELED;
}

/* What the process may have, and what we need: the monitor's own descriptors, and those of other processes, are none of our business. The process is
 * cloned from us: it gets nothing but these. */
static int keep_own(struct helper_ends *ends, struct host_request *request)
{
	int fds[OWN] = { 0, 1, 2, ends->monitor, ends->server, MONITOR_LOCK, request->target, request->program }, result;

	for (int i = 0; i < 3; i++)
		if (request->stdio[i] >= 0)
			fds[i] = request->stdio[i];
	result = wherry_place_fds(fds, OWN);
	result = result < 0 ? result : wherry_close_from(OWN);
	result = result < 0 ? result : wherry_cloexec_from(MONITOR);
	ends->monitor = request->own[0] = MONITOR;
	ends->server = request->own[1] = SERVER;
	request->own[2] = LOCK;
	request->target = TARGET;
	request->program = PROGRAM;
	request->stdio[0] = request->stdio[1] = request->stdio[2] = -1;
	request->launch = host_launch_itself;
	return result;
}

static int make(struct helper_ends *ends, const struct monitor_message *r)
{
	struct host_request request = { 0 };
	int result = helper_request(r, &request);

	if (result < 0)
		return result;
	if (r->head.kind == MONITOR_EXEC) {
		if (r->head.length[TEXT_EXTRA]) /* execCPUAffinity.initial: where the runtime itself runs until then */
			sys_sched_setaffinity(0, r->head.length[TEXT_EXTRA], r->text[TEXT_EXTRA]);
		request.directory = ends->directory;
		result = keep_own(ends, &request);
		return result < 0 ? result : host_exec_begin(&job.create, &request);
	}
	request.extra_count = read_extra(r);
	(void)!chdir(request.bundle); /* where hooks expect to be */
	result = host_create_begin(&job.create, &request);
	while (result == 0 && job.create.waiting)
		result = interlude(ends->monitor, r->head.process);
	return result;
}

/* The words of TEXT_EXTRA: `count` of them and the path before them, then the environment. */
static int find_words(const struct monitor_message *request, char *words[MAX_WORDS], char ***environment)
{
	const char *at = request->text[TEXT_EXTRA], *end = at + request->head.length[TEXT_EXTRA];
	uint32_t count = 0, arguments = 1 + request->head.count;

	*environment = NULL;
	for (uint32_t index = 0; at <= end; index++, at += strlen(at) + 1) {
		if (count + 2 >= MAX_WORDS)
			return -E2BIG;
		if (index == arguments) {
			words[count++] = NULL;
			*environment = words + count;
		}
		words[count++] = (char *)(uintptr_t)at;
	}
	words[count] = NULL;
	return *environment ? 0 : -EINVAL;
}

/* A program in our place. The monitor's lock stays with it, as with every helper: its number is above ANSWER. */
static int become(int socket, const struct monitor_message *r)
{
	char *words[MAX_WORDS], **environment;
	int result = find_words(r, words, &environment), lock = fcntl(MONITOR_LOCK, F_DUPFD, ANSWER + 1);
	sigset_t none;

	if (result < 0)
		return result;
	if (lock < 0)
		return -errno;
	for (int i = 0; i < 3; i++)
		if (r->fd[MONITOR_FD_STDIN + i] >= 0 && dup2(r->fd[MONITOR_FD_STDIN + i], i) < 0)
			return -errno;
	if (dup2(socket, ANSWER) < 0)
		return -errno;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execve(words[0], words, environment);
	return -errno;
}

void helper_raise_files(void)
{
	uint64_t all[2];

	if (files[1] || sys_prlimit(0, RLIMIT_NOFILE, NULL, files) < 0)
		return;
	all[0] = all[1] = files[1];
	sys_prlimit(0, RLIMIT_NOFILE, all, NULL);
}

void helper_lower_files(void)
{
	if (files[1])
		sys_prlimit(0, RLIMIT_NOFILE, files, NULL);
}

void helper_run(struct helper_ends ends, struct monitor_message *request)
{
	int result;

	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (getppid() != request->head.pid) /* the monitor is gone already */
		_exit(1);
	helper_lower_files();
	job.message.data = texts;
	result = request->head.kind == MONITOR_RESTORE ? become(ends.monitor, request) : make(&ends, request);
	if (result < 0)
		say_failure(ends.monitor, request->head.process, -result);
	else
		say_made(&ends, request->head.process);
	_exit(0);
}
