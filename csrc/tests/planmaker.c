/* SPDX-License-Identifier: Apache-2.0 */
#include "planmaker.h"

#include "wherry/host.h"

#include <ftw.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { PATIENCE_MS = 10000 };

/* ---- plans ------------------------------------------------------------------------------------------------------------- */

static void must(bool holds, const char *what)
{
	if (holds)
		return;
	perror(what);
	abort();
}

void plan_begin(struct planmaker *p)
{
	memset(p, 0, sizeof(*p));
	p->heap_size = sizeof(struct wherry_plan);
	p->flags = WHERRY_PLAN_SHARED_PID;
}

static uint32_t store(struct planmaker *p, const void *bytes, uint32_t size)
{
	uint32_t offset = p->heap_size;

	must(offset + size <= sizeof(p->heap), "plan: heap");
	memcpy(p->heap + offset, bytes, size);
	p->heap_size += size;
	return offset;
}

static void align(struct planmaker *p)
{
	static const char nothing[8];

	store(p, nothing, -p->heap_size % 8);
}

struct wherry_text plan_text(struct planmaker *p, const char *text)
{
	uint32_t length = (uint32_t)strlen(text);

	return (struct wherry_text){ store(p, text, length + 1), length };
}

struct wherry_template plan_template(struct planmaker *p, const char *text)
{
	struct wherry_text stored = plan_text(p, text);

	return (struct wherry_template){ stored.offset, stored.length };
}

struct wherry_blob plan_blob(struct planmaker *p, const void *bytes, uint32_t size)
{
	align(p);
	return (struct wherry_blob){ store(p, bytes, size), size };
}

struct wherry_list plan_list(struct planmaker *p, const char *const texts[])
{
	struct wherry_text stored[16];
	uint32_t count = 0;

	for (; texts[count]; count++)
		stored[count] = plan_text(p, texts[count]);
	align(p);
	return (struct wherry_list){ store(p, stored, count * (uint32_t)sizeof(stored[0])), count };
}

void *plan_add(struct planmaker *p, enum wherry_opcode code, enum wherry_executor executor, uint32_t size)
{
	struct wherry_op *op = (struct wherry_op *)(void *)(p->steps + p->steps_size);

	must(p->steps_size + size <= sizeof(p->steps), "plan: steps");
	op->code = code;
	op->executor = executor;
	op->size = size;
	p->steps_size += size;
	p->count++;
	return op;
}

void plan_finish(struct planmaker *p)
{
	struct wherry_plan *header = (struct wherry_plan *)(void *)p->plan;

	align(p);
	memcpy(p->plan, p->heap, p->heap_size);
	memcpy(p->plan + p->heap_size, p->steps, p->steps_size);
	p->size = p->heap_size + p->steps_size;
	*header = (struct wherry_plan){
		.magic = WHERRY_PLAN_MAGIC, .version = WHERRY_VERSION, .header_size = sizeof(*header), .size = p->size, .flags = p->flags,
		.steps = p->count, .steps_offset = p->heap_size, .steps_size = p->steps_size,
		.registers = p->registers, .inherited_registers = p->inherited,
	};
	memcpy(header->build_id, wherry_build_id, sizeof(header->build_id));
}

void plan_rootfs(struct planmaker *p, enum wherry_executor opener, const char *directory, uint16_t tree)
{
	struct wherry_op_propagation *propagation = PLAN_ADD(p, OP_PROPAGATION, WHERRY_INIT, wherry_op_propagation);
	struct wherry_op_open_tree *open;
	struct wherry_op_attach_rootfs *attach;

	propagation->flags = MS_SLAVE | MS_REC;
	open = PLAN_ADD(p, OP_OPEN_TREE, opener, wherry_op_open_tree);
	open->source = plan_template(p, "/");
	open->out = tree;
	attach = PLAN_ADD(p, OP_ATTACH_ROOTFS, WHERRY_INIT, wherry_op_attach_rootfs);
	attach->path = plan_template(p, directory);
	attach->tree = tree;
	PLAN_ADD(p, OP_PIVOT, WHERRY_INIT, wherry_op_pivot);
}

