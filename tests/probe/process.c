// SPDX-License-Identifier: Apache-2.0
//
// What the probe finds about itself as a process.
#include "probe.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

enum { SIGNALS = 64, CAPABILITIES = 64, MAX_CPUS = 8192, MAX_NODES = 1024, FIRST_FDS = 4096 };

static void list_of(const char *name, char **texts)
{
	json_open(name, '[');
	while (*texts)
		json_string(NULL, *texts++);
	json_close();
}

static void argv_section(const char *name)
{
	list_of(name, given_arguments);
}

static void environ_section(const char *name)
{
	list_of(name, given_environment);
}

static void process_section(const char *name)
{
	json_open(name, '{');
	json_signed("pid", getpid());
	json_signed("ppid", getppid());
	json_signed("sid", getsid(0));
	json_signed("pgid", getpgrp());
	json_close();
}

static void user_section(const char *name)
{
	static gid_t groups[65536];
	uid_t uid[3];
	gid_t gid[3];
	int count = getgroups(65536, groups);

	getresuid(&uid[0], &uid[1], &uid[2]);
	getresgid(&gid[0], &gid[1], &gid[2]);
	json_open(name, '{');
	json_open("uid", '['); // real, effective, saved
	for (int i = 0; i < 3; i++)
		json_unsigned(NULL, uid[i]);
	json_close();
	json_open("gid", '[');
	for (int i = 0; i < 3; i++)
		json_unsigned(NULL, gid[i]);
	json_close();
	json_open("groups", '[');
	for (int i = 0; i < count; i++)
		json_unsigned(NULL, groups[i]);
	json_close();
	json_close();
}

static void umask_section(const char *name)
{
	mode_t mask = umask(0);

	umask(mask);
	json_unsigned(name, mask);
}

static void cwd_section(const char *name)
{
	char path[4096];

	// raw: libc turns "(unreachable)/..." into an error
	if (syscall(SYS_getcwd, path, sizeof(path)) < 0)
		json_null(name);
	else
		json_string(name, path);
}

// ---- privileges -------------------------------------------------------------------------------------------------------------

static uint64_t by_prctl(int option, unsigned long command, bool command_first)
{
	uint64_t set = 0;

	for (unsigned long n = 0; n < CAPABILITIES; n++)
		if (prctl(option, command_first ? command : n, command_first ? n : 0, 0, 0) == 1)
			set |= UINT64_C(1) << n;
	return set;
}

static void capabilities_section(const char *name)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { { 0 } };

	syscall(SYS_capget, &header, data);
	json_open(name, '{');
	json_hex("effective", data[0].effective | (uint64_t)data[1].effective << 32);
	json_hex("permitted", data[0].permitted | (uint64_t)data[1].permitted << 32);
	json_hex("inheritable", data[0].inheritable | (uint64_t)data[1].inheritable << 32);
	json_hex("bounding", by_prctl(PR_CAPBSET_READ, 0, false));
	json_hex("ambient", by_prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, true));
	json_close();
}

static void privileges_section(const char *name)
{
	json_open(name, '{');
	json_signed("no_new_privs", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	json_signed("seccomp", prctl(PR_GET_SECCOMP, 0, 0, 0, 0));
	json_signed("securebits", prctl(PR_GET_SECUREBITS, 0, 0, 0, 0));
	json_signed("keepcaps", prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0));
	json_signed("dumpable", prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
	json_file("label", "/proc/self/attr/current");
	json_close();
}

// ---- signals, limits, descriptors -------------------------------------------------------------------------------------------------

static void signals_section(const char *name)
{
	uint64_t ignored = 0, caught = 0, blocked = 0, pending = 0;

	for (int n = 1; n <= SIGNALS; n++) {
		struct { void *handler; unsigned long flags, restorer, mask[2]; } action = { 0 };

		if (syscall(SYS_rt_sigaction, n, NULL, &action, 8) < 0)
			continue;
		if (action.handler == (void *)1)
			ignored |= UINT64_C(1) << (n - 1);
		else if (action.handler)
			caught |= UINT64_C(1) << (n - 1);
	}
	syscall(SYS_rt_sigprocmask, 0, NULL, &blocked, 8);
	syscall(SYS_rt_sigpending, &pending, 8);
	json_open(name, '{');
	json_hex("ignored", ignored);
	json_hex("blocked", blocked);
	json_hex("caught", caught);
	json_hex("pending", pending);
	json_close();
}

static void rlimits_section(const char *name)
{
	static const char *const names[] = { "CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE",
		"MEMLOCK", "AS", "LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME" };
	char full[32];

	json_open(name, '{');
	for (unsigned int i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		uint64_t limit[2];

		if (syscall(SYS_prlimit64, 0, i, NULL, limit) < 0)
			continue;
		snprintf(full, sizeof(full), "RLIMIT_%s", names[i]);
		json_open(full, '[');
		json_unsigned(NULL, limit[0]);
		json_unsigned(NULL, limit[1]);
		json_close();
	}
	json_close();
}

static void one_fd(int fd)
{
	char link[64], target[4096];
	struct stat file;
	ssize_t length;
	int flags = fcntl(fd, F_GETFD);

	if (flags < 0)
		return;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, target, sizeof(target));
	json_open(NULL, '{');
	json_signed("fd", fd);
	json_bool("cloexec", flags & FD_CLOEXEC);
	if (length < 0)
		json_null("target");
	else
		json_bytes("target", target, (size_t)length);
	if (fstat(fd, &file) == 0) {
		json_unsigned("mode", file.st_mode);
		json_unsigned("uid", file.st_uid);
		json_unsigned("inode", file.st_ino);
		json_unsigned("device", file.st_dev);
	}
	json_close();
}

