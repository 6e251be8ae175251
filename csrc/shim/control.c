/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages between the porter and its worker. What is received is believed as little as anybody's: a message that is none is refused whole.
 */
#include "porter.h"

#include <string.h>
#include <sys/socket.h>

int porter_send(int socket, const struct porter_head *head, const int *fds, size_t count)
{
	union { struct cmsghdr head; char room[CMSG_SPACE((PORTER_MOST + 2) * sizeof(int))]; } control;
	struct iovec part = { .iov_base = (void *)(uintptr_t)head, .iov_len = sizeof(*head) };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

	if (count) {
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(count * sizeof(int));
		memset(&control, 0, message.msg_controllen);
		control.head = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(count * sizeof(int)) };
		memcpy(CMSG_DATA(&control.head), fds, count * sizeof(int));
	}
	return TEMP_FAILURE_RETRY(sendmsg(socket, &message, MSG_NOSIGNAL)) < 0 ? -errno : 0;
}

void porter_close_fds(struct porter_message *message)
{
	for (size_t i = 0; i < message->count; i++)
		wherry_close(&message->fd[i]);
	message->count = 0;
}

static void take_rights(struct porter_message *message, struct msghdr *got)
{
	for (struct cmsghdr *one = CMSG_FIRSTHDR(got); one; one = CMSG_NXTHDR(got, one)) {
		if (one->cmsg_level != SOL_SOCKET || one->cmsg_type != SCM_RIGHTS)
			continue;
		message->count = (one->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(message->fd, CMSG_DATA(one), message->count * sizeof(int));
	}
}

int porter_receive(int socket, struct porter_message *message)
{
	union { struct cmsghdr head; char room[CMSG_SPACE((PORTER_MOST + 2) * sizeof(int))]; } control;
	struct iovec parts[] = { { &message->head, sizeof(message->head) }, { message->text, sizeof(message->text) - 1 } };
	struct msghdr got = { .msg_iov = parts, .msg_iovlen = 2, .msg_control = &control, .msg_controllen = sizeof(control) };
	ssize_t size = TEMP_FAILURE_RETRY(recvmsg(socket, &got, MSG_CMSG_CLOEXEC));

	message->count = 0;
	if (size < 0)
		return -errno;
	take_rights(message, &got);
	if (!size && !message->count)
		return 0;
	if (got.msg_flags & (MSG_TRUNC | MSG_CTRUNC) || (size_t)size < sizeof(message->head) || message->head.magic != PORTER_MAGIC) {
		porter_close_fds(message);
		return -EPROTO;
	}
	message->size = (size_t)size - sizeof(message->head);
	message->text[message->size] = '\0';
	return 1;
}
