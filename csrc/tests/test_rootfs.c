/* SPDX-License-Identifier: Apache-2.0
 *
 * The rootfs attached, sealed and made "/": as root, in a user namespace that may not walk to it, on a host that shares its mounts.
 */
#include "bed.h"

#include <linux/capability.h>
#include <sys/socket.h>

#include "../core/mount.h"

enum { TREE = 1, BIND = 2, HOST_ID = 200000 };

#define SECRET BED "/secret"
#define FAR SECRET "/rootfs"

static void begin(void)
{
	static const char *const directories[] = { "/proc", "/sys", "/dev", "/etc", "/run", "/data", "/empty" };

	bed_make();
	for (size_t i = 0; i < WHERRY_LENGTH(directories); i++) {
		char path[128];

		snprintf(path, sizeof(path), ROOT "%s", directories[i]);
		bed_directory(path);
	}
	build_write(ROOT "/etc/name", "rootfs", 0644);
}

static int take_tree(const char *source, uint16_t out)
{
	const struct wherry_op_open_tree op = { .source = build_template(source), .flags = WHERRY_TREE_RECURSIVE, .out = out };

	return op_open_tree(m, &op);
}

static int attach(const char *path)
{
	const struct wherry_op_attach_rootfs op = { .path = build_template(path), .tree = TREE };

	return op_attach_rootfs(m, &op);
}

static int propagate(uint64_t flags)
{
	static struct wherry_op_propagation op;

	op = (struct wherry_op_propagation){ .op = { .code = OP_PROPAGATION }, .flags = flags };
	m->code.step[0] = &op.op;
	m->code.steps = 1;
	return op_propagation(m, &op);
}

static int pivot(uint64_t flags)
{
	const struct wherry_op_pivot op = { .flags = flags };

	return op_pivot(m, &op);
}

static int mount_proc(void)
{
	const struct wherry_op_mount_fs op = {
		.destination = build_text("/proc"), .type = build_text("proc"), .source = build_template("proc"), .flags = WHERRY_MOUNT_PROC_TARGET,
	};

	return op_mount_fs(m, &op);
}

static int mask(const char *path)
{
	const struct wherry_op_path op = { .path = build_text(path) };

	return op_masked_path(m, &op);
}

static int readonly(const char *path)
{
	const struct wherry_op_path op = { .path = build_text(path) };

	return op_readonly_path(m, &op);
}

/* How many mounts mountinfo of here tells of. */
static int count_mounts(void)
{
	FILE *info = fopen("/proc/self/mountinfo", "re");
	int count = 0, c;

	if (!info)
		return -1;
	while ((c = getc(info)) != EOF)
		count += c == '\n';
	fclose(info);
	return count;
}

static void check_is_root(void)
{
	struct stat root, slash;
	char cwd[256];

	CHECK_TEXT(bed_content("/etc/name"), "rootfs");
	CHECK_TEXT(getcwd(cwd, sizeof(cwd)), "/");
	CHECK_TEXT(bed_content("../../../etc/name"), "rootfs");
	CHECK_EQUAL(bed_mode("/tmp"), 0);
	TRY(fstat(m->rootfs, &root));
	TRY(stat("/", &slash));
	CHECK(root.st_dev == slash.st_dev && root.st_ino == slash.st_ino);
}

/* ---- attach and pivot -------------------------------------------------------------------------------------------------- */

static void pivoted(void)
{
	begin();
	CHECK_EQUAL(propagate(MS_SLAVE | MS_REC), 0);
	CHECK_EQUAL(take_tree(ROOT, TREE), 0);
	CHECK_EQUAL(attach(ROOT), 0);
	CHECK(strstr(bed_mountinfo(ROOT), " " ROOT " "));
	CHECK_EQUAL(mount_proc(), 0);
	CHECK_EQUAL(pivot(0), 0);
	check_is_root();
	CHECK_EQUAL(count_mounts(), 2); /* nothing of the host is left */
}

