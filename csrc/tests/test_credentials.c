/* SPDX-License-Identifier: Apache-2.0
 *
 * Identity, capabilities, limits and the label, each in a throw-away child of root.
 */
#include "build.h"

#include <linux/capability.h>
#include <grp.h>
#include <sys/resource.h>

#define BIT(number) (UINT64_C(1) << (number))

enum { USER = 12345, GROUP = 23456 };

/* A row of /proc/self/status in hexadecimal. */
static uint64_t status_row(const char *row)
{
	char text[8192];
	const char *at;
	int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);

	build_read_all(fd, text, sizeof(text));
	close(fd);
	at = strstr(text, row);
	return at ? strtoull(at + strlen(row) + 1, NULL, 16) : UINT64_MAX;
}

/* ---- ids ------------------------------------------------------------------------------------------------------------------ */

static void identity_child(void)
{
	struct wherry_machine *m = build_begin();
	const uint32_t groups[] = { 7, 8, 4000000000 };
	struct wherry_op_identity op = { .uid = USER, .gid = GROUP, .groups = build_blob(groups, sizeof(groups)) };
	uint64_t permitted = status_row("CapPrm");
	uid_t uid[3];
	gid_t gid[3], seen[8];

	CHECK_EQUAL(op_identity(m, &op), 0);
	getresuid(&uid[0], &uid[1], &uid[2]);
	getresgid(&gid[0], &gid[1], &gid[2]);
	for (int i = 0; i < 3; i++) {
		CHECK_EQUAL(uid[i], USER);
		CHECK_EQUAL(gid[i], GROUP);
	}
	CHECK_EQUAL(getgroups(8, seen), 3);
	CHECK_EQUAL(seen[2], 4000000000);
	CHECK_EQUAL(status_row("CapPrm"), permitted); /* kept for OP_CAPABILITIES ... */
	CHECK_EQUAL(status_row("CapEff"), 0);
	CHECK_EQUAL(prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0), 0); /* ... and for nothing else */
	CHECK_EQUAL(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), 0);
}

static void test_identity(void)
{
	in_child(identity_child);
}

static void no_groups_child(void)
{
	struct wherry_machine *m = build_begin();
	const gid_t before[] = { 1, 2, 3 };
	struct wherry_op_identity op = { .uid = 0, .gid = 0, .skip_setgroups = 1 };

	CHECK(setgroups(3, before) == 0);
	CHECK_EQUAL(op_identity(m, &op), 0);
	CHECK_EQUAL(getgroups(0, NULL), 3);
	op.skip_setgroups = 0;
	CHECK_EQUAL(op_identity(m, &op), 0);
	CHECK_EQUAL(getgroups(0, NULL), 0);
}

static void test_no_groups_of_the_caller(void)
{
	in_child(no_groups_child);
}

static void denied_identity_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_identity op = { .uid = 0, .gid = 0, .skip_setgroups = 1 };

	CHECK(setresuid(USER, USER, USER) == 0);
	CHECK_EQUAL(op_identity(m, &op), -EPERM);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_SETRESUID);
}

static void test_denied_identity(void)
{
	in_child(denied_identity_child);
}

/* To setresuid the last number says "as it is". */
static void no_identity_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_identity wrong[] = { { .uid = UINT32_MAX, .gid = USER }, { .uid = USER, .gid = UINT32_MAX } };

	for (size_t i = 0; i < 2; i++) {
		CHECK_EQUAL(op_identity(m, &wrong[i]), -EINVAL);
		CHECK_EQUAL(m->failed_call, WHERRY_CALL_SETRESUID);
		CHECK(getuid() == 0 && getgid() == 0);
	}
}

static void test_no_identity(void)
{
	in_child(no_identity_child);
}

/* A pipe on stdout becomes the user's, the host's /dev/null does not. */
static void stdio_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_identity op = { .uid = USER, .gid = GROUP };
	struct stat null, pipe;
	int ends[2], device = open("/dev/null", O_RDWR | O_CLOEXEC);

	CHECK(pipe2(ends, O_CLOEXEC) == 0);
	dup2(device, 0);
	dup2(ends[1], 1);
	close(2);
	CHECK_EQUAL(op_identity(m, &op), 0);
	CHECK(fstat(0, &null) == 0 && null.st_uid == 0);
	CHECK(fstat(1, &pipe) == 0 && pipe.st_uid == USER && pipe.st_gid == 0);
}

/* A file that is to be written becomes the user's, one that is only read stays whose it is. */
static void files_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_identity op = { .uid = USER, .gid = GROUP };
	char path[] = "/tmp/wherry-stdio-XXXXXX";
	struct stat input, output;
	int writable = mkstemp(path), readable;

	CHECK(writable >= 0);
	readable = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(readable >= 0 && dup2(readable, 0) == 0);
	CHECK_EQUAL(unlink(path), 0);
	strcpy(path, "/tmp/wherry-stdio-XXXXXX");
	writable = mkstemp(path);
	CHECK(writable >= 0 && dup2(writable, 1) == 1);
	CHECK_EQUAL(unlink(path), 0);
	close(2);
	CHECK_EQUAL(op_identity(m, &op), 0);
	CHECK(fstat(0, &input) == 0 && input.st_uid == 0);
	CHECK(fstat(1, &output) == 0 && output.st_uid == USER);
}

