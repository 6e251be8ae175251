/* SPDX-License-Identifier: Apache-2.0
 *
 * tmpcopyup: what stands in a directory of the image goes into the tmpfs that will hide it, with modes, owners, times, extended attributes;
 * symlinks as they are. The source is hostile: no symlink is followed, no other mount entered, no file opened that is not regular.
 */
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "mount.h"
#include "wherry/sys.h"

enum {
	DEPTH = 100, /* directories in one another; each costs two descriptors and a buffer on the stack */
	ENTRIES = 8192,
	CONTENT = 32768,
	NAMES = 8192, /* names of all extended attributes of one file */
};

struct entry { /* struct linux_dirent64 */
	uint64_t inode;
	int64_t next;
	uint16_t size;
	uint8_t type;
	char name[];
};

struct copy {
	dev_t device; /* of the source */
	int depth;
};

static int copy_directory(struct copy *c, int source, int target);

/* Attributes that the tmpfs does not take (user.* before 6.6, a label where the mount has one) or that we may not set are left out. */
static int copy_xattrs(int source, int target)
{
	static char names[NAMES], value[CONTENT];
	ssize_t length = flistxattr(source, names, sizeof(names));

	for (const char *name = names; length > 0 && name < names + length; name += strlen(name) + 1) {
		ssize_t size = fgetxattr(source, name, value, sizeof(value));

		if (size >= 0 && fsetxattr(target, name, value, (size_t)size, 0) < 0 && errno != ENOTSUP && errno != EPERM)
			return -errno;
	}
	return 0;
}

/* Owner before mode, because a new owner takes the set-id bits. An id without a place in our user namespace (EINVAL) becomes ours. */
static int copy_attributes(int source, int target, const struct stat *st)
{
	const struct timespec times[2] = { st->st_atim, st->st_mtim };
	int result;

	if (fchown(target, st->st_uid, st->st_gid) < 0 && errno != EINVAL)
		return -errno;
	if (fchmod(target, st->st_mode & 07777) < 0)
		return -errno;
	result = copy_xattrs(source, target);
	if (!result && futimens(target, times) < 0)
		result = -errno;
	return result;
}

static int copy_content(int source, int target)
{
	static char buffer[CONTENT];

	for (;;) {
		ssize_t size = TEMP_FAILURE_RETRY(read(source, buffer, sizeof(buffer)));

		if (size <= 0)
			return size < 0 ? -errno : 0;
		if (wherry_write_all(target, buffer, (size_t)size) < 0)
			return -errno;
	}
}

static int copy_file(int from, int to, const char *name)
{
	/* O_NONBLOCK: it may have become a fifo since it was looked at */
	cleanup_fd int source = openat(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	cleanup_fd int target = -1;
	struct stat st;
	int result;

	if (source < 0 || fstat(source, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EAGAIN;
	target = openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (target < 0)
		return -errno;
	result = copy_content(source, target);
	return result ? result : copy_attributes(source, target, &st);
}

static int copy_subdirectory(struct copy *c, int from, int to, const char *name)
{
	cleanup_fd int source = openat(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	cleanup_fd int target = -1;
	struct stat st;
	int result = 0;

	if (source < 0 || fstat(source, &st) < 0)
		return -errno;
	if (mkdirat(to, name, 0700) < 0)
		return -errno;
	target = openat(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (target < 0)
		return -errno;
	if (st.st_dev == c->device) /* another mount stays where it is, its place is copied */
		result = copy_directory(c, source, target);
	return result ? result : copy_attributes(source, target, &st);
}

static int copy_link(int from, int to, const char *name, const struct stat *st)
{
	char text[WHERRY_MAX_PATH];
	ssize_t length = readlinkat(from, name, text, sizeof(text) - 1);

	if (length < 0)
		return -errno;
	text[length] = 0;
	if (symlinkat(text, to, name) < 0)
		return -errno;
	return fchownat(to, name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0 && errno != EINVAL ? -errno : 0;
}

/* Device, fifo, socket. */
static int copy_node(int to, const char *name, const struct stat *st)
{
	if (mknodat(to, name, st->st_mode, st->st_rdev) < 0)
		return -errno;
	if (fchownat(to, name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0 && errno != EINVAL)
		return -errno;
	return fchmodat(to, name, st->st_mode & 07777, 0) < 0 ? -errno : 0; /* nobody else can reach the target yet */
}

static int copy_entry(struct copy *c, int from, int to, const char *name)
{
	struct stat st;

	if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	switch (st.st_mode & S_IFMT) {
	case S_IFDIR:
		return copy_subdirectory(c, from, to, name);
	case S_IFREG:
		return copy_file(from, to, name);
	case S_IFLNK:
		return copy_link(from, to, name, &st);
	default:
		return copy_node(to, name, &st);
	}
}

static int copy_directory(struct copy *c, int source, int target)
{
	_Alignas(struct entry) char buffer[ENTRIES];
	ssize_t size;

	if (c->depth == DEPTH)
		return -ELOOP;
	c->depth++;
	while ((size = sys_getdents64(source, buffer, sizeof(buffer))) > 0) {
		for (ssize_t at = 0; at < size;) {
			const struct entry *e = (const struct entry *)(buffer + at);
			int result = 0;

			at += e->size;
			if (strcmp(e->name, ".") && strcmp(e->name, ".."))
				result = copy_entry(c, source, target, e->name);
			if (result < 0)
				return result;
		}
	}
	c->depth--;
	return size < 0 ? -errno : 0;
}

/* Both may be O_PATH. The mode of the top directory is not touched: the plan decides it (mode=). */
int copy_up(int source, int target)
{
	cleanup_fd int from = openat(source, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_fd int to = openat(target, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat st, made;
	struct copy c = { .depth = 0 };
	int result;

	if (from < 0 || to < 0 || fstat(from, &st) < 0 || fstat(to, &made) < 0)
		return -errno;
	c.device = st.st_dev;
	result = copy_directory(&c, from, to);
	if (result < 0)
		return result;
	/* uid= and gid= in the options win over the owner of what is copied */
	if (made.st_uid == 0 && made.st_gid == 0 && fchown(to, st.st_uid, st.st_gid) < 0 && errno != EINVAL)
		return -errno;
	return copy_xattrs(from, to);
}
