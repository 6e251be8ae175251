/* SPDX-License-Identifier: Apache-2.0
 *
 * What the shim's front makes: a socket and its name, a porter's command line and environment, the zygote's packet, a worker; and the answers to
 * `start` and `delete`. Most of it is limits: texts come from containerd's command line and from its standard input.
 */
#include "check.h"

#include "../shim/arguments.c"
#include "../shim/control.c"
#include "../shim/delete.c"
#include "../shim/files.c"
#include "../shim/group.c"
#include "../shim/start.c"
#include "../shim/world.c"
#include "../shim/worker.c"
#include "../shim/zygote.c"

#include <sys/wait.h>

static char place[64];
static struct shim_call call;

static void make_place(void)
{
	strcpy(place, "/tmp/wherry-test-XXXXXX");
	CHECK(mkdtemp(place) && chdir(place) == 0);
}

static void remove_place(void)
{
	static const char *const names[] = { "address", "log", "socket", "script", "init.pid", "options.json" };

	for (size_t i = 0; i < WHERRY_LENGTH(names); i++)
		unlink(names[i]);
	CHECK(chdir("/") == 0 && rmdir(place) == 0);
}

static void write_text(const char *name, const char *text, mode_t mode)
{
	cleanup_fd int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);

	CHECK(fd >= 0 && wherry_write_all(fd, text, strlen(text)) == 0);
}

/* What is made once in the life of the program is made in a child. */
static void in_child(void (*function)(void))
{
	int status = -1;
	pid_t pid = fork();

	if (!pid) {
		check_failures = 0;
		function();
		check_exit();
	}
	CHECK_EQUAL(waitpid(pid, &status, 0), pid);
	CHECK_EQUAL(status, 0);
}

/* `size` times x. */
static struct shim_text long_text(size_t size)
{
	static char text[2 * SHIM_PACKET];

	memset(text, 'x', sizeof(text));
	return (struct shim_text){ text, size };
}

/* ---- names and words */

static void appending(void)
{
	char out[8] = "";

	CHECK(append(out, sizeof(out), shim_word("abc")));
	CHECK(append(out, sizeof(out), (struct shim_text){ 0 }));
	CHECK(!append(out, sizeof(out), shim_word("defgh"))); /* with its NUL one too many */
	CHECK_TEXT(out, "abc");
	CHECK(append(out, sizeof(out), shim_word("defg")));
	CHECK_TEXT(out, "abcdefg");
	CHECK(!append(out, sizeof(out), shim_word("h")));
	out[0] = '\0';
	CHECK(!append(out, sizeof(out), (struct shim_text){ "a\0b", 3 })); /* another path than was said */
	CHECK_TEXT(out, "");
}

static void socket_paths(void)
{
	char path[SHIM_SOCKET];

	call = (struct shim_call){ .namespace = shim_word("default"), .address = shim_word("/run/containerd/containerd.sock") };
	CHECK(socket_path(&call, shim_word("/run/containerd/s"), shim_word("pod"), path));
	/* printf %s /run/containerd/containerd.sock/default/pod | sha256sum */
	CHECK_TEXT(path, "/run/containerd/s/" "8141104d8ebc9c2b18f3a613667e2e27712f88b4c7184495d51f8370e92a39f5");
	CHECK(socket_path(&call, long_text(SHIM_SOCKET - 66), shim_word("pod"), path));
	CHECK_EQUAL(strlen(path), SHIM_SOCKET - 1);
	CHECK(!socket_path(&call, long_text(SHIM_SOCKET - 65), shim_word("pod"), path));
	CHECK(!socket_path(&call, long_text(SHIM_PACKET), shim_word("pod"), path));
	call.address = (struct shim_text){ 0 }; /* printf %s default/pod */
	CHECK(socket_path(&call, shim_word("s"), shim_word("pod"), path));
	CHECK_TEXT(path, "s/9cb5b70ac1d0128502c500f3f1df564bc5b73e0bfa3ba841aec56015e49bc552");
}

static char self_word[] = "self";

static void all_words(void)
{
	char **words;

	call = (struct shim_call){ .namespace = shim_word("n"), .id = shim_word("one"), .binary = shim_word("/bin/c"), .debug = true };
	words = server_words(&call, self_word);
	CHECK(words && words[0] == self_word);
	CHECK_TEXT(words[1], "-namespace");
	CHECK_TEXT(words[2], "n");
	CHECK_TEXT(words[3], "-id");
	CHECK_TEXT(words[4], "one");
	CHECK_TEXT(words[5], "-address");
	CHECK_TEXT(words[6], ""); /* none, and still a word of it */
	CHECK_TEXT(words[7], "-publish-binary");
	CHECK_TEXT(words[8], "/bin/c");
	CHECK_TEXT(words[9], "-debug");
	CHECK(!words[10]);
}

