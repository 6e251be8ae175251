/* SPDX-License-Identifier: Apache-2.0
 *
 * The decoder: what it accepts, what it refuses and where it says the fault stands, and deterministic mutations of a full plan.
 */
#include "check.h"
#include "decode_target.h"
#include "planmaker.h"
#include "wherry/host.h"

#include <stdlib.h>

static struct planmaker plan;
static struct wherry_code code;

static struct wherry_plan *head(void)
{
	return (void *)plan.plan;
}

static struct wherry_op *step(uint32_t number)
{
	uint8_t *at = plan.plan + head()->steps_offset;

	while (number--)
		at += ((struct wherry_op *)(void *)at)->size;
	return (void *)at;
}

static struct wherry_op *find(enum wherry_opcode opcode)
{
	for (uint32_t i = 0; i < plan.count; i++)
		if (step(i)->code == opcode)
			return step(i);
	return NULL;
}

static int decode(uint64_t *where)
{
	return wherry_decode(plan.plan, plan.size, &code, where);
}

static uint64_t offset_of(const void *field)
{
	return (uint64_t)((const uint8_t *)field - plan.plan);
}

/* Refused, and the fault is said to stand at `field`. */
#define CHECK_REFUSED(field) \
	do { \
		uint64_t where_ = 0; \
		CHECK_EQUAL(decode(&where_), -WHERRY_BAD_PLAN); \
		CHECK_EQUAL(where_, offset_of(field)); \
		CHECK_EQUAL(code.steps, 0); \
	} while (0)

/* ---- accepted ------------------------------------------------------------------------------------------------------------ */

static void every_operation_decodes(void)
{
	bool seen[OP_COUNT_PLUS_1] = { false };
	uint64_t where = 1;

	decode_make_full_plan(&plan);
	CHECK_EQUAL(decode(&where), 0);
	CHECK_EQUAL(where, 0);
	CHECK_EQUAL(code.steps, plan.count);
	for (uint32_t i = 0; i < code.steps; i++)
		seen[code.step[i]->code] = true;
	CHECK(code.step[code.steps] == NULL);
	for (int opcode = 1; opcode < OP_COUNT_PLUS_1; opcode++)
		if (!seen[opcode]) {
			fprintf(stderr, "operation %d\n", opcode);
			CHECK(seen[opcode]);
		}
	CHECK_EQUAL(decode_target(plan.plan, plan.size), 1);
}

static void texts_and_lists(void)
{
	const struct wherry_op_program *program;
	const struct wherry_text *texts;

	decode_make_full_plan(&plan);
	CHECK_EQUAL(decode(NULL), 0);
	program = (const void *)find(OP_PROGRAM);
	texts = wherry_texts(&code, program->arguments);
	CHECK_EQUAL(program->arguments.count, 3);
	CHECK_TEXT(wherry_text(&code, texts[2]), "true");
	CHECK(wherry_text(&code, program->path) == NULL);
	CHECK_TEXT(wherry_text(&code, ((struct wherry_op_cgroup_write *)(void *)find(OP_CGROUP_WRITE))->value), "");
	CHECK(wherry_bytes(&code, (struct wherry_blob){ 0, 0 }) == NULL);
	CHECK(wherry_texts(&code, (struct wherry_list){ 0, 0 }) == NULL);
}

static void templates_expand(void)
{
	static struct wherry_machine m;
	struct wherry_template state;
	char out[64];

	decode_make_full_plan(&plan);
	CHECK_EQUAL(wherry_decode(plan.plan, plan.size, &m.code, NULL), 0);
	state = ((struct wherry_op_claim *)(void *)find(OP_CLAIM))->state_head;
	CHECK_EQUAL(wherry_expand(&m, state, out, sizeof(out)), -EINVAL); /* the slot is empty */
	m.slots[WHERRY_SLOT_ID] = "box";
	CHECK_EQUAL(wherry_expand(&m, state, out, sizeof(out)), 18);
	CHECK_TEXT(out, "{\"id\":\"box\",\"pid\":");
	CHECK_EQUAL(wherry_expand(&m, state, out, 19), 18);
	CHECK_EQUAL(wherry_expand(&m, state, out, 18), -ENAMETOOLONG);
	CHECK_EQUAL(wherry_expand(&m, state, out, 8), -ENAMETOOLONG);
	CHECK_EQUAL(wherry_expand(&m, state, out, 0), -ENAMETOOLONG);
	CHECK_EQUAL(wherry_expand(&m, (struct wherry_template){ 0, 0 }, out, sizeof(out)), 0);
	CHECK_TEXT(out, "");
}

