/* SPDX-License-Identifier: Apache-2.0
 *
 * The static program. Its name says which role it plays: the launcher and the attendant of a run are started by
 * that name from the sealed copy, all other names are the front.
 */
#include "wherry/front.h"

#include <string.h>

struct role {
	const char *name;
	int (*run)(int argc, char **argv);
};

static int launcher(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	return wherry_launcher_main();
}

static const struct role roles[] = {
	{ "wherry-launcher", launcher },
	{ "wherry-attend", attend_main },
};

int main(int argc, char **argv)
{
	if (argc > 0)
		for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++)
			if (!strcmp(argv[0], roles[i].name))
				return roles[i].run(argc, argv);
	return front_main(argc, argv);
}
