/* SPDX-License-Identifier: Apache-2.0
 *
 * csrc/libc/small.c against the libc that the tests run on: its functions get other names here, and both are asked the same.
 */
#include "build.h"

#define strchrnul small_strchrnul
#define strchr small_strchr
#define strncmp small_strncmp
#define strcmp small_strcmp
#define strstr small_strstr
#define open small_open
#define openat small_openat
#define fcntl small_fcntl
#define fstatat small_fstatat
#define fstat small_fstat
#define fchmod small_fchmod
#define fchmodat small_fchmodat
#define fchown small_fchown
#define fchdir small_fchdir
#define utimensat small_utimensat
#define pipe2 small_pipe2
#define dup3 small_dup3
#define mmap small_mmap
#define socket small_socket
#define socketpair small_socketpair
#define fork small_fork
#define clock_gettime small_clock_gettime
#define nanosleep small_nanosleep
#define sigprocmask small_sigprocmask
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#include "../libc/small.c"
#pragma GCC diagnostic pop
#undef strchrnul
#undef strchr
#undef strncmp
#undef strcmp
#undef strstr
#undef open
#undef fstatat
#undef fstat
#undef fork

static const char *const texts[] = { "", "a", "b", "ab", "ba", "aab", "aaab", "abab", "context", "rootcontext=x", "\x80", "a\xff" };

static int sign(int value)
{
	return (value > 0) - (value < 0);
}

static void test_texts(void)
{
	for (size_t i = 0; i < WHERRY_LENGTH(texts); i++)
		for (size_t j = 0; j < WHERRY_LENGTH(texts); j++) {
			CHECK(small_strstr(texts[i], texts[j]) == strstr(texts[i], texts[j]));
			CHECK_EQUAL(sign(small_strcmp(texts[i], texts[j])), sign(strcmp(texts[i], texts[j])));
			for (size_t n = 0; n < 4; n++)
				CHECK_EQUAL(sign(small_strncmp(texts[i], texts[j], n)), sign(strncmp(texts[i], texts[j], n)));
			CHECK(small_strchr(texts[i], texts[j][0]) == strchr(texts[i], texts[j][0]));
			CHECK(small_strchrnul(texts[i], texts[j][0]) == strchrnul(texts[i], texts[j][0]));
		}
}

static void test_files(void)
{
	char path[] = "/tmp/wherry-libc-XXXXXX", name[64];
	int directory, file, copy, ends[2];
	struct stat one, other;

	CHECK(mkdtemp(path) != NULL);
	snprintf(name, sizeof(name), "%s/file", path);
	directory = small_open(path, O_DIRECTORY | O_CLOEXEC);
	file = small_openat(directory, "file", O_CREAT | O_RDWR | O_CLOEXEC, 0640);
	CHECK(file >= 0 && small_fstat(file, &one) == 0 && fstat(file, &other) == 0);
	CHECK(one.st_ino == other.st_ino && one.st_mode == other.st_mode && one.st_nlink == other.st_nlink && one.st_dev == other.st_dev);
	CHECK(small_fchmod(file, 0600) == 0 && small_fstatat(directory, "file", &one, 0) == 0 && (one.st_mode & 0777) == 0600);
	CHECK(small_fchmodat(directory, "file", 0604, 0) == 0 && small_fstatat(directory, "file", &one, 0) == 0 && (one.st_mode & 0777) == 0604);
	CHECK(small_fchmodat(directory, "file", 0600, AT_SYMLINK_NOFOLLOW) == -1 && errno == EOPNOTSUPP);
	CHECK(small_fchown(file, geteuid(), getegid()) == 0);
	CHECK(small_utimensat(directory, "file", (const struct timespec[]){ { 5, 7 }, { 11, 13 } }, 0) == 0);
	CHECK(stat(name, &other) == 0 && other.st_atim.tv_sec == 5 && other.st_mtim.tv_sec == 11 && other.st_mtim.tv_nsec == 13);
	copy = small_fcntl(file, F_DUPFD_CLOEXEC, 100);
	CHECK(copy >= 100 && small_fcntl(copy, F_GETFD) == FD_CLOEXEC && small_fcntl(copy, F_SETFD, 0) == 0 && small_fcntl(copy, F_GETFD) == 0);
	CHECK(small_dup3(file, copy, O_CLOEXEC) == copy && small_fcntl(copy, F_GETFD) == FD_CLOEXEC);
	CHECK(small_pipe2(ends, O_CLOEXEC) == 0 && write(ends[1], "x", 1) == 1 && read(ends[0], name, 1) == 1);
	CHECK(small_fchdir(-1) == -1 && errno == EBADF);
	CHECK(unlinkat(directory, "file", 0) == 0 && rmdir(path) == 0);
	for (size_t i = 0; i < 2; i++)
		close(ends[i]);
	close(copy);
	close(file);
	close(directory);
}

static void test_processes(void)
{
	struct timespec now = { 0 };
	int pair[2], status, one = small_socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	char byte = 0;
	sigset_t set, old;
	pid_t child;

	CHECK(one >= 0 && small_socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
	child = small_fork();
	if (child == 0)
		_exit(write(pair[1], "y", 1) != 1);
	CHECK(child > 0 && read(pair[0], &byte, 1) == 1 && byte == 'y');
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	CHECK(small_clock_gettime(CLOCK_MONOTONIC, &now) == 0 && (now.tv_sec || now.tv_nsec));
	CHECK(small_nanosleep(&(struct timespec){ 0, 1 }, NULL) == 0);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	CHECK(small_sigprocmask(SIG_BLOCK, &set, &old) == 0 && small_sigprocmask(SIG_SETMASK, &old, &set) == 0 && sigismember(&set, SIGUSR1));
	close(pair[0]);
	close(pair[1]);
	close(one);
}

static void test_memory(void)
{
	char *page = small_mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(page != MAP_FAILED && page[4095] == 0);
	munmap(page, 4096);
	CHECK(small_mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, -1, 0) == MAP_FAILED && errno == EBADF);
}

static const struct check_case cases[] = {
	{ "texts", test_texts },
	{ "files", test_files },
	{ "processes", test_processes },
	{ "memory", test_memory },
};

CHECK_MAIN(cases)
