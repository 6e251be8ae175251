/* SPDX-License-Identifier: Apache-2.0
 *
 * All that a forked server inherits from its zygote and cannot change, as text: shim/wherry_shim/zygote.py, world(), writes the same. Its hash
 * names the zygote's socket.
 */
#include "shim.h"

#include <string.h>

static void add(struct sha256 *s, const char *text)
{
	sha256_add(s, text, strlen(text));
}

static void add_namespaces(struct sha256 *s)
{
	static const char *const names[] = { "mnt", "pid", "user", "net", "ipc", "uts", "cgroup" };

	for (size_t i = 0; i < WHERRY_LENGTH(names); i++) {
		char path[32] = "/proc/self/ns/", target[64];
		ssize_t length;

		strcat(path, names[i]);
		length = readlink(path, target, sizeof(target));
		if (length < 0)
			add(s, "-");
		else
			sha256_add(s, target, (size_t)length);
		add(s, "\n");
	}
}

/* The lines of our credentials. */
static bool add_status(struct sha256 *s, char *buffer, size_t room)
{
	static const char *const wanted[] = { "Uid:", "Gid:", "Groups:", "CapPrm:", "CapEff:", "CapBnd:", "NoNewPrivs:", "Seccomp:" };

	if (shim_read("/proc/self/status", buffer, room) < 0)
		return false;
	for (char *line = buffer, *end; (end = strchr(line, '\n')); line = end + 1)
		for (size_t i = 0; i < WHERRY_LENGTH(wanted); i++)
			if (!strncmp(line, wanted[i], strlen(wanted[i])))
				sha256_add(s, line, (size_t)(end + 1 - line));
	return true;
}

/* Where we are installed: two installations of one build do not share an interpreter. */
static bool add_directory(struct sha256 *s, char *buffer, size_t room)
{
	ssize_t length = readlink("/proc/self/exe", buffer, room);

	while (length > 0 && buffer[length - 1] != '/')
		length--;
	if (length < 1)
		return false;
	sha256_add(s, buffer, (size_t)length - 1);
	add(s, "\n");
	return true;
}

bool shim_zygote_path(char path[SHIM_SOCKET])
{
	static const char prefix[] = SHIM_DIRECTORY "/zygote-";
	static char buffer[16 << 10];
	char build[2 * WHERRY_BUILD_ID_SIZE + 2];
	uint8_t digest[32];
	struct sha256 s;

	sha256_begin(&s);
	host_hex(wherry_build_id, WHERRY_BUILD_ID_SIZE, build);
	add(&s, build);
	add(&s, "\n");
	if (!add_directory(&s, buffer, sizeof(buffer)))
		return false;
	add_namespaces(&s);
	if (!add_status(&s, buffer, sizeof(buffer)) || shim_read("/proc/self/cgroup", buffer, sizeof(buffer)) < 0)
		return false;
	add(&s, buffer);
	if (shim_read("/proc/self/attr/current", buffer, sizeof(buffer)) > 0)
		add(&s, buffer);
	sha256_end(&s, digest);
	memcpy(path, prefix, sizeof(prefix));
	host_hex(digest, 16, path + sizeof(prefix) - 1);
	return true;
}
