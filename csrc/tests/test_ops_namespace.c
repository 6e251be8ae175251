/* SPDX-License-Identifier: Apache-2.0
 *
 * The operations of namespace.c and maps.c one by one, without a plan, a launcher or an init around them: each is called in a throw-away child
 * and what it did is read back from the kernel. test_namespace.c and test_user.c have them in whole plans.
 */
#include "build.h"

#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

#define NEEDS_ROOT() \
	do { \
		if (geteuid() != 0) \
			CHECK_SKIP("needs root"); \
	} while (0)

static ino_t own_namespace(const char *name)
{
	char path[64];
	struct stat file;

	snprintf(path, sizeof(path), "/proc/self/ns/%s", name);
	return stat(path, &file) == 0 ? file.st_ino : 0;
}

static const char *content(const char *path)
{
	static char text[4096];
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	text[0] = 0;
	if (fd >= 0)
		build_read_all(fd, text, sizeof(text));
	close(fd);
	return text;
}

static int open_namespace(struct wherry_machine *m, const char *path, uint32_t type, uint16_t out)
{
	const struct wherry_op_open_namespace op = { .path = build_text(path), .type = type, .out = out };

	return op_open_namespace(m, &op);
}

/* ---- names, loopback, keyring, oom score --------------------------------------------------------------------------------------- */

static void names_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_hostname host = { .name = build_text("box") }, domain = { .name = build_text("example") };
	struct wherry_op_hostname bad = { .name = build_text("0123456789012345678901234567890123456789012345678901234567890123456789") };
	char name[128];

	CHECK_EQUAL(unshare(CLONE_NEWUTS), 0);
	CHECK_EQUAL(op_hostname(m, &host), 0);
	CHECK(gethostname(name, sizeof(name)) == 0);
	CHECK_TEXT(name, "box");
	CHECK_EQUAL(op_domainname(m, &domain), 0);
	CHECK(getdomainname(name, sizeof(name)) == 0);
	CHECK_TEXT(name, "example");
	CHECK_EQUAL(op_hostname(m, &bad), -EINVAL); /* 64 bytes are the most */
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_SETHOSTNAME);
	CHECK_EQUAL(op_domainname(m, &bad), -EINVAL);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_SETDOMAINNAME);
	CHECK(gethostname(name, sizeof(name)) == 0);
	CHECK_TEXT(name, "box");
}

static void names(void)
{
	NEEDS_ROOT();
	in_child(names_child);
}

static void loopback_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_loopback_up op = { 0 };
	struct ifreq request = { .ifr_name = "lo" };
	int fd;

	CHECK_EQUAL(unshare(CLONE_NEWNET), 0);
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	CHECK(ioctl(fd, SIOCGIFFLAGS, &request) == 0 && !(request.ifr_flags & IFF_UP));
	CHECK_EQUAL(op_loopback_up(m, &op), 0);
	CHECK(ioctl(fd, SIOCGIFFLAGS, &request) == 0 && (request.ifr_flags & IFF_UP));
	CHECK_EQUAL(op_loopback_up(m, &op), 0); /* and again */
}

static void loopback(void)
{
	NEEDS_ROOT();
	in_child(loopback_child);
}

static void keyring_child(void)
{
	static const struct wherry_plan plan, user_plan = { .flags = WHERRY_PLAN_NEW_USER };
	struct wherry_machine *m = build_begin();
	const struct wherry_op_keyring op = { .name = build_template("_ses.test-\1@") };
	struct wherry_op_keyring none = { .name = build_template("\1@") };
	char text[256] = "", huge[WHERRY_MAX_PATH + 8];

	m->code.plan = &plan;
	m->slots[WHERRY_SLOT_ID] = "box";
	CHECK_EQUAL(op_keyring(m, &op), 0);
	if (sys_keyctl(KEYCTL_DESCRIBE, (unsigned long)KEY_SPEC_SESSION_KEYRING, (unsigned long)text, sizeof(text) - 1, 0) < 0 && errno == ENOSYS)
		_exit(0);
	CHECK(strstr(text, ";_ses.test-box") != NULL);
	CHECK(strstr(text, ";3f1b0000;") != NULL); /* its owner may search it */
	m->code.plan = &user_plan;
	m->slots[WHERRY_SLOT_ID] = "pod";
	CHECK_EQUAL(op_keyring(m, &op), 0);
	sys_keyctl(KEYCTL_DESCRIBE, (unsigned long)KEY_SPEC_SESSION_KEYRING, (unsigned long)text, sizeof(text) - 1, 0);
	CHECK(strstr(text, "08;_ses.test-pod") != NULL); /* anybody may */
	memset(huge, 'x', sizeof(huge) - 1);
	huge[sizeof(huge) - 1] = 0;
	m->slots[WHERRY_SLOT_ID] = huge;
	CHECK_EQUAL(op_keyring(m, &none), -ENAMETOOLONG);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_KEYCTL);
}

