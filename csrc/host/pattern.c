/* SPDX-License-Identifier: Apache-2.0
 *
 * Plan patterns. An engine writes a new configuration for each container, but most of it is the same for all containers of one kind: what
 * differs are the id in paths, the hostname, values of environment and annotations, arguments. Those texts are *blanks*: a plan that was
 * compiled from a configuration with marks in its blanks is a pattern, and with the texts of another configuration filled in it is the
 * plan of that one. It is looked up by all the rest of the configuration, byte by byte.
 *
 * That is right only because the compiler takes these texts as they are and decides nothing by them, once they have the form that
 * is_opaque() asks for. A text of another form is no blank: it stays part of the name. tests/unit/plan/test_pattern.py holds the
 * compiler to it.
 *
 * The reader finds where a text stands, and checks no JSON: every byte outside of the blanks is in the name, and one configuration with
 * these bytes has been parsed.
 */
#include "parts.h"

#include <string.h>
#include <sys/mman.h>

/* ---- where blanks may be ------------------------------------------------------------------------------------------------------ */

enum form { FIXED, ANY, NAME, PATH, VARIABLE, ANNOTATION };

enum { MAX_DEPTH = 32, NOWHERE = 0, CONFIG = 1, PROCESS = 5, MAX_NAME = 64 };

/* A tree of JSON paths; a node without a name stands for every key or element of its parent. */
static const struct node {
	char name[12];
	uint8_t parent, form;
} nodes[] = {
	{ "", 255, FIXED },
	[CONFIG] = { "", 255, FIXED },
	{ "hostname", CONFIG, NAME },
	{ "root", CONFIG, FIXED },
	{ "path", 3, PATH },
	[PROCESS] = { "process", CONFIG, FIXED },
	{ "args", PROCESS, FIXED },
	{ "", 6, ANY },
	{ "env", PROCESS, FIXED },
	{ "", 8, VARIABLE },
	{ "mounts", CONFIG, FIXED },
	{ "", 10, FIXED },
	{ "source", 11, PATH },
	{ "annotations", CONFIG, FIXED },
	{ "", 13, ANNOTATION },
	{ "linux", CONFIG, FIXED },
	{ "cgroupsPath", 15, PATH },
	{ "namespaces", 15, FIXED },
	{ "", 17, FIXED },
	{ "path", 18, PATH },
	{ "hooks", CONFIG, FIXED },
	{ "", 20, FIXED },
	{ "", 21, FIXED },
	{ "args", 22, FIXED },
	{ "", 23, ANY },
};

static uint8_t child(uint8_t parent, const char *name, size_t length)
{
	if (parent != NOWHERE)
		for (uint8_t i = CONFIG + 1; i < WHERRY_LENGTH(nodes); i++)
			if (nodes[i].parent == parent &&
			    (!nodes[i].name[0] || (length < sizeof(nodes->name) && !memcmp(nodes[i].name, name, length) && !nodes[i].name[length])))
				return i;
	return NOWHERE;
}

/* ---- what may be a blank ------------------------------------------------------------------------------------------------------ */

static bool starts(const char *text, size_t length, const char *prefix)
{
	size_t count = strlen(prefix);

	return length >= count && !memcmp(text, prefix, count);
}

static bool is_plain(const char *text, size_t length)
{
	for (size_t i = 0; i < length; i++)
		if ((unsigned char)text[i] < 0x20 || (unsigned char)text[i] >= 0x7f)
			return false;
	return true;
}

/* "/a/b": absolute, and as mounts.clean() would write it. */
static bool is_clean(const char *text, size_t length)
{
	size_t part = 0;

	if (length < 2 || text[0] != '/')
		return false;
	for (size_t i = 1; i <= length; i++) {
		if (i < length && text[i] != '/') {
			part++;
			continue;
		}
		if (!part || (text[i - 1] == '.' && (part == 1 || (part == 2 && text[i - 2] == '.'))))
			return false;
		part = 0;
	}
	return true;
}

/* Cuts off the part of the text that stays in the name. False: all of it does. */
static bool is_opaque(enum form form, const char *key, size_t key_length, const char **text, size_t *length)
{
	const char *equals;

	switch (form) {
	case FIXED:
		break;
	case ANY:
		return *length > 0;
	case NAME:
		return *length > 0 && *length <= MAX_NAME;
	case PATH:
		if (!is_clean(*text, *length))
			return false;
		++*text;
		--*length;
		return true;
	case VARIABLE: /* the compiler reads two */
		equals = memchr(*text, '=', *length);
		if (!equals || starts(*text, *length, "PATH=") || starts(*text, *length, "HOME="))
			return false;
		*length -= (size_t)(equals + 1 - *text);
		*text = equals + 1;
		return true;
	case ANNOTATION: /* those that a runtime may take for settings */
		return !starts(key, key_length, "org.") && !starts(key, key_length, "run.");
	}
	return false;
}

