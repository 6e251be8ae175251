/* SPDX-License-Identifier: Apache-2.0
 *
 * The record in a container's state directory: what a crash, a full disk or another version left there.
 */
#include "fuzz.h"

#include <stdio.h>
#include <sys/stat.h>

static char root[64];

static void remove_root(void)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/one/record", root);
	unlink(path);
	snprintf(path, sizeof(path), "%s/one", root);
	rmdir(path);
	rmdir(root);
}

static int record_file(void)
{
	char path[128];
	int file;

	strcpy(root, "/dev/shm/wherry-fuzz-XXXXXX");
	if (!mkdtemp(root)) {
		strcpy(root, "/tmp/wherry-fuzz-XXXXXX");
		fuzz_promise(mkdtemp(root) != NULL);
	}
	snprintf(path, sizeof(path), "%s/one", root);
	fuzz_promise(mkdir(path, 0700) == 0);
	snprintf(path, sizeof(path), "%s/one/record", root);
	file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	atexit(remove_root);
	return file;
}

static void use_text(const struct host_container *c, struct wherry_text text)
{
	fuzz_promise(strlen(host_text(c, text)) <= text.length);
}

static void use(const struct host_container *c)
{
	const struct wherry_record *r = c->head;
	const struct wherry_journal_entry *entry = (const void *)((const char *)r + r->journal_offset);

	fuzz_promise(strlen(r->boot_id) < sizeof(r->boot_id));
	use_text(c, r->state_head);
	use_text(c, r->state_middle);
	use_text(c, r->state_tail);
	for (uint32_t i = 0; i < r->journal_count; i++)
		use_text(c, entry[i].path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int file = -1;
	struct host_container c;
	int result;

	file = fuzz_file(file < 0 ? record_file() : file, data, size);
	result = host_open(&c, root, "one");
	fuzz_promise(result == 0 || result == -EBADMSG || result == -WHERRY_WRONG_VERSION || result == -WHERRY_OTHER_BUILD);
	fuzz_promise((result == 0 || result == -WHERRY_OTHER_BUILD) == (c.head != NULL));
	if (c.head)
		use(&c);
	host_close(&c);
	return 0;
}

/* To end inside of the file, at its last byte. */
static void aim(struct wherry_text *text, uint32_t size)
{
	text->offset %= size;
	text->length = size - 1 - text->offset;
}

/* Keeps magic, version and size true, which nothing random would hit, and mostly what the texts need. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned int seed)
{
	struct wherry_record head = { .journal_offset = sizeof(head) };

	size = LLVMFuzzerMutate(data, size, room);
	if (size < sizeof(head) && room >= sizeof(head)) {
		memset(data + size, 0, sizeof(head) - size);
		size = sizeof(head);
	}
	if (size < sizeof(head))
		return size;
	memcpy(&head, data, sizeof(head));
	head.magic = WHERRY_RECORD_MAGIC;
	head.version = WHERRY_VERSION;
	head.size = (uint32_t)size;
	if (seed % 8) {
		head.boot_id[sizeof(head.boot_id) - 1] = 0;
		head.journal_offset = head.journal_offset % (uint32_t)size & ~7U;
		head.journal_count %= 4;
		aim(&head.state_head, head.size);
		aim(&head.state_middle, head.size);
		aim(&head.state_tail, head.size);
		data[size - 1] = 0;
	}
	memcpy(data, &head, sizeof(head));
	return size;
}
