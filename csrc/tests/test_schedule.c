/* SPDX-License-Identifier: Apache-2.0
 *
 * Scheduling operations, each in a throw-away child, read back from the kernel.
 */
#include "build.h"

#include <linux/mempolicy.h>
#include <sys/personality.h>
#include <sys/resource.h>

static void personality_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_personality op = { .domain = PER_LINUX32 };

	CHECK_EQUAL(op_personality(m, &op), 0);
	CHECK_EQUAL(personality(0xffffffff), PER_LINUX32);
}

static void test_personality(void)
{
	in_child(personality_child);
}

static void nice_child(void)
{
	struct wherry_machine *m = build_begin();
	struct wherry_op_scheduler op = { .policy = SCHED_BATCH, .nice = 7 };

	CHECK_EQUAL(op_scheduler(m, &op), 0);
	CHECK_EQUAL(sched_getscheduler(0), SCHED_BATCH);
	CHECK_EQUAL(getpriority(PRIO_PROCESS, 0), 7);
	op.policy = 77;
	CHECK_EQUAL(op_scheduler(m, &op), -EINVAL);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_SCHED_SETATTR);
}

static void test_scheduler(void)
{
	in_child(nice_child);
}

static void fifo_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_scheduler op = { .policy = SCHED_FIFO, .priority = 3, .flags = 1 /* SCHED_FLAG_RESET_ON_FORK */ };
	struct sched_param param;

	if (op_scheduler(m, &op) == -EPERM)
		_exit(0); /* no real-time share in this cgroup */
	CHECK_EQUAL(sched_getscheduler(0), SCHED_FIFO | SCHED_RESET_ON_FORK);
	CHECK(sched_getparam(0, &param) == 0 && param.sched_priority == 3);
}

static void test_scheduler_fifo(void)
{
	in_child(fifo_child);
}

static void io_priority_child(void)
{
	struct wherry_machine *m = build_begin();
	const struct wherry_op_io_priority op = { .value = 2 << 13 | 5 }, bad = { .value = 7 << 13 };

	CHECK_EQUAL(op_io_priority(m, &op), 0);
	CHECK_EQUAL(syscall(SYS_ioprio_get, 1, 0), 2 << 13 | 5);
	CHECK(syscall(SYS_ioprio_get, 1, getppid()) != (2 << 13 | 5)); /* the group has others in it */
	CHECK_EQUAL(op_io_priority(m, &bad), -EINVAL);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_IOPRIO_SET);
}

static void test_io_priority(void)
{
	in_child(io_priority_child);
}

static void memory_policy_child(void)
{
	struct wherry_machine *m = build_begin();
	const uint64_t node_0[1] = { 1 };
	/* as the kernel counts: one more than it reads */
	struct wherry_op_memory_policy op = { .mode = MPOL_BIND, .max_node = 2, .nodes = build_blob(node_0, sizeof(node_0)) };
	unsigned long mask[16] = { 0 };
	int mode = -1;

	if (op_memory_policy(m, &op) == -ENOSYS)
		_exit(0);
	CHECK_EQUAL(syscall(SYS_get_mempolicy, &mode, mask, 1024UL, NULL, 0UL), 0);
	CHECK_EQUAL(mode, MPOL_BIND);
	CHECK_EQUAL(mask[0], 1);
	op.max_node = 1;
	CHECK_EQUAL(op_memory_policy(m, &op), -EINVAL); /* no node is left */
	op = (struct wherry_op_memory_policy){ .mode = MPOL_DEFAULT };
	CHECK_EQUAL(op_memory_policy(m, &op), 0);
	op.mode = 99;
	CHECK_EQUAL(op_memory_policy(m, &op), -EINVAL);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_SET_MEMPOLICY);
}

static void test_memory_policy(void)
{
	in_child(memory_policy_child);
}

static int processors(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CHECK(sched_getaffinity(0, sizeof(set), &set) == 0);
	return CPU_COUNT(&set);
}

static void affinity_child(void)
{
	struct wherry_machine *m = build_begin();
	int all = processors();
	cpu_set_t first;
	struct wherry_op_cpu_affinity op = { .mask = { 0, 0 } };
	const uint64_t none[1] = { 0 };

	CPU_ZERO(&first);
	for (int cpu = 0; cpu < CPU_SETSIZE && !CPU_COUNT(&first); cpu++) {
		CPU_SET(cpu, &first);
		if (sched_setaffinity(0, sizeof(first), &first) < 0)
			CPU_ZERO(&first);
	}
	CHECK_EQUAL(processors(), 1);
	CHECK_EQUAL(op_cpu_affinity(m, &op), 0);
	CHECK_EQUAL(processors(), all);
	op.mask = build_blob(&first, sizeof(first));
	CHECK_EQUAL(op_cpu_affinity(m, &op), 0);
	CHECK_EQUAL(processors(), 1);
	op.mask = build_blob(none, sizeof(none));
	CHECK_EQUAL(op_cpu_affinity(m, &op), -EINVAL);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_SCHED_SETAFFINITY);
}

static void test_cpu_affinity(void)
{
	in_child(affinity_child);
}

static const struct check_case cases[] = {
	{ "personality", test_personality },
	{ "scheduler", test_scheduler },
	{ "scheduler_fifo", test_scheduler_fifo },
	{ "io_priority", test_io_priority },
	{ "memory_policy", test_memory_policy },
	{ "cpu_affinity", test_cpu_affinity },
};

CHECK_MAIN(cases)
