/* SPDX-License-Identifier: Apache-2.0
 *
 * Mounts on a hostile rootfs: what is attached where, with which flags, and what is refused. With the mount API of today's kernels and
 * with what stands in for it on older ones.
 */
#include "bed.h"

#include <sys/xattr.h>

#include "../core/mount.h"

enum { TREE = 1, HOST_ID = 200000, RACES = 150 };

static const struct wherry_attributes none;

static int bind(const char *source, const char *destination, const struct wherry_attributes *a, uint32_t flags)
{
	const struct wherry_op_open_tree tree = { .source = build_template(source), .recursive = true, .out = TREE };
	const struct wherry_op_mount_bind op = {
		.destination = build_text(destination), .attributes = *a, .tree = TREE, .flags = flags,
	};
	int result = op_open_tree(m, &tree);

	if (result)
		return result;
	result = op_mount_bind(m, &op);
	CHECK_EQUAL(m->registers[TREE], -1);
	return result;
}

static struct wherry_op_mount_fs request(const char *type, const char *destination, const char *data, uint64_t set, uint64_t flags)
{
	return (struct wherry_op_mount_fs){
		.destination = build_text(destination), .type = build_text(type), .source = build_template(type),
		.data = build_text(data), .attributes = { .set = set }, .flags = flags,
	};
}

static int fs(const char *type, const char *destination, const char *data, uint64_t set, uint64_t flags)
{
	const struct wherry_op_mount_fs op = request(type, destination, data, set, flags);

	return op_mount_fs(m, &op);
}

static void begin(void)
{
	bed_make();
	bed_directory(ROOT "/etc");
	bed_directory(ROOT "/dev");
	bed_directory(ROOT "/proc");
	bed_directory(ROOT "/sys");
	bed_directory(ROOT "/tmp");
	TRY(chmod(ROOT "/tmp", 01777));
}

