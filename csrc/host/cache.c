/* SPDX-License-Identifier: Apache-2.0
 *
 * The cache of plans: a configuration that was compiled before, or one like it (pattern.c), is launched again on the same host facts without
 * a compiler. A cached plan goes through the same decoder as a fresh one. Whatever is wrong with the cache costs time, never a container.
 */
#include "parts.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { MAX_FILES = 512 };

static const char directory_name[] = "@plans";

static bool is_private(int fd, mode_t type)
{
	struct stat status;

	return fstat(fd, &status) == 0 && status.st_uid == geteuid() && (status.st_mode & S_IFMT) == type && !(status.st_mode & 077);
}

static int open_cache(const char *root, bool make)
{
	cleanup_fd int parent = host_open_root(root, make);
	cleanup_fd int fd = -1;

	if (parent < 0)
		return parent;
	if (make && mkdirat(parent, directory_name, 0700) < 0 && errno != EEXIST)
		return -errno;
	fd = openat(parent, directory_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return is_private(fd, S_IFDIR) ? wherry_steal(&fd) : -WHERRY_UNSAFE_DIRECTORY;
}

/* ---- load -------------------------------------------------------------------------------------------------------------------- */

static int check_plan(const void *plan, size_t size)
{
	cleanup_scratch struct host_scratch scratch = { 0 };
	uint64_t where;
	int result = host_scratch(&scratch, sizeof(struct wherry_code));

	return result < 0 ? result : wherry_decode(plan, size, (void *)scratch.base, &where);
}

int host_cache_load(const char *root, const struct host_cache_key *key, const void **plan, size_t *size)
{
	cleanup_fd int directory = open_cache(root, false);
	cleanup_fd int fd = -1;
	struct stat status;
	void *base;
	int result;

	if (directory < 0)
		return directory;
	fd = openat(directory, key->hex, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (!is_private(fd, S_IFREG) || fstat(fd, &status) < 0 || status.st_size <= 0 || status.st_size > WHERRY_MAX_PLAN)
		return -WHERRY_BAD_PLAN;
	base = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (base == MAP_FAILED)
		return -errno;
	result = check_plan(base, (size_t)status.st_size);
	if (result < 0) {
		munmap(base, (size_t)status.st_size);
		return result;
	}
	*plan = base;
	*size = (size_t)status.st_size;
	return 0;
}

/* ---- store ------------------------------------------------------------------------------------------------------------------- */

struct directory_entry { /* struct linux_dirent64 */
	uint64_t inode;
	int64_t offset;
	uint16_t size;
	uint8_t type;
	char name[];
};

struct census {
	int files;
	struct timespec oldest;
	char name[NAME_MAX + 1]; /* of the oldest */
};

static bool earlier(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec != b->tv_sec ? a->tv_sec < b->tv_sec : a->tv_nsec < b->tv_nsec;
}

static void count_file(int directory, const char *name, struct census *census)
{
	struct stat status;

	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return;
	census->files++;
	if (census->name[0] && !earlier(&status.st_mtim, &census->oldest))
		return;
	census->oldest = status.st_mtim;
	memcpy(census->name, name, strlen(name) + 1);
}

static int take_census(int directory, struct census *census)
{
	_Alignas(8) char buffer[4096];
	ssize_t got;

	*census = (struct census){ .files = 0 };
	if (lseek(directory, 0, SEEK_SET) < 0)
		return -errno;
	while ((got = sys_getdents64(directory, buffer, sizeof(buffer))) > 0)
		for (ssize_t at = 0; at < got;) {
			const struct directory_entry *entry = (const void *)(buffer + at);

			count_file(directory, entry->name, census);
			at += entry->size;
		}
	return got < 0 ? -errno : 0;
}

static int make_room(int directory)
{
	struct census census;
	int result = take_census(directory, &census);

	while (result == 0 && census.files >= MAX_FILES) {
		if (unlinkat(directory, census.name, 0) < 0 && errno != ENOENT)
			return -errno;
		result = take_census(directory, &census);
	}
	return result;
}

int host_cache_store(const char *root, const struct host_cache_key *key, const void *plan, size_t size)
{
	cleanup_fd int directory = open_cache(root, true);
	cleanup_fd int fd = -1;
	int result;

	if (directory < 0)
		return directory;
	result = check_plan(plan, size);
	if (result == 0)
		result = make_room(directory);
	if (result < 0)
		return result;
	fd = host_write_replace(directory, key->hex, plan, size, 0600);
	return fd < 0 ? fd : 0;
}