/* ---- the header ------------------------------------------------------------------------------------------------------------ */

static void headers_are_checked(void)
{
	uint64_t where;

	decode_make_full_plan(&plan);
	head()->magic++;
	CHECK_REFUSED(&head()->magic);
	decode_make_full_plan(&plan);
	head()->version++;
	CHECK_EQUAL(decode(&where), -WHERRY_WRONG_VERSION);
	decode_make_full_plan(&plan);
	head()->build_id[3] ^= 1;
	CHECK_EQUAL(decode(&where), -WHERRY_WRONG_VERSION);
	decode_make_full_plan(&plan);
	head()->header_size += 8;
	CHECK_REFUSED(&head()->header_size);
	decode_make_full_plan(&plan);
	head()->size -= 8;
	CHECK_REFUSED(&head()->size);
	decode_make_full_plan(&plan);
	head()->steps = WHERRY_MAX_STEPS + 1;
	CHECK_REFUSED(&head()->steps);
	decode_make_full_plan(&plan);
	head()->steps_size += 8;
	CHECK_REFUSED(&head()->steps_offset);
	decode_make_full_plan(&plan);
	head()->steps_offset += 4;
	CHECK_REFUSED(&head()->steps_offset);
	decode_make_full_plan(&plan);
	head()->registers = WHERRY_MAX_REGISTERS + 1;
	CHECK_REFUSED(&head()->registers);
	decode_make_full_plan(&plan);
	head()->inherited_registers = head()->registers + 1;
	CHECK_REFUSED(&head()->registers);
	decode_make_full_plan(&plan);
	head()->facts_key = (struct wherry_text){ plan.size - 1, 1 };
	CHECK_REFUSED(&head()->facts_key);
}

static void every_truncation_is_refused(void)
{
	decode_make_full_plan(&plan);
	for (uint32_t size = 0; size < plan.size; size++) {
		head()->size = size;
		if (size < sizeof(struct wherry_plan))
			CHECK(!decode_target(plan.plan, size));
		else
			CHECK(wherry_decode(plan.plan, size, &code, NULL) != 0);
	}
	CHECK_EQUAL(wherry_decode(plan.plan + 4, plan.size, &code, NULL), -WHERRY_BAD_PLAN); /* not aligned */
}

/* ---- operations --------------------------------------------------------------------------------------------------------------- */

static void operations_are_checked(void)
{
	struct wherry_op *op;

	decode_make_full_plan(&plan);
	op = step(3);
	op->code = OP_COUNT_PLUS_1;
	CHECK_REFUSED(op);
	op->code = 0;
	CHECK_REFUSED(op);
	decode_make_full_plan(&plan);
	op = find(OP_PIVOT);
	op->executor = WHERRY_CALLER;
	CHECK_REFUSED(op);
	op->executor = 9;
	CHECK_REFUSED(op);
	decode_make_full_plan(&plan);
	op = find(OP_HOSTNAME);
	op->size -= 8;
	CHECK_REFUSED(op);
	op->size += 16;
	CHECK_REFUSED(op);
	op->size = 0;
	CHECK_REFUSED(op);
	op->size = ~7U;
	CHECK_REFUSED(op);
	decode_make_full_plan(&plan);
	head()->steps--;
	CHECK_REFUSED(find(OP_EXECUTE));
	decode_make_full_plan(&plan);
	head()->steps++;
	CHECK_REFUSED(plan.plan + plan.size);
}

static void registers_are_checked(void)
{
	struct wherry_op_open_tree *open;
	struct wherry_op_clone *clone;
	struct wherry_op_join *join;

	decode_make_full_plan(&plan);
	open = (void *)find(OP_OPEN_TREE);
	open->out = plan.registers;
	CHECK_REFUSED(&open->out);
	decode_make_full_plan(&plan);
	clone = (void *)find(OP_CLONE);
	clone->into_cgroup = plan.registers;
	CHECK_REFUSED(&clone->into_cgroup);
	decode_make_full_plan(&plan);
	join = (void *)find(OP_JOIN);
	join->from = WHERRY_NO_REGISTER; /* not optional there */
	CHECK_REFUSED(&join->from);
}

