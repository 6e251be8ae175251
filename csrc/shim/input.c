/* SPDX-License-Identifier: Apache-2.0
 *
 * Standard input of `start`: nothing, an Any with options, or BootstrapParams (containerd 2.3 and later). Read here is what a server needs to know
 * of it; an option that asks something of `start` itself (shim_cgroup), and any message that is not as it should be, is Python's.
 */
#include "shim.h"

#include <string.h>

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

struct field { uint32_t number, wire; uint64_t value; struct shim_text text; };

static bool varint(struct shim_text *rest, uint64_t *value)
{
	*value = 0;
	for (unsigned int shift = 0; shift < 64; shift += 7) {
		uint8_t byte;

		if (!rest->size)
			return false;
		byte = (uint8_t)*rest->data++;
		rest->size--;
		*value |= (uint64_t)(byte & 127) << shift;
		if (byte < 128)
			return true;
	}
	return false;
}

/* The next field of a message. 1 = there is one, 0 = the end, -1 = no message. */
static int next(struct shim_text *rest, struct field *f)
{
	uint64_t tag;
	size_t skip;

	if (!rest->size)
		return 0;
	if (!varint(rest, &tag) || tag >> 32 || !(tag >> 3))
		return -1;
	*f = (struct field){ .number = (uint32_t)(tag >> 3), .wire = tag & 7 };
	if (f->wire == VARINT)
		return varint(rest, &f->value) ? 1 : -1;
	if (f->wire == BYTES && !varint(rest, &f->value))
		return -1;
	skip = f->wire == BYTES ? f->value : f->wire == FIXED64 ? 8 : f->wire == FIXED32 ? 4 : SIZE_MAX;
	if (skip > rest->size)
		return -1;
	f->text = (struct shim_text){ rest->data, skip };
	rest->data += skip;
	rest->size -= skip;
	return 1;
}

/* An Any whose options ask nothing of `start`. */
static bool plain_options(struct shim_text any)
{
	struct shim_text type = { 0 }, value = { 0 };
	struct field f;
	int more;

	while ((more = next(&any, &f)) > 0) {
		if (f.wire != BYTES || f.number > 2)
			return false;
		*(f.number == 1 ? &type : &value) = f.text;
	}
	if (more < 0 || (!shim_is(type, "containerd.runc.v1.Options") && !shim_is(type, "runtimeoptions.v1.Options")))
		return false;
	if (shim_is(type, "runtimeoptions.v1.Options"))
		return true;
	while ((more = next(&value, &f)) > 0)
		if (f.number == 3)
			return false;
	return !more;
}

static bool plain_extension(struct shim_text extension)
{
	struct field f;
	int more;

	while ((more = next(&extension, &f)) > 0)
		if (f.number != 1 || f.wire != BYTES || !plain_options(f.text))
			return false;
	return !more;
}

static bool parameters(struct shim_call *call, struct shim_text rest)
{
	struct shim_text texts[10] = { 0 };
	struct field f;
	int more;

	while ((more = next(&rest, &f)) > 0) {
		if (f.number == 3 && f.wire == VARINT)
			call->debug |= (int64_t)f.value < 0;
		else if (f.number > 9 || f.wire != BYTES || (f.number == 8 && !plain_extension(f.text)))
			return false;
		else
			texts[f.number] = f.text;
	}
	if (more < 0 || !shim_same(texts[1], call->id) || !shim_same(texts[2], call->namespace))
		return false;
	call->modern = true;
	call->ttrpc = texts[5];
	if (texts[6].size)
		call->address = texts[6];
	if (texts[7].size)
		call->binary = texts[7];
	call->directory = texts[9];
	return true;
}

/* What has been read cannot be read again from a pipe: whoever comes after us gets it from a file. */
static bool put_back(const char *data, size_t size)
{
	cleanup_fd int fd = sys_memfd_create("input", MFD_CLOEXEC);

	return fd >= 0 && !wherry_write_all(fd, data, size) && !lseek(fd, 0, SEEK_SET) && dup2(fd, STDIN_FILENO) == STDIN_FILENO;
}

bool shim_input(struct shim_call *call)
{
	static char data[SHIM_INPUT];
	size_t size = 0;
	ssize_t got;

	if (isatty(STDIN_FILENO))
		return true;
	do {
		got = TEMP_FAILURE_RETRY(read(STDIN_FILENO, data + size, sizeof(data) - size));
		if (got > 0)
			size += (size_t)got;
	} while (got > 0 && size < sizeof(data));
	if (size && (size == sizeof(data) || !put_back(data, size))) {
		shim_say(shim_word("containerd-shim-wherry-v2: too much on standard input\n"));
		_exit(1);
	}
	if (got < 0)
		return false;
	return !size || parameters(call, (struct shim_text){ data, size }) || plain_options((struct shim_text){ data, size });
}
