/* SPDX-License-Identifier: Apache-2.0
 *
 * Sealing and starting programs, and the small helpers beside them.
 */
#include "check.h"
#include "wherry/core.h"
#include "wherry/sys.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>

extern const uint8_t wherry_program_start[], wherry_program_end[];

static size_t program_size(void)
{
	return (size_t)(wherry_program_end - wherry_program_start);
}

static void in_child(void (*run)(void))
{
	pid_t child = fork();
	int status;

	if (!child) {
		check_failures = 0;
		run();
		check_exit();
	}
	CHECK(waitpid(child, &status, 0) == child);
	CHECK_EQUAL(status, 0);
}

/* ---- sealed ------------------------------------------------------------------------------------------------------------- */

static bool same_bytes(int fd)
{
	struct stat file;
	const void *bytes;
	bool same;

	if (fstat(fd, &file) < 0 || (size_t)file.st_size != program_size())
		return false;
	bytes = mmap(NULL, program_size(), PROT_READ, MAP_PRIVATE, fd, 0);
	same = bytes != MAP_FAILED && !memcmp(bytes, wherry_program_start, program_size());
	munmap((void *)(uintptr_t)bytes, program_size());
	return same;
}

/* Whoever gets at the file through /proc/PID/exe cannot write to it, make it writable, or cut it. */
static void check_unwritable(int fd)
{
	char path[32];
	int again = open(wherry_fd_path(fd, path), O_RDWR | O_CLOEXEC);

	CHECK(again < 0 || (write(again, "x", 1) < 0 && ftruncate(again, 0) < 0));
	CHECK(again < 0 || mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0) == MAP_FAILED);
	CHECK(write(fd, "x", 1) < 0);
	CHECK(ftruncate(fd, 1) < 0);
	if (again >= 0)
		close(again);
	CHECK(same_bytes(fd));
}

static void a_sealed_program(void)
{
	int fd = wherry_seal_program(wherry_program_start, program_size());

	CHECK(fd >= 0);
	CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
	CHECK_EQUAL(fcntl(fd, F_GET_SEALS) & (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE),
		    F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
	check_unwritable(fd);
	close(fd);
}

/* As vm.memfd_noexec=2 does. */
static void refuse_memfds(void)
{
	static struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_memfd_create, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EACCES),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog program = { .len = WHERRY_LENGTH(filter), .filter = filter };

	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0);
}

static int start_and_wait(int program, const char *name)
{
	const char *const argv[] = { name, NULL };
	const int fds[] = { -1, -1, STDERR_FILENO };
	int pidfd, status = -1;
	pid_t pid = wherry_spawn(program, argv, fds, WHERRY_LENGTH(fds), &pidfd);

	if (pid < 0)
		return pid;
	CHECK_EQUAL(wherry_wait_child(pid, pidfd, 10000, &status), 0);
	close(pidfd);
	return status;
}

static void without_memfds_here(void)
{
	int fd;

	refuse_memfds();
	fd = wherry_seal_program(wherry_program_start, program_size());
	CHECK(fd >= 0);
	check_unwritable(fd);
	CHECK_EQUAL(WEXITSTATUS(start_and_wait(fd, "wherry-launcher")), 1); /* it runs, and finds no plan */
	close(fd);
}

static void without_memfds(void)
{
	if (geteuid() != 0)
		CHECK_SKIP("needs root");
	in_child(without_memfds_here);
}

static void neither_here(void)
{
	refuse_memfds();
	CHECK(setresuid(65534, 65534, 65534) == 0);
	CHECK_EQUAL(wherry_seal_program(wherry_program_start, program_size()), -EACCES); /* the memfd's reason */
}

static void neither(void)
{
	if (geteuid() != 0)
		CHECK_SKIP("needs root");
	in_child(neither_here);
}

/* ---- started ------------------------------------------------------------------------------------------------------------ */

static pid_t start_shell(const char *script, const int *fds, size_t count, int *pidfd)
{
	const char *const argv[] = { "/bin/sh", "-c", script, NULL };

	return wherry_spawn_path("/bin/sh", argv, fds, count, pidfd);
}

static int run_shell(const char *script, const int *fds, size_t count)
{
	int pidfd, status = -1;
	pid_t pid = start_shell(script, fds, count, &pidfd);

	CHECK(pid > 0 && pidfd >= 0);
	if (pid > 0)
		CHECK_EQUAL(wherry_wait_child(pid, pidfd, 10000, &status), 0);
	wherry_close(&pidfd);
	return status;
}

/* Files 0..7 hold their own number. */
static void open_numbered(int files[8])
{
	for (int i = 0; i < 8; i++) {
		char digit = (char)('0' + i);

		files[i] = sys_memfd_create("number", MFD_CLOEXEC);
		CHECK(write(files[i], &digit, 1) == 1);
	}
}