IN_BED(test_pivot)
{
	pivoted();
}

IN_BED(test_pivot_before_5_12)
{
	mount_without_setattr = true;
	pivoted();
}

/* Mounts that are peers of ours: what the container does must not arrive there, whatever the plan says about propagation. */
static char peers_before[16384], peers_after[16384];

static void read_mounts(char *out, size_t size)
{
	int fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);

	TRY(fd);
	build_read_all(fd, out, size);
	close(fd);
}

static uint64_t propagation_of_plan = MS_SLAVE | MS_REC, flags_of_pivot;

static void make_container(void)
{
	const struct wherry_op_mount_bind bind = { .destination = build_text("/data"), .tree = BIND };

	TRY(unshare(CLONE_NEWNS));
	close(m->rootfs);
	m->rootfs = -1;
	CHECK_EQUAL(propagate(propagation_of_plan), 0);
	CHECK_EQUAL(take_tree(ROOT, TREE), 0);
	CHECK_EQUAL(attach(ROOT), 0);
	CHECK_EQUAL(take_tree(DECOY, BIND), 0);
	CHECK_EQUAL(op_mount_bind(m, &bind), 0);
	CHECK_EQUAL(mount_proc(), 0);
	CHECK_EQUAL(mask("/etc"), 0);
	TRY(umount2(ROOT "/etc", MNT_DETACH));
	CHECK_EQUAL(pivot(flags_of_pivot), 0);
	check_is_root();
}

IN_BED(test_nothing_reaches_the_host)
{
	static const uint64_t propagations[] = { MS_SLAVE | MS_REC, MS_PRIVATE | MS_REC, MS_SHARED | MS_REC };

	begin();
	TRY(mount(NULL, "/", NULL, MS_SHARED | MS_REC, NULL));
	for (size_t i = 0; i < 2 * WHERRY_LENGTH(propagations); i++) {
		propagation_of_plan = propagations[i / 2];
		flags_of_pivot = i % 2 ? WHERRY_PIVOT_NONE : 0;
		read_mounts(peers_before, sizeof(peers_before));
		in_child(make_container);
		read_mounts(peers_after, sizeof(peers_after));
		CHECK_TEXT(peers_after, peers_before);
	}
}

/* No mount namespace: all is on one place, which shares nothing; what is bound is no peer of its source; and a later process finds the root. */
IN_BED(test_on_the_host)
{
	const struct wherry_op_open_tree open = { .source = build_template(ROOT), .flags = WHERRY_TREE_RECURSIVE | WHERRY_TREE_ON_HOST, .out = TREE };
	const struct wherry_op_attach_rootfs op = { .path = build_template(BED "/place"), .tree = TREE, .flags = WHERRY_ATTACH_ON_HOST };
	const struct wherry_op_mount_bind bind = { .destination = build_text("/data"), .tree = BIND };
	const struct wherry_op_mount_point again = { .path = build_template(BED "/place") };
	int before;

	begin();
	bed_directory(BED "/place");
	TRY(mount(NULL, "/", NULL, MS_SHARED | MS_REC, NULL));
	before = count_mounts();
	CHECK_EQUAL(op_open_tree(m, &open), 0);
	CHECK_EQUAL(op_attach_rootfs(m, &op), 0);
	CHECK_EQUAL(take_tree(DECOY, BIND), 0);
	CHECK_EQUAL(op_mount_bind(m, &bind), 0);
	CHECK_EQUAL(mount_proc(), 0);
	CHECK_EQUAL(count_mounts(), before + 4);
	CHECK(!strstr(bed_mountinfo(BED "/place"), "shared:"));
	CHECK(!strstr(bed_mountinfo(BED "/place/data"), "shared:"));
	CHECK(strstr(bed_mountinfo(ROOT), "shared:"));
	mount_clones_are_slaves = false;
	CHECK_EQUAL(op_chroot(m, &again), 0);
	check_is_root();
}

