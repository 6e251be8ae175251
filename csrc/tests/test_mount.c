/* SPDX-License-Identifier: Apache-2.0
 *
 * Mounts on a hostile rootfs: what is attached where, with which flags, and what is refused. With the mount API of today's kernels and
 * with what stands in for it on older ones.
 */
#include "mounts.h"

enum { RACES = 150, ROOT_RACES = 3000 };

/* ---- binds ----------------------------------------------------------------------------------------------------------- */

IN_BED(test_bind_makes_its_place)
{
	begin();
	CHECK_EQUAL(bind(DECOY, "/made/directory", &none, WHERRY_MOUNT_CREATE), 0);
	CHECK_TEXT(bed_content(ROOT "/made/directory/file"), "host");
	CHECK_EQUAL(bed_mode(ROOT "/made"), S_IFDIR | 0755);
	CHECK_EQUAL(bind(DECOY "/file", "/made/file", &none, WHERRY_MOUNT_CREATE), 0);
	CHECK_TEXT(bed_content(ROOT "/made/file"), "host");
	TRY(umount2(ROOT "/made/file", 0));
	CHECK_EQUAL(bed_mode(ROOT "/made/file"), S_IFREG | 0644);
	CHECK_EQUAL(bind(DECOY, "/missing", &none, 0), -ENOENT);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_OPENAT2);
	CHECK_EQUAL(bind(DECOY "/file", "/etc", &none, WHERRY_MOUNT_CREATE), -ENOTDIR);
	CHECK_EQUAL(bind(DECOY "/nothing", "/etc", &none, WHERRY_MOUNT_CREATE), -ENOENT);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_OPEN_TREE);
	/* over one another */
	CHECK_EQUAL(bind(DECOY "/directory", "/made/directory", &none, 0), 0);
	CHECK_TEXT(bed_content(ROOT "/made/directory/inner"), "host");
	/* a relative destination counts from "/" */
	CHECK_EQUAL(bind(DECOY, "made/relative", &none, WHERRY_MOUNT_CREATE), 0);
	CHECK_TEXT(bed_content(ROOT "/made/relative/file"), "host");
}

IN_BED(test_bind_through_symlinks)
{
	static const char *const places[] = { "/dev", "/dev/pts", "/etc", "/etc/resolv.conf", "/sys" };
	uint64_t before;

	for (int way = 0; way < 2; way++) {
		begin();
		securepath_without_openat2 = way;
		TRY(rmdir(ROOT "/etc"));
		TRY(rmdir(ROOT "/dev"));
		TRY(rmdir(ROOT "/sys"));
		TRY(symlink(DECOY, ROOT "/dev"));
		TRY(symlink("../../.." DECOY "/directory", ROOT "/etc"));
		TRY(symlink(DECOY "/not/there", ROOT "/sys"));
		build_write(BED "/file", "new", 0644);
		bed_directory(BED "/directory");
		before = bed_sum(AT_FDCWD, DECOY);
		for (size_t i = 0; i < WHERRY_LENGTH(places); i++)
			CHECK_EQUAL(bind(i == 3 ? BED "/file" : BED "/directory", places[i], &none, WHERRY_MOUNT_CREATE), 0);
		CHECK(before == bed_sum(AT_FDCWD, DECOY));
		CHECK_TEXT(bed_mountinfo(DECOY "/pts"), "");
		CHECK(*bed_mountinfo(ROOT DECOY));
		CHECK(*bed_mountinfo(ROOT DECOY "/pts"));
		CHECK(*bed_mountinfo(ROOT DECOY "/directory"));
		CHECK_TEXT(bed_content(ROOT DECOY "/directory/resolv.conf"), "new");
		CHECK(*bed_mountinfo(ROOT DECOY "/not/there"));
	}
}

