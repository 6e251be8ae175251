/* SPDX-License-Identifier: Apache-2.0
 *
 * The whole chain with the real static program: a caller made of these lines, the launcher, init. What is asked of the kernel is
 * real, so most of it needs root.
 */
#include "check.h"
#include "planmaker.h"

#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

static struct planmaker plan;

static const char *rootfs_of(const struct caller *c)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/rootfs", c->directory);
	return path;
}

static bool is_root(void)
{
	return geteuid() == 0;
}

/* LAUNCH, then CLONE with `flags`. */
static struct wherry_op_clone *begin_plan(uint64_t flags)
{
	struct wherry_op_clone *clone;

	plan_begin(&plan);
	PLAN_ADD(&plan, OP_LAUNCH, WHERRY_CALLER, wherry_op_launch);
	clone = PLAN_ADD(&plan, OP_CLONE, WHERRY_LAUNCHER, wherry_op_clone);
	clone->flags = flags;
	clone->into_cgroup = WHERRY_NO_REGISTER;
	return clone;
}

static const struct caller_options no_options;

static void create_start_run(void)
{
	struct caller c;

	if (!is_root())
		CHECK_SKIP("needs root");
	caller_prepare(&c);
	begin_plan(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS);
	plan.registers = 1;
	plan_rootfs(&plan, WHERRY_INIT, rootfs_of(&c), 0);
	plan_shell(&plan, "echo pid $$; exit 7");
	plan_finish(&plan);
	CHECK_EQUAL(caller_launch(&c, &plan, &no_options), 0);
	CHECK_EQUAL(caller_create(&c, &plan), 0);
	CHECK_EQUAL(caller_wait_launcher(&c), 0);
	CHECK(caller_is_created(&c));
	CHECK_EQUAL(caller_start(&c), 0);
	CHECK_TEXT(caller_output(&c), "pid 1\n");
	CHECK(!caller_is_created(&c));
	CHECK_EQUAL(WEXITSTATUS(caller_wait(&c)), 7);
	caller_end(&c);
}

static const struct check_case cases[] = {
	{ "create_start_run", create_start_run },
};

CHECK_MAIN(cases)