/* Whatever numbers the descriptors have, even each other's. */
static void descriptors_are_placed(void)
{
	static const int orders[][4] = { { 0, 1, 2, 3 }, { 3, 2, 1, 0 }, { 1, 2, 3, 0 }, { 1, 0, 3, 2 }, { 2, 2, 2, 2 }, { 0, 3, 3, 1 } };
	int files[8];

	open_numbered(files);
	for (int i = 0; i < 4; i++) /* the files at 3..6: they collide with where they go */
		CHECK(dup2(files[i], 10 + i) == 10 + i);
	for (size_t order = 0; order < WHERRY_LENGTH(orders); order++) {
		int fds[7] = { STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO }, saved[4];
		char script[256];

		for (int i = 0; i < 4; i++) {
			saved[i] = fcntl(3 + i, F_DUPFD_CLOEXEC, 40);
			CHECK(dup3(10 + i, 3 + i, O_CLOEXEC) == 3 + i);
		}
		for (int i = 0; i < 4; i++)
			fds[3 + i] = 3 + orders[order][i];
		snprintf(script, sizeof(script), "for n in 3 4 5 6; do printf %%s $(cat /proc/self/fd/$n); done | grep -qx %d%d%d%d", orders[order][0],
			 orders[order][1], orders[order][2], orders[order][3]);
		CHECK_EQUAL(run_shell(script, fds, 7), 0);
		for (int i = 0; i < 4; i++) {
			CHECK(dup3(saved[i], 3 + i, O_CLOEXEC) == 3 + i);
			close(saved[i]);
		}
	}
	for (int i = 0; i < 4; i++)
		close(10 + i);
	for (int i = 0; i < 8; i++)
		close(files[i]);
}

static void nothing_else_is_inherited(void)
{
	int leaked = open("/dev/null", O_RDWR); /* not close-on-exec */
	const int fds[] = { STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO, -1, leaked };

	CHECK(leaked >= 3);
	/* 3 is closed, 4 is open, all above are closed (but the shell's own) */
	CHECK_EQUAL(run_shell("[ ! -e /proc/$$/fd/3 ] && [ -e /proc/$$/fd/4 ] && for n in 5 6 7 8 9 10 11 12; do [ ! -e /proc/$$/fd/$n ] || exit 9; done", fds, 5), 0);
	CHECK_EQUAL(run_shell("[ -z \"$HOME\" ] && [ \"$(tr '\\0' '\\n' < /proc/$$/environ)\" = '' ]", fds, 3), 0);
	close(leaked);
}

static void signals_are_reset(void)
{
	const int fds[] = { STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO };
	uint64_t old, now;

	sys_signal(SIGPIPE, SIG_IGN);
	sys_signal(33, SIG_IGN);
	sys_signal_mask(SIG_BLOCK, 1ULL << (SIGTERM - 1), &old);
	CHECK_EQUAL(run_shell("grep -q '^SigIgn:.0*$' /proc/self/status && grep -q '^SigBlk:.0*$' /proc/self/status", fds, 3), 0);
	sys_signal_mask(SIG_SETMASK, old, &now);
	CHECK(now & 1ULL << (SIGTERM - 1)); /* the caller's own mask is as it was */
	sys_signal(SIGPIPE, SIG_DFL);
	sys_signal(33, SIG_DFL);
}

static void errors_of_execve(void)
{
	static const char *const argv[] = { "x", NULL };
	const int fds[] = { 0, 1, 2 };
	int pidfd, garbage = sys_memfd_create("garbage", MFD_CLOEXEC);

	CHECK(write(garbage, "garbage", 7) == 7);
	CHECK_EQUAL(wherry_spawn_path("/nowhere/program", argv, fds, 3, &pidfd), -ENOENT);
	CHECK_EQUAL(pidfd, -1);
	CHECK_EQUAL(wherry_spawn_path("/etc/passwd", argv, fds, 3, &pidfd), -EACCES);
	CHECK_EQUAL(wherry_spawn(garbage, argv, fds, 3, &pidfd), -ENOEXEC);
	CHECK_EQUAL(wherry_spawn(garbage, argv, fds, 100000, &pidfd), -E2BIG);
	CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD); /* no zombie is left */
	close(garbage);
}

static void a_program_without_a_plan(void)
{
	int program = wherry_seal_program(wherry_program_start, program_size());

	CHECK_EQUAL(WEXITSTATUS(start_and_wait(program, "wherry-launcher")), 1);
	close(program);
}

