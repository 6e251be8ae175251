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
	free(config);
	return 0;
}