static void test_stdio_is_given_to_the_user(void)
{
	in_child(stdio_child);
	in_child(files_child);
}

/* ---- capabilities ------------------------------------------------------------------------------------------------------------ */

static void bounding_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_bounding op = { .keep = BIT(CAP_CHOWN) | BIT(CAP_KILL) | BIT(CAP_SETPCAP) | BIT(63) };

	CHECK_EQUAL(op_bounding(m, &op), 0);
	CHECK_EQUAL(status_row("CapBnd"), BIT(CAP_CHOWN) | BIT(CAP_KILL) | BIT(CAP_SETPCAP));
}

static void test_bounding(void)
{
	in_child(bounding_child);
}

static void bounding_denied_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_bounding op = { .keep = 0 };

	CHECK(setresuid(USER, USER, USER) == 0);
	CHECK_EQUAL(op_bounding(m, &op), -EPERM);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_BOUNDING);
	CHECK_EQUAL(m->failed_value, CAP_CHOWN);
}

/* Who may drop nothing gets what is as wanted already, and nothing less. */
static void bounding_as_wanted_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_bounding few = { .keep = BIT(CAP_CHOWN) | BIT(CAP_BPF) }, fewer = { .keep = BIT(CAP_CHOWN) };

	CHECK_EQUAL(op_bounding(m, &few), 0);
	CHECK(setresuid(USER, USER, USER) == 0);
	CHECK_EQUAL(op_bounding(m, &few), 0);
	CHECK_EQUAL(op_bounding(m, &fewer), -EPERM);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_BOUNDING);
	CHECK_EQUAL(m->failed_value, CAP_BPF);
	CHECK_EQUAL(status_row("CapBnd"), few.keep);
}

static void test_bounding_denied(void)
{
	in_child(bounding_denied_child);
	in_child(bounding_as_wanted_child);
}

static void capabilities_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_identity identity = { .uid = USER, .gid = GROUP };
	const struct wherry_op_capabilities op = {
		.effective = BIT(CAP_CHOWN) | BIT(CAP_KILL),
		.permitted = BIT(CAP_CHOWN) | BIT(CAP_KILL) | BIT(CAP_NET_RAW) | BIT(CAP_BPF),
		.inheritable = BIT(CAP_KILL) | BIT(CAP_BPF),
		.ambient = BIT(CAP_KILL),
	};

	CHECK_EQUAL(op_identity(m, &identity), 0);
	CHECK_EQUAL(op_capabilities(m, &op), 0);
	CHECK_EQUAL(status_row("CapEff"), op.effective);
	CHECK_EQUAL(status_row("CapPrm"), op.permitted);
	CHECK_EQUAL(status_row("CapInh"), op.inheritable);
	CHECK_EQUAL(status_row("CapAmb"), op.ambient);
}

static void test_capabilities(void)
{
	in_child(capabilities_child);
}

/* What is ambient and inheritable on entry does not survive (CVE-2016-8867, CVE-2022-24769). */
static void inherited_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_capabilities before = { .effective = BIT(CAP_KILL), .permitted = BIT(CAP_KILL) | BIT(CAP_CHOWN),
		.inheritable = BIT(CAP_KILL), .ambient = BIT(CAP_KILL) }, after = { .permitted = BIT(CAP_KILL) },
		not_ambient = { .permitted = BIT(CAP_KILL) | BIT(CAP_CHOWN), .inheritable = BIT(CAP_KILL) };

	CHECK_EQUAL(op_capabilities(m, &before), 0);
	CHECK_EQUAL(status_row("CapAmb"), BIT(CAP_KILL));
	CHECK_EQUAL(op_capabilities(m, &not_ambient), 0); /* the kernel would let it stay: it is permitted and inheritable */
	CHECK_EQUAL(status_row("CapAmb"), 0);
	CHECK_EQUAL(status_row("CapInh"), BIT(CAP_KILL));
	CHECK_EQUAL(op_capabilities(m, &after), 0);
	CHECK_EQUAL(status_row("CapAmb"), 0);
	CHECK_EQUAL(status_row("CapInh"), 0);
	CHECK_EQUAL(status_row("CapEff"), 0);
	CHECK_EQUAL(status_row("CapPrm"), BIT(CAP_KILL));
}

static void test_nothing_is_inherited(void)
{
	in_child(inherited_child);
}