static void keyring(void)
{
	NEEDS_ROOT();
	in_child(keyring_child);
}

static void oom_score_child(void)
{
	struct wherry_machine *m = build_begin();
	struct wherry_op_oom_score_adj op = { .value = 777 };

	CHECK_EQUAL(op_oom_score_adj(m, &op), 0);
	CHECK_TEXT(content("/proc/self/oom_score_adj"), "777\n");
	op.value = -1001;
	CHECK_EQUAL(op_oom_score_adj(m, &op), -EINVAL);
	op.value = INT32_MIN;
	CHECK_EQUAL(op_oom_score_adj(m, &op), -EINVAL);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_OOM_SCORE_ADJ);
	CHECK_TEXT(content("/proc/self/oom_score_adj"), "777\n");
}

static void oom_score(void)
{
	in_child(oom_score_child);
}

/* ---- opening and joining --------------------------------------------------------------------------------------------------------- */

static void open_child(void)
{
	struct wherry_machine *m = build_begin();
	char fifo[] = "/tmp/wherry-ops-XXXXXX";
	int first;

	CHECK_EQUAL(open_namespace(m, "/proc/self/ns/uts", CLONE_NEWUTS, 5), 0);
	first = m->registers[5];
	CHECK(first >= 0 && (fcntl(first, F_GETFD) & FD_CLOEXEC));
	CHECK_EQUAL(open_namespace(m, "/proc/self/ns/ipc", CLONE_NEWUTS, 5), -WHERRY_WRONG_NAMESPACE_TYPE);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_NS_TYPE);
	CHECK_EQUAL(m->registers[5], first); /* as it was */
	CHECK_EQUAL(open_namespace(m, "/etc/passwd", CLONE_NEWUTS, 5), -WHERRY_WRONG_NAMESPACE_TYPE);
	CHECK_EQUAL(open_namespace(m, "/no/such/path", CLONE_NEWUTS, 5), -ENOENT);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_OPEN);
	close(mkstemp(fifo));
	unlink(fifo);
	CHECK_EQUAL(mkfifo(fifo, 0600), 0);
	CHECK_EQUAL(open_namespace(m, fifo, CLONE_NEWUTS, 5), -WHERRY_WRONG_NAMESPACE_TYPE); /* nobody writes to it: no waiting */
	unlink(fifo);
	CHECK_EQUAL(open_namespace(m, "/proc/self/ns/ipc", CLONE_NEWIPC, 5), 0);
	CHECK_EQUAL(fcntl(first, F_GETFD), first == m->registers[5] ? FD_CLOEXEC : -1); /* what was in it is closed */
}

static void opening(void)
{
	in_child(open_child);
}

static void join_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_join uts = { .type = CLONE_NEWUTS, .from = 1 }, mounts = { .type = CLONE_NEWNS, .from = 2 };
	ino_t before = own_namespace("uts"), mounts_before = own_namespace("mnt");
	int old_root = m->rootfs;

	CHECK_EQUAL(op_join(m, &uts), -EBADF);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_SETNS);
	CHECK_EQUAL(open_namespace(m, "/proc/self/ns/uts", CLONE_NEWUTS, 1), 0);
	CHECK_EQUAL(open_namespace(m, "/proc/self/ns/mnt", CLONE_NEWNS, 2), 0);
	CHECK_EQUAL(unshare(CLONE_NEWUTS | CLONE_NEWNS), 0);
	CHECK(own_namespace("uts") != before && own_namespace("mnt") != mounts_before);
	CHECK_EQUAL(op_join(m, &uts), 0);
	CHECK_EQUAL(own_namespace("uts"), before);
	CHECK_EQUAL(m->registers[1], -1);
	CHECK_EQUAL(m->rootfs, old_root);
	CHECK_EQUAL(op_join(m, &mounts), 0);
	CHECK_EQUAL(own_namespace("mnt"), mounts_before);
	CHECK_EQUAL(m->registers[2], -1);
	CHECK(m->rootfs >= 0 && (fcntl(m->rootfs, F_GETFL) & O_PATH)); /* the root of the one that was joined */
}

