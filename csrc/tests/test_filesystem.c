/* SPDX-License-Identifier: Apache-2.0
 *
 * New filesystems in the rootfs, their options and contents, and the ladders of sysfs and cgroup2.
 */
#include "mounts.h"

#include <sys/xattr.h>

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

/* ---- ladders --------------------------------------------------------------------------------------------------------------- */

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
	mount_without_fsopen = false;
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
	{ "filesystems", test_filesystems },
	{ "filesystems_by_mount", test_filesystems_by_mount },
	{ "filesystems_before_5_12", test_filesystems_before_5_12 },
	{ "options_that_need_mount", test_options_that_need_mount },
	{ "attributes_and_remount", test_attributes_and_remount },
	{ "copy_up", test_copy_up },
	{ "copy_up_by_mount", test_copy_up_by_mount },
	{ "copy_up_limits", test_copy_up_limits },
	{ "sysfs_ladder", test_sysfs_ladder },
	{ "cgroup2_ladder", test_cgroup2_ladder },
};

CHECK_MAIN(cases)
