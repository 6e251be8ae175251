/* SPDX-License-Identifier: Apache-2.0
 *
 * The decoder: looks at every bound of a plan once, so that whoever executes it may trust each offset. A table says for each
 * operation who may execute it, how long it is and where its references stand; the loop over that table is all there is.
 */
#include "wherry/core.h"
#include "wherry/host.h"
#include "wherry/sys.h"

#include <string.h>

enum {
	MAX_PRESERVED = 1024,       /* descriptors that --preserve-fds may hand on */
	MAX_FILTER = 65535,         /* struct sock_fprog counts in 16 bits */
	MAX_GROUPS = 65536,         /* NGROUPS_MAX */
	CHECK_BUDGET = 16 << 20,    /* bytes of text looked at before a plan is taken for an attack on our time */
};

/* ---- the table ------------------------------------------------------------------------------------------------------- */

enum field_kind { END, TEXT, OPTIONAL_TEXT, TEMPLATE, OPTIONAL_TEMPLATE, LIST, BLOB, REGISTER, OPTIONAL_REGISTER };

struct field {
	uint16_t offset;
	uint8_t kind;
	uint8_t unit; /* BLOB: size of an element */
};

enum { MAX_FIELDS = 5 };

/* When an operation may stand where: the plan has three stretches. */
enum phase {
	BEFORE_LAUNCH = 1, /* caller */
	BEFORE_CLONE = 2,  /* launcher, from OP_LAUNCH to OP_CLONE */
	AFTER_CLONE = 4,   /* all, as init walks */
};

struct layout {
	uint16_t size;
	uint8_t caller, launcher, init; /* phases in which that executor may be named */
	struct field fields[MAX_FIELDS];
};

#define F(type, kind, name) { offsetof(struct type, name), kind, 0 }
#define B(type, name, element) { offsetof(struct type, name), BLOB, sizeof(element) }
#define OP(opcode, type, on_caller, on_launcher, on_init, ...) \
	[opcode] = { .size = sizeof(struct type), .caller = on_caller, .launcher = on_launcher, .init = on_init, .fields = { __VA_ARGS__ } }
#define HOST(opcode, type, ...) OP(opcode, type, BEFORE_LAUNCH | AFTER_CLONE, 0, 0, __VA_ARGS__)
#define EARLY(opcode, type, ...) OP(opcode, type, 0, BEFORE_CLONE, 0, __VA_ARGS__)
#define EITHER(opcode, type, ...) OP(opcode, type, 0, BEFORE_CLONE, AFTER_CLONE, __VA_ARGS__)
#define SERVED(opcode, type, ...) OP(opcode, type, 0, AFTER_CLONE, 0, __VA_ARGS__)
#define SHARED(opcode, type, ...) OP(opcode, type, 0, AFTER_CLONE, AFTER_CLONE, __VA_ARGS__)
#define INIT(opcode, type, ...) OP(opcode, type, 0, 0, AFTER_CLONE, __VA_ARGS__)
#define NOTHING { 0, END, 0 }

struct filter_instruction { uint64_t bytes; }; /* struct sock_filter, struct bpf_insn */