static void attach_slave(void)
{
	TRY(unshare(CLONE_NEWNS));
	CHECK_EQUAL(propagate(MS_SLAVE | MS_REC), 0);
	CHECK_EQUAL(take_tree(ROOT, TREE), 0);
	CHECK_EQUAL(attach(ROOT), 0);
	CHECK(strstr(bed_mountinfo(ROOT), "master:") && !strstr(bed_mountinfo(ROOT), "shared:"));
}

IN_BED(test_slaves_stay_slaves)
{
	begin();
	TRY(mount(NULL, ROOT, NULL, MS_SHARED, NULL));
	in_child(attach_slave);
}

/* What whoever got out to the host's root would find there. */
static long type_below(int directory, const char *name)
{
	cleanup_fd int fd = openat(directory, name, O_PATH | O_CLOEXEC);
	struct statfs fs;

	TRY(fstatfs(fd, &fs));
	return fs.f_type;
}

IN_BED(test_no_pivot)
{
	int host;

	begin();
	host = open("/", O_PATH | O_CLOEXEC);
	CHECK_EQUAL(propagate(MS_SLAVE | MS_REC), 0);
	CHECK_EQUAL(take_tree(ROOT, TREE), 0);
	CHECK_EQUAL(attach(ROOT), 0);
	CHECK_EQUAL(mount_proc(), 0);
	CHECK_EQUAL(pivot(WHERRY_PIVOT_NONE), 0);
	check_is_root();
	CHECK(*bed_mountinfo("/proc"));
	CHECK(type_below(host, "proc") != PROC_SUPER_MAGIC);
	CHECK(type_below(host, "sys") != SYSFS_MAGIC);
}

IN_BED(test_root_attributes)
{
	static const struct wherry_op_root_attributes op = { .readonly = true, .propagation = MS_SHARED };

	for (int way = 0; way < 2; way++) {
		pid_t pid = fork();
		int status;

		if (!pid) {
			begin();
			mount_without_setattr = way;
			TRY(mount(NULL, ROOT, NULL, MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NOATIME, NULL));
			propagate(MS_SLAVE | MS_REC);
			take_tree(ROOT, TREE);
			attach(ROOT);
			mount_proc();
			CHECK_EQUAL(pivot(0), 0);
			CHECK_EQUAL(op_root_attributes(m, &op), 0);
			CHECK_EQUAL(bed_flags("/"), MS_RDONLY | MS_NOSUID | ST_NOATIME);
			CHECK_EQUAL(bed_flags("/proc") & MS_RDONLY, 0);
			CHECK(strstr(bed_mountinfo("/"), "shared:") && !strstr(bed_mountinfo("/proc"), "shared:"));
			CHECK(open("/etc/new", O_CREAT | O_WRONLY | O_CLOEXEC, 0600) < 0 && errno == EROFS);
			check_exit();
		}
		TRY(waitpid(pid, &status, 0));
		CHECK_EQUAL(status, 0);
	}
}

/* ---- user namespaces ------------------------------------------------------------------------------------------------------ */

static int launcher, init_end;
static bool walked_by_launcher;

/* The launcher's part: in init's mount namespace, with the host's credentials. */
static void serve(pid_t init)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", init);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	TRY(fd);
	TRY(setns(fd, CLONE_NEWNS));
	for (int i = 0; i < 2; i++) {
		struct wherry_message message;

		CHECK_EQUAL(wherry_receive(launcher, &message, NULL), 0);
		CHECK_EQUAL(take_tree(i ? DECOY : FAR, TREE), 0);
		CHECK_EQUAL(wherry_send(launcher, &message, m->registers[TREE]), 0);
	}
}

static void ask(uint16_t out)
{
	struct wherry_message message = { .kind = WHERRY_RUN };

	CHECK_EQUAL(wherry_send(init_end, &message, -1), 0);
	CHECK_EQUAL(wherry_receive(init_end, &message, &m->registers[out]), 0);
}

