/* SPDX-License-Identifier: Apache-2.0
 *
 * Landlock: what a path does not allow is refused, to the process and to whatever it becomes. No privilege lifts it.
 *
 * It comes while init still has CAP_SYS_ADMIN in its user namespace (else the kernel wants no_new_privs), and after the pivot, because a
 * rule hangs on the inode of a path of the container. Init mounts nothing after it, which Landlock would refuse.
 */
#include <string.h>
#include <sys/stat.h>

#include "wherry/core.h"
#include "wherry/sys.h"

#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_add_rule 445
#define SYS_landlock_restrict_self 446
#endif

enum {
	RULE_PATH_BENEATH = 1,
	/* execute, write, read, truncate, ioctl of devices: what can be done with a file. The kernel refuses the others for one. */
	OF_FILES = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15,
};

struct path_rule { /* struct landlock_path_beneath_attr */
	uint64_t allowed;
	int32_t parent;
} __attribute__((packed));

static int add_rule(int rules, const char *path, uint64_t allowed, enum wherry_call *call)
{
	cleanup_fd int fd = open(path, O_PATH | O_CLOEXEC);
	struct path_rule rule = { .allowed = allowed, .parent = fd };
	struct stat st;

	*call = WHERRY_CALL_OPEN;
	if (fd < 0 || fstat(fd, &st) < 0)
		return -1;
	if (!S_ISDIR(st.st_mode))
		rule.allowed &= OF_FILES;
	*call = WHERRY_CALL_LANDLOCK;
	return (int)syscall(SYS_landlock_add_rule, rules, RULE_PATH_BENEATH, &rule, 0);
}

int op_landlock(struct wherry_machine *m, const struct wherry_op_landlock *op)
{
	const struct wherry_text *paths = wherry_texts(&m->code, op->paths);
	const uint64_t *allowed = wherry_bytes(&m->code, op->allowed);
	enum wherry_call call = WHERRY_CALL_LANDLOCK;
	cleanup_fd int rules = (int)syscall(SYS_landlock_create_ruleset, &op->handled, sizeof(op->handled), 0);

	if (rules < 0)
		return wherry_fail_errno(m, call);
	for (uint32_t i = 0; i < op->paths.count; i++) {
		m->failed_value = i;
		if (add_rule(rules, wherry_text(&m->code, paths[i]), allowed[i], &call) < 0)
			return wherry_fail_errno(m, call);
	}
	m->failed_value = 0;
	if (syscall(SYS_landlock_restrict_self, rules, 0) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_LANDLOCK);
	return 0;
}
