// SPDX-License-Identifier: Apache-2.0
//
// What each system call says to nonsense, which tells a filter's answer for it; the values of the sysctls that namespaces confine; mode and
// owner of each place where something is mounted. All are reported only when they are asked for.
#include "probe.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CALLS = 470, DONE = 200 };

// These end, stop or copy the process whatever their arguments are, wait, act on the whole machine, or leave something there.
static bool is_harmful(long number)
{
	static const long harmful[] = { SYS_exit, SYS_exit_group, SYS_rt_sigreturn, SYS_sync, SYS_reboot, SYS_vhangup, SYS_kexec_load, SYS_msgget,
#ifdef SYS_fork
		SYS_fork, SYS_vfork, SYS_pause,
#endif
	};

	for (size_t i = 0; i < sizeof(harmful) / sizeof(harmful[0]); i++)
		if (harmful[i] == number)
			return true;
	return false;
}

// In a child, which the call may kill: the error number, 0, or DONE + the signal.
static int answer(long number)
{
	int status = 0;
	pid_t child = fork();

	if (child < 0)
		return errno;
	if (child == 0) {
		alarm(5);
		_exit(syscall(number, -1L, -1L, -1L, -1L, -1L, -1L) < 0 ? errno : 0);
	}
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	return WIFSIGNALED(status) ? DONE + WTERMSIG(status) : WEXITSTATUS(status);
}

static void calls_section(const char *name)
{
	char number[16];

	json_open(name, '{');
	for (long call = 0; call < CALLS; call++) {
		int error;

		if (is_harmful(call))
			continue;
		snprintf(number, sizeof(number), "%ld", call);
		error = answer(call);
		if (error >= DONE)
			json_signed(number, error - DONE);
		else
			json_error(number, error);
	}
	json_close();
}

static void sysctls_section(const char *name)
{
	static const char *const paths[] = { "net/ipv4/ping_group_range", "net/ipv4/ip_unprivileged_port_start", "net/ipv4/ip_forward",
		"net/core/somaxconn", "kernel/msgmax", "kernel/shmmax", "kernel/sem", "kernel/domainname", "fs/mqueue/msg_max" };
	char path[128];

	json_open(name, '{');
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		snprintf(path, sizeof(path), "/proc/sys/%s", paths[i]);
		json_file(paths[i], path);
	}
	json_close();
}

// Of mountinfo, the fifth field of each line.
static void places_section(const char *name)
{
	static char line[8192];
	FILE *file = fopen("/proc/self/mountinfo", "re");
	struct stat place;
	char path[4096], text[64];

	json_open(name, '{');
	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%*s %*s %*s %*s %4095s", path) != 1 || stat(path, &place) < 0)
			continue;
		snprintf(text, sizeof(text), "%o %u:%u", place.st_mode, place.st_uid, place.st_gid);
		json_string(path, text);
	}
	json_close();
	if (file)
		fclose(file);
}

const struct section long_sections[] = {
	{ "places", places_section },
	{ "sysctls", sysctls_section },
	{ "calls", calls_section },
	{ NULL, NULL },
};
