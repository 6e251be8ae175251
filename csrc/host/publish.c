/* SPDX-License-Identifier: Apache-2.0
 *
 * Makes a container known: its record, state.json, the pid file, the console and pidfd sockets. And the seccomp listener's hand-over. The
 * sockets are connected before anything is made, so a wrong path costs nothing, and none is looked up once a filter may be waiting.
 */
#include "parts.h"

#include <poll.h>
#include <string.h>
#include <termios.h>

static int connect_one(struct host_create *c, const char *path, enum wherry_call call, int *out)
{
	int fd;

	if (!path)
		return 0;
	fd = host_connect(path);
	if (fd < 0)
		return wherry_fail(&c->machine, call, -fd);
	*out = fd;
	return 0;
}

static const struct wherry_op_listener *find_listener(const struct wherry_code *code, uint32_t *step)
{
	for (uint32_t i = 0; i < code->steps; i++) {
		if (code->step[i]->code != OP_LISTENER)
			continue;
		*step = i;
		return (const void *)code->step[i];
	}
	return NULL;
}

int host_connect_sockets(struct host_create *c)
{
	struct wherry_machine *m = &c->machine;
	uint32_t step = m->current;
	const struct wherry_op_listener *listener = find_listener(&m->code, &step);
	int result = connect_one(c, c->request.console_socket, WHERRY_CALL_CONSOLE_SOCKET, &c->console_socket);

	if (result == 0)
		result = connect_one(c, c->request.pidfd_socket, WHERRY_CALL_PIDFD_SOCKET, &c->pidfd_socket);
	if (result < 0 || !listener)
		return result;
	m->current = step;
	return connect_one(c, wherry_text(&m->code, listener->path), WHERRY_CALL_CONNECT, &c->listener_socket);
}

/* The text of a template; the buffer lives as long as `scratch`. */
static ssize_t expand(struct host_create *c, struct wherry_template text, struct host_scratch *scratch)
{
	size_t bound = host_template_bound(&c->machine, text);
	int result = host_scratch(scratch, bound);

	return result < 0 ? result : wherry_expand(&c->machine, text, scratch->base, bound);
}

int op_listener(struct wherry_machine *m, const struct wherry_op_listener *op)
{
	struct host_create *c = host_of(m);
	cleanup_scratch struct host_scratch scratch = { 0 };
	ssize_t length = expand(c, op->state, &scratch);
	int result;

	wherry_set_register(m, op->listener, wherry_steal(&m->pending_fd));
	if (length < 0)
		return wherry_fail(m, WHERRY_CALL_SEND, (int)-length);
	if (m->registers[op->listener] < 0)
		return wherry_fail(m, WHERRY_CALL_RECEIVE, EBADF);
	result = host_send_fd(c->listener_socket, scratch.base, (size_t)length, m->registers[op->listener]);
	if (result < 0)
		return wherry_fail(m, WHERRY_CALL_SEND, -result);
	/* ours goes at once: the agent must see the end when the container's last process ends */
	wherry_set_register(m, op->listener, -1);
	wherry_close(&c->listener_socket);
	return 0;
}

static int publish_record(struct host_create *c)
{
	const uint16_t status = WHERRY_RECORD_PUBLISHED;
	const int32_t pid = c->machine.init;
	int result = host_record_set(c->record, offsetof(struct wherry_record, start_time), &c->start_time, sizeof(c->start_time));

	if (result == 0)
		result = host_record_set(c->record, offsetof(struct wherry_record, pid), &pid, sizeof(pid));
	if (result == 0)
		result = host_record_set(c->record, offsetof(struct wherry_record, status), &status, sizeof(status));
	return result;
}

static int publish_state(struct host_create *c, struct wherry_template state)
{
	cleanup_scratch struct host_scratch scratch = { 0 };
	ssize_t length = expand(c, state, &scratch);
	int fd;

	if (length < 0)
		return (int)length;
	fd = host_write_replace(c->directory, "state.json", scratch.base, (size_t)length, 0600);
	if (fd < 0)
		return fd;
	wherry_close(&fd);
	return 0;
}