/* ---- the reader --------------------------------------------------------------------------------------------------------------- */

struct reader {
	struct host_pattern *out;
	struct sha256 name;
	const char *at, *end;
	const char *from; /* not yet part of the name */
	const char *key;  /* the last key of an object */
	size_t key_length;
	uint32_t seen;    /* blanks of this text */
	uint8_t only;     /* form of the blanks that are put down; 0 = any */
	uint8_t here;     /* node of the value that comes next */
	uint8_t depth, node[MAX_DEPTH];
	bool object[MAX_DEPTH];
	bool key_next;
};

static void blank(struct reader *r, enum form form, const char *text, size_t length)
{
	static const char mark[2] = { 0, 1 }; /* no byte of a JSON string */
	struct host_pattern *p = r->out;

	if (r->seen == WHERRY_MAX_BLANKS || p->count == WHERRY_MAX_BLANKS || !is_opaque(form, r->key, r->key_length, &text, &length))
		return;
	sha256_add(&r->name, r->from, (size_t)(text - r->from));
	sha256_add(&r->name, mark, sizeof(mark));
	r->from = text + length;
	r->seen++;
	if (!r->only || form == r->only)
		p->blanks[p->count++] = (struct host_blank){ text, (uint32_t)length, form == VARIABLE };
}

/* `at` stands behind the opening quote. */
static int read_string(struct reader *r)
{
	const char *text = r->at;
	bool plain = true;

	for (; r->at < r->end && *r->at != '"'; r->at++)
		if (*r->at == '\\' && r->at + 1 < r->end)
			r->at++, plain = false;
	if (r->at >= r->end)
		return -EBADMSG;
	if (r->key_next) {
		r->key = text;
		r->key_length = (size_t)(r->at - text);
		r->here = child(r->node[r->depth], text, r->key_length);
	} else if (plain && is_plain(text, (size_t)(r->at - text))) {
		blank(r, nodes[r->here].form, text, (size_t)(r->at - text));
	}
	r->at++;
	return 0;
}

static int open_value(struct reader *r, bool object)
{
	if (r->depth + 1 >= MAX_DEPTH)
		return -EBADMSG;
	r->node[++r->depth] = r->here;
	r->object[r->depth] = r->key_next = object;
	r->here = object ? NOWHERE : child(r->here, "", 0);
	return 0;
}

static int read_byte(struct reader *r)
{
	switch (*r->at++) {
	case '"':
		return read_string(r);
	case '{':
		return open_value(r, true);
	case '[':
		return open_value(r, false);
	case '}':
	case ']':
		if (!r->depth)
			return -EBADMSG;
		r->depth--;
		r->key_next = false;
		break;
	case ':':
		r->key_next = false;
		break;
	case ',':
		r->key_next = r->object[r->depth];
		r->here = r->key_next ? NOWHERE : child(r->node[r->depth], "", 0);
		break;
	}
	return 0;
}

static void add_blanks(struct reader *r, const uint8_t digest[32])
{
	struct host_pattern *p = r->out;

	sha256_begin(&r->name);
	sha256_add(&r->name, digest, 32);
	for (uint32_t i = 0; i < p->count; i++) {
		sha256_add(&r->name, &p->blanks[i].length, sizeof(p->blanks[i].length));
		sha256_add(&r->name, p->blanks[i].text, p->blanks[i].length);
	}
}

/* The name has been begun with all that is not in the text. */
static int read_text(struct reader *r, uint8_t node, const void *text, size_t size)
{
	r->at = r->from = text;
	r->end = r->at + size;
	r->here = node;
	r->depth = 0;
	r->seen = 0;
	r->key_next = false;
	r->out->size += size;
	while (r->at < r->end) {
		int result = read_byte(r);

		if (result < 0)
			return result;
	}
	sha256_add(&r->name, r->from, (size_t)(r->end - r->from));
	return 0;
}

static int read_and_end(struct reader *r, uint8_t node, const void *text, size_t size)
{
	struct host_pattern *p = r->out;
	uint8_t digest[32];
	int result = read_text(r, node, text, size);

	if (result < 0)
		return result;
	sha256_end(&r->name, digest);
	host_hex(digest, sizeof(digest), p->pattern.hex);
	add_blanks(r, digest);
	sha256_end(&r->name, digest);
	host_hex(digest, sizeof(digest), p->exact.hex);
	return 0;
}

static int begin_name(struct reader *r, uint32_t options, const char *facts)
{
	int result = 0;

	*r->out = (struct host_pattern){ .count = 0 };
	if (facts)
		memcpy(r->out->pattern.hex, facts, sizeof(r->out->pattern.hex));
	else
		result = host_facts_key(r->out->pattern.hex);
	sha256_begin(&r->name);
	sha256_add(&r->name, r->out->pattern.hex, 64);
	sha256_add(&r->name, &options, sizeof(options));
	return result;
}

