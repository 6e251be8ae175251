/* SPDX-License-Identifier: Apache-2.0
 *
 * The mount API on descriptors, and what stands in for it. A mount is made detached, gets its attributes while nobody can reach it, and
 * is then attached to a descriptor of its target: no path is looked up twice.
 *
 * Two things may be missing, and each has one substitute:
 *   mount_setattr (5.12): mount(2) with MS_REMOUNT|MS_BIND on /proc/self/fd/N. That wants an attached mount, so attributes come after.
 *   fsopen (5.2, or refused by a seccomp filter; and options that fsconfig cannot carry): mount(2) on /proc/self/fd/TARGET.
 * /proc is still the host's then: all of this happens before the pivot.
 */
#include <string.h>
#include <sys/vfs.h>

#include "mount.h"
#include "wherry/sys.h"

enum {
	OPTION = 256, /* fsconfig takes keys and values of 255 bytes at most */
	PAGE = 4096,  /* mount(2) takes options of a page at most */
};

#ifndef ST_RELATIME
#define ST_RELATIME 4096
#endif
#ifndef ST_NOATIME
#define ST_NOATIME 1024
#define ST_NODIRATIME 2048
#endif

#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

bool mount_without_fsopen;
bool mount_without_setattr;

/* ---- attributes ---------------------------------------------------------------------------------------------------- */

static const struct {
	uint64_t attribute, ms, statfs;
} attribute_table[] = {
	{ MOUNT_ATTR_RDONLY, MS_RDONLY, 1 },
	{ MOUNT_ATTR_NOSUID, MS_NOSUID, 2 },
	{ MOUNT_ATTR_NODEV, MS_NODEV, 4 },
	{ MOUNT_ATTR_NOEXEC, MS_NOEXEC, 8 },
	{ MOUNT_ATTR_NOATIME, MS_NOATIME, ST_NOATIME },
	{ MOUNT_ATTR_NODIRATIME, MS_NODIRATIME, ST_NODIRATIME },
	{ MOUNT_ATTR_NOSYMFOLLOW, MS_NOSYMFOLLOW, ST_NOSYMFOLLOW },
};

uint64_t mount_current_attributes(int fd)
{
	struct statfs fs;
	uint64_t result = 0;

	if (fstatfs(fd, &fs) < 0)
		return 0;
	for (size_t i = 0; i < WHERRY_LENGTH(attribute_table); i++)
		if ((uint64_t)fs.f_flags & attribute_table[i].statfs)
			result |= attribute_table[i].attribute;
	if (!(fs.f_flags & (ST_RELATIME | ST_NOATIME)))
		result |= MOUNT_ATTR_STRICTATIME;
	return result;
}

unsigned long mount_flags(uint64_t attributes)
{
	unsigned long result = 0;
	uint64_t atime = attributes & MOUNT_ATTR__ATIME;

	for (size_t i = 0; i < WHERRY_LENGTH(attribute_table); i++)
		if (attributes & attribute_table[i].attribute)
			result |= attribute_table[i].ms;
	if (!atime)
		result |= MS_RELATIME;
	else if (atime == MOUNT_ATTR_STRICTATIME)
		result |= MS_STRICTATIME;
	return result;
}

/* A filter's EPERM is told from the kernel's by a call that the kernel answers with EINVAL before it looks at permissions. */
static bool setattr_is_filtered(void)
{
	return syscall(SYS_mount_setattr, -1, "", 0, NULL, 0) < 0 && errno == EPERM;
}

int mount_set(int fd, bool recursive, uint64_t set, uint64_t clear)
{
	struct wherry_mount_attr attr = { .attr_set = set, .attr_clr = clear };

	if (!set && !clear)
		return 0;
	if (mount_without_setattr)
		return -ENOSYS;
	if (sys_mount_setattr(fd, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0), &attr) == 0)
		return 0;
	if (errno != EPERM)
		return -errno;
	return setattr_is_filtered() ? -ENOSYS : -EPERM;
}