static const struct layout layouts[OP_COUNT_PLUS_1] = {
	HOST(OP_CLAIM, wherry_op_claim, F(wherry_op_claim, TEMPLATE, state_head), F(wherry_op_claim, TEMPLATE, state_middle),
	     F(wherry_op_claim, TEMPLATE, state_tail)),
	HOST(OP_CGROUP_DIRECTORY, wherry_op_cgroup_directory, F(wherry_op_cgroup_directory, TEMPLATE, path),
	     F(wherry_op_cgroup_directory, REGISTER, out)),
	HOST(OP_CGROUP_CONTROLLERS, wherry_op_cgroup_controllers, F(wherry_op_cgroup_controllers, TEMPLATE, path),
	     F(wherry_op_cgroup_controllers, TEXT, controllers)),
	HOST(OP_CGROUP_CPUSET, wherry_op_cgroup_cpuset, F(wherry_op_cgroup_cpuset, TEMPLATE, path)),
	HOST(OP_CGROUP_WRITE, wherry_op_cgroup_write, F(wherry_op_cgroup_write, TEXT, file), F(wherry_op_cgroup_write, TEXT, value),
	     F(wherry_op_cgroup_write, REGISTER, directory)),
	HOST(OP_CGROUP_DEVICES, wherry_op_cgroup_devices, B(wherry_op_cgroup_devices, program, struct filter_instruction),
	     F(wherry_op_cgroup_devices, REGISTER, directory)),
	HOST(OP_CGROUP_CHOWN, wherry_op_cgroup_chown, F(wherry_op_cgroup_chown, LIST, files), F(wherry_op_cgroup_chown, REGISTER, directory)),
	HOST(OP_OPEN_TASKS, wherry_op_open_tasks, F(wherry_op_open_tasks, TEXT, file), F(wherry_op_open_tasks, OPTIONAL_REGISTER, directory),
	     F(wherry_op_open_tasks, REGISTER, out)),
	OP(OP_OPEN_TARGET, wherry_op_open_target, BEFORE_LAUNCH, 0, 0, F(wherry_op_open_target, REGISTER, out)),
	OP(OP_LAUNCH, wherry_op_launch, BEFORE_LAUNCH, 0, 0, NOTHING),

	EARLY(OP_OOM_SCORE_ADJ, wherry_op_oom_score_adj, NOTHING),
	EARLY(OP_OPEN_NAMESPACE, wherry_op_open_namespace, F(wherry_op_open_namespace, TEXT, path), F(wherry_op_open_namespace, REGISTER, out)),
	EITHER(OP_JOIN, wherry_op_join, F(wherry_op_join, REGISTER, from)),
	EITHER(OP_UNSHARE, wherry_op_unshare, NOTHING),
	EITHER(OP_TIME_OFFSETS, wherry_op_time_offsets, F(wherry_op_time_offsets, TEXT, lines)),
	EARLY(OP_CLONE, wherry_op_clone, F(wherry_op_clone, OPTIONAL_REGISTER, into_cgroup)),

	SHARED(OP_ATTACH_TASKS, wherry_op_attach_tasks, F(wherry_op_attach_tasks, REGISTER, tasks)),
	SERVED(OP_WRITE_MAPS, wherry_op_write_maps, F(wherry_op_write_maps, TEXT, uid_map), F(wherry_op_write_maps, TEXT, gid_map),
	       F(wherry_op_write_maps, OPTIONAL_TEXT, uid_program), F(wherry_op_write_maps, OPTIONAL_TEXT, gid_program)),
	INIT(OP_BECOME_ROOT, wherry_op_become_root, NOTHING),
	INIT(OP_KEYRING, wherry_op_keyring, F(wherry_op_keyring, TEMPLATE, name)),
	INIT(OP_LOOPBACK_UP, wherry_op_loopback_up, NOTHING),
	INIT(OP_HOSTNAME, wherry_op_hostname, F(wherry_op_hostname, TEXT, name)),
	INIT(OP_DOMAINNAME, wherry_op_hostname, F(wherry_op_hostname, TEXT, name)),
	INIT(OP_PROPAGATION, wherry_op_propagation, NOTHING),
	SHARED(OP_OPEN_TREE, wherry_op_open_tree, F(wherry_op_open_tree, TEMPLATE, source), F(wherry_op_open_tree, REGISTER, out)),
	SERVED(OP_CREATE_TREE, wherry_op_create_tree, F(wherry_op_create_tree, OPTIONAL_TEMPLATE, source), F(wherry_op_create_tree, TEXT, type),
	       F(wherry_op_create_tree, OPTIONAL_TEXT, data), F(wherry_op_create_tree, REGISTER, out)),
	SERVED(OP_IDMAP_TREE, wherry_op_idmap_tree, F(wherry_op_idmap_tree, OPTIONAL_TEXT, uid_map), F(wherry_op_idmap_tree, OPTIONAL_TEXT, gid_map),
	       F(wherry_op_idmap_tree, REGISTER, tree)),
	INIT(OP_ATTACH_ROOTFS, wherry_op_attach_rootfs, F(wherry_op_attach_rootfs, TEMPLATE, path), F(wherry_op_attach_rootfs, REGISTER, tree)),
	INIT(OP_MOUNT_BIND, wherry_op_mount_bind, F(wherry_op_mount_bind, TEXT, destination), F(wherry_op_mount_bind, REGISTER, tree)),
#define MOUNT(opcode) \
	INIT(opcode, wherry_op_mount_fs, F(wherry_op_mount_fs, TEXT, destination), F(wherry_op_mount_fs, TEXT, type), \
	     F(wherry_op_mount_fs, OPTIONAL_TEMPLATE, source), F(wherry_op_mount_fs, OPTIONAL_TEXT, data))
	MOUNT(OP_MOUNT_FS),
	MOUNT(OP_MOUNT_CGROUP2),
	MOUNT(OP_MOUNT_SYSFS),
	INIT(OP_REMOUNT, wherry_op_remount, F(wherry_op_remount, TEXT, destination), F(wherry_op_remount, OPTIONAL_TEXT, data)),
	INIT(OP_MOUNT_ATTRIBUTES, wherry_op_mount_attributes, F(wherry_op_mount_attributes, TEXT, destination)),
	INIT(OP_SYMLINK, wherry_op_symlink, F(wherry_op_symlink, TEXT, target), F(wherry_op_symlink, TEXT, path)),
	INIT(OP_DIRECTORY, wherry_op_directory, F(wherry_op_directory, TEXT, path)),
	INIT(OP_DEVICE_NODE, wherry_op_device_node, F(wherry_op_device_node, TEXT, path)),
	INIT(OP_CONSOLE, wherry_op_console, NOTHING),
	OP(OP_HOOK, wherry_op_hook, AFTER_CLONE, 0, AFTER_CLONE, F(wherry_op_hook, TEXT, path), F(wherry_op_hook, LIST, arguments),
	   F(wherry_op_hook, LIST, environment), F(wherry_op_hook, OPTIONAL_TEMPLATE, state)),
	OP(OP_NETWORK_DEVICES, wherry_op_network_devices, AFTER_CLONE, 0, 0, NOTHING),
	OP(OP_UNIT, wherry_op_unit, AFTER_CLONE, 0, 0, F(wherry_op_unit, TEMPLATE, name), F(wherry_op_unit, TEMPLATE, cgroup),
	   F(wherry_op_unit, TEXT, slice), F(wherry_op_unit, LIST, properties)),
	INIT(OP_SYSCTL, wherry_op_sysctl, F(wherry_op_sysctl, TEXT, path), F(wherry_op_sysctl, TEXT, value)),
	INIT(OP_READONLY_PATH, wherry_op_path, F(wherry_op_path, TEXT, path)),
	INIT(OP_MASKED_PATH, wherry_op_path, F(wherry_op_path, TEXT, path)),
	INIT(OP_PIVOT, wherry_op_pivot, NOTHING),
	OP(OP_MOUNT_POINT, wherry_op_mount_point, BEFORE_LAUNCH, 0, 0, F(wherry_op_mount_point, TEMPLATE, path)),
	INIT(OP_CHROOT, wherry_op_mount_point, F(wherry_op_mount_point, TEMPLATE, path)),
	INIT(OP_ROOT_ATTRIBUTES, wherry_op_root_attributes, NOTHING),
	INIT(OP_PERSONALITY, wherry_op_personality, NOTHING),
	INIT(OP_SCHEDULER, wherry_op_scheduler, NOTHING),
	INIT(OP_IO_PRIORITY, wherry_op_io_priority, NOTHING),
	INIT(OP_MEMORY_POLICY, wherry_op_memory_policy, B(wherry_op_memory_policy, nodes, unsigned long)),
	INIT(OP_CPU_AFFINITY, wherry_op_cpu_affinity, B(wherry_op_cpu_affinity, mask, unsigned long)),
	SHARED(OP_RLIMIT, wherry_op_rlimit, NOTHING),
	INIT(OP_SECURITY_LABEL, wherry_op_security_label, F(wherry_op_security_label, TEXT, module), F(wherry_op_security_label, TEXT, label)),
	INIT(OP_UMASK, wherry_op_umask, NOTHING),
	INIT(OP_WORKING_DIRECTORY, wherry_op_working_directory, F(wherry_op_working_directory, TEXT, path)),
	INIT(OP_NO_NEW_PRIVILEGES, wherry_op_no_new_privileges, NOTHING),
	INIT(OP_SECCOMP, wherry_op_seccomp, B(wherry_op_seccomp, filter, struct filter_instruction),
	     F(wherry_op_seccomp, OPTIONAL_REGISTER, listener)),
	OP(OP_LISTENER, wherry_op_listener, AFTER_CLONE, 0, 0, F(wherry_op_listener, TEXT, path), F(wherry_op_listener, OPTIONAL_TEMPLATE, state),
	   F(wherry_op_listener, REGISTER, listener)),
	INIT(OP_LANDLOCK, wherry_op_landlock, F(wherry_op_landlock, LIST, paths), B(wherry_op_landlock, allowed, uint64_t)),
	INIT(OP_BOUNDING, wherry_op_bounding, NOTHING),
	INIT(OP_IDENTITY, wherry_op_identity, B(wherry_op_identity, groups, uint32_t)),
	INIT(OP_CAPABILITIES, wherry_op_capabilities, NOTHING),
	INIT(OP_PROGRAM, wherry_op_program, F(wherry_op_program, LIST, arguments), F(wherry_op_program, LIST, environment),
	     F(wherry_op_program, OPTIONAL_TEXT, path)),
	OP(OP_PUBLISH, wherry_op_publish, AFTER_CLONE, 0, 0, F(wherry_op_publish, OPTIONAL_TEMPLATE, state_file)),
	INIT(OP_WAIT_START, wherry_op_wait_start, NOTHING),
	INIT(OP_EXECUTE, wherry_op_execute, NOTHING),
};