void plan_program(struct planmaker *p, const char *const arguments[])
{
	const char *const environment[] = { "PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL };
	struct wherry_op_program *program = PLAN_ADD(p, OP_PROGRAM, WHERRY_INIT, wherry_op_program);

	program->arguments = plan_list(p, arguments);
	program->environment = plan_list(p, environment);
	PLAN_ADD(p, OP_PUBLISH, WHERRY_CALLER, wherry_op_publish);
	PLAN_ADD(p, OP_WAIT_START, WHERRY_INIT, wherry_op_wait_start);
	PLAN_ADD(p, OP_EXECUTE, WHERRY_INIT, wherry_op_execute);
}

void plan_shell(struct planmaker *p, const char *script)
{
	const char *const arguments[] = { "/bin/sh", "-c", script, NULL };

	plan_program(p, arguments);
}

/* ---- the caller ---------------------------------------------------------------------------------------------------------- */

static void path_of(const struct caller *c, const char *name, char path[128])
{
	snprintf(path, 128, "%s/%s", c->directory, name);
}

void caller_prepare(struct caller *c)
{
	char path[128];

	*c = (struct caller){ .socket = -1, .start = -1, .result = -1, .output = -1, .launcher_pidfd = -1, .init_pidfd = -1, .fd = -1 };
	strcpy(c->directory, "/tmp/wherry-test-XXXXXX");
	must(mkdtemp(c->directory) != NULL, "mkdtemp");
	path_of(c, "rootfs", path);
	must(mkdir(path, 0755) == 0, path);
	path_of(c, "start", path);
	must(mkfifo(path, 0600) == 0, path);
	path_of(c, "result", path);
	must(mkfifo(path, 0600) == 0, path);
}

static int make_launch(const struct planmaker *p, const struct caller_options *options)
{
	static uint8_t buffer[sizeof(struct wherry_launch) + 4096 + 2 * PLANMAKER_ROOM] __attribute__((aligned(8)));
	struct wherry_launch *launch = (void *)buffer;
	uint32_t at = sizeof(*launch);
	int fd = sys_memfd_create("plan", MFD_CLOEXEC);

	*launch = (struct wherry_launch){ .magic = WHERRY_LAUNCH_MAGIC, .version = WHERRY_VERSION, .inherited_registers = p->inherited,
					  .preserve_fds = options->preserve_fds };
	for (int i = 0; i < WHERRY_SLOT_COUNT; i++) {
		if (!options->slots[i])
			continue;
		launch->slots[i] = (struct wherry_text){ at, (uint32_t)strlen(options->slots[i]) };
		strcpy((char *)buffer + at, options->slots[i]);
		at += launch->slots[i].length + 1;
	}
	at = (at + 7) & ~7U;
	memcpy(buffer + at, p->plan, p->size);
	if (options->mangled)
		buffer[at + p->size - 1] ^= 1;
	launch->plan_offset = at;
	launch->plan_size = p->size;
	launch->size = at + p->size;
	must(fd >= 0 && wherry_write_all(fd, buffer, launch->size) == 0, "memfd");
	return fd;
}

static int sealed_program(void)
{
	static int program = -1;

	if (program < 0)
		program = wherry_seal_program(wherry_program_start, (size_t)(wherry_program_end - wherry_program_start));
	must(program >= 0, "wherry_seal_program");
	return program;
}

int caller_launch(struct caller *c, const struct planmaker *p, const struct caller_options *options)
{
	static const char *const argv[] = { "wherry-launcher", NULL };
	int fds[128], count = WHERRY_FD_FIRST_REGISTER, pair[2], output[2];
	cleanup_fd int launch = make_launch(p, options);
	cleanup_fd int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	cleanup_fd int start = -1;
	cleanup_fd int result = -1;
	char path[128];

	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0 && pipe2(output, O_CLOEXEC) == 0, "socketpair");
	path_of(c, "start", path);
	start = open(path, O_RDWR | O_CLOEXEC);
	path_of(c, "result", path);
	result = open(path, O_RDWR | O_CLOEXEC);
	fds[0] = null;
	fds[1] = output[1];
	fds[2] = STDERR_FILENO;
	fds[WHERRY_FD_LAUNCH] = launch;
	fds[WHERRY_FD_CALLER] = pair[1];
	fds[WHERRY_FD_START] = start;
	fds[WHERRY_FD_RESULT] = result;
	for (int i = 0; i < p->inherited; i++)
		fds[count++] = options->registers[i];
	for (uint32_t i = 0; i < options->preserve_fds; i++)
		fds[count++] = options->preserved[i];
	c->launcher = wherry_spawn(sealed_program(), argv, fds, (size_t)count, &c->launcher_pidfd);
	close(pair[1]);
	close(output[1]);
	c->socket = pair[0];
	c->output = output[0];
	return c->launcher < 0 ? c->launcher : 0;
}