/* Of a process, by its pidfd: several in one step, and once more. */
static void join_process_child(void)
{
	struct wherry_machine *m = build_begin();
	struct wherry_op_join several = { .type = CLONE_NEWUTS | CLONE_NEWIPC, .from = 1, .keep = 1 };
	const struct wherry_op_join mounts = { .type = CLONE_NEWNS, .from = 1 };
	ino_t uts = own_namespace("uts"), ipc = own_namespace("ipc"), net = own_namespace("net"), mnt = own_namespace("mnt");
	pid_t child;

	m->registers[1] = sys_pidfd_open(getppid(), 0);
	CHECK_EQUAL(unshare(CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWNS), 0);
	CHECK_EQUAL(op_join(m, &several), 0);
	CHECK(own_namespace("uts") == uts && own_namespace("ipc") == ipc && own_namespace("net") != net && own_namespace("mnt") != mnt);
	CHECK(m->registers[1] >= 0);
	CHECK_EQUAL(op_join(m, &mounts), 0);
	CHECK_EQUAL(own_namespace("mnt"), mnt);
	CHECK_EQUAL(m->registers[1], -1);
	child = fork();
	if (!child)
		_exit(0);
	m->registers[1] = sys_pidfd_open(child, 0);
	CHECK_EQUAL(waitpid(child, NULL, 0), child);
	CHECK_EQUAL(op_join(m, &several), -ESRCH);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_SETNS);
}

static void joining(void)
{
	NEEDS_ROOT();
	in_child(join_child);
	in_child(join_process_child);
}

/* ---- unsharing, time ------------------------------------------------------------------------------------------------------------ */

static void unshare_child(void)
{
	struct wherry_machine *m = build_begin();
	struct wherry_op_unshare op = { .flags = CLONE_NEWUTS | CLONE_NEWIPC };
	ino_t uts = own_namespace("uts"), ipc = own_namespace("ipc");

	CHECK_EQUAL(op_unshare(m, &op), 0);
	CHECK(own_namespace("uts") != uts && own_namespace("ipc") != ipc);
	op.flags = CLONE_NEWUTS | CLONE_PIDFD;
	CHECK_EQUAL(op_unshare(m, &op), -EINVAL);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_UNSHARE);
}

static void unsharing(void)
{
	NEEDS_ROOT();
	in_child(unshare_child);
}

static void time_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_unshare op = { .flags = CLONE_NEWTIME };
	const struct wherry_op_time_offsets offsets = { .op.code = OP_TIME_OFFSETS, .lines = build_text("boottime 7000000 0\n") };
	const struct wherry_op_time_offsets bad = { .op.code = OP_TIME_OFFSETS, .lines = build_text("lunchtime 1 0\n") };
	ino_t before = own_namespace("time"), entered;
	struct timespec old, now;

	CHECK_EQUAL(op_unshare(m, &op), 0); /* no offsets follow: entered at once */
	entered = own_namespace("time");
	CHECK(entered != before);
	clock_gettime(CLOCK_BOOTTIME, &old);
	m->code.step[1] = &offsets.op;
	CHECK_EQUAL(op_unshare(m, &op), 0);
	CHECK_EQUAL(own_namespace("time"), entered); /* not before they are written */
	CHECK_EQUAL(op_time_offsets(m, &bad), -EINVAL);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_TIME_OFFSETS);
	CHECK_EQUAL(op_time_offsets(m, &offsets), 0);
	CHECK(own_namespace("time") != entered);
	CHECK(syscall(SYS_clock_gettime, CLOCK_BOOTTIME, &now) == 0);
	CHECK(now.tv_sec - old.tv_sec >= 7000000 && now.tv_sec - old.tv_sec < 7000060);
	m->code.step[1] = NULL;
}

static void time_in_the_launcher_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_unshare op = { .flags = CLONE_NEWTIME };
	ino_t before = own_namespace("time");

	m->executor = WHERRY_LAUNCHER;
	CHECK_EQUAL(op_unshare(m, &op), 0);
	CHECK_EQUAL(own_namespace("time"), before); /* it is for its next child */
	CHECK(own_namespace("time_for_children") != before);
}

