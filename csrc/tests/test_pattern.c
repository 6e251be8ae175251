/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading and filling plan patterns, on texts that are no configurations too. What the blanks are is tested from Python
 * (tests/unit/plan/test_pattern.py); this is for the sanitizers.
 */
#include "check.h"
#include "planmaker.h"
#include "wherry/host.h"

#include <fcntl.h>
#include <sys/mman.h>

static const char config[] =
	"{\"hostname\": \"box\", \"process\": {\"args\": [\"sh\", \"-c\", \"a \\\"b\\\"\"], \"env\": [\"PATH=/bin\", \"A=b=c\", \"B=\"]}, "
	"\"root\": {\"path\": \"/srv/root\"}, \"mounts\": [{\"destination\": \"/x\", \"source\": \"/y\"}], \"annotations\": {\"k\": \"v\", \"org.k\": \"v\"}}";

static struct host_pattern pattern;

static void blanks_are_in_order(void)
{
	static const char *const expected[] = { "box", "sh", "-c", "b=c", "", "srv/root", "y", "v" };

	CHECK_EQUAL(host_pattern_read(&pattern, config, strlen(config), 0, NULL), 0);
	CHECK_EQUAL(pattern.count, WHERRY_LENGTH(expected));
	for (size_t i = 0; i < WHERRY_LENGTH(expected); i++) {
		CHECK_EQUAL(pattern.blanks[i].length, strlen(expected[i]));
		CHECK(!memcmp(pattern.blanks[i].text, expected[i], strlen(expected[i])));
	}
}

/* Every prefix, in memory that ends with it. */
static void cut_anywhere(void)
{
	for (size_t size = 0; size < strlen(config); size++) {
		char *text = malloc(size + 1);

		memcpy(text, config, size);
		host_pattern_read(&pattern, text, size, 0, NULL);
		CHECK(pattern.count <= 8);
		free(text);
	}
}

static void changed_anywhere(void)
{
	static const char bytes[] = "\"\\{}[]:,/.\0\1\x7f\xff@";
	uint32_t seed = 1;

	for (int round = 0; round < 20000; round++) {
		char text[sizeof(config)];

		memcpy(text, config, sizeof(config));
		for (int i = 0; i < 3; i++) {
			seed = seed * 1664525 + 1013904223;
			text[(seed >> 8) % strlen(config)] = bytes[(seed >> 24) % (sizeof(bytes) - 1)];
		}
		if (host_pattern_read(&pattern, text, strlen(config), 0, NULL))
			continue;
		for (uint32_t i = 0; i < pattern.count; i++)
			CHECK((size_t)(pattern.blanks[i].text - text) + pattern.blanks[i].length <= strlen(config));
	}
}

static void more_blanks_than_there_is_room_for(void)
{
	static char text[8192];
	size_t size = (size_t)snprintf(text, sizeof(text), "{\"process\": {\"args\": [");

	for (int i = 0; i < 200; i++)
		size += (size_t)snprintf(text + size, sizeof(text) - size, "%s\"argument\"", i ? "," : "");
	size += (size_t)snprintf(text + size, sizeof(text) - size, "]}}");
	CHECK_EQUAL(host_pattern_read(&pattern, text, size, 0, NULL), 0);
	CHECK_EQUAL(pattern.count, WHERRY_MAX_BLANKS);
}

static struct planmaker plan;

static const char *filled_hostname(const char *name, const char *in_plan)
{
	static char result[256];
	char text[256];
	const void *filled;
	size_t size;
	struct wherry_op_hostname *op;
	int error;

	snprintf(text, sizeof(text), "{\"hostname\": \"%s\", \"process\": {\"args\": [\"%s\"]}}", name, "second");
	CHECK_EQUAL(host_pattern_read(&pattern, text, strlen(text), 0, NULL), 0);
	plan_begin(&plan);
	op = PLAN_ADD(&plan, OP_HOSTNAME, WHERRY_INIT, wherry_op_hostname);
	op->name = plan_text(&plan, in_plan);
	plan_finish(&plan);
	error = host_pattern_fill(&pattern, plan.plan, plan.size, &filled, &size);
	if (error)
		return NULL;
	op = (void *)((char *)filled + ((const struct wherry_plan *)filled)->steps_offset);
	CHECK_EQUAL(((const struct wherry_plan *)filled)->size, size);
	CHECK((size_t)op->name.offset + op->name.length < size && !((const char *)filled)[op->name.offset + op->name.length]);
	memcpy(result, (const char *)filled + op->name.offset, op->name.length + 1);
	munmap((void *)filled, size);
	return result;
}

static void marks_are_filled(void)
{
	CHECK_TEXT(filled_hostname("box", "@{wherry:00}"), "box");
	CHECK_TEXT(filled_hostname("box", "<@{wherry:01}+@{wherry:00}>"), "<second+box>");
	CHECK_TEXT(filled_hostname("@{wherry:01}", "@{wherry:00}"), "@{wherry:01}");
}