// Without /proc, and without opening a descriptor of our own.
static void fds_section(const char *name)
{
	json_open(name, '[');
	for (int fd = 0; fd < FIRST_FDS; fd++)
		one_fd(fd);
	json_close();
}

// ---- scheduling -----------------------------------------------------------------------------------------------------------------------

static void scheduler_section(const char *name)
{
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} attributes = { 0 };

	if (syscall(SYS_sched_getattr, 0, &attributes, sizeof(attributes), 0) < 0) {
		json_null(name);
		return;
	}
	json_open(name, '{');
	json_unsigned("policy", attributes.policy);
	json_unsigned("flags", attributes.flags);
	json_signed("nice", attributes.nice);
	json_unsigned("priority", attributes.priority);
	json_unsigned("runtime", attributes.runtime);
	json_unsigned("deadline", attributes.deadline);
	json_unsigned("period", attributes.period);
	json_close();
}

static void io_priority_section(const char *name)
{
	json_signed(name, syscall(SYS_ioprio_get, 1, 0)); // IOPRIO_WHO_PROCESS
}

static void bit_list(const char *name, const unsigned char *bits, unsigned int count)
{
	json_open(name, '[');
	for (unsigned int n = 0; n < count; n++)
		if (bits[n / 8] & 1 << n % 8)
			json_unsigned(NULL, n);
	json_close();
}

static void cpus_section(const char *name)
{
	static unsigned long bits[MAX_CPUS / (8 * sizeof(long))];

	memset(bits, 0, sizeof(bits));
	syscall(SYS_sched_getaffinity, 0, sizeof(bits), bits);
	bit_list(name, (unsigned char *)bits, MAX_CPUS);
}

static void memory_policy_section(const char *name)
{
	static unsigned long bits[MAX_NODES / (8 * sizeof(long))];
	int mode;

	memset(bits, 0, sizeof(bits));
	if (syscall(SYS_get_mempolicy, &mode, bits, (unsigned long)MAX_NODES, NULL, 0) < 0) {
		json_null(name);
		return;
	}
	json_open(name, '{');
	json_signed("mode", mode);
	bit_list("nodes", (unsigned char *)bits, MAX_NODES);
	json_close();
}

static void personality_section(const char *name)
{
	json_signed(name, syscall(SYS_personality, 0xffffffffUL));
}

static void oom_section(const char *name)
{
	json_file(name, "/proc/self/oom_score_adj");
}

// ---- terminal ---------------------------------------------------------------------------------------------------------------------------

static void terminal_section(const char *name)
{
	struct winsize size = { 0 };
	struct termios settings = { 0 };
	char target[4096];
	ssize_t length = readlink("/proc/self/fd/0", target, sizeof(target));
	int controlling = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);

	json_open(name, '{');
	json_open("stdio", '[');
	for (int fd = 0; fd < 3; fd++)
		json_bool(NULL, isatty(fd));
	json_close();
	json_bool("controlling", controlling >= 0);
	if (isatty(0) && ioctl(0, TIOCGWINSZ, &size) == 0 && tcgetattr(0, &settings) == 0) {
		json_unsigned("rows", size.ws_row);
		json_unsigned("columns", size.ws_col);
		json_bool("onlcr", settings.c_oflag & ONLCR);
		json_signed("foreground", tcgetpgrp(0));
		json_bytes("name", target, length < 0 ? 0 : (size_t)length);
	}
	json_close();
	if (controlling >= 0)
		close(controlling);
}

const struct section process_sections[] = {
	{ "argv", argv_section },
	{ "environ", environ_section },
	{ "process", process_section },
	{ "user", user_section },
	{ "umask", umask_section },
	{ "cwd", cwd_section },
	{ "capabilities", capabilities_section },
	{ "privileges", privileges_section },
	{ "signals", signals_section },
	{ "rlimits", rlimits_section },
	{ "fds", fds_section },
	{ "scheduler", scheduler_section },
	{ "io_priority", io_priority_section },
	{ "cpus", cpus_section },
	{ "memory_policy", memory_policy_section },
	{ "personality", personality_section },
	{ "oom_score_adj", oom_section },
	{ "terminal", terminal_section },
	{ NULL, NULL },
};
