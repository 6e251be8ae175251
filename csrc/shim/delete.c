/* SPDX-License-Identifier: Apache-2.0
 *
 * `delete` after a Delete that has done everything: a look at one file, and a DeleteResponse. Where something is left, or the socket of a server that
 * is dead, it is Python's (shim/wherry_shim/clean.py).
 */
#include "shim.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static bool path_below(char path[SHIM_PATH], struct shim_text directory, const char *name)
{
	size_t length = strlen(name);

	if (!directory.size || directory.size + length + 1 > SHIM_PATH)
		return false;
	memcpy(path, directory.data, directory.size);
	memcpy(path + directory.size, name, length + 1);
	return true;
}

static bool exists(const char *path)
{
	return !access(path, F_OK) || errno != ENOENT;
}

static uint8_t *put_number(uint8_t *out, uint8_t tag, uint64_t value)
{
	if (!value)
		return out;
	*out++ = tag;
	for (; value > 127; value >>= 7)
		*out++ = (uint8_t)(value & 127) | 128;
	*out++ = (uint8_t)value;
	return out;
}

static int print(uint64_t pid)
{
	uint8_t answer[64], *end = answer, *stamp;
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	end = put_number(end, 1 << 3, pid);
	end = put_number(end, 2 << 3, 128 + SIGKILL);
	*end++ = 3 << 3 | 2;
	stamp = end++;
	end = put_number(end, 1 << 3, (uint64_t)now.tv_sec);
	end = put_number(end, 2 << 3, (uint64_t)now.tv_nsec);
	*stamp = (uint8_t)(end - stamp - 1);
	return wherry_write_all(STDOUT_FILENO, answer, (size_t)(end - answer)) ? 1 : 0;
}

int shim_delete(const struct shim_call *call)
{
	static char path[SHIM_PATH], text[SHIM_PATH];

	if (!path_below(path, call->bundle, "/options.json") || exists(path))
		return -1;
	if (!path_below(path, call->bundle, "/address"))
		return -1;
	if (shim_read(path, text, sizeof(text)) >= 0 && (strncmp(text, "unix://", 7) || (exists(text + 7) && !shim_serves(text + 7))))
		return -1;
	if (!path_below(path, call->bundle, "/init.pid"))
		return -1;
	return print(shim_read(path, text, sizeof(text)) > 0 ? strtoul(text, NULL, 10) : 0);
}
