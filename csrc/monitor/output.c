/* SPDX-License-Identifier: Apache-2.0
 *
 * The writer: copies what programs write into pipes to the files where it is kept, which no container ever has in its hands. A process of its own beside the
 * monitor, so that each may be killed: the monitor holds every pipe and file too, and begins another writer; a writer goes on without its monitor.
 *
 * A byte is in the pipe or in the file, and never in our memory: splice() takes out of a pipe what has come to the file, and is done or cut short as a
 * whole when we are killed. So the next writer goes on behind the last byte.
 *
 * Whoever writes a file has it locked (flock) until its last writer has gone: who gets that lock knows that the file is whole.
 */
#include "monitor.h"

#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

enum {
	SOCKET = 3,
	ONE_TURN = 1 << 20,
	BY_HAND = 16 << 10,
	PATIENCE_TRIES = 20, /* a full disk may be made room on: a second */
	PATIENCE_MS = 50,
	LOCK_TRIES = 100, /* another run's last words: two seconds */
	LOCK_MS = 20,
};

struct stream {
	uint32_t number;
	int pipe, log;
	int error;
	uint64_t lost; /* since the last byte that was written */
};

static struct stream streams[2 * MAX_PROCESSES];
static uint32_t count;
static int nowhere = STDOUT_FILENO; /* the monitor's standard output is /dev/null */
static char texts[MAX_MESSAGE];
static struct monitor_message told = { .data = texts };

static ssize_t throw_away(const struct stream *s, size_t limit)
{
	return TEMP_FAILURE_RETRY(splice(s->pipe, NULL, nowhere, NULL, limit, SPLICE_F_NONBLOCK));
}

static ssize_t lose(struct stream *s, size_t limit)
{
	ssize_t gone = throw_away(s, limit);

	if (gone > 0)
		s->lost += (uint64_t)gone;
	return gone;
}

static char *append(char *at, const char *end, const char *text)
{
	return host_append(at, end, text, strlen(text));
}

static char *append_number(char *at, const char *end, uint64_t value)
{
	char digits[24];

	wherry_decimal(value, digits);
	return append(at, end, digits);
}

/* In the place of what is missing; whole or not at all. */
static bool note(struct stream *s, off_t *size)
{
	char text[128];
	const char *end = text + sizeof(text);
	char *at = append_number(append(text, end, "\n[wherry: "), end, s->lost);
	ssize_t put;

	at = append(at, end, " bytes of output are missing here: ");
	if (s->error == ENOSPC || s->error == EDQUOT)
		at = append(at, end, "no space was left]\n");
	else
		at = append(append_number(append(at, end, "error "), end, (uint64_t)s->error), end, "]\n");
	put = TEMP_FAILURE_RETRY(pwrite(s->log, text, (size_t)(at - text), *size));
	if (put != at - text) {
		if (put > 0)
			(void)!ftruncate(s->log, *size);
		return false;
	}
	*size += put;
	s->lost = 0;
	return true;
}

/* For a file system that cannot splice. Here alone bytes are in our hands for a moment. */
static ssize_t by_hand(struct stream *s, off_t at, size_t limit)
{
	static char buffer[BY_HAND];
	ssize_t size = TEMP_FAILURE_RETRY(read(s->pipe, buffer, limit < BY_HAND ? limit : BY_HAND)), done = 0;

	while (done < size) {
		ssize_t put = TEMP_FAILURE_RETRY(pwrite(s->log, buffer + done, (size_t)(size - done), at + done));

		if (put < 0) {
			s->error = errno;
			s->lost += (uint64_t)(size - done);
			break;
		}
		done += put;
	}
	return size;
}

static ssize_t into_file(struct stream *s, off_t at, size_t limit)
{
	loff_t to = at;
	ssize_t moved = TEMP_FAILURE_RETRY(splice(s->pipe, NULL, s->log, &to, limit, SPLICE_F_NONBLOCK));

	return moved < 0 && errno == EINVAL ? by_hand(s, at, limit) : moved;
}

/* What has come out of the pipe; 0 = its end, -1 = nothing is there (EAGAIN). A file that nobody can find any more gets nothing; one that cannot be
 * written is waited for, and then the program goes on without what it says. */
