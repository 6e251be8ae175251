/* SPDX-License-Identifier: Apache-2.0
 *
 * Small things with files, sockets and buffers that the host side needs in many places.
 */
#include "parts.h"

#include <stdio.h> /* renameat */
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>

enum { TREE_DEPTH = 8 };

int host_scratch(struct host_scratch *scratch, size_t size)
{
	void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (base == MAP_FAILED)
		return -errno;
	scratch->base = base;
	scratch->size = size;
	return 0;
}

void host_scratch_end(struct host_scratch *scratch)
{
	if (scratch->base)
		munmap(scratch->base, scratch->size);
	scratch->base = NULL;
}

ssize_t host_read_file(int directory, const char *path, char *out, size_t size)
{
	cleanup_fd int fd = TEMP_FAILURE_RETRY(openat(directory, path, O_RDONLY | O_CLOEXEC | O_NOCTTY));
	size_t length = 0;

	if (fd < 0)
		return -errno;
	for (;;) {
		ssize_t got = TEMP_FAILURE_RETRY(read(fd, out + length, size - length));

		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		length += (size_t)got;
		if (length == size)
			return -EOVERFLOW;
	}
	out[length] = 0;
	return (ssize_t)length;
}

enum { MAX_MAPPED = 16 << 20 };

int host_map(int directory, const char *path, struct host_bytes *out)
{
	cleanup_fd int fd = openat(directory, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* a fifo must not hold us */
	struct stat status;
	void *bytes;

	if (fd < 0 || fstat(fd, &status) || !S_ISREG(status.st_mode) || status.st_size <= 0 || status.st_size > MAX_MAPPED)
		return -EINVAL;
	bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
	if (bytes == MAP_FAILED)
		return -errno;
	*out = (struct host_bytes){ bytes, (size_t)status.st_size };
	return 0;
}

void host_unmap(struct host_bytes *bytes)
{
	if (bytes->bytes)
		munmap((void *)bytes->bytes, bytes->size);
}

int host_write_new(int directory, const char *name, const void *data, size_t size, mode_t mode)
{
	cleanup_fd int fd = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);

	if (fd < 0)
		return -errno;
	return wherry_write_all(fd, data, size) < 0 ? -errno : 0;
}

/* A dot before the name, so that whoever looks for the name finds all of it or nothing. */
static int temporary_name(const char *name, char out[NAME_MAX + 1])
{
	size_t length = strlen(name);

	if (length + 2 > NAME_MAX + 1)
		return -ENAMETOOLONG;
	out[0] = '.';
	memcpy(out + 1, name, length + 1);
	return 0;
}

int host_write_replace(int directory, const char *name, const void *data, size_t size, mode_t mode)
{
	char temporary[NAME_MAX + 1];
	cleanup_fd int fd = -1;
	int result = temporary_name(name, temporary);

	if (result < 0)
		return result;
	for (int tries = 0; tries < 2 && fd < 0; tries++) {
		fd = openat(directory, temporary, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
		if (fd < 0 && (errno != EEXIST || unlinkat(directory, temporary, 0) < 0))
			return -errno;
	}
	if (fd < 0)
		return -EEXIST;
	if (wherry_write_all(fd, data, size) < 0 || renameat(directory, temporary, directory, name) < 0) {
		result = -errno;
		unlinkat(directory, temporary, 0);
		return result;
	}
	return wherry_steal(&fd);
}

/* sun_path holds 107 bytes; a longer path is named through a descriptor of its directory. */
static int short_path(const char *path, char out[108], int *directory)
{
	const char *slash = strrchr(path, '/');
	char parent[WHERRY_MAX_PATH], fd_path[32];

	if (strlen(path) < 108) {
		memcpy(out, path, strlen(path) + 1);
		return 0;
	}
	if (!slash || (size_t)(slash - path) >= sizeof(parent))
		return -ENAMETOOLONG;
	memcpy(parent, path, (size_t)(slash - path));
	parent[slash - path] = 0;
	*directory = open(parent[0] ? parent : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (*directory < 0)
		return -errno;
	return host_join(out, 108, wherry_fd_path(*directory, fd_path), slash + 1) ? 0 : -ENAMETOOLONG;
}

int host_connect(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	cleanup_fd int directory = -1;
	cleanup_fd int fd = -1;
	int result = short_path(path, address.sun_path, &directory);

	if (result < 0)
		return result;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || TEMP_FAILURE_RETRY(connect(fd, (struct sockaddr *)&address, sizeof(address))) < 0)
		return -errno;
	return wherry_steal(&fd);
}

int host_send_fd(int socket, const void *data, size_t size, int fd)
{
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec part = { .iov_base = (void *)data, .iov_len = size };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	ssize_t sent;

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(int));
	sent = TEMP_FAILURE_RETRY(sendmsg(socket, &message, MSG_NOSIGNAL));
	if (sent < 0)
		return -errno;
	/* the descriptor has gone with the first byte; a stream socket may have taken only a part of the rest */
	while ((size_t)sent < size) {
		ssize_t more = TEMP_FAILURE_RETRY(send(socket, (const char *)data + sent, size - (size_t)sent, MSG_NOSIGNAL));

		if (more < 0)
			return -errno;
		sent += more;
	}
	return 0;
}