static void few_words(void)
{
	char **words;

	call = (struct shim_call){ .namespace = shim_word("n"), .id = shim_word("one"), .address = shim_word("/a") };
	words = server_words(&call, self_word);
	CHECK(words && !strcmp(words[6], "/a") && !words[7]);
}

static size_t words_room; /* of the address */

static void long_words(void)
{
	call = (struct shim_call){ .namespace = shim_word("n"), .id = shim_word("one"), .address = long_text(words_room) };
	CHECK(!server_words(&call, self_word) == (words_room > SHIM_TEXTS - sizeof("n") - sizeof("one") - 1));
}

static void a_long_binary(void)
{
	call = (struct shim_call){ .namespace = shim_word("n"), .id = shim_word("one"), .binary = long_text(SHIM_TEXTS) };
	CHECK(!server_words(&call, self_word));
}

static void command_lines(void)
{
	in_child(all_words);
	in_child(few_words);
	for (words_room = SHIM_TEXTS - 10; words_room < SHIM_TEXTS + 3; words_room++)
		in_child(long_words);
	in_child(a_long_binary);
}

static char one_variable[] = "ONE=1", old_ttrpc[] = "TTRPC_ADDRESS=/old", other_ttrpc[] = "TTRPC_ADDRESSES=x", arenas[] = "MALLOC_ARENA_MAX=4";

static void a_few_variables(void)
{
	static char *few[] = { one_variable, old_ttrpc, NULL };
	char **variables;

	call = (struct shim_call){ 0 };
	environ = few;
	variables = server_environment(&call);
	CHECK(variables && variables[0] == one_variable && variables[1] == old_ttrpc && !strcmp(variables[2], "MALLOC_ARENA_MAX=1") && !variables[3]);
}

static void arenas_as_wanted(void)
{
	static char *own[] = { arenas, one_variable, NULL };
	char **variables;

	call = (struct shim_call){ 0 };
	environ = own;
	variables = server_environment(&call);
	CHECK(variables && variables[0] == arenas && variables[1] == one_variable && !variables[2]);
}

static void many_variables(void)
{
	static char *many[SHIM_VARIABLES + 2];
	char **variables;

	call = (struct shim_call){ .ttrpc = shim_word("/new") };
	for (size_t i = 0; i < SHIM_VARIABLES; i++)
		many[i] = one_variable;
	environ = many;
	variables = server_environment(&call);
	CHECK(variables && variables[SHIM_VARIABLES - 1] == one_variable && variables[SHIM_VARIABLES + 1] && !variables[SHIM_VARIABLES + 2]);
	many[SHIM_VARIABLES] = one_variable;
	CHECK(!server_environment(&call));
}

static void a_new_ttrpc(void)
{
	static char *few[] = { old_ttrpc, one_variable, other_ttrpc, NULL };
	char **variables;

	call = (struct shim_call){ .ttrpc = shim_word("/new") };
	environ = few;
	variables = server_environment(&call);
	CHECK(variables && variables[0] == one_variable && variables[1] == other_ttrpc && variables[3] && !variables[4]);
	CHECK_TEXT(variables[3], "TTRPC_ADDRESS=/new");
}

static void a_long_ttrpc(void)
{
	static char *none[] = { NULL };

	environ = none;
	call = (struct shim_call){ .ttrpc = long_text(SHIM_PATH - strlen("TTRPC_ADDRESS=")) }; /* with its NUL one too many */
	CHECK(!server_environment(&call));
	call.ttrpc.size--;
	CHECK(server_environment(&call));
}

static void environments(void)
{
	in_child(a_few_variables);
	in_child(arenas_as_wanted);
	in_child(many_variables);
	in_child(a_new_ttrpc);
	in_child(a_long_ttrpc);
}

/* ---- answers */

