/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading and filling plan patterns, on texts that are no configurations too. What the blanks are is tested from Python
 * (tests/unit/plan/test_pattern.py); this is for the sanitizers.
 */
#include "check.h"
#include "planmaker.h"
#include "wherry/host.h"

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

static const struct check_case cases[] = {
	{ "blanks_are_in_order", blanks_are_in_order },
	{ "cut_anywhere", cut_anywhere },
	{ "changed_anywhere", changed_anywhere },
	{ "more_blanks_than_there_is_room_for", more_blanks_than_there_is_room_for },
	{ "marks_are_filled", marks_are_filled },
	{ "what_is_no_mark_stays", what_is_no_mark_stays },
};

CHECK_MAIN(cases)
