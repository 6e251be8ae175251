/* SPDX-License-Identifier: Apache-2.0
 *
 * The role launcher of the static program. It has the caller's credentials and namespaces and one thread: it joins namespaces,
 * clones init, and stays as long as init has steps that only a process of the host can do. specs/handshake.md draws it.
 */
#include "wherry/core.h"
#include "wherry/sys.h"

#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { FAILED = 1 };

/* ---- what the launcher was given ---------------------------------------------------------------------------------------- */

static int read_launch(struct wherry_machine *m, uint64_t *where)
{
	struct stat file;
	const void *base;

	*where = 0;
	if (fstat(WHERRY_FD_LAUNCH, &file) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_STAT);
	if (file.st_size <= 0 || file.st_size > 2 * WHERRY_MAX_PLAN)
		return -WHERRY_BAD_PLAN;
	base = mmap(NULL, (size_t)file.st_size, PROT_READ, MAP_PRIVATE, WHERRY_FD_LAUNCH, 0);
	if (base == MAP_FAILED)
		return wherry_fail_errno(m, WHERRY_CALL_READ);
	close(WHERRY_FD_LAUNCH);
	return wherry_decode_launch(base, (size_t)file.st_size, m, where);
}

/* The memory of a timeline. The descriptor stands above all that is ours: settle_descriptors closes it next. The mapping ends with execve. */
static int map_trace(struct wherry_machine *m)
{
	int fd = WHERRY_FD_FIRST_REGISTER + m->code.plan->inherited_registers + (int)m->preserve_fds;
	void *base;

	if (!((const struct wherry_launch *)(const void *)m->launch)->trace)
		return 0;
	base = mmap(NULL, m->code.steps * sizeof(*m->trace), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (base == MAP_FAILED)
		return wherry_fail_errno(m, WHERRY_CALL_READ);
	m->trace = base;
	return 0;
}

/* Preserved descriptors go down to where the user's program will find them, our own above them. `*own` is one of ours. */
static int lift(int *own, int floor)
{
	int fd;

	if (*own < 0)
		return 0;
	fd = fcntl(*own, F_DUPFD_CLOEXEC, floor);
	*own = fd;
	return fd < 0 ? -errno : 0;
}

static int place_preserved(struct wherry_machine *m, int first, int count)
{
	int error = lift(&m->caller, first + count);

	error = error ? error : lift(&m->start_fifo, first + count);
	error = error ? error : lift(&m->result_fifo, first + count);
	for (int i = 0; !error && i < m->code.plan->inherited_registers; i++)
		error = lift(&m->registers[i], first + count);
	if (error)
		return wherry_fail(m, WHERRY_CALL_DUP, -error);
	/* ascending and downwards: no source is overwritten before it was read */
	for (int i = 0; i < count; i++)
		if (TEMP_FAILURE_RETRY(dup3(first + i, 3 + i, O_CLOEXEC)) < 0 && errno != EBADF)
			return wherry_fail_errno(m, WHERRY_CALL_DUP);
	for (int fd = 3 + count; fd < first + count; fd++)
		close(fd);
	return 0;
}

/* Init keeps only a writing end, so that the reader sees the end of the file when the program has been executed. */
static void keep_writing_end(struct wherry_machine *m)
{
	char path[32];
	int fd = open(wherry_fd_path(m->result_fifo, path), O_WRONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	/* no procfs, or a number that a preserved descriptor has left free: both ends do as well */
	if (fd < 3 + (int)m->preserve_fds)
		wherry_close(&fd);
	if (fd < 0)
		return;
	wherry_close(&m->result_fifo);
	m->result_fifo = fd;
}

static int settle_descriptors(struct wherry_machine *m)
{
	int registers = m->code.plan->inherited_registers, preserved = (int)m->preserve_fds;
	int first = WHERRY_FD_FIRST_REGISTER + registers, error;

	m->start_fifo = WHERRY_FD_START;
	m->result_fifo = WHERRY_FD_RESULT;
	error = wherry_close_from(first + preserved);
	if (error)
		return wherry_fail(m, WHERRY_CALL_CLOSE_RANGE, -error);
	error = wherry_cloexec_from(3);
	if (error)
		return wherry_fail(m, WHERRY_CALL_CLOSE_RANGE, -error);
	for (int i = 0; i < registers; i++)
		if (fcntl(WHERRY_FD_FIRST_REGISTER + i, F_GETFD) >= 0) /* else it is empty */
			m->registers[i] = WHERRY_FD_FIRST_REGISTER + i;
	if (preserved) {
		error = place_preserved(m, first, preserved);
		if (error)
			return error;
	}
	keep_writing_end(m);
	return 0;
}

/* ---- dumpable -------------------------------------------------------------------------------------------------------------- */

/* Who may look into any process of its user namespace loses nothing by being hidden itself: its /proc files belong to its own root,
 * and the checks of setns and of the maps pass by capability. All others must stay dumpable until init's maps are written: the
 * kernel refuses newuidmap and uid_map on a hidden process of an ordinary user. Before any setns everybody hides. */
static bool may_hide_at_once(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct sets[2];

	return sys_capget(&header, sets) == 0 && (sets[0].effective & (1U << CAP_SYS_PTRACE)) && (sets[0].effective & (1U << CAP_SYS_ADMIN));
}

static int hide(struct wherry_machine *m)
{
	return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ? wherry_fail_errno(m, WHERRY_CALL_DUMPABLE) : 0;
}

/* ---- serving init ------------------------------------------------------------------------------------------------------------ */

/* Sources are opened in init's mount namespace, with the host's credentials. In the host's own namespace the clones would not carry
 * the locks that keep a container's root from clearing ro and nosuid of the host's mounts; with init's credentials the kernel
 * refuses to go below a directory that only the host's root may enter. */
static int enter_mounts(struct wherry_machine *m)
{
	static bool entered;
	int error;

	if (entered)
		return 0;
	error = hide(m);
	if (error)
		return error;
	if (setns(m->init_pidfd, CLONE_NEWNS) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_SETNS);
	entered = true;
	return 0;
}

static int serve_step(struct wherry_machine *m, uint32_t step)
{
	int error = 0;

	m->current = step;
	m->failed_value = 0;
	if (wherry_gives_tree(m->code.step[step]))
		error = enter_mounts(m);
	return error ? error : wherry_run_step(m, step);
}

/* The descriptor that travels with the answer. */
static int produced(const struct wherry_machine *m, uint32_t step)
{
	const struct wherry_op *op = m->code.step[step];

	return wherry_gives_tree(op) ? m->registers[((const struct wherry_op_open_tree *)op)->out] : -1;
}

static int answer_init(struct wherry_machine *m, uint32_t step)
{
	int error = serve_step(m, step);
	const struct wherry_message done = {
		.kind = error ? WHERRY_FAILED : WHERRY_DONE, .step = step, .error = -error,
		.call = error ? m->failed_call : WHERRY_CALL_NONE, .value = error ? m->failed_value : 0,
	};

	return wherry_send(m->helper, &done, error ? -1 : produced(m, step));
}

/* Until init has no more steps for us, or is gone. Steps come once and in order: anything else ends the service. */
static int serve_init(struct wherry_machine *m)
{
	uint32_t last = wherry_last_served(&m->code), next = 0;

	while (next <= last) {
		struct wherry_message request;
		int error = wherry_receive(m->helper, &request, NULL);

		if (error == -EPIPE)
			return 0;
		if (error || request.kind != WHERRY_RUN || request.step < next || request.step > last ||
		    !wherry_served_by_launcher(m->code.step[request.step]))
			return FAILED;
		next = request.step + 1;
		if (answer_init(m, request.step))
			return FAILED;
	}
	return 0;
}

/* ---- a server of its own ---------------------------------------------------------------------------------------------------------- */

/* Who joins a user namespace gives up the host's credentials, and what init will ask for needs them. So before that the launcher leaves
 * a process behind that serves in its place; when init exists, it gets init's pid and pidfd and our end of init's socket. */
static struct {
	pid_t pid;  /* 0 = none */
	int socket;
} server = { .socket = -1 };

static int receive_init(struct wherry_machine *m, int socket)
{
	struct wherry_message message;
	int error = wherry_receive(socket, &message, &m->init_pidfd);

	m->init = error ? 0 : (pid_t)message.value;
	return error ? error : wherry_receive(socket, &message, &m->helper);
}

static int serve_in_place(struct wherry_machine *m, int socket)
{
	int error;

	wherry_close(&m->caller);
	wherry_close(&m->start_fifo);
	wherry_close(&m->result_fifo);
	error = receive_init(m, socket);
	if (error)
		return error == -EPIPE ? 0 : FAILED; /* the launcher has failed, and says so itself */
	return serve_init(m);
}

static int leave_server(struct wherry_machine *m)
{
	struct clone_args args = { .exit_signal = SIGCHLD };
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_SOCKETPAIR);
	server.pid = sys_clone3(&args, sizeof(args));
	if (server.pid < 0 && (errno == ENOSYS || errno == EPERM))
		server.pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
	if (server.pid < 0)
		return wherry_fail_errno(m, WHERRY_CALL_FORK);
	close(pair[server.pid ? 1 : 0]);
	if (!server.pid)
		_exit(serve_in_place(m, pair[1]));
	server.socket = pair[0];
	return 0;
}

/* The launcher stays until the server has ended: there is one process to wait for, not two. */
static int hand_over_init(struct wherry_machine *m)
{
	const struct wherry_message launched = { .kind = WHERRY_LAUNCHED, .value = (uint64_t)m->init };
	int error = wherry_send(server.socket, &launched, m->init_pidfd);
	int status = 0;

	if (!error)
		error = wherry_send(server.socket, &launched, m->helper);
	wherry_close(&m->helper);
	wherry_close(&server.socket);
	if (TEMP_FAILURE_RETRY(waitpid(server.pid, &status, 0)) < 0 || error || status)
		return FAILED;
	return 0;
}

/* ---- before the clone ------------------------------------------------------------------------------------------------------- */

static int report_failure(struct wherry_machine *m, int error, uint64_t value)
{
	const struct wherry_message failure = {
		.kind = WHERRY_FAILED, .step = m->current, .error = -error, .call = m->failed_call, .value = value,
	};

	wherry_send(m->caller, &failure, -1);
	return FAILED;
}

static uint32_t step_after_launch(const struct wherry_code *code)
{
	uint32_t step = 0;

	while (step < code->steps && code->step[step]->code != OP_LAUNCH)
		step++;
	return step + 1;
}

static int join(struct wherry_machine *m, uint32_t step)
{
	const struct wherry_op_join *op = (const void *)m->code.step[step];
	int error = hide(m);

	if (!error && op->type & CLONE_NEWUSER && wherry_last_served(&m->code))
		error = leave_server(m);
	return error ? error : wherry_run_step(m, step);
}

/* Its own operations, to OP_CLONE, which is then m->current. */
static int run_until_clone(struct wherry_machine *m)
{
	for (uint32_t step = step_after_launch(&m->code); step < m->code.steps; step++) {
		int error;

		m->current = step;
		if (m->code.step[step]->code == OP_CLONE)
			return 0;
		error = m->code.step[step]->code == OP_JOIN ? join(m, step) : wherry_run_step(m, step);
		if (error)
			return error;
	}
	return -WHERRY_BAD_PLAN; /* nothing to clone */
}

/* ---- without a process of its own --------------------------------------------------------------------------------------------- */

/* Who joins a user namespace or a time namespace is no caller any more: it has lost its rights, or its clock. And init may ask for nothing that
 * only a launcher can do: writing a tasks file is its own, in the caller's user namespace. */
bool wherry_may_launch_itself(const struct wherry_code *code)
{
	for (uint32_t step = 0; step < code->steps; step++) {
		const struct wherry_op *op = code->step[step];

		if (op->code == OP_JOIN && ((const struct wherry_op_join *)(const void *)op)->type & (CLONE_NEWUSER | CLONE_NEWTIME))
			return false;
		if (op->code == OP_UNSHARE || (op->executor == WHERRY_LAUNCHER && op->code != OP_OOM_SCORE_ADJ && op->code != OP_OPEN_NAMESPACE &&
					       op->code != OP_JOIN && op->code != OP_CLONE))
			return false;
	}
	return may_hide_at_once();
}

bool wherry_asks_caller(const struct wherry_code *code)
{
	for (uint32_t step = step_after_launch(code); step < code->steps; step++) {
		const struct wherry_op *op = code->step[step];

		if (op->code == OP_CONSOLE || (op->executor == WHERRY_CALLER && op->code != OP_PUBLISH))
			return true;
	}
	return false;
}

int wherry_prepare_clone(struct wherry_machine *m)
{
	int error = hide(m);

	m->executor = WHERRY_LAUNCHER;
	m->by_caller = true;
	if (!error)
		error = run_until_clone(m);
	m->executor = WHERRY_CALLER;
	return error;
}

/* There init begins, in a copy of this process, and does not come back. */
int wherry_clone_itself(struct wherry_machine *m)
{
	int error;

	m->executor = WHERRY_LAUNCHER;
	error = wherry_run_step(m, m->current);
	m->executor = WHERRY_CALLER;
	return error;
}

/* ---- announcing --------------------------------------------------------------------------------------------------------------- */

/* The caller learns of init, and then init that the caller has: nothing that init says may arrive before. */
static int announce_init(struct wherry_machine *m)
{
	const struct wherry_message launched = { .kind = WHERRY_LAUNCHED, .step = m->current, .value = (uint64_t)m->init };
	const struct wherry_message go = { .kind = WHERRY_DONE, .step = m->current };
	int error = wherry_send(m->caller, &launched, m->init_pidfd);

	if (!error)
		error = wherry_send(m->helper, &go, -1);
	/* what only init uses: the caller must see the end of file when init dies */
	wherry_close(&m->caller);
	wherry_close(&m->start_fifo);
	wherry_close(&m->result_fifo);
	return error;
}

/* ---- the role ------------------------------------------------------------------------------------------------------------------ */

static int prepare(struct wherry_machine *m, uint64_t *where)
{
	int error = wherry_reset_signals();

	*where = 0;
	if (error)
		return wherry_fail(m, WHERRY_CALL_SIGNAL, -error);
	error = may_hide_at_once() ? hide(m) : 0;
	if (!error)
		error = read_launch(m, where);
	if (error)
		return error;
	m->current = step_after_launch(&m->code) - 1;
	error = map_trace(m);
	if (!error)
		error = settle_descriptors(m);
	if (!error)
		rootfs_stand(m); /* now, with the host's credentials: a joined user namespace takes them away */
	return error;
}

int wherry_launcher_main(void)
{
	static struct wherry_machine machine;
	struct wherry_machine *m = &machine;
	uint64_t where;
	int error;

	m->executor = WHERRY_LAUNCHER;
	m->caller = WHERRY_FD_CALLER;
	m->helper = m->init_pidfd = m->rootfs = m->pending_fd = -1;
	for (size_t i = 0; i < WHERRY_MAX_REGISTERS; i++)
		m->registers[i] = -1;
	error = prepare(m, &where);
	if (error)
		return report_failure(m, error, where);
	error = run_until_clone(m);
	if (!error)
		error = wherry_run_step(m, m->current);
	if (error)
		return report_failure(m, error, m->failed_value);
	if (announce_init(m))
		return FAILED;
	return server.pid ? hand_over_init(m) : serve_init(m);
}