static void texts_are_checked(void)
{
	struct wherry_op_hostname *hostname;
	struct wherry_op_claim *claim;
	struct wherry_op_program *program;

	decode_make_full_plan(&plan);
	hostname = (void *)find(OP_HOSTNAME);
	hostname->name.length--; /* no NUL behind it */
	CHECK_REFUSED(&hostname->name);
	hostname->name.length += 3; /* a NUL within */
	CHECK_REFUSED(&hostname->name);
	hostname->name.length = ~0U;
	CHECK_REFUSED(&hostname->name);
	hostname->name = (struct wherry_text){ 0, 0 };
	CHECK_REFUSED(&hostname->name);
	hostname->name = (struct wherry_text){ 0, 3 };
	CHECK_REFUSED(&hostname->name);
	hostname->name = (struct wherry_text){ plan.size, 0 };
	CHECK_REFUSED(&hostname->name);
	decode_make_full_plan(&plan);
	claim = (void *)find(OP_CLAIM);
	plan.plan[claim->state_head.offset + 8] = 0x40 + WHERRY_SLOT_COUNT;
	CHECK_REFUSED(plan.plan + claim->state_head.offset + 8);
	decode_make_full_plan(&plan);
	claim = (void *)find(OP_CLAIM);
	plan.plan[claim->state_tail.offset + 1] = WHERRY_SLOT_MARK; /* a mark at the very end */
	CHECK_REFUSED(plan.plan + claim->state_tail.offset + 2);
	decode_make_full_plan(&plan);
	program = (void *)find(OP_PROGRAM);
	program->arguments.count = 0;
	CHECK_REFUSED(program);
	decode_make_full_plan(&plan);
	program = (void *)find(OP_PROGRAM);
	program->arguments.offset += 4;
	CHECK_REFUSED(&program->arguments);
	program->arguments.offset -= 4;
	program->arguments.count = 0x20000001; /* times 8 is little more than 2^32 */
	CHECK_REFUSED(&program->arguments);
}

static void blobs_are_checked(void)
{
	struct wherry_op_identity *identity;
	struct wherry_op_memory_policy *policy;
	struct wherry_op_seccomp *seccomp;

	decode_make_full_plan(&plan);
	identity = (void *)find(OP_IDENTITY);
	identity->groups.length--;
	CHECK_REFUSED(&identity->groups);
	identity->groups.length = plan.size & ~3U;
	CHECK_REFUSED(&identity->groups);
	decode_make_full_plan(&plan);
	policy = (void *)find(OP_MEMORY_POLICY);
	policy->max_node = 129; /* one bit more than there are */
	CHECK_REFUSED(policy);
	decode_make_full_plan(&plan);
	seccomp = (void *)find(OP_SECCOMP);
	seccomp->filter = (struct wherry_blob){ 0, 0 };
	CHECK_REFUSED(seccomp);
}

/* ---- order ------------------------------------------------------------------------------------------------------------------------ */

static void swap_codes(struct wherry_op *one, struct wherry_op *other)
{
	struct wherry_op saved = *one;

	*one = *other;
	*other = saved;
}

static void the_order_is_checked(void)
{
	/* OP_UNSHARE and OP_PIVOT are alike in size: exchanging their heads exchanges them */
	decode_make_full_plan(&plan);
	swap_codes(find(OP_UNSHARE), find(OP_PIVOT));
	CHECK_EQUAL(decode(NULL), -WHERRY_BAD_PLAN); /* a pivot before the clone */
	decode_make_full_plan(&plan);
	find(OP_LOOPBACK_UP)->code = OP_EXECUTE; /* executed, and then more */
	CHECK_EQUAL(decode(NULL), -WHERRY_BAD_PLAN);
	decode_make_full_plan(&plan);
	find(OP_LOOPBACK_UP)->code = OP_WAIT_START; /* started before it is published */
	CHECK_REFUSED(find(OP_WAIT_START));
}

/* Once it is published init has nobody to ask. */
static void nobody_is_asked_once_published(void)
{
	struct wherry_op *late;

	for (int executor = WHERRY_CALLER; executor <= WHERRY_INIT; executor++) {
		plan_begin(&plan);
		PLAN_ADD(&plan, OP_LAUNCH, WHERRY_CALLER, wherry_op_launch);
		PLAN_ADD(&plan, OP_CLONE, WHERRY_LAUNCHER, wherry_op_clone)->into_cgroup = WHERRY_NO_REGISTER;
		PLAN_ADD(&plan, OP_PUBLISH, WHERRY_CALLER, wherry_op_publish);
		if (executor == WHERRY_CALLER)
			PLAN_ADD(&plan, OP_NETWORK_DEVICES, WHERRY_CALLER, wherry_op_network_devices);
		else
			PLAN_ADD(&plan, OP_RLIMIT, (enum wherry_executor)executor, wherry_op_rlimit);
		PLAN_ADD(&plan, OP_EXECUTE, WHERRY_INIT, wherry_op_execute);
		plan_finish(&plan);
		late = step(3);
		if (executor == WHERRY_INIT)
			CHECK_EQUAL(decode(NULL), 0);
		else
			CHECK_REFUSED(late);
	}
}

