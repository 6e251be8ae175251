/* SPDX-License-Identifier: Apache-2.0
 *
 * How the kernel is to run the process: personality, scheduler, I/O priority, memory policy, processors. Each is one call with
 * the numbers that the plan has; what they mean was checked where the plan was made.
 */
#include "wherry/core.h"
#include "wherry/sys.h"

#include <string.h>

enum {
	IOPRIO_OF_PROCESS = 1,           /* IOPRIO_WHO_PROCESS: the group may be the caller's */
	AFFINITY_BYTES = 1024,           /* 8192 processors: the largest that a kernel is built for */
	SCHED_UTIL_FLAGS = 0x20 | 0x40,  /* SCHED_FLAG_UTIL_CLAMP_MIN, _MAX */
	SCHED_SIZE_PLAIN = 48,           /* SCHED_ATTR_SIZE_VER0: all that kernels before 5.3 know */
};

struct sched_attributes { /* struct sched_attr */
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
	uint32_t util_min, util_max;
};

int op_personality(struct wherry_machine *m, const struct wherry_op_personality *op)
{
	return sys_personality(op->domain) < 0 ? wherry_fail_errno(m, WHERRY_CALL_PERSONALITY) : 0;
}

int op_scheduler(struct wherry_machine *m, const struct wherry_op_scheduler *op)
{
	struct sched_attributes attributes = {
		.size = op->flags & SCHED_UTIL_FLAGS ? sizeof(attributes) : SCHED_SIZE_PLAIN,
		.policy = op->policy,
		.flags = op->flags,
		.nice = op->nice,
		.priority = op->priority,
		.runtime = op->runtime,
		.deadline = op->deadline,
		.period = op->period,
		.util_min = op->util_min,
		.util_max = op->util_max,
	};

	return sys_sched_setattr(0, &attributes, 0) < 0 ? wherry_fail_errno(m, WHERRY_CALL_SCHED_SETATTR) : 0;
}

int op_io_priority(struct wherry_machine *m, const struct wherry_op_io_priority *op)
{
	if (sys_ioprio_set(IOPRIO_OF_PROCESS, 0, (int)op->value) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_IOPRIO_SET);
	return 0;
}

int op_memory_policy(struct wherry_machine *m, const struct wherry_op_memory_policy *op)
{
	const unsigned long *nodes = op->nodes.length ? wherry_bytes(&m->code, op->nodes) : NULL;

	if (sys_set_mempolicy((int)op->mode, nodes, nodes ? op->max_node : 0) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_SET_MEMPOLICY);
	return 0;
}

/* Reset, because the mask of whoever called the runtime is inherited and has nothing to do with the container; what the cpuset
 * allows, the kernel intersects by itself. */
int op_cpu_affinity(struct wherry_machine *m, const struct wherry_op_cpu_affinity *op)
{
	const void *mask = op->mask.length ? wherry_bytes(&m->code, op->mask) : NULL;
	size_t size = op->mask.length;
	unsigned char all[AFFINITY_BYTES];

	if (!mask) {
		memset(all, 0xff, sizeof(all));
		mask = all;
		size = sizeof(all);
	}
	if (sys_sched_setaffinity(0, size, mask) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_SCHED_SETAFFINITY);
	return 0;
}
