/* SPDX-License-Identifier: Apache-2.0
 *
 * Between the master of a pty and two fifos. Nothing here waits: a reader that does not read stops its own terminal and nobody else's.
 */
#include "monitor.h"

#include <poll.h>
#include <sys/mman.h>

enum { OUT_SIZE = 32 << 10, IN_SIZE = 4 << 10 };

static void unblock(int fd)
{
	if (fd >= 0)
		fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

int pump_begin(struct pump *p, int master, int input, int output)
{
	void *buffer = mmap(NULL, OUT_SIZE + IN_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	*p = (struct pump){ .master = master, .input = input, .output = output, .buffer = buffer == MAP_FAILED ? NULL : buffer };
	unblock(master);
	unblock(input);
	unblock(output);
	return p->buffer ? 0 : -ENOMEM;
}

bool pump_ended(const struct pump *p)
{
	return !p->buffer || (p->master < 0 && !p->out_size);
}

void pump_end(struct pump *p)
{
	if (!p->buffer)
		return;
	munmap(p->buffer, OUT_SIZE + IN_SIZE);
	p->buffer = NULL;
	wherry_close(&p->master);
	wherry_close(&p->input);
	wherry_close(&p->output);
}

/* Items: the master, the input, the output; -1 where there is nothing to wait for. */
size_t pump_poll(const struct pump *p, struct pollfd items[3])
{
	short master = (short)((p->out_size ? 0 : POLLIN) | (p->in_size ? POLLOUT : 0));

	items[0] = (struct pollfd){ .fd = p->buffer && master ? p->master : -1, .events = master };
	items[1] = (struct pollfd){ .fd = p->buffer && !p->in_size && p->master >= 0 ? p->input : -1, .events = POLLIN };
	items[2] = (struct pollfd){ .fd = p->buffer && p->out_size ? p->output : -1, .events = POLLOUT };
	return 3;
}

/* What was read, or 0 where there is nothing now. The end and every error (EIO: the last slave is closed) close it. */
static uint32_t fill(int *from, char *buffer, size_t size)
{
	ssize_t got = TEMP_FAILURE_RETRY(read(*from, buffer, size));

	if (got > 0)
		return (uint32_t)got;
	if (got == 0 || errno != EAGAIN)
		wherry_close(from);
	return 0;
}

/* What cannot be written any more is dropped: the terminal goes on. A full disk may have room for what comes next. */
static void flush(int *to, const char *buffer, uint32_t *at, uint32_t *size)
{
	while (*size) {
		ssize_t put = *to < 0 ? (ssize_t)*size : TEMP_FAILURE_RETRY(write(*to, buffer + *at, *size));

		if (put < 0 && errno == EAGAIN)
			return;
		if (put < 0 && (errno == ENOSPC || errno == EDQUOT))
			put = (ssize_t)*size;
		if (put < 0) {
			wherry_close(to);
			continue;
		}
		*at += (uint32_t)put;
		*size -= (uint32_t)put;
	}
	*at = 0;
}

void pump_run(struct pump *p, const struct pollfd items[3])
{
	char *in = p->buffer + OUT_SIZE;

	if (items[0].revents & (POLLIN | POLLHUP | POLLERR) && !p->out_size)
		p->out_size = fill(&p->master, p->buffer, OUT_SIZE);
	if (items[1].revents && !p->in_size)
		p->in_size = fill(&p->input, in, IN_SIZE);
	if (p->out_size)
		flush(&p->output, p->buffer, &p->out_at, &p->out_size);
	if (p->in_size && p->master >= 0)
		flush(&p->master, in, &p->in_at, &p->in_size);
	if (p->master < 0)
		p->in_size = 0;
}
