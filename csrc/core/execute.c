/* SPDX-License-Identifier: Apache-2.0
 *
 * The machine: from an operation's number to its function, and what every executor needs beside that.
 */
#include "wherry/core.h"
#include "wherry/sys.h"

#include <time.h>

int wherry_fail(struct wherry_machine *m, enum wherry_call call, int error)
{
	m->failed_call = call;
	return -error;
}

int wherry_fail_errno(struct wherry_machine *m, enum wherry_call call)
{
	return wherry_fail(m, call, errno);
}

void wherry_set_register(struct wherry_machine *m, uint16_t number, int fd)
{
	wherry_close(&m->registers[number]);
	m->registers[number] = fd;
}

/* Every operation that the launcher or init runs. Those of the caller have their table in host/. */
#define OPERATIONS(X) \
	X(OP_OOM_SCORE_ADJ, op_oom_score_adj) \
	X(OP_OPEN_NAMESPACE, op_open_namespace) \
	X(OP_JOIN, op_join) \
	X(OP_UNSHARE, op_unshare) \
	X(OP_TIME_OFFSETS, op_time_offsets) \
	X(OP_CLONE, op_clone) \
	X(OP_ATTACH_TASKS, op_attach_tasks) \
	X(OP_WRITE_MAPS, op_write_maps) \
	X(OP_BECOME_ROOT, op_become_root) \
	X(OP_KEYRING, op_keyring) \
	X(OP_LOOPBACK_UP, op_loopback_up) \
	X(OP_HOSTNAME, op_hostname) \
	X(OP_DOMAINNAME, op_domainname) \
	X(OP_PROPAGATION, op_propagation) \
	X(OP_OPEN_TREE, op_open_tree) \
	X(OP_CREATE_TREE, op_create_tree) \
	X(OP_IDMAP_TREE, op_idmap_tree) \
	X(OP_ATTACH_ROOTFS, op_attach_rootfs) \
	X(OP_MOUNT_BIND, op_mount_bind) \
	X(OP_MOUNT_FS, op_mount_fs) \
	X(OP_MOUNT_CGROUP2, op_mount_cgroup2) \
	X(OP_MOUNT_SYSFS, op_mount_sysfs) \
	X(OP_REMOUNT, op_remount) \
	X(OP_MOUNT_ATTRIBUTES, op_mount_attributes) \
	X(OP_SYMLINK, op_symlink) \
	X(OP_DIRECTORY, op_directory) \
	X(OP_DEVICE_NODE, op_device_node) \
	X(OP_CONSOLE, op_console) \
	X(OP_HOOK, op_hook) \
	X(OP_SYSCTL, op_sysctl) \
	X(OP_READONLY_PATH, op_readonly_path) \
	X(OP_MASKED_PATH, op_masked_path) \
	X(OP_PIVOT, op_pivot) \
	X(OP_CHROOT, op_chroot) \
	X(OP_ROOT_ATTRIBUTES, op_root_attributes) \
	X(OP_PERSONALITY, op_personality) \
	X(OP_SCHEDULER, op_scheduler) \
	X(OP_IO_PRIORITY, op_io_priority) \
	X(OP_MEMORY_POLICY, op_memory_policy) \
	X(OP_CPU_AFFINITY, op_cpu_affinity) \
	X(OP_RLIMIT, op_rlimit) \
	X(OP_SECURITY_LABEL, op_security_label) \
	X(OP_UMASK, op_umask) \
	X(OP_WORKING_DIRECTORY, op_working_directory) \
	X(OP_NO_NEW_PRIVILEGES, op_no_new_privileges) \
	X(OP_SECCOMP, op_seccomp) \
	X(OP_LANDLOCK, op_landlock) \
	X(OP_BOUNDING, op_bounding) \
	X(OP_IDENTITY, op_identity) \
	X(OP_CAPABILITIES, op_capabilities) \
	X(OP_PROGRAM, op_program) \
	X(OP_WAIT_START, op_wait_start) \
	X(OP_EXECUTE, op_execute)

void wherry_stamp(struct wherry_machine *m, uint32_t step, bool end)
{
	struct timespec now;
	uint64_t *at;

	if (!m->trace)
		return;
	at = end ? &m->trace[step].end : &m->trace[step].begin;
	clock_gettime(CLOCK_REALTIME, &now);
	*at = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static int dispatch(struct wherry_machine *m, const struct wherry_op *op)
{
	switch (op->code) {
#define RUN(opcode, function) \
	case opcode: \
		return function(m, (const void *)op);
		OPERATIONS(RUN)
#undef RUN
	}
	return -WHERRY_BAD_PLAN; /* the decoder names no other executor for the rest */
}

int wherry_run_step(struct wherry_machine *m, uint32_t step)
{
	int result;

	m->current = step;
	m->failed_call = WHERRY_CALL_NONE;
	m->failed_value = 0;
	wherry_stamp(m, step, false);
	result = dispatch(m, m->code.step[step]);
	wherry_stamp(m, step, true);
	return result;
}
