/* SPDX-License-Identifier: Apache-2.0
 *
 * Init's last steps: the working directory, the program's lookup and HOME, the wait for the start, and what an executed program
 * finds. The hostile cases run in a tmpfs that the child has changed its root to.
 */
#include "build.h"

#include <sys/resource.h>
#include <sys/socket.h>

enum { USER = 12345, OTHER = 23456, START_FIFO = 20, RESULT_FIFO = 10, LEAK = 15 };

/* Not by listing the directory, which takes a descriptor */
#define LIST_FDS "for fd in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 20 200; do [ -e /proc/$$/fd/$fd ] && printf '%s ' $fd; done; :"

static char place[] = "/tmp/wherry-program-XXXXXX";
static int host; /* a descriptor of the host's root, which every escape would lead to */

/* A root of its own, as after the pivot; procfs in it. */
static struct wherry_machine *begin_inside(void)
{
	struct wherry_machine *m = build_begin();

	host = open("/usr", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CHECK(unshare(CLONE_NEWNS) == 0);
	CHECK(mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL) == 0);
	CHECK(mount("tmpfs", place, "tmpfs", 0, "mode=0755") == 0);
	CHECK(chdir(place) == 0 && chroot(".") == 0);
	CHECK(mkdir("/proc", 0755) == 0 && mkdir("/bin", 0755) == 0 && mkdir("/etc", 0755) == 0);
	CHECK(mount("proc", "/proc", "proc", 0, NULL) == 0);
	wherry_close(&m->rootfs);
	m->rootfs = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return m;
}

static const char *fd_path(int fd, const char *rest)
{
	static char path[4][64];
	static unsigned int turn;

	turn = (turn + 1) % 4;
	snprintf(path[turn], sizeof(path[turn]), "/proc/self/fd/%d%s", fd, rest);
	return path[turn];
}

/* ---- working directory ----------------------------------------------------------------------------------------------------- */

static int enter(struct wherry_machine *m, const char *path, uint32_t stage, bool create)
{
	const struct wherry_op_working_directory op = { .path = build_text(path), .stage = stage, .create = create };

	return op_working_directory(m, &op);
}

static void expect_cwd(const char *path)
{
	char text[WHERRY_MAX_PATH];

	CHECK_TEXT(getcwd(text, sizeof(text)), path);
}

static void directory_child(void)
{
	struct wherry_machine *m = begin_inside();
	struct stat made;

	CHECK_EQUAL(enter(m, "/a/b/c", 0, false), -ENOENT);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_CHDIR);
	CHECK_EQUAL(enter(m, "/a/b/c", 0, true), 0);
	expect_cwd("/a/b/c");
	CHECK(stat("/a/b/c", &made) == 0 && (made.st_mode & 0777) == 0755);
	CHECK_EQUAL(enter(m, "/a/b/c", 1, true), 0);
	CHECK(symlink("/a/b", "/link") == 0);
	CHECK_EQUAL(enter(m, "/link", 0, true), 0);
	expect_cwd("/a/b");
	CHECK(symlink("/../../../../new", "/up") == 0);
	CHECK_EQUAL(enter(m, "/up/there", 0, true), 0);
	expect_cwd("/new/there");
	build_write("/file", "", 0644);
	CHECK_EQUAL(enter(m, "/file", 0, true), -ENOTDIR);
}

static void test_working_directory(void)
{
	in_child(directory_child);
}

/* CVE-2024-21626 and its kin. */
static void escape_child(void)
{
	struct wherry_machine *m = begin_inside();

	CHECK_EQUAL(enter(m, fd_path(host, ""), 0, true), -WHERRY_CWD_OUTSIDE);
	CHECK_EQUAL(enter(m, fd_path(host, "/bin"), 0, true), -WHERRY_CWD_OUTSIDE);
	CHECK_EQUAL(enter(m, fd_path(host, "/../.."), 0, true), -WHERRY_CWD_OUTSIDE);
	CHECK(symlink(fd_path(host, ""), "/innocent") == 0);
	CHECK_EQUAL(enter(m, "/innocent", 0, true), -WHERRY_CWD_OUTSIDE);
	CHECK_EQUAL(enter(m, "/innocent/bin", 0, true), -WHERRY_CWD_OUTSIDE);
	expect_cwd("/");
	/* however it came there */
	CHECK(fchdir(host) == 0);
	CHECK_EQUAL(enter(m, "/", 1, false), -WHERRY_CWD_OUTSIDE);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_GETCWD);
	CHECK(mkdir("/gone", 0755) == 0 && chdir("/gone") == 0 && rmdir("/gone") == 0);
	CHECK_EQUAL(enter(m, "/gone", 1, false), -WHERRY_CWD_OUTSIDE);
}

