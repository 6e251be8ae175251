/* SPDX-License-Identifier: Apache-2.0
 *
 * The annotation that says which containers share a server. The configuration is not parsed: each of the two keys is looked for as a whole string that is
 * followed by a colon and a plain string. Where it stands more than once, or its value has anything to be decoded, Python reads the configuration, and so
 * it does where another protocol than ttrpc may be asked for.
 */
#include "shim.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

static const char *skip_space(const char *at, const char *end)
{
	while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r'))
		at++;
	return at;
}

/* false = unsure */
static bool look_for(struct shim_text config, const char *key, struct shim_text *value)
{
	size_t length = strlen(key);
	const char *end = config.data + config.size, *at = memmem(config.data, config.size, key, length), *close;

	*value = (struct shim_text){ 0 };
	if (!at)
		return true;
	if (memmem(at + length, (size_t)(end - at) - length, key, length) || at == config.data || at[-1] != '"')
		return false;
	if (at - 1 == config.data || at[-2] == '\\')
		return false;
	at += length;
	if (at == end || *at != '"')
		return false;
	at = skip_space(at + 1, end);
	if (at == end || *at != ':')
		return false;
	at = skip_space(at + 1, end);
	if (at == end || *at != '"')
		return false;
	at++;
	close = memchr(at, '"', (size_t)(end - at));
	if (!close || memchr(at, '\\', (size_t)(close - at)))
		return false;
	*value = (struct shim_text){ at, (size_t)(close - at) };
	return true;
}

/* The configuration stays mapped: the group points into it. */
bool shim_group(struct shim_text *group)
{
	static const char protocol[] = "org.wherry.shim.protocol"; /* gRPC is Python's */
	cleanup_fd int fd = open("config.json", O_RDONLY | O_CLOEXEC);
	struct shim_text config;
	struct stat status;

	*group = (struct shim_text){ 0 };
	if (fd < 0 && errno == ENOENT) /* a sandbox of containerd 2: it has no configuration */
		return true;
	if (fd < 0 || fstat(fd, &status) < 0 || !S_ISREG(status.st_mode) || !status.st_size)
		return false;
	config.size = (size_t)status.st_size;
	config.data = mmap(NULL, config.size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (config.data == MAP_FAILED || memmem(config.data, config.size, protocol, strlen(protocol)) || !look_for(config, "io.containerd.runc.v2.group", group))
		return false;
	return group->size || look_for(config, "io.kubernetes.cri.sandbox-id", group);
}
