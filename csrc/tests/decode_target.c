/* SPDX-License-Identifier: Apache-2.0 */
#include "decode_target.h"

#include "planmaker.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* ---- a plan with everything ------------------------------------------------------------------------------------------------ */

#define CALLER_OP(code, type) PLAN_ADD(p, code, WHERRY_CALLER, type)
#define LAUNCHER_OP(code, type) PLAN_ADD(p, code, WHERRY_LAUNCHER, type)
#define INIT_OP(code, type) PLAN_ADD(p, code, WHERRY_INIT, type)

static void add_host_steps(struct planmaker *p)
{
	static const char *const names[] = { "cgroup.procs", "cgroup.threads", NULL };
	struct wherry_op_claim *claim = CALLER_OP(OP_CLAIM, wherry_op_claim);
	struct wherry_op_cgroup_directory *directory;
	struct wherry_op_cgroup_controllers *controllers;
	struct wherry_op_cgroup_write *write;
	struct wherry_op_open_tasks *tasks;
	const uint64_t instructions[] = { 1, 2 };

	claim->op.place = plan_text(p, "/linux");
	claim->state_head = plan_template(p, "{\"id\":\"\1@\",\"pid\":");
	claim->state_middle = plan_template(p, ",\"bundle\":\"\1B\",\"status\":");
	claim->state_tail = plan_template(p, "}\n");
	directory = CALLER_OP(OP_CGROUP_DIRECTORY, wherry_op_cgroup_directory);
	directory->path = plan_template(p, "/sys/fs/cgroup/wherry/\1@");
	directory->mount_length = 14;
	controllers = CALLER_OP(OP_CGROUP_CONTROLLERS, wherry_op_cgroup_controllers);
	controllers->path = plan_template(p, "/sys/fs/cgroup/wherry/\1@");
	controllers->controllers = plan_text(p, "cpu memory");
	CALLER_OP(OP_MOUNT_POINT, wherry_op_mount_point)->path = plan_template(p, "\1C/rootfs");
	CALLER_OP(OP_CGROUP_CPUSET, wherry_op_cgroup_cpuset)->path = plan_template(p, "/sys/fs/cgroup/\1@");
	write = CALLER_OP(OP_CGROUP_WRITE, wherry_op_cgroup_write);
	write->file = plan_text(p, "pids.max");
	write->value = plan_text(p, "");
	CALLER_OP(OP_CGROUP_DEVICES, wherry_op_cgroup_devices)->program = plan_blob(p, instructions, sizeof(instructions));
	CALLER_OP(OP_CGROUP_CHOWN, wherry_op_cgroup_chown)->files = plan_list(p, names);
	tasks = CALLER_OP(OP_OPEN_TASKS, wherry_op_open_tasks);
	tasks->file = plan_text(p, "tasks");
	tasks->out = 1;
	tasks = CALLER_OP(OP_OPEN_TASKS, wherry_op_open_tasks);
	tasks->file = plan_text(p, "/sys/fs/cgroup/pids/one/tasks");
	tasks->directory = WHERRY_NO_REGISTER;
	tasks->out = 1;
	CALLER_OP(OP_OPEN_TARGET, wherry_op_open_target)->out = 1;
	CALLER_OP(OP_LAUNCH, wherry_op_launch);
}

static void add_launcher_steps(struct planmaker *p)
{
	struct wherry_op_open_namespace *open;

	LAUNCHER_OP(OP_OOM_SCORE_ADJ, wherry_op_oom_score_adj);
	open = LAUNCHER_OP(OP_OPEN_NAMESPACE, wherry_op_open_namespace);
	open->path = plan_text(p, "/proc/1/ns/net");
	open->out = 2;
	LAUNCHER_OP(OP_JOIN, wherry_op_join)->from = 2;
	LAUNCHER_OP(OP_UNSHARE, wherry_op_unshare);
	LAUNCHER_OP(OP_TIME_OFFSETS, wherry_op_time_offsets)->lines = plan_text(p, "monotonic 1 0\n");
	LAUNCHER_OP(OP_CLONE, wherry_op_clone)->into_cgroup = WHERRY_NO_REGISTER;
}

