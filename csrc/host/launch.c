/* SPDX-License-Identifier: Apache-2.0
 *
 * Starts the launcher: the static program from its sealed memfd, with the plan in another one, and exactly the descriptors that
 * enum wherry_inherited names.
 */
#include "parts.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum { MAX_PRESERVED = 1024, MAX_FDS = WHERRY_FD_FIRST_REGISTER + WHERRY_MAX_REGISTERS + MAX_PRESERVED + 1 };

/* ---- the memfd ----------------------------------------------------------------------------------------------------------- */

/* Init fills in pid and start time itself, as it sees them. */
static bool slot_is_given(int slot)
{
	return slot != WHERRY_SLOT_PID && slot != WHERRY_SLOT_START_TIME;
}

static size_t head_size(const struct wherry_machine *m)
{
	size_t size = sizeof(struct wherry_launch);

	for (int i = 0; i < WHERRY_SLOT_COUNT; i++)
		size += slot_is_given(i) ? strlen(m->slots[i]) + 1 : 0;
	return (size + 7) & ~(size_t)7;
}

static void fill_head(const struct host_create *c, struct wherry_launch *head, size_t size)
{
	const struct wherry_machine *m = &c->machine;
	size_t at = sizeof(*head);

	head->magic = WHERRY_LAUNCH_MAGIC;
	head->version = WHERRY_VERSION;
	head->inherited_registers = m->code.plan->inherited_registers;
	head->size = (uint32_t)(size + m->code.size);
	head->preserve_fds = c->request.preserve_fds;
	head->plan_offset = (uint32_t)size;
	head->plan_size = (uint32_t)m->code.size;
	head->trace = m->trace != NULL;
	for (int i = 0; i < WHERRY_SLOT_COUNT; i++) {
		size_t length = slot_is_given(i) ? strlen(m->slots[i]) : 0;

		if (!slot_is_given(i))
			continue;
		head->slots[i] = (struct wherry_text){ (uint32_t)at, (uint32_t)length };
		memcpy((char *)head + at, m->slots[i], length + 1);
		at += length + 1;
	}
}

static int open_memfd(void)
{
	int fd = sys_memfd_create("wherry-plan", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

	if (fd < 0 && errno == EINVAL) /* before 6.3 */
		fd = sys_memfd_create("wherry-plan", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	return fd;
}

static int write_both(int fd, struct iovec part[2])
{
	size_t whole = part[0].iov_len + part[1].iov_len;
	ssize_t written = TEMP_FAILURE_RETRY(writev(fd, part, 2));

	if (written < 0)
		return -1;
	if ((size_t)written == whole)
		return 0;
	errno = EIO;
	return -1;
}

static int make_memfd(struct host_create *c, int *out)
{
	struct wherry_machine *m = &c->machine;
	size_t size = head_size(m);
	cleanup_scratch struct host_scratch scratch = { 0 };
	cleanup_fd int fd = -1;
	int result = host_scratch(&scratch, size);

	if (result < 0)
		return wherry_fail(m, WHERRY_CALL_MEMFD, -result);
	fill_head(c, (void *)scratch.base, size);
	fd = open_memfd();
	if (fd < 0)
		return wherry_fail_errno(m, WHERRY_CALL_MEMFD);
	if (write_both(fd, (struct iovec[2]){ { scratch.base, size }, { (void *)m->code.base, m->code.size } }) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_WRITE);
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_FCNTL);
	*out = wherry_steal(&fd);
	return 0;
}

/* ---- descriptors --------------------------------------------------------------------------------------------------------- */

int host_stdio(const struct host_create *c, int number, int *null)
{
	int fd = c->request.stdio[number] >= 0 ? c->request.stdio[number] : number;

	if (fcntl(fd, F_GETFD) >= 0)
		return fd;
	if (*null < 0) /* our own is closed: the container gets an open one all the same */
		*null = open("/dev/null", O_RDWR | O_CLOEXEC);
	return *null;
}

static size_t collect(const struct host_create *c, int launch, int socket, int *null, int fds[MAX_FDS])
{
	const struct wherry_machine *m = &c->machine;
	uint16_t registers = m->code.plan->inherited_registers;
	size_t count = WHERRY_FD_FIRST_REGISTER + registers + c->request.preserve_fds;

	for (int i = 0; i < 3; i++)
		fds[i] = host_stdio(c, i, null);
	fds[WHERRY_FD_LAUNCH] = launch;
	fds[WHERRY_FD_CALLER] = socket;
	fds[WHERRY_FD_START] = m->start_fifo;
	fds[WHERRY_FD_RESULT] = m->result_fifo;
	for (uint16_t i = 0; i < registers; i++)
		fds[WHERRY_FD_FIRST_REGISTER + i] = m->registers[i]; /* an empty one is closed there */
	for (uint32_t i = 0; i < c->request.preserve_fds; i++)
		fds[WHERRY_FD_FIRST_REGISTER + registers + i] = 3 + (int)i;
	if (m->trace)
		fds[count++] = c->request.trace_fd;
	return count;
}

int host_check_preserved(const struct host_create *c)
{
	if (c->request.preserve_fds > MAX_PRESERVED)
		return -EMFILE;
	for (uint32_t i = 0; i < c->request.preserve_fds; i++)
		if (fcntl(3 + (int)i, F_GETFD) < 0)
			return -errno;
	return 0;
}

/* ---- the launcher -------------------------------------------------------------------------------------------------------- */

/* By itself, for its table of descriptors is a page of stack, of which who launches itself would have a copy in each process. */
__attribute__((noinline)) static int launch_program(struct wherry_machine *m)
{
	static const char *const argv[] = { "wherry-launcher", NULL };
	struct host_create *c = host_of(m);
	int pair[2], fds[MAX_FDS];
	cleanup_fd int launch = -1;
	cleanup_fd int theirs = -1;
	cleanup_fd int null = -1;
	size_t count;
	int result;

	result = make_memfd(c, &launch);
	if (result < 0)
		return result;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_SOCKETPAIR);
	m->caller = pair[0];
	theirs = pair[1];
	count = collect(c, launch, theirs, &null, fds);
	c->launcher = wherry_spawn(c->request.program, argv, fds, count, &c->launcher_pidfd);
	if (c->launcher < 0)
		return wherry_fail(m, WHERRY_CALL_CLONE, -c->launcher);
	/* only init may hold these two: who opens `start` for writing learns from it whether the container is created */
	wherry_close(&m->start_fifo);
	wherry_close(&m->result_fifo);
	return 0;
}

int op_launch(struct wherry_machine *m, const struct wherry_op_launch *op)
{
	const struct host_create *c = host_of(m);

	(void)op;
	return c->request.launch && wherry_may_launch_itself(&m->code) ? c->request.launch(m) : launch_program(m);
}
