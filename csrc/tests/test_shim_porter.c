/* SPDX-License-Identifier: Apache-2.0
 *
 * The porter by itself: what a worker may send, and that what it holds passes whole from one worker to the next. Workers are this test; the
 * whole of it is run by tests/shim.
 */
#include "check.h"

#include "../shim/control.c"
#include "../shim/porter.c"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>

enum { ROOM = PORTER_MOST + 2, KERNEL_MOST = 253 };

static struct porter_message got;
static int pair[2]; /* the porter's end, the worker's */

/* ---- in place of worker.c: a worker is who listens at an abstract address */

static struct sockaddr_un workers = { .sun_family = AF_UNIX };
static socklen_t workers_size;
static int workers_that_fail;

bool porter_find_places(struct porter *p)
{
	(void)p;
	return true;
}

int porter_begin_worker(struct porter *p, bool cold)
{
	CHECK(cold || workers_that_fail != 1); /* the second attempt is one without a zygote */
	if (workers_that_fail && workers_that_fail--)
		return -1;
	p->control = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	return connect(p->control, (struct sockaddr *)&workers, workers_size);
}

/* ---- help */

static int free_number(void)
{
	int fd = dup(STDERR_FILENO);

	close(fd);
	return fd;
}

/* All that are open: one that is left in a gap would not change the next free number. */
static int open_count(void)
{
	int count = 0;

	for (int fd = 0; fd < 1024; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

static ino_t inode(int fd)
{
	struct stat status = { 0 };

	CHECK_EQUAL(fstat(fd, &status), 0);
	return status.st_ino;
}

static void open_pair(void)
{
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
}

static void close_pair(void)
{
	wherry_close(&pair[0]);
	wherry_close(&pair[1]);
}

/* Bytes as they are, with as many times this descriptor. */
static int send_raw(int socket, const void *bytes, size_t size, int fd, size_t count)
{
	union { struct cmsghdr head; char room[CMSG_SPACE(KERNEL_MOST * sizeof(int))]; } control = { .room = { 0 } };
	struct iovec part = { (void *)(uintptr_t)bytes, size };
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1 };

	if (count) {
		control.head = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(count * sizeof(int)) };
		for (size_t i = 0; i < count; i++)
			memcpy(CMSG_DATA(&control.head) + i * sizeof(int), &fd, sizeof(fd));
		header.msg_control = &control;
		header.msg_controllen = CMSG_SPACE(count * sizeof(int));
	}
	return sendmsg(socket, &header, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* A worker's message: a head, text, descriptors of its own. */
static int send_message(int kind, int a, int b, const void *text, size_t size, const int *fds, size_t count)
{
	static struct { struct porter_head head; char text[2 * PORTER_TEXT]; } __attribute__((packed)) bytes;
	union { struct cmsghdr head; char room[CMSG_SPACE(KERNEL_MOST * sizeof(int))]; } control = { .room = { 0 } };
	struct iovec part = { &bytes, sizeof(bytes.head) + size };
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1 };

	bytes.head = (struct porter_head){ PORTER_MAGIC, (uint32_t)kind, a, b, 1234567890123 };
	if (size)
		memcpy(bytes.text, text, size);
	if (count) {
		control.head = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(count * sizeof(int)) };
		memcpy(CMSG_DATA(&control.head), fds, count * sizeof(int));
		header.msg_control = &control;
		header.msg_controllen = CMSG_SPACE(count * sizeof(int));
	}
	return sendmsg(pair[1], &header, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* A porter that has begun, with nothing but its listener, and a worker that it may speak to. */
static void begin(struct porter *p)
{
	static char name[] = "shim", *words[] = { name, NULL };
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	open_pair();
	*p = (struct porter){ .argv = words, .control = pair[0], .line = -1, .state = -1, .until = -1, .count = 1 };
	p->signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	p->held[0] = memfd_create("listener", MFD_CLOEXEC);
	CHECK(p->signals >= 0 && p->held[0] >= 0);
}

static void end(struct porter *p)
{
	for (size_t i = 0; i < p->count; i++)
		wherry_close(&p->held[i]);
	wherry_close(&p->state);
	wherry_close(&p->line);
	wherry_close(&p->signals);
	close_pair();
}

/* What the worker finds: the next message, of this kind. */
static bool hear(uint32_t kind)
{
	int result = porter_receive(pair[1], &got);

	CHECK_EQUAL(result, 1);
	if (result != 1)
		return false;
	CHECK_EQUAL(got.head.kind, kind);
	return got.head.kind == kind;
}

static void hear_end_of(pid_t pid, int status)
{
	if (!hear(PORTER_ENDED_ONE))
		return;
	CHECK_EQUAL(got.head.a, pid);
	CHECK_EQUAL(got.head.b, status);
	CHECK_EQUAL(got.count, 0);
}

static void hear_nothing(void)
{
	CHECK_EQUAL(porter_receive(pair[1], &got), -EAGAIN);
}

/* ---- messages */

static void a_message(void)
{
	int fds[] = { memfd_create("a", MFD_CLOEXEC), memfd_create("b", MFD_CLOEXEC) }, number = open_count();

	open_pair();
	CHECK_EQUAL(send_message(PORTER_SPAWN, -7, 8, "a\0bc", 4, fds, 2), 0);
	CHECK_EQUAL(porter_receive(pair[0], &got), 1);
	CHECK_EQUAL(got.head.kind, PORTER_SPAWN);
	CHECK_EQUAL(got.head.a, -7);
	CHECK_EQUAL(got.head.b, 8);
	CHECK_EQUAL(got.head.until, 1234567890123);
	CHECK_EQUAL(got.size, 4);
	CHECK(!memcmp(got.text, "a\0bc", 5)); /* a NUL behind it */
	CHECK_EQUAL(got.count, 2);
	CHECK(inode(got.fd[0]) == inode(fds[0]) && inode(got.fd[1]) == inode(fds[1]));
	CHECK(fcntl(got.fd[0], F_GETFD) & FD_CLOEXEC && fcntl(got.fd[1], F_GETFD) & FD_CLOEXEC);
	porter_close_fds(&got);
	porter_close_fds(&got);

	/* no text, nothing beside it: what was there before is not there again */
	CHECK_EQUAL(porter_send(pair[1], &(struct porter_head){ PORTER_MAGIC, PORTER_READY, 1, 1, -1 }, NULL, 0), 0);
	CHECK_EQUAL(porter_receive(pair[0], &got), 1);
	CHECK(got.size == 0 && got.count == 0 && got.text[0] == '\0');
	CHECK_EQUAL(porter_receive(pair[0], &got), -EAGAIN);
	wherry_close(&pair[1]);
	CHECK_EQUAL(porter_receive(pair[0], &got), 0);
	CHECK_EQUAL(porter_send(pair[0], &(struct porter_head){ PORTER_MAGIC, 1, 0, 0, -1 }, NULL, 0), -EPIPE);
	close_pair();
	CHECK_EQUAL(open_count(), number);
	close(fds[0]);
	close(fds[1]);
}

static void wrong_messages(void)
{
	static char bytes[sizeof(struct porter_head) + PORTER_TEXT + 1];
	struct porter_head *head = (void *)bytes;
	int number;

	open_pair();
	number = open_count();
	*head = (struct porter_head){ PORTER_MAGIC, PORTER_PARK, 0, 1, -1 };
	for (size_t cut = 0; cut < sizeof(*head); cut++)
		for (size_t count = cut ? 0 : 1; count < 3; count++) {
			CHECK_EQUAL(send_raw(pair[1], bytes, cut, STDERR_FILENO, count), 0);
			CHECK_EQUAL(porter_receive(pair[0], &got), -EPROTO);
			CHECK_EQUAL(got.count, 0);
		}
	CHECK_EQUAL(send_raw(pair[1], bytes, 0, -1, 0), 0); /* as an end */
	CHECK_EQUAL(porter_receive(pair[0], &got), 0);

	memset(head + 1, 'x', PORTER_TEXT + 1);
	CHECK_EQUAL(send_raw(pair[1], bytes, sizeof(*head) + PORTER_TEXT - 1, STDERR_FILENO, 1), 0);
	CHECK_EQUAL(porter_receive(pair[0], &got), 1);
	CHECK(got.size == PORTER_TEXT - 1 && strlen(got.text) == PORTER_TEXT - 1);
	porter_close_fds(&got);
	for (size_t more = 0; more < 2; more++) { /* longer than any text */
		CHECK_EQUAL(send_raw(pair[1], bytes, sizeof(*head) + PORTER_TEXT + more, STDERR_FILENO, 2), 0);
		CHECK_EQUAL(porter_receive(pair[0], &got), -EPROTO);
	}
	for (int bit = 0; bit < 32; bit++) {
		head->magic = PORTER_MAGIC ^ 1U << bit;
		CHECK_EQUAL(send_raw(pair[1], bytes, sizeof(*head), STDERR_FILENO, 2), 0);
		CHECK_EQUAL(porter_receive(pair[0], &got), -EPROTO);
	}
	CHECK_EQUAL(open_count(), number);
	close_pair();
}

static void many_descriptors(void)
{
	const struct porter_head head = { PORTER_MAGIC, PORTER_PARK, 0, 1, -1 };
	int number;

	open_pair();
	number = open_count();
	for (size_t count = ROOM - 2; count <= KERNEL_MOST; count++) {
		CHECK_EQUAL(send_raw(pair[1], &head, sizeof(head), STDERR_FILENO, count), 0);
		CHECK_EQUAL(porter_receive(pair[0], &got), count <= ROOM ? 1 : -EPROTO);
		CHECK_EQUAL(got.count, count <= ROOM ? count : 0);
		porter_close_fds(&got);
		CHECK_EQUAL(open_count(), number);
	}
	close_pair();
}

/* A process that may have no more of them takes a part: that message is none, and the part is closed. */
static void no_room_for_descriptors(void)
{
	const struct porter_head head = { PORTER_MAGIC, PORTER_SPAWN, 0, 0, -1 };
	struct rlimit limit, low;
	int number, count;

	open_pair();
	number = free_number();
	count = open_count();
	CHECK_EQUAL(getrlimit(RLIMIT_NOFILE, &limit), 0);
	low = (struct rlimit){ (rlim_t)number + 3, limit.rlim_max };
	CHECK_EQUAL(setrlimit(RLIMIT_NOFILE, &low), 0);
	for (size_t sent = 1; sent < 6; sent++) {
		CHECK_EQUAL(send_raw(pair[1], &head, sizeof(head), STDERR_FILENO, sent), 0);
		CHECK_EQUAL(porter_receive(pair[0], &got), sent <= 3 ? 1 : -EPROTO);
		porter_close_fds(&got);
		CHECK_EQUAL(free_number(), number);
	}
	CHECK_EQUAL(setrlimit(RLIMIT_NOFILE, &limit), 0);
	CHECK_EQUAL(open_count(), count);
	close_pair();
}

static void what_cannot_be_sent(void)
{
	const struct porter_head head = { PORTER_MAGIC, PORTER_TAKE, 0, 1, -1 };
	int bad = 1000, result = 0;

	open_pair();
	CHECK_EQUAL(porter_send(pair[0], &head, &bad, 1), -EBADF);
	hear_nothing();
	for (int i = 0; i < 100000 && !result; i++) /* nobody reads */
		result = porter_send(pair[0], &head, NULL, 0);
	CHECK_EQUAL(result, -EAGAIN);
	close_pair();
	CHECK_EQUAL(porter_send(-1, &head, NULL, 0), -EBADF);
	got.count = 1;
	got.fd[0] = STDERR_FILENO;
	CHECK_EQUAL(porter_receive(-1, &got), -EBADF);
	CHECK_EQUAL(got.count, 0);
}

/* Each is taken or refused, and none leaves a descriptor. */
static void random_messages(void)
{
	static char bytes[sizeof(struct porter_head) + 600];
	struct porter_head *head = (void *)bytes;
	struct porter p;
	int number;

	begin(&p);
	wherry_close(&p.held[--p.count]);
	number = open_count();
	srand(7);
	for (int round = 0; round < 3000; round++) {
		size_t size = (size_t)rand() % sizeof(bytes), count = (size_t)rand() % 8;

		for (size_t i = 0; i < size; i++)
			bytes[i] = (char)rand();
		if (round % 8) {
			head->magic = PORTER_MAGIC;
			head->kind = PORTER_PARK;
			size = round % 3 ? sizeof(*head) + 2 * (count - (count > 0)) : size;
		}
		CHECK_EQUAL(send_raw(pair[1], bytes, size, STDERR_FILENO, count), 0);
		if (!size && !count)
			CHECK_EQUAL(porter_receive(pair[0], &got), 0);
		else if (porter_receive(pair[0], &got) == 1 && hold(&p, &got)) {
			CHECK(p.count == count - 1 && p.version >= 1 && !got.count);
			wherry_close(&p.state);
			while (p.count > 0)
				wherry_close(&p.held[--p.count]);
		}
		porter_close_fds(&got);
		CHECK_EQUAL(open_count(), number);
	}
	end(&p);
}

/* ---- from one worker to the next */

/* Descriptors and what is polled for at each, as a worker parks them. */
static int park(int heard, int version, const int *fds, size_t count)
{
	char text[2 * (PORTER_MOST + 2)];

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (char)(i * 37);
	return send_message(PORTER_PARK, heard, version, text, 2 * (count - 1), fds, count);
}

static void close_all(int *fds, size_t count)
{
	for (size_t i = 0; i < count; i++)
		wherry_close(&fds[i]);
}

/* The worker takes what is held into `fds`: the state and the rest. The number of them. */
static size_t take(struct porter *p, int *fds)
{
	size_t count = 0;

	CHECK_EQUAL(give(p), 0);
	CHECK(p->line >= 0 && p->state < 0 && !p->count);
	if (!hear(PORTER_TAKE) || got.count < 2)
		return 0;
	CHECK_EQUAL(got.head.a, getpid());
	CHECK_EQUAL(got.head.b, p->version);
	close(got.fd[0]);
	memcpy(fds, got.fd + 1, (got.count - 1) * sizeof(*fds));
	count = got.count - 1;
	got.count = 0;
	return count;
}

static void everything_passes(void)
{
	static const size_t counts[] = { 1, 2, 17, PORTER_MOST - 1, PORTER_MOST };
	int fds[ROOM], back[ROOM], number = open_count();
	ino_t inodes[ROOM];
	struct porter p;

	begin(&p);
	inodes[0] = inode(p.held[0]);
	CHECK_EQUAL(take(&p, fds), 1); /* without a state there is the listener alone */
	CHECK(inode(fds[0]) == inodes[0]);
	close(fds[0]);
	for (size_t round = 0; round < WHERRY_LENGTH(counts); round++) {
		const size_t count = counts[round] + 1;

		for (size_t i = 0; i < count; i++) {
			fds[i] = memfd_create("held", MFD_CLOEXEC);
			inodes[i] = inode(fds[i]);
		}
		CHECK_EQUAL(park(0, (int)round + 1, fds, count), 0);
		close_all(fds, count);
		CHECK(serve(&p));
		CHECK(p.state >= 0 && inode(p.state) == inodes[0]);
		CHECK_EQUAL(p.count, count - 1);
		CHECK_EQUAL(p.version, round + 1);
		CHECK_EQUAL(p.until, 1234567890123);
		for (size_t i = 0; i < p.count; i++)
			CHECK_EQUAL(p.events[i], (short)((uint8_t)(2 * i * 37) | (uint8_t)((2 * i + 1) * 37) << 8));
		wherry_close(&p.line);
		CHECK_EQUAL(take(&p, back), count);
		for (size_t i = 0; i < count; i++)
			CHECK(inode(back[i]) == inodes[i] && fcntl(back[i], F_GETFD) & FD_CLOEXEC);
		close_all(back, count);
	}
	end(&p);
	CHECK_EQUAL(open_count(), number);
}

/* Who holds a connection, or the end of one, is the worker alone: what it closes is closed. */
static void no_copy_is_kept(void)
{
	int line[2], fds[ROOM];
	struct porter p;
	char byte;

	begin(&p);
	CHECK_EQUAL(take(&p, fds), 1);
	close(fds[0]);
	CHECK(pipe2(line, O_CLOEXEC | O_NONBLOCK) == 0);
	fds[0] = memfd_create("state", MFD_CLOEXEC);
	fds[1] = line[1];
	CHECK_EQUAL(park(0, 1, fds, 2), 0);
	close_all(fds, 2);
	CHECK(serve(&p));
	CHECK_EQUAL(read(line[0], &byte, 1), -1);
	CHECK_EQUAL(errno, EAGAIN);
	wherry_close(&p.line);
	CHECK_EQUAL(take(&p, fds), 2);
	close_all(fds, 2);
	CHECK_EQUAL(read(line[0], &byte, 1), 0);
	close(line[0]);
	end(&p);
}

/* A worker that is gone before it could take: all is held, for the next one. */
static void a_worker_that_is_gone(void)
{
	int number, fds[ROOM], before;
	struct porter p;

	begin(&p);
	number = p.held[0];
	before = open_count();
	wherry_close(&pair[1]);
	CHECK_EQUAL(give(&p), -EPIPE);
	CHECK(p.line < 0 && p.count == 1 && p.held[0] == number && fcntl(number, F_GETFD) >= 0);
	CHECK_EQUAL(open_count(), before - 1);
	wherry_close(&pair[0]);
	p.control = -1;
	CHECK_EQUAL(give(&p), -EBADF);
	CHECK_EQUAL(open_count(), before - 2);
	open_pair();
	p.control = pair[0];
	CHECK_EQUAL(take(&p, fds), 1);
	close(fds[0]);
	end(&p);
}

static void parks_that_are_none(void)
{
	static const struct { size_t count, size; int version; } wrong[] = {
		{ 0, 0, 1 }, { 1, 0, 1 }, { 1, 2, 1 },                    /* without a state, without anything that is held */
		{ 2, 0, 1 }, { 2, 1, 1 },  { 2, 3, 1 }, { 2, 4, 1 },      /* not two bytes for each */
		{ 0, SIZE_MAX, 1 },                                       /* 2 * (0 - 1), cut down to what can be sent */
		{ PORTER_MOST + 2, 2 * PORTER_MOST + 2, 1 },              /* one too many */
		{ 2, 2, 0 }, { 2, 2, -1 }, { 2, 2, INT32_MIN },           /* of no version */
	};
	int fds[ROOM], number;
	struct porter p;

	begin(&p);
	CHECK_EQUAL(take(&p, fds), 1);
	close(fds[0]);
	number = open_count();
	for (size_t i = 0; i < ROOM; i++)
		fds[i] = STDERR_FILENO;
	for (size_t i = 0; i < WHERRY_LENGTH(wrong); i++) {
		size_t size = wrong[i].size < PORTER_TEXT ? wrong[i].size : PORTER_TEXT - 1;
		char text[PORTER_TEXT] = { 0 };

		CHECK_EQUAL(send_message(PORTER_PARK, 0, wrong[i].version, text, size, fds, wrong[i].count), 0);
	}
	CHECK_EQUAL(send_message(0, 0, 1, "\1", 2, fds, 2), 0); /* and kinds that are not a worker's */
	CHECK_EQUAL(send_message(PORTER_TAKE, 0, 1, "\1", 2, fds, 2), 0);
	CHECK_EQUAL(send_message(PORTER_PARK + 1, 0, 1, "\1", 2, fds, 2), 0);
	CHECK_EQUAL(send_message(-1, 0, 1, "\1", 2, fds, 2), 0);
	CHECK_EQUAL(send_raw(pair[1], "short", 5, STDERR_FILENO, 2), 0);
	shutdown(pair[1], SHUT_WR);
	CHECK(!serve(&p)); /* the end of one that did not park */
	CHECK(!p.count && p.state < 0 && !p.version);
	CHECK_EQUAL(open_count(), number);
	end(&p);
}

/* Of a worker that is awake: what is no message, and the death of another's peer, changes nothing. */
static void noise(void)
{
	int fds[ROOM];
	struct porter p;

	begin(&p);
	CHECK_EQUAL(take(&p, fds), 1);
	CHECK_EQUAL(send_raw(pair[1], "short", 5, STDERR_FILENO, 2), 0);
	CHECK_EQUAL(send_message(PORTER_PARK, 0, 0, "\1", 2, fds, 1), 0);
	fds[1] = memfd_create("held", MFD_CLOEXEC);
	CHECK_EQUAL(park(0, 3, fds, 2), 0);
	close_all(fds, 2);
	CHECK(serve(&p));
	CHECK(p.version == 3 && p.count == 1);
	end(&p);
}

/* ---- ends */

static void few_and_many_ends(void)
{
	struct porter p = { .control = -1, .line = -1 };

	for (int i = 0; i < PORTER_ENDED; i++)
		remember(&p, 100 + i, i);
	CHECK_EQUAL(p.ends, PORTER_ENDED);
	CHECK_EQUAL(p.ended[0].pid, 100);
	remember(&p, 1000, 137); /* one more: the oldest is forgotten */
	CHECK_EQUAL(p.ends, PORTER_ENDED);
	CHECK_EQUAL(p.ended[0].pid, 101);
	CHECK_EQUAL(p.ended[PORTER_ENDED - 1].pid, 1000);
	CHECK_EQUAL(p.ended[PORTER_ENDED - 1].status, 137);
	forget(&p, 0);
	CHECK_EQUAL(p.ends, PORTER_ENDED);
	forget(&p, PORTER_ENDED - 1);
	CHECK(p.ends == 1 && p.ended[0].pid == 1000);
	forget(&p, 1);
	CHECK_EQUAL(p.ends, 0);
	tell(&p, 5, 6); /* nobody is awake */
	CHECK_EQUAL(p.told, 0);
}

/* As waitpid has found it. */
static void ended(struct porter *p, int pid)
{
	remember(p, pid, pid % 256);
	tell(p, pid, pid % 256);
}

/* The worker takes what is there, hears of the ends from..to at once, and closes what it took. */
static void awake(struct porter *p, int from, int to)
{
	int fds[ROOM];

	close_all(fds, take(p, fds));
	for (int pid = from; pid < to; pid++)
		hear_end_of(pid, pid % 256);
	hear_nothing();
}

static void parked(struct porter *p, int heard)
{
	int fds[] = { memfd_create("state", MFD_CLOEXEC), memfd_create("held", MFD_CLOEXEC) };

	CHECK_EQUAL(park(heard, 1, fds, 2), 0);
	close_all(fds, 2);
	CHECK(serve(p));
}

/* What was told and not heard before it had parked: nobody reads that. */
static void asleep(struct porter *p)
{
	while (porter_receive(pair[1], &got) == 1)
		porter_close_fds(&got);
	wherry_close(&p->line);
}

static void unheard_ends_are_told_again(void)
{
	struct porter p;

	begin(&p);
	ended(&p, 500); /* before there was any worker */
	awake(&p, 500, 501);
	for (int pid = 501; pid < 511; pid++)
		ended(&p, pid);
	parked(&p, 4); /* 500 to 503; 504 to 510 were under way */
	CHECK_EQUAL(p.ends, 7);
	ended(&p, 511); /* before it has gone: told to nobody */
	asleep(&p);
	ended(&p, 512);
	awake(&p, 504, 513);
	parked(&p, 9);
	CHECK_EQUAL(p.ends, 0);
	asleep(&p);
	awake(&p, 0, 0);
	end(&p);
}

static void more_ends_than_are_kept(void)
{
	struct porter p;

	begin(&p);
	awake(&p, 0, 0);
	for (int pid = 1; pid <= 2 * PORTER_ENDED; pid++)
		ended(&p, pid);
	parked(&p, 2 * PORTER_ENDED - 3); /* the last three */
	CHECK_EQUAL(p.ends, 3);
	asleep(&p);
	awake(&p, 2 * PORTER_ENDED - 2, 2 * PORTER_ENDED + 1);
	parked(&p, 0); /* none of these three: all of them again, and more than can be kept */
	asleep(&p);
	for (int pid = 1; pid <= PORTER_ENDED + 5; pid++)
		ended(&p, pid);
	awake(&p, 6, PORTER_ENDED + 6);
	parked(&p, 1); /* of more than are kept only the oldest was heard of */
	CHECK_EQUAL(p.ends, PORTER_ENDED - 1);
	end(&p);
}

/* A worker that says that it has heard of more than there were, or of less than none, makes the next one hear of all again: too much is no harm. */
static void a_false_count(void)
{
	static const int counts[] = { 4, INT32_MAX, -1, INT32_MIN };
	struct porter p;

	begin(&p);
	awake(&p, 0, 0);
	for (int pid = 1; pid <= 3; pid++)
		ended(&p, pid);
	for (size_t i = 0; i < WHERRY_LENGTH(counts); i++) {
		parked(&p, counts[i]);
		CHECK_EQUAL(p.ends, 3);
		asleep(&p);
		awake(&p, 1, 4);
	}
	end(&p);
}

static pid_t child(int status, int signal)
{
	pid_t pid = fork();

	if (!pid) {
		if (signal)
			kill(getpid(), signal);
		_exit(status);
	}
	return pid;
}

/* Children that have ended, as the kernel says it. */
static void children(void)
{
	pid_t first, second;
	struct porter p;

	begin(&p);
	awake(&p, 0, 0);
	first = child(7, 0);
	while (!p.ends)
		pause_ms(&p, 1000);
	hear_end_of(first, 7);
	second = child(0, SIGKILL);
	while (p.ends < 2)
		pause_ms(&p, 1000);
	hear_end_of(second, 128 + SIGKILL);
	pause_ms(&p, 0);
	CHECK_EQUAL(p.ends, 2);
	end(&p);
}

/* ---- monitors */

/* The answer, after it was asked; its pidfd is closed. */
static int spawned(struct porter *p, const char *text, size_t size, const int *fds, size_t count)
{
	CHECK_EQUAL(send_message(PORTER_SPAWN, 0, 0, text, size, fds, count), 0);
	CHECK_EQUAL(porter_receive(pair[0], &message), 1);
	spawn(p, &message);
	if (!hear(PORTER_SPAWNED))
		return 0;
	CHECK_EQUAL(got.count, got.head.a > 0);
	porter_close_fds(&got);
	return got.head.a;
}

static void a_monitor(void)
{
	static const char ask[] = "/bin/sh\0sh\0-c\0"
				  "read word <&3; echo \"$word\" >&4; echo $# $1 >&4; ls /proc/self/fd | tr '\\n' ' ' >&4; exit 9\0it\0one";
	int in[2], out[2], number, ours;
	char answer[256] = "";
	struct porter p;
	pid_t pid;

	begin(&p);
	awake(&p, 0, 0);
	number = open_count();
	ours = fcntl(STDERR_FILENO, F_DUPFD, 100); /* nobody said that it ends with an exec */
	CHECK(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0);
	CHECK_EQUAL(write(in[1], "word\n", 5), 5);
	pid = spawned(&p, ask, sizeof(ask) - 1, (int[]){ in[0], out[1] }, 2);
	CHECK(pid > 0);
	close(ours);
	close(in[0]);
	close(in[1]);
	close(out[1]);
	for (size_t size = 0; read(out[0], answer + size, 1) == 1; size++)
		;
	close(out[0]);
	CHECK_TEXT(answer, "word\n1 one\n0 1 2 3 4 5 "); /* 5 is ls's own, of the directory */
	while (!p.ends)
		pause_ms(&p, 1000);
	hear_end_of(pid, 9);
	CHECK_EQUAL(open_count(), number);
	end(&p);
}

static void monitors_that_are_none(void)
{
	const int fds[] = { STDERR_FILENO, STDERR_FILENO, STDERR_FILENO };
	char long_text[PORTER_TEXT - 1];
	struct porter p;
	int number;

	begin(&p);
	awake(&p, 0, 0);
	number = open_count();
	CHECK_EQUAL(spawned(&p, "/bin/true\0true", 14, fds, 0), -EINVAL);
	CHECK_EQUAL(spawned(&p, "/bin/true\0true", 14, fds, 1), -EINVAL);
	CHECK_EQUAL(spawned(&p, "/bin/true\0true", 14, fds, 3), -EINVAL);
	CHECK_EQUAL(spawned(&p, "", 0, fds, 2), -EINVAL);
	CHECK_EQUAL(spawned(&p, "/bin/true", 9, fds, 2), -EINVAL);
	CHECK_EQUAL(spawned(&p, "/bin/true", 10, fds, 2), -EINVAL);
	CHECK_EQUAL(p.ends, 0);
	CHECK_EQUAL(spawned(&p, "/nowhere/at/all\0x", 17, fds, 2), -ENOENT);
	CHECK_EQUAL(spawned(&p, "\0\0\0", 3, fds, 2), -ENOENT);
	memset(long_text, 0, sizeof(long_text));
	CHECK_EQUAL(spawned(&p, long_text, PORTER_WORDS, fds, 2), -ENOENT);
	CHECK_EQUAL(spawned(&p, long_text, PORTER_WORDS + 1, fds, 2), -EINVAL); /* more words than there are places for */
	CHECK_EQUAL(spawned(&p, long_text, sizeof(long_text), fds, 2), -EINVAL);
	memset(long_text, 'x', sizeof(long_text));
	CHECK_EQUAL(spawned(&p, long_text, sizeof(long_text), fds, 2), -EINVAL);
	long_text[sizeof(long_text) - 2] = '\0';
	CHECK(spawned(&p, long_text, sizeof(long_text), fds, 2) < 0);
	while (waitpid(-1, NULL, __WALL) > 0)
		;
	CHECK_EQUAL(open_count(), number);
	end(&p);
}

/* ---- sleep */

static void what_wakes(void)
{
	int line[2], other[2];
	struct porter p;
	int64_t before;

	begin(&p);
	CHECK(pipe2(line, O_CLOEXEC) == 0 && pipe2(other, O_CLOEXEC) == 0);
	close(p.held[0]);
	p.count = 2;
	p.held[0] = other[0];
	p.events[0] = 0; /* kept, and not polled */
	p.held[1] = line[0];
	p.events[1] = POLLIN;
	CHECK_EQUAL(write(other[1], "x", 1), 1);
	CHECK_EQUAL(write(line[1], "x", 1), 1);
	sleep_on(&p);
	p.events[1] = 0;
	p.until = 0; /* long ago */
	sleep_on(&p);
	p.until = INT64_MIN;
	p.events[1] = POLLIN;
	sleep_on(&p);
	p.events[1] = 0;
	close(other[1]); /* an end, which poll tells unasked */
	before = now_ms();
	p.until = before + 30;
	sleep_on(&p);
	CHECK(now_ms() >= before + 30);
	p.until = INT64_MAX; /* farther than a poll can wait */
	p.events[1] = POLLIN;
	sleep_on(&p);
	close(line[1]);
	end(&p);
}

/* ---- the whole */

static int workers_socket(void)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	workers_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
				   (size_t)snprintf(workers.sun_path + 1, 60, "wherry-test-porter-%d", getpid()));
	CHECK_EQUAL(bind(fd, (struct sockaddr *)&workers, workers_size), 0);
	CHECK_EQUAL(listen(fd, 4), 0);
	return fd;
}