static void flags_of_binds(void)
{
	const struct wherry_attributes readonly = { .set = MOUNT_ATTR_RDONLY };
	const struct wherry_attributes cleared = { .set = MOUNT_ATTR_NOEXEC, .clear = MOUNT_ATTR_NOSUID | MOUNT_ATTR_RDONLY };
	const struct wherry_attributes atime = { .set = MOUNT_ATTR_NOATIME, .clear = MOUNT_ATTR__ATIME };
	const struct wherry_attributes links = { .set = MOUNT_ATTR_NOSYMFOLLOW };

	begin();
	TRY(mount(NULL, DECOY, NULL, MS_REMOUNT | MS_BIND | MS_NOSUID | MS_RELATIME, NULL));
	CHECK_EQUAL(bind(DECOY, "/etc", &none, 0), 0);
	CHECK_EQUAL(bed_flags(ROOT "/etc"), MS_NOSUID | ST_RELATIME);
	CHECK_EQUAL(bind(DECOY, "/etc", &readonly, 0), 0);
	CHECK_EQUAL(bed_flags(ROOT "/etc"), MS_NOSUID | MS_RDONLY | ST_RELATIME);
	CHECK_EQUAL(bind(DECOY, "/etc", &cleared, 0), 0);
	CHECK_EQUAL(bed_flags(ROOT "/etc"), MS_NOEXEC | ST_RELATIME);
	CHECK_EQUAL(bind(DECOY, "/etc", &atime, 0), 0);
	CHECK_EQUAL(bed_flags(ROOT "/etc"), MS_NOSUID | ST_NOATIME);
	CHECK_EQUAL(bind(DECOY "/file", "/tmp/file", &links, WHERRY_MOUNT_CREATE), 0);
	CHECK_EQUAL(bed_flags(ROOT "/tmp/file"), MS_NOSUID | ST_NOSYMFOLLOW | ST_RELATIME);
	/* the source stays as it was */
	CHECK_EQUAL(bed_flags(DECOY), MS_NOSUID | ST_RELATIME);
}

IN_BED(test_bind_flags)
{
	flags_of_binds();
}

IN_BED(test_bind_flags_before_5_12)
{
	const struct wherry_attributes recursive = { .recursive_set = MOUNT_ATTR_RDONLY };

	mount_without_setattr = true;
	flags_of_binds();
	CHECK_EQUAL(bind(DECOY, "/etc", &recursive, 0), -WHERRY_UNSUPPORTED);
}

IN_BED(test_bind_recursive)
{
	const struct wherry_attributes recursive = { .recursive_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOATIME, .recursive_clear = MOUNT_ATTR__ATIME };
	const struct wherry_attributes top = { .set = MOUNT_ATTR_RDONLY };
	const struct wherry_attributes both = { .clear = MOUNT_ATTR_RDONLY, .recursive_set = MOUNT_ATTR_RDONLY };

	begin();
	if (mount_without_setattr) {
		fprintf(stderr, "bind_recursive: not tested, the kernel has no mount_setattr\n");
		return;
	}
	TRY(mount("sub", DECOY "/directory", "tmpfs", 0, NULL));
	CHECK_EQUAL(bind(DECOY, "/etc", &recursive, 0), 0);
	CHECK_EQUAL(bed_flags(ROOT "/etc"), MS_RDONLY | ST_NOATIME);
	CHECK_EQUAL(bed_flags(ROOT "/etc/directory"), MS_RDONLY | ST_NOATIME);
	CHECK_EQUAL(bind(DECOY, "/etc", &top, 0), 0);
	CHECK_EQUAL(bed_flags(ROOT "/etc"), MS_RDONLY | ST_RELATIME);
	CHECK_EQUAL(bed_flags(ROOT "/etc/directory"), ST_RELATIME);
	CHECK_EQUAL(bind(DECOY, "/etc", &both, 0), 0);
	CHECK_EQUAL(bed_flags(ROOT "/etc"), MS_RDONLY | ST_RELATIME);
}

static void propagations(void)
{
	const struct wherry_attributes shared = { .propagation = { MS_SHARED | MS_REC } };
	const struct wherry_attributes slave = { .propagation = { MS_SLAVE } };
	const struct wherry_attributes in_order = { .propagation = { MS_SLAVE | MS_REC, MS_SHARED } };
	const struct wherry_attributes unbindable = { .propagation = { MS_PRIVATE, MS_UNBINDABLE } };

	begin();
	TRY(mount(NULL, DECOY, NULL, MS_SHARED, NULL));
	CHECK_EQUAL(bind(DECOY, "/etc", &none, 0), 0);
	CHECK(strstr(bed_mountinfo(ROOT "/etc"), "shared:") && !strstr(bed_mountinfo(ROOT "/etc"), "master:"));
	CHECK_EQUAL(bind(DECOY, "/dev", &slave, 0), 0);
	CHECK(!strstr(bed_mountinfo(ROOT "/dev"), "shared:") && strstr(bed_mountinfo(ROOT "/dev"), "master:"));
	CHECK_EQUAL(bind(DECOY, "/sys", &in_order, 0), 0);
	CHECK(strstr(bed_mountinfo(ROOT "/sys"), "shared:") && strstr(bed_mountinfo(ROOT "/sys"), "master:"));
	CHECK_EQUAL(bind(DECOY, "/tmp", &unbindable, 0), 0);
	CHECK(strstr(bed_mountinfo(ROOT "/tmp"), "unbindable"));
	TRY(mount(NULL, DECOY, NULL, MS_PRIVATE, NULL));
	CHECK_EQUAL(bind(DECOY, "/proc/../opt", &shared, WHERRY_MOUNT_CREATE), 0);
	CHECK(strstr(bed_mountinfo(ROOT "/opt"), "shared:"));
}

