/* SPDX-License-Identifier: Apache-2.0
 *
 * What the targets of libFuzzer share (`make fuzz`). A target is fuzz_NAME.c with LLVMFuzzerTestOneInput.
 */
#ifndef WHERRY_TESTS_FUZZ_H
#define WHERRY_TESTS_FUZZ_H

#include "wherry/host.h"
#include "wherry/sys.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned int seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t room);

__attribute__((unused)) static void fuzz_promise(bool holds)
{
	if (!holds)
		abort();
}

/* A file with this content, at its beginning. `file` is that of the last time, or -1. */
__attribute__((unused)) static int fuzz_file(int file, const void *data, size_t size)
{
	if (file < 0)
		file = memfd_create("fuzz", MFD_CLOEXEC);
	fuzz_promise(file >= 0 && ftruncate(file, 0) == 0 && pwrite(file, data, size, 0) == (ssize_t)size && lseek(file, 0, SEEK_SET) == 0);
	return file;
}

#endif