int host_pattern_read(struct host_pattern *p, const void *config, size_t size, uint32_t options, const char *facts)
{
	struct reader r = { .out = p };
	int result = begin_name(&r, options, facts);

	return result < 0 ? result : read_and_end(&r, CONFIG, config, size);
}

int host_exec_pattern(struct host_pattern *p, const struct host_container *c, bool file, const void *text, size_t size, const char *facts)
{
	struct reader r = { .out = p };
	int result = begin_name(&r, file, facts);
	char process[24];

	if (result < 0)
		return result;
	wherry_decimal((uint64_t)c->head->pid, process);
	host_add_namespaces(&r.name, process);
	sha256_add(&r.name, &c->head->start_time, sizeof(c->head->start_time));
	return read_and_end(&r, file ? PROCESS : CONFIG, text, size);
}

/* ---- the kind of a container -------------------------------------------------------------------------------------------------- */

enum { KIND = 0xfffe, NONE = 255 }; /* KIND: instead of options; with `file` in the lowest bit. NONE: no form */

static void add_blank(struct host_pattern *p, const char *text, size_t length)
{
	p->size += length;
	p->blanks[p->count++] = (struct host_blank){ text, (uint32_t)length, false };
}

/* Which cgroups the container is in: all but where they are. */
static int add_cgroups(struct reader *r, const struct host_container *c)
{
	const struct wherry_journal_entry *entry = (const void *)((const char *)c->head + c->head->journal_offset);
	struct host_pattern *p = r->out;

	for (const struct wherry_journal_entry *end = entry + c->head->journal_count; entry < end; entry++) {
		const char *path = host_text(c, entry->path);
		size_t length = entry->path.length, mount = entry->mount_length;

		if ((entry->kind != WHERRY_JOURNAL_CGROUP_V1 && entry->kind != WHERRY_JOURNAL_CGROUP_V2) ||
		    (entry->state != WHERRY_JOURNAL_DONE && entry->state != WHERRY_JOURNAL_FOREIGN))
			continue;
		if (!is_clean(path + mount, length - mount) || !is_plain(path, length) || p->count == WHERRY_MAX_BLANKS)
			return -EOPNOTSUPP;
		sha256_add(&r->name, &entry->kind, sizeof(entry->kind)); /* no byte of a plain path: it parts two of them */
		sha256_add(&r->name, path, mount);
		add_blank(p, path + mount + 1, length - mount - 1);
		p->kind.cgroups++;
	}
	return 0;
}

/* All that the container itself brings. */
static bool begin_kind(struct reader *r, const struct host_container *c, const struct host_bytes *config, bool file, const char *facts)
{
	struct host_pattern *p = r->out;
	bool known = begin_name(r, KIND | file, facts) == 0;

	wherry_decimal((uint64_t)c->head->pid, p->process);
	add_blank(p, p->process, strlen(p->process));
	p->kind.flags = c->head->flags;
	known = known && host_compare_namespaces(p->process, p->kind.relations) == 0 && add_cgroups(r, c) == 0;
	sha256_add(&r->name, &p->kind, sizeof(p->kind));
	r->only = file ? NONE : VARIABLE; /* the environment is the container's, and then the command's */
	return known && read_text(r, CONFIG, config->bytes, config->size) == 0;
}

static int end_kind(struct reader *r, bool file, const void *text, size_t size)
{
	bool known;

	r->only = 0;
	known = read_and_end(r, file ? PROCESS : CONFIG, text, size) == 0 && r->out->count < WHERRY_MAX_BLANKS;
	r->out->exact.hex[0] = 0;
	return known ? 0 : -EOPNOTSUPP;
}

int host_exec_kind(struct host_pattern *p, const struct host_container *c, const struct host_bytes *config, bool file, const void *text, size_t size,
		   const char *facts)
{
	struct reader r = { .out = p };

	return begin_kind(&r, c, config, file, facts) ? end_kind(&r, file, text, size) : -EOPNOTSUPP;
}

int host_foresee(struct host_foreseen *f, const struct host_container *c, const char *facts)
{
	cleanup_bytes struct host_bytes config = { NULL, 0 };
	struct reader r = { .out = &f->kind };

	if (host_map(c->directory, "config.json", &config) || !begin_kind(&r, c, &config, true, facts))
		return -EOPNOTSUPP;
	f->name = r.name;
	return 0;
}

int host_foreseen_kind(struct host_pattern *p, const struct host_foreseen *f, const void *text, size_t size)
{
	struct reader r = { .out = p, .name = f->name };

	*p = f->kind;
	p->blanks[0].text = p->process;
	return end_kind(&r, true, text, size);
}