static void test_working_directory_outside(void)
{
	in_child(escape_child);
}

/* Where root may not go, as on NFS: the second stage goes as the user. */
static void refused_child(void)
{
	struct wherry_machine *m = begin_inside();

	CHECK(mkdir("/private", 0700) == 0 && chown("/private", USER, USER) == 0);
	CHECK(setresuid((uid_t)-1, OTHER, (uid_t)-1) == 0); /* stands for the root that is none there */
	CHECK_EQUAL(enter(m, "/private", 0, false), 0);
	CHECK(m->directory_refused);
	expect_cwd("/");
	CHECK_EQUAL(enter(m, "/private", 1, false), -EACCES);
	CHECK(setresuid((uid_t)-1, 0, (uid_t)-1) == 0 && setresuid((uid_t)-1, USER, (uid_t)-1) == 0);
	CHECK_EQUAL(enter(m, "/private", 1, false), 0);
	expect_cwd("/private");
}

static void test_working_directory_of_the_user(void)
{
	in_child(refused_child);
}

static void no_descriptors_child(void)
{
	struct wherry_machine *m = begin_inside();
	const struct rlimit none = { 3, 3 };

	CHECK(mkdir("/there", 0755) == 0);
	m->directory_refused = true;
	CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
	CHECK_EQUAL(enter(m, "/there", 1, false), 0);
	expect_cwd("/there");
	CHECK_EQUAL(enter(m, fd_path(host, ""), 1, false), -WHERRY_CWD_OUTSIDE);
}

static void test_working_directory_without_descriptors(void)
{
	in_child(no_descriptors_child);
}

/* ---- the program -------------------------------------------------------------------------------------------------------------- */

static int look_up(struct wherry_machine *m, const char *name, const char *path)
{
	const struct wherry_op_program op = { .arguments = build_list(name, NULL), .path = build_text(path) };

	return op_program(m, &op);
}

static void lookup_child(void)
{
	static const struct {
		const char *name, *path;
		int result;
		const char *program;
	} cases[] = {
		{ "tool", "/bin", 0, "/bin/tool" },
		{ "tool", "/none:/bin:/other", 0, "/bin/tool" },
		{ "tool", "/other:/bin", 0, "/other/tool" },
		{ "tool", "/bin/", 0, "/bin//tool" },
		{ "tool", "/refused:/bin", 0, "/bin/tool" },
		{ "tool", "/refused", -EACCES, NULL },
		{ "tool", "/folder:/none", -EACCES, NULL },
		{ "tool", "/bin/tool:/none", -WHERRY_PROGRAM_NOT_FOUND, NULL },
		{ "tool", "/none", -WHERRY_PROGRAM_NOT_FOUND, NULL },
		{ "tool", "", 0, "tool" }, /* an empty element is the working directory, /other here */
		{ "tool", "/none:", 0, "tool" },
		{ "tool", NULL, -WHERRY_PROGRAM_NOT_FOUND, NULL },
		{ "", "/bin", -WHERRY_PROGRAM_NOT_FOUND, NULL },
		{ "/bin/tool", "/none", 0, "/bin/tool" },
		{ "./tool", "/bin", 0, "./tool" },
		{ "../bin/tool", NULL, 0, "../bin/tool" },
		{ "/bin/none", "/bin", -ENOENT, NULL },
		{ "/bin/tool/x", "/bin", -ENOTDIR, NULL },
		{ "/refused/tool", "/bin", -EACCES, NULL },
		{ "/bin", "/bin", -EISDIR, NULL },
		{ "/fifo", "/bin", -EACCES, NULL },
		{ "/loop", "/bin", -ELOOP, NULL },
		{ "/link", "/bin", 0, "/link" },
	};
	struct wherry_machine *m = begin_inside();

	CHECK(mkdir("/other", 0755) == 0 && mkdir("/refused", 0755) == 0 && mkdir("/folder", 0755) == 0 && mkdir("/folder/tool", 0755) == 0);
	build_write("/bin/tool", "", 0755);
	build_write("/other/tool", "", 0755);
	build_write("/refused/tool", "", 0644);
	CHECK(mkfifo("/fifo", 0777) == 0 && symlink("loop", "/loop") == 0 && symlink("../../bin/tool", "/link") == 0);
	CHECK(chdir("/other") == 0);
	for (size_t i = 0; i < WHERRY_LENGTH(cases); i++) {
		int result = look_up(m, cases[i].name, cases[i].path);

		CHECK_EQUAL(result, cases[i].result);
		if (cases[i].program)
			CHECK_TEXT(m->prepared.program, cases[i].program);
		else
			CHECK_EQUAL(m->failed_call, WHERRY_CALL_LOOKUP);
		if (check_failures)
			fprintf(stderr, "case %zu: %s in %s\n", i, cases[i].name, cases[i].path ? cases[i].path : "-");
	}
}