static void missing_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_capabilities few = { .permitted = BIT(CAP_KILL) }, more = { .permitted = BIT(CAP_KILL) | BIT(CAP_CHOWN) };

	CHECK_EQUAL(op_capabilities(m, &few), 0);
	CHECK_EQUAL(op_capabilities(m, &more), -WHERRY_CAPABILITY_MISSING);
	CHECK_EQUAL(m->failed_value, BIT(CAP_CHOWN));
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_CAPSET);
}

static void test_capability_that_is_not_there(void)
{
	in_child(missing_child);
}

static void ambient_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_capabilities op = { .permitted = BIT(CAP_KILL), .ambient = BIT(CAP_KILL) };

	CHECK_EQUAL(op_capabilities(m, &op), -EPERM); /* not inheritable */
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_AMBIENT);
	CHECK_EQUAL(m->failed_value, CAP_KILL);
}

static void test_ambient_needs_inheritable(void)
{
	in_child(ambient_child);
}

static void no_new_privileges_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_no_new_privileges op = { .op = { .code = OP_NO_NEW_PRIVILEGES } };

	CHECK_EQUAL(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 0);
	CHECK_EQUAL(op_no_new_privileges(m, &op), 0);
	CHECK_EQUAL(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
}

static void test_no_new_privileges(void)
{
	in_child(no_new_privileges_child);
}

/* ---- limits, umask ------------------------------------------------------------------------------------------------------------- */

static void rlimit_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_rlimit op = { .resource = RLIMIT_NOFILE, .soft = 50, .hard = 100 }, bad = { .resource = RLIMIT_CORE, .soft = 2, .hard = 1 };
	struct rlimit limit;

	CHECK_EQUAL(op_rlimit(m, &op), 0);
	CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur == 50 && limit.rlim_max == 100);
	CHECK_EQUAL(op_rlimit(m, &bad), -EINVAL);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_PRLIMIT);
}

static void test_rlimit(void)
{
	in_child(rlimit_child);
}

/* The launcher's is that of init. */
static void rlimit_of_init_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_rlimit op = { .resource = RLIMIT_NOFILE, .soft = 50, .hard = 100 };
	struct rlimit own, other;

	m->executor = WHERRY_LAUNCHER;
	m->init = fork();
	if (m->init == 0)
		for (;;)
			pause();
	CHECK_EQUAL(op_rlimit(m, &op), 0);
	CHECK(prlimit(m->init, RLIMIT_NOFILE, NULL, &other) == 0 && other.rlim_cur == 50 && other.rlim_max == 100);
	CHECK(getrlimit(RLIMIT_NOFILE, &own) == 0 && own.rlim_cur > 100);
	kill(m->init, SIGKILL);
	waitpid(m->init, NULL, 0);
}

static void test_rlimit_of_init(void)
{
	in_child(rlimit_of_init_child);
}

static void umask_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_umask op = { .mask = 0077 };

	CHECK_EQUAL(op_umask(m, &op), 0);
	CHECK_EQUAL(umask(0), 0077);
}

static void test_umask(void)
{
	in_child(umask_child);
}

/* ---- the label ------------------------------------------------------------------------------------------------------------------- */

/* No module is active on most test machines: the write reaches the kernel's own file and is refused there. */
static void label_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_security_label op = { .module = build_text("nomodule"), .label = build_text("a_t") };
	int result = op_security_label(m, &op);

	CHECK(result < 0);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_LABEL);
}

static void test_label(void)
{
	in_child(label_child);
}

static void long_label_child(void)
{
	static char label[WHERRY_MAX_PATH + 10];
	struct wherry_machine *m = build_begin();
	struct wherry_op_security_label op = { .module = build_text("apparmor") };

	memset(label, 'a', sizeof(label) - 1);
	op.label = build_text(label);
	CHECK(op_security_label(m, &op) < 0);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_LABEL);
}

static void test_long_label(void)
{
	in_child(long_label_child);
}

static const struct check_case cases[] = {
	{ "identity", test_identity },
	{ "no_groups_of_the_caller", test_no_groups_of_the_caller },
	{ "denied_identity", test_denied_identity },
	{ "no_identity", test_no_identity },
	{ "stdio_is_given_to_the_user", test_stdio_is_given_to_the_user },
	{ "bounding", test_bounding },
	{ "bounding_denied", test_bounding_denied },
	{ "capabilities", test_capabilities },
	{ "nothing_is_inherited", test_nothing_is_inherited },
	{ "capability_that_is_not_there", test_capability_that_is_not_there },
	{ "ambient_needs_inheritable", test_ambient_needs_inheritable },
	{ "no_new_privileges", test_no_new_privileges },
	{ "rlimit", test_rlimit },
	{ "rlimit_of_init", test_rlimit_of_init },
	{ "umask", test_umask },
	{ "label", test_label },
	{ "long_label", test_long_label },
};

int main(int argc, char **argv)
{
	if (geteuid()) {
		puts("skipped: these tests need root");
		return 77;
	}
	return check_main(cases, WHERRY_LENGTH(cases), argc, argv);
}
