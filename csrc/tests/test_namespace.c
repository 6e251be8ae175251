/* SPDX-License-Identifier: Apache-2.0
 *
 * The operations of namespace.c in real plans: what init finds itself in is read from outside, through its pidfd.
 */
#include "namespaces.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

/* ---- new namespaces ------------------------------------------------------------------------------------------------------------ */

static void check_names(void)
{
	char name[65];

	CHECK(gethostname(name, sizeof(name)) == 0);
	CHECK_TEXT(name, "inner-host");
	CHECK(getdomainname(name, sizeof(name)) == 0);
	CHECK_TEXT(name, "inner.domain");
}

static void check_loopback(void)
{
	struct ifreq request = { .ifr_name = "lo" };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	CHECK(ioctl(fd, SIOCGIFFLAGS, &request) == 0);
	CHECK(request.ifr_flags & IFF_UP);
	CHECK(ioctl(fd, SIOCGIFADDR, &request) == 0); /* 127.0.0.1 came with it */
	close(fd);
}

static void new_namespaces(void)
{
	static const char *const names[] = { "ns/mnt", "ns/pid", "ns/uts", "ns/ipc", "ns/net", "ns/cgroup" };
	struct caller c;

	NEEDS_ROOT();
	caller_prepare(&c);
	begin_plan();
	add_clone(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET);
	PLAN_ADD(&plan, OP_UNSHARE, WHERRY_INIT, wherry_op_unshare)->flags = CLONE_NEWCGROUP;
	PLAN_ADD(&plan, OP_LOOPBACK_UP, WHERRY_INIT, wherry_op_loopback_up);
	PLAN_ADD(&plan, OP_HOSTNAME, WHERRY_INIT, wherry_op_hostname)->name = plan_text(&plan, "inner-host");
	PLAN_ADD(&plan, OP_DOMAINNAME, WHERRY_INIT, wherry_op_hostname)->name = plan_text(&plan, "inner.domain");
	add_end();
	create(&c, &no_options, 0);
	for (size_t i = 0; i < WHERRY_LENGTH(names); i++)
		CHECK(!shares(c.init, getpid(), names[i]));
	CHECK(shares(c.init, getpid(), "ns/user"));
	inside(c.init_pidfd, CLONE_NEWUTS, check_names);
	inside(c.init_pidfd, CLONE_NEWNET, check_loopback);
	caller_end(&c);
}

static void oom_score(void)
{
	struct caller c;

	NEEDS_ROOT();
	caller_prepare(&c);
	begin_plan();
	PLAN_ADD(&plan, OP_OOM_SCORE_ADJ, WHERRY_LAUNCHER, wherry_op_oom_score_adj)->value = 517;
	add_clone(CLONE_NEWPID);
	add_end();
	create(&c, &no_options, 0);
	CHECK_TEXT(read_text(proc_path(c.init, "oom_score_adj")), "517\n");
	caller_end(&c);
}

/* Beyond what the kernel takes: the sign and the digits reach it. */
static void oom_score_out_of_range(void)
{
	struct caller c;

	NEEDS_ROOT();
	caller_prepare(&c);
	begin_plan();
	PLAN_ADD(&plan, OP_OOM_SCORE_ADJ, WHERRY_LAUNCHER, wherry_op_oom_score_adj)->value = -1001;
	add_clone(CLONE_NEWPID);
	add_end();
	create(&c, &no_options, EINVAL);
	CHECK_EQUAL(c.message.call, WHERRY_CALL_OOM_SCORE_ADJ);
	caller_end(&c);
}

static void keyring(void)
{
	const struct caller_options options = { .slots = { [WHERRY_SLOT_ID] = "box" } };
	struct wherry_op_mount_fs *proc;
	const char *listed;
	struct caller c;

	NEEDS_ROOT();
	if (access("/proc/keys", R_OK) < 0)
		CHECK_SKIP("a kernel without keyrings");
	caller_prepare(&c);
	begin_plan();
	add_clone(CLONE_NEWNS | CLONE_NEWPID);
	PLAN_ADD(&plan, OP_KEYRING, WHERRY_INIT, wherry_op_keyring)->name = plan_template(&plan, "_ses.wherry-test-\1@");
	plan_rootfs(&plan, WHERRY_INIT, join_path(c.directory, "rootfs"), new_register());
	proc = PLAN_ADD(&plan, OP_MOUNT_FS, WHERRY_INIT, wherry_op_mount_fs);
	proc->destination = plan_text(&plan, "/proc");
	proc->type = plan_text(&plan, "proc");
	proc->source = plan_template(&plan, "proc");
	plan_shell(&plan, "grep _ses.wherry-test /proc/keys");
	create(&c, &options, 0);
	CHECK_EQUAL(caller_start(&c), 0);
	listed = caller_output(&c);
	CHECK(strstr(listed, "_ses.wherry-test-box") != NULL);
	CHECK(strstr(listed, " 3f1b0000 ") != NULL); /* its owner may search it */
	caller_end(&c);
}

/* ---- joining --------------------------------------------------------------------------------------------------------------------- */