static ssize_t move(struct stream *s, size_t limit)
{
	struct stat file;

	for (int i = 0; i < PATIENCE_TRIES; i++) {
		ssize_t moved;

		if (fstat(s->log, &file) < 0 || !file.st_nlink)
			return throw_away(s, limit);
		if (s->lost && !note(s, &file.st_size))
			break;
		moved = into_file(s, file.st_size, limit);
		if (moved >= 0 || errno == EAGAIN)
			return moved;
		s->error = errno;
		host_sleep_ms(PATIENCE_MS);
	}
	return lose(s, limit);
}

static bool has_streams(uint32_t number)
{
	for (uint32_t i = 0; i < count; i++)
		if (streams[i].number == number)
			return true;
	return false;
}

static void say(int socket, uint16_t kind, uint32_t number)
{
	monitor_empty(&told, kind, number);
	if (socket >= 0)
		monitor_send(socket, &told);
}

static void end(uint32_t index)
{
	wherry_close(&streams[index].pipe);
	wherry_close(&streams[index].log);
	streams[index] = streams[--count];
}

/* Its last writer has gone. */
static void ended(int socket, uint32_t index)
{
	struct stream *s = &streams[index];
	uint32_t number = s->number;
	struct stat file;

	if (s->lost && fstat(s->log, &file) == 0)
		note(s, &file.st_size);
	end(index);
	if (!has_streams(number))
		say(socket, MONITOR_DRAINED, number);
}

/* What is in it now: no more than it holds, however fast somebody goes on writing. */
static void drain(int socket, uint32_t index)
{
	ssize_t moved = 1;
	int left = 0;

	if (ioctl(streams[index].pipe, FIONREAD, &left) < 0)
		return;
	for (; left > 0 && moved > 0; left -= (int)moved)
		moved = move(&streams[index], (size_t)left);
	if (moved == 0 || (moved < 0 && errno != EAGAIN))
		ended(socket, index);
}

static void begin(int *pipe, int *log)
{
	int file = *log;

	if (*pipe < 0 || file < 0 || count == WHERRY_LENGTH(streams))
		return;
	streams[count++] = (struct stream){ .number = told.head.process, .pipe = wherry_steal(pipe), .log = wherry_steal(log) };
	for (int i = 0; i < LOCK_TRIES && flock(file, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK; i++)
		host_sleep_ms(LOCK_MS);
}

static void obey(int socket)
{
	uint16_t kind = told.head.kind;
	uint32_t number = told.head.process;

	if (kind == MONITOR_COPY) {
		begin(&told.fd[MONITOR_FD_HOLD_OUT], &told.fd[MONITOR_FD_LOG_OUT]);
		begin(&told.fd[MONITOR_FD_HOLD_ERR], &told.fd[MONITOR_FD_LOG_ERR]);
	}
	monitor_close_fds(&told);
	for (uint32_t i = count; i-- > 0;) {
		if (streams[i].number != number)
			continue;
		if (kind == MONITOR_DRAIN)
			drain(socket, i);
		else if (kind == MONITOR_FORGET)
			end(i);
	}
	if (kind == MONITOR_DRAIN)
		say(socket, MONITOR_DRAIN, number);
}

static void hear(int *socket)
{
	int got;

	while ((got = monitor_receive(*socket, &told)) == 1)
		obey(*socket);
	if (got != -EAGAIN && got != -EPROTO)
		wherry_close(socket);
}

static void copy(int socket, const struct pollfd *items)
{
	for (uint32_t i = count; i-- > 0;) {
		ssize_t moved = items[i].revents ? move(&streams[i], ONE_TURN) : 1;

		if (moved == 0 || (moved < 0 && errno != EAGAIN))
			ended(socket, i);
	}
}

/* What the monitor says comes before what programs do: a stream that is forgotten is not touched any more. */
void output_run(int socket)
{
	static struct pollfd items[1 + WHERRY_LENGTH(streams)];

	dup2(socket, SOCKET);
	wherry_close_from(SOCKET + 1);
	prctl(PR_SET_NAME, "wherry-outputs", 0, 0, 0);
	for (socket = SOCKET; socket >= 0 || count;) {
		items[0] = (struct pollfd){ socket, POLLIN, 0 };
		for (uint32_t i = 0; i < count; i++)
			items[1 + i] = (struct pollfd){ streams[i].pipe, POLLIN, 0 };
		if (poll(items, 1 + count, -1) < 0 && errno != EINTR)
			break;
		if (items[0].revents)
			hear(&socket);
		else
			copy(socket, items + 1);
	}
	_exit(0);
}