static void add_namespace_steps(struct planmaker *p)
{
	struct wherry_op_write_maps *maps;

	INIT_OP(OP_ATTACH_TASKS, wherry_op_attach_tasks)->tasks = 1;
	maps = LAUNCHER_OP(OP_WRITE_MAPS, wherry_op_write_maps);
	maps->uid_map = plan_text(p, "0 1000 1\n");
	maps->gid_map = plan_text(p, "0 1000 1\n");
	maps->uid_program = plan_text(p, "/usr/bin/newuidmap");
	INIT_OP(OP_BECOME_ROOT, wherry_op_become_root);
	INIT_OP(OP_KEYRING, wherry_op_keyring)->name = plan_template(p, "_ses.\1@");
	INIT_OP(OP_LOOPBACK_UP, wherry_op_loopback_up);
	INIT_OP(OP_HOSTNAME, wherry_op_hostname)->name = plan_text(p, "host");
	INIT_OP(OP_DOMAINNAME, wherry_op_hostname)->name = plan_text(p, "domain");
}

static void add_mount(struct planmaker *p, enum wherry_opcode code)
{
	struct wherry_op_mount_fs *mount = INIT_OP(code, wherry_op_mount_fs);

	mount->destination = plan_text(p, "/proc");
	mount->type = plan_text(p, "proc");
	mount->source = plan_template(p, "\1A");
}

static void add_mount_steps(struct planmaker *p)
{
	struct wherry_op_open_tree *open;
	struct wherry_op_create_tree *create;
	struct wherry_op_idmap_tree *idmap;
	struct wherry_op_attach_rootfs *attach;
	struct wherry_op_symlink *symlink;

	INIT_OP(OP_PROPAGATION, wherry_op_propagation);
	open = LAUNCHER_OP(OP_OPEN_TREE, wherry_op_open_tree);
	open->source = plan_template(p, "\1A/rootfs");
	open->out = 3;
	create = LAUNCHER_OP(OP_CREATE_TREE, wherry_op_create_tree);
	create->source = plan_template(p, "tmpfs");
	create->type = plan_text(p, "tmpfs");
	create->data = plan_text(p, "mode=755");
	create->out = open->out;
	idmap = LAUNCHER_OP(OP_IDMAP_TREE, wherry_op_idmap_tree);
	idmap->tree = 3;
	attach = INIT_OP(OP_ATTACH_ROOTFS, wherry_op_attach_rootfs);
	attach->path = plan_template(p, "\1A/rootfs");
	attach->tree = 3;
	INIT_OP(OP_MOUNT_BIND, wherry_op_mount_bind)->destination = plan_text(p, "/data");
	add_mount(p, OP_MOUNT_FS);
	add_mount(p, OP_MOUNT_CGROUP2);
	add_mount(p, OP_MOUNT_SYSFS);
	INIT_OP(OP_REMOUNT, wherry_op_remount)->destination = plan_text(p, "/data");
	INIT_OP(OP_MOUNT_ATTRIBUTES, wherry_op_mount_attributes)->destination = plan_text(p, "/data");
	symlink = INIT_OP(OP_SYMLINK, wherry_op_symlink);
	symlink->target = plan_text(p, "/proc/self/fd");
	symlink->path = plan_text(p, "/dev/fd");
	INIT_OP(OP_DIRECTORY, wherry_op_directory)->path = plan_text(p, "/dev/shm");
	INIT_OP(OP_DEVICE_NODE, wherry_op_device_node)->path = plan_text(p, "/dev/null");
	INIT_OP(OP_CONSOLE, wherry_op_console);
}