static void join_existing(void)
{
	struct caller c;
	pid_t pod;

	NEEDS_ROOT();
	pod = park(CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET);
	caller_prepare(&c);
	begin_plan();
	add_join_path(pod, "ns/ipc", CLONE_NEWIPC);
	add_join_path(pod, "ns/net", CLONE_NEWNET);
	add_join_path(pod, "ns/uts", CLONE_NEWUTS);
	add_clone(CLONE_NEWNS | CLONE_NEWPID);
	add_end();
	create(&c, &no_options, 0);
	CHECK(shares(c.init, pod, "ns/uts") && shares(c.init, pod, "ns/ipc") && shares(c.init, pod, "ns/net"));
	CHECK(!shares(c.init, getpid(), "ns/uts"));
	caller_end(&c);
	unpark(pod);
}

/* Its init is the grandparent's child all the same. */
static void join_pid_namespace(void)
{
	struct caller c, other;

	NEEDS_ROOT();
	caller_prepare(&other);
	begin_plan();
	add_clone(CLONE_NEWPID);
	add_end();
	create(&other, &no_options, 0);
	caller_prepare(&c);
	begin_plan();
	add_join_path(other.init, "ns/pid", CLONE_NEWPID);
	add_clone(0);
	add_end();
	create(&c, &no_options, 0);
	CHECK(shares(c.init, other.init, "ns/pid"));
	CHECK(!shares(c.init, getpid(), "ns/pid"));
	kill(c.init, SIGTERM);
	CHECK_EQUAL(WEXITSTATUS(caller_wait(&c)), 128 + SIGTERM);
	caller_end(&c);
	caller_end(&other);
}

static void join_by_init(void)
{
	struct caller c;
	uint16_t from;
	pid_t pod;

	NEEDS_ROOT();
	pod = park(CLONE_NEWNS);
	caller_prepare(&c);
	begin_plan();
	from = add_open_namespace(proc_path(pod, "ns/mnt"), CLONE_NEWNS);
	add_clone(CLONE_NEWPID);
	add_join(WHERRY_INIT, CLONE_NEWNS, from);
	add_end();
	create(&c, &no_options, 0);
	CHECK(shares(c.init, pod, "ns/mnt"));
	caller_end(&c);
	unpark(pod);
}

static void wrong_type(void)
{
	static const char *const paths[] = { "/proc/self/ns/ipc", "/etc/passwd", "/dev/null", "/" };

	NEEDS_ROOT();
	for (size_t i = 0; i < WHERRY_LENGTH(paths); i++) {
		struct caller c;

		caller_prepare(&c);
		begin_plan();
		add_open_namespace(paths[i], CLONE_NEWUTS);
		add_clone(0);
		add_end();
		create(&c, &no_options, WHERRY_WRONG_NAMESPACE_TYPE);
		CHECK_EQUAL(c.message.call, WHERRY_CALL_NS_TYPE);
		caller_end(&c);
	}
}

/* ---- time ------------------------------------------------------------------------------------------------------------------------ */

static time_t expected_boot;

static void check_clock(void)
{
	struct timespec now;

	CHECK(syscall(SYS_clock_gettime, CLOCK_BOOTTIME, &now) == 0);
	CHECK(now.tv_sec >= expected_boot && now.tv_sec < expected_boot + 600);
}

/* By the launcher, by init, by init in a user namespace; with and without offsets. */
static void time_namespaces(void)
{
	NEEDS_ROOT();
	if (access("/proc/self/ns/time", F_OK) < 0)
		CHECK_SKIP("a kernel without time namespaces");
	for (int variant = 0; variant < 6; variant++) {
		bool offsets = variant % 2;
		struct timespec now;
		struct caller c;

		caller_prepare(&c);
		begin_plan();
		if (variant < 2)
			add_time(WHERRY_LAUNCHER, offsets);
		add_clone(variant < 4 ? CLONE_NEWPID : CLONE_NEWPID | CLONE_NEWUSER);
		if (variant >= 4)
			add_maps("0 100000 65536\n");
		if (variant >= 2)
			add_time(WHERRY_INIT, offsets);
		add_end();
		create(&c, &no_options, 0);
		CHECK(!shares(c.init, getpid(), "ns/time"));
		CHECK(shares(c.init, c.init, "ns/time_for_children"));
		CHECK_EQUAL(namespace_of(c.init, "ns/time"), namespace_of(c.init, "ns/time_for_children"));
		clock_gettime(CLOCK_BOOTTIME, &now);
		expected_boot = now.tv_sec + (offsets ? 7000000 : 0);
		inside(c.init_pidfd, variant < 4 ? CLONE_NEWTIME : CLONE_NEWUSER | CLONE_NEWTIME, check_clock);
		CHECK(variant < 4 || owner_of(c.init) == 0); /* hidden again */
		caller_end(&c);
	}
}

/* ---- cgroups ------------------------------------------------------------------------------------------------------------------------ */

