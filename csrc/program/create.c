// SPDX-License-Identifier: Apache-2.0
//
// create and run from the plan cache: a config like one that was compiled before, on the same host facts, is launched without an
// interpreter. What the plan cannot know (that the bundle's path needs no escaping, say) is looked at here; where it is unusual, Python.
#include <string.h>
#include <unistd.h>

#include "../host/parts.h"
#include "wherry/front.h"
#include "wherry/sys.h"

// The bundle's path as the kernel has it, when it stands in a JSON string as it is and is what was given.
static bool bundle_path(const struct front *f, int bundle, char *path)
{
	char link[32];
	ssize_t length = readlink(wherry_fd_path(bundle, link), path, WHERRY_MAX_PATH - 1);

	if (length <= 0 || path[0] != '/')
		return false;
	path[length] = '\0';
	for (ssize_t i = 0; i < length; i++)
		if (path[i] < 0x20 || path[i] > 0x7e || path[i] == '"' || path[i] == '\\' || path[i] == '&' || path[i] == '<' || path[i] == '>')
			return false;
	return !f->bundle || !strcmp(f->bundle, ".") || !strcmp(f->bundle, path);
}

int front_sealed_self(void)
{
	struct host_bytes self;

	if (host_map(AT_FDCWD, "/proc/self/exe", &self))
		return -1;
	return wherry_seal_program(self.bytes, self.size);
}

// Flags that only Python can serve; of the rest hooks are run by the same code as under Python.
static bool ours(const struct wherry_plan *plan)
{
	return plan->flags & WHERRY_PLAN_CACHEABLE &&
	       !(plan->flags & (WHERRY_PLAN_INTERLUDE | WHERRY_PLAN_POSTSTART | WHERRY_PLAN_POSTSTOP | WHERRY_PLAN_ROOTLESS));
}

static struct host_pattern pattern;

// Fills the request from the command line and the cache. True where the front can serve it.
static bool prepare(const struct front *f, struct host_request *request, char *path)
{
	cleanup_fd int bundle = open(f->bundle ? f->bundle : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct host_bytes config;
	const struct wherry_plan *plan;

	if (bundle < 0 || !bundle_path(f, bundle, path) || host_map(bundle, "config.json", &config))
		return false;
	if (host_pattern_read(&pattern, config.bytes, config.size, f->options, NULL))
		return false;
	if (host_pattern_load(f->root, &pattern, &request->plan, &request->plan_size))
		return false;
	plan = request->plan;
	if (!ours(plan))
		return false;
	request->root = f->root;
	request->id = f->id;
	request->bundle = request->bundle_json = path;
	request->config = config.bytes;
	request->config_size = config.size;
	request->pid_file = f->pid_file;
	request->console_socket = f->console_socket;
	request->console_master = -1;
	memset(request->stdio, -1, sizeof(request->stdio));
	request->program = front_sealed_self();
	return request->program >= 0;
}

// The terminal that the plan has and where its master is to go: a detached one needs a socket, an attached one must have none.
static bool terminal_fits(const struct front *f, const struct host_request *request, bool detached)
{
	const struct wherry_plan *plan = request->plan;
	bool terminal = plan->flags & WHERRY_PLAN_TERMINAL;

	return detached ? terminal == !!f->console_socket : !f->console_socket;
}

static struct host_create create;
static struct host_request request;
static char bundle[WHERRY_MAX_PATH];

int front_create(const struct front *f)
{
	if (!prepare(f, &request, bundle) || !terminal_fits(f, &request, true))
		return FRONT_PYTHON;
	if (host_create_begin(&create, &request))
		return front_python_failed(f, &create.failure);
	return 0;
}

int front_run(const struct front *f)
{
	struct host_container c;
	struct wherry_message failure = {0};

	if (!prepare(f, &request, bundle) || !terminal_fits(f, &request, f->detach))
		return FRONT_PYTHON;
	if (((const struct wherry_plan *)request.plan)->flags & WHERRY_PLAN_NO_PROCESS)
		return FRONT_PYTHON;
	if (!f->detach && attend_prepare(!f->no_subreaper))
		return FRONT_PYTHON;
	if (host_create_begin(&create, &request))
		return front_python_failed(f, &create.failure);
	// our ends of the fifos stand for a reader and a writer, and our lock for a create at work
	host_create_release(&create);
	if (host_open(&c, f->root, f->id) || host_start(&c, &failure)) {
		// a run that cannot start leaves nothing, but what its hooks have said
		attend_drain(create.request.console_master);
		host_destroy(&c, true);
		return front_python_failed(f, &failure);
	}
	host_close(&c);
	if (f->detach)
		return 0;
	return attend(f, create.request.console_master);
}
