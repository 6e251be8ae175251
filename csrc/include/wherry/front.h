/* SPDX-License-Identifier: Apache-2.0
 *
 * The front: what `wherry` on PATH is. It answers the common path of the hot verbs without an interpreter and hands everything
 * else, unchanged and before it has changed anything, to Python. It holds no rule, no text and no fallback of its own.
 */
#ifndef WHERRY_FRONT_H
#define WHERRY_FRONT_H

#include "host.h"

/* The command line, as far as the front understands it. */
struct front {
	char **argv;              /* as given, for Python */
	const char *root, *verb;
	unsigned int number;      /* of the verb in front_verbs[] */
	const char *id, *signal;  /* positional arguments */
	const char *bundle, *pid_file, *console_socket;
	const char *process_file, *cwd, *user; /* exec ... */
	const char *env[32];      /* ... NULL ends */
	char **words;             /* ... the command */
	uint32_t options;         /* WHERRY_OPTION_*: what is part of a plan's key */
	bool force, detach, keep, no_subreaper;
	pid_t process;            /* attend: of an exec, which has no container to remove; 0 = a run */
	int64_t deadline;         /* attend: when an exec is killed, in ms of CLOCK_MONOTONIC; 0 = never */
	const char *const *python; /* attend: how Python's command line is started, NULL = by front_python() */
	char root_buffer[WHERRY_MAX_PATH];
};

/* python.c: becomes Python with the same arguments. Returns only where there is no interpreter: the exit status, said on stderr.
 * The second form tells Python what failed: everything has been undone (create, run) or is as it was left (start); it words it. */
int front_python(const struct front *f);
int front_python_failed(const struct front *f, const struct wherry_message *failure);

/* arguments.c: true where every word is one that the front knows. */
bool front_arguments(struct front *f, int argc, char **argv);

/* verbs.c, create.c: each returns an exit status, or FRONT_PYTHON where Python must answer. */
enum { FRONT_PYTHON = -1 };
int front_state(const struct front *f);
int front_start(const struct front *f);
int front_kill(const struct front *f);
int front_delete(const struct front *f);
int front_create(const struct front *f);
int front_run(const struct front *f);
int front_exec(const struct front *f);

/* front.c */
enum { FRONT_STATE, FRONT_START, FRONT_KILL, FRONT_DELETE, FRONT_CREATE, FRONT_RUN, FRONT_EXEC, FRONT_VERBS };
extern const struct front_verb {
	char name[8];
	int (*answer)(const struct front *f);
} front_verbs[FRONT_VERBS];

int front_sealed_self(void); /* a sealed copy of this program */

/* attend.c: an attached run from the started program to its end: forwards signals, pumps the pty `master` (or -1), removes the
 * container unless `keep`. The signals to forward have been blocked by attend_prepare() before init was made. Exit status. */
int attend_prepare(bool subreaper);
int attend(const struct front *f, int master);
void attend_drain(int master); /* what is in the pty now goes to stdout */
/* Role of the program when Python has created and started: wherry-attend ROOT ID LETTERS MASTER PYTHON... */
int attend_main(int argc, char **argv);

int front_main(int argc, char **argv);

#endif
