/* SPDX-License-Identifier: Apache-2.0
 *
 * The container's passwd file, which is the container's to write. The first four bytes are the uid, the rest is the file.
 */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int file = -1;
	uint32_t uid;
	char home[64];
	int result;

	if (size < sizeof(uid))
		return -1;
	memcpy(&uid, data, sizeof(uid));
	file = fuzz_file(file, data + sizeof(uid), size - sizeof(uid));
	memset(home, 'x', sizeof(home));
	result = passwd_home(file, uid % 4 ? uid % 2000 : uid, home, sizeof(home));
	fuzz_promise(result == 0 || result == -ENOENT);
	fuzz_promise(memchr(home, 0, sizeof(home)) != NULL);
	fuzz_promise(result ? !home[0] : home[0] == '/');
	fuzz_promise(!strpbrk(home, ":\n"));
	return 0;
}
