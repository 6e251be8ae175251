/* SPDX-License-Identifier: Apache-2.0
 *
 * The writer by itself: what it is told, what it copies, what it does where a file cannot be written. tests/serve/test_output.py kills it.
 */
#include "check.h"

#include "../monitor/protocol.c"
/* in this order: names of the one are variables of the other */
#include "../monitor/output.c"

#include <sys/resource.h>
#include <sys/wait.h>

static char answered[MAX_MESSAGE];
static struct monitor_message sent, answer = { .data = answered };
static char path[] = "/tmp/wherry-output-XXXXXX";
static int ends[2], log_fd, writer_socket;
static pid_t writer;

static void open_log(void)
{
	strcpy(path + sizeof(path) - 7, "XXXXXX");
	log_fd = mkstemp(path);
	CHECK(log_fd >= 0 && pipe2(ends, O_CLOEXEC) == 0);
	fcntl(ends[0], F_SETFL, O_NONBLOCK);
}

/* What is in the file, as a text. */
static const char *content(void)
{
	static char text[4096];
	ssize_t size = pread(log_fd, text, sizeof(text) - 1, 0);

	CHECK(size >= 0);
	text[size] = 0;
	return text;
}

static void tell(uint16_t kind, uint32_t number, int pipe, int log)
{
	monitor_empty(&sent, kind, number);
	sent.fd[MONITOR_FD_HOLD_OUT] = pipe;
	sent.fd[MONITOR_FD_LOG_OUT] = log;
	CHECK_EQUAL(monitor_send(writer_socket, &sent), 0);
}

static void hear_of(uint16_t kind, uint32_t number)
{
	struct pollfd item = { writer_socket, POLLIN, 0 };

	CHECK_EQUAL(poll(&item, 1, 10000), 1);
	CHECK_EQUAL(monitor_receive(writer_socket, &answer), 1);
	CHECK_EQUAL(answer.head.kind, kind);
	CHECK_EQUAL(answer.head.process, number);
}

static void start_writer(void)
{
	int pair[2], null = open("/dev/null", O_RDWR | O_CLOEXEC);

	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
	fflush(stdout);
	writer = fork();
	if (!writer) {
		dup2(null, STDOUT_FILENO);
		output_run(pair[1]);
	}
	close(pair[1]);
	close(null);
	writer_socket = pair[0];
}

static void end_writer(void)
{
	int status;

	close(writer_socket);
	CHECK_EQUAL(waitpid(writer, &status, 0), writer);
	CHECK_EQUAL(status, 0);
	close(log_fd);
	unlink(path);
}

static void a_stream(void)
{
	open_log();
	CHECK_EQUAL(pwrite(log_fd, "before\n", 7, 0), 7);
	start_writer();
	tell(MONITOR_COPY, 7, ends[0], log_fd);
	CHECK_EQUAL(write(ends[1], "one\n", 4), 4);
	tell(MONITOR_DRAIN, 7, -1, -1);
	hear_of(MONITOR_DRAIN, 7);
	CHECK_TEXT(content(), "before\none\n");
	tell(MONITOR_DRAIN, 8, -1, -1); /* nobody knows it, and somebody waits */
	hear_of(MONITOR_DRAIN, 8);
	CHECK_EQUAL(write(ends[1], "two\n", 4), 4);
	close(ends[1]);
	hear_of(MONITOR_DRAINED, 7);
	CHECK_TEXT(content(), "before\none\ntwo\n");
	close(ends[0]);
	end_writer();
}

/* One is killed where it stands, with as much in the pipe as goes in; the next one goes on behind its last byte. */
static void another_writer(void)
{
	enum { ROUNDS = 20, LINE = 8 };
	char line[32];
	uint32_t number = 0;
	struct stat file;

	open_log();
	for (int round = 0; round < ROUNDS; round++) {
		start_writer();
		tell(MONITOR_COPY, 1, ends[0], log_fd);
		for (int i = 0; i < 2000; i++) {
			snprintf(line, sizeof(line), "%07u\n", number++);
			CHECK_EQUAL(write(ends[1], line, LINE), LINE);
		}
		kill(writer, SIGKILL);
		waitpid(writer, NULL, 0);
		close(writer_socket);
	}
	start_writer();
	tell(MONITOR_COPY, 1, ends[0], log_fd);
	close(ends[1]);
	hear_of(MONITOR_DRAINED, 1);
	CHECK(fstat(log_fd, &file) == 0);
	CHECK_EQUAL(file.st_size, number * LINE);
	for (uint32_t i = 0; i < number; i++)
		CHECK(pread(log_fd, line, LINE, i * LINE) == LINE && strtoul(line, NULL, 10) == i);
	close(ends[0]);
	end_writer();
}

