/* SPDX-License-Identifier: Apache-2.0
 *
 * The console, in a mount namespace of its own: a good rootfs, and hostile ones.
 */
#include "build.h"

#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <termios.h>

enum { USER = 12345 };

static char place[] = "/tmp/wherry-console-XXXXXX";
static int saved_stderr = -1;

static const char *in_place(const char *name)
{
	static char path[256];

	snprintf(path, sizeof(path), "%s%s", place, name);
	return path;
}

/* A tmpfs as rootfs, with /dev; the machine's root is it. */
static struct wherry_machine *begin_rootfs(void)
{
	static const struct wherry_plan plan; /* of a create: the console is the container's */
	struct wherry_machine *m = build_begin();

	m->code.plan = &plan;
	saved_stderr = fcntl(2, F_DUPFD_CLOEXEC, 100);
	CHECK(unshare(CLONE_NEWNS) == 0);
	CHECK(mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL) == 0);
	CHECK(mount("tmpfs", place, "tmpfs", 0, NULL) == 0);
	CHECK(mkdir(in_place("/dev"), 0755) == 0);
	wherry_close(&m->rootfs);
	m->rootfs = open(place, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return m;
}

static void mount_devpts(const char *where)
{
	CHECK(mkdir(in_place(where), 0755) == 0);
	CHECK(mount("devpts", in_place(where), "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5") == 0);
}

static void console_child(void)
{
	struct wherry_machine *m = begin_rootfs();
	const struct wherry_op_console op = { .height = 33, .width = 111, .uid = USER };
	struct winsize size = { 0 };
	struct termios settings;
	struct stat slave, console;
	char text[16] = "";

	mount_devpts("/dev/pts");
	CHECK_EQUAL(op_console(m, &op), 0);
	CHECK(m->pending_fd > 2);
	CHECK(fcntl(m->pending_fd, F_GETFD) & FD_CLOEXEC);
	for (int fd = 0; fd < 3; fd++) {
		CHECK(isatty(fd));
		CHECK_EQUAL(fcntl(fd, F_GETFD), 0);
	}
	CHECK(ioctl(m->pending_fd, TIOCGWINSZ, &size) == 0 && size.ws_row == 33 && size.ws_col == 111);
	CHECK(fstat(0, &slave) == 0 && slave.st_uid == USER && slave.st_gid == 5);
	CHECK(stat(in_place("/dev/console"), &console) == 0 && console.st_rdev == slave.st_rdev && S_ISCHR(console.st_mode));
	CHECK(getsid(0) == getpid() && tcgetsid(0) == getpid());
	CHECK(tcgetattr(0, &settings) == 0 && (settings.c_oflag & ONLCR));
	CHECK(write(1, "out\n", 4) == 4);
	CHECK(read(m->pending_fd, text, sizeof(text)) == 5);
	CHECK_TEXT(text, "out\r\n");
	dup2(saved_stderr, 2);
}

static void test_console(void)
{
	in_child(console_child);
}

/* An image that has a file there, and init that has lost its stdio. */
static void existing_child(void)
{
	struct wherry_machine *m = begin_rootfs();
	const struct wherry_op_console op = { .uid = 0 };
	struct stat console;

	mount_devpts("/dev/pts");
	CHECK(mknod(in_place("/dev/console"), S_IFCHR | 0600, makedev(5, 1)) == 0);
	for (int fd = 0; fd < 3; fd++)
		close(fd);
	CHECK_EQUAL(op_console(m, &op), 0);
	CHECK(isatty(0) && isatty(1) && isatty(2));
	CHECK(stat(in_place("/dev/console"), &console) == 0 && major(console.st_rdev) != 5);
	dup2(saved_stderr, 2);
}

static void test_existing_device_and_no_stdio(void)
{
	in_child(existing_child);
}

static void expect_refusal(struct wherry_machine *m, int error)
{
	const struct wherry_op_console op = { .uid = 0 };
	struct stat before, after;

	CHECK(fstat(0, &before) == 0);
	CHECK_EQUAL(op_console(m, &op), -error);
	CHECK_EQUAL(m->pending_fd, -1);
	CHECK(fstat(0, &after) == 0 && before.st_ino == after.st_ino && before.st_dev == after.st_dev);
}

static void no_devpts_child(void)
{
	struct wherry_machine *m = begin_rootfs();

	expect_refusal(m, ENOENT);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_PTY);
}

static void test_no_devpts(void)
{
	in_child(no_devpts_child);
}

/* A directory of the image with a device of the right number in it, and one with a fifo that nobody opens. */
static void false_devpts_child(void)
{
	struct wherry_machine *m = begin_rootfs();

	CHECK(mkdir(in_place("/dev/pts"), 0755) == 0);
	CHECK(mkfifo(in_place("/dev/pts/ptmx"), 0666) == 0);
	expect_refusal(m, ENODEV);
	CHECK(unlink(in_place("/dev/pts/ptmx")) == 0);
	CHECK(mknod(in_place("/dev/pts/ptmx"), S_IFCHR | 0666, makedev(5, 2)) == 0);
	expect_refusal(m, ENODEV);
}

static void test_false_devpts(void)
{
	in_child(false_devpts_child);
}

/* The host's devpts is not reachable through a symlink: it is resolved inside. */
static void symlinked_devpts_child(void)
{
	struct wherry_machine *m = begin_rootfs();

	CHECK(symlink("/dev/../../../../dev/pts", in_place("/dev/pts")) == 0);
	expect_refusal(m, ELOOP);
	CHECK(unlink(in_place("/dev/pts")) == 0);
	CHECK(symlink("/sys", in_place("/dev/pts")) == 0);
	expect_refusal(m, ENOENT);
}

static void test_symlinked_devpts(void)
{
	in_child(symlinked_devpts_child);
}

static void symlinked_console_child(void)
{
	struct wherry_machine *m = begin_rootfs();

	mount_devpts("/dev/pts");
	build_write(in_place("/victim"), "whole", 0644);
	CHECK(symlink("/victim", in_place("/dev/console")) == 0);
	expect_refusal(m, WHERRY_SYMLINK_REFUSED);
	CHECK(unlink(in_place("/dev/console")) == 0);
	CHECK(mkdir(in_place("/dev/console"), 0755) == 0);
	expect_refusal(m, EISDIR);
}

static void test_symlinked_console(void)
{
	in_child(symlinked_console_child);
}

static const struct check_case cases[] = {
	{ "console", test_console },
	{ "existing_device_and_no_stdio", test_existing_device_and_no_stdio },
	{ "no_devpts", test_no_devpts },
	{ "false_devpts", test_false_devpts },
	{ "symlinked_devpts", test_symlinked_devpts },
	{ "symlinked_console", test_symlinked_console },
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