/* As others see it: whole or not there. The mode is 0666 less the umask, as engines expect. */
static int write_pid_file(struct host_create *c)
{
	const char *path = c->request.pid_file, *slash = strrchr(path, '/');
	char parent[WHERRY_MAX_PATH] = ".";
	cleanup_fd int directory = -1;
	int fd;

	if (slash) {
		size_t length = slash == path ? 1 : (size_t)(slash - path);

		if (length >= sizeof(parent))
			return -ENAMETOOLONG;
		memcpy(parent, path, length);
		parent[length] = 0;
	}
	directory = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (directory < 0)
		return -errno;
	fd = host_write_replace(directory, slash ? slash + 1 : path, c->slot_pid, strlen(c->slot_pid), 0666);
	if (fd < 0)
		return fd;
	c->pid_file_made = true;
	wherry_close(&fd);
	return 0;
}

/* The terminal of an attached run adds carriage returns to newlines; output that goes to a file or a pipe is to have none. */
static void plain_newlines(int master)
{
	struct termios settings;

	if (tcgetattr(master, &settings))
		return;
	settings.c_oflag &= ~(tcflag_t)ONLCR;
	tcsetattr(master, TCSANOW, &settings);
}

/* Without a socket the master is the caller's (an attached run). */
static int hand_over_console(struct host_create *c)
{
	static const char name[] = "/dev/ptmx";
	struct wherry_machine *m = &c->machine;
	int result;

	if (m->pending_fd < 0)
		return 0;
	if (c->console_socket < 0) {
		if (!c->request.console_as_is)
			plain_newlines(m->pending_fd);
		c->request.console_master = wherry_steal(&m->pending_fd);
		return 0;
	}
	result = host_send_fd(c->console_socket, name, sizeof(name) - 1, m->pending_fd);
	wherry_close(&m->pending_fd);
	wherry_close(&c->console_socket);
	return result;
}

static int hand_over_pidfd(struct host_create *c)
{
	static const char name[] = "pidfd";
	int result = c->pidfd_socket < 0 ? 0 : host_send_fd(c->pidfd_socket, name, sizeof(name) - 1, c->machine.init_pidfd);

	wherry_close(&c->pidfd_socket);
	return result;
}

/* Our own stays ours: it is closed by who gave it to us. */
int op_open_target(struct wherry_machine *m, const struct wherry_op_open_target *op)
{
	int fd;

	if (!(m->code.plan->flags & WHERRY_PLAN_EXEC))
		return wherry_fail(m, WHERRY_CALL_NONE, WHERRY_BAD_PLAN);
	fd = fcntl(host_of(m)->request.target, F_DUPFD_CLOEXEC, 0);
	wherry_set_register(m, op->out, fd);
	return fd < 0 ? wherry_fail_errno(m, WHERRY_CALL_DUP) : 0;
}

/* What comes into its pid namespace ends with it. Where namespaces were opened by its number: while it lives, that was nobody else's. */
int host_check_target(const struct host_create *c)
{
	struct pollfd item = { .fd = c->request.target, .events = POLLIN };

	return TEMP_FAILURE_RETRY(poll(&item, 1, 0)) ? -ESRCH : 0;
}

/* The record is last of what we keep: a crash before it leaves a create that has not happened. */
int op_publish(struct wherry_machine *m, const struct wherry_op_publish *op)
{
	struct host_create *c = host_of(m);
	bool exec = m->code.plan->flags & WHERRY_PLAN_EXEC;
	int result = exec ? host_check_target(c) : publish_state(c, op->state_file);

	if (result < 0)
		return wherry_fail(m, exec ? WHERRY_CALL_NONE : WHERRY_CALL_WRITE, -result);
	result = hand_over_console(c);
	if (result < 0)
		return wherry_fail(m, WHERRY_CALL_CONSOLE_SOCKET, -result);
	result = hand_over_pidfd(c);
	if (result < 0)
		return wherry_fail(m, WHERRY_CALL_PIDFD_SOCKET, -result);
	result = exec ? 0 : publish_record(c);
	if (result < 0)
		return wherry_fail(m, WHERRY_CALL_WRITE, -result);
	result = c->request.pid_file ? write_pid_file(c) : 0;
	return result < 0 ? wherry_fail(m, WHERRY_CALL_PID_FILE, -result) : 0;
}
