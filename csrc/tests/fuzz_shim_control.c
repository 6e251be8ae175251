/* SPDX-License-Identifier: Apache-2.0
 *
 * What a worker says to its porter. The first byte is the number of descriptors beside the message, the rest is the message. What is no message is
 * refused, none leaves a descriptor, and what has been parked is what the next worker gets.
 */
#include "fuzz.h"

#include "../shim/control.c"
#include "../shim/porter.c"

enum { KERNEL_MOST = 253, FIRST = 64 };

static struct porter_message got;
static int pair[2];

bool porter_find_places(struct porter *p)
{
	return p != NULL;
}

int porter_begin_worker(struct porter *p, bool cold)
{
	(void)p;
	(void)cold;
	return -1;
}

static void send_bytes(const void *bytes, size_t size, size_t count)
{
	union { struct cmsghdr head; char room[CMSG_SPACE(KERNEL_MOST * sizeof(int))]; } control = { .room = { 0 } };
	struct iovec part = { (void *)(uintptr_t)bytes, size };
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1 };

	if (count) {
		control.head = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(count * sizeof(int)) };
		for (size_t i = 0; i < count; i++)
			memcpy(CMSG_DATA(&control.head) + i * sizeof(int), &pair[i & 1], sizeof(int));
		header.msg_control = &control;
		header.msg_controllen = CMSG_SPACE(count * sizeof(int));
	}
	fuzz_promise(sendmsg(pair[1], &header, MSG_NOSIGNAL) == (ssize_t)size);
}

static int next_number(void)
{
	int fd = fcntl(pair[0], F_DUPFD_CLOEXEC, FIRST);

	fuzz_promise(fd >= 0);
	close(fd);
	return fd;
}

/* To the next worker and back: the same descriptors, as many, in their order. */
static void pass(struct porter *p)
{
	const size_t count = p->count;

	fuzz_promise(count && count <= PORTER_MOST && p->version >= 1 && p->state >= 0);
	fuzz_promise(give(p) == 0 && p->count == 0 && p->state < 0);
	fuzz_promise(porter_receive(pair[1], &got) == 1 && got.head.kind == PORTER_TAKE && got.count == count + 2 && got.head.b == p->version);
	porter_close_fds(&got);
	for (size_t i = 0; i < p->ends; i++)
		fuzz_promise(porter_receive(pair[1], &got) == 1 && got.head.kind == PORTER_ENDED_ONE && got.head.a == p->ended[i].pid);
	fuzz_promise(p->told == p->ends);
	wherry_close(&p->line);
}

static void talk(struct porter *p, size_t size, size_t sent)
{
	int result = porter_receive(pair[0], &got);

	fuzz_promise(result == 1 || result == -EPROTO || (!result && !size && !sent));
	fuzz_promise(result == 1 ? got.count == sent && got.size == size - sizeof(got.head) && !got.text[got.size] : !got.count);
	if (result == 1 && got.head.kind == PORTER_PARK && hold(p, &got)) {
		fuzz_promise(p->ends <= PORTER_ENDED);
		pass(p);
	} else if (result == 1 && got.head.kind == PORTER_SPAWN && sent != 2) {
		spawn(p, &got);
		fuzz_promise(!got.count && porter_receive(pair[1], &got) == 1 && got.head.kind == PORTER_SPAWNED && got.head.a == -EINVAL);
	}
	porter_close_fds(&got);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct porter p = { .line = -1, .state = -1, .signals = -1 };
	uint8_t *bytes;
	int number;

	if (size < 1)
		return -1;
	if (!pair[1])
		fuzz_promise(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
	p.control = pair[0];
	number = next_number();
	for (int i = 0; i < *data; i++)
		remember(&p, i, i);
	p.told = *data;
	bytes = malloc(size);
	memcpy(bytes, data + 1, size - 1);
	send_bytes(bytes, size - 1, *data % (KERNEL_MOST + 1));
	free(bytes);
	talk(&p, size - 1, *data % (KERNEL_MOST + 1));
	fuzz_promise(next_number() == number);
	return 0;
}

/* Keeps the magic, and mostly what belongs together. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned int seed)
{
	struct porter_head head = { PORTER_MAGIC, seed >> 3 & 1 ? PORTER_PARK : PORTER_SPAWN, 0, 1, -1 };

	size = LLVMFuzzerMutate(data, size, room);
	if (size < 1 + sizeof(head) && room >= 1 + sizeof(head)) {
		memcpy(data + 1, &head, sizeof(head));
		size = 1 + sizeof(head);
	}
	if (size < 1 + sizeof(head) || seed % 8 == 0)
		return size;
	memcpy(&head, data + 1, sizeof(head));
	head.magic = PORTER_MAGIC;
	if (seed % 8 < 6) {
		const size_t text = size - 1 - sizeof(head);

		head.kind = PORTER_PARK;
		size -= text & 1;
		data[0] = (uint8_t)(text / 2 + 1);
		head.b = head.b < 1 ? 1 : head.b;
	}
	memcpy(data + 1, &head, sizeof(head));
	return size;
}
