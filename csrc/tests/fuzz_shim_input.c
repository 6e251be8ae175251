/* SPDX-License-Identifier: Apache-2.0
 *
 * What the shim's front reads: standard input of `start`, and the configuration that it looks through for a group. The first byte says which.
 */
#include "fuzz.h"

#include "../shim/arguments.c"
#include "../shim/files.c"
#include "../shim/group.c"
#include "../shim/input.c"

#define GROUP "io.containerd.runc.v2.group"

static void promise_inside(struct shim_text text, struct shim_text of)
{
	fuzz_promise(!text.size || (text.data >= of.data && text.data + text.size <= of.data + of.size));
}

static void input(struct shim_text data)
{
	struct shim_call call = { .id = shim_word("one"), .namespace = shim_word("n") };

	if (parameters(&call, data)) {
		fuzz_promise(call.modern);
		promise_inside(call.ttrpc, data);
		promise_inside(call.directory, data);
		promise_inside(call.address, data);
		promise_inside(call.binary, data);
	}
	plain_options(data);
}

/* The whole of it: what was read can be read again. */
static void standard_input(struct shim_text data)
{
	static int file = -1;
	struct shim_call call = { .id = shim_word("one"), .namespace = shim_word("n") };
	char again[16384];

	file = fuzz_file(file, data.data, data.size);
	fuzz_promise(dup2(file, STDIN_FILENO) == STDIN_FILENO);
	shim_input(&call);
	fuzz_promise(read(STDIN_FILENO, again, sizeof(again)) == (ssize_t)data.size && !memcmp(again, data.data, data.size));
}

/* What is found is a whole string behind the only key of its name. */
static void group(struct shim_text config)
{
	static const char key[] = GROUP;
	struct shim_text found;
	const char *at;

	if (!look_for(config, key, &found))
		return;
	at = memmem(config.data, config.size, key, sizeof(key) - 1);
	fuzz_promise(!at == !found.data);
	if (!at)
		return;
	promise_inside(found, config);
	fuzz_promise(found.data > at && found.data[-1] == '"' && found.data[found.size] == '"');
	fuzz_promise(!memchr(found.data, '"', found.size) && !memchr(found.data, '\\', found.size));
	fuzz_promise(at[-1] == '"' && at[-2] != '\\' && !memmem(at + 1, config.size - (size_t)(at + 1 - config.data), key, sizeof(key) - 1));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct shim_text copy = { 0 };
	char *bytes;

	if (size < 2 || size > 16000)
		return -1;
	bytes = malloc(size - 1);
	memcpy(bytes, data + 1, size - 1);
	copy = (struct shim_text){ bytes, size - 1 };
	if (*data % 4 == 0)
		standard_input(copy);
	else if (*data % 4 == 1)
		group(copy);
	else
		input(copy);
	free(bytes);
	return 0;
}

/* From what containerd says. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned int seed)
{
	static const char boot[] = "\x0a\x03one\x12\x01n\x18\xfc\xff\xff\xff\xff\xff\xff\xff\xff\x01\x2a\x02/t\x32\x02/g\x3a\x02/b\x4a\x02/s\x42\x20\x0a\x1e\x0a\x1a"
				   "containerd.runc.v1.Options\x12\x00";
	static const char options[] = "\x0a\x1a" "containerd.runc.v1.Options" "\x12\x06\x12\x02io\x38\x01";
	static const char config[] = "{\"annotations\":{\"a\":\"\\n\",\"" GROUP "\" : \"g\"}}";
	const struct shim_text begin[] = { { boot, sizeof(boot) - 1 }, { config, sizeof(config) - 1 }, { options, sizeof(options) - 1 } };

	if (size < 4 && room > 256) {
		const struct shim_text one = begin[seed % 3];

		data[0] = seed % 3 == 1 ? 1 : (uint8_t)(seed >> 8 & 2);
		memcpy(data + 1, one.data, one.size);
		return one.size + 1;
	}
	return LLVMFuzzerMutate(data, size, room);
}
