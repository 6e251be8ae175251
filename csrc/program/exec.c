// SPDX-License-Identifier: Apache-2.0
//
// exec from the plans that earlier execs have left in the container's directory. What it cannot serve (no plan yet, a terminal of our own, a
// paused container, a failure) Python does from the start: nothing is left of a process that never executed its program.
#include <string.h>
#include <unistd.h>

#include "wherry/front.h"
#include "wherry/sys.h"

struct writer {
	char *at, *end;
	bool failed;
};

static void put(struct writer *w, const char *text)
{
	size_t length = strlen(text);

	if (length >= (size_t)(w->end - w->at)) {
		w->failed = true;
		return;
	}
	memcpy(w->at, text, length + 1);
	w->at += length;
}

// A text that stands in quotes as it is: another one is Python's.
static void put_quoted(struct writer *w, const char *text)
{
	for (const char *c = text; *c; c++)
		if (*c < 0x20 || *c > 0x7e || *c == '"' || *c == '\\')
			w->failed = true;
	put(w, "\"");
	put(w, text);
	put(w, "\"");
}

static void put_list(struct writer *w, const char *name, const char *const *texts)
{
	put(w, name);
	for (size_t i = 0; texts[i]; i++) {
		if (i)
			put(w, ",");
		put_quoted(w, texts[i]);
	}
	put(w, "]");
}

static void put_text(struct writer *w, const char *name, const char *value)
{
	put(w, name);
	put_quoted(w, value ? value : "");
}

// The command line in one form, whatever the order of its flags: wherry.container.execute writes the same. Bytes, or -1.
static ssize_t write_down(const struct front *f, char *out, size_t size)
{
	struct writer w = {out, out + size, false};

	if (!f->words[0])
		return -1;
	put_text(&w, "{\"cwd\":", f->cwd);
	put_text(&w, ",\"user\":", f->user);
	put_list(&w, ",\"process\":{\"env\":[", f->env);
	put_list(&w, ",\"args\":[", (const char *const *)f->words);
	put(&w, "}}");
	return w.failed ? -1 : w.at - out;
}

static struct host_create create;
static struct host_request request;
static struct host_container container;
static struct host_pattern pattern;
static char text[32 << 10], directory[WHERRY_MAX_PATH];

static bool join_directory(const struct front *f)
{
	struct writer w = {directory, directory + sizeof(directory), false};

	put(&w, f->root);
	put(&w, "/");
	put(&w, f->id);
	return !w.failed;
}

// The plan for what is asked; true where the front can execute it.
static bool find_plan(const struct front *f)
{
	struct front_bytes process = {text, 0};
	const struct wherry_plan *plan;
	ssize_t length = 0;

	if (f->process_file ? f->words[0] || f->cwd || f->user || f->env[0] || front_map(AT_FDCWD, f->process_file, &process)
			    : (length = write_down(f, text, sizeof(text))) < 0)
		return false;
	if (!f->process_file)
		process.size = (size_t)length;
	if (!join_directory(f) || host_exec_pattern(&pattern, &container, f->process_file, process.bytes, process.size) ||
	    host_pattern_load(directory, &pattern, process.bytes, process.size, &request.plan, &request.plan_size))
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