static pid_t start_porter(int listener, int log)
{
	static char name[] = "shim", flag[] = "-id", id[] = "pod", *words[] = { name, flag, id, NULL };
	pid_t pid = fork();

	if (!pid) {
		dup2(log, STDERR_FILENO);
		dup2(listener, PORTER_CONTROL);
		_exit(shim_is_porter() ? shim_porter(words) : 77);
	}
	return pid;
}

static int status_of(pid_t pid)
{
	int status = -1;

	CHECK_EQUAL(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
}

/* The next worker: what it was given is in `got`, its lifeline first. */
static void accept_worker(int at)
{
	wherry_close(&pair[1]);
	pair[1] = accept4(at, NULL, NULL, SOCK_CLOEXEC);
	hear(PORTER_TAKE);
}

static void a_life(void)
{
	int workers_at = workers_socket(), line[2], fds[ROOM], listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), lifeline;
	const struct sockaddr nowhere = { .sa_family = AF_UNIX };
	pid_t pid;
	char byte;

	CHECK(bind(listener, &nowhere, sizeof(sa_family_t)) == 0 && listen(listener, 1) == 0);
	CHECK(pipe2(line, O_CLOEXEC) == 0);
	pair[0] = pair[1] = -1;
	pid = start_porter(listener, STDERR_FILENO);
	accept_worker(workers_at);
	CHECK_EQUAL(got.head.b, 0);
	CHECK_EQUAL(got.count, 2);
	CHECK(inode(got.fd[1]) == inode(listener));
	for (int round = 1; round < 50; round++) {
		const size_t count = (size_t)round * 4 % PORTER_MOST + 2;
		char text[2 * ROOM] = { 0 };

		porter_close_fds(&got);
		for (size_t i = 0; i < count; i++)
			fds[i] = i == count - 1 ? line[0] : listener;
		text[2 * (count - 1) - 2] = POLLIN;
		CHECK_EQUAL(send_message(PORTER_PARK, 0, round, text, 2 * (count - 1), fds, count), 0);
		CHECK_EQUAL(write(line[1], "x", 1), 1);
		accept_worker(workers_at);
		CHECK_EQUAL(got.head.a, pid);
		CHECK_EQUAL(got.head.b, round);
		CHECK_EQUAL(got.count, count + 1);
		CHECK(inode(got.fd[1]) == inode(listener) && inode(got.fd[count]) == inode(line[0]));
		CHECK_EQUAL(read(got.fd[count], &byte, 1), 1);
	}
	lifeline = got.fd[0];
	got.fd[0] = -1;
	porter_close_fds(&got);
	wherry_close(&pair[1]); /* one that ends and has not parked takes the porter with it */
	CHECK_EQUAL(status_of(pid), 1);
	CHECK_EQUAL(read(lifeline, &byte, 1), 0);
	close(lifeline);
	close(line[0]);
	close(line[1]);
	close(workers_at);
	close(listener);
}

