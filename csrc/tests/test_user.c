/* SPDX-License-Identifier: Apache-2.0
 *
 * User namespaces, new and joined, and creates without privileges: maps, credentials, and who may look into whom.
 */
#include "namespaces.h"

#include <grp.h>

/* ---- user namespaces ------------------------------------------------------------------------------------------------------------- */

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
	{ "new_user_namespace", new_user_namespace },
	{ "init_may_not_enter_the_secret", init_may_not_enter_the_secret },
	{ "flags_of_host_mounts_are_locked", flags_of_host_mounts_are_locked },
	{ "as_root_of_a_user_namespace", as_root_of_a_user_namespace },
	{ "maps_by_programs", maps_by_programs },
	{ "a_program_that_refuses", a_program_that_refuses },
	{ "a_wrong_map", a_wrong_map },
	{ "join_user_namespace", join_user_namespace },
	{ "a_join_that_fails_after_the_user_namespace", a_join_that_fails_after_the_user_namespace },
	{ "without_privileges", without_privileges },
	{ "a_clone_that_is_refused", a_clone_that_is_refused },
	{ "with_newuidmap", with_newuidmap },
};

CHECK_MAIN(cases)
