/* SPDX-License-Identifier: Apache-2.0
 *
 * The operations of namespace.c and maps.c, in real plans: what init finds itself in is read from outside, through its pidfd.
 */
#include "check.h"
#include "planmaker.h"

#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

static struct planmaker plan;
static const struct caller_options no_options;

enum { MAPPED = 100000, NOBODY = 65534 };

#define NEEDS_ROOT() \
	do { \
		if (geteuid() != 0) \
			CHECK_SKIP("needs root"); \
	} while (0)

/* ---- helpers -------------------------------------------------------------------------------------------------------------- */

/* CHECKs in a child that may spoil its namespaces and credentials. */
static void in_child(void (*run)(void))
{
	pid_t child = fork();
	int status;

	if (!child) {
		check_failures = 0;
		run();
		fflush(stdout);
		check_exit();
	}
	CHECK(waitpid(child, &status, 0) == child);
	CHECK_EQUAL(status, 0);
}

/* The same inside some of the namespaces of a process; one more fork, for the pid namespace. */
static void inside(int pidfd, int namespaces, void (*run)(void))
{
	pid_t child = fork();
	int status;

	if (!child) {
		check_failures = 0;
		CHECK(setns(pidfd, namespaces) == 0);
		run();
		check_exit();
	}
	CHECK(waitpid(child, &status, 0) == child);
	CHECK_EQUAL(status, 0);
}

static void private_mounts(void)
{
	CHECK(unshare(CLONE_NEWNS) == 0);
	CHECK(mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL) == 0);
}

static const char *join_path(const char *directory, const char *name)
{
	static char paths[64][256];
	static int next;
	char *path = paths[next++ % 64];

	snprintf(path, sizeof(paths[0]), "%s/%s", directory, name);
	return path;
}

static void write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	CHECK(fd >= 0 && wherry_write_all(fd, text, strlen(text)) == 0);
	close(fd);
}

static const char *read_text(const char *path)
{
	static char text[4096];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	text[size < 0 ? 0 : size] = 0;
	if (fd >= 0)
		close(fd);
	return text;
}

static const char *proc_path(pid_t pid, const char *file)
{
	char directory[32];

	snprintf(directory, sizeof(directory), "/proc/%d", pid);
	return join_path(directory, file);
}

static ino_t namespace_of(pid_t pid, const char *name)
{
	struct stat file;

	return stat(proc_path(pid, name), &file) == 0 ? file.st_ino : 0;
}

static bool shares(pid_t one, pid_t other, const char *name)
{
	return namespace_of(one, name) == namespace_of(other, name);
}