static void add_hook(struct planmaker *p, enum wherry_executor executor)
{
	static const char *const words[] = { "hook", "", "three", NULL };
	struct wherry_op_hook *hook = PLAN_ADD(p, OP_HOOK, executor, wherry_op_hook);

	hook->path = plan_text(p, "/bin/hook");
	hook->arguments = plan_list(p, words);
	hook->environment = plan_list(p, words);
	hook->state = plan_template(p, "{\"pid\":\1E}");
}

static void add_unit(struct planmaker *p)
{
	static const char *const properties[] = { "MemoryMax=t 33554432", "Delegate=b true", NULL };
	struct wherry_op_unit *unit = CALLER_OP(OP_UNIT, wherry_op_unit);

	unit->name = plan_template(p, "wherry-\1@.scope");
	unit->cgroup = plan_template(p, "/system.slice/wherry-\1@.scope");
	unit->slice = plan_text(p, "system.slice");
	unit->properties = plan_list(p, properties);
}

static void add_restrictions(struct planmaker *p)
{
	struct wherry_op_sysctl *sysctl;

	add_hook(p, WHERRY_CALLER);
	add_hook(p, WHERRY_INIT);
	CALLER_OP(OP_NETWORK_DEVICES, wherry_op_network_devices);
	add_unit(p);
	sysctl = INIT_OP(OP_SYSCTL, wherry_op_sysctl);
	sysctl->path = plan_text(p, "net/ipv4/ip_forward");
	sysctl->value = plan_text(p, "1");
	INIT_OP(OP_READONLY_PATH, wherry_op_path)->path = plan_text(p, "/proc/sys");
	INIT_OP(OP_MASKED_PATH, wherry_op_path)->path = plan_text(p, "/proc/kcore");
	INIT_OP(OP_PIVOT, wherry_op_pivot);
	INIT_OP(OP_CHROOT, wherry_op_mount_point)->path = plan_template(p, "\1C/rootfs");
	INIT_OP(OP_ROOT_ATTRIBUTES, wherry_op_root_attributes);
}

static void add_process_steps(struct planmaker *p)
{
	const unsigned long mask[] = { 1, 2 };
	const uint32_t groups[] = { 1, 2, 3 };
	const uint64_t filter[] = { 6 };
	struct wherry_op_memory_policy *policy;
	static const char *const paths[] = { "/", "/tmp", NULL };
	static const uint64_t allowed[] = { 13, 65535 };
	struct wherry_op_security_label *label;
	struct wherry_op_landlock *landlock;
	struct wherry_op_seccomp *seccomp;
	struct wherry_op_listener *listener;

	INIT_OP(OP_PERSONALITY, wherry_op_personality);
	INIT_OP(OP_SCHEDULER, wherry_op_scheduler);
	INIT_OP(OP_IO_PRIORITY, wherry_op_io_priority);
	policy = INIT_OP(OP_MEMORY_POLICY, wherry_op_memory_policy);
	policy->nodes = plan_blob(p, mask, sizeof(mask));
	policy->max_node = 128;
	INIT_OP(OP_CPU_AFFINITY, wherry_op_cpu_affinity)->mask = plan_blob(p, mask, sizeof(mask));
	LAUNCHER_OP(OP_RLIMIT, wherry_op_rlimit)->resource = RLIMIT_CORE;
	label = INIT_OP(OP_SECURITY_LABEL, wherry_op_security_label);
	label->module = plan_text(p, "apparmor");
	label->label = plan_text(p, "unconfined");
	INIT_OP(OP_UMASK, wherry_op_umask);
	INIT_OP(OP_WORKING_DIRECTORY, wherry_op_working_directory)->path = plan_text(p, "/");
	INIT_OP(OP_NO_NEW_PRIVILEGES, wherry_op_no_new_privileges);
	seccomp = INIT_OP(OP_SECCOMP, wherry_op_seccomp);
	seccomp->filter = plan_blob(p, filter, sizeof(filter));
	seccomp->listener = 4;
	landlock = INIT_OP(OP_LANDLOCK, wherry_op_landlock);
	landlock->paths = plan_list(p, paths);
	landlock->allowed = plan_blob(p, allowed, sizeof(allowed));
	INIT_OP(OP_BOUNDING, wherry_op_bounding);
	INIT_OP(OP_IDENTITY, wherry_op_identity)->groups = plan_blob(p, groups, sizeof(groups));
	INIT_OP(OP_CAPABILITIES, wherry_op_capabilities);
	listener = CALLER_OP(OP_LISTENER, wherry_op_listener);
	listener->path = plan_text(p, "/run/agent.sock");
	listener->listener = 4;
}

