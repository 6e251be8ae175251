/* SPDX-License-Identifier: Apache-2.0
 *
 * Create, as an agenda: look at the request, run the caller's operations up to the launch, serve init until the commit. Where anything
 * fails, all that was done is undone, whatever it was: the journal knows.
 */
#include "parts.h"

#include <string.h>
#include <sys/file.h>
#include <time.h>

enum { END_WAIT_MS = 10 * 1000 };

/* ---- preparing ------------------------------------------------------------------------------------------------------------- */

static void empty(struct host_create *c, const struct host_request *request)
{
	struct wherry_machine *m = &c->machine;

	/* not what the decoder fills, nor the buffers behind it, which are written before they are read: with them it would be 140 KB */
	memset(c, 0, offsetof(struct host_create, machine.code));
	c->request = *request;
	c->request.console_master = -1;
	c->root = c->directory = c->record = c->execution = c->launcher_pidfd = -1;
	c->console_socket = c->pidfd_socket = c->listener_socket = -1;
	m->executor = WHERRY_CALLER;
	m->trace = request->trace;
	m->caller = m->helper = m->init_pidfd = m->start_fifo = m->result_fifo = m->rootfs = m->pending_fd = -1;
	for (size_t i = 0; i < WHERRY_MAX_REGISTERS; i++)
		m->registers[i] = -1;
	c->deadline = host_now_ms() + host_deadline_ms(request);
}

static int fill_slots(struct host_create *c)
{
	struct wherry_machine *m = &c->machine;
	struct timespec now;

	if (!host_valid_id(c->request.id))
		return wherry_fail(m, WHERRY_CALL_MKDIR, EINVAL);
	if (c->request.root[0] != '/')
		return wherry_fail(m, WHERRY_CALL_MKDIR, EINVAL);
	m->slots[WHERRY_SLOT_DIRECTORY] = c->request.directory ? c->request.directory : c->slot_directory;
	if (!c->request.directory && !host_join(c->slot_directory, sizeof(c->slot_directory), c->request.root, c->request.id))
		return wherry_fail(m, WHERRY_CALL_MKDIR, ENAMETOOLONG);
	clock_gettime(CLOCK_REALTIME, &now);
	host_format_time(now.tv_sec, (uint32_t)now.tv_nsec, c->slot_created);
	c->slot_pid[0] = c->slot_start_time[0] = '0';
	m->slots[WHERRY_SLOT_ID] = c->request.id;
	m->slots[WHERRY_SLOT_BUNDLE] = c->request.bundle;
	m->slots[WHERRY_SLOT_BUNDLE_JSON] = c->request.bundle_json;
	m->slots[WHERRY_SLOT_CREATED] = c->slot_created;
	m->slots[WHERRY_SLOT_PID] = c->slot_pid;
	m->slots[WHERRY_SLOT_START_TIME] = c->slot_start_time;
	return 0;
}

/* The decoder has checked each operation; that this plan makes a container, or a process in one, is checked here. The launch is at *launch. */
static int check_agenda(const struct wherry_code *code, bool exec, uint32_t *launch)
{
	if (exec != !!(code->plan->flags & WHERRY_PLAN_EXEC) || !code->steps || (code->step[0]->code == OP_CLAIM) == exec)
		return -WHERRY_BAD_PLAN;
	for (uint32_t i = !exec; i < code->steps; i++) {
		if (code->step[i]->code == OP_CLAIM)
			return -WHERRY_BAD_PLAN;
		if (code->step[i]->code != OP_LAUNCH)
			continue;
		*launch = i;
		return 0;
	}
	return -WHERRY_BAD_PLAN;
}

/* All that can be refused before anything is made. */
static int prepare(struct host_create *c, const struct host_request *request, bool exec, uint32_t *launch)
{
	struct wherry_machine *m = &c->machine;
	int result;

	empty(c, request);
	result = wherry_decode(request->plan, request->plan_size, &m->code, &m->failed_value);
	if (result == 0)
		result = check_agenda(&m->code, exec, launch);
	if (result < 0)
		return result;
	result = fill_slots(c);
	if (result < 0)
		return result;
	result = host_check_preserved(c);
	if (result < 0)
		return wherry_fail(m, WHERRY_CALL_FCNTL, -result);
	return host_connect_sockets(c);
}