static void what_is_no_mark_stays(void)
{
	static const char *const texts[] = { "", "@", "@{wherry:", "@{wherry:0", "@{wherry:00", "@{wherry:02}", "@{wherry:ff}", "@{wherry:0g}", "@{wherry:00]" };

	for (size_t i = 0; i < WHERRY_LENGTH(texts); i++)
		CHECK_TEXT(filled_hostname("box", texts[i]), texts[i]);
}

/* ---- kinds */

static struct {
	struct wherry_record head;
	struct wherry_journal_entry entry[4];
	char texts[256];
} record;

static void put_entry(size_t index, int kind, int state, uint32_t mount_length, const char *path)
{
	char *at = record.texts + 64 * index;

	CHECK(strlen(path) < 64);
	strcpy(at, path);
	record.entry[index] = (struct wherry_journal_entry){ .kind = (uint8_t)kind, .state = (uint8_t)state, .mount_length = mount_length,
							     .path = { (uint32_t)(at - (char *)&record), (uint32_t)strlen(path) } };
}

static void make_record(pid_t pid, const char *first, const char *second)
{
	record.head = (struct wherry_record){ .pid = pid, .flags = 5, .journal_count = 4, .journal_offset = offsetof(__typeof__(record), entry) };
	put_entry(0, WHERRY_JOURNAL_CGROUP_V1, WHERRY_JOURNAL_DONE, 4, first);
	put_entry(1, WHERRY_JOURNAL_CGROUP_V1, WHERRY_JOURNAL_UNDONE, 4, "/sys/away");
	put_entry(2, WHERRY_JOURNAL_CGROUP_V2, WHERRY_JOURNAL_FOREIGN, 8, second);
	put_entry(3, WHERRY_JOURNAL_MOUNT, WHERRY_JOURNAL_DONE, 0, "/some/where");
}

static int kind_of(const char *text, const char *process, bool file)
{
	static const char facts[65] = "0123456789012345678901234567890123456789012345678901234567890123";
	const struct host_container c = { .head = &record.head, .size = sizeof(record) };
	const struct host_bytes bytes = { text, strlen(text) };

	return host_exec_kind(&pattern, &c, &bytes, file, process, strlen(process), facts);
}

static struct host_cache_key kind(pid_t pid, const char *first, const char *second, const char *text, const char *process, bool file)
{
	make_record(pid, first, second);
	CHECK_EQUAL(kind_of(text, process, file), 0);
	return pattern.pattern;
}

#define DIFFERS(key, other) CHECK(memcmp((key).hex, (other).hex, 64) != 0)

static void containers_of_a_kind(void)
{
	static const char *const expected[] = { "", "a", "b/c", "b=c", "", "true", "x" }; /* without the number; config's, command's */
	static const char process[] = "{\"process\":{\"env\":[],\"args\":[\"true\",\"x\"]}}";
	static const char renamed[] = "{\"hostname\": \"bo\", \"process\": {\"args\": [\"h\"], \"env\": [\"A=c\"]}}";
	static const char again[] = "{\"hostname\": \"other\", \"process\": {\"args\": [\"sh\"], \"env\": [\"A=\"]}}";
	struct host_cache_key one = kind(getpid(), "/sys/a", "/sys/cgr/b/c", config, process, false), file;
	char number[24];

	CHECK_EQUAL(pattern.count, WHERRY_LENGTH(expected));
	CHECK_EQUAL(pattern.kind.cgroups, 2);
	wherry_decimal((uint64_t)getpid(), number);
	CHECK_EQUAL(pattern.blanks[0].length, strlen(number));
	CHECK(!memcmp(pattern.blanks[0].text, number, strlen(number)));
	for (size_t i = 1; i < WHERRY_LENGTH(expected); i++) {
		CHECK_EQUAL(pattern.blanks[i].length, strlen(expected[i]));
		CHECK(!memcmp(pattern.blanks[i].text, expected[i], strlen(expected[i])));
	}
	DIFFERS(one, kind(getpid(), "/sys/a", "/sys/cgr/b/c", renamed, process, false));
	file = kind(getpid(), "/sys/a", "/sys/cgr/b/c", renamed, "{\"args\":[\"true\"]}", true);
	CHECK_EQUAL(pattern.count, 4);
	one = kind(getpid(), "/sys/a", "/sys/cgr/b/c", renamed, process, false);
	CHECK(!memcmp(one.hex, kind(getppid(), "/sys/bb", "/sys/cgr/d", again, process, false).hex, 64));
	CHECK(!memcmp(file.hex, kind(getppid(), "/sys/bb", "/sys/cgr/d", again, "{\"args\":[\"f\"]}", true).hex, 64));
	DIFFERS(one, file);
	DIFFERS(one, kind(getpid(), "/syz/a", "/sys/cgr/b/c", renamed, process, false));
	make_record(getpid(), "/sys/a", "/sys/cgr/b/c");
	record.head.flags ^= WHERRY_RECORD_KEYRING;
	CHECK_EQUAL(kind_of(renamed, process, false), 0);
	DIFFERS(one, pattern.pattern);
	make_record(getpid(), "/sys/a", "/sys/cgr/b/c");
	record.entry[1].state = WHERRY_JOURNAL_DONE;
	CHECK_EQUAL(kind_of(renamed, process, false), 0);
	DIFFERS(one, pattern.pattern);
}

