/* SPDX-License-Identifier: Apache-2.0 */
#include "shim.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

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

bool shim_say(struct shim_text text)
{
	return write(STDERR_FILENO, text.data, text.size) == (ssize_t)text.size;
}

bool shim_answers(const char *path)
{
	cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (fd < 0 || strlen(path) >= sizeof(address.sun_path))
		return false;
	strcpy(address.sun_path, path);
	return !connect(fd, (const struct sockaddr *)&address, sizeof(address)) || errno == EAGAIN;
}
