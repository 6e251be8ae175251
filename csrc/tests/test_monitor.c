/* SPDX-License-Identifier: Apache-2.0
 *
 * Parts of the monitor by themselves: what a peer may send, the pump, the counter of kills. tests/shim runs the whole of it.
 */
#include "check.h"

#include "../monitor/exec.c"
#include "../monitor/kept.c"
#include "../monitor/protocol.c"
#include "../monitor/pump.c"
#include "../monitor/record.c"

#include <sys/mman.h>

static char texts[MAX_MESSAGE];
static struct monitor_message sent, got = { .data = texts };
static int pair[2];

static void open_pair(void)
{
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
}

static void close_pair(void)
{
	wherry_close(&pair[0]);
	wherry_close(&pair[1]);
}

static int free_number(void)
{
	int fd = dup(STDERR_FILENO);

	close(fd);
	return fd;
}

static void a_message(void)
{
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC), number;

	open_pair();
	number = free_number();
	monitor_empty(&sent, MONITOR_EXEC, 7);
	sent.head.value = 1ULL << 40;
	sent.text[TEXT_ROOT] = "/run/some";
	sent.text[TEXT_META] = "{}";
	sent.fd[MONITOR_FD_PLAN] = null;
	sent.fd[MONITOR_FD_HOLD_ERR] = null;
	CHECK_EQUAL(monitor_send(pair[0], &sent), 0);
	CHECK_EQUAL(monitor_receive(pair[1], &got), 1);
	CHECK_EQUAL(got.head.kind, MONITOR_EXEC);
	CHECK_EQUAL(got.head.process, 7);
	CHECK_EQUAL(got.head.value, 1ULL << 40);
	CHECK_TEXT(got.text[TEXT_ROOT], "/run/some");
	CHECK_TEXT(got.text[TEXT_META], "{}");
	CHECK_TEXT(got.text[TEXT_NAME], "");
	CHECK(got.fd[MONITOR_FD_PLAN] >= 0 && got.fd[MONITOR_FD_HOLD_ERR] >= 0 && got.fd[MONITOR_FD_STDIN] < 0);
	CHECK(fcntl(got.fd[MONITOR_FD_PLAN], F_GETFD) & FD_CLOEXEC);
	monitor_close_fds(&got);
	CHECK_EQUAL(free_number(), number);
	CHECK_EQUAL(monitor_receive(pair[1], &got), -EAGAIN);
	wherry_close(&pair[0]);
	CHECK_EQUAL(monitor_receive(pair[1], &got), 0);
	close_pair();
	close(null);
}

/* Bytes as they are, with as many descriptors. */
static void send_raw(const void *bytes, size_t size, int fd, int count)
{
	struct iovec part = { (void *)(uintptr_t)bytes, size };
	union control control = { .space = { 0 } };
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1 };
	int fds[MAX_DESCRIPTORS];

	for (int i = 0; i < count; i++)
		fds[i] = fd;
	if (count) {
		control.align = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN((size_t)count * sizeof(int)) };
		memcpy(CMSG_DATA(&control.align), fds, (size_t)count * sizeof(int));
		header.msg_control = &control;
		header.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
	}
	CHECK_EQUAL(sendmsg(pair[0], &header, 0), size);
}

static size_t good_bytes(char *out)
{
	struct monitor_head head = { .version = MONITOR_VERSION, .kind = MONITOR_CREATE, .length = { 4 } };

	memcpy(out, &head, sizeof(head));
	memset(out + sizeof(head), 0, 4 + TEXT_COUNT);
	memcpy(out + sizeof(head), "text", 4);
	return sizeof(head) + 4 + TEXT_COUNT;
}

static void wrong_messages(void)
{
	char bytes[4096];
	size_t size = good_bytes(bytes);
	struct monitor_head *head = (void *)bytes;
	int number;

	open_pair();
	number = free_number();
	send_raw(bytes, size, -1, 0);
	CHECK_EQUAL(monitor_receive(pair[1], &got), 1);
	for (size_t cut = 1; cut < size; cut++) {
		send_raw(bytes, cut, STDERR_FILENO, 2);
		CHECK_EQUAL(monitor_receive(pair[1], &got), -EPROTO);
	}
	send_raw(bytes, size, STDERR_FILENO, 3); /* descriptors that nobody has named */
	CHECK_EQUAL(monitor_receive(pair[1], &got), -EPROTO);
	head->fds = 7; /* and named ones that are not there */
	send_raw(bytes, size, STDERR_FILENO, 2);
	CHECK_EQUAL(monitor_receive(pair[1], &got), -EPROTO);
	head->fds = 0;
	head->version++;
	send_raw(bytes, size, -1, 0);
	CHECK_EQUAL(monitor_receive(pair[1], &got), -EPROTO);
	head->version--;
	head->length[TEXT_META] = UINT32_MAX;
	send_raw(bytes, size, -1, 0);
	CHECK_EQUAL(monitor_receive(pair[1], &got), -EPROTO);
	CHECK_EQUAL(free_number(), number);
	close_pair();
}