int host_parse_number(const char *text, uint64_t *value)
{
	uint64_t number = 0;
	const char *at = text;

	for (; *at >= '0' && *at <= '9'; at++)
		if (__builtin_mul_overflow(number, 10, &number) || __builtin_add_overflow(number, (uint64_t)(*at - '0'), &number))
			return -EOVERFLOW;
	if (at == text || (*at && *at != '\n' && *at != ' '))
		return -EINVAL;
	*value = number;
	return 0;
}

static int remove_entries(int directory, int depth);

static bool is_mounted(int directory)
{
	enum { ATTRIBUTES = 1, MOUNT_ROOT = 0x2000 }; /* of struct statx, which musl does not have: stx_attributes, STATX_ATTR_MOUNT_ROOT */
	uint64_t st[32] = { 0 };

	return syscall(SYS_statx, directory, "", AT_EMPTY_PATH, 0, st) == 0 && (st[ATTRIBUTES] & MOUNT_ROOT);
}

static int remove_entry(int parent, const char *name, int depth)
{
	cleanup_fd int directory = -1;
	int result;

	if (unlinkat(parent, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -errno;
	directory = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (directory < 0)
		return errno == ENOENT ? 0 : -errno;
	if (is_mounted(directory)) /* what is mounted here is not the container's directory's: an image, perhaps */
		return -EBUSY;
	result = depth > 0 ? remove_entries(directory, depth - 1) : -ELOOP;
	if (result < 0)
		return result;
	return unlinkat(parent, name, AT_REMOVEDIR) < 0 && errno != ENOENT ? -errno : 0;
}

struct directory_entry { /* struct linux_dirent64 */
	uint64_t inode;
	int64_t offset;
	uint16_t size;
	uint8_t type;
	char name[];
};

static bool is_dot(const char *name)
{
	return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

/* Removing while reading may skip entries on some filesystems: read anew until a pass finds nothing. */
static int remove_entries(int directory, int depth)
{
	_Alignas(8) char buffer[2048];
	bool found;

	do {
		ssize_t got;

		found = false;
		if (lseek(directory, 0, SEEK_SET) < 0)
			return -errno;
		while ((got = sys_getdents64(directory, buffer, sizeof(buffer))) > 0) {
			for (ssize_t at = 0; at < got;) {
				const struct directory_entry *entry = (const void *)(buffer + at);
				int result = 0;

				if (!is_dot(entry->name)) {
					found = true;
					result = remove_entry(directory, entry->name, depth);
				}
				if (result < 0)
					return result;
				at += entry->size;
			}
		}
		if (got < 0)
			return -errno;
	} while (found);
	return 0;
}

int host_remove_tree(int parent, const char *name)
{
	return remove_entry(parent, name, TREE_DEPTH);
}

int64_t host_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void host_sleep_ms(uint32_t ms)
{
	struct timespec left = { .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 };

	while (nanosleep(&left, &left) < 0 && errno == EINTR)
		;
}

char *host_append(char *at, const char *end, const char *text, size_t length)
{
	if (!at || (size_t)(end - at) < length)
		return NULL;
	memcpy(at, text, length);
	return at + length;
}

bool host_join(char *out, size_t size, const char *head, const char *tail)
{
	const char *end = out + size;
	char *at = host_append(out, end, head, strlen(head));

	at = host_append(at, end, "/", 1);
	at = host_append(at, end, tail, strlen(tail));
	return host_append(at, end, "", 1) != NULL;
}