/* ---- references into the heap ---------------------------------------------------------------------------------------- */

struct check {
	const uint8_t *base;
	uint64_t size; /* 64 bits, as all sums: two 32-bit numbers never overflow them */
	uint64_t where; /* the offending offset */
	uint64_t budget;
};

static int bad(struct check *c, uint64_t where)
{
	c->where = where;
	return -WHERRY_BAD_PLAN;
}

static int check_slots(struct check *c, uint32_t offset, uint32_t length)
{
	const uint8_t *at = c->base + offset, *end = at + length;

	while ((at = memchr(at, WHERRY_SLOT_MARK, (size_t)(end - at)))) {
		if (++at == end || *at < 0x40 || *at >= 0x40 + WHERRY_SLOT_COUNT)
			return bad(c, (uint64_t)(at - c->base));
		at++;
	}
	return 0;
}

/* `at`: where the reference itself stands. */
static int check_text(struct check *c, uint64_t at, struct wherry_text text, bool optional)
{
	if (!text.offset && !text.length)
		return optional ? 0 : bad(c, at);
	if (!text.offset || (uint64_t)text.offset + text.length >= c->size || text.length > c->budget)
		return bad(c, at);
	c->budget -= text.length;
	if (c->base[text.offset + text.length] || memchr(c->base + text.offset, 0, text.length))
		return bad(c, at);
	return 0;
}

