/* SPDX-License-Identifier: Apache-2.0
 *
 * The reader of a configuration's blanks: it sees the bytes of config.json before any parser has looked at them.
 */
#include "fuzz.h"

int __wrap_host_facts_key(char out[65]);

int __wrap_host_facts_key(char out[65])
{
	memset(out, 'f', 64);
	out[64] = 0;
	return 0;
}

int __wrap_host_compare_namespaces(const char *process, uint8_t relations[HOST_NAMESPACES]);

int __wrap_host_compare_namespaces(const char *process, uint8_t relations[HOST_NAMESPACES])
{
	(void)process;
	memset(relations, 0, HOST_NAMESPACES);
	return 0;
}

/* As the configuration of a container, and as an exec in it. */
static void use_as_kind(const char *text, size_t size, bool file)
{
	static struct {
		struct wherry_record head;
		struct wherry_journal_entry entry;
		char path[16];
	} record = { { .pid = 1, .journal_count = 1 }, { WHERRY_JOURNAL_CGROUP_V2, WHERRY_JOURNAL_DONE, 0, 4, { 0, 6 } }, "/sys/a" };
	static struct host_pattern pattern;
	const struct host_container c = { .head = &record.head };
	const struct host_bytes bytes = { text, size };
	int result;

	record.head.journal_offset = offsetof(__typeof__(record), entry);
	record.entry.path.offset = offsetof(__typeof__(record), path);
	result = host_exec_kind(&pattern, &c, &bytes, file, text, size, NULL);
	fuzz_promise(result == 0 || result == -EOPNOTSUPP);
	for (uint32_t i = 2; result == 0 && i < pattern.count; i++) {
		size_t offset = (size_t)(pattern.blanks[i].text - text);

		fuzz_promise(offset <= size && pattern.blanks[i].length <= size - offset && !memchr(text + offset, '"', pattern.blanks[i].length));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct host_pattern pattern;
	uint8_t *config = malloc(size ? size : 1); /* of just this size: a byte read behind it is seen */
	size_t end = 0;
	int result;

	memcpy(config, data, size);
	result = host_pattern_read(&pattern, config, size, 0, NULL);
	fuzz_promise(result == 0 || result == -EBADMSG);
	fuzz_promise(pattern.count <= WHERRY_MAX_BLANKS);
	for (uint32_t i = 0; result == 0 && i < pattern.count; i++) {
		const struct host_blank *blank = &pattern.blanks[i];

		size_t offset = (size_t)(blank->text - (const char *)config);

		fuzz_promise(offset >= end && offset <= size && blank->length <= size - offset);
		fuzz_promise(!memchr(blank->text, '"', blank->length));
		end = offset + blank->length;
	}
	use_as_kind((const char *)config, size, size % 2);
	free(config);
	return 0;
}