static void what_is_launched_is_finished(void)
{
	plan_begin(&plan);
	plan_finish(&plan);
	CHECK_EQUAL(decode(NULL), 0); /* nothing to do is no fault */
	PLAN_ADD(&plan, OP_LAUNCH, WHERRY_CALLER, wherry_op_launch);
	plan_finish(&plan);
	CHECK_EQUAL(decode(NULL), -WHERRY_BAD_PLAN);
	PLAN_ADD(&plan, OP_CLONE, WHERRY_LAUNCHER, wherry_op_clone)->into_cgroup = WHERRY_NO_REGISTER;
	plan_finish(&plan);
	CHECK_EQUAL(decode(NULL), -WHERRY_BAD_PLAN);
	PLAN_ADD(&plan, OP_PUBLISH, WHERRY_CALLER, wherry_op_publish);
	plan_finish(&plan);
	CHECK_EQUAL(decode(NULL), -WHERRY_BAD_PLAN);
	plan.flags |= WHERRY_PLAN_NO_PROCESS;
	plan_finish(&plan);
	CHECK_EQUAL(decode(NULL), 0);
}

/* ---- an attack on our time ------------------------------------------------------------------------------------------------------- */

static void repeat_text(int times)
{
	static char long_text[60000];
	struct wherry_text text;

	plan_begin(&plan);
	plan.registers = 1;
	memset(long_text, 'x', sizeof(long_text) - 1);
	text = plan_text(&plan, long_text);
	for (int i = 0; i < times; i++)
		PLAN_ADD(&plan, OP_CGROUP_DEVICES, WHERRY_CALLER, wherry_op_cgroup_devices)->op.place = text;
	plan_finish(&plan);
}

static void repeat_list(int times)
{
	static struct wherry_text texts[8000];
	struct wherry_list list;

	plan_begin(&plan);
	plan.registers = 1;
	texts[0] = plan_text(&plan, "");
	for (size_t i = 1; i < WHERRY_LENGTH(texts); i++)
		texts[i] = texts[0];
	list.offset = plan_blob(&plan, texts, sizeof(texts)).offset;
	list.count = WHERRY_LENGTH(texts);
	for (int i = 0; i < times; i++)
		PLAN_ADD(&plan, OP_CGROUP_CHOWN, WHERRY_CALLER, wherry_op_cgroup_chown)->files = list;
	plan_finish(&plan);
}

static void repetition_is_bounded(void)
{
	repeat_text(100);
	CHECK_EQUAL(decode(NULL), 0);
	repeat_text(3000);
	CHECK_EQUAL(decode(NULL), -WHERRY_BAD_PLAN);
	repeat_list(100);
	CHECK_EQUAL(decode(NULL), 0);
	repeat_list(2500);
	CHECK_EQUAL(decode(NULL), -WHERRY_BAD_PLAN);
}

/* ---- the launcher's memfd ---------------------------------------------------------------------------------------------------------- */

static uint8_t launch_buffer[3 * PLANMAKER_ROOM] __attribute__((aligned(8)));

static size_t make_launch(struct wherry_launch **launch)
{
	const uint32_t offset = sizeof(**launch) + 8;

	decode_make_full_plan(&plan);
	memset(launch_buffer, 0, sizeof(launch_buffer));
	*launch = (void *)launch_buffer;
	**launch = (struct wherry_launch){ .magic = WHERRY_LAUNCH_MAGIC, .version = WHERRY_VERSION, .inherited_registers = plan.inherited,
					   .size = offset + plan.size, .preserve_fds = 3, .plan_offset = offset, .plan_size = plan.size };
	(*launch)->slots[WHERRY_SLOT_ID] = (struct wherry_text){ sizeof(**launch), 3 };
	memcpy(launch_buffer + sizeof(**launch), "box", 4);
	memcpy(launch_buffer + offset, plan.plan, plan.size);
	return offset + plan.size;
}