static void test_lookup(void)
{
	in_child(lookup_child);
}

static void lookup_without_openat2_child(void)
{
	securepath_without_openat2 = true;
	lookup_child();
}

static void test_lookup_without_openat2(void)
{
	in_child(lookup_without_openat2_child);
}

static void lookup_long_child(void)
{
	static char name[WHERRY_MAX_PATH + 1], path[WHERRY_MAX_PATH + 64];
	struct wherry_machine *m = begin_inside();

	build_write("/bin/tool", "", 0755);
	memset(name, 'a', sizeof(name) - 1);
	CHECK_EQUAL(look_up(m, name, "/bin"), -ENAMETOOLONG);
	memset(path, 'a', WHERRY_MAX_PATH);
	strcpy(path + WHERRY_MAX_PATH, ":/bin");
	CHECK_EQUAL(look_up(m, "tool", path), 0); /* passed over */
	CHECK_TEXT(m->prepared.program, "/bin/tool");
}

static void test_lookup_of_long_paths(void)
{
	in_child(lookup_long_child);
}

/* Nothing outside is executed, by whatever link. */
static void lookup_outside_child(void)
{
	struct wherry_machine *m = begin_inside();

	CHECK(faccessat(host, "bin/env", X_OK, 0) == 0);
	CHECK_EQUAL(look_up(m, fd_path(host, "/bin/env"), "/bin"), -WHERRY_NOT_IN_ROOTFS);
	CHECK_EQUAL(look_up(m, "env", fd_path(host, "/bin")), -WHERRY_NOT_IN_ROOTFS);
	CHECK_EQUAL(look_up(m, "/proc/self/exe", "/bin"), -WHERRY_NOT_IN_ROOTFS);
	CHECK(symlink(fd_path(host, "/bin/env"), "/bin/env") == 0);
	CHECK_EQUAL(look_up(m, "/bin/env", "/bin"), -WHERRY_NOT_IN_ROOTFS);
	CHECK(fchdir(host) == 0);
	CHECK_EQUAL(look_up(m, "./bin/env", "/bin"), -WHERRY_CWD_OUTSIDE);
}

static void test_lookup_outside(void)
{
	in_child(lookup_outside_child);
}

/* ---- HOME ---------------------------------------------------------------------------------------------------------------------- */

static const char *home_of(struct wherry_machine *m, uint32_t uid)
{
	const struct wherry_op_program op = { .arguments = build_list("/bin/tool", NULL), .uid = uid, .flags = WHERRY_PROGRAM_FILL_HOME };

	CHECK_EQUAL(op_program(m, &op), 0);
	return m->prepared.home;
}

static void home_child(void)
{
	struct wherry_machine *m = begin_inside();

	build_write("/bin/tool", "", 0755);
	CHECK_TEXT(home_of(m, 0), "HOME=/");
	build_write("/passwd", "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n", 0600);
	CHECK(symlink("../../passwd", "/etc/passwd") == 0);
	CHECK_TEXT(home_of(m, 0), "HOME=/root");
	CHECK_TEXT(home_of(m, 1000), "HOME=/home/user");
	CHECK_TEXT(home_of(m, 1001), "HOME=/");
	CHECK(unlink("/etc/passwd") == 0 && symlink(fd_path(host, "/../etc/passwd"), "/etc/passwd") == 0);
	CHECK_TEXT(home_of(m, 0), "HOME=/");
	CHECK(unlink("/etc/passwd") == 0 && mkfifo("/etc/passwd", 0666) == 0);
	CHECK_TEXT(home_of(m, 0), "HOME=/"); /* and does not wait for a writer */
	CHECK_EQUAL(look_up(m, "/bin/tool", ""), 0);
	CHECK(!m->prepared.home);
}

