// SPDX-License-Identifier: Apache-2.0
//
// state, start, kill and delete on their common path. Each begins with its guards: a record of this build, the status that the
// verb needs, no hooks that are Python's. Where one fails nothing has been changed, and Python answers.
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "wherry/front.h"
#include "wherry/sys.h"

enum { LOCK_WAIT_MS = 10000 };

static void close_container(struct host_container *c)
{
	host_close(c);
}

#define cleanup_container __attribute__((cleanup(close_container)))

static struct iovec text(const char *bytes)
{
	return (struct iovec){(void *)(uintptr_t)bytes, strlen(bytes)};
}

int front_state(const struct front *f)
{
	static const char *const names[] = {
		[HOST_CREATED] = "created", [HOST_RUNNING] = "running", [HOST_STOPPED] = "stopped", [HOST_PAUSED] = "paused"};
	cleanup_container struct host_container c;
	struct iovec parts[5];
	char pid[24];
	int status;

	if (f->signal || host_open(&c, f->root, f->id))
		return FRONT_PYTHON;
	status = host_status(&c);
	if (status < HOST_CREATED || status > HOST_PAUSED)
		return FRONT_PYTHON;
	wherry_decimal(status == HOST_STOPPED ? 0 : (uint64_t)c.head->pid, pid);
	parts[0] = text(host_text(&c, c.head->state_head));
	parts[1] = text(pid);
	parts[2] = text(host_text(&c, c.head->state_middle));
	parts[3] = text(names[status]);
	parts[4] = text(host_text(&c, c.head->state_tail));
	return writev(STDOUT_FILENO, parts, 5) > 0 ? 0 : 1;
}

int front_start(const struct front *f)
{
	cleanup_container struct host_container c;
	struct wherry_message failure = {0};

	if (host_open(&c, f->root, f->id) || c.head->flags & (WHERRY_PLAN_POSTSTART | WHERRY_PLAN_NO_PROCESS))
		return FRONT_PYTHON;
	if (host_lock(&c, LOCK_WAIT_MS) || host_status(&c) != HOST_CREATED)
		return FRONT_PYTHON;
	if (!host_start(&c, &failure))
		return 0;
	host_close(&c); // the lock: Python takes it
	return front_python_failed(f, &failure);
}

// The signals by number or by their usual names; anything else is read by Python.
static int signal_number(const char *word)
{
	static const struct {
		const char *name;
		int number;
	} names[] = {{"KILL", SIGKILL}, {"TERM", SIGTERM}, {"INT", SIGINT},   {"HUP", SIGHUP},
		     {"QUIT", SIGQUIT}, {"USR1", SIGUSR1}, {"USR2", SIGUSR2}, {"WINCH", SIGWINCH}};
	int number = 0;

	if (!word)
		return SIGTERM;
	if (*word >= '1' && *word <= '9') {
		for (; *word >= '0' && *word <= '9' && number < 100; word++)
			number = number * 10 + *word - '0';
		return *word || number > 64 ? 0 : number;
	}
	if (!strncmp(word, "SIG", 3))
		word += 3;
	for (size_t i = 0; i < WHERRY_LENGTH(names); i++)
		if (!strcmp(word, names[i].name))
			return names[i].number;
	return 0;
}

int front_kill(const struct front *f)
{
	cleanup_container struct host_container c;
	int number = signal_number(f->signal), status;

	if (!number || host_open(&c, f->root, f->id))
		return FRONT_PYTHON;
	if (c.head->flags & WHERRY_PLAN_SHARED_PID) // SIGKILL of such an init leaves its children: Python kills by cgroup
		return FRONT_PYTHON;
	status = host_status(&c);
	if (status != HOST_CREATED && status != HOST_RUNNING)
		return FRONT_PYTHON;
	return host_signal(&c, number) ? FRONT_PYTHON : 0;
}

int front_delete(const struct front *f)
{
	cleanup_container struct host_container c;
	int status;

	if (host_open(&c, f->root, f->id) || c.head->flags & (WHERRY_PLAN_POSTSTOP | WHERRY_PLAN_UNIT))
		return FRONT_PYTHON;
	if (host_lock(&c, LOCK_WAIT_MS))
		return FRONT_PYTHON;
	status = host_status(&c);
	if (status == HOST_CREATED || (f->force && status == HOST_RUNNING))
		return host_destroy(&c, true) ? FRONT_PYTHON : 0;
	if (status != HOST_STOPPED)
		return FRONT_PYTHON;
	return host_destroy(&c, false) ? FRONT_PYTHON : 0;
}