int caller_receive(struct caller *c)
{
	struct pollfd peer = { .fd = c->socket, .events = POLLIN };
	int error;

	wherry_close(&c->fd);
	if (TEMP_FAILURE_RETRY(poll(&peer, 1, PATIENCE_MS)) <= 0)
		return -ETIMEDOUT;
	error = wherry_receive(c->socket, &c->message, &c->fd);
	if (error)
		return error;
	if (c->message.kind == WHERRY_LAUNCHED) {
		c->init = (pid_t)c->message.value;
		c->init_pidfd = wherry_steal(&c->fd);
	}
	return (int)c->message.kind;
}

int caller_answer(struct caller *c, enum wherry_message_kind kind)
{
	const struct wherry_message answer = { .kind = kind, .step = c->message.step, .error = kind == WHERRY_FAILED ? EIO : 0 };

	return wherry_send(c->socket, &answer, -1);
}

static bool publishes(const struct planmaker *p, uint32_t step)
{
	uint32_t at = 0;

	while (step--)
		at += ((const struct wherry_op *)(const void *)(p->steps + at))->size;
	return ((const struct wherry_op *)(const void *)(p->steps + at))->code == OP_PUBLISH;
}

int caller_create(struct caller *c, const struct planmaker *p)
{
	for (;;) {
		int kind = caller_receive(c);

		if (kind < 0)
			return kind;
		if (kind == WHERRY_FAILED)
			return c->message.error;
		if (kind != WHERRY_RUN)
			continue;
		caller_answer(c, WHERRY_DONE);
		if (publishes(p, c->message.step))
			return 0;
	}
}

bool caller_is_created(const struct caller *c)
{
	char path[128];
	int fd;

	path_of(c, "start", path);
	fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

int caller_start(struct caller *c)
{
	struct pollfd answer = { .events = POLLIN };
	char path[128];
	ssize_t size;

	path_of(c, "result", path);
	c->result = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	path_of(c, "start", path);
	c->start = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	if (c->result < 0 || c->start < 0)
		return errno;
	must(write(c->start, "", 1) == 1, "start");
	wherry_close(&c->start);
	answer.fd = c->result;
	if (TEMP_FAILURE_RETRY(poll(&answer, 1, PATIENCE_MS)) <= 0)
		return ETIMEDOUT;
	size = read(c->result, &c->message, sizeof(c->message));
	if (size == 0)
		return 0;
	return size == sizeof(c->message) ? c->message.error : EPROTO;
}

static int wait_for(pid_t *pid, int pidfd)
{
	int status = -1, error = wherry_wait_child(*pid, pidfd, PATIENCE_MS, &status);

	if (error)
		fprintf(stderr, "process %d: %s\n", *pid, strerror(-error));
	*pid = 0;
	return status; /* of one that had to be killed: SIGKILL */
}

int caller_wait(struct caller *c)
{
	return wait_for(&c->init, c->init_pidfd);
}

int caller_wait_launcher(struct caller *c)
{
	return wait_for(&c->launcher, c->launcher_pidfd);
}

const char *caller_output(struct caller *c)
{
	static char text[65536];
	size_t length = 0;
	ssize_t size;

	while (length < sizeof(text) - 1 && (size = TEMP_FAILURE_RETRY(read(c->output, text + length, sizeof(text) - 1 - length))) > 0)
		length += (size_t)size;
	text[length] = 0;
	return text;
}

static int remove_one(const char *path, const struct stat *file, int kind, struct FTW *walk)
{
	(void)file;
	(void)kind;
	(void)walk;
	return remove(path);
}

void caller_end(struct caller *c)
{
	if (c->init > 0) {
		sys_pidfd_send_signal(c->init_pidfd, SIGKILL, NULL, 0);
		caller_wait(c);
	}
	wherry_close(&c->socket);
	if (c->launcher > 0)
		caller_wait_launcher(c);
	wherry_close(&c->start);
	wherry_close(&c->result);
	wherry_close(&c->output);
	wherry_close(&c->launcher_pidfd);
	wherry_close(&c->init_pidfd);
	wherry_close(&c->fd);
	nftw(c->directory, remove_one, 8, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}
