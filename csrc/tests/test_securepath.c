/* SPDX-License-Identifier: Apache-2.0
 *
 * Paths in a hostile rootfs: resolved by the kernel and by the walk, which must agree; made; swapped under our hands.
 */
#include "bed.h"

#include "../core/mount.h"

enum {
	FLIPS = 12000,  /* lookups while somebody swaps a directory and a symlink */
	PATHS = 20000,  /* random paths */
};

/* Both ways: openat2, then the walk. The body sees `securepath_without_openat2` set. */
#define BOTH_WAYS for (int way_ = 0; way_ < 2 && (securepath_without_openat2 = way_, true); way_++)

/* Opened below the rootfs: what it is, seen from outside. */
static const char *leads_to(const char *path, int flags, uint64_t resolve)
{
	static char result[4096];
	char link[32];
	int fd = securepath_open(m->rootfs, path, flags, resolve);
	ssize_t length;

	if (fd < 0) {
		snprintf(result, sizeof(result), "%d", -fd);
		return result;
	}
	length = readlink(wherry_fd_path(fd, link), result, sizeof(result) - 1);
	TRY(length);
	result[length] = 0;
	CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
	close(fd);
	return result;
}

static void check_inside(int fd)
{
	static dev_t inside;
	struct stat st;

	if (!inside)
		inside = bed_device(ROOT);
	if (fd >= 0) {
		TRY(fstat(fd, &st));
		CHECK(st.st_dev == inside);
		close(fd);
	}
}

static void plant(void)
{
	bed_make();
	bed_directory(ROOT "/a");
	bed_directory(ROOT "/a/b");
	build_write(ROOT "/a/b/file", "root", 0644);
	TRY(symlink("/a/b", ROOT "/absolute"));
	TRY(symlink("a/b/../b", ROOT "/relative"));
	TRY(symlink("../../../../../../a", ROOT "/a/up"));
	TRY(symlink(DECOY, ROOT "/escape"));
	TRY(symlink("../../.." DECOY "/file", ROOT "/a/escape"));
	TRY(symlink("loop", ROOT "/loop"));
	TRY(symlink("/nowhere/at/all", ROOT "/dangling"));
	TRY(symlink("/a/b/", ROOT "/slash"));
}

IN_BED(test_stays_inside)
{
	plant();
	BOTH_WAYS {
		CHECK_TEXT(leads_to("/", O_PATH, 0), ROOT);
		CHECK_TEXT(leads_to("", O_PATH, 0), ROOT);
		CHECK_TEXT(leads_to("..", O_PATH, 0), ROOT);
		CHECK_TEXT(leads_to("/../../a/./b//file", O_PATH, 0), ROOT "/a/b/file");
		CHECK_TEXT(leads_to("absolute/file", O_PATH, 0), ROOT "/a/b/file");
		CHECK_TEXT(leads_to("/relative/../b/file", O_PATH, 0), ROOT "/a/b/file");
		CHECK_TEXT(leads_to("a/up/b/file", O_PATH, 0), ROOT "/a/b/file");
		CHECK_TEXT(leads_to("a/up/up/up/b", O_PATH, 0), ROOT "/a/b");
		CHECK_TEXT(leads_to("slash", O_PATH, 0), ROOT "/a/b");
		CHECK_TEXT(leads_to("escape", O_PATH, 0), "2");
		CHECK_TEXT(leads_to("escape/file", O_PATH, 0), "2");
		CHECK_TEXT(leads_to("a/escape", O_PATH, 0), "2");
		CHECK_TEXT(leads_to("escape", O_PATH | O_NOFOLLOW, 0), ROOT "/escape");
		CHECK_TEXT(leads_to("loop", O_PATH, 0), "40");
		CHECK_TEXT(leads_to("dangling", O_PATH, 0), "2");
		CHECK_TEXT(leads_to("a/b/file/", O_PATH, 0), "20");
		CHECK_TEXT(leads_to("a/b/file/x", O_PATH, 0), "20");
		CHECK_TEXT(leads_to("a/b/file", O_PATH | O_DIRECTORY, 0), "20");
		CHECK_TEXT(leads_to("absolute", O_RDONLY | O_DIRECTORY, 0), ROOT "/a/b");
		CHECK_TEXT(leads_to("absolute", O_RDONLY | O_NOFOLLOW, 0), "40");
		CHECK_TEXT(leads_to("absolute/..", O_RDONLY, 0), ROOT "/a");
		CHECK_TEXT(leads_to("absolute/file", O_WRONLY, 0), ROOT "/a/b/file");
		CHECK_TEXT(leads_to("x", O_WRONLY | O_CREAT, 0), "22");
	}
}