static void test_home(void)
{
	in_child(home_child);
}

/* ---- start and execution ----------------------------------------------------------------------------------------------------------- */

static int output[2], result_pipe[2];

/* In the host's root: /bin/sh runs `script` with what init leaves it. */
static struct wherry_op_program shell(const char *script)
{
	return (struct wherry_op_program){
		.arguments = build_list("sh", "-c", script, "zero", "one two", NULL),
		.environment = build_list("PATH=/usr/bin:/bin", "HOME=/first", "A=b", "HOME=/second", NULL),
		.path = build_text("/usr/bin:/bin"),
		.uid = 0,
		.flags = WHERRY_PROGRAM_FILL_HOME,
	};
}

/* Descriptors as the launcher leaves them: two preserved ones, the fifos in any order above, and others that nobody shall find. */
static void place_descriptors(struct wherry_machine *m, int start)
{
	int any = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	dup2(output[1], 1);
	m->preserve_fds = 2;
	m->start_fifo = START_FIFO;
	m->result_fifo = RESULT_FIFO;
	CHECK(dup3(start, START_FIFO, O_CLOEXEC) >= 0);
	CHECK(dup3(result_pipe[1], RESULT_FIFO, O_CLOEXEC) >= 0);
	m->registers[5] = dup2(any, LEAK); /* not even close-on-exec */
	m->caller = dup2(any, 9);
	dup2(any, 200);
	dup3(any, 4, O_CLOEXEC);
	dup3(any, 3, O_CLOEXEC);
}

static void execute_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_program program = shell("printf '%s|' \"$0\" \"$1\" $A $HOME; " LIST_FDS);
	const struct wherry_op_wait_start wait = { .op = { .code = OP_WAIT_START } };
	const struct wherry_op_execute execute = { .op = { .code = OP_EXECUTE } };
	uint64_t mask;
	int start[2];

	CHECK(pipe2(start, O_CLOEXEC) == 0 && write(start[1], "s", 1) == 1);
	CHECK_EQUAL(op_program(m, &program), 0);
	sys_signal_mask(SIG_SETMASK, ~(uint64_t)0, NULL); /* as init has it until the start */
	place_descriptors(m, start[0]);
	CHECK_EQUAL(op_wait_start(m, &wait), 0);
	CHECK(m->ordered && m->registers[5] == -1 && m->caller == -1);
	CHECK(fcntl(START_FIFO, F_GETFD) == FD_CLOEXEC && fcntl(RESULT_FIFO, F_GETFD) == FD_CLOEXEC);
	CHECK(fcntl(LEAK, F_GETFD) < 0 && fcntl(9, F_GETFD) < 0 && fcntl(200, F_GETFD) < 0);
	CHECK(sys_signal_mask(SIG_BLOCK, 0, &mask) == 0 && mask == 0);
	if (check_failures)
		check_exit();
	op_execute(m, &execute);
	_exit(99);
}

static void test_execute(void)
{
	char text[512], end;

	CHECK(pipe2(output, O_CLOEXEC) == 0 && pipe2(result_pipe, O_CLOEXEC) == 0);
	in_child(execute_child);
	wherry_close(&output[1]);
	wherry_close(&result_pipe[1]);
	build_read_all(output[0], text, sizeof(text));
	CHECK_TEXT(text, "zero|one two|b|/root|0 1 2 3 4 ");
	CHECK_EQUAL(read(result_pipe[0], &end, 1), 0); /* execve has closed it: the starter knows */
	wherry_close(&output[0]);
	wherry_close(&result_pipe[0]);
}

