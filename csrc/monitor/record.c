/* SPDX-License-Identifier: Apache-2.0
 *
 * What is left of a process when it has ended: a file in the container's directory, there before the process is reaped. And the socket
 * beside it, by which another server finds us.
 */
#include "monitor.h"

#include <stdio.h> /* renameat */
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { MAX_RECORD = MAX_META + MAX_NAME + 512 };

/* "exit", or "exit-" and the exec's id. */
static const char *file_name(const struct process *p, char out[MAX_NAME + 8])
{
	memcpy(out, p->name[0] ? "exit-" : "exit", 6);
	memcpy(out + (p->name[0] ? 5 : 4), p->name, strlen(p->name) + 1);
	return out;
}

static char *append(char *at, const char *end, const char *text)
{
	return host_append(at, end, text, strlen(text));
}

static char *append_field(char *at, const char *end, const char *name, uint64_t value)
{
	char digits[24];

	at = append(at, end, name);
	wherry_decimal(value, digits);
	return append(at, end, digits);
}

int record_write(const struct monitor *m, const struct process *p, const struct ending *ending)
{
	char text[MAX_RECORD], name[MAX_NAME + 8];
	const char *end = text + sizeof(text);
	char *at = append_field(text, end, "{\"pid\":", (uint64_t)p->pid);
	int fd;

	at = append_field(at, end, ",\"status\":", (uint64_t)ending->status);
	at = append_field(at, end, ",\"signal\":", (uint64_t)ending->signal);
	at = append_field(at, end, ",\"oom\":", ending->oom);
	at = append_field(at, end, ",\"seconds\":", (uint64_t)ending->at.tv_sec);
	at = append_field(at, end, ",\"nanos\":", (uint64_t)ending->at.tv_nsec);
	at = append(at, end, ",\"process\":");
	at = append(at, end, p->meta_size ? p->meta : "{}");
	at = append(at, end, "}\n");
	if (!at)
		return -ENAMETOOLONG;
	fd = host_write_replace(m->directory, file_name(p, name), text, (size_t)(at - text), 0600);
	if (fd < 0)
		return fd;
	wherry_close(&fd);
	return 0;
}

void record_remove(const struct monitor *m, const struct process *p)
{
	char name[MAX_NAME + 8];

	if (m->directory >= 0 && p->name[0])
		unlinkat(m->directory, file_name(p, name), 0);
}

/* "oom_kill N": memory.events of v2, memory.oom_control of v1. */
uint32_t record_oom_kills(int events)
{
	static const char key[] = "oom_kill ";
	char text[512];
	ssize_t size = events < 0 ? 0 : pread(events, text, sizeof(text) - 1, 0);
	uint64_t value = 0;

	if (size <= 0)
		return 0;
	text[size] = 0;
	for (char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncmp(line, key, sizeof(key) - 1))
			host_parse_number(line + sizeof(key) - 1, &value);
		if (!*line)
			break;
	}
	return (uint32_t)value;
}

/* sun_path is short: the directory by its descriptor. */
int record_listen(const struct monitor *m)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	cleanup_fd int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	char path[32];

	if (fd < 0 || !host_join(address.sun_path, sizeof(address.sun_path), wherry_fd_path(m->directory, path), "monitor"))
		return -1;
	unlinkat(m->directory, "monitor", 0);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, MAX_CONNECTIONS) < 0)
		return -1;
	return wherry_steal(&fd);
}
