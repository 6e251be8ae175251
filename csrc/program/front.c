// SPDX-License-Identifier: Apache-2.0
//
// The front's agenda: read the command line, answer the verb if it is on the common path, else become Python.
#include <string.h>
#include <unistd.h>

#include "wherry/front.h"
#include "wherry/sys.h"

const struct front_verb front_verbs[FRONT_VERBS] = {
	[FRONT_STATE] = {"state", front_state},
	[FRONT_START] = {"start", front_start},
	[FRONT_KILL] = {"kill", front_kill},
	[FRONT_DELETE] = {"delete", front_delete},
	[FRONT_CREATE] = {"create", front_create},
	[FRONT_RUN] = {"run", front_run},
	[FRONT_EXEC] = {"exec", front_exec},
};

// WHERRY_FRONT=off: every verb through Python, which the tests compare with this. Socket activation and a service manager's socket are
// Python's: they change the container's environment, and so the plan
static bool switched_off(void)
{
	for (char **e = environ; *e; e++)
		if (!strcmp(*e, "WHERRY_FRONT=off") || !strncmp(*e, "LISTEN_FDS=", 11) || !strncmp(*e, "NOTIFY_SOCKET=", 14))
			return true;
	return false;
}

int front_main(int argc, char **argv)
{
	static struct front f;
	int status = FRONT_PYTHON;

	f.argv = argv;
	if (!switched_off() && front_arguments(&f, argc, argv))
		status = front_verbs[f.number].answer(&f);
	return status == FRONT_PYTHON ? front_python(&f) : status;
}