static int kind_load(const struct host_container *c, const char *root, bool file, const void *text, size_t size, const char *facts, const void **plan,
		     size_t *plan_size)
{
	cleanup_bytes struct host_bytes config = { NULL, 0 };
	struct host_pattern kind;

	if (host_map(c->directory, "config.json", &config) || host_exec_kind(&kind, c, &config, file, text, size, facts))
		return -EOPNOTSUPP;
	return host_pattern_load(root, &kind, plan, plan_size);
}

int host_exec_plan(const struct host_container *c, const char *root, bool file, const void *text, size_t size, const char *facts, const void **plan,
		   size_t *plan_size)
{
	char key[65], directory[WHERRY_MAX_PATH];
	struct host_pattern pattern;
	int result = facts ? 0 : host_facts_key(key);

	if (result < 0)
		return result;
	facts = facts ? facts : key;
	if (faccessat(c->directory, "@plans", F_OK, 0) == 0 && host_join(directory, sizeof(directory), root, c->id) &&
	    host_exec_pattern(&pattern, c, file, text, size, facts) == 0 && host_pattern_load(directory, &pattern, plan, plan_size) == 0)
		return 0;
	return kind_load(c, root, file, text, size, facts, plan, plan_size);
}

/* ---- filling in --------------------------------------------------------------------------------------------------------------- */

struct filler {
	char *base, *at, *end; /* the new plan, its end so far, the end of its room */
	size_t size;           /* of the pattern: what stands behind is filled already */
	const struct host_pattern *pattern;
};

/* The number of the blank that a mark at `at` stands for, or -1. WHERRY_BLANK and two hexadecimal digits and "}". */
static int blank_number(const struct filler *f, const char *at, const char *end)
{
	static const char digits[] = "0123456789abcdef";
	const size_t head = sizeof(WHERRY_BLANK) - 1;
	const char *high, *low;
	uint32_t number;

	if ((size_t)(end - at) < WHERRY_BLANK_SIZE || memcmp(at, WHERRY_BLANK, head) || at[head + 2] != '}')
		return -1;
	high = memchr(digits, at[head], 16);
	low = memchr(digits, at[head + 1], 16);
	if (!high || !low)
		return -1;
	number = (uint32_t)((high - digits) << 4 | (low - digits));
	return number < f->pattern->count ? (int)number : -1;
}

static int put(struct filler *f, const char *text, size_t length)
{
	if (length >= (size_t)(f->end - f->at))
		return -EOVERFLOW;
	memcpy(f->at, text, length);
	f->at += length;
	return 0;
}

static int fill_text(void *data, struct wherry_text *text)
{
	struct filler *f = data;
	const char *from = f->base + text->offset, *at = from, *end = from + text->length;
	char *filled = f->at;
	int result = 0;

	if (!text->offset || text->offset >= f->size)
		return 0;
	while (result == 0 && (at = memchr(at, WHERRY_BLANK[0], (size_t)(end - at)))) {
		int number = blank_number(f, at, end);

		if (number < 0) {
			at++;
			continue;
		}
		result = put(f, from, (size_t)(at - from));
		if (result == 0)
			result = put(f, f->pattern->blanks[number].text, f->pattern->blanks[number].length);
		from = at += WHERRY_BLANK_SIZE;
	}
	if (result < 0 || from == f->base + text->offset)
		return result;
	result = put(f, from, (size_t)(end - from));
	if (result == 0) {
		text->offset = (uint32_t)(filled - f->base);
		text->length = (uint32_t)(f->at - filled);
		*f->at++ = 0;
	}
	return result;
}

int host_pattern_fill(const struct host_pattern *p, const void *plan, size_t size, const void **filled, size_t *filled_size)
{
	size_t room = size + 8 * (p->size + 4096); /* annotations come again in the state of each hook */
	char *base = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct filler f = { base, base + size, base + room, size, p };
	int result;

	if (base == MAP_FAILED)
		return -errno;
	memcpy(base, plan, size);
	result = wherry_each_text(base, fill_text, &f);
	if (result == 0) {
		while ((f.at - base) % 8)
			*f.at++ = 0;
		*filled = base;
		*filled_size = ((struct wherry_plan *)base)->size = (uint32_t)(f.at - base);
		return 0;
	}
	munmap(base, room);
	return result;
}

int host_pattern_load(const char *root, const struct host_pattern *p, const void **plan, size_t *size)
{
	const void *pattern;
	size_t pattern_size;
	int result = -ENOENT;

	if (p->exact.hex[0])
		result = host_cache_load(root, &p->exact, plan, size);
	if (result == 0)
		return 0;
	result = host_cache_load(root, &p->pattern, &pattern, &pattern_size);
	if (result < 0)
		return result;
	result = host_pattern_fill(p, pattern, pattern_size, plan, size);
	munmap((void *)pattern, pattern_size);
	return result;
}
