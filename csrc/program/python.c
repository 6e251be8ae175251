// SPDX-License-Identifier: Apache-2.0
//
// How the front finds its Python: beside it stands `wherry-python`, whose first line every installer rewrites to its own
// interpreter. The front becomes `INTERPRETER -I -S wherry-python ARGS`. Where that interpreter is gone (a moved venv) or that line names a shell,
// python3 beside the front.
#include <string.h>
#include <unistd.h>

#include "../host/parts.h"
#include "wherry/front.h"
#include "wherry/sys.h"

static const char script_name[] = "wherry-python";

struct place {
	char script[WHERRY_MAX_PATH];
	char interpreter[WHERRY_MAX_PATH];
	char beside[WHERRY_MAX_PATH];
};

static bool sibling(char *out, const char *directory, size_t length, const char *name)
{
	size_t size = strlen(name) + 1;

	if (length + size > WHERRY_MAX_PATH)
		return false;
	memcpy(out, directory, length);
	memcpy(out + length, name, size);
	return true;
}

// Fills `place` from the program's own path; 0 or -errno.
static int find(struct place *place)
{
	char self[WHERRY_MAX_PATH];
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
	cleanup_fd int script = -1;
	char *end;

	if (length < 0)
		return -errno;
	while (length && self[length - 1] != '/')
		length--;
	if (!sibling(place->script, self, (size_t)length, script_name) || !sibling(place->beside, self, (size_t)length, "python3"))
		return -ENAMETOOLONG;
	script = open(place->script, O_RDONLY | O_CLOEXEC);
	if (script < 0)
		return -errno;
	length = read(script, place->interpreter, sizeof(place->interpreter) - 1);
	if (length < 3 || memcmp(place->interpreter, "#!", 2))
		return -ENOEXEC;
	place->interpreter[length] = '\0';
	end = strpbrk(place->interpreter, "\n ");
	if (!end)
		return -ENOEXEC;
	*end = '\0';
	return 0;
}

static void say(const char *text)
{
	(void)!write(STDERR_FILENO, text, strlen(text));
}

// Python compares it with its own: the two are installed together, or not at all.
static const char *build(void)
{
	static char text[13 + 2 * WHERRY_BUILD_ID_SIZE + 1] = "WHERRY_BUILD=";

	host_hex(wherry_build_id, WHERRY_BUILD_ID_SIZE, text + strlen(text));
	return text;
}

// What we were called by, where it is runc: a link in its place, under which Python's words are runc's.
static const char *name_of(const char *path)
{
	const char *slash = path ? strrchr(path, '/') : NULL;

	return path && !strcmp(slash ? slash + 1 : path, "runc") ? "WHERRY_NAME=runc" : NULL;
}

// Room for these texts and so many more, with a NULL behind: as many as the kernel has let through.
static const char **room_for(char **texts, size_t more)
{
	struct host_scratch scratch;
	size_t count = more + 1;

	for (char **t = texts; *t; t++)
		count++;
	return host_scratch(&scratch, count * sizeof(*texts)) ? NULL : (void *)scratch.base;
}

static int become(const struct front *f, const char *extra)
{
	const char **arguments = room_for(f->argv, 3), **environment = room_for(environ, 3);
	static struct place place;
	size_t count = 4, variables = 0;

	if (!arguments || !environment) {
		say("wherry: cannot execute Python: out of memory\n");
		return 1;
	}
	if (find(&place) < 0) {
		say("wherry: cannot read ");
		say(place.script);
		say(", which names the Python that it was installed with; install wherry again\n");
		return 1;
	}
	arguments[1] = "-I";
	arguments[2] = "-S";
	arguments[3] = place.script;
	for (char **a = f->argv + 1; *a; a++)
		arguments[count++] = *a;
	for (char **e = environ; *e; e++)
		if (strncmp(*e, "WHERRY_FAILURE=", 15) && strncmp(*e, "WHERRY_BUILD=", 13) && strncmp(*e, "WHERRY_NAME=", 12))
			environment[variables++] = *e;
	environment[variables++] = build();
	if (name_of(f->argv[0]))
		environment[variables++] = name_of(f->argv[0]);
	if (extra)
		environment[variables++] = extra;
	arguments[0] = place.interpreter + 2;
	if (strcmp(arguments[0], "/bin/sh")) // a shell's script: the path was too long for a first line, or is to be movable
		execve(arguments[0], (char *const *)arguments, (char *const *)environment);
	arguments[0] = place.beside;
	execve(arguments[0], (char *const *)arguments, (char *const *)environment);
	say("wherry: neither ");
	say(place.interpreter + 2);
	say(" nor ");
	say(place.beside);
	say(" is a Python that can be executed; install wherry again\n");
	return 1;
}

int front_python(const struct front *f)
{
	return become(f, NULL);
}

int front_python_failed(const struct front *f, const struct wherry_message *failure)
{
	static char text[128] = "WHERRY_FAILURE=";
	const uint64_t numbers[] = {failure->step, (uint64_t)(uint32_t)failure->error, failure->call, failure->value};
	size_t at = strlen(text);

	for (size_t i = 0; i < WHERRY_LENGTH(numbers); i++) {
		at += wherry_decimal(numbers[i], text + at);
		text[at++] = i + 1 < WHERRY_LENGTH(numbers) ? ':' : '\0';
	}
	return become(f, text);
}