/* Without a start to wait for, descriptors and the signal mask are put in order all the same. */
static void execute_at_once_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_program program = shell("for fd in 5 9 10 15 20 200; do [ -e /proc/$$/fd/$fd ] && exit 1; done; "
		"[ -e /proc/$$/fd/4 ] && exec grep -q '^SigBlk:[[:space:]]*0*$' /proc/self/status");
	const struct wherry_op_execute execute = { .op = { .code = OP_EXECUTE } };
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	output[1] = result_pipe[1] = null;
	CHECK_EQUAL(op_program(m, &program), 0);
	sys_signal_mask(SIG_SETMASK, ~(uint64_t)0, NULL);
	place_descriptors(m, null);
	op_execute(m, &execute);
	_exit(99);
}

static void test_execute_at_once(void)
{
	in_child(execute_at_once_child);
}

/* The lookup was root's. Where the user may not execute the first, execvp takes the next. */
static void execute_as_user_child(void)
{
	struct wherry_machine *m = build_begin();
	char script[] = "#!/bin/sh\nexit 42\n", path[300], first[128], second[128];
	struct wherry_op_program program = { .arguments = build_list("tool", NULL) };
	const struct wherry_op_execute execute = { .op = { .code = OP_EXECUTE } };

	CHECK(mount("tmpfs", place, "tmpfs", 0, "mode=0755") == 0);
	snprintf(first, sizeof(first), "%s/first", place);
	snprintf(second, sizeof(second), "%s/second", place);
	CHECK(mkdir(first, 0700) == 0 && mkdir(second, 0755) == 0);
	snprintf(path, sizeof(path), "%s/tool", first);
	build_write(path, script, 0755);
	snprintf(path, sizeof(path), "%s/tool", second);
	build_write(path, script, 0755);
	snprintf(path, sizeof(path), "%s:%s:/none", first, second);
	program.path = build_text(path);
	CHECK_EQUAL(op_program(m, &program), 0);
	m->ordered = true;
	CHECK(setresuid(USER, USER, USER) == 0);
	snprintf(path, sizeof(path), "%s/first/tool", place);
	CHECK_TEXT(m->prepared.program, path);
	if (check_failures)
		check_exit();
	_exit(op_execute(m, &execute) == 0);
}

static void execute_as_user_parent(void)
{
	int status = 0;
	pid_t pid;

	CHECK(unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL) == 0);
	pid = fork();
	if (pid == 0)
		execute_as_user_child();
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
}

static void test_execute_as_user(void)
{
	in_child(execute_as_user_parent);
}

static void execute_fails_child(void)
{
	struct wherry_machine *m = begin_inside();
	const struct wherry_op_execute execute = { .op = { .code = OP_EXECUTE } };

	m->ordered = true;
	build_write("/bin/tool", "no format", 0755);
	CHECK_EQUAL(look_up(m, "tool", "/bin:/none"), 0);
	CHECK_EQUAL(op_execute(m, &execute), -ENOEXEC);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_EXECVE);
	CHECK_EQUAL(look_up(m, "tool", "/bin:/none"), 0);
	CHECK(chmod("/bin/tool", 0644) == 0);
	CHECK_EQUAL(op_execute(m, &execute), -EACCES); /* and not the ENOENT of the next element */
	CHECK(chmod("/bin/tool", 0755) == 0);
	CHECK_EQUAL(look_up(m, "/bin/tool", ""), 0);
	CHECK(unlink("/bin/tool") == 0);
	CHECK_EQUAL(op_execute(m, &execute), -ENOENT);
}

static void test_execute_fails(void)
{
	in_child(execute_fails_child);
}

static const struct check_case cases[] = {
	{ "working_directory", test_working_directory },
	{ "working_directory_outside", test_working_directory_outside },
	{ "working_directory_of_the_user", test_working_directory_of_the_user },
	{ "working_directory_without_descriptors", test_working_directory_without_descriptors },
	{ "lookup", test_lookup },
	{ "lookup_without_openat2", test_lookup_without_openat2 },
	{ "lookup_of_long_paths", test_lookup_of_long_paths },
	{ "lookup_outside", test_lookup_outside },
	{ "home", test_home },
	{ "execute", test_execute },
	{ "execute_at_once", test_execute_at_once },
	{ "execute_as_user", test_execute_as_user },
	{ "execute_fails", test_execute_fails },
};

int main(int argc, char **argv)
{
	int result;

	if (geteuid()) {
		puts("skipped: these tests need root");
		return 77;
	}
	if (!mkdtemp(place))
		return 1;
	result = check_main(cases, WHERRY_LENGTH(cases), argc, argv);
	rmdir(place);
	return result;
}
