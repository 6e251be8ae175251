/* SPDX-License-Identifier: Apache-2.0
 *
 * A launch plan. Where there is no clang, test_decode.c runs deterministic mutations through the same function.
 */
#include "fuzz.h"
#include "decode_target.h"
#include "planmaker.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	decode_target(data, size);
	return 0;
}

/* Nothing random begins with the build id and a size that is true: start from a plan, and keep its head consistent. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned int seed)
{
	static struct planmaker plan;
	struct wherry_plan head;

	(void)seed;
	if (!plan.size)
		decode_make_full_plan(&plan);
	if (size < sizeof(head)) {
		size = plan.size < room ? plan.size : room;
		memcpy(data, plan.plan, size);
	}
	size = LLVMFuzzerMutate(data, size, room);
	if (size < sizeof(head))
		return size;
	memcpy(&head, data, sizeof(head));
	head.magic = WHERRY_PLAN_MAGIC;
	head.version = WHERRY_VERSION;
	head.size = (uint32_t)size;
	memcpy(head.build_id, ((struct wherry_plan *)(void *)plan.plan)->build_id, sizeof(head.build_id));
	memcpy(data, &head, sizeof(head));
	return size;
}