IN_BED(test_what_the_caller_forbids)
{
	plant();
	bed_directory(ROOT "/a/mount");
	TRY(mount("other", ROOT "/a/mount", "tmpfs", 0, NULL));
	BOTH_WAYS {
		CHECK_TEXT(leads_to("absolute/file", O_PATH, RESOLVE_NO_SYMLINKS), "40");
		CHECK_TEXT(leads_to("absolute", O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS), "40");
		CHECK_TEXT(leads_to("a/b/file", O_PATH, RESOLVE_NO_SYMLINKS), ROOT "/a/b/file");
		CHECK_TEXT(leads_to("a/mount", O_PATH, 0), ROOT "/a/mount");
		CHECK_TEXT(leads_to("a/mount", O_PATH, RESOLVE_NO_XDEV), "18");
		CHECK_TEXT(leads_to("a/b", O_PATH, RESOLVE_NO_XDEV), ROOT "/a/b");
		CHECK_TEXT(leads_to("..", O_PATH, RESOLVE_BENEATH), "18");
		CHECK_TEXT(leads_to("a/../..", O_PATH, RESOLVE_BENEATH), "18");
		CHECK_TEXT(leads_to("absolute", O_PATH, RESOLVE_BENEATH), "18");
		CHECK_TEXT(leads_to("/a", O_PATH, RESOLVE_BENEATH), "18");
		CHECK_TEXT(leads_to("relative/file", O_PATH, RESOLVE_BENEATH), ROOT "/a/b/file");
	}
}

IN_BED(test_magic_links)
{
	plant();
	bed_directory(ROOT "/proc");
	TRY(mount("proc", ROOT "/proc", "proc", 0, NULL));
	BOTH_WAYS {
		CHECK_TEXT(leads_to("proc/self/root", O_PATH, 0), "40");
		CHECK_TEXT(leads_to("proc/self/cwd/etc", O_PATH, 0), "40");
		CHECK_TEXT(leads_to("proc/self/exe", O_RDONLY, 0), "40");
		CHECK(atoi(leads_to("proc/self/ns/mnt", O_PATH, 0)) > 0);
		CHECK(strstr(leads_to("proc/self/root", O_PATH | O_NOFOLLOW, 0), "/root"));
		CHECK(strstr(leads_to("proc/mounts", O_RDONLY, 0), "/mounts")); /* an ordinary symlink */
	}
}

IN_BED(test_makes_directories)
{
	uint64_t before;

	plant();
	before = bed_sum(AT_FDCWD, DECOY);
	BOTH_WAYS {
		const char *prefix = way_ ? "walk" : "kernel";
		char path[256], link[32];
		int fd;

		snprintf(path, sizeof(path), "/absolute/%s/../%s/new", prefix, prefix);
		fd = securepath_make_directories(m->rootfs, path, 0711);
		CHECK(fd >= 0);
		CHECK_EQUAL(readlink(wherry_fd_path(fd, link), path, sizeof(path)), (ssize_t)(strlen(ROOT "/a/b/" "/new") + strlen(prefix)));
		close(fd);
		snprintf(path, sizeof(path), ROOT "/a/b/%s/new", prefix);
		CHECK_EQUAL(bed_mode(path), S_IFDIR | 0711);
		*strrchr(path, '/') = 0;
		CHECK_EQUAL(bed_mode(path), S_IFDIR | 0755);
		CHECK_EQUAL(securepath_make_directories(m->rootfs, "loop/x", 0755), -ELOOP);
		CHECK_EQUAL(securepath_make_directories(m->rootfs, "a/b/file", 0755), -ENOTDIR);
		CHECK_EQUAL(securepath_make_directories(m->rootfs, "a/b/file/x", 0755), -ENOTDIR);
		fd = securepath_make_directories(m->rootfs, "a/up", 0755);
		CHECK(fd >= 0);
		close(fd);
		/* a symlink that leads out makes its path inside */
		fd = securepath_make_directories(m->rootfs, "escape/deep/er", 0755);
		CHECK(fd >= 0);
		close(fd);
		CHECK_EQUAL(bed_mode(ROOT DECOY "/deep/er"), S_IFDIR | 0755);
		fd = securepath_make_directories(m->rootfs, "dangling", 0755);
		CHECK(fd >= 0);
		close(fd);
		CHECK_EQUAL(bed_mode(ROOT "/nowhere/at/all"), S_IFDIR | 0755);
	}
	CHECK(before == bed_sum(AT_FDCWD, DECOY));
}