/* As init would: without a way to the rootfs and to the source, which lie below a directory of the host's root. */
static void be_init(void)
{
	const struct wherry_op_mount_bind bind = { .destination = build_text("/data"), .tree = BIND };
	int host = open("/", O_PATH | O_CLOEXEC);

	CHECK_EQUAL(propagate(propagation_of_plan), 0);
	CHECK_EQUAL(take_tree(FAR, TREE), -EACCES);
	ask(TREE);
	CHECK_EQUAL(attach(FAR), 0);
	ask(BIND);
	CHECK_EQUAL(op_mount_bind(m, &bind), 0);
	CHECK_EQUAL(mount_proc(), 0);
	CHECK(!!*bed_mountinfo(FAR) == walked_by_launcher);
	CHECK_EQUAL(mask("/etc/name"), 0);
	CHECK_EQUAL(mask("/proc/sys"), 0);
	CHECK_EQUAL(readonly("/proc/irq"), 0);
	CHECK_EQUAL(pivot(flags_of_pivot), 0);
	CHECK_TEXT(bed_content("/etc/name"), "");
	CHECK_TEXT(bed_content("/etc/other"), "far");
	CHECK_TEXT(bed_content("/data/file"), "host");
	CHECK_EQUAL(bed_flags("/proc/irq") & MS_RDONLY, MS_RDONLY);
	CHECK_EQUAL(bed_type("/proc/sys"), TMPFS_MAGIC);
	/* what the host has locked stays locked */
	CHECK_EQUAL(bed_flags("/data") & (MS_RDONLY | MS_NOSUID), MS_RDONLY | MS_NOSUID);
	CHECK(mount(NULL, "/data", NULL, MS_REMOUNT | MS_BIND | MS_NOSUID, NULL) < 0 && errno == EPERM);
	CHECK(mount(NULL, "/data", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) < 0 && errno == EPERM);
	if (flags_of_pivot) {
		CHECK_EQUAL(type_below(host, "proc"), TMPFS_MAGIC);
		CHECK_EQUAL(type_below(host, "sys"), TMPFS_MAGIC);
	}
}

static void user_without_a_way(uint64_t pivot_flags, bool stand)
{
	static struct wherry_op_attach_rootfs op;
	int ends[2];
	pid_t pid;
	int status, ready[2];
	char byte = 0;

	begin();
	flags_of_pivot = pivot_flags;
	walked_by_launcher = stand;
	bed_directory(SECRET);
	bed_directory(FAR);
	bed_directory(FAR "/proc");
	bed_directory(FAR "/data");
	bed_directory(FAR "/etc");
	build_write(FAR "/etc/name", "far", 0644);
	build_write(FAR "/etc/other", "far", 0644);
	TRY(chown(FAR, HOST_ID, HOST_ID));
	TRY(chmod(SECRET, 0700));
	TRY(chmod(DECOY, 0755));
	TRY(mount(NULL, DECOY, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID, NULL));
	close(m->rootfs);
	m->rootfs = -1;
	op = (struct wherry_op_attach_rootfs){ .op = { .code = OP_ATTACH_ROOTFS }, .path = build_template(FAR) };
	m->code.step[0] = &op.op;
	m->code.steps = 1;
	if (stand)
		rootfs_stand(m);
	TRY(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends));
	TRY(pipe2(ready, O_CLOEXEC));
	launcher = ends[0];
	init_end = ends[1];
	pid = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | SIGCHLD, NULL, NULL, NULL, NULL);
	if (!pid) {
		check_failures = 0;
		alarm(30);
		TRY(read(ready[0], &byte, 1));
		TRY(sys_setresgid(0, 0, 0));
		TRY(sys_setresuid(0, 0, 0));
		be_init();
		check_exit();
	}
	TRY(pid);
	bed_map(pid, HOST_ID, 65536);
	TRY(write(ready[1], &byte, 1));
	serve(pid);
	TRY(waitpid(pid, &status, 0));
	CHECK_EQUAL(status, 0);
}

