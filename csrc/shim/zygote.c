/* SPDX-License-Identifier: Apache-2.0
 *
 * One request to the zygote (shim/wherry_shim/zygote.py): a packet with header, limits, arguments and environment, and two descriptors. It
 * answers with the server's pid; our last word lets the server begin. No answer in time, and we hang up: then there is no server.
 */
#include "shim.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>

enum { MAGIC = 0x575a0001, LIMITS = 16 };

struct header { uint32_t magic, umask; int32_t oom_score; uint32_t arguments, variables; uint64_t limits[2 * LIMITS]; } __attribute__((packed));

static struct { struct header head; char texts[SHIM_PACKET - sizeof(struct header)]; } __attribute__((packed)) packet;

static bool put(size_t *used, const char *prefix, struct shim_text text)
{
	size_t before = strlen(prefix);

	if (before + text.size + 1 > sizeof(packet.texts) - *used)
		return false;
	memcpy(packet.texts + *used, prefix, before);
	memcpy(packet.texts + *used + before, text.data, text.size);
	packet.texts[*used + before + text.size] = '\0';
	*used += before + text.size + 1;
	return true;
}

static bool put_arguments(size_t *used, const struct shim_call *call, const char *self)
{
	const struct { const char *flag; struct shim_text value; } pairs[] = {
		{ "-namespace", call->namespace }, { "-id", call->id }, { "-address", call->address }, { "-publish-binary", call->binary },
	};

	packet.head.arguments = 1;
	if (!put(used, "", shim_word(self)))
		return false;
	for (size_t i = 0; i < WHERRY_LENGTH(pairs); i++) {
		if (!pairs[i].value.size && i == WHERRY_LENGTH(pairs) - 1)
			continue;
		if (!put(used, "", shim_word(pairs[i].flag)) || !put(used, "", pairs[i].value))
			return false;
		packet.head.arguments += 2;
	}
	packet.head.arguments += call->debug;
	return !call->debug || put(used, "", shim_word("-debug"));
}

static bool put_environment(size_t *used, const struct shim_call *call)
{
	bool arenas = false;

	for (char **variable = environ; *variable; variable++) {
		if (call->ttrpc.size && !strncmp(*variable, "TTRPC_ADDRESS=", 14))
			continue;
		arenas |= !strncmp(*variable, "MALLOC_ARENA_MAX=", 17);
		if (!put(used, "", shim_word(*variable)))
			return false;
		packet.head.variables++;
	}
	packet.head.variables += !arenas + !!call->ttrpc.size;
	return (arenas || put(used, "", shim_word("MALLOC_ARENA_MAX=1"))) && (!call->ttrpc.size || put(used, "TTRPC_ADDRESS=", call->ttrpc));
}

/* The kernel takes a server a little sooner than containerd, our parent. */
static int32_t oom_score(void)
{
	char path[48] = "/proc/", text[32];
	long score;

	wherry_decimal((uint64_t)getppid(), path + strlen(path));
	strcat(path, "/oom_score_adj");
	score = shim_read(path, text, sizeof(text)) > 0 ? strtol(text, NULL, 10) : 0;
	return score < 999 ? (int32_t)score + 1 : 1000;
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

int shim_zygote_connect(void)
{
	cleanup_fd int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct timeval patience = { .tv_usec = SHIM_PATIENCE_MS * 1000 };
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct ucred peer = { .uid = (uid_t)-1 };
	socklen_t size = sizeof(peer);

	if (fd < 0 || !shim_zygote_path(address.sun_path))
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
		return -1;
	return peer.uid == geteuid() && peer.gid == getegid() ? wherry_steal(&fd) : -1;
}

pid_t shim_zygote_ask(int zygote, const struct shim_call *call, char **argv, int listener, int log)
{
	union { struct cmsghdr head; char room[CMSG_SPACE(2 * sizeof(int))]; } control = { 0 };
	struct iovec part = { .iov_base = &packet };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	const int fds[] = { listener, log };
	struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
	uint32_t pid = 0;
	size_t used = 0;

	packet.head.magic = MAGIC;
	packet.head.umask = umask(077);
	umask((mode_t)packet.head.umask);
	packet.head.oom_score = oom_score();
	put_limits();
	if (!put_arguments(&used, call, argv[0]) || !put_environment(&used, call))
		return -1;
	part.iov_len = sizeof(packet.head) + used;
	rights->cmsg_level = SOL_SOCKET;
	rights->cmsg_type = SCM_RIGHTS;
	rights->cmsg_len = CMSG_LEN(sizeof(fds));
	memcpy(CMSG_DATA(rights), fds, sizeof(fds));
	if (sendmsg(zygote, &message, MSG_NOSIGNAL) < 0 || recv(zygote, &pid, sizeof(pid), 0) != sizeof(pid) || !pid)
		return -1;
	return send(zygote, "g", 1, MSG_NOSIGNAL) == 1 ? (pid_t)pid : -1;
}
