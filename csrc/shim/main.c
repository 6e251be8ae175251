/* SPDX-License-Identifier: Apache-2.0 */
#include "shim.h"

#include <string.h>

static const char script[] = "containerd-shim-wherry-python";

/* Its first line names the interpreter: every installer rewrites it. */
static int become_python(char **argv)
{
	static char path[SHIM_PATH];
	ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - sizeof(script));

	while (length > 0 && path[length - 1] != '/')
		length--;
	if (length > 0) {
		memcpy(path + length, script, sizeof(script));
		argv[0] = path;
		execve(path, argv, environ);
	}
	shim_say(shim_word("containerd-shim-wherry-v2: cannot execute "));
	shim_say(shim_word(path));
	shim_say(shim_word(", which is installed beside it; install wherry again\n"));
	return 1;
}

int main(int argc, char **argv)
{
	struct shim_call call = { 0 };
	const bool usual = argc > 0 && shim_arguments(&call, argv);
	int status = -1;

	if (argc > 0 && !usual && !call.action && call.namespace.size && shim_is_porter())
		return shim_porter(argv);
	if (usual) {
		if (!strcmp(call.action, "delete"))
			status = shim_delete(&call);
		else if (shim_input(&call))
			status = shim_start(&call, argv);
	}
	return status >= 0 ? status : become_python(argv);
}