IN_BED(test_user_without_a_way)
{
	user_without_a_way(0, false);
}

IN_BED(test_user_on_the_place)
{
	user_without_a_way(0, true);
}

IN_BED(test_user_with_shared_mounts)
{
	propagation_of_plan = MS_SHARED;
	user_without_a_way(0, false);
}

IN_BED(test_user_with_shared_mounts_on_the_place)
{
	propagation_of_plan = MS_SHARED;
	user_without_a_way(0, true);
}

IN_BED(test_user_without_pivot)
{
	user_without_a_way(WHERRY_PIVOT_NONE, false);
}

IN_BED(test_user_without_pivot_on_the_place)
{
	user_without_a_way(WHERRY_PIVOT_NONE, true);
}

/* ---- masks -------------------------------------------------------------------------------------------------------------------- */

static void masks(void)
{
	int fd;

	begin();
	/* the image's own null leads elsewhere (CVE-2025-31133) */
	TRY(symlink(DECOY "/file", ROOT "/dev/null"));
	build_write(ROOT "/etc/secret", "secret", 0644);
	build_write(ROOT "/data/inside", "inside", 0644);
	TRY(symlink("/etc/name", ROOT "/etc/link"));
	CHECK_EQUAL(mask("/etc/secret"), 0);
	CHECK_EQUAL(mask("/etc/secret"), 0);
	CHECK_EQUAL(mask("/etc/link"), 0);
	CHECK_EQUAL(mask("/data"), 0);
	CHECK_EQUAL(mask("/data"), 0);
	CHECK_EQUAL(mask("/run"), 0);
	CHECK_EQUAL(mask("/not/there"), 0);
	CHECK_EQUAL(mask("/etc/secret/below"), 0);
	CHECK_TEXT(bed_content(ROOT "/etc/secret"), "");
	CHECK_EQUAL(bed_mode(ROOT "/etc/secret") & S_IFMT, S_IFCHR);
	CHECK_TEXT(bed_content(ROOT "/etc/name"), "");
	CHECK_TEXT(bed_content(DECOY "/file"), "host");
	fd = open(ROOT "/etc/secret", O_WRONLY | O_CLOEXEC);
	CHECK(fd >= 0 && write(fd, "x", 1) == 1);
	/* the host's own node cannot be changed by it */
	CHECK(chmod(ROOT "/etc/secret", 0600) < 0 && errno == EROFS);
	CHECK(chown(ROOT "/etc/name", 5, 5) < 0 && errno == EROFS);
	CHECK_EQUAL(bed_flags(ROOT "/etc/name") & (MS_RDONLY | MS_NOSUID | MS_NOEXEC), MS_RDONLY | MS_NOSUID | MS_NOEXEC);
	CHECK_EQUAL(bed_type(ROOT "/data"), TMPFS_MAGIC);
	CHECK_TEXT(bed_content(ROOT "/data/inside"), "(missing)");
	CHECK(open(ROOT "/data/new", O_CREAT | O_WRONLY | O_CLOEXEC, 0600) < 0);
	CHECK(mount(NULL, ROOT "/data", NULL, MS_REMOUNT | MS_BIND, NULL) == 0);
	CHECK(open(ROOT "/data/new", O_CREAT | O_WRONLY | O_CLOEXEC, 0600) < 0 && errno == EROFS);
	CHECK_EQUAL(bed_flags(ROOT "/run") & 15, MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC);
	if (!mount_without_fsopen)
		CHECK(bed_device(ROOT "/data") == bed_device(ROOT "/run")); /* one for all */
	/* masked once: nothing below */
	TRY(umount2(ROOT "/data", MNT_DETACH));
	TRY(umount2(ROOT "/etc/secret", MNT_DETACH));
	CHECK_TEXT(bed_content(ROOT "/data/inside"), mount_without_fsopen ? "(missing)" : "inside");
	CHECK_TEXT(bed_content(ROOT "/etc/secret"), "secret");
}