/* ---- undoing ---------------------------------------------------------------------------------------------------------------- */

/* The launcher first: what it said of init before its end still waits in the socket. */
static int stop_processes(struct host_create *c)
{
	struct wherry_machine *m = &c->machine;
	struct wherry_message message;
	int result = host_kill_and_reap(c->launcher, c->launcher_pidfd, END_WAIT_MS), more;

	if (m->caller >= 0 && m->init_pidfd < 0 && fcntl(m->caller, F_SETFL, O_NONBLOCK) == 0) {
		int fd = -1;

		while (m->init_pidfd < 0 && wherry_receive(m->caller, &message, &fd) == 0) {
			if (message.kind == WHERRY_LAUNCHED) {
				m->init = (pid_t)message.value;
				m->init_pidfd = wherry_steal(&fd);
			}
			wherry_close(&fd);
		}
	}
	more = host_kill_and_reap(m->init, m->init_pidfd, END_WAIT_MS);
	return result < 0 ? result : more;
}

static int remove_traces(struct host_create *c)
{
	struct host_container container;
	const int32_t nobody = 0;
	int result = host_open(&container, c->request.root, c->request.id);

	if (container.directory >= 0)
		result = host_destroy(&container, true);
	host_close(&container);
	if (result < 0 && result != -ENOENT && c->record >= 0) /* then it is gc's: nobody is at it any more */
		host_record_set(c->record, offsetof(struct wherry_record, owner_pid), &nobody, sizeof(nobody));
	return result == -ENOENT ? 0 : result;
}

static void undo(struct host_create *c)
{
	int result = stop_processes(c), more = c->claimed ? remove_traces(c) : 0;

	if (c->pid_file_made)
		unlink(c->request.pid_file);
	wherry_close(&c->request.console_master);
	c->undo_error = result < 0 ? -result : -more;
	host_create_release(c);
}

/* ---- the agenda -------------------------------------------------------------------------------------------------------------- */

static int settle(struct host_create *c, int result)
{
	if (result == 0 && c->waiting) {
		c->deadline -= host_now_ms(); /* the clock stands while the caller works */
		return 0;
	}
	if (result == 0)
		host_await_settled(c); /* the commit has been sent: nothing can take it back */
	else
		undo(c);
	return result;
}

/* `result` is that of the preparations. */
static int run(struct host_create *c, uint32_t launch, int result)
{
	if (result < 0)
		host_fail(c, c->machine.current, result);
	for (uint32_t step = 0; result == 0 && step <= launch; step++)
		result = host_run_step(c, step);
	c->served = launch;
	return result < 0 ? result : host_serve(c);
}

int host_create_begin(struct host_create *c, const struct host_request *request)
{
	uint32_t launch = 0;
	int result = prepare(c, request, false, &launch);

	return settle(c, run(c, launch, result));
}

int host_restore_begin(struct host_create *c, const struct host_request *request)
{
	uint32_t launch = 0;
	int result = prepare(c, request, false, &launch);

	if (result < 0)
		host_fail(c, c->machine.current, result);
	for (uint32_t step = 0; result == 0 && step < launch; step++)
		result = c->machine.code.step[step]->executor == WHERRY_CALLER ? host_run_step(c, step) : 0;
	c->waiting = result == 0;
	return settle(c, result);
}

static bool is_limit(uint16_t code)
{
	return code == OP_CGROUP_DIRECTORY || code == OP_CGROUP_CONTROLLERS || code == OP_CGROUP_CPUSET || code == OP_CGROUP_WRITE ||
	       code == OP_CGROUP_DEVICES || code == OP_CGROUP_CHOWN;
}

