/* SPDX-License-Identifier: Apache-2.0
 *
 * The role launcher of the static program. It has the caller's credentials and namespaces and one thread: it joins namespaces,
 * clones init, and stays as long as init has steps that only a process of the host can do. specs/handshake.md draws it.
 */
#include "wherry/core.h"
#include "wherry/sys.h"

#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/stat.h>

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

	if (fd < 0)
		return; /* no procfs: both ends do as well */
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
		if (fcntl(WHERRY_FD_FIRST_REGISTER + i, F_GETFD) >= 0)
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
 * kernel refuses newuidmap, uid_map and setns on a hidden process of an ordinary user. */
static bool may_hide(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct sets[2];

	return sys_capget(&header, sets) == 0 && (sets[0].effective & (1U << CAP_SYS_PTRACE)) && (sets[0].effective & (1U << CAP_SYS_ADMIN));
}

static int hide(struct wherry_machine *m)
{
	return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ? wherry_fail_errno(m, WHERRY_CALL_DUMPABLE) : 0;
}

/* ---- before the clone ------------------------------------------------------------------------------------------------------- */

/* The failure of the launcher itself, or what it found in the plan. */
static int report_failure(struct wherry_machine *m, uint32_t step, int error, uint64_t value)
{
	const struct wherry_message failure = {
		.kind = WHERRY_FAILED, .step = step, .error = -error, .call = m->failed_call, .value = value,
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

/* Its own operations, to OP_CLONE and with it: there init begins, in a copy of this process, and does not come back. */
static int run_until_clone(struct wherry_machine *m, bool hidden)
{
	for (uint32_t step = step_after_launch(&m->code); step < m->code.steps; step++) {
		int error = 0;

		m->current = step;
		if (!hidden && m->code.step[step]->code == OP_JOIN) {
			error = hide(m);
			hidden = true;
		}
		if (!error)
			error = wherry_run_step(m, step);
		if (error)
			return error;
		if (m->code.step[step]->code == OP_CLONE)
			return 0;
	}
	return -WHERRY_BAD_PLAN; /* nothing to clone */
}

/* ---- after it ------------------------------------------------------------------------------------------------------------------ */

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

/* The last step that init may ask us for; 0 = none. */
static uint32_t last_served(const struct wherry_machine *m)
{
	for (uint32_t step = m->code.steps; step-- > m->current + 1;)
		if (wherry_served_by_launcher(m->code.step[step]))
			return step;
	return 0;
}

/* Sources are opened in init's mount namespace, with the host's credentials. In the host's own namespace the clones would not carry
 * the locks that keep a container's root from clearing ro and nosuid of the host's mounts; with init's credentials the kernel
 * refuses to go below a directory that only the host's root may enter. An ordinary user needs init's user namespace for it. */
static int join_mounts(struct wherry_machine *m)
{
	static bool joined;

	if (joined)
		return 0;
	if (setns(m->init_pidfd, CLONE_NEWNS) < 0 && (errno != EPERM || setns(m->init_pidfd, CLONE_NEWUSER | CLONE_NEWNS) < 0))
		return wherry_fail_errno(m, WHERRY_CALL_SETNS);
	joined = true;
	return 0;
}

static bool opens_trees(const struct wherry_machine *m)
{
	for (uint32_t step = m->current + 1; step < m->code.steps; step++)
		if (m->code.step[step]->code == OP_OPEN_TREE && m->code.step[step]->executor == WHERRY_LAUNCHER)
			return true;
	return false;
}

static int serve_step(struct wherry_machine *m, uint32_t step, bool hidden)
{
	int error;

	m->current = step;
	if (m->code.step[step]->code == OP_OPEN_TREE) {
		error = join_mounts(m);
		if (error)
			return error;
	}
	error = wherry_run_step(m, step);
	if (error || hidden || m->code.step[step]->code != OP_WRITE_MAPS)
		return error;
	/* init hides itself as soon as it has its maps: whoever cannot look into a hidden process joins it now */
	error = hide(m);
	return error || !opens_trees(m) ? error : join_mounts(m);
}

static int produced(const struct wherry_machine *m, uint32_t step)
{
	const struct wherry_op *op = m->code.step[step];

	return op->code == OP_OPEN_TREE ? m->registers[((const struct wherry_op_open_tree *)op)->out] : -1;
}

static int answer(struct wherry_machine *m, uint32_t step, bool hidden)
{
	int error = serve_step(m, step, hidden);
	const struct wherry_message done = {
		.kind = error ? WHERRY_FAILED : WHERRY_DONE, .step = step, .error = -error,
		.call = error ? m->failed_call : WHERRY_CALL_NONE, .value = error ? m->failed_value : 0,
	};

	return wherry_send(m->helper, &done, error ? -1 : produced(m, step));
}

/* Until init has no more steps for us, or is gone. Steps come once and in order: anything else ends the service. */
static int serve_init(struct wherry_machine *m, bool hidden)
{
	uint32_t last = last_served(m), next = m->current + 1;

	while (next <= last) {
		struct wherry_message request;
		int error = wherry_receive(m->helper, &request, NULL);

		if (error == -EPIPE)
			return 0;
		if (error || request.kind != WHERRY_RUN || request.step < next || request.step > last ||
		    !wherry_served_by_launcher(m->code.step[request.step]))
			return FAILED;
		next = request.step + 1;
		if (answer(m, request.step, hidden))
			return FAILED;
	}
	return 0;
}

/* ---- the role ------------------------------------------------------------------------------------------------------------------ */

int wherry_launcher_main(void)
{
	static struct wherry_machine machine;
	struct wherry_machine *m = &machine;
	bool hidden = may_hide();
	uint64_t where;
	int error;

	m->executor = WHERRY_LAUNCHER;
	m->caller = WHERRY_FD_CALLER;
	m->helper = m->init_pidfd = m->rootfs = m->pending_fd = -1;
	for (size_t i = 0; i < WHERRY_MAX_REGISTERS; i++)
		m->registers[i] = -1;
	error = wherry_reset_signals();
	if (error)
		return report_failure(m, 0, wherry_fail(m, WHERRY_CALL_SIGNAL, -error), 0);
	error = hidden ? hide(m) : 0;
	if (error)
		return report_failure(m, 0, error, 0);
	error = read_launch(m, &where);
	if (error)
		return report_failure(m, 0, error, where);
	m->current = step_after_launch(&m->code) - 1;
	error = settle_descriptors(m);
	if (!error)
		error = run_until_clone(m, hidden);
	if (error)
		return report_failure(m, m->current, error, m->failed_value);
	if (announce_init(m))
		return FAILED;
	return serve_init(m, hidden);
}
