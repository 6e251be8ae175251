// SPDX-License-Identifier: Apache-2.0
//
// exec from the plans that earlier execs have left in the container's directory. What it cannot serve (no plan yet, a terminal of our own, a
// paused container, a failure) Python does from the start: nothing is left of a process that never executed its program.
#include <string.h>
#include <unistd.h>

#include "../host/parts.h"
#include "wherry/front.h"
#include "wherry/sys.h"

// NULL once it did not fit, or cannot be written at all.
static char *put(char *at, const char *end, const char *text)
{
	return host_append(at, end, text, strlen(text));
}

// A text that stands in quotes as it is: another one is Python's.
static char *put_quoted(char *at, const char *end, const char *text)
{
	for (const char *c = text; *c; c++)
		if (*c < 0x20 || *c > 0x7e || *c == '"' || *c == '\\')
			return NULL;
	return put(put(put(at, end, "\""), end, text), end, "\"");
}

static char *put_list(char *at, const char *end, const char *name, const char *const *texts)
{
	at = put(at, end, name);
	for (size_t i = 0; texts[i]; i++)
		at = put_quoted(i ? put(at, end, ",") : at, end, texts[i]);
	return put(at, end, "]");
}

static char *put_text(char *at, const char *end, const char *name, const char *value)
{
	return put_quoted(put(at, end, name), end, value ? value : "");
}

// The command line in one form, whatever the order of its flags: wherry.container.exec_cache writes the same. Bytes, or -1.
static ssize_t write_down(const struct front *f, char *out, size_t size)
{
	const char *end = out + size;
	char *at = out;

	if (!f->words[0])
		return -1;
	at = put_text(at, end, "{\"cwd\":", f->cwd);
	at = put_text(at, end, ",\"user\":", f->user);
	at = put_list(at, end, ",\"process\":{\"env\":[", f->env);
	at = put_list(at, end, ",\"args\":[", (const char *const *)f->words);
	at = put(at, end, "}}");
	return at ? at - out : -1;
}

static struct host_create create;
static struct host_request request;
static struct host_container container;
static char text[32 << 10];

// The plan for what is asked; true where the front can execute it.
static bool find_plan(const struct front *f)
{
	struct host_bytes process = {text, 0};
	const struct wherry_plan *plan;
	ssize_t length = 0;

	if (f->process_file ? f->words[0] || f->cwd || f->user || f->env[0] || host_map(AT_FDCWD, f->process_file, &process)
			    : (length = write_down(f, text, sizeof(text))) < 0)
		return false;
	if (!f->process_file)
		process.size = (size_t)length;
	if (host_exec_plan(&container, f->root, f->process_file, process.bytes, process.size, NULL, &request.plan, &request.plan_size))
		return false;
	plan = request.plan;
	return plan->flags & WHERRY_PLAN_EXEC && !(plan->flags & WHERRY_PLAN_ROOTLESS) &&
	       !!(plan->flags & WHERRY_PLAN_TERMINAL) == !!f->console_socket && (f->detach || !f->console_socket);
}

int front_exec(const struct front *f)
{
	static struct front attended;
	int status;

	if (host_open(&container, f->root, f->id))
		return FRONT_PYTHON;
	status = host_status(&container);
	if ((status != HOST_CREATED && status != HOST_RUNNING) || !find_plan(f))
		return FRONT_PYTHON;
	request.root = f->root;
	request.id = f->id;
	request.bundle = request.bundle_json = "";
	request.pid_file = f->pid_file;
	request.console_socket = f->console_socket;
	request.console_master = -1;
	memset(request.stdio, -1, sizeof(request.stdio));
	request.target = host_pidfd(&container);
	request.program = front_sealed_self();
	if (request.target < 0 || request.program < 0 || (!f->detach && attend_prepare(false)) || host_exec(&create, &request))
		return FRONT_PYTHON;
	if (f->detach)
		return 0;
	attended = *f;
	attended.process = create.machine.init;
	host_create_release(&create);
	return attend(&attended, -1);
}
