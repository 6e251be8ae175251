/* SPDX-License-Identifier: Apache-2.0
 *
 * op_landlock() in throw-away children: what its rules leave, and what is said where they cannot be made.
 */
#include "build.h"

enum { READ = 1 | 4 | 8, ALL = (1 << 13) - 1 };

static bool kernel_has_it(void)
{
	return syscall(444, NULL, 0, 1) >= 1;
}

static bool can_write(const char *path)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

/* Root may restrict itself without. */
static void give_up_privileges(void)
{
	if (geteuid())
		CHECK_EQUAL(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
}

static void rules_child(void)
{
	static const uint64_t allowed[] = { READ, ALL, ALL };
	struct wherry_machine *m = build_begin();
	struct wherry_op_landlock op = { .handled = ALL, .paths = build_list("/", "/dev/shm", "/dev/null", NULL) };
	char elsewhere[64], allowed_place[64];

	give_up_privileges();
	op.allowed = build_blob(allowed, sizeof(allowed));
	CHECK(can_write("/dev/zero") && can_write("/dev/null"));
	CHECK_EQUAL(op_landlock(m, &op), 0); /* a rule for a file keeps only what can be done with files */
	CHECK(!can_write("/dev/zero") && errno == EACCES);
	CHECK(can_write("/dev/null"));
	CHECK(access("/dev/zero", R_OK) == 0);
	snprintf(allowed_place, sizeof(allowed_place), "/dev/shm/wherry-landlock-%d", (int)getpid());
	CHECK(mkdir(allowed_place, 0700) == 0 && rmdir(allowed_place) == 0);
	snprintf(elsewhere, sizeof(elsewhere), "/tmp/wherry-landlock-%d", (int)getpid());
	CHECK_EQUAL(mkdir(elsewhere, 0700), -1);
	CHECK_EQUAL(errno, EACCES);
}

static void test_rules(void)
{
	if (kernel_has_it())
		in_child(rules_child);
}

static void missing_child(void)
{
	static const uint64_t allowed[] = { READ, READ };
	struct wherry_machine *m = build_begin();
	struct wherry_op_landlock op = { .handled = ALL, .paths = build_list("/", "/no such path", NULL) };

	give_up_privileges();
	op.allowed = build_blob(allowed, sizeof(allowed));
	CHECK_EQUAL(op_landlock(m, &op), -ENOENT);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_OPEN);
	CHECK_EQUAL(m->failed_value, 1);
	CHECK(can_write("/dev/zero"));
}

static void test_missing_path(void)
{
	if (kernel_has_it())
		in_child(missing_child);
}

static void unknown_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_landlock op = { .handled = UINT64_C(1) << 60 };

	CHECK_EQUAL(op_landlock(m, &op), kernel_has_it() ? -EINVAL : m->failed_call == WHERRY_CALL_LANDLOCK ? -errno : 0);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_LANDLOCK);
}

/* Rights that this kernel does not know, or no Landlock at all. */
static void test_what_the_kernel_has_not(void)
{
	in_child(unknown_child);
}

static const struct check_case cases[] = {
	{ "rules", test_rules },
	{ "missing_path", test_missing_path },
	{ "what_the_kernel_has_not", test_what_the_kernel_has_not },
};

CHECK_MAIN(cases)
