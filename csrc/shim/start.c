/* SPDX-License-Identifier: Apache-2.0
 *
 * `start` where a zygote can be asked: as shim/wherry_shim/bootstrap_start.py does it. The directory of the sockets stays locked until the server is there,
 * so that giving up half way leaves nothing that another start could have taken for a server.
 */
#include "shim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static bool append(char *out, size_t room, struct shim_text text)
{
	size_t used = strlen(out);

	if (text.size >= room - used || memchr(text.data ? text.data : "", '\0', text.size))
		return false;
	memcpy(out + used, text.data ? text.data : "", text.size);
	out[used + text.size] = '\0';
	return true;
}

/* <directory>/<SHA-256 of address/namespace/group> */
static bool socket_path(const struct shim_call *call, struct shim_text directory, struct shim_text group, char path[SHIM_SOCKET])
{
	const struct shim_text parts[] = { call->address, call->namespace, group };
	char hex[65];
	uint8_t digest[32];
	struct sha256 s;
	bool first = true;

	sha256_begin(&s);
	for (size_t i = 0; i < WHERRY_LENGTH(parts); i++) {
		if (!parts[i].size)
			continue;
		if (!first)
			sha256_add(&s, "/", 1);
		sha256_add(&s, parts[i].data, parts[i].size);
		first = false;
	}
	sha256_end(&s, digest);
	host_hex(digest, sizeof(digest), hex);
	path[0] = '\0';
	return append(path, SHIM_SOCKET, directory) && append(path, SHIM_SOCKET, shim_word("/")) && append(path, SHIM_SOCKET, shim_word(hex));
}

/* Under the directory's lock: a listening socket, -EEXIST where somebody listens there already, or another -errno. */
static int bind_socket(const struct sockaddr_un *address)
{
	cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	mode_t mask = umask(0177);
	int result;

	result = bind(fd, (const struct sockaddr *)address, sizeof(*address));
	if (result < 0 && errno == EADDRINUSE) {
		if (shim_answers(address->sun_path)) {
			umask(mask);
			return -EEXIST;
		}
		result = unlink(address->sun_path) ? -1 : bind(fd, (const struct sockaddr *)address, sizeof(*address));
	}
	umask(mask);
	if (result < 0 || listen(fd, 128) < 0)
		return -errno;
	return wherry_steal(&fd);
}

/* For containerd to 1.7, whole or not at all. */
static bool write_address(const char *address)
{
	cleanup_fd int fd = open(".address", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	return fd >= 0 && !wherry_write_all(fd, address, strlen(address)) && !rename(".address", "address");
}

static int serve(const struct shim_call *call, char **argv, const struct sockaddr_un *address, int zygote)
{
	cleanup_fd int listener = bind_socket(address), log = -1;

	if (listener == -EEXIST)
		return 0;
	if (listener < 0)
		return -1;
	log = open("log", O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
	if (log < 0)
		log = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (shim_zygote_ask(zygote, call, argv, listener, log) > 0)
		return 0;
	unlink(address->sun_path);
	return -1;
}

static bool print_answer(const struct shim_call *call, const char *address)
{
	char answer[256] = "";
	bool fits = true;

	if (call->modern)
		fits = append(answer, sizeof(answer), shim_word("{\"version\":3,\"address\":\""));
	fits = fits && append(answer, sizeof(answer), shim_word(address));
	if (call->modern)
		fits = fits && append(answer, sizeof(answer), shim_word("\",\"protocol\":\"ttrpc\"}"));
	return fits && !wherry_write_all(STDOUT_FILENO, answer, strlen(answer));
}

static bool is_set(const char *name)
{
	const char *value = getenv(name);

	return value && *value && strcmp(value, "on");
}

int shim_start(const struct shim_call *call, char **argv)
{
	struct shim_text directory = call->directory.size ? call->directory : shim_word(SHIM_DIRECTORY), group;
	struct sockaddr_un socket_address = { .sun_family = AF_UNIX };
	char address[8 + SHIM_SOCKET] = "unix://", place[SHIM_SOCKET] = "";
	cleanup_fd int zygote = -1, lock = -1;

	if (is_set("SCHED_CORE") || is_set("WHERRY_ZYGOTE") || !shim_group(&group))
		return -1;
	if (!group.size)
		group = call->id;
	if (!append(place, sizeof(place), directory) || !socket_path(call, directory, group, socket_address.sun_path))
		return -1;
	zygote = shim_zygote_connect();
	lock = open(place, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (zygote < 0 || lock < 0 || flock(lock, LOCK_EX) < 0 || serve(call, argv, &socket_address, zygote) < 0)
		return -1;
	wherry_close(&lock);
	strcat(address, socket_address.sun_path);
	if (write_address(address) && print_answer(call, address))
		return 0;
	shim_say(shim_word("containerd-shim-wherry-v2: cannot write the address\n"));
	return 1;
}