void decode_make_full_plan(struct planmaker *p)
{
	plan_begin(p);
	p->registers = 5;
	p->inherited = 2;
	add_host_steps(p);
	add_launcher_steps(p);
	add_namespace_steps(p);
	add_mount_steps(p);
	add_restrictions(p);
	add_process_steps(p);
	plan_shell(p, "true");
	plan_finish(p);
}

/* ---- the use of an accepted plan ------------------------------------------------------------------------------------------------ */

static void promise(bool holds)
{
	if (!holds)
		abort();
}

static void use_text(const struct wherry_code *code, struct wherry_text text, bool optional)
{
	const char *bytes = wherry_text(code, text);

	promise(bytes ? strlen(bytes) == text.length : optional);
}

static void use_template(const struct wherry_machine *m, struct wherry_template text)
{
	char out[256];
	ssize_t length = wherry_expand(m, text, out, sizeof(out));

	promise(length == -ENAMETOOLONG || (length >= 0 && strlen(out) == (size_t)length));
}

static void use_list(const struct wherry_code *code, struct wherry_list list)
{
	const struct wherry_text *texts = wherry_texts(code, list);

	for (uint32_t i = 0; i < list.count; i++)
		use_text(code, texts[i], false);
}

static void use_op(struct wherry_machine *m, const struct wherry_op *op)
{
	const struct wherry_op_program *program = (const void *)op;
	const struct wherry_op_hook *hook = (const void *)op;
	const struct wherry_op_claim *claim = (const void *)op;
	const struct wherry_op_identity *identity = (const void *)op;
	const struct wherry_op_open_tree *open = (const void *)op;

	use_text(&m->code, op->place, true);
	if (op->code == OP_PROGRAM) {
		use_list(&m->code, program->arguments);
		use_list(&m->code, program->environment);
		promise(program->arguments.count > 0);
	} else if (op->code == OP_HOOK) {
		use_list(&m->code, hook->arguments);
		use_template(m, hook->state);
	} else if (op->code == OP_CLAIM) {
		use_template(m, claim->state_head);
	} else if (op->code == OP_OPEN_TREE) {
		use_template(m, open->source);
		promise(open->out < m->code.plan->registers && open->out < WHERRY_MAX_REGISTERS);
	} else if (op->code == OP_IDENTITY) {
		const uint32_t *groups = wherry_bytes(&m->code, identity->groups);
		uint32_t sum = 0;

		for (uint32_t i = 0; i < identity->groups.length / 4; i++)
			sum ^= groups[i];
		__asm__ volatile("" : : "r"(sum));
	}
}

int decode_target(const uint8_t *data, size_t size)
{
	static struct wherry_machine machine;
	uint8_t *copy = aligned_alloc(8, (size + 7) & ~(size_t)7 ? (size + 7) & ~(size_t)7 : 8);
	uint64_t where = ~0ULL;
	int error;

	memcpy(copy, data, size);
	for (int i = 0; i < WHERRY_SLOT_COUNT; i++)
		machine.slots[i] = "slot";
	error = wherry_decode(copy, size, &machine.code, &where);
	promise(error == 0 || error == -WHERRY_BAD_PLAN || error == -WHERRY_WRONG_VERSION);
	promise(error ? machine.code.steps == 0 && where <= size + sizeof(struct wherry_plan) : where == 0);
	for (uint32_t i = 0; !error && i < machine.code.steps; i++)
		use_op(&machine, machine.code.step[i]);
	free(copy);
	return !error;
}