IN_BED(test_bind_propagation)
{
	propagations();
}

IN_BED(test_bind_propagation_before_5_12)
{
	mount_without_setattr = true;
	propagations();
}

IN_BED(test_bind_on_the_root)
{
	const struct wherry_attributes nosuid = { .set = MOUNT_ATTR_NOSUID };
	struct wherry_op_mount_attributes late = { .attributes = { .set = MOUNT_ATTR_NODEV } };
	struct stat root;

	begin();
	late.destination = build_text("/");
	TRY(symlink("/", ROOT "/home"));
	CHECK_EQUAL(bind(DECOY, "/home", &none, WHERRY_MOUNT_CREATE), -WHERRY_NOT_IN_ROOTFS);
	CHECK_EQUAL(bind(DECOY, "//", &nosuid, 0), 0);
	TRY(fstat(m->rootfs, &root));
	CHECK(root.st_dev == bed_device(DECOY));
	/* what comes after goes into the new root */
	CHECK_EQUAL(fs("tmpfs", "/directory", "size=1m", 0, 0), 0);
	CHECK_TEXT(bed_content(DECOY "/directory/inner"), "host");
	CHECK_EQUAL(securepath_open(m->rootfs, "directory/inner", O_PATH, 0), -ENOENT);
	CHECK_EQUAL(op_mount_attributes(m, &late), 0);
	CHECK_EQUAL(mount_current_attributes(m->rootfs), MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
	CHECK_EQUAL(fs("tmpfs", "/", "size=1m", 0, 0), 0);
	CHECK_EQUAL(securepath_open(m->rootfs, "directory", O_PATH, 0), -ENOENT);
	mount_without_fsopen = true;
	CHECK_EQUAL(fs("tmpfs", "/", "size=1m", 0, 0), -WHERRY_UNSUPPORTED);
}

/* ---- procfs ---------------------------------------------------------------------------------------------------------- */

IN_BED(test_nothing_below_proc)
{
	begin();
	TRY(symlink("/proc", ROOT "/alias"));
	bed_directory(ROOT "/real");
	CHECK_EQUAL(bind(DECOY, "/proc", &none, 0), -WHERRY_NOT_PROCFS);
	CHECK_EQUAL(bind(DECOY, "proc/", &none, 0), -WHERRY_NOT_PROCFS);
	CHECK_EQUAL(fs("tmpfs", "/proc", NULL, 0, 0), -WHERRY_NOT_PROCFS);
	CHECK_EQUAL(fs("proc", "/proc", NULL, 0, WHERRY_MOUNT_PROC_TARGET), 0);
	CHECK_EQUAL(bed_type(ROOT "/proc"), PROC_SUPER_MAGIC);
	CHECK_EQUAL(bind(DECOY, "/alias", &none, 0), -WHERRY_NOT_PROCFS);
	CHECK_EQUAL(bind(DECOY "/file", "/proc/self/attr/current", &none, 0), -WHERRY_INSIDE_PROC);
	CHECK_EQUAL(bind(DECOY "/file", "/alias/sys/kernel/core_pattern", &none, 0), -WHERRY_INSIDE_PROC);
	CHECK_EQUAL(fs("tmpfs", "/alias/sys", NULL, 0, 0), -WHERRY_INSIDE_PROC);
	CHECK_EQUAL(fs("proc", "/proc/sys", NULL, 0, WHERRY_MOUNT_PROC_TARGET), -WHERRY_INSIDE_PROC);
	CHECK_EQUAL(bind(DECOY "/file", "/proc/uptime", &none, WHERRY_MOUNT_ON_PROC), 0);
	CHECK_TEXT(bed_content(ROOT "/proc/uptime"), "host");
	/* procfs over procfs, new or bound */
	CHECK_EQUAL(fs("proc", "/proc", NULL, MOUNT_ATTR_NOSUID, WHERRY_MOUNT_PROC_TARGET), 0);
	CHECK_EQUAL(bind("/proc", "/proc", &none, 0), 0);
	/* a place that only sounds like it */
	CHECK_EQUAL(bind(DECOY, "/proc2", &none, WHERRY_MOUNT_CREATE), 0);
}

IN_BED(test_proc_wants_a_real_directory)
{
	for (int way = 0; way < 2; way++) {
		begin();
		securepath_without_openat2 = way;
		TRY(rmdir(ROOT "/proc"));
		TRY(symlink(DECOY "/directory", ROOT "/proc"));
		CHECK_EQUAL(fs("proc", "/proc", NULL, 0, WHERRY_MOUNT_PROC_TARGET | WHERRY_MOUNT_CREATE), -WHERRY_SYMLINK_REFUSED);
		TRY(unlink(ROOT "/proc"));
		TRY(symlink("/tmp", ROOT "/proc"));
		CHECK_EQUAL(fs("proc", "/proc", NULL, 0, WHERRY_MOUNT_PROC_TARGET | WHERRY_MOUNT_CREATE), -WHERRY_SYMLINK_REFUSED);
		CHECK_EQUAL(fs("sysfs", "/proc/x", NULL, 0, WHERRY_MOUNT_PROC_TARGET | WHERRY_MOUNT_CREATE), -WHERRY_SYMLINK_REFUSED);
		TRY(unlink(ROOT "/proc"));
		TRY(symlink("/dangling", ROOT "/proc"));
		CHECK_EQUAL(fs("proc", "/proc", NULL, 0, WHERRY_MOUNT_PROC_TARGET | WHERRY_MOUNT_CREATE), -WHERRY_SYMLINK_REFUSED);
		CHECK_EQUAL(bed_mode(ROOT "/dangling"), 0);
		TRY(unlink(ROOT "/proc"));
		build_write(ROOT "/proc", "", 0644);
		CHECK_EQUAL(fs("proc", "/proc", NULL, 0, WHERRY_MOUNT_PROC_TARGET | WHERRY_MOUNT_CREATE), -ENOTDIR);
		TRY(unlink(ROOT "/proc"));
		CHECK_EQUAL(fs("proc", "/proc", NULL, 0, WHERRY_MOUNT_PROC_TARGET | WHERRY_MOUNT_CREATE), 0);
		CHECK_EQUAL(bed_type(ROOT "/proc"), PROC_SUPER_MAGIC);
	}
}

/* One of two containers that share a volume is made, while the other swaps directories for symlinks (CVE-2019-19921, CVE-2021-30465). */
static void make_in_race(void)
{
	int result;

	TRY(unshare(CLONE_NEWNS)); /* whoever flips names is elsewhere, so that our mounts do not keep them in place */
	close(m->rootfs);
	m->rootfs = open(ROOT, O_PATH | O_DIRECTORY | O_CLOEXEC);
	result = fs("proc", "/proc", NULL, 0, WHERRY_MOUNT_PROC_TARGET);
	CHECK(result == 0 || result == -WHERRY_SYMLINK_REFUSED);
	result = bind(BED, "/symlink/x", &none, WHERRY_MOUNT_CREATE);
	CHECK(result == 0 || result == -WHERRY_INSIDE_PROC || result == -ENOENT);
	CHECK_TEXT(bed_mountinfo(DECOY "/directory"), "");
	CHECK_TEXT(bed_mountinfo(DECOY "/directory/x"), "");
}

static void race(int way)
{
	uint64_t before;
	pid_t flipper;

	begin();
	alarm(100);
	securepath_without_openat2 = way;
	TRY(symlink(DECOY "/directory", ROOT "/symlink"));
	before = bed_sum(AT_FDCWD, DECOY);
	flipper = bed_flip(ROOT "/proc", ROOT "/symlink");
	for (int i = 0; i < RACES; i++)
		in_child(make_in_race);
	bed_end(flipper);
	CHECK(before == bed_sum(AT_FDCWD, DECOY));
}

IN_BED(test_race_with_symlinks)
{
	race(0);
}

IN_BED(test_race_with_symlinks_walking)
{
	race(1);
}

static int open_root(const char *source, uint32_t flags)
{
	const struct wherry_op_open_tree op = { .source = build_template(source), .flags = flags | WHERRY_TREE_NO_SYMLINK, .out = TREE };

	return op_open_tree(m, &op);
}

IN_BED(test_a_rootfs_that_is_a_symlink)
{
	begin();
	TRY(symlink(DECOY, BED "/link"));
	CHECK_EQUAL(open_root(BED "/link", WHERRY_TREE_RECURSIVE), -WHERRY_SYMLINK_REFUSED);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_OPEN_TREE);
	CHECK_EQUAL(open_root(BED "/missing", 0), -ENOENT);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_OPEN_TREE);
	CHECK_EQUAL(m->registers[TREE], -1);
	CHECK_EQUAL(open_root(BED "/link/directory", 0), 0); /* on the way there it may be one */
	CHECK_EQUAL(faccessat(m->registers[TREE], "inner", F_OK, 0), 0);
	wherry_close(&m->registers[TREE]);
}

