/* SPDX-License-Identifier: Apache-2.0
 *
 * The container's own cgroups, kept open. Who makes the container has opened their tasks files (and the directory of a cgroup v2), and hands them to the
 * monitor behind its answer. An exec's steps find them by their paths, and open what they do not find; to open one takes 7 us. A cgroup that is gone cannot
 * be entered: then all of them are let go, and the next exec opens what stands there now.
 */
#include "monitor.h"

#include <string.h>

static char paths[MAX_KEPT * MAX_NAME * 2]; /* each with a NUL */

/* What `directory` of a plan is called, with `file` in it, behind what is there already. Paths that would be cut, or taken apart by who reads them, are
 * left out. */
static bool add_path(const struct wherry_machine *m, uint16_t directory, const char *file)
{
	size_t at = strlen(paths), room = sizeof(paths) - at;

	for (uint32_t step = 0; step < m->code.steps; step++) {
		const struct wherry_op_cgroup_directory *op = (const void *)m->code.step[step];
		ssize_t length;

		if (op->op.code != OP_CGROUP_DIRECTORY || op->out != directory)
			continue;
		length = wherry_expand(m, op->path, paths + at, room);
		if (length > 0 && (size_t)length + strlen(file) + 2 < room && !strchr(paths + at, '\n')) {
			strcpy(paths + at + length, file);
			strcat(paths + at, "\n");
			return true;
		}
	}
	paths[at] = 0;
	return false;
}

/* By the helper, of a container that it has made. */
void kept_gather(struct host_create *c, struct monitor_message *out)
{
	struct wherry_machine *m = &c->machine;
	size_t count = 0;

	paths[0] = 0;
	monitor_empty(out, MONITOR_KEEP, 0);
	for (uint32_t step = 0; step < m->code.steps && count < MAX_KEPT; step++) {
		const struct wherry_op_open_tasks *tasks = (const void *)m->code.step[step];
		const struct wherry_op_clone *clone = (const void *)m->code.step[step];
		uint16_t number = WHERRY_NO_REGISTER;

		if (tasks->op.code == OP_OPEN_TASKS && tasks->directory != WHERRY_NO_REGISTER && m->registers[tasks->out] >= 0 &&
		    add_path(m, tasks->directory, "/tasks"))
			number = tasks->out;
		else if (clone->op.code == OP_CLONE && clone->into_cgroup != WHERRY_NO_REGISTER && m->registers[clone->into_cgroup] >= 0 &&
			 add_path(m, clone->into_cgroup, ""))
			number = clone->into_cgroup;
		if (number != WHERRY_NO_REGISTER)
			out->fd[MONITOR_FD_KEPT + count++] = wherry_steal(&m->registers[number]);
	}
	out->text[TEXT_META] = paths;
}

/* By the monitor: as it was gathered. */
void kept_take(struct monitor *m, struct monitor_message *r)
{
	char *at = paths;

	kept_drop(m);
	if (r->head.length[TEXT_META] >= sizeof(paths))
		return;
	memcpy(paths, r->text[TEXT_META], r->head.length[TEXT_META] + 1);
	for (size_t i = 0; i < MAX_KEPT && r->fd[MONITOR_FD_KEPT + i] >= 0; i++) {
		char *end = strchr(at, '\n');

		if (!end)
			return;
		*end = 0;
		m->kept.path[i] = at;
		m->kept.fd[i] = wherry_steal(&r->fd[MONITOR_FD_KEPT + i]);
		m->kept.count = (uint32_t)i + 1;
		at = end + 1;
	}
}

void kept_drop(struct monitor *m)
{
	for (uint32_t i = 0; i < m->kept.count; i++)
		wherry_close(&m->kept.fd[i]);
	m->kept.count = 0;
}

/* A tasks file that is written to, a directory of v2 that is cloned into. */
bool kept_is_gone(const struct wherry_message *failure)
{
	return failure->error == ENODEV || (failure->error == ENOENT && failure->call == WHERRY_CALL_CLONE);
}