int mount_remount(int fd, uint64_t set, uint64_t clear)
{
	char path[32];
	uint64_t wanted = (mount_current_attributes(fd) & ~clear) | set;

	if (mount(NULL, wherry_fd_path(fd, path), NULL, MS_REMOUNT | MS_BIND | mount_flags(wanted), NULL) < 0)
		return -errno;
	return 0;
}

int mount_propagation(int fd, uint64_t flags)
{
	struct wherry_mount_attr attr = { .propagation = flags & ~(uint64_t)MS_REC };
	char path[32];

	if (!mount_without_setattr) {
		if (sys_mount_setattr(fd, "", AT_EMPTY_PATH | (flags & MS_REC ? AT_RECURSIVE : 0), &attr) == 0)
			return 0;
		if (errno != ENOSYS)
			return -errno;
	}
	return mount(NULL, wherry_fd_path(fd, path), NULL, flags, NULL) < 0 ? -errno : 0;
}

/* ---- trees --------------------------------------------------------------------------------------------------------- */

bool mount_clones_are_slaves;

int mount_clone(int directory, const char *path, bool recursive)
{
	const struct wherry_mount_attr slave = { .propagation = MS_SLAVE };
	cleanup_fd int fd = sys_open_tree(directory, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (*path ? 0 : AT_EMPTY_PATH) |
				       (recursive ? AT_RECURSIVE : 0));

	if (fd < 0)
		return -errno;
	/* while nobody sees it: as a peer of its source it would hand all that is mounted below on to the host */
	if (mount_clones_are_slaves && sys_mount_setattr(fd, "", AT_EMPTY_PATH | AT_RECURSIVE, &slave) < 0)
		return errno == ENOSYS ? -WHERRY_UNSUPPORTED : -errno;
	return wherry_steal(&fd);
}

int mount_attach(int tree, int target)
{
	return sys_move_mount(tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0 ? -errno : 0;
}

/* ---- new filesystems ------------------------------------------------------------------------------------------------ */

/* The flags of a superblock that fsconfig has a name for. */
static const struct {
	uint64_t flag;
	const char *key;
} superblock_table[] = {
	{ MS_RDONLY, "ro" }, { MS_SYNCHRONOUS, "sync" }, { MS_DIRSYNC, "dirsync" }, { MS_MANDLOCK, "mand" }, { 1 << 25, "lazytime" },
};

static const char *option_end(const char *option)
{
	bool quoted = false;

	for (; *option && (quoted || *option != ','); option++)
		if (*option == '"')
			quoted = !quoted;
	return option;
}

/* Whether every option can go through fsconfig: short enough, and without the backslashes that overlayfs has a parser of its own for. */
static bool fsconfig_can(const struct mount_request *request)
{
	uint64_t known = MS_SILENT;

	for (size_t i = 0; i < WHERRY_LENGTH(superblock_table); i++)
		known |= superblock_table[i].flag;
	if (request->superblock & ~known)
		return false;
	if (request->source && strlen(request->source) >= OPTION)
		return false;
	for (const char *p = request->data, *end; p && *p; p = *end ? end + 1 : end) {
		end = option_end(p);
		if (end - p >= OPTION || memchr(p, '\\', (size_t)(end - p)))
			return false;
	}
	return true;
}

static int set_option(int fs, char *option)
{
	char *value = strchr(option, '=');
	size_t length;
	bool label;

	if (!value)
		return sys_fsconfig(fs, FSCONFIG_SET_FLAG, option, NULL, 0);
	label = value - option >= 7 && !memcmp(value - 7, "context", 7);
	*value++ = 0;
	length = strlen(value);
	/* context="...": mount(2) takes the quotes off that keep the commas in it together */
	if (label && length >= 2 && value[0] == '"' && value[length - 1] == '"') {
		value[length - 1] = 0;
		value++;
	}
	return sys_fsconfig(fs, FSCONFIG_SET_STRING, option, value, 0);
}

static int set_options(int fs, const char *data)
{
	char option[OPTION];

	for (const char *p = data, *end; p && *p; p = *end ? end + 1 : end) {
		end = option_end(p);
		if (end == p)
			continue;
		memcpy(option, p, (size_t)(end - p));
		option[end - p] = 0;
		if (set_option(fs, option) < 0)
			return -1;
	}
	return 0;
}

static int configure(int fs, const struct mount_request *request)
{
	if (request->source && *request->source && sys_fsconfig(fs, FSCONFIG_SET_STRING, "source", request->source, 0) < 0)
		return -1;
	for (size_t i = 0; i < WHERRY_LENGTH(superblock_table); i++)
		if ((request->superblock & superblock_table[i].flag) &&
		    sys_fsconfig(fs, FSCONFIG_SET_FLAG, superblock_table[i].key, NULL, 0) < 0)
			return -1;
	return set_options(fs, request->first) < 0 ? -1 : set_options(fs, request->data);
}

int mount_create(const struct mount_request *request, enum wherry_call *call)
{
	cleanup_fd int fs = -1;
	int fd;

	if (mount_without_fsopen || !fsconfig_can(request))
		return -WHERRY_UNSUPPORTED;
	fs = sys_fsopen(request->type, FSOPEN_CLOEXEC);
	if (fs < 0 && (errno == ENOSYS || errno == EPERM))
		return -WHERRY_UNSUPPORTED; /* a real EPERM comes back from mount(2) */
	*call = WHERRY_CALL_FSOPEN;
	if (fs < 0)
		return -errno;
	*call = WHERRY_CALL_FSCONFIG;
	if (configure(fs, request) < 0 || TEMP_FAILURE_RETRY(sys_fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0)) < 0)
		return -errno;
	*call = WHERRY_CALL_FSMOUNT;
	fd = sys_fsmount(fs, FSMOUNT_CLOEXEC, (unsigned int)request->attributes);
	return fd < 0 ? -errno : fd;
}