#define IN_BED(name) \
	static void name##_in_bed(void); \
	static void name(void) \
	{ \
		in_child(name##_in_bed); \
	} \
	static void name##_in_bed(void)

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

/* ---- new filesystems ---------------------------------------------------------------------------------------------------- */

static void new_filesystems(void)
{
	struct wherry_op_mount_fs shared;

	begin();
	shared = request("tmpfs", "/tmp/shared", NULL, 0, WHERRY_MOUNT_CREATE);
	shared.source = build_template("here");
	shared.attributes.propagation[0] = MS_SHARED;
	shared.superblock = MS_SYNCHRONOUS;
	CHECK_EQUAL(fs("tmpfs", "/tmp", "size=64k,nr_inodes=10", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, WHERRY_MOUNT_TARGET_MODE), 0);
	CHECK_EQUAL(bed_mode(ROOT "/tmp"), S_IFDIR | 01777);
	CHECK(strstr(bed_mountinfo(ROOT "/tmp"), "size=64k"));
	CHECK_EQUAL(bed_flags(ROOT "/tmp"), MS_NOSUID | MS_NODEV | MS_NOEXEC | ST_RELATIME);
	/* the mode of what is there, unless the options say another */
	TRY(chmod(ROOT "/etc", 02750));
	CHECK_EQUAL(fs("tmpfs", "/etc", NULL, 0, WHERRY_MOUNT_TARGET_MODE), 0);
	CHECK_EQUAL(bed_mode(ROOT "/etc"), S_IFDIR | 02750);
	CHECK_EQUAL(fs("tmpfs", "/etc", "mode=711,uid=7", 0, WHERRY_MOUNT_TARGET_MODE), 0);
	CHECK_EQUAL(bed_mode(ROOT "/etc"), S_IFDIR | 0711);
	CHECK_EQUAL(fs("tmpfs", "/run/made", "", 0, WHERRY_MOUNT_TARGET_MODE | WHERRY_MOUNT_CREATE), 0);
	CHECK_EQUAL(bed_mode(ROOT "/run/made"), S_IFDIR | 01777);
	CHECK_EQUAL(fs("devpts", "/dev/pts", "newinstance,ptmxmode=0666,mode=0620,gid=5", MOUNT_ATTR_NOEXEC, WHERRY_MOUNT_CREATE), 0);
	CHECK_EQUAL(bed_mode(ROOT "/dev/pts/ptmx"), S_IFCHR | 0666);
	CHECK_EQUAL(fs("mqueue", "/dev/mqueue", NULL, MOUNT_ATTR_RDONLY, WHERRY_MOUNT_CREATE), 0);
	CHECK_EQUAL(bed_flags(ROOT "/dev/mqueue") & MS_RDONLY, MS_RDONLY);
	CHECK_EQUAL(fs("tmpfs", "/sys", NULL, MOUNT_ATTR_RDONLY, WHERRY_MOUNT_READONLY_LATE), 0);
	CHECK_EQUAL(bed_flags(ROOT "/sys") & MS_RDONLY, 0);
	CHECK_EQUAL(op_mount_fs(m, &shared), 0);
	CHECK(strstr(bed_mountinfo(ROOT "/tmp/shared"), "shared:") && strstr(bed_mountinfo(ROOT "/tmp/shared"), "tmpfs here rw,sync"));
	CHECK_EQUAL(fs("nosuchfs", "/tmp", NULL, 0, 0), -ENODEV);
	CHECK_EQUAL(fs("tmpfs", "/tmp", "nosuchoption=1", 0, 0), -EINVAL);
	CHECK_EQUAL(m->failed_call, mount_without_fsopen ? WHERRY_CALL_MOUNT : WHERRY_CALL_FSCONFIG);
}

IN_BED(test_filesystems)
{
	new_filesystems();
}

IN_BED(test_filesystems_by_mount)
{
	mount_without_fsopen = true;
	new_filesystems();
}

IN_BED(test_filesystems_before_5_12)
{
	mount_without_setattr = mount_without_fsopen = true;
	new_filesystems();
}

/* Options that fsconfig cannot carry: longer than 255 bytes, or with overlayfs's own escapes. */
IN_BED(test_options_that_need_mount)
{
	char data[2048] = "lowerdir=";
	int result;

	begin();
	for (int i = 0; i < 12; i++) {
		char path[64];

		snprintf(path, sizeof(path), BED "/a-rather-long-name-of-a-layer-%d", i);
		bed_directory(path);
		snprintf(data + strlen(data), sizeof(data) - strlen(data), "%s%s", i ? ":" : "", path);
	}
	build_write(BED "/a-rather-long-name-of-a-layer-11/file", "lowest", 0644);
	result = fs("overlay", "/etc", data, MOUNT_ATTR_NODEV, 0);
	if (result == -ENODEV) {
		fprintf(stderr, "options_that_need_mount: not tested, the kernel has no overlayfs\n");
		return;
	}
	CHECK_EQUAL(result, 0);
	CHECK_TEXT(bed_content(ROOT "/etc/file"), "lowest");
	CHECK_EQUAL(bed_flags(ROOT "/etc") & MS_NODEV, MS_NODEV);
	bed_directory(BED "/with,comma");
	build_write(BED "/with,comma/file", "comma", 0644);
	CHECK_EQUAL(fs("overlay", "/etc", "lowerdir=" BED "/with\\,comma:" DECOY, 0, 0), 0);
	CHECK_TEXT(bed_content(ROOT "/etc/file"), "comma");
}

IN_BED(test_attributes_and_remount)
{
	for (int way = 0; way < 3; way++) {
		struct wherry_op_mount_attributes readonly = { .attributes = { .set = MOUNT_ATTR_RDONLY } }, nothing = readonly;
		struct wherry_op_remount smaller = { .attributes = { .set = MOUNT_ATTR_NOEXEC } }, of_superblock = { .superblock = MS_RDONLY };

		mount_without_setattr = way > 0;
		mount_without_fsopen = way > 1;
		begin();
		readonly.destination = smaller.destination = of_superblock.destination = build_text("/tmp");
		nothing.destination = build_text("/etc");
		smaller.data = build_text("size=128k");
		CHECK_EQUAL(fs("tmpfs", "/tmp", "size=64k", MOUNT_ATTR_NOSUID, 0), 0);
		CHECK_EQUAL(op_remount(m, &smaller), 0);
		CHECK_EQUAL(bed_flags(ROOT "/tmp"), MS_NOSUID | MS_NOEXEC | ST_RELATIME);
		CHECK(strstr(bed_mountinfo(ROOT "/tmp"), "size=128k"));
		CHECK_EQUAL(op_mount_attributes(m, &readonly), 0);
		CHECK_EQUAL(bed_flags(ROOT "/tmp"), MS_NOSUID | MS_NOEXEC | MS_RDONLY | ST_RELATIME);
		CHECK(strstr(bed_mountinfo(ROOT "/tmp"), "tmpfs rw"));
		CHECK_EQUAL(op_mount_attributes(m, &nothing), -EINVAL);
		CHECK_EQUAL(op_remount(m, &of_superblock), 0);
		CHECK(strstr(bed_mountinfo(ROOT "/tmp"), "tmpfs ro"));
	}
}

/* ---- tmpcopyup ----------------------------------------------------------------------------------------------------------- */

static void plant_copy(void)
{
	const struct timespec times[2] = { { .tv_sec = 1000 }, { .tv_sec = 2000 } };

	begin();
	build_write(ROOT "/etc/plain", "content", 0640);
	TRY(chown(ROOT "/etc/plain", 11, 22));
	TRY(chmod(ROOT "/etc/plain", 04750));
	TRY(utimensat(AT_FDCWD, ROOT "/etc/plain", times, 0));
	TRY(setxattr(ROOT "/etc/plain", "security.capability", "\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20, 0));
	TRY(setxattr(ROOT "/etc/plain", "trusted.wherry", "yes", 3, 0));
	TRY(symlink(DECOY "/file", ROOT "/etc/link"));
	TRY(lchown(ROOT "/etc/link", 33, 44));
	bed_directory(ROOT "/etc/sub");
	TRY(chmod(ROOT "/etc/sub", 03711));
	TRY(mkfifo(ROOT "/etc/sub/fifo", 0600));
	TRY(chmod(ROOT "/etc/sub/fifo", 0604));
	build_write(ROOT "/etc/sub/deep", "deep", 0600);
	bed_directory(ROOT "/etc/mounted");
	TRY(mount("other", ROOT "/etc/mounted", "tmpfs", 0, "mode=711"));
	build_write(ROOT "/etc/mounted/inside", "not this", 0600);
	TRY(chown(ROOT "/etc", 55, 66));
	TRY(chmod(ROOT "/etc", 0751));
}

static void copy(void)
{
	char value[32] = "";
	struct stat st;

	plant_copy();
	CHECK_EQUAL(fs("tmpfs", "/etc", NULL, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, WHERRY_MOUNT_COPY_UP | WHERRY_MOUNT_TARGET_MODE), 0);
	CHECK_EQUAL(bed_type(ROOT "/etc"), TMPFS_MAGIC);
	CHECK(bed_device(ROOT "/etc") != bed_device(ROOT));
	CHECK_EQUAL(bed_flags(ROOT "/etc"), MS_RDONLY | MS_NOSUID | ST_RELATIME);
	TRY(stat(ROOT "/etc", &st));
	CHECK(st.st_mode == (S_IFDIR | 0751) && st.st_uid == 55 && st.st_gid == 66);
	CHECK_TEXT(bed_content(ROOT "/etc/plain"), "content");
	TRY(stat(ROOT "/etc/plain", &st));
	CHECK(st.st_mode == (S_IFREG | 04750) && st.st_uid == 11 && st.st_gid == 22 && st.st_mtim.tv_sec == 2000);
	CHECK_EQUAL(getxattr(ROOT "/etc/plain", "security.capability", value, sizeof(value)), 20);
	CHECK_EQUAL(getxattr(ROOT "/etc/plain", "trusted.wherry", value, sizeof(value)), 3);
	TRY(lstat(ROOT "/etc/link", &st));
	CHECK(S_ISLNK(st.st_mode) && st.st_uid == 33 && st.st_gid == 44);
	memset(value, 0, sizeof(value));
	CHECK(readlink(ROOT "/etc/link", value, sizeof(value)) == (ssize_t)strlen(DECOY "/file"));
	CHECK_EQUAL(bed_mode(ROOT "/etc/sub"), S_IFDIR | 03711);
	CHECK_EQUAL(bed_mode(ROOT "/etc/sub/fifo"), S_IFIFO | 0604);
	CHECK_TEXT(bed_content(ROOT "/etc/sub/deep"), "deep");
	CHECK_EQUAL(bed_mode(ROOT "/etc/mounted"), S_IFDIR | 0711);
	CHECK_TEXT(bed_content(ROOT "/etc/mounted/inside"), "(missing)");
}

IN_BED(test_copy_up)
{
	copy();
}

IN_BED(test_copy_up_by_mount)
{
	mount_without_fsopen = mount_without_setattr = true;
	copy();
}

IN_BED(test_copy_up_limits)
{
	char path[4096] = ROOT "/etc";

	begin();
	for (int i = 0; i < 150; i++) {
		strcat(path, "/d");
		bed_directory(path);
	}
	CHECK_EQUAL(fs("tmpfs", "/etc", NULL, 0, WHERRY_MOUNT_COPY_UP), -ELOOP);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_COPY_UP);
	CHECK_TEXT(bed_mountinfo(ROOT "/etc"), "");
	build_write(ROOT "/dev/big", "0123456789", 0600);
	TRY(truncate(ROOT "/dev/big", 300000));
	CHECK_EQUAL(fs("tmpfs", "/dev", "size=64k", 0, WHERRY_MOUNT_COPY_UP), -ENOSPC);
	CHECK_EQUAL(fs("tmpfs", "/missing", NULL, 0, WHERRY_MOUNT_COPY_UP | WHERRY_MOUNT_CREATE), 0);
	CHECK_EQUAL(fs("tmpfs", "/dev", "mode=700,uid=5,gid=6", 0, WHERRY_MOUNT_COPY_UP | WHERRY_MOUNT_TARGET_MODE), 0);
	CHECK_EQUAL(bed_mode(ROOT "/dev"), S_IFDIR | 0700);
}

/* ---- user namespaces ------------------------------------------------------------------------------------------------------ */

/* The bed as a user namespace sees it: a rootfs that belongs to its root, a source with flags that are locked. */
static void begin_for_user(void)
{
	begin();
	TRY(mount(NULL, DECOY, NULL, MS_REMOUNT | MS_BIND | MS_NOSUID | MS_RDONLY, NULL));
	TRY(chown(ROOT, HOST_ID, HOST_ID));
	close(m->rootfs);
	m->rootfs = -1;
}

static void enter_root(void)
{
	m->rootfs = open(ROOT, O_PATH | O_DIRECTORY | O_CLOEXEC);
	TRY(m->rootfs);
}

static void locked_flags(void)
{
	const struct wherry_attributes implicit = { .set = MOUNT_ATTR_NODEV, .clear = MOUNT_ATTR_NOSUID | MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC };
	const struct wherry_attributes explicit = { .clear = MOUNT_ATTR_RDONLY };
	const struct wherry_attributes atime = { .set = MOUNT_ATTR_NOATIME, .clear = MOUNT_ATTR__ATIME };
	const struct wherry_attributes recursive = { .recursive_clear = MOUNT_ATTR_RDONLY };

	enter_root();
	CHECK_EQUAL(bind(DECOY, "/made", &implicit, WHERRY_MOUNT_CREATE | WHERRY_MOUNT_KEEP_LOCKED), 0);
	CHECK_EQUAL(bed_flags(ROOT "/made"), MS_NOSUID | MS_RDONLY | MS_NODEV | ST_RELATIME);
	CHECK_EQUAL(bind(DECOY, "/made", &explicit, 0), -WHERRY_LOCKED_FLAG);
	CHECK_EQUAL(bind(DECOY, "/made", &atime, WHERRY_MOUNT_KEEP_LOCKED), -WHERRY_LOCKED_FLAG);
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

static void sysfs_of_user(void)
{
	struct wherry_op_mount_fs op = request("sysfs", "/sys", NULL, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, WHERRY_MOUNT_PROC_TARGET);

	enter_root();
	CHECK_EQUAL(op_mount_sysfs(m, &op), 0);
	CHECK_EQUAL(bed_type(ROOT "/sys"), SYSFS_MAGIC);
	CHECK_EQUAL(bed_flags(ROOT "/sys") & (MS_RDONLY | MS_NOSUID), MS_RDONLY | MS_NOSUID);
	/* what stands below is as read-only */
	if (*bed_mountinfo(ROOT "/sys/fs/cgroup") && !mount_without_setattr)
		CHECK_EQUAL(bed_flags(ROOT "/sys/fs/cgroup") & MS_RDONLY, MS_RDONLY);
}

static void sysfs_of_own(void)
{
	struct wherry_op_mount_fs op = request("sysfs", "/sys", NULL, MOUNT_ATTR_NOEXEC, WHERRY_MOUNT_PROC_TARGET);

	enter_root();
	CHECK_EQUAL(op_mount_sysfs(m, &op), 0);
	CHECK_EQUAL(bed_type(ROOT "/sys"), SYSFS_MAGIC);
	CHECK_TEXT(bed_mountinfo(ROOT "/sys/fs/cgroup"), "");
}

IN_BED(test_sysfs_ladder)
{
	begin_for_user();
	bed_in_user_namespace(HOST_ID, CLONE_NEWNS, sysfs_of_user);
	bed_in_user_namespace(HOST_ID, CLONE_NEWNS | CLONE_NEWNET, sysfs_of_own);
	mount_without_setattr = true;
	bed_in_user_namespace(HOST_ID, CLONE_NEWNS, sysfs_of_user);
	mount_without_fsopen = true;
	bed_in_user_namespace(HOST_ID, CLONE_NEWNS, sysfs_of_user);
	mount_without_setattr = mount_without_fsopen = false;
	sysfs_of_own();
}

/* ---- cgroup2 ----------------------------------------------------------------------------------------------------------------- */

static char own_cgroup[256], own_mount[128];

/* A cgroup of our own in whatever cgroup2 hierarchy there is. False = there is none. */
static bool make_cgroup(void)
{
	FILE *info = fopen("/proc/self/mountinfo", "re");
	char line[4096];

	while (info && fgets(line, sizeof(line), info))
		if (strstr(line, " - cgroup2 "))
			sscanf(line, "%*s %*s %*s %*s %127s", own_mount);
	if (info)
		fclose(info);
	snprintf(own_cgroup, sizeof(own_cgroup), "%s/wherry-test-%d", own_mount, getpid());
	return *own_mount && mkdir(own_cgroup, 0755) == 0;
}

/* Steps of a plan that has made `own_cgroup` and, with `type`, cloned init with these namespaces. */
static void plan_cgroup(uint64_t type)
{
	static struct wherry_op_cgroup_directory directory;
	static struct wherry_op_clone clone;

	directory = (struct wherry_op_cgroup_directory){
		.op = { .code = OP_CGROUP_DIRECTORY }, .path = build_template(own_cgroup), .mount_length = (uint32_t)strlen(own_mount),
		.flags = WHERRY_CGROUP_V2,
	};
	clone = (struct wherry_op_clone){ .op = { .code = OP_CLONE }, .flags = type };
	m->code.step[0] = &directory.op;
	m->code.step[1] = &clone.op;
	m->code.steps = *own_cgroup ? 2 : 0;
}

static int cgroup(const char *destination)
{
	const struct wherry_op_mount_fs op = request("cgroup2", destination, NULL, MOUNT_ATTR_NOSUID | MOUNT_ATTR_RDONLY, WHERRY_MOUNT_CREATE);

	return op_mount_cgroup2(m, &op);
}

static ino_t inode(const char *path)
{
	struct stat st;

	return stat(path, &st) < 0 ? 0 : st.st_ino;
}

static void cgroup_of_user(void)
{
	enter_root();
	plan_cgroup(CLONE_NEWUSER);
	CHECK_EQUAL(cgroup("/own"), 0);
	CHECK(inode(ROOT "/own") == inode(own_cgroup));
	CHECK_EQUAL(bed_flags(ROOT "/own") & (MS_RDONLY | MS_NOSUID), MS_RDONLY | MS_NOSUID);
	m->code.steps = 0; /* no cgroup: nothing is shown */
	plan_cgroup(CLONE_NEWUSER);
	m->code.step[0] = m->code.step[1];
	m->code.steps = 1;
	CHECK_EQUAL(cgroup("/masked"), 0);
	CHECK_EQUAL(bed_type(ROOT "/masked"), TMPFS_MAGIC);
	CHECK_EQUAL(bed_flags(ROOT "/masked") & MS_RDONLY, MS_RDONLY);
	CHECK(open(ROOT "/masked/x", O_CREAT | O_WRONLY | O_CLOEXEC, 0600) < 0 && errno == EROFS);
}

static void cgroup_of_root(void)
{
	plan_cgroup(0);
	CHECK_EQUAL(cgroup("/shared"), 0);
	CHECK(inode(ROOT "/shared") == inode(own_mount));
	CHECK_EQUAL(bed_flags(ROOT "/shared") & MS_RDONLY, MS_RDONLY);
	plan_cgroup(CLONE_NEWCGROUP);
	TRY(wherry_write_file(AT_FDCWD, strcat(strcpy((char[300]){ 0 }, own_cgroup), "/cgroup.procs"), "0", 1, NULL));
	TRY(unshare(CLONE_NEWCGROUP));
	CHECK_EQUAL(cgroup("/namespaced"), 0);
	CHECK(inode(ROOT "/namespaced") == inode(own_cgroup));
	CHECK(strstr(bed_mountinfo(ROOT "/namespaced"), " / "));
}

IN_BED(test_cgroup2_ladder)
{
	begin_for_user();
	if (!make_cgroup()) {
		fprintf(stderr, "cgroup2_ladder: not tested, there is no cgroup2 hierarchy to make a cgroup in\n");
		return;
	}
	bed_in_user_namespace(HOST_ID, CLONE_NEWNS, cgroup_of_user);
	enter_root();
	in_child(cgroup_of_root);
	TRY(rmdir(own_cgroup));
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
	{ "filesystems", test_filesystems },
	{ "filesystems_by_mount", test_filesystems_by_mount },
	{ "filesystems_before_5_12", test_filesystems_before_5_12 },
	{ "options_that_need_mount", test_options_that_need_mount },
	{ "attributes_and_remount", test_attributes_and_remount },
	{ "copy_up", test_copy_up },
	{ "copy_up_by_mount", test_copy_up_by_mount },
	{ "copy_up_limits", test_copy_up_limits },
	{ "locked_flags", test_locked_flags },
	{ "locked_flags_before_5_12", test_locked_flags_before_5_12 },
	{ "sysfs_ladder", test_sysfs_ladder },
	{ "cgroup2_ladder", test_cgroup2_ladder },
};

CHECK_MAIN(cases)
