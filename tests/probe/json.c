// SPDX-License-Identifier: Apache-2.0
//
// JSON on stdout, without allocation.
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct {
	char bytes[8192];
	size_t used;
	char closing[32]; // brackets that are open
	bool first[32];   // nothing stands in them yet
	unsigned int depth;
} out = { .first = { true } };

static void flush(void)
{
	for (size_t done = 0; done < out.used;) {
		ssize_t count = write(STDOUT_FILENO, out.bytes + done, out.used - done);

		if (count < 0 && errno != EINTR)
			_exit(120);
		done += count < 0 ? 0 : (size_t)count;
	}
	out.used = 0;
}

static void put(char c)
{
	if (out.used == sizeof(out.bytes))
		flush();
	out.bytes[out.used++] = c;
}

static void put_text(const char *text)
{
	while (*text)
		put(*text++);
}

static void put_escaped(unsigned char c)
{
	char escape[8];

	if (c == '"' || c == '\\') {
		put('\\');
		put((char)c);
	} else if (c >= 0x20 && c < 0x7f) {
		put((char)c);
	} else {
		snprintf(escape, sizeof(escape), "\\u%s%02x", c < 0x80 ? "00" : "dc", c);
		put_text(escape);
	}
}

static void put_quoted(const char *text, size_t length)
{
	put('"');
	for (size_t i = 0; i < length; i++)
		put_escaped((unsigned char)text[i]);
	put('"');
}

static void begin(const char *name)
{
	if (!out.first[out.depth])
		put(',');
	out.first[out.depth] = false;
	if (!name)
		return;
	put_quoted(name, strlen(name));
	put(':');
}

void json_open(const char *name, char bracket)
{
	begin(name);
	put(bracket);
	out.closing[++out.depth] = bracket == '{' ? '}' : ']';
	out.first[out.depth] = true;
}

void json_close(void)
{
	put(out.closing[out.depth--]);
}

void json_bytes(const char *name, const char *value, size_t length)
{
	begin(name);
	put_quoted(value, length);
}

void json_string(const char *name, const char *value)
{
	if (value)
		json_bytes(name, value, strlen(value));
	else
		json_null(name);
}

static void json_raw(const char *name, const char *text)
{
	begin(name);
	put_text(text);
}

void json_signed(const char *name, int64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%lld", (long long)value);
	json_raw(name, text);
}

void json_unsigned(const char *name, uint64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	json_raw(name, text);
}

void json_hex(const char *name, uint64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%016llx", (unsigned long long)value);
	json_string(name, text);
}

void json_bool(const char *name, bool value)
{
	json_raw(name, value ? "true" : "false");
}

void json_null(const char *name)
{
	json_raw(name, "null");
}

void json_end(void)
{
	put('\n');
	flush();
}

// ---- errors --------------------------------------------------------------------------------------------------------------

#define NAMED(error) { error, #error }
static const struct {
	int number;
	const char *name;
} errors[] = {
	NAMED(EPERM), NAMED(ENOENT), NAMED(ESRCH), NAMED(EINTR), NAMED(EIO), NAMED(ENXIO), NAMED(E2BIG), NAMED(ENOEXEC), NAMED(EBADF), NAMED(ECHILD),
	NAMED(EAGAIN), NAMED(ENOMEM), NAMED(EACCES), NAMED(EFAULT), NAMED(EBUSY), NAMED(EEXIST), NAMED(EXDEV), NAMED(ENODEV), NAMED(ENOTDIR), NAMED(EISDIR),
	NAMED(EINVAL), NAMED(ENFILE), NAMED(EMFILE), NAMED(ENOTTY), NAMED(ETXTBSY), NAMED(EFBIG), NAMED(ENOSPC), NAMED(EROFS), NAMED(EPIPE), NAMED(ERANGE),
	NAMED(ENAMETOOLONG), NAMED(ENOSYS), NAMED(ENOTEMPTY), NAMED(ELOOP), NAMED(ENODATA), NAMED(EOVERFLOW), NAMED(EOPNOTSUPP), NAMED(EDQUOT),
};

const char *error_name(int error, char buffer[16])
{
	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
		if (errors[i].number == error)
			return errors[i].name;
	snprintf(buffer, 16, "%d", error);
	return buffer;
}

void json_error(const char *name, int error)
{
	char buffer[16];

	if (error)
		json_string(name, error_name(error, buffer));
	else
		json_signed(name, 0);
}

// ---- files ---------------------------------------------------------------------------------------------------------------

void json_lines(const char *name, const char *path)
{
	static char line[16384];
	char chunk[4096];
	size_t length = 0;
	ssize_t count;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0) {
		json_null(name);
		return;
	}
	json_open(name, '[');
	while ((count = read(fd, chunk, sizeof(chunk))) > 0) {
		for (ssize_t i = 0; i < count; i++) {
			if (chunk[i] != '\n' && length < sizeof(line)) {
				line[length++] = chunk[i];
				continue;
			}
			json_bytes(NULL, line, length);
			length = 0;
		}
	}
	if (length)
		json_bytes(NULL, line, length);
	json_close();
	close(fd);
}

void json_file(const char *name, const char *path)
{
	static char text[65536];
	size_t length = 0;
	ssize_t count;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0) {
		json_null(name);
		return;
	}
	while (length < sizeof(text) && (count = read(fd, text + length, sizeof(text) - length)) > 0)
		length += (size_t)count;
	close(fd);
	while (length && (text[length - 1] == '\n' || text[length - 1] == 0))
		length--;
	json_bytes(name, text, length);
}