static void the_launch_is_checked(void)
{
	static struct wherry_machine m;
	struct wherry_launch *launch;
	size_t size = make_launch(&launch);
	uint64_t where;

	CHECK_EQUAL(wherry_decode_launch(launch_buffer, size, &m, &where), 0);
	CHECK_TEXT(m.slots[WHERRY_SLOT_ID], "box");
	CHECK(m.slots[WHERRY_SLOT_BUNDLE] == NULL);
	CHECK_EQUAL(m.preserve_fds, 3);
	CHECK_EQUAL(m.code.steps, plan.count);
	CHECK_EQUAL(wherry_decode_launch(launch_buffer, size - 1, &m, &where), -WHERRY_BAD_PLAN);
	launch->version++;
	CHECK_EQUAL(wherry_decode_launch(launch_buffer, size, &m, &where), -WHERRY_WRONG_VERSION);
	make_launch(&launch);
	launch->slots[0].length = 4;
	CHECK_EQUAL(wherry_decode_launch(launch_buffer, size, &m, &where), -WHERRY_BAD_PLAN);
	make_launch(&launch);
	launch->plan_offset += 8;
	CHECK_EQUAL(wherry_decode_launch(launch_buffer, size, &m, &where), -WHERRY_BAD_PLAN);
	make_launch(&launch);
	launch->inherited_registers++;
	CHECK_EQUAL(wherry_decode_launch(launch_buffer, size, &m, &where), -WHERRY_BAD_PLAN);
	make_launch(&launch);
	launch->preserve_fds = 1 << 20;
	CHECK_EQUAL(wherry_decode_launch(launch_buffer, size, &m, &where), -WHERRY_BAD_PLAN);
}

/* ---- mutations ------------------------------------------------------------------------------------------------------------------------ */

static uint64_t random_state = 0x9e3779b97f4a7c15;

static uint32_t next_random(uint32_t below)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)((random_state >> 32) * below >> 32);
}

static void mutate_once(uint8_t *bytes, uint32_t size)
{
	static const uint32_t values[] = { 0, 1, 7, 8, 0x40, 0x7f, 0xff, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xfffffff8, 0xffffffff };
	uint32_t at = next_random(size), value;

	switch (next_random(4)) {
	case 0:
		bytes[at] ^= (uint8_t)(1 << next_random(8));
		return;
	case 1:
		bytes[at] = (uint8_t)next_random(256);
		return;
	case 2: /* a whole field */
		at &= ~3U;
		value = values[next_random(WHERRY_LENGTH(values))];
		break;
	default: /* a field near what it was, or an offset that exists */
		at &= ~3U;
		memcpy(&value, bytes + at, 4);
		value = next_random(2) ? value + next_random(17) - 8 : next_random(size);
	}
	if (at + 4 <= size)
		memcpy(bytes + at, &value, 4);
}

static void mutations(void)
{
	static uint8_t bytes[sizeof(plan.plan)];
	uint32_t accepted = 0, rounds = 100000;

	decode_make_full_plan(&plan);
	for (uint32_t round = 0; round < rounds; round++) {
		memcpy(bytes, plan.plan, plan.size);
		for (uint32_t count = 1 + next_random(4); count--;)
			mutate_once(bytes, plan.size);
		accepted += decode_target(bytes, plan.size) != 0;
	}
	/* the mutations must reach both sides, else they test nothing */
	CHECK(accepted > rounds / 100);
	CHECK(accepted < rounds - rounds / 100);
}

static const struct check_case cases[] = {
	{ "every_operation_decodes", every_operation_decodes },
	{ "texts_and_lists", texts_and_lists },
	{ "templates_expand", templates_expand },
	{ "headers_are_checked", headers_are_checked },
	{ "every_truncation_is_refused", every_truncation_is_refused },
	{ "operations_are_checked", operations_are_checked },
	{ "registers_are_checked", registers_are_checked },
	{ "texts_are_checked", texts_are_checked },
	{ "blobs_are_checked", blobs_are_checked },
	{ "the_order_is_checked", the_order_is_checked },
	{ "nobody_is_asked_once_published", nobody_is_asked_once_published },
	{ "what_is_launched_is_finished", what_is_launched_is_finished },
	{ "repetition_is_bounded", repetition_is_bounded },
	{ "the_launch_is_checked", the_launch_is_checked },
	{ "mutations", mutations },
};

CHECK_MAIN(cases)
