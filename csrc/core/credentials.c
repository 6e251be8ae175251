/* SPDX-License-Identifier: Apache-2.0
 *
 * Who the process is and what it may do: limits, bounding set, ids, capabilities, no_new_privs, the LSM label.
 *
 * All five capability sets are built, none is inherited, and what was set is read back: a set that is not as planned is an
 * error, never a warning (CVE-2016-8867, CVE-2022-24769).
 */
#include "wherry/core.h"
#include "wherry/sys.h"

#include <linux/capability.h>
#include <string.h>
#include <sys/stat.h>

#ifndef PR_CAP_AMBIENT
#define PR_CAP_AMBIENT 47
#define PR_CAP_AMBIENT_IS_SET 1
#define PR_CAP_AMBIENT_RAISE 2
#define PR_CAP_AMBIENT_CLEAR_ALL 4
#endif

enum { MAX_CAPABILITIES = 64 };

#define CAPABILITY_BIT(number) (UINT64_C(1) << (number))

/* ---- limits ---------------------------------------------------------------------------------------------------------- */

/* The launcher's init waits for the answer meanwhile, and its parent reaps it only after a failure: the number is its own. */
int op_rlimit(struct wherry_machine *m, const struct wherry_op_rlimit *op)
{
	const uint64_t limit[2] = { op->soft, op->hard };
	pid_t whose = m->executor == WHERRY_LAUNCHER ? m->init : 0;

	if (sys_prlimit(whose, op->resource, limit, NULL) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_PRLIMIT);
	return 0;
}

/* ---- ids --------------------------------------------------------------------------------------------------------------- */

/* What the caller has made for us to write to, and pipes and sockets. Not what is only read: `run </etc/passwd` gives nobody that file. */
static bool is_for_output(int fd, mode_t mode)
{
	return S_ISFIFO(mode) || S_ISSOCK(mode) || (S_ISREG(mode) && (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY);
}

/* A process that may not open its own /proc/self/fd/1 cannot log through /dev/stdout: pipes, sockets and files on stdio are given
 * to the user. Devices are left alone: they are the host's (its /dev/null was chowned like this once). What the kernel refuses
 * (read-only, not mapped here, not ours) stays as it is. */
static void give_stdio(uint32_t uid)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
		struct stat file;

		if (fstat(fd, &file) < 0 || file.st_uid == uid)
			continue;
		if (is_for_output(fd, file.st_mode))
			(void)!fchown(fd, uid, (gid_t)-1);
	}
}

int op_identity(struct wherry_machine *m, const struct wherry_op_identity *op)
{
	const gid_t *groups = op->groups.length ? wherry_bytes(&m->code, op->groups) : NULL;

	if (op->uid == (uid_t)-1 || op->gid == (gid_t)-1) /* to the kernel: as it is, which is root */
		return wherry_fail(m, WHERRY_CALL_SETRESUID, EINVAL);
	give_stdio(op->uid);
	if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_KEEPCAPS);
	if (!op->skip_setgroups && sys_setgroups(op->groups.length / sizeof(gid_t), groups) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_SETGROUPS);
	if (sys_setresgid(op->gid, op->gid, op->gid) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_SETRESGID);
	if (sys_setresuid(op->uid, op->uid, op->uid) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_SETRESUID);
	if (prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_KEEPCAPS);
	return 0;
}

int op_umask(struct wherry_machine *m, const struct wherry_op_umask *op)
{
	(void)m;
	umask((mode_t)op->mask);
	return 0;
}

/* ---- capabilities ---------------------------------------------------------------------------------------------------------- */

/* One call for each: whether it is held at all is asked only where dropping it is refused. For whoever may drop nothing (no CAP_SETPCAP) what is
 * missing already is as wanted, and what is held is an error. */
int op_bounding(struct wherry_machine *m, const struct wherry_op_bounding *op)
{
	for (unsigned long number = 0; number < MAX_CAPABILITIES; number++) {
		int refusal, held;

		if ((op->keep & CAPABILITY_BIT(number)) || prctl(PR_CAPBSET_DROP, number, 0, 0, 0) == 0)
			continue;
		refusal = errno;
		held = prctl(PR_CAPBSET_READ, number, 0, 0, 0);
		if (held < 0)
			break; /* past the last one that this kernel has */
		if (held) {
			m->failed_value = number;
			return wherry_fail(m, WHERRY_CALL_BOUNDING, refusal);
		}
	}
	return 0;
}

struct capability_sets {
	uint64_t effective, permitted, inheritable;
};

static int get_sets(struct capability_sets *sets)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	if (sys_capget(&header, data) < 0)
		return -1;
	sets->effective = data[0].effective | (uint64_t)data[1].effective << 32;
	sets->permitted = data[0].permitted | (uint64_t)data[1].permitted << 32;
	sets->inheritable = data[0].inheritable | (uint64_t)data[1].inheritable << 32;
	return 0;
}

static int set_sets(const struct capability_sets *sets)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	for (unsigned int half = 0; half < _LINUX_CAPABILITY_U32S_3; half++) {
		data[half].effective = (uint32_t)(sets->effective >> 32 * half);
		data[half].permitted = (uint32_t)(sets->permitted >> 32 * half);
		data[half].inheritable = (uint32_t)(sets->inheritable >> 32 * half);
	}
	return sys_capset(&header, data);
}