static void one_that_is_forgotten(void)
{
	open_log();
	start_writer();
	tell(MONITOR_COPY, 1, ends[0], log_fd);
	tell(MONITOR_FORGET, 1, -1, -1);
	tell(MONITOR_DRAIN, 1, -1, -1);
	hear_of(MONITOR_DRAIN, 1);
	CHECK_EQUAL(write(ends[1], "still here", 10), 10);
	CHECK_EQUAL(monitor_receive(writer_socket, &answer), -EAGAIN);
	CHECK_TEXT(content(), "");
	close(ends[0]);
	close(ends[1]);
	end_writer();
}

/* Without its monitor it goes on to the end. */
static void without_a_monitor(void)
{
	open_log();
	start_writer();
	tell(MONITOR_COPY, 1, ends[0], log_fd);
	close(writer_socket);
	CHECK_EQUAL(write(ends[1], "late\n", 5), 5);
	close(ends[1]);
	CHECK_EQUAL(waitpid(writer, NULL, 0), writer);
	CHECK_TEXT(content(), "late\n");
	close(ends[0]);
	close(log_fd);
	unlink(path);
}

static struct stream stream_of(void)
{
	nowhere = open("/dev/null", O_RDWR | O_CLOEXEC);
	return (struct stream){ .number = 1, .pipe = ends[0], .log = log_fd };
}

static void close_all(void)
{
	close(nowhere);
	close(ends[0]);
	close(ends[1]);
	close(log_fd);
	unlink(path);
}

/* A limit of the file's size stands for a disk that is full. */
static void a_full_disk(void)
{
	struct rlimit saved, limit;
	struct stream s;

	open_log();
	s = stream_of();
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &saved);
	limit = (struct rlimit){ 10, saved.rlim_max };
	CHECK_EQUAL(write(ends[1], "0123456789abcdef", 16), 16);
	setrlimit(RLIMIT_FSIZE, &limit);
	CHECK_EQUAL(move(&s, 100), 10);
	CHECK_EQUAL(move(&s, 100), 6);
	CHECK_EQUAL(s.lost, 6);
	CHECK_EQUAL(write(ends[1], "more", 4), 4);
	CHECK_EQUAL(move(&s, 100), 4); /* at once */
	CHECK_EQUAL(s.lost, 10);
	CHECK_TEXT(content(), "0123456789");
	limit.rlim_cur = 20; /* too little for the note */
	setrlimit(RLIMIT_FSIZE, &limit);
	CHECK_EQUAL(write(ends[1], "even", 4), 4);
	CHECK_EQUAL(move(&s, 100), 4);
	CHECK_TEXT(content(), "0123456789");
	setrlimit(RLIMIT_FSIZE, &saved);
	CHECK_EQUAL(write(ends[1], "again\n", 6), 6);
	CHECK_EQUAL(move(&s, 100), 6);
	CHECK_TEXT(content(), "0123456789\n[wherry: 14 bytes of output are missing here: error 27]\nagain\n");
	close_all();
}

static void a_file_that_is_gone(void)
{
	struct stream s;
	struct stat file;

	open_log();
	s = stream_of();
	unlink(path);
	CHECK_EQUAL(write(ends[1], "text", 4), 4);
	CHECK_EQUAL(move(&s, 100), 4);
	CHECK(fstat(log_fd, &file) == 0 && file.st_size == 0);
	CHECK(move(&s, 100) == -1 && errno == EAGAIN);
	close_all();
}

/* splice() refuses a file that is appended to. */
static void by_hand_then(void)
{
	struct stream s;

	open_log();
	s = stream_of();
	fcntl(log_fd, F_SETFL, O_APPEND);
	CHECK_EQUAL(write(ends[1], "one\ntwo\n", 8), 8);
	CHECK_EQUAL(move(&s, 4), 4);
	CHECK_EQUAL(move(&s, 100), 4);
	CHECK(move(&s, 100) == -1 && errno == EAGAIN);
	CHECK_TEXT(content(), "one\ntwo\n");
	close_all();
}

static const struct check_case cases[] = {
	{ "a stream", a_stream },
	{ "another writer", another_writer },
	{ "one that is forgotten", one_that_is_forgotten },
	{ "without a monitor", without_a_monitor },
	{ "a full disk", a_full_disk },
	{ "a file that is gone", a_file_that_is_gone },
	{ "by hand", by_hand_then },
};

CHECK_MAIN(cases)
