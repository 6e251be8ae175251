/* SPDX-License-Identifier: Apache-2.0
 *
 * A bed for tests of mounts: a mount namespace of its own, in it two tmpfs under /tmp that nobody else sees: BED/root, a rootfs, and BED/host, a
 * decoy that stands for the host and must never change. Symlinks in the rootfs that are not resolved inside of it lead to the decoy.
 */
#ifndef WHERRY_BED_H
#define WHERRY_BED_H

#include "build.h"

#include <dirent.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#define BED "/tmp/wherry-bed"
#define ROOT BED "/root"
#define DECOY BED "/host"

#define TRY(expression) \
	do { \
		if ((expression) < 0) { \
			fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #expression, strerror(errno)); \
			_exit(1); \
		} \
	} while (0)

/* A test whose body runs in a child; it begins with bed_make(). */
#define IN_BED(name) \
	static void name##_in_bed(void); \
	static void name(void) \
	{ \
		in_child(name##_in_bed); \
	} \
	static void name##_in_bed(void)

static struct wherry_machine *m; /* its rootfs is ROOT */

__attribute__((unused)) static void bed_directory(const char *path)
{
	if (mkdir(path, 0755) < 0 && errno != EEXIST)
		TRY(-1);
	TRY(chmod(path, 0755));
}

/* The content of the decoy as one number: names, types, modes, sizes, at every level. */
__attribute__((unused)) static uint64_t bed_sum(int directory, const char *path)
{
	int fd = openat(directory, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *entries = fdopendir(fd);
	uint64_t sum = 14695981039346656037U;
	struct dirent *e;

	while (entries && (e = readdir(entries))) {
		uint64_t one = 1;
		struct stat st;

		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		for (const char *c = e->d_name; *c; c++)
			one = one * 1099511628211U + (uint8_t)*c;
		TRY(fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW));
		one = one * 31 + st.st_mode;
		one = one * 31 + (S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0) + st.st_rdev + st.st_uid;
		if (S_ISDIR(st.st_mode))
			one ^= bed_sum(fd, e->d_name) * 3;
		sum += one * one; /* whatever the order */
	}
	closedir(entries);
	return sum;
}

__attribute__((constructor)) static void bed_needs_root(void)
{
	if (geteuid())
		check_all_lack = "needs root";
}

/* To be called in a child. */
__attribute__((unused)) static void bed_make(void)
{
	umask(077); /* what is made must not depend on it */
	TRY(unshare(CLONE_NEWNS));
	TRY(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	TRY(mount("bed", "/tmp", "tmpfs", 0, "mode=755")); /* nothing stays behind */
	bed_directory(BED);
	bed_directory(ROOT);
	bed_directory(DECOY);
	TRY(mount("root", ROOT, "tmpfs", 0, "mode=755"));
	TRY(mount("host", DECOY, "tmpfs", 0, "mode=755"));
	/* masks are mounts of the host's null, and tests try to change its mode and owner: it is not the host's own that they would change */
	TRY(mknod(BED "/null", S_IFCHR, makedev(1, 3)));
	TRY(chmod(BED "/null", 0666));
	TRY(mount(BED "/null", "/dev/null", NULL, MS_BIND, NULL));
	build_write(DECOY "/file", "host", 0644);
	bed_directory(DECOY "/directory");
	build_write(DECOY "/directory/inner", "host", 0644);
	m = build_begin();
	close(m->rootfs);
	m->rootfs = open(ROOT, O_PATH | O_DIRECTORY | O_CLOEXEC);
	TRY(m->rootfs);
}

__attribute__((unused)) static dev_t bed_device(const char *path)
{
	struct stat st;

	TRY(stat(path, &st));
	return st.st_dev;
}

/* Permissions and type; 0 = it is not there. */
__attribute__((unused)) static mode_t bed_mode(const char *path)
{
	struct stat st;

	return lstat(path, &st) < 0 ? 0 : st.st_mode;
}

__attribute__((unused)) static const char *bed_content(const char *path)
{
	static char text[4096];
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	text[0] = 0;
	if (fd >= 0)
		build_read_all(fd, text, sizeof(text));
	close(fd);
	return fd < 0 ? "(missing)" : text;
}

__attribute__((unused)) static long bed_type(const char *path)
{
	struct statfs fs;

	return statfs(path, &fs) < 0 ? -1 : (long)fs.f_type;
}

/* The ST_* flags that the kernel says of it. */
__attribute__((unused)) static unsigned long bed_flags(const char *path)
{
	struct statfs fs;

	return statfs(path, &fs) < 0 ? ~0UL : (unsigned long)fs.f_flags & ~0x20UL;
}

/* The line of mountinfo whose mount point is `path`, the last one; "" = nothing is mounted there. */
__attribute__((unused)) static const char *bed_mountinfo(const char *path)
{
	static char last[4096];
	char line[4096];
	FILE *info = fopen("/proc/self/mountinfo", "re");

	last[0] = 0;
	while (info && fgets(line, sizeof(line), info)) {
		char point[2048];

		if (sscanf(line, "%*s %*s %*s %*s %2047s", point) == 1 && !strcmp(point, path))
			strcpy(last, line);
	}
	if (info)
		fclose(info);
	return last;
}

/* Writes the maps "0 HOST COUNT" of a child that has a new user namespace. */
__attribute__((unused)) static void bed_map(pid_t pid, unsigned int host, unsigned int count)
{
	char path[64], map[64];
	int length = snprintf(map, sizeof(map), "0 %u %u\n", host, count);

	snprintf(path, sizeof(path), "/proc/%d/uid_map", pid);
	TRY(wherry_write_file(AT_FDCWD, path, map, (size_t)length, NULL));
	snprintf(path, sizeof(path), "/proc/%d/gid_map", pid);
	TRY(wherry_write_file(AT_FDCWD, path, map, (size_t)length, NULL));
}

/* Runs `function` in a child with a user namespace (0 is HOST of here) and `namespaces` more, as its root. */
__attribute__((unused)) static void bed_in_user_namespace(unsigned int host, uint64_t namespaces, void (*function)(void))
{
	int ready[2], go[2], status = -1;
	char byte = 0;
	pid_t pid;

	TRY(pipe2(ready, O_CLOEXEC));
	TRY(pipe2(go, O_CLOEXEC));
	pid = fork();
	if (!pid) {
		check_failures = 0;
		alarm(60);
		TRY(unshare((int)(CLONE_NEWUSER | namespaces)));
		TRY(write(ready[1], &byte, 1));
		close(go[1]);
		TRY(read(go[0], &byte, 1));
		TRY(setresgid(0, 0, 0));
		TRY(setresuid(0, 0, 0));
		function();
		check_exit();
	}
	TRY(read(ready[0], &byte, 1));
	bed_map(pid, host, 65536);
	TRY(write(go[1], &byte, 1));
	TRY(waitpid(pid, &status, 0));
	CHECK_EQUAL(status, 0);
	for (int i = 0; i < 2; i++) {
		close(ready[i]);
		close(go[i]);
	}
}

/* Swaps two names in a directory as fast as it can, until it is killed. */
__attribute__((unused)) static pid_t bed_flip(const char *one, const char *other)
{
	pid_t pid = fork();

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		for (;;)
			syscall(SYS_renameat2, AT_FDCWD, one, AT_FDCWD, other, 2 /* RENAME_EXCHANGE */);
	}
	return pid;
}

__attribute__((unused)) static void bed_end(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

#endif