/* What `function` writes to stdout, in a child; its result is the exit status. */
static int said_by(int (*function)(void), char *out, size_t room)
{
	int line[2], status = -1;
	ssize_t size;
	pid_t pid;

	CHECK(pipe2(line, O_CLOEXEC) == 0);
	pid = fork();
	if (!pid) {
		dup2(line[1], STDOUT_FILENO);
		_exit(function());
	}
	close(line[1]);
	size = read(line[0], out, room - 1);
	out[size > 0 ? size : 0] = '\0';
	close(line[0]);
	CHECK_EQUAL(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -status;
}

static char longest[8 + SHIM_SOCKET] = "unix://";

static int answer_old(void)
{
	call = (struct shim_call){ 0 };
	return print_answer(&call, longest);
}

static int answer_new(void)
{
	call = (struct shim_call){ .modern = true };
	return print_answer(&call, longest);
}

static void answers(void)
{
	char text[512], wanted[512];

	memset(longest + 7, 'x', SHIM_SOCKET - 1);
	CHECK_EQUAL(said_by(answer_old, text, sizeof(text)), 1);
	CHECK_TEXT(text, longest);
	CHECK_EQUAL(said_by(answer_new, text, sizeof(text)), 1);
	snprintf(wanted, sizeof(wanted), "{\"version\":3,\"address\":\"%s\",\"protocol\":\"ttrpc\"}", longest);
	CHECK_TEXT(text, wanted);
	make_place();
	CHECK(write_address(longest));
	CHECK_EQUAL(shim_read("address", text, sizeof(text)), strlen(longest));
	CHECK_TEXT(text, longest);
	CHECK(access(".address", F_OK) < 0);
	remove_place();
	CHECK(chdir("/proc") == 0 && !write_address(longest)); /* nothing can be made there */
	CHECK(chdir("/") == 0);
}

static int delete_here(void)
{
	call = (struct shim_call){ .bundle = shim_word(place) };
	return shim_delete(&call) & 255;
}

static void deletes(void)
{
	char text[128];
	struct shim_text far = long_text(SHIM_PATH - 12);

	make_place();
	CHECK_EQUAL(said_by(delete_here, text, sizeof(text)), 0);
	CHECK(!memcmp(text, "\x10\x89\x01\x1a", 4)); /* no pid, 128 + SIGKILL, and when */
	write_text("init.pid", "300", 0600);
	CHECK_EQUAL(said_by(delete_here, text, sizeof(text)), 0);
	CHECK(!memcmp(text, "\x08\xac\x02\x10\x89\x01\x1a", 7));
	write_text("init.pid", "99999999999999999999", 0600); /* as large as it gets */
	CHECK_EQUAL(said_by(delete_here, text, sizeof(text)), 0);
	CHECK(!memcmp(text, "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x10\x89\x01\x1a", 15));
	write_text("address", "unix:///nowhere/at/all", 0600);
	CHECK_EQUAL(said_by(delete_here, text, sizeof(text)), 0);
	write_text("address", "tcp://1.2.3.4", 0600);
	CHECK_EQUAL(said_by(delete_here, text, sizeof(text)), 255); /* Python's */
	write_text("socket", "", 0600);
	snprintf(text, sizeof(text), "unix://%s/socket", place);
	write_text("address", text, 0600);
	CHECK_EQUAL(said_by(delete_here, text, sizeof(text)), 255); /* of a server that is dead */
	unlink("address");
	write_text("options.json", "{}", 0600);
	CHECK_EQUAL(said_by(delete_here, text, sizeof(text)), 255);
	remove_place();
	call = (struct shim_call){ 0 };
	CHECK_EQUAL(shim_delete(&call), -1);
	call.bundle = shim_word("/dev/null");
	CHECK_EQUAL(shim_delete(&call), -1); /* what cannot be seen may be there */
	for (size_t length = 0; length < 9; length++, far.size++) {
		char *path = malloc(SHIM_PATH);

		CHECK_EQUAL(path_below(path, far, "/options"), far.size + 8 < SHIM_PATH);
		if (far.size + 8 < SHIM_PATH)
			CHECK_EQUAL(strlen(path), far.size + 8);
		free(path);
	}
}

/* ---- the socket */

static void sockets(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct stat status;
	int fd, other;
	pid_t pid;

	make_place();
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/socket", place);
	fd = bind_socket(&address);
	CHECK(fd >= 0 && stat("socket", &status) == 0 && (status.st_mode & 07777) == 0600);
	CHECK_EQUAL(umask(022), 022);
	close(fd); /* left behind, and nobody listens */
	fd = bind_socket(&address);
	CHECK(fd >= 0);
	pid = fork();
	if (!pid) {
		int peer = accept(fd, NULL, NULL);

		_exit(send(peer, "x", 1, MSG_NOSIGNAL) != 1);
	}
	other = bind_socket(&address); /* somebody answers: it stays theirs */
	CHECK_EQUAL(other, -EEXIST);
	CHECK_EQUAL(umask(022), 022);
	CHECK_EQUAL(waitpid(pid, NULL, 0), pid);
	close(fd);
	unlink("socket");
	strcpy(address.sun_path, "/proc/socket");
	CHECK(bind_socket(&address) < 0);
	CHECK_EQUAL(umask(022), 022);
	remove_place();
}

/* ---- the zygote */

static void zygote_paths(void)
{
	char one[SHIM_SOCKET], two[SHIM_SOCKET];

	memset(one, 'x', sizeof(one));
	CHECK(shim_zygote_path(one) && shim_zygote_path(two));
	CHECK_TEXT(one, two);
	CHECK(!strncmp(one, SHIM_DIRECTORY "/zygote-", strlen(SHIM_DIRECTORY "/zygote-")) && strlen(one) == strlen(SHIM_DIRECTORY "/zygote-") + 32);
}

static void requests(void)
{
	static char self[] = "shim", id[] = "-id", pod[] = "pod", *argv[] = { self, id, pod, NULL };
	static char variable[] = "A=b", *few[] = { variable, NULL };
	static struct { struct header head; char texts[SHIM_PACKET]; } __attribute__((packed)) got;
	union { struct cmsghdr head; char room[CMSG_SPACE(4 * sizeof(int))]; } control;
	struct iovec part = { &got, sizeof(got) };
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	char **before = environ, word;
	int pair[2], fds[2];
	mode_t mask = umask(027);

	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
	environ = few;
	for (int round = 0; round < 2; round++) { /* the second one finds the first one's texts in the packet */
		CHECK(shim_zygote_ask(pair[0], argv, -998, STDIN_FILENO, STDERR_FILENO));
		header.msg_controllen = sizeof(control);
		CHECK_EQUAL(recvmsg(pair[1], &header, MSG_CMSG_CLOEXEC), sizeof(got.head) + sizeof("shim-worker\0-id\0pod\0A=b"));
		CHECK(got.head.magic == MAGIC && got.head.oom_score == -998 && got.head.arguments == 3 && got.head.variables == 1);
		CHECK_EQUAL(got.head.umask, 027);
		CHECK(!memcmp(got.texts, "shim-worker\0-id\0pod\0A=b", sizeof("shim-worker\0-id\0pod\0A=b")));
		CHECK_EQUAL(control.head.cmsg_len, CMSG_LEN(sizeof(fds)));
		memcpy(fds, CMSG_DATA(&control.head), sizeof(fds));
		close(fds[0]);
		close(fds[1]);
		CHECK(recv(pair[1], &word, 1, 0) == 1 && word == 'g');
	}
	environ = before;
	CHECK_EQUAL(umask(mask), 027);
	close(pair[1]);
	CHECK(!shim_zygote_ask(pair[0], argv, 0, STDIN_FILENO, STDERR_FILENO));
	close(pair[0]);
}

/* Texts to the last byte of the packet, and one more. */
static void big_requests(void)
{
	static char self[] = "shim", big[SHIM_PACKET], *argv[] = { self, big, NULL }, *none[] = { NULL }, *one[] = { big, NULL };
	const size_t room = sizeof(packet.texts) - sizeof("shim-worker");
	char **before = environ;
	int pair[2];

	environ = none;
	memset(big, 'x', sizeof(big) - 1);
	for (int more = -1; more < 3; more++) {
		CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
		big[room - 1 + (size_t)more] = '\0';
		CHECK_EQUAL(shim_zygote_ask(pair[0], argv, 0, STDIN_FILENO, STDERR_FILENO), more <= 0);
		environ = one;
		CHECK(!shim_zygote_ask(pair[0], argv, 0, STDIN_FILENO, STDERR_FILENO));
		environ = none;
		big[room - 1 + (size_t)more] = 'x';
		close(pair[0]);
		close(pair[1]);
	}
	argv[0] = big;
	CHECK(!shim_zygote_ask(-1, argv, 0, STDIN_FILENO, STDERR_FILENO));
	environ = before;
}

static void connections(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char far[SHIM_PATH];
	int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), fd, status = -1;
	pid_t pid;

	make_place();
	CHECK_EQUAL(shim_zygote_connect("nowhere", 100), -1);
	memset(far, 'x', sizeof(far));
	far[sizeof(address.sun_path)] = '\0';
	CHECK_EQUAL(shim_zygote_connect(far, 100), -1);
	strcpy(address.sun_path, "socket");
	CHECK(bind(listener, (struct sockaddr *)&address, sizeof(address)) == 0 && listen(listener, 4) == 0);
	fd = shim_zygote_connect("socket", 100);
	CHECK(fd >= 0 && fcntl(fd, F_GETFD) & FD_CLOEXEC);
	close(fd);
	close(listener);
	if (!getuid()) { /* a zygote of somebody else's: the one who listens is who counts */
		unlink("socket");
		chmod(place, 0777);
		for (int kind = 0; kind < 2; kind++) {
			int line[2];
			char byte;

			CHECK(pipe2(line, O_CLOEXEC) == 0);
			pid = fork();
			if (!pid) {
				listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
				if (kind ? sys_setresgid(65534, 65534, 65534) : sys_setresuid(65534, 65534, 65534))
					_exit(1);
				if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 4) || write(line[1], "x", 1) != 1)
					_exit(1);
				accept(listener, NULL, NULL);
				_exit(0);
			}
			close(line[1]);
			CHECK_EQUAL(read(line[0], &byte, 1), 1);
			close(line[0]);
			CHECK_EQUAL(shim_zygote_connect("socket", 100), -1);
			CHECK_EQUAL(waitpid(pid, &status, 0), pid);
			CHECK_EQUAL(status, 0);
			unlink("socket");
		}
	}
	remove_place();
}