static int check_template(struct check *c, uint64_t at, struct wherry_text text, bool optional)
{
	int error = check_text(c, at, text, optional);

	return error ? error : check_slots(c, text.offset, text.length);
}

/* Bytes of `count` elements, 8-byte aligned. */
static int check_span(struct check *c, uint64_t at, uint32_t offset, uint64_t bytes)
{
	if (offset % 8 || (!offset && bytes) || offset + bytes > c->size)
		return bad(c, at);
	return 0;
}

static int check_list(struct check *c, uint64_t at, struct wherry_list list)
{
	int error = check_span(c, at, list.offset, (uint64_t)list.count * sizeof(struct wherry_text));

	if (error)
		return error;
	if (list.count > c->budget)
		return bad(c, at);
	c->budget -= list.count;
	for (uint32_t i = 0; i < list.count; i++) {
		uint64_t entry = list.offset + (uint64_t)i * sizeof(struct wherry_text);
		struct wherry_text text;

		memcpy(&text, c->base + entry, sizeof(text));
		error = check_text(c, entry, text, false);
		if (error)
			return error;
	}
	return 0;
}

static int check_blob(struct check *c, uint64_t at, struct wherry_blob blob, uint8_t unit)
{
	if (blob.length % unit)
		return bad(c, at);
	return check_span(c, at, blob.offset, blob.length);
}

