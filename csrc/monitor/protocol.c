/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages between server, monitor and helper: one datagram each, with its texts behind the head and its descriptors beside it.
 */
#include "monitor.h"

#include <string.h>
#include <sys/socket.h>

union control {
	char space[CMSG_SPACE(MAX_DESCRIPTORS * sizeof(int))];
	struct cmsghdr align;
};

void monitor_empty(struct monitor_message *message, uint16_t kind, uint32_t process)
{
	message->head = (struct monitor_head){ .version = MONITOR_VERSION, .kind = kind, .process = process };
	for (size_t i = 0; i < TEXT_COUNT; i++)
		message->text[i] = "";
	for (size_t i = 0; i < MONITOR_FD_COUNT; i++)
		message->fd[i] = -1;
}

void monitor_close_fds(struct monitor_message *message)
{
	for (size_t i = 0; i < MONITOR_FD_COUNT; i++)
		wherry_close(&message->fd[i]);
}

/* Every length is checked, and every text ends with its NUL. */
static int find_texts(struct monitor_message *message, size_t size)
{
	size_t at = 0;

	for (size_t i = 0; i < TEXT_COUNT; i++) {
		uint32_t length = message->head.length[i];

		if (length >= size - at || message->data[at + length])
			return -EPROTO;
		message->text[i] = message->data + at;
		at += length + 1;
	}
	return 0;
}

/* Descriptors come in the order of their bits; what nobody has named is closed. */
static int take_descriptors(struct monitor_message *message, const struct msghdr *header)
{
	const struct cmsghdr *rights = CMSG_FIRSTHDR(header);
	int fds[MAX_DESCRIPTORS];
	size_t count = 0, used = 0;

	if (rights && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS) {
		count = (rights->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(fds, CMSG_DATA(rights), count * sizeof(int));
	}
	for (size_t i = 0; i < MONITOR_FD_COUNT; i++)
		if (message->head.fds & 1U << i && used < count)
			message->fd[i] = fds[used++];
	if (used == count && (unsigned int)__builtin_popcount(message->head.fds) == count)
		return 0;
	while (used < count)
		close(fds[used++]);
	return -EPROTO;
}

int monitor_receive(int socket, struct monitor_message *message)
{
	struct iovec part[2] = { { &message->head, sizeof(message->head) }, { message->data, MAX_MESSAGE } };
	union control control = { .space = { 0 } };
	struct msghdr header = { .msg_iov = part, .msg_iovlen = 2, .msg_control = &control, .msg_controllen = sizeof(control) };
	ssize_t size;
	int result;

	monitor_empty(message, 0, 0);
	/* ECONNRESET, said once: the peer went without having read all. What it had said comes after it, then the end */
	do
		size = recvmsg(socket, &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	while (size < 0 && (errno == EINTR || errno == ECONNRESET));
	if (size < 0)
		return -errno;
	if (size == 0 && !header.msg_controllen)
		return 0;
	if (size < (ssize_t)sizeof(message->head))
		message->head.fds = 0;
	result = take_descriptors(message, &header);
	if (result == 0 && (size <= (ssize_t)sizeof(message->head) || header.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ||
			    message->head.version != MONITOR_VERSION))
		result = -EPROTO;
	if (result == 0)
		result = find_texts(message, (size_t)size - sizeof(message->head));
	if (result < 0)
		monitor_close_fds(message);
	return result < 0 ? result : 1;
}

int monitor_send(int socket, struct monitor_message *message)
{
	struct iovec part[1 + TEXT_COUNT] = { { &message->head, sizeof(message->head) } };
	union control control = { .space = { 0 } };
	struct msghdr header = { .msg_iov = part, .msg_iovlen = 1 + TEXT_COUNT };
	int fds[MONITOR_FD_COUNT];
	size_t count = 0;

	message->head.fds = 0;
	for (size_t i = 0; i < TEXT_COUNT; i++) {
		message->head.length[i] = (uint32_t)(i == TEXT_EXTRA ? 0 : strlen(message->text[i]));
		part[1 + i] = (struct iovec){ (void *)(uintptr_t)(i == TEXT_EXTRA ? "" : message->text[i]), message->head.length[i] + 1 };
	}
	for (size_t i = 0; i < MONITOR_FD_COUNT; i++)
		if (message->fd[i] >= 0) {
			message->head.fds |= 1U << i;
			fds[count++] = message->fd[i];
		}
	if (count) {
		struct cmsghdr *rights = &control.align;

		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(rights), fds, count * sizeof(int));
		header.msg_control = &control;
		header.msg_controllen = CMSG_SPACE(count * sizeof(int));
	}
	return TEMP_FAILURE_RETRY(sendmsg(socket, &header, MSG_NOSIGNAL)) < 0 ? -errno : 0;
}