/* first and data as mount(2) wants them. */
static int join_options(const struct mount_request *request, char *out)
{
	size_t first = request->first ? strlen(request->first) : 0, data = request->data ? strlen(request->data) : 0;

	if (first + 1 + data >= PAGE)
		return -E2BIG;
	memcpy(out, request->first ? request->first : "", first);
	if (first && data)
		out[first++] = ',';
	memcpy(out + first, request->data ? request->data : "", data);
	out[first + data] = 0;
	return 0;
}

int mount_classic(const struct mount_request *request, int target)
{
	char options[PAGE], path[32];
	int result = join_options(request, options);

	if (result < 0)
		return result;
	if (mount(request->source ? request->source : "none", wherry_fd_path(target, path), request->type,
		  request->superblock | mount_flags(request->attributes), options) < 0)
		return -errno;
	return 0;
}

int mount_reconfigure(int fd, const struct mount_request *request, enum wherry_call *call)
{
	char options[PAGE], path[32];
	cleanup_fd int fs = -1;

	if (!mount_without_fsopen && fsconfig_can(request)) {
		*call = WHERRY_CALL_FSCONFIG;
		fs = sys_fspick(fd, "", FSPICK_EMPTY_PATH | FSPICK_CLOEXEC);
		if (fs >= 0)
			return configure(fs, request) < 0 || sys_fsconfig(fs, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0) < 0 ? -errno : 0;
		if (errno != ENOSYS && errno != EPERM)
			return -errno;
	}
	*call = WHERRY_CALL_MOUNT;
	if (join_options(request, options) < 0)
		return -E2BIG;
	/* without MS_BIND this sets the flags of the mount as well: they are given as they are */
	return mount(NULL, wherry_fd_path(fd, path), NULL, MS_REMOUNT | request->superblock | mount_flags(mount_current_attributes(fd)), options) < 0 ?
		       -errno : 0;
}