/* ---- workers */

static struct porter porter;

static bool first_line(const char *text, char *line, size_t room)
{
	write_text("script", text, 0600);
	snprintf(porter.script, sizeof(porter.script), "%s/script", place);
	return interpreter(&porter, line, room);
}

static void interpreters(void)
{
	char line[32];

	make_place();
	snprintf(porter.script, sizeof(porter.script), "%s/nowhere", place);
	CHECK(!interpreter(&porter, line, sizeof(line)));
	CHECK(first_line("#!/usr/bin/python3\nimport sys\n", line, sizeof(line)));
	CHECK_TEXT(line, "#!/usr/bin/python3");
	CHECK(first_line("#!/a\n", line, sizeof(line)));
	CHECK(!first_line("", line, sizeof(line)));
	CHECK(!first_line("#!", line, sizeof(line)));
	CHECK(!first_line("#!/a", line, sizeof(line)));
	CHECK(!first_line("#!python\n", line, sizeof(line)));
	CHECK(!first_line("\x7f" "ELF\n", line, sizeof(line)));
	CHECK(!first_line("#!/usr/bin/env python3\n", line, sizeof(line))); /* with an argument: the kernel knows how */
	CHECK(!first_line("#!/a/very/long/path/to/an/interp\n", line, sizeof(line)));
	CHECK(first_line("#!/a/very/long/path/to/an/inte\n", line, sizeof(line)));
	remove_place();
}