IN_BED(test_masks)
{
	masks();
}

IN_BED(test_masks_walking)
{
	securepath_without_openat2 = true;
	masks();
}

IN_BED(test_masks_on_older_kernels)
{
	mount_without_fsopen = mount_without_setattr = true;
	masks();
}

IN_BED(test_false_null_of_the_host)
{
	begin();
	TRY(mount(DECOY "/file", "/dev/null", NULL, MS_BIND, NULL));
	CHECK_EQUAL(mask("/etc/name"), -WHERRY_OTHER_NODE);
}

IN_BED(test_readonly_paths)
{
	for (int way = 0; way < 2; way++) {
		begin();
		mount_without_setattr = way;
		TRY(mount("data", ROOT "/data", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOATIME, NULL));
		bed_directory(ROOT "/data/below");
		TRY(mount("below", ROOT "/data/below", "tmpfs", 0, NULL));
		TRY(symlink(DECOY, ROOT "/out"));
		CHECK_EQUAL(readonly("/data"), 0);
		CHECK_EQUAL(bed_flags(ROOT "/data"), MS_RDONLY | MS_NOSUID | MS_NODEV | ST_NOATIME);
		CHECK_EQUAL(bed_flags(ROOT "/data/below"), ST_RELATIME);
		CHECK_EQUAL(readonly("/etc/name"), 0);
		CHECK(open(ROOT "/etc/name", O_WRONLY | O_CLOEXEC) < 0 && errno == EROFS);
		CHECK_TEXT(bed_content(ROOT "/etc/name"), "rootfs");
		CHECK_EQUAL(readonly("/out"), 0);
		CHECK_EQUAL(readonly("/etc/name/below"), 0);
		CHECK_EQUAL(bed_flags(DECOY) & MS_RDONLY, 0);
		CHECK_EQUAL(bed_flags(ROOT) & MS_RDONLY, 0);
	}
}

/* ---- sysctl -------------------------------------------------------------------------------------------------------------------- */

static int sysctl(const char *path, const char *value)
{
	const struct wherry_op_sysctl op = { .path = build_text(path), .value = build_text(value) };

	return op_sysctl(m, &op);
}

IN_BED(test_sysctl)
{
	for (int way = 0; way < 2; way++) {
		begin();
		securepath_without_openat2 = way;
		TRY(unshare(CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC));
		CHECK_EQUAL(sysctl("net/ipv4/ip_default_ttl", "77"), 0);
		CHECK_TEXT(bed_content("/proc/sys/net/ipv4/ip_default_ttl"), "77\n");
		CHECK_EQUAL(sysctl("kernel/domainname", "in.wherry"), 0);
		CHECK_TEXT(bed_content("/proc/sys/kernel/domainname"), "in.wherry\n");
		/* whatever stands on the host's files */
		TRY(mount(DECOY "/file", "/proc/sys/kernel/domainname", NULL, MS_BIND, NULL));
		CHECK_EQUAL(sysctl("kernel/domainname", "again"), 0);
		TRY(umount2("/proc/sys/kernel/domainname", 0));
		CHECK_TEXT(bed_content("/proc/sys/kernel/domainname"), "again\n");
		CHECK_TEXT(bed_content(DECOY "/file"), "host");
		CHECK_EQUAL(sysctl("../self/comm", "x"), -EXDEV);
		CHECK_EQUAL(sysctl("kernel/../../self/comm", "x"), -EXDEV);
		CHECK_EQUAL(sysctl("/etc/name", "x"), -EXDEV);
		CHECK_EQUAL(sysctl("net/ipv4/there_is_no_such", "x"), -ENOENT);
		CHECK_EQUAL(sysctl("net/ipv4/ip_default_ttl", "many"), -EINVAL);
		CHECK_EQUAL(m->failed_call, WHERRY_CALL_WRITE);
	}
}