static void of_no_kind(void)
{
	static const char *const paths[] = { "/sys", "/sys/", "/sysa", "/sys/a/../b", "/sys//a", "/sys/a\1", "/sy\1/a", "/sys/\xff" };
	static const char process[] = "{\"args\":[\"true\"]}";
	static char many[8192];
	size_t size = 0;

	for (size_t i = 0; i < WHERRY_LENGTH(paths); i++) {
		make_record(getpid(), paths[i], "/sys/cgr/b");
		CHECK_EQUAL(kind_of(config, process, true), -EOPNOTSUPP);
	}
	make_record(1 << 22, "/sys/a", "/sys/cgr/b"); /* nobody */
	CHECK_EQUAL(kind_of(config, process, true), -EOPNOTSUPP);
	make_record(getpid(), "/sys/a", "/sys/cgr/b");
	CHECK_EQUAL(kind_of("{\"a", process, true), -EOPNOTSUPP);
	CHECK_EQUAL(kind_of(config, "]", true), -EOPNOTSUPP);
	size = (size_t)snprintf(many, sizeof(many), "{\"args\": [");
	for (int i = 0; i < 200; i++)
		size += (size_t)snprintf(many + size, sizeof(many) - size, "%s\"argument\"", i ? "," : "");
	snprintf(many + size, sizeof(many) - size, "]}");
	CHECK_EQUAL(kind_of(config, many, true), -EOPNOTSUPP);
}

static struct host_foreseen foreseen;

static int foresee(const char *text)
{
	static const char facts[65] = "0123456789012345678901234567890123456789012345678901234567890123";
	char root[] = "/tmp/wherry-pattern-XXXXXX";
	struct host_container c = { .head = &record.head, .size = sizeof(record) };
	int file, result;

	CHECK(mkdtemp(root) != NULL);
	c.directory = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	file = openat(c.directory, "config.json", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	CHECK_EQUAL(write(file, text, strlen(text)), strlen(text));
	close(file);
	result = host_foresee(&foreseen, &c, facts);
	unlinkat(c.directory, "config.json", 0);
	close(c.directory);
	rmdir(root);
	return result;
}

/* The container first, the process.json later, and another one: the same names and blanks as in one step. */
static void in_two_steps(void)
{
	static const char *const processes[] = { "{\"args\":[\"true\",\"x\"]}", "{\"args\":[\"true\",\"longer\"],\"env\":[\"A=b\"]}", "{}" };
	static struct host_pattern later;

	make_record(getpid(), "/sys/a", "/sys/cgr/b/c");
	CHECK_EQUAL(foresee(config), 0);
	for (size_t i = 0; i < WHERRY_LENGTH(processes); i++) {
		const char *text = processes[i];

		CHECK_EQUAL(host_foreseen_kind(&later, &foreseen, text, strlen(text)), 0);
		CHECK_EQUAL(kind_of(config, text, true), 0);
		CHECK(!memcmp(&later.pattern, &pattern.pattern, sizeof(pattern.pattern)));
		CHECK(!memcmp(&later.kind, &pattern.kind, sizeof(pattern.kind)));
		CHECK(!later.exact.hex[0] && !pattern.exact.hex[0]);
		CHECK_EQUAL(later.size, pattern.size);
		CHECK_EQUAL(later.count, pattern.count);
		CHECK(later.blanks[0].text == later.process);
		for (uint32_t n = 0; n < later.count; n++)
			CHECK(later.blanks[n].length == pattern.blanks[n].length &&
			      !memcmp(later.blanks[n].text, pattern.blanks[n].text, later.blanks[n].length));
	}
	CHECK_EQUAL(host_foreseen_kind(&later, &foreseen, "]", 1), -EOPNOTSUPP);
	CHECK_EQUAL(foresee("{\"a"), -EOPNOTSUPP);
	make_record(getpid(), "/sysa", "/sys/cgr/b/c");
	CHECK_EQUAL(foresee(config), -EOPNOTSUPP);
}

static const struct check_case cases[] = {
	{ "blanks_are_in_order", blanks_are_in_order },
	{ "cut_anywhere", cut_anywhere },
	{ "changed_anywhere", changed_anywhere },
	{ "more_blanks_than_there_is_room_for", more_blanks_than_there_is_room_for },
	{ "marks_are_filled", marks_are_filled },
	{ "what_is_no_mark_stays", what_is_no_mark_stays },
	{ "containers_of_a_kind", containers_of_a_kind },
	{ "of_no_kind", of_no_kind },
	{ "in_two_steps", in_two_steps },
};

CHECK_MAIN(cases)
