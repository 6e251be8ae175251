/* SPDX-License-Identifier: Apache-2.0
 *
 * One message, at most one descriptor. The sockets are SOCK_SEQPACKET: a message arrives whole or not at all.
 */
#include "wherry/core.h"
#include "wherry/sys.h"

#include <string.h>
#include <sys/socket.h>

union control {
	char buffer[CMSG_SPACE(sizeof(int))];
	struct cmsghdr align;
};

int wherry_send(int socket, const struct wherry_message *message, int fd)
{
	struct iovec part = { .iov_base = (void *)(uintptr_t)message, .iov_len = sizeof(*message) };
	union control control;
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1 };

	if (fd >= 0) {
		struct cmsghdr *rights;

		memset(&control, 0, sizeof(control));
		header.msg_control = control.buffer;
		header.msg_controllen = sizeof(control.buffer);
		rights = CMSG_FIRSTHDR(&header);
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(rights), &fd, sizeof(int));
	}
	return TEMP_FAILURE_RETRY(sendmsg(socket, &header, MSG_NOSIGNAL)) < 0 ? -errno : 0;
}

/* The descriptor that came along, or -1. The buffer has room for one: what a peer sends beyond that, the kernel closes. */
static int received_fd(struct msghdr *header)
{
	struct cmsghdr *rights = CMSG_FIRSTHDR(header);
	int fd;

	if (!rights || rights->cmsg_level != SOL_SOCKET || rights->cmsg_type != SCM_RIGHTS || rights->cmsg_len < CMSG_LEN(sizeof(int)))
		return -1;
	memcpy(&fd, CMSG_DATA(rights), sizeof(int));
	return fd;
}

int wherry_receive(int socket, struct wherry_message *message, int *fd)
{
	struct iovec part = { .iov_base = message, .iov_len = sizeof(*message) };
	union control control = { .buffer = { 0 } };
	/* CMSG_LEN, not CMSG_SPACE: the padding would hold a second descriptor */
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.buffer, .msg_controllen = CMSG_LEN(sizeof(int)) };
	ssize_t size = TEMP_FAILURE_RETRY(recvmsg(socket, &header, MSG_CMSG_CLOEXEC));
	cleanup_fd int received = -1;

	if (fd)
		*fd = -1;
	if (size < 0)
		return errno == ECONNRESET ? -EPIPE : -errno;
	received = received_fd(&header);
	if (size == 0)
		return -EPIPE;
	if (size != sizeof(*message) || (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
		return -EPROTO;
	if (fd)
		*fd = wherry_steal(&received);
	return 0;
}
