// SPDX-License-Identifier: Apache-2.0
//
// The front's reading of the command line: the flags that engines write on the hot verbs, nothing more. One word that is not in
// the tables, and Python reads the whole line instead.
#include <string.h>
#include <unistd.h>

#include "wherry/front.h"
#include "wherry/sys.h"

enum kind { TEXT, SWITCH, OPTION, IGNORED_TEXT };

struct flag {
	const char *verbs; // verbs that know it, each followed by a blank; "" = before the verb
	const char *name;
	enum kind kind;
	size_t offset;   // of the field in struct front
	uint32_t option; // OPTION: the bit
};

#define FIELD(name) offsetof(struct front, name)

static const struct flag flags[] = {
	{"", "root", TEXT, FIELD(root), 0},
	// what is logged is worded by Python: where the front is through, there was nothing to log
	{"", "log", IGNORED_TEXT, 0, 0},
	{"", "log-format", IGNORED_TEXT, 0, 0},
	{"create run ", "bundle", TEXT, FIELD(bundle), 0},
	{"create run ", "b", TEXT, FIELD(bundle), 0},
	{"create run ", "pid-file", TEXT, FIELD(pid_file), 0},
	{"create run ", "console-socket", TEXT, FIELD(console_socket), 0},
	{"create run ", "no-pivot", OPTION, 0, WHERRY_OPTION_NO_PIVOT},
	{"create run ", "no-new-keyring", OPTION, 0, WHERRY_OPTION_NO_NEW_KEYRING},
	{"run ", "detach", SWITCH, FIELD(detach), 0},
	{"run ", "d", SWITCH, FIELD(detach), 0},
	{"run ", "keep", SWITCH, FIELD(keep), 0},
	{"run ", "no-subreaper", SWITCH, FIELD(no_subreaper), 0},
	{"delete ", "force", SWITCH, FIELD(force), 0},
	{"delete ", "f", SWITCH, FIELD(force), 0},
};

static bool knows(const struct flag *flag, const char *verb)
{
	const char *found;
	size_t length;

	if (!verb)
		return !*flag->verbs;
	length = strlen(verb);
	found = strstr(flag->verbs, verb);
	return found && found[length] == ' ' && (found == flag->verbs || found[-1] == ' ');
}

static const struct flag *find(const char *verb, const char *name, size_t length)
{
	for (size_t i = 0; i < WHERRY_LENGTH(flags); i++)
		if (knows(&flags[i], verb) && strlen(flags[i].name) == length && !memcmp(flags[i].name, name, length))
			return &flags[i];
	return NULL;
}

// Takes the flag at argv[at]; the index of the next word, or 0 where Python has to read it.
static int take(struct front *f, int argc, char **argv, int at)
{
	const char *name = argv[at] + (argv[at][1] == '-' ? 2 : 1), *value = strchr(name, '=');
	const struct flag *flag = find(f->verb, name, value ? (size_t)(value - name) : strlen(name));

	if (!flag)
		return 0;
	if (flag->kind == SWITCH || flag->kind == OPTION) {
		if (value)
			return 0;
		if (flag->kind == OPTION)
			f->options |= flag->option;
		else
			*(bool *)((char *)f + flag->offset) = true;
		return at + 1;
	}
	if (!value && ++at >= argc)
		return 0;
	value = value ? value + 1 : argv[at];
	if (!*value)
		return 0;
	if (flag->kind == TEXT)
		*(const char **)((char *)f + flag->offset) = value;
	return at + 1;
}

static bool positional(struct front *f, const char *word)
{
	if (!f->verb)
		f->verb = word;
	else if (!f->id)
		f->id = word;
	else if (!f->signal && !strcmp(f->verb, "kill"))
		f->signal = word;
	else
		return false;
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

	while (at < argc) {
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