/* Who has held a state once waits for as long as it takes. */
static void workers_that_cannot_begin(void)
{
	int workers_at = workers_socket(), held, null = open("/dev/null", O_WRONLY | O_CLOEXEC), errors = dup(STDERR_FILENO);
	struct porter p;

	begin(&p);
	close_pair();
	held = p.held[0];
	p.version = 5;
	p.state = memfd_create("state", MFD_CLOEXEC);
	workers_that_fail = 2;
	dup2(null, STDERR_FILENO); /* its complaint */
	CHECK(wake(&p));
	dup2(errors, STDERR_FILENO);
	CHECK_EQUAL(workers_that_fail, 0);
	CHECK(fcntl(held, F_GETFD) < 0 || held == p.line || held == p.control);
	accept_worker(workers_at);
	CHECK_EQUAL(got.count, 3);
	CHECK_EQUAL(got.head.b, 5);
	porter_close_fds(&got);
	wherry_close(&p.control);
	close(workers_at);
	close(null);
	close(errors);
	end(&p);
}

static void a_life_without_workers(void)
{
	int workers_at = workers_socket(), listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), log[2];
	const struct sockaddr nowhere = { .sa_family = AF_UNIX };
	char text[256] = "";

	close(workers_at); /* nobody listens */
	CHECK(bind(listener, &nowhere, sizeof(sa_family_t)) == 0 && listen(listener, 1) == 0);
	CHECK(pipe2(log, O_CLOEXEC) == 0);
	CHECK_EQUAL(status_of(start_porter(listener, log[1])), 1);
	CHECK(read(log[0], text, sizeof(text) - 1) > 0);
	CHECK_TEXT(text, "level=error msg=\"there is no worker: containerd-shim-wherry-python beside this program does not begin\" shim=pod\n");
	CHECK_EQUAL(status_of(start_porter(log[0], log[1])), 77); /* what is no listening socket makes no porter */
	close(log[0]);
	close(log[1]);
	close(listener);
}

static const struct check_case cases[] = {
	{ "a message", a_message },
	{ "wrong messages are refused, their descriptors closed", wrong_messages },
	{ "as many descriptors as the kernel takes", many_descriptors },
	{ "no room for descriptors", no_room_for_descriptors },
	{ "what cannot be sent", what_cannot_be_sent },
	{ "random messages", random_messages },
	{ "everything passes to the next worker", everything_passes },
	{ "no copy is kept", no_copy_is_kept },
	{ "a worker that is gone", a_worker_that_is_gone },
	{ "parks that are none", parks_that_are_none },
	{ "noise", noise },
	{ "few and many ends", few_and_many_ends },
	{ "unheard ends are told again", unheard_ends_are_told_again },
	{ "more ends than are kept", more_ends_than_are_kept },
	{ "a false count of ends", a_false_count },
	{ "children", children },
	{ "a monitor", a_monitor },
	{ "monitors that are none", monitors_that_are_none },
	{ "what wakes", what_wakes },
	{ "a life", a_life },
	{ "workers that cannot begin", workers_that_cannot_begin },
	{ "a life without workers", a_life_without_workers },
};

CHECK_MAIN(cases)