static void time_namespaces(void)
{
	NEEDS_ROOT();
	if (access("/proc/self/ns/time", F_OK) < 0)
		CHECK_SKIP("a kernel without time namespaces");
	in_child(time_child);
	in_child(time_in_the_launcher_child);
}

/* ---- the clone ------------------------------------------------------------------------------------------------------------------- */

static int open_descriptors(void)
{
	int count = 0;

	for (int fd = 0; fd < 256; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

/* Init has no step, so it ends at once; it is our parent's child. */
static void clone_child(void)
{
	static const struct wherry_plan plan;
	struct wherry_machine *m = build_begin();
	struct wherry_op_clone op = { .flags = CLONE_NEWNS | CLONE_FS, .into_cgroup = WHERRY_NO_REGISTER };
	int before = open_descriptors();
	struct pollfd ended;

	m->code.plan = &plan;
	CHECK_EQUAL(op_clone(m, &op), -EINVAL); /* the two exclude each other */
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_CLONE);
	CHECK_EQUAL(open_descriptors(), before);
	op.flags = CLONE_NEWPID | CLONE_NEWUTS;
	CHECK_EQUAL(op_clone(m, &op), 0);
	CHECK(m->init > 0 && m->helper >= 0 && m->init_pidfd >= 0);
	CHECK(fcntl(m->init_pidfd, F_GETFD) & FD_CLOEXEC);
	CHECK_EQUAL(waitpid(m->init, NULL, WNOHANG), -1);
	CHECK_EQUAL(errno, ECHILD);
	wherry_close(&m->helper);
	ended = (struct pollfd){ .fd = m->init_pidfd, .events = POLLIN };
	CHECK_EQUAL(poll(&ended, 1, 10000), 1);
}

static void cloning(void)
{
	int status = -1;

	NEEDS_ROOT();
	in_child(clone_child);
	CHECK(waitpid(-1, &status, 0) > 0);
	CHECK_EQUAL(WEXITSTATUS(status), 255); /* it had nothing to execute */
}

/* ---- attaching -------------------------------------------------------------------------------------------------------------------- */

static void attach_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_attach_tasks op = { .tasks = 3 };
	char text[32] = "";
	int ends[2];

	CHECK_EQUAL(op_attach_tasks(m, &op), 0); /* an empty register: nothing to attach to */
	CHECK_EQUAL(pipe2(ends, O_CLOEXEC), 0);
	m->registers[3] = dup(ends[1]);
	CHECK_EQUAL(op_attach_tasks(m, &op), 0);
	CHECK_EQUAL(m->registers[3], -1);
	CHECK_EQUAL(read(ends[0], text, sizeof(text)), 1);
	CHECK_TEXT(text, "0");
	m->executor = WHERRY_LAUNCHER;
	m->init = 4711;
	m->registers[3] = dup(ends[1]);
	CHECK_EQUAL(op_attach_tasks(m, &op), 0);
	CHECK_EQUAL(read(ends[0], text, sizeof(text)), 4);
	CHECK_TEXT(text, "4711");
	m->registers[3] = dup(ends[0]);
	CHECK_EQUAL(op_attach_tasks(m, &op), -EBADF);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_WRITE);
}

static void attaching(void)
{
	in_child(attach_child);
}

/* ---- maps -------------------------------------------------------------------------------------------------------------------------- */

static int go[2];
static bool root_is_mapped;

/* In a new user namespace; goes on when it has maps. */
static void mapped_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_become_root op = { 0 };
	uid_t real, effective, saved;
	char byte;

	CHECK_EQUAL(read(go[0], &byte, 1), 1);
	CHECK_EQUAL(op_become_root(m, &op), root_is_mapped ? 0 : -EINVAL);
	if (!root_is_mapped) {
		CHECK_EQUAL(m->failed_call, WHERRY_CALL_SETRESGID);
		return;
	}
	CHECK_EQUAL(getresuid(&real, &effective, &saved), 0);
	CHECK(real == 0 && effective == 0 && saved == 0);
	CHECK_EQUAL(getresgid(&real, &effective, &saved), 0);
	CHECK(real == 0 && effective == 0 && saved == 0);
}