IN_BED(test_makes_files_and_parents)
{
	plant();
	BOTH_WAYS {
		const char *name;
		char target[256];
		int fd;

		unlink(ROOT "/a/escape");
		snprintf(target, sizeof(target), "../../.." DECOY "/made%d", way_);
		TRY(symlink(target, ROOT "/a/escape"));
		fd = securepath_make_file(m->rootfs, "a/escape", 0640);
		CHECK(fd >= 0);
		close(fd);
		snprintf(target, sizeof(target), ROOT DECOY "/made%d", way_);
		CHECK_EQUAL(bed_mode(target), S_IFREG | 0640);
		snprintf(target, sizeof(target), DECOY "/made%d", way_);
		CHECK_EQUAL(bed_mode(target), 0);
		/* a target that is there on the host, not here */
		unlink(ROOT DECOY "/file");
		unlink(ROOT "/a/host");
		TRY(symlink(DECOY "/file", ROOT "/a/host"));
		check_inside(securepath_make_file(m->rootfs, "a/host", 0640));
		CHECK_EQUAL(bed_mode(ROOT DECOY "/file"), S_IFREG | 0640);
		CHECK_EQUAL(bed_mode(DECOY "/file"), S_IFREG | 0644);
		fd = securepath_make_file(m->rootfs, "a/b/file", 0600);
		CHECK(fd >= 0);
		close(fd);
		CHECK_EQUAL(bed_mode(ROOT "/a/b/file"), S_IFREG | 0644);
		CHECK_TEXT(bed_content(ROOT "/a/b/file"), "root");
		snprintf(target, sizeof(target), "p%d/q/name", way_);
		fd = securepath_parent(m->rootfs, target, &name);
		CHECK(fd >= 0);
		CHECK_TEXT(name, "name");
		close(fd);
		snprintf(target, sizeof(target), ROOT "/p%d/q", way_);
		CHECK_EQUAL(bed_mode(target), S_IFDIR | 0755);
		fd = securepath_parent(m->rootfs, "name", &name);
		CHECK(fd >= 0);
		close(fd);
		CHECK_EQUAL(securepath_parent(m->rootfs, "/a/..", &name), -EINVAL);
		CHECK_EQUAL(securepath_parent(m->rootfs, "/", &name), -EINVAL);
		CHECK_EQUAL(securepath_parent(m->rootfs, "/a/", &name), -EINVAL);
	}
}

IN_BED(test_long_paths)
{
	char path[9000];

	plant();
	memset(path, '/', sizeof(path));
	path[sizeof(path) - 1] = 0;
	BOTH_WAYS {
		CHECK_EQUAL(securepath_open(m->rootfs, path, O_PATH, 0), -ENAMETOOLONG);
		CHECK_EQUAL(securepath_make_directories(m->rootfs, path, 0755), -ENAMETOOLONG);
	}
	/* forty links, each with a text of nearly the longest path: the walk refuses, it does not write past its buffer */
	path[0] = 0;
	for (int i = 0; i < 2040; i++)
		strcat(path, "./");
	strcat(path, "l");
	TRY(symlink(path, ROOT "/l"));
	BOTH_WAYS
		CHECK(securepath_open(m->rootfs, "l/l/l/l/l/l", O_PATH, 0) < 0);
}

