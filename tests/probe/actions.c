// SPDX-License-Identifier: Apache-2.0
//
// What the probe does instead of reporting: one function per sub-command. Those that try something print one JSON object with
// errno names, 0 for success, and exit 0 either way: the test judges.
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

enum { SIGNALS = 64, MAX_SYSCALL_ARGUMENTS = 6 };

static int exit_action(int count, char **arguments)
{
	return count ? atoi(arguments[0]) : 0;
}

static int sleep_action(int count, char **arguments)
{
	if (count)
		return (int)sleep((unsigned int)atoi(arguments[0]));
	for (;;)
		pause();
}

static int cat_action(int count, char **arguments)
{
	static char buffer[65536];
	int fd = count ? open(arguments[0], O_RDONLY | O_CLOEXEC) : STDIN_FILENO;
	ssize_t length;

	if (fd < 0)
		return errno;
	while ((length = read(fd, buffer, sizeof(buffer))) > 0)
		if (write(STDOUT_FILENO, buffer, (size_t)length) != length)
			return errno;
	return length < 0 ? errno : 0;
}

// Creates or opens for writing, and writes a byte.
static int write_test_action(int count, char **arguments)
{
	json_open(NULL, '{');
	for (int i = 0; i < count; i++) {
		int fd = open(arguments[i], O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0600), error = fd < 0 ? errno : 0;

		if (fd >= 0) {
			error = write(fd, "x", 1) < 0 ? errno : 0;
			close(fd);
		}
		json_error(arguments[i], error);
	}
	json_close();
	json_end();
	return 0;
}

static int read_test_action(int count, char **arguments)
{
	json_open(NULL, '{');
	for (int i = 0; i < count; i++) {
		int fd = open(arguments[i], O_RDONLY | O_CLOEXEC | O_NONBLOCK), error = fd < 0 ? errno : 0;
		char byte;

		if (fd >= 0) {
			ssize_t length = read(fd, &byte, 1);

			error = length < 0 ? errno : 0;
			close(fd);
		}
		json_error(arguments[i], error);
	}
	json_close();
	json_end();
	return 0;
}

// Every signal that can be blocked is waited for, so none interrupts and none is lost. `N`: ends after N of them.
static int signal_echo_action(int count, char **arguments)
{
	int left = count ? atoi(arguments[0]) : -1;
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	dprintf(STDOUT_FILENO, "ready\n");
	while (left--) {
		siginfo_t info;

		if (sigwaitinfo(&all, &info) > 0)
			dprintf(STDOUT_FILENO, "signal %d from %d\n", info.si_signo, (int)info.si_pid);
	}
	return 0;
}

// As many children as asked for or allowed; they live until the probe's stdin ends.
static int fork_many_action(int count, char **arguments)
{
	static pid_t children[65536];
	int wanted = count ? atoi(arguments[0]) : 10, made = 0, error = 0;
	char byte;

	while (made < wanted && made < (int)(sizeof(children) / sizeof(children[0]))) {
		pid_t pid = fork();

		if (pid < 0) {
			error = errno;
			break;
		}
		if (pid == 0)
			for (;;)
				pause();
		children[made++] = pid;
	}
	json_open(NULL, '{');
	json_signed("made", made);
	json_error("error", error);
	json_close();
	json_end();
	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
	while (made)
		kill(children[--made], SIGKILL);
	return 0;
}

static int syscall_action(int count, char **arguments)
{
	long values[MAX_SYSCALL_ARGUMENTS] = { 0 }, result;

	if (!count)
		return 2;
	for (int i = 1; i < count && i <= MAX_SYSCALL_ARGUMENTS; i++)
		values[i - 1] = (long)strtoull(arguments[i], NULL, 0);
	errno = 0;
	result = syscall(strtol(arguments[0], NULL, 0), values[0], values[1], values[2], values[3], values[4], values[5]);
	json_open(NULL, '{');
	json_signed("result", result);
	json_error("error", result < 0 ? errno : 0);
	json_close();
	json_end();
	return 0;
}

// Container root tries to take off what a mount forbids.
static int mount_clear_action(int count, char **arguments)
{
	static const struct {
		const char *name;
		uint64_t attribute;
	} flags[] = { { "ro", 1 }, { "nosuid", 2 }, { "nodev", 4 }, { "noexec", 8 } };

	json_open(NULL, '{');
	for (int i = 0; i < count; i++) {
		json_open(arguments[i], '{');
		for (size_t f = 0; f < sizeof(flags) / sizeof(flags[0]); f++) {
			uint64_t attributes[4] = { 0, flags[f].attribute, 0, 0 };

			json_error(flags[f].name, syscall(SYS_mount_setattr, AT_FDCWD, arguments[i], 0, attributes, sizeof(attributes)) < 0 ? errno : 0);
		}
		json_error("remount", mount(NULL, arguments[i], NULL, MS_REMOUNT | MS_BIND, NULL) < 0 ? errno : 0);
		json_error("unmount", umount2(arguments[i], MNT_DETACH) < 0 ? errno : 0);
		json_close();
	}
	json_close();
	json_end();
	return 0;
}

// Executes a program with the rest as its arguments, after a first report line; for tests of who may execute what.
static int execute_action(int count, char **arguments)
{
	char buffer[16];

	if (!count)
		return 2;
	execv(arguments[0], arguments);
	dprintf(STDOUT_FILENO, "%s\n", error_name(errno, buffer));
	return 126;
}

const struct action actions[] = {
	{ "exit", "STATUS", exit_action },
	{ "sleep", "[SECONDS]", sleep_action },
	{ "cat", "[FILE]", cat_action },
	{ "write-test", "PATH...", write_test_action },
	{ "read-test", "PATH...", read_test_action },
	{ "signal-echo", "[COUNT]", signal_echo_action },
	{ "fork-many", "[COUNT]", fork_many_action },
	{ "syscall", "NUMBER ARGUMENT...", syscall_action },
	{ "mount-clear", "PATH...", mount_clear_action },
	{ "execute", "PROGRAM ARGUMENT...", execute_action },
	{ NULL, NULL, NULL },
};