static pid_t begin_mapped(void)
{
	char byte = 0;
	int ready[2];
	pid_t pid;

	CHECK(pipe2(go, O_CLOEXEC) == 0 && pipe2(ready, O_CLOEXEC) == 0);
	pid = fork();
	if (!pid) {
		check_failures = 0;
		alarm(30);
		CHECK_EQUAL(unshare(CLONE_NEWUSER), 0);
		CHECK_EQUAL(write(ready[1], &byte, 1), 1);
		mapped_child();
		check_exit();
	}
	CHECK_EQUAL(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	close(ready[1]);
	return pid;
}

static void end_mapped(pid_t pid)
{
	char byte = 0;
	int status = -1;

	CHECK_EQUAL(write(go[1], &byte, 1), 1);
	CHECK_EQUAL(waitpid(pid, &status, 0), pid);
	CHECK_EQUAL(status, 0);
	close(go[0]);
	close(go[1]);
}

static const char *of(pid_t pid, const char *file)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
	return content(path);
}

static void write_maps_child(void)
{
	struct wherry_machine *m = build_begin();
	struct wherry_op_write_maps op = {
		.uid_map = build_text("0 100000 1000\n"), .gid_map = build_text("0 200000 1000\n"), .flags = WHERRY_MAPS_DENY_SETGROUPS,
	};
	unsigned int inside, outside, count;

	root_is_mapped = true;
	m->executor = WHERRY_LAUNCHER;
	m->init = begin_mapped();
	CHECK_EQUAL(op_write_maps(m, &op), 0);
	CHECK(sscanf(of(m->init, "uid_map"), "%u %u %u", &inside, &outside, &count) == 3 && !inside && outside == 100000 && count == 1000);
	CHECK(sscanf(of(m->init, "gid_map"), "%u %u %u", &inside, &outside, &count) == 3 && !inside && outside == 200000 && count == 1000);
	CHECK_TEXT(of(m->init, "setgroups"), "deny\n");
	CHECK_EQUAL(op_write_maps(m, &op), -EPERM); /* once only */
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_UID_MAP);
	end_mapped(m->init);

	root_is_mapped = false;
	m->init = begin_mapped();
	op.uid_map = op.gid_map = build_text("5 100000 10\n");
	op.flags = 0;
	CHECK_EQUAL(op_write_maps(m, &op), 0);
	CHECK_TEXT(of(m->init, "setgroups"), "allow\n");
	end_mapped(m->init);
}

static void maps(void)
{
	NEEDS_ROOT();
	in_child(write_maps_child);
}

/* newuidmap's part is played by a script that keeps its arguments. */
static void map_programs_child(void)
{
	struct wherry_machine *m = build_begin();
	char directory[] = "/tmp/wherry-ops-XXXXXX", script[64], said[64], text[128], expected[64];
	struct wherry_op_write_maps op = { .uid_map = build_text("0 1000 1\n1 100000 65536\n"), .gid_map = build_text("0 1000 1\n") };

	CHECK(mkdtemp(directory) != NULL);
	snprintf(script, sizeof(script), "%s/map", directory);
	snprintf(said, sizeof(said), "%s/said", directory);
	snprintf(text, sizeof(text), "#!/bin/sh\necho \"$@\" >>%s\n", said);
	build_write(script, text, 0700);
	op.uid_program = op.gid_program = build_text(script);
	m->executor = WHERRY_LAUNCHER;
	m->init = 4711;
	CHECK_EQUAL(op_write_maps(m, &op), 0);
	snprintf(expected, sizeof(expected), "4711 0 1000 1 1 100000 65536\n4711 0 1000 1\n");
	CHECK_TEXT(content(said), expected);
	build_write(script, "#!/bin/sh\nexit 3\n", 0700);
	CHECK_EQUAL(op_write_maps(m, &op), -EPERM);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_NEWUIDMAP);
	CHECK_EQUAL(WEXITSTATUS((int)m->failed_value), 3);
	unlink(script);
	CHECK_EQUAL(op_write_maps(m, &op), -ENOENT);
	unlink(said);
	rmdir(directory);
}

static void map_programs(void)
{
	in_child(map_programs_child);
}

static const struct check_case cases[] = {
	{ "names", names },
	{ "loopback", loopback },
	{ "keyring", keyring },
	{ "oom_score", oom_score },
	{ "opening", opening },
	{ "joining", joining },
	{ "unsharing", unsharing },
	{ "time_namespaces", time_namespaces },
	{ "cloning", cloning },
	{ "attaching", attaching },
	{ "maps", maps },
	{ "map_programs", map_programs },
};

CHECK_MAIN(cases)