static const char *make_cgroup(const char *mount)
{
	const char *path;
	char name[64];

	snprintf(name, sizeof(name), "wherry-c-test-%d", getpid());
	path = join_path(mount, name);
	return mkdir(path, 0755) == 0 ? path : NULL;
}

/* Until the last process is gone from it. */
static void remove_cgroup(const char *path)
{
	for (int i = 0; i < 200 && rmdir(path) < 0; i++)
		usleep(5000);
	CHECK(access(path, F_OK) < 0);
}

static bool is_in_cgroup(pid_t pid)
{
	char name[64];

	snprintf(name, sizeof(name), ":/wherry-c-test-%d\n", getpid());
	return strstr(read_text(proc_path(pid, "cgroup")), name) != NULL;
}

/* Init writes its 0, or the launcher init's pid. An empty register is nothing to attach to. */
static void attach_tasks(void)
{
	const char *path;

	NEEDS_ROOT();
	path = make_cgroup("/sys/fs/cgroup/freezer");
	if (!path)
		CHECK_SKIP("no v1 freezer hierarchy");
	for (int variant = 0; variant < 3; variant++) {
		int registers[] = { open(join_path(path, "tasks"), O_WRONLY | O_CLOEXEC), -1 };
		struct caller c;

		CHECK(registers[0] >= 0);
		caller_prepare(&c);
		begin_plan();
		plan.registers = plan.inherited = 2;
		add_clone(CLONE_NEWPID | (variant == 2 ? CLONE_NEWUSER : 0));
		PLAN_ADD(&plan, OP_ATTACH_TASKS, variant == 1 ? WHERRY_LAUNCHER : WHERRY_INIT, wherry_op_attach_tasks)->tasks = 0;
		PLAN_ADD(&plan, OP_ATTACH_TASKS, WHERRY_INIT, wherry_op_attach_tasks)->tasks = 1;
		if (variant == 2)
			add_maps("0 100000 65536\n");
		add_end();
		create(&c, &(struct caller_options){ .registers = registers }, 0);
		CHECK(is_in_cgroup(c.init));
		close(registers[0]);
		caller_end(&c);
	}
	remove_cgroup(path);
}

static const char *unified_mount(void)
{
	return access("/sys/fs/cgroup/cgroup.procs", F_OK) == 0 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/unified";
}

static void create_in_cgroup(void)
{
	const char *path = make_cgroup(unified_mount());
	int registers[] = { open(path ? path : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC) };
	struct caller c;

	CHECK(path != NULL);
	caller_prepare(&c);
	begin_plan();
	plan.registers = plan.inherited = 1;
	add_clone(CLONE_NEWPID)->into_cgroup = 0;
	add_end();
	create(&c, &(struct caller_options){ .registers = registers }, 0);
	CHECK(is_in_cgroup(c.init));
	close(registers[0]);
	caller_end(&c);
	if (path)
		remove_cgroup(path);
}

static void clone_into_cgroup(void)
{
	NEEDS_ROOT();
	if (access(join_path(unified_mount(), "cgroup.procs"), F_OK) < 0)
		CHECK_SKIP("no cgroup v2 tree");
	create_in_cgroup();
}

/* clone3 and close_range answer ENOSYS, as under the filters of older engines. */
static void refuse_new_calls(void)
{
	static struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_close_range, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog program = { .len = WHERRY_LENGTH(filter), .filter = filter };

	CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0);
	CHECK(syscall(SYS_close_range, 1000, 1001, 0) < 0 && errno == ENOSYS);
}

static void without_new_calls_here(void)
{
	int leaked = open("/", O_RDONLY | O_DIRECTORY); /* not close-on-exec */
	struct caller c;
	char path[64], target[64];
	ssize_t length;

	refuse_new_calls();
	CHECK(leaked >= 3);
	if (access(join_path(unified_mount(), "cgroup.procs"), F_OK) == 0)
		create_in_cgroup();
	caller_prepare(&c);
	begin_plan();
	add_clone(CLONE_NEWPID | CLONE_NEWNS);
	add_end();
	create(&c, &no_options, 0);
	for (int fd = 3; fd < 30; fd++) {
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", c.init, fd);
		length = readlink(path, target, sizeof(target) - 1);
		target[length < 0 ? 0 : length] = 0;
		CHECK(strcmp(target, "/") != 0);
	}
	caller_end(&c);
}

static void without_new_calls(void)
{
	NEEDS_ROOT();
	in_child(without_new_calls_here);
}

static const struct check_case cases[] = {
	{ "new_namespaces", new_namespaces },
	{ "oom_score", oom_score },
	{ "oom_score_out_of_range", oom_score_out_of_range },
	{ "keyring", keyring },
	{ "join_existing", join_existing },
	{ "join_pid_namespace", join_pid_namespace },
	{ "join_by_init", join_by_init },
	{ "wrong_type", wrong_type },
	{ "time_namespaces", time_namespaces },
	{ "attach_tasks", attach_tasks },
	{ "clone_into_cgroup", clone_into_cgroup },
	{ "without_new_calls", without_new_calls },
};

CHECK_MAIN(cases)