static int check_register(struct check *c, uint64_t at, uint16_t number, uint16_t count, bool optional)
{
	if (number < count || (optional && number == WHERRY_NO_REGISTER))
		return 0;
	return bad(c, at);
}

static int check_field(struct check *c, const struct wherry_plan *plan, uint64_t at, const struct field *field)
{
	union {
		struct wherry_text text;
		struct wherry_list list;
		struct wherry_blob blob;
		uint16_t number;
	} value;

	memcpy(&value, c->base + at, field->kind >= REGISTER ? sizeof(value.number) : sizeof(value.text));
	switch ((enum field_kind)field->kind) {
	case TEXT:
	case OPTIONAL_TEXT:
		return check_text(c, at, value.text, field->kind == OPTIONAL_TEXT);
	case TEMPLATE:
	case OPTIONAL_TEMPLATE:
		return check_template(c, at, value.text, field->kind == OPTIONAL_TEMPLATE);
	case LIST:
		return check_list(c, at, value.list);
	case BLOB:
		return check_blob(c, at, value.blob, field->unit);
	case REGISTER:
	case OPTIONAL_REGISTER:
		return check_register(c, at, value.number, plan->registers, field->kind == OPTIONAL_REGISTER);
	case END:
		break;
	}
	return 0;
}

/* ---- operations ------------------------------------------------------------------------------------------------------ */

/* Where the walk stands: which stretch, and which of the milestones have been passed. */
struct progress {
	enum phase phase;
	bool published, executed;
};

static bool executor_allowed(const struct layout *layout, uint8_t executor, enum phase phase)
{
	switch (executor) {
	case WHERRY_CALLER:
		return layout->caller & phase;
	case WHERRY_LAUNCHER:
		return layout->launcher & phase;
	case WHERRY_INIT:
		return layout->init & phase;
	}
	return false;
}

/* The stretches follow each other; one publication; nothing after the execution; nobody but init once there is no one to ask. */
static bool order_holds(struct progress *p, const struct wherry_op *op)
{
	if (p->executed)
		return false;
	if (p->published && op->executor != WHERRY_INIT)
		return false;
	switch (op->code) {
	case OP_LAUNCH:
		p->phase = BEFORE_CLONE;
		break;
	case OP_CLONE:
		p->phase = AFTER_CLONE;
		break;
	case OP_PUBLISH:
		if (p->published)
			return false;
		p->published = true;
		break;
	case OP_WAIT_START:
		return p->published;
	case OP_EXECUTE:
		p->executed = true;
		return p->published;
	}
	return true;
}

/* What the table cannot say. */
static bool values_hold(const struct wherry_op *op)
{
	switch (op->code) {
	case OP_MEMORY_POLICY: {
		const struct wherry_op_memory_policy *policy = (const void *)op;

		return policy->max_node <= (uint64_t)policy->nodes.length * 8;
	}
	case OP_SECCOMP: {
		uint32_t instructions = ((const struct wherry_op_seccomp *)op)->filter.length / sizeof(struct filter_instruction);

		return instructions > 0 && instructions <= MAX_FILTER;
	}
	case OP_LANDLOCK: {
		const struct wherry_op_landlock *landlock = (const void *)op;

		return landlock->allowed.length / sizeof(uint64_t) == landlock->paths.count;
	}
	case OP_IDENTITY:
		return ((const struct wherry_op_identity *)op)->groups.length / sizeof(uint32_t) <= MAX_GROUPS;
	case OP_PROGRAM:
		return ((const struct wherry_op_program *)op)->arguments.count > 0;
	case OP_CGROUP_DIRECTORY: {
		const struct wherry_op_cgroup_directory *directory = (const void *)op;

		return directory->mount_length <= directory->path.length;
	}
	case OP_CGROUP_CONTROLLERS: {
		const struct wherry_op_cgroup_controllers *controllers = (const void *)op;

		return controllers->mount_length <= controllers->path.length;
	}
	case OP_CGROUP_CPUSET: {
		const struct wherry_op_cgroup_cpuset *cpuset = (const void *)op;

		return cpuset->mount_length <= cpuset->path.length;
	}
	}
	return true;
}