/* A process with namespaces of its own, to be joined. */
static pid_t park(int namespaces)
{
	int ready[2];
	pid_t child;
	char byte;

	CHECK(pipe2(ready, O_CLOEXEC) == 0);
	child = fork();
	if (!child) {
		if (unshare(namespaces) < 0)
			_exit(1);
		if (write(ready[1], "", 1) != 1)
			_exit(1);
		pause();
		_exit(1);
	}
	close(ready[1]);
	CHECK_EQUAL(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return child;
}

static void unpark(pid_t child)
{
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}

/* ---- plans ------------------------------------------------------------------------------------------------------------------- */

static void begin_plan(void)
{
	plan_begin(&plan);
	PLAN_ADD(&plan, OP_LAUNCH, WHERRY_CALLER, wherry_op_launch);
}

static struct wherry_op_clone *add_clone(uint64_t flags)
{
	struct wherry_op_clone *clone = PLAN_ADD(&plan, OP_CLONE, WHERRY_LAUNCHER, wherry_op_clone);

	clone->flags = flags;
	clone->into_cgroup = WHERRY_NO_REGISTER;
	return clone;
}

static uint16_t new_register(void)
{
	return plan.registers++;
}

static uint16_t add_open_namespace(const char *path, uint32_t type)
{
	struct wherry_op_open_namespace *open = PLAN_ADD(&plan, OP_OPEN_NAMESPACE, WHERRY_LAUNCHER, wherry_op_open_namespace);

	open->path = plan_text(&plan, path);
	open->type = type;
	return open->out = new_register();
}

static void add_join(enum wherry_executor executor, uint32_t type, uint16_t from)
{
	struct wherry_op_join *join = PLAN_ADD(&plan, OP_JOIN, executor, wherry_op_join);

	join->type = type;
	join->from = from;
}

static void add_join_path(pid_t pid, const char *name, uint32_t type)
{
	add_join(WHERRY_LAUNCHER, type, add_open_namespace(proc_path(pid, name), type));
}

static struct wherry_op_write_maps *add_maps(const char *map)
{
	struct wherry_op_write_maps *maps = PLAN_ADD(&plan, OP_WRITE_MAPS, WHERRY_LAUNCHER, wherry_op_write_maps);

	maps->uid_map = maps->gid_map = plan_text(&plan, map);
	PLAN_ADD(&plan, OP_BECOME_ROOT, WHERRY_INIT, wherry_op_become_root);
	return maps;
}

static void add_bind(enum wherry_executor opener, const char *source, const char *destination)
{
	struct wherry_op_open_tree *open = PLAN_ADD(&plan, OP_OPEN_TREE, opener, wherry_op_open_tree);
	struct wherry_op_mount_bind *bind;

	open->source = plan_template(&plan, source);
	open->out = new_register();
	bind = PLAN_ADD(&plan, OP_MOUNT_BIND, WHERRY_INIT, wherry_op_mount_bind);
	bind->destination = plan_text(&plan, destination);
	bind->tree = open->out;
}

/* "/" attached at the caller's own place, something bound to /mnt of it, pivoted. */
static void add_rootfs(struct caller *c, enum wherry_executor opener, const char *bound)
{
	struct wherry_op_open_tree *open;
	struct wherry_op_attach_rootfs *attach;

	PLAN_ADD(&plan, OP_PROPAGATION, WHERRY_INIT, wherry_op_propagation)->flags = MS_SLAVE | MS_REC;
	open = PLAN_ADD(&plan, OP_OPEN_TREE, opener, wherry_op_open_tree);
	open->source = plan_template(&plan, "/");
	open->recursive = 1; /* in a user namespace the kernel does not let go of what is mounted below */
	open->out = new_register();
	attach = PLAN_ADD(&plan, OP_ATTACH_ROOTFS, WHERRY_INIT, wherry_op_attach_rootfs);
	attach->path = plan_template(&plan, join_path(c->directory, "rootfs"));
	attach->tree = open->out;
	if (bound)
		add_bind(opener, bound, "/mnt");
	PLAN_ADD(&plan, OP_PIVOT, WHERRY_INIT, wherry_op_pivot);
}

/* Created, with nothing to execute. */
static void add_end(void)
{
	plan.flags |= WHERRY_PLAN_NO_PROCESS;
	PLAN_ADD(&plan, OP_PUBLISH, WHERRY_CALLER, wherry_op_publish);
	PLAN_ADD(&plan, OP_WAIT_START, WHERRY_INIT, wherry_op_wait_start);
}

/* Runs the plan, and CHECKs what it comes to: 0, or the error that the caller is told. */
static void create(struct caller *c, const struct caller_options *options, int expected)
{
	static struct wherry_code code;
	int error;

	plan_finish(&plan);
	CHECK_EQUAL(wherry_decode(plan.plan, plan.size, &code, NULL), 0);
	CHECK_EQUAL(caller_launch(c, &plan, options), 0);
	error = caller_create(c, &plan);
	CHECK_EQUAL(error, expected);
	if (error != expected)
		fprintf(stderr, "step %u, call %u\n", c->message.step, c->message.call);
	if (!error)
		CHECK_EQUAL(caller_wait_launcher(c), 0);
}

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

/* ---- user namespaces ------------------------------------------------------------------------------------------------------------- */

/* /proc/PID of a hidden process belongs to the host's root, whoever the process is. */
static uid_t owner_of(pid_t pid)
{
	struct stat file;

	return stat(proc_path(pid, "stat"), &file) == 0 ? file.st_uid : (uid_t)-1;
}

/* A directory that only the host's root may enter, and a file in it. */
static const char *make_secret(const struct caller *c)
{
	const char *secret = join_path(c->directory, "secret");

	CHECK(mkdir(secret, 0700) == 0 && mkdir(join_path(secret, "inner"), 0755) == 0);
	write_text(join_path(secret, "inner/file"), "hello\n");
	return join_path(secret, "inner");
}

static void new_user_namespace(void)
{
	static const char *const arguments[] = { "/bin/sh", "-c", "id -u; cat /mnt/file; exec sleep 60", NULL };
	struct caller c;
	char line[64];
	FILE *output;

	NEEDS_ROOT();
	caller_prepare(&c);
	begin_plan();
	add_clone(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID);
	add_maps("0 100000 65536\n");
	add_rootfs(&c, WHERRY_LAUNCHER, make_secret(&c));
	plan_program(&plan, arguments);
	create(&c, &no_options, 0);
	CHECK(!shares(c.init, getpid(), "ns/user"));
	CHECK(strstr(read_text(proc_path(c.init, "uid_map")), "100000      65536") != NULL);
	CHECK(strstr(read_text(proc_path(c.init, "status")), "Uid:\t100000\t100000\t100000\t100000") != NULL);
	CHECK(strstr(read_text(proc_path(c.init, "status")), "Gid:\t100000\t100000\t100000\t100000") != NULL);
	CHECK_EQUAL(owner_of(c.init), 0);
	CHECK_EQUAL(caller_start(&c), 0);
	CHECK_EQUAL(owner_of(c.init), MAPPED);
	output = fdopen(dup(c.output), "re");
	CHECK(output && fgets(line, sizeof(line), output) && !strcmp(line, "0\n"));
	CHECK(output && fgets(line, sizeof(line), output) && !strcmp(line, "hello\n"));
	if (output)
		fclose(output);
	caller_end(&c);
}

/* Init alone could not have opened it. */
static void init_may_not_enter_the_secret(void)
{
	struct caller c;

	NEEDS_ROOT();
	caller_prepare(&c);
	begin_plan();
	add_clone(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID);
	add_maps("0 100000 65536\n");
	add_bind(WHERRY_INIT, make_secret(&c), "/mnt");
	add_end();
	create(&c, &no_options, EACCES);
	CHECK_EQUAL(c.message.call, WHERRY_CALL_OPEN_TREE);
	caller_end(&c);
}

static void try_to_clear_flags(void)
{
	CHECK(mount(NULL, "/mnt", NULL, MS_REMOUNT | MS_BIND | MS_NOSUID, NULL) < 0 && errno == EPERM); /* without ro */
	CHECK(mount(NULL, "/mnt", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) < 0 && errno == EPERM); /* without nosuid */
	CHECK(mount(NULL, "/mnt", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL) == 0); /* one more is allowed */
}

/* The flags of a host's mount are locked: a container's root, with all its capabilities, cannot clear them. */
static void flags_of_host_mounts_are_locked_here(void)
{
	const char *mounted;
	struct caller c;

	private_mounts();
	caller_prepare(&c);
	mounted = join_path(c.directory, "mounted");
	CHECK(mkdir(mounted, 0755) == 0);
	CHECK(mount("tmpfs", mounted, "tmpfs", MS_NOSUID | MS_RDONLY, NULL) == 0);
	begin_plan();
	add_clone(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID);
	add_maps("0 100000 65536\n");
	add_rootfs(&c, WHERRY_LAUNCHER, mounted);
	add_end();
	create(&c, &no_options, 0);
	inside(c.init_pidfd, CLONE_NEWUSER | CLONE_NEWNS, try_to_clear_flags);
	umount2(join_path(c.directory, "mounted"), MNT_DETACH);
	caller_end(&c);
}

static void flags_of_host_mounts_are_locked(void)
{
	NEEDS_ROOT();
	in_child(flags_of_host_mounts_are_locked_here);
}

/* Root of a user namespace, as under a rootless engine: hidden at once, and yet it maps, joins and attaches. */
static void as_root_of_a_user_namespace_here(void)
{
	struct caller c;

	CHECK(unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0);
	kill(getpid(), SIGSTOP); /* mapped meanwhile */
	caller_prepare(&c);
	begin_plan();
	add_clone(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET);
	add_maps("0 100000 65536\n");
	PLAN_ADD(&plan, OP_LOOPBACK_UP, WHERRY_INIT, wherry_op_loopback_up);
	add_rootfs(&c, WHERRY_LAUNCHER, make_secret(&c));
	plan_shell(&plan, "id -u; cat /mnt/file");
	create(&c, &no_options, 0);
	CHECK_EQUAL(owner_of(c.init), 0);
	CHECK_EQUAL(caller_start(&c), 0);
	CHECK_TEXT(caller_output(&c), "0\nhello\n");
	caller_end(&c);
}

static void as_root_of_a_user_namespace(void)
{
	static const char map[] = "0 0 1000000\n";
	pid_t child;
	int status;

	NEEDS_ROOT();
	child = fork();
	if (!child) {
		check_failures = 0;
		as_root_of_a_user_namespace_here();
		check_exit();
	}
	CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
	CHECK(wherry_write_file(AT_FDCWD, proc_path(child, "uid_map"), map, strlen(map), NULL) == 0);
	CHECK(wherry_write_file(AT_FDCWD, proc_path(child, "gid_map"), map, strlen(map), NULL) == 0);
	kill(child, SIGCONT);
	CHECK(waitpid(child, &status, 0) == child);
	CHECK_EQUAL(status, 0);
}

/* newuidmap's arguments: pid and the numbers of the map, and nothing else. */
static void maps_by_programs(void)
{
	struct wherry_op_write_maps *maps;
	struct caller c;
	char script[512], expected[128];
	const char *program, *log;

	NEEDS_ROOT();
	caller_prepare(&c);
	program = join_path(c.directory, "newmap");
	log = join_path(c.directory, "log");
	snprintf(script, sizeof(script),
		 "#!/bin/sh\necho \"$@\" >> %s\np=$1; shift; for f in uid gid; do [ -e %s.$f ] || { :> %s.$f; break; }; done\n"
		 "printf '%%s %%s %%s\\n' \"$@\" > /proc/$p/${f}_map\n", log, log, log);
	write_text(program, script);
	CHECK(chmod(program, 0755) == 0);
	begin_plan();
	add_clone(CLONE_NEWUSER);
	maps = add_maps("0 100000 1000\n1000 4000000000 1\n2000 200000 7\n");
	maps->uid_program = maps->gid_program = plan_text(&plan, program);
	add_end();
	create(&c, &no_options, 0);
	snprintf(expected, sizeof(expected), "%d 0 100000 1000 1000 4000000000 1 2000 200000 7\n", c.init);
	CHECK(!strncmp(read_text(log), expected, strlen(expected)));
	CHECK_TEXT(read_text(log) + strlen(expected), expected);
	CHECK(strstr(read_text(proc_path(c.init, "gid_map")), "4000000000") != NULL);
	caller_end(&c);
}

static void a_program_that_refuses(void)
{
	struct wherry_op_write_maps *maps;
	struct caller c;

	NEEDS_ROOT();
	caller_prepare(&c);
	begin_plan();
	add_clone(CLONE_NEWUSER);
	maps = add_maps("0 100000 1000\n");
	maps->uid_program = plan_text(&plan, "/bin/false");
	add_end();
	create(&c, &no_options, EPERM);
	CHECK_EQUAL(c.message.call, WHERRY_CALL_NEWUIDMAP);
	CHECK_EQUAL(WEXITSTATUS(c.message.value), 1);
	caller_end(&c);
	caller_prepare(&c);
	begin_plan();
	add_clone(CLONE_NEWUSER);
	maps = add_maps("0 100000 1000\n");
	maps->gid_program = plan_text(&plan, "/nowhere/newgidmap");
	add_end();
	create(&c, &no_options, ENOENT);
	CHECK_EQUAL(c.message.call, WHERRY_CALL_NEWGIDMAP);
	caller_end(&c);
}

static void a_wrong_map(void)
{
	struct caller c;

	NEEDS_ROOT();
	caller_prepare(&c);
	begin_plan();
	add_clone(CLONE_NEWUSER);
	add_maps("0 100000 nonsense\n");
	add_end();
	create(&c, &no_options, EINVAL);
	CHECK_EQUAL(c.message.call, WHERRY_CALL_UID_MAP);
	CHECK_EQUAL(c.message.step, 2);
	caller_end(&c);
}

/* A pod's user namespace and what it owns. The launcher gives up the host's credentials to join it; what needs them is served all the same. */
static void join_user_namespace(void)
{
	struct caller c, pod;
	uint16_t user, net, uts;

	NEEDS_ROOT();
	caller_prepare(&pod);
	begin_plan();
	add_clone(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWUTS);
	add_maps("0 100000 65536\n");
	add_end();
	create(&pod, &no_options, 0);
	caller_prepare(&c);
	begin_plan();
	user = add_open_namespace(proc_path(pod.init, "ns/user"), CLONE_NEWUSER);
	net = add_open_namespace(proc_path(pod.init, "ns/net"), CLONE_NEWNET);
	uts = add_open_namespace(proc_path(pod.init, "ns/uts"), CLONE_NEWUTS);
	add_join(WHERRY_LAUNCHER, CLONE_NEWUSER, user);
	add_join(WHERRY_LAUNCHER, CLONE_NEWNET, net);
	add_join(WHERRY_LAUNCHER, CLONE_NEWUTS, uts);
	add_clone(CLONE_NEWNS | CLONE_NEWPID);
	PLAN_ADD(&plan, OP_BECOME_ROOT, WHERRY_INIT, wherry_op_become_root);
	add_rootfs(&c, WHERRY_LAUNCHER, make_secret(&c));
	plan_shell(&plan, "id -u; cat /mnt/file");
	create(&c, &no_options, 0);
	CHECK(shares(c.init, pod.init, "ns/user") && shares(c.init, pod.init, "ns/net") && shares(c.init, pod.init, "ns/uts"));
	CHECK_EQUAL(owner_of(c.init), 0);
	CHECK_EQUAL(caller_start(&c), 0);
	CHECK_TEXT(caller_output(&c), "0\nhello\n");
	CHECK_EQUAL(caller_wait(&c), 0);
	caller_end(&c);
	caller_end(&pod);
}

/* The one that serves must go when the launcher fails. */
static void a_join_that_fails_after_the_user_namespace(void)
{
	struct caller c, pod;
	uint16_t from;

	NEEDS_ROOT();
	caller_prepare(&pod);
	begin_plan();
	add_clone(CLONE_NEWUSER);
	add_maps("0 100000 65536\n");
	add_end();
	create(&pod, &no_options, 0);
	caller_prepare(&c);
	begin_plan();
	from = add_open_namespace("/proc/self/ns/uts", CLONE_NEWUTS);
	add_join_path(pod.init, "ns/user", CLONE_NEWUSER);
	add_join(WHERRY_LAUNCHER, CLONE_NEWUTS, from); /* the host's, which the pod's root may not enter */
	add_clone(CLONE_NEWNS | CLONE_NEWPID);
	add_rootfs(&c, WHERRY_LAUNCHER, NULL);
	add_end();
	create(&c, &no_options, EPERM);
	CHECK_EQUAL(c.message.call, WHERRY_CALL_SETNS);
	CHECK_EQUAL(WEXITSTATUS(caller_wait_launcher(&c)), 1);
	CHECK_EQUAL(caller_receive(&c), -EPIPE); /* nobody holds the socket any more */
	caller_end(&c);
	caller_end(&pod);
}

/* ---- time ------------------------------------------------------------------------------------------------------------------------ */

static time_t expected_boot;

static void check_clock(void)
{
	struct timespec now;

	CHECK(syscall(SYS_clock_gettime, CLOCK_BOOTTIME, &now) == 0);
	CHECK(now.tv_sec >= expected_boot && now.tv_sec < expected_boot + 600);
}

static void add_time(enum wherry_executor executor, bool offsets)
{
	PLAN_ADD(&plan, OP_UNSHARE, executor, wherry_op_unshare)->flags = CLONE_NEWTIME;
	if (offsets)
		PLAN_ADD(&plan, OP_TIME_OFFSETS, executor, wherry_op_time_offsets)->lines = plan_text(&plan, "boottime 7000000 0\n");
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

/* ---- without privileges ------------------------------------------------------------------------------------------------------------- */

/* /etc/subuid for nobody, over this host's /etc, in our own mount namespace. False: no overlay here. */
static bool lend_subordinate_ids(const struct caller *c)
{
	const char *over = join_path(c->directory, "over");
	char options[512];

	CHECK(mkdir(over, 0755) == 0 && mount("tmpfs", over, "tmpfs", 0, NULL) == 0);
	CHECK(mkdir(join_path(over, "upper"), 0755) == 0 && mkdir(join_path(over, "work"), 0755) == 0);
	snprintf(options, sizeof(options), "lowerdir=/etc,upperdir=%s/upper,workdir=%s/work", over, over);
	if (mount("overlay", "/etc", "overlay", 0, options) < 0)
		return false;
	write_text("/etc/subuid", "nobody:100000:65536\n");
	write_text("/etc/subgid", "nobody:100000:65536\n");
	return true;
}

static void become_nobody(const struct caller *c)
{
	CHECK(chown(c->directory, NOBODY, NOBODY) == 0);
	CHECK(chown(join_path(c->directory, "rootfs"), NOBODY, NOBODY) == 0);
	CHECK(chown(join_path(c->directory, "start"), NOBODY, NOBODY) == 0);
	CHECK(chown(join_path(c->directory, "result"), NOBODY, NOBODY) == 0);
	CHECK(setgroups(0, NULL) == 0 && setresgid(NOBODY, NOBODY, NOBODY) == 0 && setresuid(NOBODY, NOBODY, NOBODY) == 0);
	CHECK(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0);
}

static struct caller rootless;

static void run_unprivileged(void)
{
	struct caller *c = &rootless;

	add_rootfs(c, WHERRY_INIT, NULL);
	plan_shell(&plan, "id -u; exit 9");
	create(c, &no_options, 0);
	CHECK_EQUAL(owner_of(c->init), 0); /* hidden once it is mapped */
	CHECK_EQUAL(caller_start(c), 0);
	CHECK_TEXT(caller_output(c), "0\n");
	CHECK_EQUAL(WEXITSTATUS(caller_wait(c)), 9);
}

/* One's own id alone. */
static void without_privileges_here(void)
{
	become_nobody(&rootless);
	begin_plan();
	add_clone(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET);
	add_maps("0 65534 1\n")->flags = WHERRY_MAPS_DENY_SETGROUPS;
	PLAN_ADD(&plan, OP_LOOPBACK_UP, WHERRY_INIT, wherry_op_loopback_up);
	run_unprivileged();
}

static void without_privileges(void)
{
	NEEDS_ROOT();
	caller_prepare(&rootless);
	in_child(without_privileges_here);
	caller_end(&rootless);
}

static void a_clone_that_is_refused_here(void)
{
	become_nobody(&rootless);
	begin_plan();
	add_clone(CLONE_NEWPID | CLONE_NEWNS);
	add_end();
	create(&rootless, &no_options, EPERM);
	CHECK_EQUAL(rootless.message.step, 1);
	CHECK_EQUAL(rootless.message.call, WHERRY_CALL_CLONE);
	CHECK_EQUAL(WEXITSTATUS(caller_wait_launcher(&rootless)), 1);
}

static void a_clone_that_is_refused(void)
{
	NEEDS_ROOT();
	caller_prepare(&rootless);
	in_child(a_clone_that_is_refused_here);
	caller_end(&rootless);
}

static void with_newuidmap_here(void)
{
	struct wherry_op_write_maps *maps;

	private_mounts();
	if (!lend_subordinate_ids(&rootless)) {
		fprintf(stderr, "no overlay on /etc: nothing was tested\n");
		return;
	}
	become_nobody(&rootless);
	begin_plan();
	add_clone(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID);
	maps = add_maps("0 65534 1\n1 100000 1000\n");
	maps->uid_program = plan_text(&plan, "/usr/bin/newuidmap");
	maps->gid_program = plan_text(&plan, "/usr/bin/newgidmap");
	add_time(WHERRY_INIT, true);
	run_unprivileged();
}

static void with_newuidmap(void)
{
	NEEDS_ROOT();
	if (access("/usr/bin/newuidmap", X_OK) < 0)
		CHECK_SKIP("no newuidmap");
	caller_prepare(&rootless);
	in_child(with_newuidmap_here);
	caller_end(&rootless);
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
	{ "new_user_namespace", new_user_namespace },
	{ "init_may_not_enter_the_secret", init_may_not_enter_the_secret },
	{ "flags_of_host_mounts_are_locked", flags_of_host_mounts_are_locked },
	{ "as_root_of_a_user_namespace", as_root_of_a_user_namespace },
	{ "maps_by_programs", maps_by_programs },
	{ "a_program_that_refuses", a_program_that_refuses },
	{ "a_wrong_map", a_wrong_map },
	{ "join_user_namespace", join_user_namespace },
	{ "a_join_that_fails_after_the_user_namespace", a_join_that_fails_after_the_user_namespace },
	{ "time_namespaces", time_namespaces },
	{ "attach_tasks", attach_tasks },
	{ "clone_into_cgroup", clone_into_cgroup },
	{ "without_new_calls", without_new_calls },
	{ "without_privileges", without_privileges },
	{ "a_clone_that_is_refused", a_clone_that_is_refused },
	{ "with_newuidmap", with_newuidmap },
};

CHECK_MAIN(cases)
