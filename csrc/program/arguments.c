// SPDX-License-Identifier: Apache-2.0
//
// The front's reading of the command line: the flags that engines write on the hot verbs, nothing more. One word that is not in
// the tables, and Python reads the whole line instead.
#include <string.h>
#include <unistd.h>

#include "wherry/front.h"
#include "wherry/sys.h"

enum kind { TEXT, SWITCH, OPTION, IGNORED_TEXT, LIST };

enum { // where a flag may stand
	DELETE = 1 << FRONT_DELETE,
	CREATE = 1 << FRONT_CREATE,
	RUN = 1 << FRONT_RUN,
	EXEC = 1 << FRONT_EXEC,
	GLOBAL = 1 << FRONT_VERBS, // before the verb
};

static const struct flag {
	char name[16];
	uint8_t verbs, kind;
	uint16_t value; // offset of the field in struct front; OPTION: the bit
} flags[] = {
#define FIELD(name) offsetof(struct front, name)
	{"root", GLOBAL, TEXT, FIELD(root)},
	// what is logged is worded by Python: where the front is through, there was nothing to log
	{"log", GLOBAL, IGNORED_TEXT, 0},
	{"log-format", GLOBAL, IGNORED_TEXT, 0},
	{"bundle", CREATE | RUN, TEXT, FIELD(bundle)},
	{"b", CREATE | RUN, TEXT, FIELD(bundle)},
	{"pid-file", CREATE | RUN | EXEC, TEXT, FIELD(pid_file)},
	{"console-socket", CREATE | RUN | EXEC, TEXT, FIELD(console_socket)},
	{"no-pivot", CREATE | RUN, OPTION, WHERRY_OPTION_NO_PIVOT},
	{"no-new-keyring", CREATE | RUN, OPTION, WHERRY_OPTION_NO_NEW_KEYRING},
	{"detach", RUN | EXEC, SWITCH, FIELD(detach)},
	{"d", RUN | EXEC, SWITCH, FIELD(detach)},
	{"keep", RUN, SWITCH, FIELD(keep)},
	{"no-subreaper", RUN, SWITCH, FIELD(no_subreaper)},
	{"force", DELETE, SWITCH, FIELD(force)},
	{"f", DELETE, SWITCH, FIELD(force)},
	{"process", EXEC, TEXT, FIELD(process_file)},
	{"p", EXEC, TEXT, FIELD(process_file)},
	{"cwd", EXEC, TEXT, FIELD(cwd)},
	{"user", EXEC, TEXT, FIELD(user)},
	{"u", EXEC, TEXT, FIELD(user)},
	{"env", EXEC, LIST, FIELD(env)},
	{"e", EXEC, LIST, FIELD(env)},
};

static const struct flag *find(unsigned int verb, const char *name, size_t length)
{
	if (length < sizeof(flags->name))
		for (size_t i = 0; i < WHERRY_LENGTH(flags); i++)
			if (flags[i].verbs & verb && !memcmp(flags[i].name, name, length) && !flags[i].name[length])
				return &flags[i];
	return NULL;
}

static bool add(const char **list, size_t room, const char *value)
{
	size_t count = 0;

	while (list[count])
		count++;
	if (count + 1 >= room)
		return false;
	list[count] = value;
	return true;
}

// Takes the flag at argv[at]; the index of the next word, or 0 where Python has to read it.
static int take(struct front *f, int argc, char **argv, int at)
{
	const char *name = argv[at] + (argv[at][1] == '-' ? 2 : 1), *value = strchr(name, '=');
	const struct flag *flag = find(f->verb ? 1U << f->number : GLOBAL, name, value ? (size_t)(value - name) : strlen(name));

	if (!flag)
		return 0;
	if (flag->kind == SWITCH || flag->kind == OPTION) {
		if (value)
			return 0;
		if (flag->kind == OPTION)
			f->options |= flag->value;
		else
			*(bool *)((char *)f + flag->value) = true;
		return at + 1;
	}
	if (!value && ++at >= argc)
		return 0;
	value = value ? value + 1 : argv[at];
	if (!*value)
		return 0;
	if (flag->kind == TEXT)
		*(const char **)((char *)f + flag->value) = value;
	if (flag->kind == LIST && !add(f->env, WHERRY_LENGTH(f->env), value))
		return 0;
	return at + 1;
}

static bool positional(struct front *f, const char *word)
{
	if (!f->verb) {
		f->verb = word;
		while (strcmp(front_verbs[f->number].name, word))
			if (++f->number == FRONT_VERBS)
				return false;
	} else if (!f->id) {
		f->id = word;
	} else if (!f->signal && f->number == FRONT_KILL) {
		f->signal = word;
	} else {
		return false;
	}
	return true;
}

// [A-Za-z0-9_+.-]+, not "." or ".."; what else is wrong with an id is said by Python
static bool plain_id(const char *id)
{
	static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+.-";
	size_t length = id ? strlen(id) : 0;

	return length && length < 1024 && strspn(id, allowed) == length && strcmp(id, ".") && strcmp(id, "..");
}

static bool default_root(struct front *f)
{
	// the other default roots (unprivileged, root of a user namespace) depend on the environment: Python's
	if (geteuid())
		return false;
	for (char **e = environ; *e; e++)
		if (!strncmp(*e, "XDG_RUNTIME_DIR=", 16))
			return false;
	f->root = "/run/wherry";
	return true;
}

static bool absolute_root(struct front *f)
{
	size_t length;

	if (!f->root)
		return default_root(f);
	length = strlen(f->root);
	if (f->root[0] != '/' || length >= sizeof(f->root_buffer))
		return false;
	memcpy(f->root_buffer, f->root, length + 1);
	while (length > 1 && f->root_buffer[length - 1] == '/')
		f->root_buffer[--length] = '\0';
	f->root = f->root_buffer;
	return true;
}

bool front_arguments(struct front *f, int argc, char **argv)
{
	int at = 1;

	f->words = argv + argc;
	while (at < argc) {
		if (f->id && f->number == FRONT_EXEC) { // what stands behind the id is the command's
			f->words = argv + at + !strcmp(argv[at], "--");
			break;
		}
		if (argv[at][0] != '-') {
			if (!positional(f, argv[at++]))
				return false;
			continue;
		}
		at = argv[at][1] ? take(f, argc, argv, at) : 0;
		if (!at)
			return false;
	}
	return f->verb && plain_id(f->id) && absolute_root(f);
}
