/* SPDX-License-Identifier: Apache-2.0
 *
 * The fingerprint of the host facts that the plan compiler reads. It holds for one boot and one place (user, capabilities, namespaces,
 * cgroups); where anything of that differs, a cached plan has another name. Each part is hashed with its name and length, so that no two
 * sets of parts can read alike.
 */
#include "parts.h"

#include <linux/capability.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

enum { CHUNK = 8192 };

static void add_part(struct sha256 *s, const char *name, const void *data, uint64_t size)
{
	sha256_add(s, name, strlen(name) + 1);
	sha256_add(s, &size, sizeof(size));
	sha256_add(s, data, size);
}

/* A file that is not there is a fact too: of length 0. */
static int add_file(struct sha256 *s, const char *path)
{
	char text[CHUNK];
	ssize_t got = host_read_file(AT_FDCWD, path, text, sizeof(text));

	if (got < 0 && got != -ENOENT && got != -EACCES && got != -EPERM)
		return (int)got;
	add_part(s, path, text, got > 0 ? (uint64_t)got : 0);
	return 0;
}

enum { USER, NAMESPACES = HOST_NAMESPACES };
static const char *const namespaces[NAMESPACES] = { [USER] = "user", "mnt", "pid", "net", "cgroup", "uts", "ipc", "time" };

/* Of each "net:[4026531840]", filled up with zeroes; all of them: there is none. Half as dear as to ask for their inodes. */
struct namespaces {
	char link[NAMESPACES][32];
};

static void look(const char *process, struct namespaces *found)
{
	cleanup_fd int directory = -1;
	char path[64];

	memset(found, 0, sizeof(*found));
	host_append(host_append(host_append(path, path + sizeof(path), "/proc/", 6), path + sizeof(path), process, strlen(process)), path + sizeof(path),
		    "/ns", 4);
	directory = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	for (size_t i = 0; i < NAMESPACES; i++)
		(void)!readlinkat(directory, namespaces[i], found->link[i], sizeof(found->link[i]));
}

void host_add_namespaces(struct sha256 *s, const char *process)
{
	struct namespaces found;

	look(process, &found);
	add_part(s, process, &found, sizeof(found));
}

int host_compare_namespaces(const char *process, uint8_t relations[HOST_NAMESPACES])
{
	struct namespaces own, other;

	look("self", &own);
	look(process, &other);
	for (size_t i = 0; i < NAMESPACES; i++) {
		if (!own.link[i][0] != !other.link[i][0])
			return -ESRCH;
		relations[i] = memcmp(own.link[i], other.link[i], sizeof(own.link[i])) ? HOST_OTHER_NAMESPACE : HOST_SAME_NAMESPACE;
	}
	return relations[USER] == HOST_OTHER_NAMESPACE ? -EOPNOTSUPP : 0;
}

static void add_capabilities(struct sha256 *s)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct sets[2] = { { 0, 0, 0 }, { 0, 0, 0 } };

	sys_capget(&header, sets);
	add_part(s, "capabilities", sets, sizeof(sets));
}

static void add_identity(struct sha256 *s)
{
	const uint32_t ids[] = { getuid(), geteuid(), getgid(), getegid() };
	struct utsname name;

	add_part(s, "build", wherry_build_id, WHERRY_BUILD_ID_SIZE);
	add_part(s, "ids", ids, sizeof(ids));
	if (uname(&name) == 0)
		add_part(s, "release", name.release, strlen(name.release));
	add_capabilities(s);
}

/* "... - cgroup2 cgroup2 rw": the filesystem's type follows the lone dash. */
static bool is_cgroup_line(const char *line, size_t length)
{
	const char *end = line + length, *dash = line;

	while ((dash = memchr(dash, '-', (size_t)(end - dash))) && (dash == line || dash[-1] != ' ' || end - dash < 2 || dash[1] != ' '))
		dash++;
	return dash && end - dash > 9 && memcmp(dash + 2, "cgroup", 6) == 0 && (dash[8] == ' ' || (dash[8] == '2' && dash[9] == ' '));
}

/* Mount and parent numbers change without meaning: what follows them is hashed. */
static void add_line(struct sha256 *s, const char *line, size_t length)
{
	const char *end = line + length;

	if (!is_cgroup_line(line, length))
		return;
	for (int fields = 0; fields < 2 && line < end; line++)
		fields += *line == ' ';
	add_part(s, "mount", line, (uint64_t)(end - line));
}

/* A line longer than the buffer is hashed in pieces or not at all: no cgroup mount has one. */
static int add_mounts(struct sha256 *s)
{
	cleanup_fd int fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
	char text[CHUNK];
	size_t filled = 0;
	ssize_t got;

	if (fd < 0)
		return -errno;
	while ((got = TEMP_FAILURE_RETRY(read(fd, text + filled, sizeof(text) - filled))) > 0) {
		char *line = text, *newline;

		filled += (size_t)got;
		while ((newline = memchr(line, '\n', filled - (size_t)(line - text)))) {
			add_line(s, line, (size_t)(newline - line));
			line = newline + 1;
		}
		filled -= (size_t)(line - text);
		memmove(text, line, filled);
		if (filled == sizeof(text))
			filled = 0;
	}
	return got < 0 ? -errno : 0;
}

int host_facts_key(char out[65])
{
	static const char *const files[] = { "/proc/sys/kernel/random/boot_id", "/proc/self/cgroup", "/sys/kernel/security/lsm" };
	uint8_t digest[32];
	struct sha256 s;
	int result;

	sha256_begin(&s);
	add_identity(&s);
	host_add_namespaces(&s, "self");
	for (size_t i = 0; i < WHERRY_LENGTH(files); i++) {
		result = add_file(&s, files[i]);
		if (result < 0)
			return result;
	}
	result = add_mounts(&s);
	if (result < 0)
		return result;
	sha256_end(&s, digest);
	host_hex(digest, sizeof(digest), out);
	return 0;
}