static int open_count(void)
{
	int count = 0;

	for (int fd = 0; fd < 256; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

static bool hears(int kind, int oldest, int newest, size_t size, bool descriptor)
{
	struct { struct porter_head head; char text[2 * SHIM_SOCKET]; } __attribute__((packed)) bytes;
	union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } control = { .room = { 0 } };
	struct iovec part = { &bytes, sizeof(bytes.head) + size };
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1 };
	int pair[2], count = open_count();
	bool result;

	bytes.head = (struct porter_head){ PORTER_MAGIC, (uint32_t)kind, oldest, newest, -1 };
	memset(bytes.text, 'z', sizeof(bytes.text));
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
	if (descriptor) {
		control.head = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int)) };
		memcpy(CMSG_DATA(&control.head), &pair[0], sizeof(int));
		header.msg_control = &control;
		header.msg_controllen = sizeof(control);
	}
	CHECK(sendmsg(pair[1], &header, 0) > 0);
	result = is_ready(&porter, pair[0], 1000);
	close(pair[0]);
	close(pair[1]);
	CHECK_EQUAL(open_count(), count);
	return result;
}

static void first_words(void)
{
	porter = (struct porter){ .version = 5, .zygote = "/before" };
	CHECK(hears(PORTER_READY, 5, 5, 0, false));
	CHECK(hears(PORTER_READY, 1, 9, 0, true));
	CHECK(!hears(PORTER_READY, 6, 9, 0, false));
	CHECK(!hears(PORTER_READY, 1, 4, 0, true));
	CHECK(!hears(PORTER_PARK, 1, 9, 1, true));
	CHECK(!hears(PORTER_READY, 6, 9, 1, false));
	CHECK(hears(PORTER_READY, 1, 9, SHIM_SOCKET, false)); /* no address */
	CHECK(hears(PORTER_READY, 1, 9, 2 * SHIM_SOCKET, false));
	CHECK_TEXT(porter.zygote, "/before");
	CHECK(hears(PORTER_READY, 1, 9, SHIM_SOCKET - 1, false));
	CHECK_EQUAL(strlen(porter.zygote), SHIM_SOCKET - 1);
	CHECK(hears(PORTER_READY, 1, 9, 1, false));
	CHECK_TEXT(porter.zygote, "z");
}