/* ---- from threads --------------------------------------------------------------------------------------------------------- */

static atomic_int threads_failed, signals_seen;

static void on_alarm(int signal)
{
	(void)signal;
	signals_seen++;
}

static void *spawn_often(void *argument)
{
	const int fds[] = { STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO };

	(void)argument;
	for (int i = 0; i < 25; i++) {
		int pidfd, status = -1;
		pid_t pid = start_shell("exit 3", fds, 3, &pidfd);

		if (pid <= 0 || waitpid(pid, &status, 0) != pid || WEXITSTATUS(status) != 3)
			threads_failed++;
		wherry_close(&pidfd);
	}
	return NULL;
}

/* Handlers run in the parent alone, however many signals there are; the children have none. */
static void from_threads_under_signals(void)
{
	struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART }, old;
	const struct itimerval storm = { { 0, 300 }, { 0, 300 } }, calm = { { 0, 0 }, { 0, 0 } };
	pthread_t threads[4];

	sigaction(SIGALRM, &action, &old);
	setitimer(ITIMER_REAL, &storm, NULL);
	for (size_t i = 0; i < WHERRY_LENGTH(threads); i++)
		pthread_create(&threads[i], NULL, spawn_often, NULL);
	for (size_t i = 0; i < WHERRY_LENGTH(threads); i++)
		pthread_join(threads[i], NULL);
	setitimer(ITIMER_REAL, &calm, NULL);
	sigaction(SIGALRM, &old, NULL);
	CHECK_EQUAL(threads_failed, 0);
	CHECK(signals_seen > 0);
}

/* ---- helpers ---------------------------------------------------------------------------------------------------------------- */

static void children_are_waited_for(void)
{
	const int fds[] = { 0, 1, 2 };
	int pidfd, status = 0;
	pid_t pid = start_shell("exec sleep 60", fds, 3, &pidfd);

	CHECK_EQUAL(wherry_wait_child(pid, pidfd, 20, &status), -ETIMEDOUT);
	CHECK_EQUAL(WTERMSIG(status), SIGKILL);
	wherry_close(&pidfd);
	pid = start_shell("exit 5", fds, 3, &pidfd);
	CHECK_EQUAL(wherry_wait_child(pid, pidfd, -1, &status), 0);
	CHECK_EQUAL(WEXITSTATUS(status), 5);
	wherry_close(&pidfd);
}

static void numbers(void)
{
	char text[32];

	CHECK_EQUAL(wherry_decimal(0, text), 1);
	CHECK_TEXT(text, "0");
	CHECK_EQUAL(wherry_decimal(1907, text), 4);
	CHECK_TEXT(text, "1907");
	CHECK_EQUAL(wherry_decimal(~0ULL, text), 20);
	CHECK_TEXT(text, "18446744073709551615");
	CHECK_TEXT(wherry_fd_path(12, text), "/proc/self/fd/12");
}

static void closing_from_a_number_here(void)
{
	int high = fcntl(STDERR_FILENO, F_DUPFD, 200);

	CHECK_EQUAL(wherry_cloexec_from(100), 0);
	CHECK_EQUAL(fcntl(high, F_GETFD), FD_CLOEXEC);
	CHECK_EQUAL(wherry_close_from(100), 0);
	CHECK(fcntl(high, F_GETFD) < 0);
	CHECK(fcntl(STDERR_FILENO, F_GETFD) == 0);
}

static void refuse_close_range(void)
{
	static struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_close_range, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog program = { .len = WHERRY_LENGTH(filter), .filter = filter };

	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0);
	closing_from_a_number_here();
	for (int i = 0; i < 300; i++) /* more than one buffer of names */
		CHECK(dup(STDERR_FILENO) >= 3);
	CHECK_EQUAL(wherry_close_from(3), 0);
	CHECK_EQUAL(dup(STDERR_FILENO), 3);
}

static void closing_from_a_number(void)
{
	in_child(closing_from_a_number_here);
	in_child(refuse_close_range);
}

static const struct check_case cases[] = {
	{ "a_sealed_program", a_sealed_program },
	{ "without_memfds", without_memfds },
	{ "neither", neither },
	{ "descriptors_are_placed", descriptors_are_placed },
	{ "nothing_else_is_inherited", nothing_else_is_inherited },
	{ "signals_are_reset", signals_are_reset },
	{ "errors_of_execve", errors_of_execve },
	{ "a_program_without_a_plan", a_program_without_a_plan },
	{ "from_threads_under_signals", from_threads_under_signals },
	{ "children_are_waited_for", children_are_waited_for },
	{ "numbers", numbers },
	{ "closing_from_a_number", closing_from_a_number },
};

CHECK_MAIN(cases)