/* ---- the two ways agree ---------------------------------------------------------------------------------------------- */

static unsigned int seed = 20260101;

static unsigned int random_below(unsigned int limit)
{
	seed = seed * 1103515245 + 12345;
	return (seed >> 8) % limit;
}

static void random_path(char *out, size_t size, bool absolute)
{
	static const char *const names[] = { "a", "b", "c", "d", "..", ".", "l0", "l1", "l2", "l3", "" };
	int parts = 1 + (int)random_below(6);

	snprintf(out, size, "%s", absolute ? "/" : "");
	for (int i = 0; i < parts; i++) {
		strncat(out, names[random_below(WHERRY_LENGTH(names))], size - strlen(out) - 1);
		if (i + 1 < parts || !random_below(5))
			strncat(out, "/", size - strlen(out) - 1);
	}
	if (!*out)
		strcpy(out, ".");
}

static void plant_at_random(void)
{
	char path[512], text[256];

	for (int i = 0; i < 60; i++) {
		static const char *const levels[] = { "", "/a", "/b", "/a/b", "/b/a", "/a/c", "/c", "/a/b/d" };
		const char *at = levels[random_below(WHERRY_LENGTH(levels))];

		switch (random_below(4)) {
		case 0:
			snprintf(path, sizeof(path), ROOT "%s/l%u", at, random_below(4));
			random_path(text, sizeof(text), random_below(2));
			(void)!symlink(text, path);
			break;
		case 1:
			snprintf(path, sizeof(path), ROOT "%s/%c", at, 'a' + (int)random_below(4));
			close(open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644));
			break;
		default:
			snprintf(path, sizeof(path), ROOT "%s/%c", at, 'a' + (int)random_below(4));
			mkdir(path, 0755);
		}
	}
}

static void compare(const char *path, int flags, uint64_t resolve)
{
	struct stat a = { .st_dev = 0 }, b = { .st_dev = 0 };
	int one, other;

	securepath_without_openat2 = false;
	one = securepath_open(m->rootfs, path, flags, resolve);
	securepath_without_openat2 = true;
	other = securepath_open(m->rootfs, path, flags, resolve);
	if (one >= 0)
		TRY(fstat(one, &a));
	if (other >= 0)
		TRY(fstat(other, &b));
	if ((one < 0 || other < 0) ? one != other : a.st_ino != b.st_ino || a.st_dev != b.st_dev) {
		fprintf(stderr, "%s (flags %x, resolve %x): %d by the kernel, %d by the walk\n", path, flags, (unsigned int)resolve, one, other);
		check_failures++;
	}
	if (one >= 0)
		close(one);
	if (other >= 0)
		close(other);
}

IN_BED(test_ways_agree)
{
	static const int flags[] = { O_PATH, O_PATH | O_NOFOLLOW, O_PATH | O_DIRECTORY, O_RDONLY, O_RDONLY | O_NOFOLLOW };
	static const uint64_t resolves[] = { 0, 0, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH };
	char path[256];

	bed_make();
	for (int i = 0; i < PATHS && check_failures < 10; i++) {
		if (i % 1000 == 0)
			plant_at_random();
		random_path(path, sizeof(path), random_below(2));
		compare(path, flags[random_below(WHERRY_LENGTH(flags))], resolves[random_below(WHERRY_LENGTH(resolves))]);
	}
}

/* ---- races ----------------------------------------------------------------------------------------------------------- */