/* What was looked at is what is taken, however the name is swapped meanwhile. */
IN_BED(test_race_with_the_rootfs)
{
	int taken = 0, refused = 0;
	pid_t flipper;

	begin();
	alarm(100);
	bed_directory(BED "/real");
	TRY(symlink(DECOY, BED "/link"));
	flipper = bed_flip(BED "/real", BED "/link");
	for (int i = 0; i < ROOT_RACES || (i < 100 * ROOT_RACES && !(taken && refused)); i++) {
		int result = open_root(BED "/real", 0);

		CHECK(result == 0 || result == -WHERRY_SYMLINK_REFUSED);
		if (result == 0)
			CHECK(faccessat(m->registers[TREE], "file", F_OK, 0) < 0); /* not the decoy */
		taken += result == 0;
		refused += result != 0;
		wherry_close(&m->registers[TREE]);
	}
	bed_end(flipper);
	CHECK(taken && refused);
}

/* ---- user namespaces ------------------------------------------------------------------------------------------------------ */

static void locked_flags(void)
{
	const struct wherry_attributes implicit = { .set = MOUNT_ATTR_NODEV, .clear = MOUNT_ATTR_NOSUID | MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC };
	const struct wherry_attributes explicit = { .clear = MOUNT_ATTR_RDONLY };
	const struct wherry_attributes atime = { .set = MOUNT_ATTR_NOATIME, .clear = MOUNT_ATTR__ATIME };
	const struct wherry_attributes both = { .set = MOUNT_ATTR_NOATIME, .clear = MOUNT_ATTR__ATIME | MOUNT_ATTR_NOSUID };
	const struct wherry_attributes recursive = { .recursive_clear = MOUNT_ATTR_RDONLY };

	enter_root();
	CHECK_EQUAL(bind(DECOY, "/made", &implicit, WHERRY_MOUNT_CREATE | WHERRY_MOUNT_KEEP_LOCKED), 0);
	CHECK_EQUAL(bed_flags(ROOT "/made"), MS_NOSUID | MS_RDONLY | MS_NODEV | ST_RELATIME);
	CHECK_EQUAL(bind(DECOY, "/made", &explicit, 0), -WHERRY_LOCKED_FLAG);
	CHECK_EQUAL(bind(DECOY, "/made", &atime, WHERRY_MOUNT_KEEP_LOCKED), -WHERRY_LOCKED_FLAG);
	CHECK_EQUAL(bind(DECOY, "/made", &both, WHERRY_MOUNT_KEEP_LOCKED), -WHERRY_LOCKED_FLAG);
	if (!mount_without_setattr)
		CHECK_EQUAL(bind(DECOY, "/made", &recursive, WHERRY_MOUNT_KEEP_LOCKED), -WHERRY_LOCKED_FLAG);
	/* nor can the container's root do it afterwards */
	CHECK(mount(NULL, ROOT "/made", NULL, MS_REMOUNT | MS_BIND | MS_NOSUID, NULL) < 0 && errno == EPERM);
}

