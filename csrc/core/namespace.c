/* SPDX-License-Identifier: Apache-2.0
 *
 * The operations that make, join and furnish namespaces, and the clone of init. maps.c has the user namespace's maps.
 */
#include "wherry/core.h"
#include "wherry/sys.h"

#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* ---- joining ----------------------------------------------------------------------------------------------------------- */

int op_oom_score_adj(struct wherry_machine *m, const struct wherry_op_oom_score_adj *op)
{
	char text[24] = "-";
	int64_t value = op->value;
	size_t sign = value < 0;
	size_t length = sign + wherry_decimal((uint64_t)(value < 0 ? -value : value), text + sign);

	if (wherry_write_file(AT_FDCWD, "/proc/self/oom_score_adj", text, length, NULL) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_OOM_SCORE_ADJ);
	return 0;
}

int op_open_namespace(struct wherry_machine *m, const struct wherry_op_open_namespace *op)
{
	/* whatever stands at that path, opening it must not wait for it */
	cleanup_fd int fd = TEMP_FAILURE_RETRY(open(wherry_text(&m->code, op->path), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
	int type;

	if (fd < 0)
		return wherry_fail_errno(m, WHERRY_CALL_OPEN);
	type = ioctl(fd, NS_GET_NSTYPE);
	if (type < 0 && errno != ENOTTY)
		return wherry_fail_errno(m, WHERRY_CALL_NS_TYPE);
	if (type < 0 || (uint32_t)type != op->type)
		return wherry_fail(m, WHERRY_CALL_NS_TYPE, WHERRY_WRONG_NAMESPACE_TYPE);
	wherry_set_register(m, op->out, wherry_steal(&fd));
	return 0;
}

int op_join(struct wherry_machine *m, const struct wherry_op_join *op)
{
	if (m->executor == WHERRY_LAUNCHER && op->type & CLONE_NEWUSER && op->root_uid != UINT32_MAX && op->root_gid != UINT32_MAX)
		wherry_give_pipes(op->root_uid, op->root_gid); /* now: from there, what is root's here is nobody's */
	if (setns(m->registers[op->from], (int)op->type) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_SETNS);
	if (!op->keep)
		wherry_set_register(m, op->from, -1);
	if (!(op->type & CLONE_NEWNS))
		return 0;
	/* setns has made "/" the root of the namespace: an exec's, and in a create that until the rootfs is attached */
	wherry_close(&m->rootfs);
	m->rootfs = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return m->rootfs < 0 ? wherry_fail_errno(m, WHERRY_CALL_OPEN) : 0;
}

/* ---- unsharing, and time ------------------------------------------------------------------------------------------------ */

static int write_offsets(const char *lines)
{
	return wherry_write_file(AT_FDCWD, "/proc/self/timens_offsets", lines, strlen(lines), NULL);
}

/* Inside a user namespace the file of a hidden process belongs to a root that is not ours. Init is alone in its namespaces here, unless
 * it joined a foreign one: showing itself for one write lets nobody in who could not have come before. */
static int write_offsets_shown(const char *lines)
{
	int result;

	if (prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) < 0)
		return -1;
	result = write_offsets(lines);
	return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ? -1 : result;
}

/* unshare(CLONE_NEWTIME) gives the namespace to children alone. The launcher's next child is init; init itself has to enter. */
static int enter_time(struct wherry_machine *m)
{
	cleanup_fd int fd = open("/proc/self/ns/time_for_children", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return wherry_fail_errno(m, WHERRY_CALL_OPEN);
	return setns(fd, CLONE_NEWTIME) < 0 ? wherry_fail_errno(m, WHERRY_CALL_SETNS) : 0;
}

/* A new time namespace without offsets is entered at once; with offsets, once they are written. */
int op_unshare(struct wherry_machine *m, const struct wherry_op_unshare *op)
{
	const struct wherry_op *next = m->code.step[m->current + 1];

	if (syscall(SYS_unshare, (unsigned long)op->flags) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_UNSHARE);
	if (!(op->flags & CLONE_NEWTIME) || m->executor != WHERRY_INIT || (next && next->code == OP_TIME_OFFSETS))
		return 0;
	return enter_time(m);
}

int op_time_offsets(struct wherry_machine *m, const struct wherry_op_time_offsets *op)
{
	const char *lines = wherry_text(&m->code, op->lines);
	int result = write_offsets(lines);

	if (result < 0 && errno == EACCES && m->executor == WHERRY_INIT)
		result = write_offsets_shown(lines);
	if (result < 0)
		return wherry_fail_errno(m, WHERRY_CALL_TIME_OFFSETS);
	return m->executor == WHERRY_INIT ? enter_time(m) : 0;
}

/* ---- the clone ------------------------------------------------------------------------------------------------------------- */

/* Kernels and filters without clone3. */
static pid_t plain_clone(uint64_t flags, int *pidfd)
{
#if defined(__s390__)
	return (pid_t)syscall(SYS_clone, NULL, (unsigned long)flags, pidfd, NULL, NULL);
#else
	if (flags & CLONE_NEWTIME) { /* one of the bits that hold a signal here */
		errno = ENOSYS;
		return -1;
	}
	return (pid_t)syscall(SYS_clone, (unsigned long)flags, NULL, pidfd, NULL, NULL);
#endif
}

/* clone3 into the cgroup; without the cgroup where the kernel does not know that (the child attaches itself); clone. */
static pid_t clone_init(uint64_t flags, int cgroup, int *pidfd, bool *attach)
{
	struct clone_args args = {
		.flags = flags | CLONE_PIDFD | CLONE_INTO_CGROUP, .pidfd = (uintptr_t)pidfd, .exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD,
		.cgroup = (uint64_t)cgroup,
	};
	pid_t pid;

	*attach = false;
	if (cgroup >= 0) {
		pid = sys_clone3(&args, sizeof(args));
		if (pid >= 0 || (errno != EINVAL && errno != E2BIG && errno != ENOSYS && errno != EPERM))
			return pid;
		*attach = true;
	}
	args.flags &= ~CLONE_INTO_CGROUP;
	args.cgroup = 0;
	pid = sys_clone3(&args, CLONE_ARGS_SIZE_VER0);
	if (pid >= 0 || (errno != ENOSYS && errno != EPERM))
		return pid;
	return plain_clone(args.flags | args.exit_signal, pidfd);
}

/* Init, before it does anything else: it is in its cgroup, and has no directory of the host. */
static int enter_cgroup(struct wherry_machine *m, const struct wherry_op_clone *op, bool attach)
{
	int error = 0;

	if (op->into_cgroup == WHERRY_NO_REGISTER)
		return 0;
	if (attach && wherry_write_file(m->registers[op->into_cgroup], "cgroup.procs", "0", 1, NULL) < 0)
		error = wherry_fail_errno(m, WHERRY_CALL_WRITE);
	wherry_set_register(m, op->into_cgroup, -1);
	return error;
}

/* Between init and its launcher. */
static int connect_init(struct wherry_machine *m, int pair[2])
{
	pair[0] = pair[1] = -1;
	if (m->by_caller || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0)
		return 0;
	return wherry_fail_errno(m, WHERRY_CALL_SOCKETPAIR);
}

static int cgroup_of(const struct wherry_machine *m, const struct wherry_op_clone *op)
{
	return op->into_cgroup == WHERRY_NO_REGISTER ? -1 : m->registers[op->into_cgroup];
}

pid_t wherry_clone_ahead(struct wherry_machine *m, const struct wherry_op_clone *op)
{
	pid_t pid = clone_init(op->flags, cgroup_of(m, op), &m->init_pidfd, &m->unattached);

	return pid < 0 ? wherry_fail_errno(m, WHERRY_CALL_CLONE) : pid;
}

int wherry_go_on_as_init(struct wherry_machine *m, int error)
{
	return wherry_init_main(m, error ? error : enter_cgroup(m, (const void *)m->code.step[m->current], m->unattached));
}

int op_clone(struct wherry_machine *m, const struct wherry_op_clone *op)
{
	int pair[2], pidfd = -1, error = connect_init(m, pair);
	bool attach;
	pid_t pid;

	if (error)
		return error;
	pid = clone_init(op->flags | (m->by_caller ? 0 : CLONE_PARENT), cgroup_of(m, op), &pidfd, &attach);
	if (pid < 0) {
		error = wherry_fail_errno(m, WHERRY_CALL_CLONE);
		wherry_close(&pair[0]);
		wherry_close(&pair[1]);
		return error;
	}
	m->helper = pair[pid ? 0 : 1];
	wherry_close(&pair[pid ? 1 : 0]);
	if (!pid)
		_exit(wherry_init_main(m, enter_cgroup(m, op, attach)));
	(void)!chdir("/"); /* init keeps the rootfs's place; nothing of the host's is run there */
	m->init = pid;
	m->init_pidfd = pidfd >= 0 ? pidfd : sys_pidfd_open(pid, 0);
	return 0;
}

/* The thread's file of a v1 hierarchy: writing 0 to it takes no lock that waits for an RCU grace period, as cgroup.procs does. In the
 * launcher (older kernels refuse a writer without rights, whoever opened the file) it is init's pid. */
int op_attach_tasks(struct wherry_machine *m, const struct wherry_op_attach_tasks *op)
{
	char pid[24] = "0";
	size_t length = m->executor == WHERRY_LAUNCHER ? wherry_decimal((uint64_t)m->init, pid) : 1;

	if (m->registers[op->tasks] < 0) /* there was no permission for a cgroup, and none was asked for */
		return 0;
	if (TEMP_FAILURE_RETRY(write(m->registers[op->tasks], pid, length)) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_WRITE);
	wherry_set_register(m, op->tasks, -1);
	return 0;
}

/* ---- furniture --------------------------------------------------------------------------------------------------------------- */

/* "type;uid;gid;perm;description": the fourth, hexadecimal. */
static bool parse_permissions(const char *text, uint32_t *permissions)
{
	int fields = 0;

	while (fields < 3 && *text)
		fields += *text++ == ';';
	if (fields < 3 || *text == ';' || !*text)
		return false;
	for (*permissions = 0; *text && *text != ';'; text++) {
		int digit = *text >= '0' && *text <= '9' ? *text - '0' : (*text | 0x20) - 'a' + 10;

		if (digit < 0 || digit > 15)
			return false;
		*permissions = *permissions << 4 | (uint32_t)digit;
	}
	return true;
}

/* The container's processes may search the ring: by its owner, or by anybody where a user namespace changes the owner. */
static int open_keyring(struct wherry_machine *m, long ring)
{
	enum { USER_SEARCH = 0x080000, OTHER_SEARCH = 0x08 };
	uint32_t permissions;
	char text[512];
	long length = sys_keyctl(KEYCTL_DESCRIBE, (unsigned long)ring, (unsigned long)text, sizeof(text) - 1, 0);

	if (length < 0)
		return wherry_fail_errno(m, WHERRY_CALL_KEYCTL);
	text[(size_t)length < sizeof(text) ? (size_t)length : sizeof(text) - 1] = 0;
	if (!parse_permissions(text, &permissions))
		return wherry_fail(m, WHERRY_CALL_KEYCTL, EPROTO);
	permissions |= m->code.plan->flags & WHERRY_PLAN_NEW_USER ? OTHER_SEARCH : USER_SEARCH;
	if (sys_keyctl(KEYCTL_SETPERM, (unsigned long)ring, permissions, 0, 0) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_KEYCTL);
	return 0;
}

int op_keyring(struct wherry_machine *m, const struct wherry_op_keyring *op)
{
	char name[WHERRY_MAX_PATH];
	ssize_t length = wherry_expand(m, op->name, name, sizeof(name));
	long ring;

	if (length < 0)
		return wherry_fail(m, WHERRY_CALL_KEYCTL, (int)-length);
	ring = sys_keyctl(KEYCTL_JOIN_SESSION_KEYRING, (unsigned long)name, 0, 0, 0);
	if (ring < 0) /* a kernel without keyrings has none to keep apart */
		return errno == ENOSYS ? 0 : wherry_fail_errno(m, WHERRY_CALL_KEYCTL);
	return open_keyring(m, ring);
}

/* The kernel gives the interface its addresses when it comes up. */
int op_loopback_up(struct wherry_machine *m, const struct wherry_op_loopback_up *op)
{
	struct ifreq request = { .ifr_name = "lo" };
	cleanup_fd int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0); /* any socket will do, and this family is always there */

	(void)op;
	if (fd < 0)
		return wherry_fail_errno(m, WHERRY_CALL_IOCTL);
	if (ioctl(fd, SIOCGIFFLAGS, &request) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_IOCTL);
	request.ifr_flags |= IFF_UP | IFF_RUNNING;
	return ioctl(fd, SIOCSIFFLAGS, &request) < 0 ? wherry_fail_errno(m, WHERRY_CALL_IOCTL) : 0;
}

int op_hostname(struct wherry_machine *m, const struct wherry_op_hostname *op)
{
	if (sethostname(wherry_text(&m->code, op->name), op->name.length) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_SETHOSTNAME);
	return 0;
}

int op_domainname(struct wherry_machine *m, const struct wherry_op_hostname *op)
{
	if (setdomainname(wherry_text(&m->code, op->name), op->name.length) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_SETDOMAINNAME);
	return 0;
}
