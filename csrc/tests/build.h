/* SPDX-License-Identifier: Apache-2.0
 *
 * Single operations without a plan around them: a heap for texts and blobs, a machine that stands on it, and throw-away children
 * to run an operation in.
 */
#ifndef WHERRY_BUILD_H
#define WHERRY_BUILD_H

#include "check.h"
#include "wherry/core.h"
#include "wherry/sys.h"

#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>

static struct wherry_machine build_machine;
static uint8_t build_heap[1 << 20] __attribute__((aligned(8)));
static size_t build_used;

/* An empty machine of init, whose root is "/". */
__attribute__((unused)) static struct wherry_machine *build_begin(void)
{
	memset(&build_machine, 0, sizeof(build_machine));
	for (size_t i = 0; i < WHERRY_MAX_REGISTERS; i++)
		build_machine.registers[i] = -1;
	build_machine.executor = WHERRY_INIT;
	build_machine.caller = build_machine.helper = build_machine.init_pidfd = build_machine.pending_fd = -1;
	build_machine.start_fifo = build_machine.result_fifo = -1;
	build_machine.rootfs = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	build_machine.code.base = build_heap;
	build_machine.code.size = sizeof(build_heap);
	build_used = 8; /* offset 0 says "absent" */
	return &build_machine;
}

__attribute__((unused)) static uint32_t build_bytes(const void *bytes, size_t size)
{
	uint32_t offset = (uint32_t)build_used;

	if (size + 16 > sizeof(build_heap) - build_used)
		abort();
	memcpy(build_heap + offset, bytes, size);
	build_heap[offset + size] = 0;
	build_used = (build_used + size + 8) & ~(size_t)7;
	return offset;
}

__attribute__((unused)) static struct wherry_text build_text(const char *text)
{
	return text ? (struct wherry_text){ build_bytes(text, strlen(text)), (uint32_t)strlen(text) } : (struct wherry_text){ 0, 0 };
}

__attribute__((unused)) static struct wherry_template build_template(const char *text)
{
	struct wherry_text plain = build_text(text);

	return (struct wherry_template){ plain.offset, plain.length };
}

__attribute__((unused)) static struct wherry_blob build_blob(const void *bytes, size_t size)
{
	return (struct wherry_blob){ build_bytes(bytes, size), (uint32_t)size };
}

/* Texts up to a NULL. */
__attribute__((unused)) static struct wherry_list build_list(const char *first, ...)
{
	struct wherry_text texts[64];
	struct wherry_list list = { 0, 0 };
	va_list rest;

	va_start(rest, first);
	for (const char *text = first; text; text = va_arg(rest, const char *))
		texts[list.count++] = build_text(text);
	va_end(rest);
	if (list.count)
		list.offset = build_bytes(texts, list.count * sizeof(texts[0]));
	return list;
}

/* Runs `function` in a child; the child's failed checks fail the test. */
__attribute__((unused)) static void in_child(void (*function)(void))
{
	int status = -1;
	pid_t pid = fork();

	if (pid == 0) {
		check_failures = 0;
		alarm(30);
		function();
		check_exit();
	}
	CHECK(pid > 0);
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK_EQUAL(status, 0);
}

/* What a command prints, in `out`; its wait status. */
__attribute__((unused)) static int build_read_all(int fd, char *out, size_t size)
{
	size_t length = 0;
	ssize_t count;

	while (length + 1 < size && (count = TEMP_FAILURE_RETRY(read(fd, out + length, size - 1 - length))) > 0)
		length += (size_t)count;
	out[length] = 0;
	return (int)length;
}

__attribute__((unused)) static void build_write(const char *path, const char *text, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);

	CHECK(fd >= 0);
	CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	CHECK(fchmod(fd, mode) == 0);
	close(fd);
}

#endif