IN_BED(test_locked_flags)
{
	begin_for_user();
	bed_in_user_namespace(HOST_ID, CLONE_NEWNS, locked_flags);
}

IN_BED(test_locked_flags_before_5_12)
{
	mount_without_setattr = true;
	begin_for_user();
	bed_in_user_namespace(HOST_ID, CLONE_NEWNS, locked_flags);
}

static const struct check_case cases[] = {
	{ "bind_makes_its_place", test_bind_makes_its_place },
	{ "bind_through_symlinks", test_bind_through_symlinks },
	{ "bind_flags", test_bind_flags },
	{ "bind_flags_before_5_12", test_bind_flags_before_5_12 },
	{ "bind_recursive", test_bind_recursive },
	{ "bind_propagation", test_bind_propagation },
	{ "bind_propagation_before_5_12", test_bind_propagation_before_5_12 },
	{ "bind_on_the_root", test_bind_on_the_root },
	{ "nothing_below_proc", test_nothing_below_proc },
	{ "proc_wants_a_real_directory", test_proc_wants_a_real_directory },
	{ "race_with_symlinks", test_race_with_symlinks },
	{ "race_with_symlinks_walking", test_race_with_symlinks_walking },
	{ "a_rootfs_that_is_a_symlink", test_a_rootfs_that_is_a_symlink },
	{ "race_with_the_rootfs", test_race_with_the_rootfs },
	{ "locked_flags", test_locked_flags },
	{ "locked_flags_before_5_12", test_locked_flags_before_5_12 },
};

CHECK_MAIN(cases)
