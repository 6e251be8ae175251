/* SPDX-License-Identifier: Apache-2.0
 *
 * Device nodes, symlinks and directories in a hostile rootfs.
 */
#include "bed.h"

#include <sys/xattr.h>

enum { RACES = 3000 };

static void begin(void)
{
	bed_make();
	bed_directory(ROOT "/dev");
	bed_directory(ROOT "/etc");
}

static int node(const char *path, uint32_t mode, uint32_t major, uint32_t minor, uint32_t owner)
{
	const struct wherry_op_device_node op = {
		.path = build_text(path), .mode = mode, .major = major, .minor = minor, .uid = owner, .gid = owner + 1,
	};

	return op_device_node(m, &op);
}

static int make_link(const char *target, const char *path, uint64_t flags)
{
	const struct wherry_op_symlink op = { .target = build_text(target), .path = build_text(path), .flags = flags };

	return op_symlink(m, &op);
}

static void check_node(const char *path, mode_t mode, dev_t device, uid_t owner)
{
	struct stat st;

	TRY(lstat(path, &st));
	CHECK_EQUAL(st.st_mode, mode);
	CHECK_EQUAL(st.st_rdev, device);
	CHECK_EQUAL(st.st_uid, owner);
	CHECK_EQUAL(st.st_gid, owner ? owner + 1 : 0);
}

static const char *text_of(const char *path)
{
	static char text[256];
	ssize_t length = readlink(path, text, sizeof(text) - 1);

	text[length < 0 ? 0 : length] = 0;
	return text;
}

IN_BED(test_nodes)
{
	begin();
	CHECK_EQUAL(node("/dev/null", S_IFCHR | 0666, 1, 3, 7), 0);
	check_node(ROOT "/dev/null", S_IFCHR | 0666, makedev(1, 3), 7);
	CHECK_EQUAL(node("/dev/sub/disk", S_IFBLK | 0640, 259, 70000, 8), 0);
	check_node(ROOT "/dev/sub/disk", S_IFBLK | 0640, makedev(259, 70000), 8);
	CHECK_EQUAL(node("/dev/fifo", S_IFIFO | 0622, 9, 9, 9), 0);
	check_node(ROOT "/dev/fifo", S_IFIFO | 0622, 0, 9);
	CHECK_EQUAL(node("/dev", S_IFCHR | 0666, 1, 3, 0), -WHERRY_OTHER_NODE);
	CHECK_EQUAL(node("/dev/..", S_IFCHR | 0666, 1, 3, 0), -EINVAL);
}

/* A default ACL takes bits away from what is asked for. */
IN_BED(test_mode_is_as_asked)
{
	static const unsigned char acl[] = {
		2, 0, 0, 0, /* version */
		1, 0, 7, 0, 0xff, 0xff, 0xff, 0xff, /* user::rwx */
		4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, /* group::--- */
		32, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, /* other::--- */
	};

	begin();
	if (setxattr(ROOT "/dev", "system.posix_acl_default", acl, sizeof(acl), 0) < 0) {
		fprintf(stderr, "mode_is_as_asked: not tested, tmpfs has no ACLs here\n");
		return;
	}
	CHECK_EQUAL(node("/dev/null", S_IFCHR | 0666, 1, 3, 7), 0);
	check_node(ROOT "/dev/null", S_IFCHR | 0666, makedev(1, 3), 7);
}

IN_BED(test_nodes_that_exist)
{
	begin();
	TRY(mknod(ROOT "/dev/same", S_IFCHR | 0600, makedev(1, 5)));
	TRY(mknod(ROOT "/dev/other", S_IFCHR | 0600, makedev(1, 5)));
	TRY(symlink(DECOY "/file", ROOT "/dev/link"));
	TRY(symlink("same", ROOT "/dev/link-to-same"));
	build_write(ROOT "/dev/file", "", 0600);
	/* reused, and left as it is: it may be the host's own */
	CHECK_EQUAL(node("/dev/same", S_IFCHR | 0666, 1, 5, 7), 0);
	TRY(chmod(ROOT "/dev/same", 0600));
	check_node(ROOT "/dev/same", S_IFCHR | 0600, makedev(1, 5), 0);
	CHECK_EQUAL(node("/dev/other", S_IFCHR | 0666, 1, 3, 7), -WHERRY_OTHER_NODE);
	CHECK_EQUAL(node("/dev/other", S_IFBLK | 0666, 1, 5, 7), -WHERRY_OTHER_NODE);
	CHECK_EQUAL(node("/dev/link", S_IFCHR | 0666, 1, 3, 7), -WHERRY_OTHER_NODE);
	CHECK_EQUAL(node("/dev/link-to-same", S_IFCHR | 0666, 1, 5, 7), -WHERRY_OTHER_NODE);
	CHECK_EQUAL(node("/dev/file", S_IFCHR | 0666, 1, 3, 7), -WHERRY_OTHER_NODE);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_MKNOD);
	check_node(ROOT "/dev/other", S_IFCHR | 0600, makedev(1, 5), 0);
	CHECK_EQUAL(bed_mode(DECOY "/file"), S_IFREG | 0644);
}