/* ROOT/door is a directory or a symlink to the decoy, from one moment to the next; /x/y/../.. leads over a moving bridge. */
static void race(void (*look)(void))
{
	uint64_t before;
	pid_t door, bridge;

	alarm(100);
	bed_make();
	bed_directory(ROOT "/door");
	bed_directory(ROOT "/door/directory");
	build_write(ROOT "/door/file", "root", 0644);
	TRY(symlink(DECOY, ROOT "/symlink"));
	bed_directory(ROOT "/x");
	bed_directory(ROOT "/x/y");
	bed_directory(ROOT "/y");
	before = bed_sum(AT_FDCWD, DECOY);
	door = bed_flip(ROOT "/door", ROOT "/symlink");
	bridge = bed_flip(ROOT "/x/y", ROOT "/y");
	BOTH_WAYS
		for (int i = 0; i < FLIPS / 2; i++)
			look();
	bed_end(door);
	bed_end(bridge);
	CHECK(before == bed_sum(AT_FDCWD, DECOY));
}

static void open_through_door(void)
{
	check_inside(securepath_open(m->rootfs, "door/file", O_PATH, 0));
	check_inside(securepath_open(m->rootfs, "door", O_RDONLY | O_DIRECTORY, 0));
	check_inside(securepath_open(m->rootfs, "x/y/../../door/directory/../file", O_RDONLY, 0));
}

IN_BED(test_race_open)
{
	race(open_through_door);
}

static void make_only(void)
{
	const char *name;
	int fd;

	check_inside(securepath_make_directories(m->rootfs, "door/made/deep", 0755));
	check_inside(securepath_make_file(m->rootfs, "x/y/../../door/directory/made", 0644));
	check_inside(securepath_parent(m->rootfs, "door/directory/other/name", &name));
	/* what there is to make again; below the rootfs, since the door may be open to the decoy */
	fd = securepath_open(m->rootfs, "door", O_PATH | O_DIRECTORY, 0);
	if (fd >= 0) {
		unlinkat(fd, "made/deep", AT_REMOVEDIR);
		unlinkat(fd, "made", AT_REMOVEDIR);
		unlinkat(fd, "directory/made", 0);
		close(fd);
	}
}

IN_BED(test_race_make)
{
	race(make_only);
}

/* ---- procfs ---------------------------------------------------------------------------------------------------------- */

IN_BED(test_open_procfs)
{
	struct statfs fs;
	int fd;

	bed_make();
	fd = open_procfs(m);
	CHECK(fd >= 0);
	TRY(fstatfs(fd, &fs));
	CHECK_EQUAL(fs.f_type, PROC_SUPER_MAGIC);
	CHECK(faccessat(fd, "sys/kernel/hostname", F_OK, 0) == 0);
	/* nobody mounts anything over a file of it */
	TRY(mount("/dev/null", "/proc/sys/kernel/hostname", NULL, MS_BIND, NULL));
	CHECK(securepath_open(fd, "sys/kernel/hostname", O_RDONLY, RESOLVE_BENEATH | RESOLVE_NO_XDEV) >= 0);
	close(fd);
	fd = open_procfs_mounted(m);
	CHECK(fd >= 0);
	CHECK_EQUAL(securepath_open(fd, "sys/kernel/hostname", O_RDONLY, RESOLVE_BENEATH | RESOLVE_NO_XDEV), -EXDEV);
}

IN_BED(test_false_procfs)
{
	bed_make();
	TRY(mount(DECOY, "/proc", NULL, MS_BIND, NULL));
	CHECK_EQUAL(open_procfs_mounted(m), -WHERRY_NOT_PROCFS);
	TRY(umount2("/proc", 0));
	TRY(mount("/proc/sys", "/proc", NULL, MS_BIND, NULL)); /* procfs, but not its root */
	CHECK_EQUAL(open_procfs_mounted(m), -WHERRY_NOT_PROCFS);
}

static const struct check_case cases[] = {
	{ "stays_inside", test_stays_inside },
	{ "what_the_caller_forbids", test_what_the_caller_forbids },
	{ "magic_links", test_magic_links },
	{ "makes_directories", test_makes_directories },
	{ "makes_files_and_parents", test_makes_files_and_parents },
	{ "long_paths", test_long_paths },
	{ "ways_agree", test_ways_agree },
	{ "race_open", test_race_open },
	{ "race_make", test_race_make },
	{ "open_procfs", test_open_procfs },
	{ "false_procfs", test_false_procfs },
};

CHECK_MAIN(cases)
