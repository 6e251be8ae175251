/* SPDX-License-Identifier: Apache-2.0
 *
 * `start`, as shim/wherry_shim/bootstrap_start.py does it. The directory of the sockets stays locked until the server's porter is there, so that giving
 * up half way leaves nothing that another start could have taken for a server.
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
		if (shim_serves(address->sun_path)) {
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

/* The kernel takes a server a little sooner than containerd, our parent. */
static void raise_score(void)
{
	char path[48] = "/proc/", text[32];
	cleanup_fd int fd = -1;
	long score;

	wherry_decimal((uint64_t)getppid(), path + strlen(path));
	strcat(path, "/oom_score_adj");
	score = shim_score(path);
	score = score < 999 ? score + 1 : 1000;
	fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	text[0] = '-';
	wherry_decimal((uint64_t)(score < 0 ? -score : score), text + (score < 0));
	(void)!write(fd, text, strlen(text));
}

/* The server's command line, which is the porter's, and in which it says who it is. */
static char **server_words(const struct shim_call *call, char *self)
{
	static char *words[16], texts[SHIM_TEXTS], *end = texts;
	const struct { const char *flag; struct shim_text value; } pairs[] = {
		{ "-namespace", call->namespace }, { "-id", call->id }, { "-address", call->address }, { "-publish-binary", call->binary },
	};
	size_t count = 0;

	words[count++] = self;
	for (size_t i = 0; i < WHERRY_LENGTH(pairs); i++) {
		if (!pairs[i].value.size && i == WHERRY_LENGTH(pairs) - 1)
			continue;
		if (pairs[i].value.size + 1 > sizeof(texts) - (size_t)(end - texts))
			return NULL;
		words[count++] = (char *)(uintptr_t)pairs[i].flag;
		words[count++] = end;
		if (pairs[i].value.size)
			memcpy(end, pairs[i].value.data, pairs[i].value.size);
		end += pairs[i].value.size;
		*end++ = '\0';
	}
	if (call->debug)
		words[count++] = (char *)(uintptr_t)"-debug";
	words[count] = NULL;
	return words;
}

static char **server_environment(const struct shim_call *call)
{
	static char *variables[SHIM_VARIABLES + 3], ttrpc[SHIM_PATH] = "TTRPC_ADDRESS=";
	bool arenas = false;
	size_t count = 0;

	for (char **variable = environ; *variable; variable++) {
		if (call->ttrpc.size && !strncmp(*variable, ttrpc, 14))
			continue;
		if (count == SHIM_VARIABLES)
			return NULL;
		arenas |= !strncmp(*variable, "MALLOC_ARENA_MAX=", 17);
		variables[count++] = *variable;
	}
	if (!arenas)
		variables[count++] = (char *)(uintptr_t)"MALLOC_ARENA_MAX=1"; /* of a worker that is an interpreter of its own */
	if (call->ttrpc.size) {
		if (!append(ttrpc, sizeof(ttrpc), call->ttrpc))
			return NULL;
		variables[count++] = ttrpc;
	}
	return variables;
}

/* The porter is this program once more, in a process group of its own, with nothing of ours but the socket and the bundle's log. */
static pid_t start_porter(const struct shim_call *call, char **argv, int listener, int log)
{
	static char path[SHIM_PATH];
	char **words = server_words(call, argv[0]), **variables = server_environment(call);
	volatile int error = 0;
	pid_t pid;

	if (!words || !variables || readlink("/proc/self/exe", path, sizeof(path) - 1) < 1)
		return -1;
	raise_score();
	pid = vfork();
	if (!pid) {
		const int null = open("/dev/null", O_RDWR), low = fcntl(listener, F_DUPFD_CLOEXEC, 8), said = fcntl(log, F_DUPFD_CLOEXEC, 8);

		setpgid(0, 0);
		if (dup2(null, 0) == 0 && dup2(null, 1) == 1 && dup2(said, 2) == 2 && dup2(low, 3) == 3 && !wherry_cloexec_from(4))
			execve(path, words, variables);
		error = errno;
		_exit(127);
	}
	return error ? -1 : pid;
}

static int serve(const struct shim_call *call, char **argv, const struct sockaddr_un *address)
{
	cleanup_fd int listener = bind_socket(address), log = -1;

	if (listener == -EEXIST)
		return 0;
	if (listener < 0)
		return -1;
	log = open("log", O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
	if (log < 0)
		log = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (start_porter(call, argv, listener, log) > 0)
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
	const char *park = getenv("WHERRY_SHIM_PARK");
	cleanup_fd int lock = -1;

	if (is_set("SCHED_CORE") || is_set("WHERRY_ZYGOTE") || (park && !strcmp(park, "off")) || !shim_group(&group))
		return -1;
	if (!group.size)
		group = call->id;
	if (!append(place, sizeof(place), directory) || !socket_path(call, directory, group, socket_address.sun_path))
		return -1;
	lock = open(place, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (lock < 0 || flock(lock, LOCK_EX) < 0 || serve(call, argv, &socket_address) < 0)
		return -1;
	wherry_close(&lock);
	strcat(address, socket_address.sun_path);
	if (write_address(address) && print_answer(call, address))
		return 0;
	shim_say(shim_word("containerd-shim-wherry-v2: cannot write the address\n"));
	return 1;
}