static int raise_ambient(struct wherry_machine *m, uint64_t ambient)
{
	for (unsigned long number = 0; number < MAX_CAPABILITIES; number++) {
		if (!(ambient & CAPABILITY_BIT(number)))
			continue;
		if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0) < 0) {
			int result = wherry_fail_errno(m, WHERRY_CALL_AMBIENT);

			m->failed_value = number;
			return result;
		}
	}
	return 0;
}

/* `possible`: what the kernel says is permitted and inheritable. It keeps the ambient set within both (capabilities(7)), so nothing else can be in
 * it: where nothing is inheritable, as usual, there is nothing to ask. */
static uint64_t ambient_set(uint64_t possible)
{
	uint64_t set = 0;

	for (unsigned long number = 0; number < MAX_CAPABILITIES; number++)
		if ((possible & CAPABILITY_BIT(number)) && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, number, 0, 0) == 1)
			set |= CAPABILITY_BIT(number);
	return set;
}

static int missing(struct wherry_machine *m, uint64_t set)
{
	int result = wherry_fail(m, WHERRY_CALL_CAPSET, WHERRY_CAPABILITY_MISSING);

	m->failed_value = set;
	return result;
}

int op_capabilities(struct wherry_machine *m, const struct wherry_op_capabilities *op)
{
	struct capability_sets wanted = { op->effective, op->permitted, op->inheritable }, got;
	uint64_t ambient;
	int result;

	/* first: an ambient capability that was inherited would survive everything below (kernels before 4.3 have none) */
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 && (errno != EINVAL || op->ambient))
		return wherry_fail_errno(m, WHERRY_CALL_AMBIENT);
	if (get_sets(&got) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_CAPSET);
	if (wanted.permitted & ~got.permitted)
		return missing(m, wanted.permitted & ~got.permitted);
	if (set_sets(&wanted) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_CAPSET);
	result = raise_ambient(m, op->ambient);
	if (result < 0)
		return result;
	if (get_sets(&got) < 0)
		return wherry_fail_errno(m, WHERRY_CALL_CAPSET);
	if (memcmp(&got, &wanted, sizeof(got)) != 0)
		return missing(m, (got.effective ^ wanted.effective) | (got.permitted ^ wanted.permitted) | (got.inheritable ^ wanted.inheritable));
	ambient = ambient_set(got.permitted & got.inheritable);
	return ambient != op->ambient ? missing(m, ambient ^ op->ambient) : 0;
}

int op_no_new_privileges(struct wherry_machine *m, const struct wherry_op_no_new_privileges *op)
{
	(void)op;
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? wherry_fail_errno(m, WHERRY_CALL_NO_NEW_PRIVS) : 0;
}

/* ---- the label ------------------------------------------------------------------------------------------------------------------ */

struct text_buffer {
	char bytes[WHERRY_MAX_PATH];
	size_t length;
};

static bool append(struct text_buffer *to, const char *text)
{
	size_t length = strlen(text);

	if (length >= sizeof(to->bytes) - to->length)
		return false;
	memcpy(to->bytes + to->length, text, length + 1);
	to->length += length;
	return true;
}

static bool append_all(struct text_buffer *to, const char *const parts[], size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (!append(to, parts[i]))
			return false;
	return true;
}

/* Inside a procfs that nobody else can mount on, or where there is none, of /proc: so no link is followed and nothing that is mounted there is
 * entered, with openat2 or without. By number, because "self" is a symlink. -ENOENT where this kernel has no such attribute. */
static int open_attribute(int procfs, const char *directory, const char *module)
{
	struct text_buffer path = { .length = 0 };
	char pid[24];

	wherry_decimal((uint64_t)getpid(), pid);
	if (!append_all(&path, (const char *const[]){ pid, directory, module, "/exec" }, 4))
		return -ENAMETOOLONG;
	return securepath_open(procfs, path.bytes, O_WRONLY | O_NOCTTY, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV);
}

int op_security_label(struct wherry_machine *m, const struct wherry_op_security_label *op)
{
	const char *module = wherry_text(&m->code, op->module), *label = wherry_text(&m->code, op->label);
	struct text_buffer value = { .length = 0 };
	cleanup_fd int procfs = open_procfs(m), attribute = -1;

	if (procfs < 0)
		return procfs;
	attribute = open_attribute(procfs, "/attr/", module);
	if (attribute == -ENOENT)
		attribute = open_attribute(procfs, "/attr", "");
	if (attribute < 0)
		return wherry_fail(m, WHERRY_CALL_LABEL, -attribute);
	/* AppArmor's files take a command, SELinux's take the context */
	if (!append_all(&value, (const char *const[]){ strcmp(module, "apparmor") == 0 ? "exec " : "", label }, 2))
		return wherry_fail(m, WHERRY_CALL_LABEL, ENAMETOOLONG);
	if (TEMP_FAILURE_RETRY(write(attribute, value.bytes, value.length)) != (ssize_t)value.length)
		return wherry_fail(m, WHERRY_CALL_LABEL, errno ? errno : EIO);
	return 0;
}