static int check_op(struct check *c, const struct wherry_plan *plan, struct progress *progress, uint64_t at, const struct wherry_op *op)
{
	const struct layout *layout;
	int error;

	if (op->code == 0 || op->code >= OP_COUNT_PLUS_1)
		return bad(c, at);
	layout = &layouts[op->code];
	if (op->size != layout->size || !executor_allowed(layout, op->executor, progress->phase) || !order_holds(progress, op))
		return bad(c, at);
	error = check_text(c, at + offsetof(struct wherry_op, place), op->place, true);
	for (size_t i = 0; !error && i < MAX_FIELDS && layout->fields[i].kind != END; i++)
		error = check_field(c, plan, at + layout->fields[i].offset, &layout->fields[i]);
	if (!error && !values_hold(op))
		error = bad(c, at);
	return error;
}

static int check_steps(struct check *c, struct wherry_code *code)
{
	const struct wherry_plan *plan = code->plan;
	struct progress progress = { .phase = BEFORE_LAUNCH };
	uint64_t at = plan->steps_offset, end = at + plan->steps_size;

	for (uint32_t i = 0; i < plan->steps; i++) {
		const struct wherry_op *op = (const void *)(c->base + at);
		int error;

		if (end - at < sizeof(*op) || op->size > end - at)
			return bad(c, at);
		error = check_op(c, plan, &progress, at, op);
		if (error)
			return error;
		code->step[i] = op;
		at += op->size;
	}
	if (at != end)
		return bad(c, at);
	/* what is launched must be cloned, published and, where the config has a process, executed */
	if (progress.phase == BEFORE_CLONE || (progress.phase == AFTER_CLONE && !progress.published))
		return bad(c, end);
	if (progress.phase == AFTER_CLONE && !progress.executed && !(plan->flags & WHERRY_PLAN_NO_PROCESS))
		return bad(c, end);
	code->step[plan->steps] = NULL;
	code->steps = plan->steps;
	return 0;
}

static int check_header(struct check *c, const struct wherry_plan *plan)
{
	if (c->size < sizeof(*plan) || plan->magic != WHERRY_PLAN_MAGIC)
		return bad(c, offsetof(struct wherry_plan, magic));
	c->where = offsetof(struct wherry_plan, version);
	if (plan->version != WHERRY_VERSION || memcmp(plan->build_id, wherry_build_id, sizeof(plan->build_id)))
		return -WHERRY_WRONG_VERSION;
	if (plan->header_size != sizeof(*plan))
		return bad(c, offsetof(struct wherry_plan, header_size));
	if (plan->size != c->size || plan->size > WHERRY_MAX_PLAN)
		return bad(c, offsetof(struct wherry_plan, size));
	if (plan->steps > WHERRY_MAX_STEPS)
		return bad(c, offsetof(struct wherry_plan, steps));
	if (plan->steps_offset < sizeof(*plan) || plan->steps_offset % 8 || (uint64_t)plan->steps_offset + plan->steps_size > c->size)
		return bad(c, offsetof(struct wherry_plan, steps_offset));
	if (plan->registers > WHERRY_MAX_REGISTERS || plan->inherited_registers > plan->registers)
		return bad(c, offsetof(struct wherry_plan, registers));
	return check_text(c, offsetof(struct wherry_plan, facts_key), plan->facts_key, true);
}

int wherry_decode(const void *base, size_t size, struct wherry_code *code, uint64_t *where)
{
	struct check check = { .base = base, .size = size, .budget = CHECK_BUDGET };
	int error = (uintptr_t)base % 8 ? bad(&check, 0) : check_header(&check, base);

	code->base = base;
	code->size = size;
	code->plan = base;
	code->steps = 0;
	if (!error)
		error = check_steps(&check, code);
	if (where)
		*where = error ? check.where : 0;
	return error;
}

/* ---- references, one by one ------------------------------------------------------------------------------------------- */

static int visit_field(char *base, char *at, uint8_t kind, wherry_text_visitor visit, void *data)
{
	struct wherry_list list;
	int error = 0;

	switch (kind) {
	case TEXT:
	case OPTIONAL_TEXT:
	case TEMPLATE:
	case OPTIONAL_TEMPLATE:
		return visit(data, (void *)at);
	case LIST:
		memcpy(&list, at, sizeof(list));
		for (uint32_t i = 0; !error && i < list.count; i++)
			error = visit(data, (struct wherry_text *)(base + list.offset) + i);
	}
	return error;
}