/* A worker that is a script: what it has as descriptor 3 is who it speaks to. */
static void cold_workers(void)
{
	static char self[] = "shim", more[] = "-id", *argv[] = { self, more, NULL };
	const char *const said[] = {
		"exit 0",                                                                                  /* nothing */
		"printf x >&3",                                                                            /* no message */
		"printf '\\001\\000TP\\002\\000\\000\\000\\001\\000\\000\\000\\011\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000' >&3", /* of another kind */
		"printf '\\001\\000TP\\001\\000\\000\\000\\001\\000\\000\\000\\011\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000/z' >&3", /* versions 1 to 9 */
	};
	char text[256];

	make_place();
	for (size_t i = 0; i < WHERRY_LENGTH(said); i++)
		for (int version = 0; version < 11; version += 5) {
			const bool fits = i == 3 && version < 10;

			snprintf(text, sizeof(text), "#!/bin/sh -e\n%s\n", said[i]);
			write_text("script", text, 0700);
			porter = (struct porter){ .argv = argv, .control = -1, .version = version };
			snprintf(porter.script, sizeof(porter.script), "%s/script", place);
			strcpy(porter.zygote, "/before");
			CHECK_EQUAL(porter_begin_worker(&porter, true), fits ? 0 : -1);
			CHECK_EQUAL(porter.control >= 0, fits);
			CHECK_TEXT(porter.zygote, fits ? "/z" : "/before");
			wherry_close(&porter.control);
			while (waitpid(-1, NULL, 0) > 0)
				;
		}
	remove_place();
}

/* The interpreter of its first line, without `site`; the porter's words. */
static void a_worker_with_an_interpreter(void)
{
	static char self[] = "shim", flag[] = "-id", id[] = "one two", *argv[] = { self, flag, id, NULL }, *many[PORTER_WORDS + 2];
	char text[256], wanted[256];

	make_place();
	write_text("script", "#!/bin/sh -e\nfor word; do echo \"$word\"; done >log\n", 0700);
	CHECK(rename("script", "socket") == 0);
	snprintf(text, sizeof(text), "#!%s/socket\n", place);
	write_text("script", text, 0700);
	porter = (struct porter){ .argv = argv, .control = -1 };
	snprintf(porter.script, sizeof(porter.script), "%s/script", place);
	CHECK_EQUAL(porter_begin_worker(&porter, true), -1);
	while (waitpid(-1, NULL, 0) > 0)
		;
	CHECK(shim_read("log", text, sizeof(text)) > 0);
	snprintf(wanted, sizeof(wanted), "-I\n-S\n%s/script\n-id\none two\n", place);
	CHECK_TEXT(text, wanted);

	for (size_t i = 0; i <= PORTER_WORDS; i++) /* more than there are places for: as the kernel starts a script */
		many[i] = flag;
	porter.argv = many;
	CHECK_EQUAL(porter_begin_worker(&porter, true), -1);
	while (waitpid(-1, NULL, 0) > 0)
		;
	CHECK(shim_read("log", text, sizeof(text)) > 0);
	snprintf(wanted, sizeof(wanted), "%s/script\n-id\n", place);
	CHECK(!strncmp(text, wanted, strlen(wanted)));
	remove_place();
}

static const struct check_case cases[] = {
	{ "appending", appending },
	{ "socket paths", socket_paths },
	{ "command lines", command_lines },
	{ "environments", environments },
	{ "answers", answers },
	{ "deletes", deletes },
	{ "sockets", sockets },
	{ "zygote paths", zygote_paths },
	{ "requests", requests },
	{ "big requests", big_requests },
	{ "connections", connections },
	{ "interpreters", interpreters },
	{ "first words", first_words },
	{ "cold workers", cold_workers },
	{ "a worker with an interpreter", a_worker_with_an_interpreter },
};

CHECK_MAIN(cases)