/* A thousand messages with wrong bytes: each is taken or refused, none leaves a descriptor. */
static void random_messages(void)
{
	char bytes[4096];
	int number;

	srand(7);
	open_pair();
	number = free_number();
	for (int round = 0; round < 1000; round++) {
		size_t size = good_bytes(bytes);

		for (int i = 0; i < 4; i++)
			bytes[(size_t)rand() % size] = (char)rand();
		if (round % 4)
			((struct monitor_head *)(void *)bytes)->version = MONITOR_VERSION;
		send_raw(bytes, size, STDERR_FILENO, rand() % 5);
		CHECK(monitor_receive(pair[1], &got) != 0);
		monitor_close_fds(&got);
	}
	CHECK_EQUAL(free_number(), number);
	close_pair();
}

static void pump_once(struct pump *p)
{
	struct pollfd items[3];

	pump_poll(p, items);
	poll(items, 3, 0);
	pump_run(p, items);
}

static void the_pump(void)
{
	int master[2], input[2], output[2];
	char text[64] = "";
	static char full[1 << 17];
	struct pump p;

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, master) == 0 && pipe2(input, O_CLOEXEC) == 0 && pipe2(output, O_CLOEXEC | O_NONBLOCK) == 0);
	CHECK_EQUAL(pump_begin(&p, master[0], input[0], output[1]), 0);
	CHECK_EQUAL(write(master[1], "out", 3), 3);
	CHECK_EQUAL(write(input[1], "in", 2), 2);
	pump_once(&p);
	CHECK_EQUAL(read(output[0], text, sizeof(text)), 3);
	CHECK_EQUAL(read(master[1], text, sizeof(text)), 2);

	/* nobody reads: it stops, and waits for nobody */
	CHECK_EQUAL(write(master[1], full, sizeof(full)), sizeof(full));
	for (int i = 0; i < 10; i++)
		pump_once(&p);
	CHECK(p.out_size > 0);
	close(master[1]);
	for (int i = 0; i < 10; i++)
		pump_once(&p);
	CHECK(!pump_ended(&p));
	for (int i = 0; i < 10 && !pump_ended(&p); i++) {
		while (read(output[0], full, sizeof(full)) > 0)
			;
		pump_once(&p);
		pump_once(&p);
	}
	CHECK(pump_ended(&p));
	pump_end(&p);
	pump_end(&p);
	CHECK_EQUAL(read(output[0], text, sizeof(text)), 0);
	close(output[0]);
	close(input[1]);
}

static void a_full_disk(void)
{
	int master[2];
	struct pump p;

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, master) == 0);
	CHECK_EQUAL(pump_begin(&p, master[0], -1, open("/dev/full", O_WRONLY | O_CLOEXEC)), 0);
	CHECK_EQUAL(write(master[1], "lost", 4), 4);
	pump_once(&p);
	CHECK(p.out_size == 0 && p.output >= 0);
	close(master[1]);
	pump_once(&p);
	CHECK(pump_ended(&p));
	pump_end(&p);
}

static uint32_t kills_in(const char *text)
{
	int fd = memfd_create("events", MFD_CLOEXEC);
	uint32_t kills;

	CHECK_EQUAL(write(fd, text, strlen(text)), strlen(text));
	kills = record_oom_kills(fd);
	close(fd);
	return kills;
}

static void kills(void)
{
	CHECK_EQUAL(kills_in("low 0\nhigh 0\nmax 12\noom 4\noom_kill 3\noom_group_kill 9\n"), 3);
	CHECK_EQUAL(kills_in("oom_kill_disable 1\nunder_oom 0\noom_kill 2\n"), 2);
	CHECK_EQUAL(kills_in("oom_kill_disable 1\nunder_oom 0"), 0);
	CHECK_EQUAL(kills_in(""), 0);
	CHECK_EQUAL(kills_in("\n\n"), 0);
	CHECK_EQUAL(record_oom_kills(-1), 0);
}