/* What an image, or another container, has mounted over the file of a label: the kernel's own is written, and none other. */
IN_BED(test_label_on_the_kernels_own_file)
{
	struct wherry_op_security_label op = { 0 };
	int result;

	begin();
	op.module = build_text("nomodule");
	op.label = build_text("a_t");
	TRY(mount(DECOY "/file", "/proc/self/attr/exec", NULL, MS_BIND, NULL));
	result = op_security_label(m, &op);
	CHECK(result < 0 && result != -EXDEV); /* refused by the module that is not there, not by what was mounted */
	CHECK_TEXT(bed_content(DECOY "/file"), "host");
}

/* Where no other procfs than the mounted one can be had: a file that stands over the kernel's is not written, with openat2 or without. */
IN_BED(test_label_on_a_false_file)
{
	struct wherry_op_security_label op = { 0 };
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	begin();
	op.module = build_text("nomodule");
	op.label = build_text("a_t");
	TRY(mount(DECOY "/file", "/proc/self/attr/exec", NULL, MS_BIND, NULL));
	TRY(sys_capget(&header, data));
	data[0].effective &= ~(1U << CAP_SYS_ADMIN);
	TRY(sys_capset(&header, data));
	for (int way = 0; way < 2; way++) {
		securepath_without_openat2 = way;
		CHECK_EQUAL(op_security_label(m, &op), -EXDEV);
		CHECK_EQUAL(m->failed_call, WHERRY_CALL_LABEL);
		CHECK_TEXT(bed_content(DECOY "/file"), "host");
	}
}

static int count_descriptors(void)
{
	int count = 0;

	for (int fd = 0; fd < 256; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

/* The plan's next step keeps the procfs open, the last one closes it. */
IN_BED(test_sysctls_share_a_procfs)
{
	struct wherry_op_sysctl op;
	int before;

	begin();
	TRY(unshare(CLONE_NEWUTS));
	op = (struct wherry_op_sysctl){ .op = { .code = OP_SYSCTL }, .path = build_text("kernel/domainname"), .value = build_text("x") };
	m->code.step[0] = m->code.step[1] = &op.op;
	m->code.steps = 2;
	before = count_descriptors();
	m->current = 0;
	CHECK_EQUAL(op_sysctl(m, &op), 0);
	CHECK_EQUAL(count_descriptors(), before + 1);
	m->current = 1;
	CHECK_EQUAL(op_sysctl(m, &op), 0);
	CHECK_EQUAL(count_descriptors(), before);
}

static const struct check_case cases[] = {
	{ "pivot", test_pivot },
	{ "pivot_before_5_12", test_pivot_before_5_12 },
	{ "nothing_reaches_the_host", test_nothing_reaches_the_host },
	{ "on_the_host", test_on_the_host },
	{ "slaves_stay_slaves", test_slaves_stay_slaves },
	{ "no_pivot", test_no_pivot },
	{ "root_attributes", test_root_attributes },
	{ "user_without_a_way", test_user_without_a_way },
	{ "user_on_the_place", test_user_on_the_place },
	{ "user_with_shared_mounts", test_user_with_shared_mounts },
	{ "user_with_shared_mounts_on_the_place", test_user_with_shared_mounts_on_the_place },
	{ "user_without_pivot", test_user_without_pivot },
	{ "user_without_pivot_on_the_place", test_user_without_pivot_on_the_place },
	{ "masks", test_masks },
	{ "masks_walking", test_masks_walking },
	{ "masks_on_older_kernels", test_masks_on_older_kernels },
	{ "false_null_of_the_host", test_false_null_of_the_host },
	{ "readonly_paths", test_readonly_paths },
	{ "sysctl", test_sysctl },
	{ "sysctls_share_a_procfs", test_sysctls_share_a_procfs },
	{ "label_on_a_false_file", test_label_on_a_false_file },
	{ "label_on_the_kernels_own_file", test_label_on_the_kernels_own_file },
};

CHECK_MAIN(cases)
