/* SPDX-License-Identifier: Apache-2.0 */
#include "shim.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { PATIENCE_MS = 1000 };

ssize_t shim_read(const char *path, char *buffer, size_t room)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	size_t size = 0;
	ssize_t got = 1;

	if (fd < 0)
		return -1;
	while (got > 0 && size < room - 1) {
		got = TEMP_FAILURE_RETRY(read(fd, buffer + size, room - 1 - size));
		if (got > 0)
			size += (size_t)got;
	}
	buffer[size] = '\0';
	return got ? -1 : (ssize_t)size;
}

long shim_score(const char *path)
{
	char text[32];

	return shim_read(path, text, sizeof(text)) > 0 ? strtol(text, NULL, 10) : 0;
}

bool shim_say(struct shim_text text)
{
	return write(STDERR_FILENO, text.data, text.size) == (ssize_t)text.size;
}

/* A connection, -EAGAIN where so many wait for one that it must be tried again, another -errno where nobody listens. */
static int connect_to(const char *path)
{
	cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (fd < 0 || strlen(path) >= sizeof(address.sun_path))
		return -ENOENT;
	strcpy(address.sun_path, path);
	return connect(fd, (const struct sockaddr *)&address, sizeof(address)) ? -errno : wherry_steal(&fd);
}

bool shim_serves(const char *path)
{
	static const char request[] = "\0\0\0\x22" "\0\0\0\x01" "\x01\0" "\n\x17" "containerd.task.v2.Task" "\x12\x07" "Connect";
	cleanup_fd int fd = connect_to(path);
	struct pollfd item = { .fd = fd, .events = POLLIN };
	char answer;

	if (fd < 0)
		return fd == -EAGAIN;
	if (send(fd, request, sizeof(request) - 1, MSG_NOSIGNAL) < 0)
		return false;
	return TEMP_FAILURE_RETRY(poll(&item, 1, PATIENCE_MS)) == 0 || recv(fd, &answer, 1, 0) == 1;
}
