/* SPDX-License-Identifier: Apache-2.0
 *
 * One message, at most one descriptor: and what a peer may do wrong leaves no descriptor behind.
 */
#include "check.h"
#include "wherry/core.h"
#include "wherry/sys.h"

#include <sys/socket.h>
#include <sys/stat.h>

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

/* The lowest free number: it stays the same where nothing leaks. */
static int free_number(void)
{
	int fd = dup(pair[1] >= 0 ? pair[1] : STDERR_FILENO);

	close(fd);
	return fd;
}

static bool is_null_device(int fd)
{
	struct stat one, other;

	return fstat(fd, &one) == 0 && stat("/dev/null", &other) == 0 && one.st_rdev == other.st_rdev;
}

static void a_message(void)
{
	const struct wherry_message sent = { .kind = WHERRY_FAILED, .step = 7, .error = 1003, .call = 9, .value = 1ULL << 40 };
	struct wherry_message got;
	int fd = 99;

	open_pair();
	CHECK_EQUAL(wherry_send(pair[0], &sent, -1), 0);
	CHECK_EQUAL(wherry_receive(pair[1], &got, &fd), 0);
	CHECK(!memcmp(&sent, &got, sizeof(got)));
	CHECK_EQUAL(fd, -1);
	close_pair();
}

static void a_descriptor(void)
{
	const struct wherry_message sent = { .kind = WHERRY_DONE };
	struct wherry_message got;
	int null = open("/dev/null", O_RDONLY), fd, number;

	open_pair();
	CHECK_EQUAL(wherry_send(pair[0], &sent, null), 0);
	CHECK_EQUAL(wherry_receive(pair[1], &got, &fd), 0);
	CHECK(fd != null && is_null_device(fd));
	CHECK_EQUAL(fcntl(fd, F_GETFD), FD_CLOEXEC);
	close(fd);
	number = free_number(); /* one that nobody asked for is closed */
	CHECK_EQUAL(wherry_send(pair[0], &sent, null), 0);
	CHECK_EQUAL(wherry_receive(pair[1], &got, NULL), 0);
	CHECK_EQUAL(free_number(), number);
	close(null);
	close_pair();
}

static void the_end(void)
{
	struct wherry_message message = { .kind = WHERRY_DONE };
	int fd;

	open_pair();
	wherry_close(&pair[0]);
	CHECK_EQUAL(wherry_receive(pair[1], &message, &fd), -EPIPE);
	CHECK_EQUAL(fd, -1);
	CHECK_EQUAL(wherry_send(pair[1], &message, -1), -EPIPE); /* and no signal */
	close_pair();
	open_pair();
	CHECK_EQUAL(wherry_send(pair[1], &message, -1), 0);
	wherry_close(&pair[0]); /* with our message unread */
	CHECK_EQUAL(wherry_receive(pair[1], &message, NULL), -EPIPE);
	close_pair();
}

static void send_raw(const void *bytes, size_t size, const int *fds, size_t count)
{
	char control[CMSG_SPACE(4 * sizeof(int))] __attribute__((aligned(8))) = { 0 };
	struct iovec part = { (void *)(uintptr_t)bytes, size };
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(count * sizeof(int)) };
	struct cmsghdr *rights = CMSG_FIRSTHDR(&header);

	rights->cmsg_level = SOL_SOCKET;
	rights->cmsg_type = SCM_RIGHTS;
	rights->cmsg_len = CMSG_LEN(count * sizeof(int));
	memcpy(CMSG_DATA(rights), fds, count * sizeof(int));
	CHECK_EQUAL(sendmsg(pair[0], &header, 0), size);
}

static void wrong_messages(void)
{
	static const char bytes[2 * sizeof(struct wherry_message)];
	static const size_t sizes[] = { 1, sizeof(struct wherry_message) - 1, sizeof(struct wherry_message) + 1, sizeof(bytes) };
	struct wherry_message got;
	int null = open("/dev/null", O_RDONLY), fds[] = { null, null, null }, fd, number;

	open_pair();
	number = free_number();
	for (size_t i = 0; i < WHERRY_LENGTH(sizes); i++) {
		send_raw(bytes, sizes[i], fds, 1);
		CHECK_EQUAL(wherry_receive(pair[1], &got, &fd), -EPROTO);
		CHECK_EQUAL(fd, -1);
		CHECK_EQUAL(free_number(), number);
	}
	for (size_t count = 2; count <= 3; count++) {
		send_raw(bytes, sizeof(got), fds, count);
		CHECK_EQUAL(wherry_receive(pair[1], &got, &fd), -EPROTO);
		CHECK_EQUAL(fd, -1);
		CHECK_EQUAL(free_number(), number);
	}
	close(null);
	close_pair();
}

static const struct check_case cases[] = {
	{ "a_message", a_message },
	{ "a_descriptor", a_descriptor },
	{ "the_end", the_end },
	{ "wrong_messages", wrong_messages },
};

CHECK_MAIN(cases)
