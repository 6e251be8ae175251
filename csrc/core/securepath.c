/* SPDX-License-Identifier: Apache-2.0
 *
 * Paths inside a root descriptor. What is below that root is hostile: symlinks may point anywhere, and somebody may replace a
 * directory by a symlink between any two of our calls. So a path becomes a descriptor here, once, and nobody uses the path again.
 *
 * openat2(RESOLVE_IN_ROOT) does it in the kernel. Where it is missing (before 5.6) or a seccomp filter refuses it, and wherever something
 * has to be made on the way, a walk does it: one component after the other, O_PATH|O_NOFOLLOW, symlinks read and followed as text.
 * The walk never hands ".." to the kernel: it keeps the names it came by (`done`, free of symlinks) and goes there again from the root.
 * A directory that is moved away meanwhile can make it fail, never leave the root.
 */
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "mount.h"
#include "wherry/core.h"
#include "wherry/sys.h"

enum {
	LINKS = 40,             /* symlinks in one path, as the kernel allows */
	ATTEMPTS = 64,          /* EAGAIN of openat2: a rename or mount happened beside a ".." */
	REST = 2 * WHERRY_MAX_PATH,
	MODE_PARENT = 0755,
	PROCFS_ROOT_INODE = 1,
};

bool securepath_without_openat2;

struct walk {
	int root, at;           /* `at` is O_PATH, and owned */
	int flags;              /* of the last component */
	uint64_t resolve, mount;
	bool make, make_directory;
	mode_t mode;
	bool directory;         /* a slash stands at the end */
	int links;
	int last;               /* the last component opened with `flags`, where these are not O_PATH; else -1 */
	size_t done_length;
	char *next;             /* in rest */
	char done[WHERRY_MAX_PATH];
	char rest[REST];
};

uint64_t securepath_mount_id(int fd)
{
	/* musl's struct statx ends before stx_mnt_id, which stands at byte 144 of 256 */
	union {
		uint64_t words[32];
		uint8_t bytes[256];
	} data = { .words = { 0 } };

	struct stat st;

	if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &data) == 0 && (data.words[0] & STATX_MNT_ID))
		return data.words[18];
	return fstat(fd, &st) == 0 ? st.st_dev : 0;
}

static int go_to_root(struct walk *w)
{
	int fd = fcntl(w->root, F_DUPFD_CLOEXEC, 3);

	if (fd < 0)
		return -errno;
	wherry_close(&w->at);
	w->at = fd;
	w->done_length = 0;
	w->done[0] = 0;
	return 0;
}

/* "..": forget the last name, and go there from the root by the names that are left. */
static int go_up(struct walk *w)
{
	char names[WHERRY_MAX_PATH];
	int result;

	if (!w->done_length)
		return w->resolve & RESOLVE_BENEATH ? -EXDEV : 0;
	*strrchr(w->done, '/') = 0;
	strcpy(names, w->done);
	result = go_to_root(w);
	strcpy(w->done, names);
	w->done_length = strlen(names);
	for (char *name = names, *end; !result && *name; name = end) {
		char stop;
		int fd;

		name++; /* each name comes after a slash */
		end = strchrnul(name, '/');
		stop = *end;
		*end = 0;
		fd = openat(w->at, name, O_PATH | O_NOFOLLOW | O_DIRECTORY | O_CLOEXEC);
		*end = stop;
		if (fd < 0)
			return -errno;
		wherry_close(&w->at);
		w->at = fd;
	}
	return result;
}