/* The image's /dev is a symlink (CVE-2026-41579). */
IN_BED(test_dev_is_a_symlink)
{
	for (int way = 0; way < 2; way++) {
		uint64_t before;

		begin();
		securepath_without_openat2 = way;
		TRY(rmdir(ROOT "/dev"));
		TRY(symlink(DECOY "/directory", ROOT "/dev"));
		before = bed_sum(AT_FDCWD, DECOY);
		CHECK_EQUAL(node("/dev/null", S_IFCHR | 0666, 1, 3, 7), 0);
		CHECK_EQUAL(make_link("pts/ptmx", "/dev/ptmx", WHERRY_SYMLINK_REPLACE), 0);
		CHECK_EQUAL(make_link("/proc/self/fd", "/dev/fd", 0), 0);
		CHECK(before == bed_sum(AT_FDCWD, DECOY));
		check_node(ROOT DECOY "/directory/null", S_IFCHR | 0666, makedev(1, 3), 7);
		CHECK_TEXT(text_of(ROOT DECOY "/directory/ptmx"), "pts/ptmx");
	}
}

IN_BED(test_race_with_nodes)
{
	uint64_t before;
	pid_t flipper;

	begin();
	TRY(symlink(DECOY "/directory", ROOT "/symlink"));
	before = bed_sum(AT_FDCWD, DECOY);
	flipper = bed_flip(ROOT "/dev", ROOT "/symlink");
	for (int way = 0; way < 2; way++) {
		securepath_without_openat2 = way;
		for (int i = 0; i < RACES / 2; i++) {
			int result = node("/dev/null", S_IFCHR | 0666, 1, 3, 7);

			CHECK(result == 0 || result == -ENOENT || result == -EAGAIN);
			make_link("pts/ptmx", "/dev/ptmx", WHERRY_SYMLINK_REPLACE);
			unlink(ROOT DECOY "/directory/null");
		}
	}
	bed_end(flipper);
	CHECK(before == bed_sum(AT_FDCWD, DECOY));
}

IN_BED(test_symlinks)
{
	begin();
	bed_directory(ROOT "/proc");
	TRY(mount("proc", ROOT "/proc", "proc", 0, NULL));
	CHECK_EQUAL(make_link("/proc/self/fd", "/dev/fd", WHERRY_SYMLINK_TARGET_MUST_EXIST), 0);
	CHECK_TEXT(text_of(ROOT "/dev/fd"), "/proc/self/fd");
	CHECK_EQUAL(make_link("/proc/self/fd/0", "/dev/stdin", WHERRY_SYMLINK_TARGET_MUST_EXIST), 0);
	CHECK_TEXT(text_of(ROOT "/dev/stdin"), "/proc/self/fd/0");
	CHECK_EQUAL(make_link("/proc/nothing", "/dev/nothing", WHERRY_SYMLINK_TARGET_MUST_EXIST), 0);
	CHECK_EQUAL(bed_mode(ROOT "/dev/nothing"), 0);
	CHECK_EQUAL(make_link(DECOY "/file", "/dev/host", WHERRY_SYMLINK_TARGET_MUST_EXIST), 0);
	CHECK_EQUAL(bed_mode(ROOT "/dev/host"), 0);
	/* a relative target counts from where the symlink stands */
	build_write(ROOT "/dev/beside", "", 0600);
	CHECK_EQUAL(make_link("beside", "/dev/relative", WHERRY_SYMLINK_TARGET_MUST_EXIST), 0);
	CHECK_TEXT(text_of(ROOT "/dev/relative"), "beside");
	CHECK_EQUAL(make_link("etc", "/dev/not-there", WHERRY_SYMLINK_TARGET_MUST_EXIST), 0);
	CHECK_EQUAL(bed_mode(ROOT "/dev/not-there"), 0);
	/* the image's own stays, but for ptmx */
	CHECK_EQUAL(make_link("elsewhere", "/dev/relative", 0), 0);
	CHECK_TEXT(text_of(ROOT "/dev/relative"), "beside");
	CHECK_EQUAL(make_link("pts/ptmx", "/dev/relative", WHERRY_SYMLINK_REPLACE), 0);
	CHECK_TEXT(text_of(ROOT "/dev/relative"), "pts/ptmx");
	CHECK_EQUAL(make_link("pts/ptmx", "/dev/beside", WHERRY_SYMLINK_REPLACE), 0);
	CHECK_TEXT(text_of(ROOT "/dev/beside"), "pts/ptmx");
	CHECK_EQUAL(make_link("x", "/etc", WHERRY_SYMLINK_REPLACE), -EISDIR);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_UNLINK);
	CHECK_EQUAL(make_link("x", "/new/parents/x", 0), 0);
	CHECK_TEXT(text_of(ROOT "/new/parents/x"), "x");
}

IN_BED(test_directories)
{
	struct wherry_op_directory op = { .mode = 01777 };

	begin();
	op.path = build_text("/dev/shm");
	CHECK_EQUAL(op_directory(m, &op), 0);
	CHECK_EQUAL(bed_mode(ROOT "/dev/shm"), S_IFDIR | 01777);
	op.mode = 0700;
	CHECK_EQUAL(op_directory(m, &op), 0);
	CHECK_EQUAL(bed_mode(ROOT "/dev/shm"), S_IFDIR | 01777);
	build_write(ROOT "/etc/file", "", 0600);
	op.path = build_text("/etc/file");
	CHECK_EQUAL(op_directory(m, &op), -ENOTDIR);
}

static const struct check_case cases[] = {
	{ "nodes", test_nodes },
	{ "mode_is_as_asked", test_mode_is_as_asked },
	{ "nodes_that_exist", test_nodes_that_exist },
	{ "dev_is_a_symlink", test_dev_is_a_symlink },
	{ "race_with_nodes", test_race_with_nodes },
	{ "symlinks", test_symlinks },
	{ "directories", test_directories },
};

CHECK_MAIN(cases)