int wherry_each_text(void *plan, wherry_text_visitor visit, void *data)
{
	const struct wherry_plan *head = plan;
	char *at = (char *)plan + head->steps_offset, *end = at + head->steps_size;
	int error = 0;

	while (!error && at < end) {
		const struct layout *layout = &layouts[((struct wherry_op *)at)->code];

		for (size_t i = 0; !error && i < MAX_FIELDS && layout->fields[i].kind != END; i++)
			error = visit_field(plan, at + layout->fields[i].offset, layout->fields[i].kind, visit, data);
		at += layout->size;
	}
	return error;
}

/* ---- the launcher's memfd ---------------------------------------------------------------------------------------------- */

int wherry_decode_launch(const void *base, size_t size, struct wherry_machine *m, uint64_t *where)
{
	const struct wherry_launch *launch = base;
	struct check check = { .base = base, .size = size, .budget = CHECK_BUDGET };
	int error = 0;

	*where = 0;
	if (size < sizeof(*launch) || launch->magic != WHERRY_LAUNCH_MAGIC || launch->size != size)
		return -WHERRY_BAD_PLAN;
	if (launch->version != WHERRY_VERSION)
		return -WHERRY_WRONG_VERSION;
	for (size_t i = 0; !error && i < WHERRY_SLOT_COUNT; i++) {
		error = check_text(&check, offsetof(struct wherry_launch, slots[i]), launch->slots[i], true);
		m->slots[i] = launch->slots[i].offset ? (const char *)base + launch->slots[i].offset : NULL;
	}
	if (!error && (launch->plan_offset < sizeof(*launch) || (uint64_t)launch->plan_offset + launch->plan_size > size))
		error = bad(&check, offsetof(struct wherry_launch, plan_offset));
	if (!error && launch->preserve_fds > MAX_PRESERVED)
		error = bad(&check, offsetof(struct wherry_launch, preserve_fds));
	*where = check.where;
	if (error)
		return error;
	error = wherry_decode(check.base + launch->plan_offset, launch->plan_size, &m->code, where);
	if (error)
		return error;
	if (launch->inherited_registers != m->code.plan->inherited_registers)
		return -WHERRY_BAD_PLAN;
	m->launch = base;
	m->preserve_fds = launch->preserve_fds;
	return 0;
}

/* ---- access ------------------------------------------------------------------------------------------------------------ */

const char *wherry_text(const struct wherry_code *code, struct wherry_text text)
{
	return text.offset ? (const char *)code->base + text.offset : NULL;
}

const void *wherry_bytes(const struct wherry_code *code, struct wherry_blob blob)
{
	return blob.offset ? code->base + blob.offset : NULL;
}

const struct wherry_text *wherry_texts(const struct wherry_code *code, struct wherry_list list)
{
	return list.offset ? (const void *)(code->base + list.offset) : NULL;
}

/* Appends to out[0..size), keeping room for the NUL. */
static bool append(char *out, size_t size, size_t *length, const char *text, size_t count)
{
	if (count >= size - *length)
		return false;
	memcpy(out + *length, text, count);
	*length += count;
	return true;
}

ssize_t wherry_expand(const struct wherry_machine *m, struct wherry_template text, char *out, size_t size)
{
	const char *at = (const char *)m->code.base + text.offset, *end = at + text.length;
	size_t length = 0;

	if (!size)
		return -ENAMETOOLONG;
	while (at < end) {
		const char *mark = memchr(at, WHERRY_SLOT_MARK, (size_t)(end - at));
		const char *slot;

		if (!append(out, size, &length, at, (size_t)((mark ? mark : end) - at)))
			return -ENAMETOOLONG;
		if (!mark)
			break;
		slot = m->slots[mark[1] - 0x40];
		if (!slot)
			return -EINVAL;
		if (!append(out, size, &length, slot, strlen(slot)))
			return -ENAMETOOLONG;
		at = mark + 2;
	}
	out[length] = 0;
	return (ssize_t)length;
}
