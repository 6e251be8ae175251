/* SPDX-License-Identifier: Apache-2.0
 *
 * One request to the zygote (shim/wherry_shim/zygote.py): a packet with header, limits, arguments and environment, and two descriptors. The last
 * word that lets the worker begin comes at once behind it, and nobody waits for its pid: a worker has nothing before it has spoken to its porter.
 */
#include "shim.h"

#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>

enum { MAGIC = 0x575a0001, LIMITS = 16 };

struct header { uint32_t magic, umask; int32_t oom_score; uint32_t arguments, variables; uint64_t limits[2 * LIMITS]; } __attribute__((packed));

static struct { struct header head; char texts[SHIM_PACKET - sizeof(struct header)]; } __attribute__((packed)) packet;

static bool put(size_t *used, struct shim_text text)
{
	if (text.size + 1 > sizeof(packet.texts) - *used)
		return false;
	memcpy(packet.texts + *used, text.data, text.size + 1);
	*used += text.size + 1;
	return true;
}

/* The worker's words are the porter's, but for its name. */
static bool put_arguments(size_t *used, char **argv)
{
	packet.head.arguments = 1;
	if (!put(used, shim_word(*argv)))
		return false;
	--*used;
	if (!put(used, shim_word("-worker")))
		return false;
	for (argv++; *argv; argv++, packet.head.arguments++)
		if (!put(used, shim_word(*argv)))
			return false;
	return true;
}

static bool put_environment(size_t *used)
{
	packet.head.variables = 0;
	for (char **variable = environ; *variable; variable++, packet.head.variables++)
		if (!put(used, shim_word(*variable)))
			return false;
	return true;
}

static void put_limits(void)
{
	for (unsigned int i = 0; i < LIMITS; i++) {
		uint64_t pair[2] = { UINT64_MAX, UINT64_MAX };

		sys_prlimit(0, i, NULL, pair);
		packet.head.limits[2 * i] = pair[0];
		packet.head.limits[2 * i + 1] = pair[1];
	}
}

int shim_zygote_connect(const char *path, int patience_ms)
{
	cleanup_fd int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	const struct timeval patience = { .tv_usec = patience_ms * 1000 };
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct ucred peer = { .uid = (uid_t)-1 };
	socklen_t size = sizeof(peer);

	if (fd < 0 || strlen(path) >= sizeof(address.sun_path))
		return -1;
	strcpy(address.sun_path, path);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
		return -1;
	return peer.uid == geteuid() && peer.gid == getegid() ? wherry_steal(&fd) : -1;
}

bool shim_zygote_ask(int zygote, char **argv, int32_t score, int given, int log)
{
	union { struct cmsghdr head; char room[CMSG_SPACE(2 * sizeof(int))]; } control = { 0 };
	struct iovec part = { .iov_base = &packet };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	const int fds[] = { given, log };
	struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
	size_t used = 0;

	packet.head.magic = MAGIC;
	packet.head.umask = umask(077);
	umask((mode_t)packet.head.umask);
	packet.head.oom_score = score;
	put_limits();
	if (!put_arguments(&used, argv) || !put_environment(&used))
		return false;
	part.iov_len = sizeof(packet.head) + used;
	rights->cmsg_level = SOL_SOCKET;
	rights->cmsg_type = SCM_RIGHTS;
	rights->cmsg_len = CMSG_LEN(sizeof(fds));
	memcpy(CMSG_DATA(rights), fds, sizeof(fds));
	return sendmsg(zygote, &message, MSG_NOSIGNAL) > 0 && send(zygote, "g", 1, MSG_NOSIGNAL) == 1;
}