/* ---- execs that make themselves: helper.c is not here, and not asked */

int helper_request(const struct monitor_message *r, struct host_request *request)
{
	(void)r;
	(void)request;
	return -EPROTO;
}

void helper_lower_files(void)
{
}

static struct monitor monitor;
static struct process process = { .execution = -1 };

/* A child that does nothing, and the time that it has. */
static void begin_exec(int64_t left)
{
	int ends[2];

	CHECK_EQUAL(pipe2(ends, O_CLOEXEC), 0);
	process = (struct process){ .execution = ends[0], .deadline = host_now_ms() + left };
	process.pid = fork();
	if (!process.pid) {
		pause();
		_exit(0);
	}
	close(ends[1]);
	monitor.process[0] = &process;
	monitor.processes = 1;
}

static void end_exec(void)
{
	siginfo_t info;

	CHECK_EQUAL(waitid(P_PID, (id_t)process.pid, &info, WEXITED), 0);
	CHECK_EQUAL(info.si_status, SIGKILL);
	CHECK(exec_under_way(&process));
	CHECK(!exec_made(&process));
	CHECK_EQUAL(process.execution, -1);
	exec_ended(&process, &info);
	CHECK(exec_under_way(&process)); /* to be told of, and not made */
}

static void time_that_is_over(void)
{
	int wait;

	monitor.processes = 0;
	CHECK_EQUAL(exec_tend(&monitor), -1);
	begin_exec(60 * 1000);
	wait = exec_tend(&monitor);
	CHECK(wait > 50 * 1000 && wait <= 60 * 1000);
	CHECK_EQUAL(kill(process.pid, 0), 0);
	kill(process.pid, SIGKILL); /* by somebody else */
	end_exec();
	CHECK_EQUAL(process.failure.error, WHERRY_INIT_DIED);
	CHECK_EQUAL(process.failure.value, SIGKILL);
	CHECK_EQUAL(exec_tend(&monitor), -1);
	begin_exec(0);
	CHECK_EQUAL(exec_tend(&monitor), -1); /* ended, by us */
	end_exec();
	CHECK_EQUAL(process.failure.error, WHERRY_DEADLINE);
	CHECK_EQUAL(process.failure.value, 0);
}

/* What is kept is what was sent: as many descriptors as paths. */
static void kept(void)
{
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC), number;
	static char much[sizeof(paths) + 1];

	open_pair();
	number = free_number();
	monitor_empty(&sent, MONITOR_KEEP, 0);
	sent.text[TEXT_META] = "/a/tasks\n/b\n/cut";
	for (int i = 0; i < 3; i++)
		sent.fd[MONITOR_FD_KEPT + i] = null;
	for (int i = 0; i < 2; i++) { /* the second in place of the first */
		CHECK_EQUAL(monitor_send(pair[0], &sent), 0);
		CHECK_EQUAL(monitor_receive(pair[1], &got), 1);
		kept_take(&monitor, &got);
		monitor_close_fds(&got);
		CHECK_EQUAL(monitor.kept.count, 2);
		CHECK_TEXT(monitor.kept.path[0], "/a/tasks");
		CHECK_TEXT(monitor.kept.path[1], "/b");
		CHECK_EQUAL(fcntl(monitor.kept.fd[1], F_GETFL) & O_ACCMODE, O_RDONLY);
	}
	memset(much, 'a', sizeof(much) - 1);
	sent.text[TEXT_META] = much;
	CHECK_EQUAL(monitor_send(pair[0], &sent), 0);
	CHECK_EQUAL(monitor_receive(pair[1], &got), 1);
	kept_take(&monitor, &got);
	monitor_close_fds(&got);
	CHECK_EQUAL(monitor.kept.count, 0);
	CHECK_EQUAL(free_number(), number);
	close_pair();
	close(null);
}

static const struct check_case cases[] = {
	{ "a message with texts and descriptors", a_message },
	{ "wrong messages are refused, their descriptors closed", wrong_messages },
	{ "random messages", random_messages },
	{ "the pump", the_pump },
	{ "a terminal and a full disk", a_full_disk },
	{ "the counter of kills", kills },
	{ "an exec whose time is over", time_that_is_over },
	{ "cgroups that are kept open", kept },
};

CHECK_MAIN(cases)
