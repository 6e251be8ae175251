// SPDX-License-Identifier: Apache-2.0
//
// What the probe finds around itself: names, mounts, namespaces, cgroups, keys, devices, networks.
#include "probe.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

static void names_section(const char *name)
{
	struct utsname host;

	uname(&host);
	json_open(name, '{');
	json_string("hostname", host.nodename);
	json_string("domainname", host.domainname);
	json_close();
}

static void mounts_section(const char *name)
{
	json_lines(name, "/proc/self/mountinfo");
}

static void cgroup_section(const char *name)
{
	json_lines(name, "/proc/self/cgroup");
}

static void root_section(const char *name)
{
	struct statvfs fs;

	json_open(name, '{');
	json_bool("readonly", statvfs("/", &fs) == 0 && (fs.f_flag & ST_RDONLY));
	json_close();
}

static void namespaces_section(const char *name)
{
	static const char *const types[] = { "cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts" };
	char path[64];
	struct stat file;

	json_open(name, '{');
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		snprintf(path, sizeof(path), "/proc/self/ns/%s", types[i]);
		if (stat(path, &file) == 0)
			json_unsigned(types[i], file.st_ino);
	}
	json_close();
}

static void maps_section(const char *name)
{
	json_open(name, '{');
	json_lines("uid", "/proc/self/uid_map");
	json_lines("gid", "/proc/self/gid_map");
	json_file("setgroups", "/proc/self/setgroups");
	json_close();
}

static void clocks_section(const char *name)
{
	struct timespec monotonic, boottime;

	clock_gettime(CLOCK_MONOTONIC, &monotonic);
	clock_gettime(CLOCK_BOOTTIME, &boottime);
	json_open(name, '{');
	json_signed("monotonic", monotonic.tv_sec);
	json_signed("boottime", boottime.tv_sec);
	json_lines("offsets", "/proc/self/timens_offsets");
	json_close();
}

static void keyring_section(const char *name)
{
	char description[512];
	long id = syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0, 0, 0);
	long length = syscall(SYS_keyctl, KEYCTL_DESCRIBE, KEY_SPEC_SESSION_KEYRING, description, sizeof(description), 0);

	json_open(name, '{');
	json_signed("id", id);
	if (length > 0 && length <= (long)sizeof(description))
		json_bytes("description", description, (size_t)length - 1);
	else
		json_null("description");
	json_close();
}

// ---- /dev ----------------------------------------------------------------------------------------------------------------

static char type_letter(mode_t mode)
{
	static const struct { mode_t type; char letter; } letters[] = {
		{ S_IFCHR, 'c' }, { S_IFBLK, 'b' }, { S_IFDIR, 'd' }, { S_IFLNK, 'l' }, { S_IFIFO, 'p' }, { S_IFSOCK, 's' }, { S_IFREG, '-' },
	};

	for (size_t i = 0; i < sizeof(letters) / sizeof(letters[0]); i++)
		if ((mode & S_IFMT) == letters[i].type)
			return letters[i].letter;
	return '?';
}

static void one_node(int directory, const char *name)
{
	char target[4096], type[2] = { 0 };
	struct stat file;
	ssize_t length;

	if (fstatat(directory, name, &file, AT_SYMLINK_NOFOLLOW) < 0)
		return;
	type[0] = type_letter(file.st_mode);
	json_open(name, '{');
	json_string("type", type);
	json_unsigned("mode", file.st_mode & 07777);
	json_unsigned("uid", file.st_uid);
	json_unsigned("gid", file.st_gid);
	if (type[0] == 'c' || type[0] == 'b') {
		json_unsigned("major", major(file.st_rdev));
		json_unsigned("minor", minor(file.st_rdev));
	}
	if (type[0] == 'l' && (length = readlinkat(directory, name, target, sizeof(target))) >= 0)
		json_bytes("target", target, (size_t)length);
	json_close();
}

struct entry { // what getdents64 gives
	uint64_t inode, next;
	uint16_t size;
	uint8_t type;
	char name[];
};

static void dev_section(const char *name)
{
	static char buffer[32768] __attribute__((aligned(8)));
	int directory = open("/dev", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	long count;

	if (directory < 0) {
		json_null(name);
		return;
	}
	json_open(name, '{');
	while ((count = syscall(SYS_getdents64, directory, buffer, sizeof(buffer))) > 0) {
		for (long at = 0; at < count;) {
			struct entry *entry = (struct entry *)(buffer + at);

			if (strcmp(entry->name, ".") != 0 && strcmp(entry->name, "..") != 0)
				one_node(directory, entry->name);
			at += entry->size;
		}
	}
	json_close();
	close(directory);
}

// ---- network ---------------------------------------------------------------------------------------------------------------

static void one_interface(int fd, const char *name)
{
	struct ifreq request;

	memset(&request, 0, sizeof(request));
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	json_open(name, '{');
	if (ioctl(fd, SIOCGIFFLAGS, &request) == 0)
		json_bool("up", request.ifr_flags & IFF_UP);
	if (ioctl(fd, SIOCGIFINDEX, &request) == 0)
		json_signed("index", request.ifr_ifindex);
	json_close();
}

// The kernel numbers interfaces from 1; a moved one may keep a high number.
static void interfaces_section(const char *name)
{
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request;

	json_open(name, '{');
	for (int index = 1; index < 8192; index++) {
		memset(&request, 0, sizeof(request));
		request.ifr_ifindex = index;
		if (ioctl(fd, SIOCGIFNAME, &request) == 0)
			one_interface(fd, request.ifr_name);
	}
	json_close();
	close(fd);
}

const struct section system_sections[] = {
	{ "names", names_section },
	{ "mounts", mounts_section },
	{ "root", root_section },
	{ "namespaces", namespaces_section },
	{ "maps", maps_section },
	{ "cgroup", cgroup_section },
	{ "clocks", clocks_section },
	{ "keyring", keyring_section },
	{ "dev", dev_section },
	{ "interfaces", interfaces_section },
	{ NULL, NULL },
};