/* Nothing is undone here: somebody's processes are still there. */
int host_restore_steps(struct host_create *c, enum host_restore_part part, pid_t pid)
{
	const struct wherry_code *code = &c->machine.code;
	uint32_t step = 0;
	int result = 0;

	if (part == HOST_RESTORE_HOOKS)
		wherry_decimal((uint64_t)pid, c->slot_pid);
	while (code->step[step]->code != OP_LAUNCH) /* the decoder has seen it */
		step++;
	for (; result == 0 && step < code->steps; step++) {
		const struct wherry_op *op = code->step[step];

		if (op->executor == WHERRY_CALLER && (part == HOST_RESTORE_HOOKS ? op->code == OP_HOOK : is_limit(op->code)))
			result = host_run_step(c, step);
	}
	return result;
}

int host_restore_finish(struct host_create *c, pid_t init, int console_master)
{
	struct wherry_machine *m = &c->machine;
	uint32_t step = 0;
	int result;

	c->waiting = false;
	c->deadline += host_now_ms();
	m->init = init;
	m->init_pidfd = sys_pidfd_open(init, 0);
	m->pending_fd = console_master;
	result = m->init_pidfd < 0 ? wherry_fail_errno(m, WHERRY_CALL_OPEN) : host_start_time(init, &c->start_time);
	wherry_decimal((uint64_t)init, c->slot_pid);
	wherry_decimal(c->start_time, c->slot_start_time);
	while (m->code.step[step]->code != OP_PUBLISH) /* the decoder has seen it */
		step++;
	if (result < 0)
		host_fail(c, step, result);
	else
		result = host_run_step(c, step);
	c->finished = result == 0;
	return settle(c, result);
}

int host_exec_prepare(struct host_create *c, const struct host_request *request, uint32_t *launch)
{
	return prepare(c, request, true, launch);
}

/* Nobody starts an exec: both of init's fifos are the end of one pipe. What fails after the commit comes through it, and its end says that
 * the program executes. */
int host_exec_begin(struct host_create *c, const struct host_request *request)
{
	uint32_t launch = 0;
	int result = host_exec_prepare(c, request, &launch);

	if (result == 0)
		result = host_open_execution(c);
	return host_exec_end(c, run(c, launch, result));
}

int host_open_execution(struct host_create *c)
{
	struct wherry_machine *m = &c->machine;
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_OPEN);
	c->execution = ends[0];
	m->result_fifo = ends[1];
	m->start_fifo = fcntl(ends[1], F_DUPFD_CLOEXEC, 0);
	return m->start_fifo < 0 ? wherry_fail_errno(m, WHERRY_CALL_OPEN) : 0;
}

int host_exec_end(struct host_create *c, int result)
{
	if (result == 0)
		result = host_await_execution(c);
	wherry_close(&c->execution);
	return result < 0 ? settle(c, result) : 0;
}

int host_exec(struct host_create *c, const struct host_request *request)
{
	int result = host_exec_begin(c, request);

	return result < 0 ? result : settle(c, 0);
}

int host_create_finish(struct host_create *c)
{
	int result;

	if (!c->waiting)
		return 0;
	c->waiting = false;
	c->deadline += host_now_ms();
	result = host_answer(c, c->served, 0);
	if (result == 0)
		result = host_serve(c);
	return settle(c, result);
}

void host_create_abort(struct host_create *c)
{
	bool undone = c->failure.kind && !c->waiting; /* while it waits, a step of a restore has failed and undone nothing */

	c->waiting = false;
	if (c->claimed && !undone)
		undo(c);
	c->claimed = false;
}

void host_create_release(struct host_create *c)
{
	struct wherry_machine *m = &c->machine;
	int *const fds[] = { &c->root, &c->directory, &c->record, &c->execution, &c->launcher_pidfd, &c->console_socket, &c->pidfd_socket, &c->listener_socket,
			     &m->caller, &m->init_pidfd, &m->start_fifo, &m->result_fifo, &m->pending_fd };

	if (c->directory >= 0)
		flock(c->directory, LOCK_UN); /* not left to the close: see host_close */
	for (size_t i = 0; i < WHERRY_LENGTH(fds); i++)
		wherry_close(fds[i]);
	for (uint16_t i = 0; i < WHERRY_MAX_REGISTERS; i++)
		wherry_close(&m->registers[i]);
}