/* Puts the text of `link` before what is left of the path. */
static int follow(struct walk *w, int link)
{
	char target[WHERRY_MAX_PATH];
	ssize_t length = readlinkat(link, "", target, sizeof(target));
	size_t left = strlen(w->next);
	struct statfs fs;

	if (length < 0)
		return -errno;
	if ((w->resolve & RESOLVE_NO_SYMLINKS) || ++w->links > LINKS)
		return -ELOOP;
	if (!length)
		return -ENOENT;
	if ((size_t)length + 1 + left >= REST)
		return -ENAMETOOLONG;
	/* magic links: those of procfs that lead elsewhere than their text says, all of them absolute or no path at all */
	if (*target == '/' && fstatfs(link, &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC)
		return -ELOOP;
	memmove(w->rest + length + 1, w->next, left + 1);
	memcpy(w->rest, target, (size_t)length);
	w->rest[length] = left ? '/' : 0;
	w->next = w->rest;
	if (!left && target[length - 1] == '/')
		w->directory = true;
	if (*target != '/')
		return 0;
	return w->resolve & RESOLVE_BENEATH ? -EXDEV : go_to_root(w);
}

static int make_entry(struct walk *w, const char *name, bool last)
{
	mode_t before = umask(0); /* modes are as given, whoever started us; init and launcher have one thread each */
	mode_t mode = last ? w->mode : MODE_PARENT;
	cleanup_fd int fd = -1;
	int result;

	if (last && !w->make_directory)
		result = fd = openat(w->at, name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, mode);
	else
		result = mkdirat(w->at, name, mode);
	if (result < 0)
		result = errno == EEXIST ? 0 : -errno; /* somebody else made it: whatever it is, it is looked at next */
	umask(before);
	return result < 0 ? result : 0;
}

static int remember(struct walk *w, const char *name)
{
	size_t length = strlen(name);

	if (w->done_length + 1 + length >= sizeof(w->done))
		return -ENAMETOOLONG;
	w->done[w->done_length] = '/';
	memcpy(w->done + w->done_length + 1, name, length + 1);
	w->done_length += 1 + length;
	return 0;
}

/* The last component with flags other than O_PATH. It was no symlink a moment ago; if it is one now, all is walked again. */
static int open_last(struct walk *w, const char *name)
{
	w->last = openat(w->at, name, w->flags | O_NOFOLLOW | O_CLOEXEC);
	if (w->last < 0)
		return errno == ELOOP ? -EAGAIN : -errno;
	return 0;
}

static int step(struct walk *w, const char *name, bool last)
{
	cleanup_fd int fd = openat(w->at, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;
	int result;

	if (fd < 0 && errno == ENOENT && w->make) {
		result = make_entry(w, name, last);
		if (result < 0)
			return result;
		fd = openat(w->at, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	}
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if ((w->resolve & RESOLVE_NO_XDEV) && securepath_mount_id(fd) != w->mount)
		return -EXDEV;
	if (S_ISLNK(st.st_mode) && !(last && (w->flags & O_NOFOLLOW) && !w->directory))
		return follow(w, fd);
	if (!S_ISDIR(st.st_mode) && (!last || w->directory || (w->flags & O_DIRECTORY)))
		return -ENOTDIR;
	if (last && !(w->flags & O_PATH))
		return S_ISLNK(st.st_mode) ? -ELOOP : open_last(w, name);
	result = remember(w, name);
	if (result < 0)
		return result;
	wherry_close(&w->at);
	w->at = wherry_steal(&fd);
	return 0;
}

/* Takes the next component off the rest. False: there is none. */
static bool take(struct walk *w, char **name, bool *last)
{
	char *end;

	while (*w->next == '/')
		w->next++;
	if (!*w->next)
		return false;
	*name = w->next;
	end = strchrnul(w->next, '/');
	w->next = end;
	if (*end) {
		*end = 0;
		w->next = end + 1;
	}
	while (*w->next == '/')
		w->next++;
	*last = !*w->next;
	return true;
}

static int walk_once(struct walk *w, const char *path)
{
	size_t length = strlen(path);
	char *name = NULL;
	bool last = false;
	int result;

	if (length >= WHERRY_MAX_PATH)
		return -ENAMETOOLONG;
	memcpy(w->rest, path, length + 1);
	w->next = w->rest;
	w->links = 0;
	w->directory = length && path[length - 1] == '/';
	if ((w->resolve & RESOLVE_BENEATH) && *path == '/')
		return -EXDEV;
	result = go_to_root(w);
	while (!result && take(w, &name, &last)) {
		if (!strcmp(name, "."))
			continue;
		result = strcmp(name, "..") ? step(w, name, last) : go_up(w);
	}
	if (result < 0)
		return result;
	if (w->last < 0 && !(w->flags & O_PATH)) { /* the root itself, or a path that ends in dots */
		w->last = openat(w->at, ".", w->flags | O_CLOEXEC);
		if (w->last < 0)
			return -errno;
	}
	return w->last >= 0 ? wherry_steal(&w->last) : wherry_steal(&w->at);
}

static int walk(struct walk *w, const char *path)
{
	int result = -EAGAIN;

	w->at = w->last = -1;
	if (w->resolve & RESOLVE_NO_XDEV)
		w->mount = securepath_mount_id(w->root);
	for (int i = 0; i < ATTEMPTS && result == -EAGAIN; i++)
		result = walk_once(w, path);
	wherry_close(&w->at);
	wherry_close(&w->last);
	return result;
}

/* Where the kernel does not do it. By itself: `w` is three pages of stack. */
__attribute__((noinline)) static int walk_instead(int root, const char *path, int flags, uint64_t resolve)
{
	struct walk w;

	w.root = root;
	w.flags = flags;
	w.resolve = resolve;
	w.make = false;
	return walk(&w, path);
}

int securepath_open(int root, const char *path, int flags, uint64_t extra_resolve)
{
	uint64_t resolve = extra_resolve | RESOLVE_NO_MAGICLINKS;
	int error = ENOSYS;

	if (flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY)))
		return -EINVAL;
	if (!(resolve & RESOLVE_BENEATH))
		resolve |= RESOLVE_IN_ROOT;
	for (int i = 0; i < ATTEMPTS && !securepath_without_openat2; i++) {
		int fd = TEMP_FAILURE_RETRY(sys_openat2(root, *path ? path : ".", (uint64_t)(unsigned int)flags | O_CLOEXEC, 0, resolve));

		if (fd >= 0)
			return fd;
		error = errno;
		if (error != EAGAIN)
			break;
	}
	if (error != ENOSYS && error != EPERM && error != EAGAIN)
		return -error;
	return walk_instead(root, path, flags, resolve);
}

/* Splits off the last name of `path`; what is left, "/" where nothing is, goes to `parent`. */
static int split(const char *path, char parent[WHERRY_MAX_PATH], const char **name)
{
	const char *slash = strrchr(path, '/');
	size_t length = slash ? (size_t)(slash - path) : 0;

	*name = slash ? slash + 1 : path;
	if (!**name || !strcmp(*name, ".") || !strcmp(*name, ".."))
		return -EINVAL;
	if (length >= WHERRY_MAX_PATH)
		return -ENAMETOOLONG;
	memcpy(parent, path, length);
	strcpy(parent + length, length ? "" : "/");
	return 0;
}

/* The usual case: only the last name is missing, and nobody is about. Anything else is -EAGAIN, for the walk. */
static int make_last(struct walk *w, const char *path)
{
	char parent[WHERRY_MAX_PATH];
	const char *name;
	cleanup_fd int fd = -1;
	struct stat st;

	if (split(path, parent, &name) < 0)
		return -EAGAIN;
	w->at = securepath_open(w->root, parent, O_PATH | O_DIRECTORY, w->resolve);
	if (w->at < 0)
		return -EAGAIN;
	if (make_entry(w, name, true) == 0)
		fd = openat(w->at, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	wherry_close(&w->at);
	if (fd < 0 || fstat(fd, &st) < 0 || (st.st_mode & S_IFMT) != (w->make_directory ? S_IFDIR : S_IFREG))
		return -EAGAIN;
	return wherry_steal(&fd);
}

int securepath_create(int root, const char *path, bool directory, mode_t mode, uint64_t extra_resolve)
{
	struct walk w;
	int fd;

	w.root = root;
	w.flags = O_PATH | (directory ? O_DIRECTORY : 0);
	w.resolve = extra_resolve;
	w.make = true;
	w.make_directory = directory;
	w.mode = mode;
	fd = make_last(&w, path);
	return fd == -EAGAIN ? walk(&w, path) : fd;
}

static int make(int root, const char *path, bool directory, mode_t mode)
{
	int fd = securepath_open(root, path, O_PATH | (directory ? O_DIRECTORY : 0), 0);

	return fd == -ENOENT ? securepath_create(root, path, directory, mode, 0) : fd;
}

int securepath_make_directories(int root, const char *path, mode_t mode)
{
	return make(root, path, true, mode);
}

int securepath_make_file(int root, const char *path, mode_t mode)
{
	return make(root, path, false, mode);
}

int securepath_parent(int root, const char *path, const char **name)
{
	char parent[WHERRY_MAX_PATH];
	int result = split(path, parent, name);

	return result < 0 ? result : securepath_make_directories(root, parent, MODE_PARENT);
}

/* ---- procfs -------------------------------------------------------------------------------------------------------- */

static int is_procfs_root(int fd)
{
	struct statfs fs;
	struct stat st;

	if (fstatfs(fd, &fs) < 0 || fstat(fd, &st) < 0)
		return -errno;
	return fs.f_type == PROC_SUPER_MAGIC && st.st_ino == PROCFS_ROOT_INODE ? 0 : -WHERRY_NOT_PROCFS;
}

int open_procfs_mounted(struct wherry_machine *m)
{
	cleanup_fd int fd = open("/proc", O_PATH | O_NOFOLLOW | O_DIRECTORY | O_CLOEXEC);
	int result;

	if (fd < 0)
		return wherry_fail_errno(m, WHERRY_CALL_OPEN);
	result = is_procfs_root(fd);
	if (result < 0)
		return wherry_fail(m, WHERRY_CALL_FSTATFS, -result);
	return wherry_steal(&fd);
}

/* A new mount of procfs that nobody else can reach, so that nothing can be mounted over any file of it. The kernel refuses one in a user
 * namespace that sees only parts of its host's /proc. Then what stands on /proc: cloned, without what is mounted over it, or where that is
 * refused too (mounts over it that are locked) as it is. Files in it are to be opened with RESOLVE_NO_XDEV. */
int open_procfs(struct wherry_machine *m)
{
	cleanup_fd int fs = sys_fsopen("proc", FSOPEN_CLOEXEC);
	cleanup_fd int mounted = -1;
	int fd = -1;

	if (fs >= 0 && sys_fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
		fd = sys_fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
	if (fd >= 0)
		return fd;
	mounted = open_procfs_mounted(m);
	if (mounted < 0)
		return mounted;
	fd = sys_open_tree(mounted, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
	return fd >= 0 ? fd : wherry_steal(&mounted);
}
