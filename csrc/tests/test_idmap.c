/* SPDX-License-Identifier: Apache-2.0
 *
 * Idmapped trees: by maps of their own, and by the user namespace of init.
 */
#include "bed.h"

#include <sys/utsname.h>

enum { TREE = 1, HOST_ID = 200000 };

static void begin(void)
{
	bed_make();
	m->executor = WHERRY_LAUNCHER;
	bed_directory(ROOT "/data");
	TRY(chown(DECOY "/file", 5, 6));
	TRY(mount("sub", DECOY "/directory", "tmpfs", 0, NULL));
	build_write(DECOY "/directory/inner", "host", 0644);
	TRY(chown(DECOY "/directory/inner", 5, 6));
}

static bool tmpfs_can(void)
{
	struct utsname name;
	int major = 0, minor = 0;

	uname(&name);
	sscanf(name.release, "%d.%d", &major, &minor);
	if (major > 6 || (major == 6 && minor >= 3))
		return true;
	fprintf(stderr, "not tested: before Linux 6.3 no tmpfs can be idmapped\n");
	return false;
}

static int idmap(const char *uid_map, const char *gid_map, bool recursive)
{
	const struct wherry_op_open_tree tree = { .source = build_template(DECOY), .flags = WHERRY_TREE_RECURSIVE, .out = TREE };
	const struct wherry_op_idmap_tree op = {
		.uid_map = build_text(uid_map), .gid_map = build_text(gid_map), .tree = TREE, .recursive = recursive,
	};
	const struct wherry_op_mount_bind bind = { .destination = build_text("/data"), .tree = TREE };
	int result;

	CHECK_EQUAL(op_open_tree(m, &tree), 0);
	result = op_idmap_tree(m, &op);
	return result ? result : op_mount_bind(m, &bind);
}

static void check_owner(const char *path, uid_t uid, gid_t gid)
{
	struct stat st;

	TRY(lstat(path, &st));
	CHECK_EQUAL(st.st_uid, uid);
	CHECK_EQUAL(st.st_gid, gid);
}

/* No child and no descriptor stays behind. */
static void check_clean(int before)
{
	int next = dup(0);

	CHECK_EQUAL(next, before);
	close(next);
	CHECK(waitpid(-1, NULL, WNOHANG | __WALL) < 0 && errno == ECHILD);
}

IN_BED(test_own_maps)
{
	int before;

	if (!tmpfs_can())
		return;
	begin();
	before = dup(0);
	close(before);
	CHECK_EQUAL(idmap("0 1000 100\n", "0 2000 100\n", false), 0);
	check_clean(before);
	check_owner(ROOT "/data/file", 1005, 2006);
	check_owner(ROOT "/data/directory/inner", 5, 6);
	check_owner(DECOY "/file", 5, 6);
	CHECK_EQUAL(idmap("0 1000 100\n", "0 2000 100\n", true), 0);
	check_owner(ROOT "/data/directory/inner", 1005, 2006);
	/* several lines, and an id that is in none of them */
	CHECK_EQUAL(idmap("0 1000 1\n5 3000 1\n", "0 2000 1\n", false), 0);
	check_owner(ROOT "/data/file", 3000, 65534);
	close(open(ROOT "/data/new", O_CREAT | O_WRONLY | O_CLOEXEC, 0600)); /* EOVERFLOW: we are not mapped */
	CHECK_EQUAL(bed_mode(DECOY "/new"), 0);
}

IN_BED(test_bad_maps)
{
	int before;

	begin();
	before = dup(0);
	close(before);
	CHECK_EQUAL(idmap("0 1000 100\n0 2000 100\n", "0 0 1\n", false), -EINVAL);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_UID_MAP);
	wherry_set_register(m, TREE, -1);
	check_clean(before);
	CHECK_EQUAL(idmap("0 1000 100\n", "nonsense", false), -EINVAL);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_GID_MAP);
	wherry_set_register(m, TREE, -1);
	check_clean(before);
}

/* /proc is none, or counts processes from another namespace: its numbers are not of the processes that we mean. */
IN_BED(test_false_procfs)
{
	pid_t pid;

	begin();
	TRY(mount(DECOY, "/proc", NULL, MS_BIND, NULL));
	CHECK_EQUAL(idmap("0 1000 100\n", "0 1000 100\n", false), -WHERRY_NOT_PROCFS);
	wherry_set_register(m, TREE, -1);
	TRY(umount2("/proc", 0));
	TRY(unshare(CLONE_NEWPID));
	pid = fork();
	if (!pid)
		_exit(mount("proc", "/proc", "proc", 0, NULL) < 0);
	TRY(waitpid(pid, NULL, 0));
	CHECK_EQUAL(idmap("0 1000 100\n", "0 1000 100\n", false), -WHERRY_NOT_PROCFS);
}

static int go[2];

static void check_as_init(void)
{
	char byte;

	TRY(read(go[0], &byte, 1));
}

IN_BED(test_namespace_of_init)
{
	int ready[2];
	char byte = 0;

	if (!tmpfs_can())
		return;
	begin();
	TRY(pipe2(ready, O_CLOEXEC));
	TRY(pipe2(go, O_CLOEXEC));
	m->init = fork();
	if (!m->init) {
		TRY(unshare(CLONE_NEWUSER));
		TRY(write(ready[1], &byte, 1));
		check_as_init();
		_exit(0);
	}
	TRY(read(ready[0], &byte, 1));
	bed_map(m->init, HOST_ID, 65536);
	m->init_pidfd = sys_pidfd_open(m->init, 0);
	TRY(m->init_pidfd);
	CHECK_EQUAL(idmap(NULL, NULL, true), 0);
	check_owner(ROOT "/data/file", HOST_ID + 5, HOST_ID + 6);
	check_owner(ROOT "/data/directory/inner", HOST_ID + 5, HOST_ID + 6);
	TRY(write(go[1], &byte, 1));
	TRY(waitpid(m->init, NULL, 0));
	CHECK(idmap(NULL, NULL, true) < 0);
}

/* What is mapped before it is attached. */
IN_BED(test_new_filesystem)
{
	struct wherry_op_create_tree op = { .out = TREE };
	struct stat st;

	begin();
	op.source = build_template("none");
	op.type = build_text("tmpfs");
	op.data = build_text("size=4k,mode=711");
	CHECK_EQUAL(op_create_tree(m, &op), 0);
	CHECK(fstat(m->registers[TREE], &st) == 0 && S_ISDIR(st.st_mode));
	CHECK_EQUAL(st.st_mode & 07777, 0711);
	op.data = build_text("size=4k,nonsense=1");
	CHECK_EQUAL(op_create_tree(m, &op), -EINVAL);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_FSCONFIG);
	op.type = build_text("nonsense");
	CHECK_EQUAL(op_create_tree(m, &op), -ENODEV);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_FSOPEN);
	CHECK(fstat(m->registers[TREE], &st) == 0); /* the last one that went well */
	wherry_set_register(m, TREE, -1);
}

static const struct check_case cases[] = {
	{ "own_maps", test_own_maps },
	{ "new_filesystem", test_new_filesystem },
	{ "bad_maps", test_bad_maps },
	{ "false_procfs", test_false_procfs },
	{ "namespace_of_init", test_namespace_of_init },
};

CHECK_MAIN(cases)
