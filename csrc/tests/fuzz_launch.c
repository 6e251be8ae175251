/* SPDX-License-Identifier: Apache-2.0
 *
 * What a launcher is given: slots and a plan in one file.
 */
#include "fuzz.h"
#include "decode_target.h"
#include "planmaker.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct wherry_machine machine;
	uint8_t *copy = aligned_alloc(8, (size + 8) & ~(size_t)7);
	uint64_t where = 0;
	int error;

	memcpy(copy, data, size);
	error = wherry_decode_launch(copy, size, &machine, &where);
	fuzz_promise(error == 0 || error == -WHERRY_BAD_PLAN || error == -WHERRY_WRONG_VERSION);
	for (int i = 0; !error && i < WHERRY_SLOT_COUNT; i++)
		fuzz_promise(!machine.slots[i] || strlen(machine.slots[i]) < size);
	fuzz_promise(error || machine.code.steps <= WHERRY_MAX_STEPS);
	free(copy);
	return 0;
}

/* A whole plan behind the head, which stays true. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned int seed)
{
	static struct planmaker plan;
	struct wherry_launch head;

	if (!plan.size)
		decode_make_full_plan(&plan);
	if (size < sizeof(head) && room >= sizeof(head) + plan.size) {
		memset(&head, 0, sizeof(head));
		head.inherited_registers = plan.inherited;
		head.plan_offset = sizeof(head);
		head.plan_size = plan.size;
		memcpy(data, &head, sizeof(head));
		memcpy(data + sizeof(head), plan.plan, plan.size);
		size = sizeof(head) + plan.size;
	} else {
		size = LLVMFuzzerMutate(data, size, room);
	}
	if (size < sizeof(head))
		return size;
	memcpy(&head, data, sizeof(head));
	head.magic = WHERRY_LAUNCH_MAGIC;
	head.version = WHERRY_VERSION;
	head.size = (uint32_t)size;
	if (seed % 4) {
		head.plan_offset = sizeof(head);
		head.plan_size = (uint32_t)(size - sizeof(head));
	}
	memcpy(data, &head, sizeof(head));
	return size;
}
