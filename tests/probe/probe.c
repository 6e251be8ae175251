// SPDX-License-Identifier: Apache-2.0
//
//     probe                          reports everything but calls and sysctls
//     probe report SECTION...        reports these
//     probe report all               reports everything
//     probe sysctl NAME...           reports these values
//     probe ACTION ARGUMENT...       see actions.c
#include "probe.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

int given_count;
char **given_arguments, **given_environment;

static const struct section *const tables[] = { process_sections, system_sections, long_sections };
enum { TABLES = sizeof(tables) / sizeof(tables[0]) };

static bool wanted(const struct section *table, const char *name, int count, char **names)
{
	for (int i = 0; i < count; i++)
		if (strcmp(names[i], name) == 0 || strcmp(names[i], "all") == 0)
			return true;
	return count == 0 && table != long_sections;
}

static bool is_section(const char *name)
{
	for (size_t t = 0; t < TABLES; t++)
		for (const struct section *s = tables[t]; s->name; s++)
			if (strcmp(s->name, name) == 0)
				return true;
	return strcmp(name, "all") == 0;
}

static int report(int count, char **names)
{
	for (int i = 0; i < count; i++) {
		if (!is_section(names[i])) {
			dprintf(STDERR_FILENO, "probe: no section %s\n", names[i]);
			return 2;
		}
	}
	json_open(NULL, '{');
	for (size_t t = 0; t < TABLES; t++)
		for (const struct section *s = tables[t]; s->name; s++)
			if (wanted(tables[t], s->name, count, names))
				s->report(s->name);
	json_close();
	json_end();
	return 0;
}

static int sysctl_values(int count, char **names)
{
	char path[512];

	json_open(NULL, '{');
	for (int i = 0; i < count; i++) {
		snprintf(path, sizeof(path), "/proc/sys/%s", names[i]);
		if (!strchr(names[i], '/'))
			for (char *c = path + strlen("/proc/sys/"); *c; c++)
				*c = *c == '.' ? '/' : *c;
		json_file(names[i], path);
	}
	json_close();
	json_end();
	return 0;
}

int main(int argc, char **argv, char **envp)
{
	given_count = argc;
	given_arguments = argv;
	given_environment = envp;
	if (argc < 2)
		return report(0, NULL);
	if (strcmp(argv[1], "report") == 0)
		return report(argc - 2, argv + 2);
	if (strcmp(argv[1], "sysctl") == 0)
		return sysctl_values(argc - 2, argv + 2);
	for (const struct action *a = actions; a->name; a++)
		if (strcmp(a->name, argv[1]) == 0)
			return a->run(argc - 2, argv + 2);
	dprintf(STDERR_FILENO, "probe: no action %s; report, sysctl", argv[1]);
	for (const struct action *a = actions; a->name; a++)
		dprintf(STDERR_FILENO, ", %s %s", a->name, a->usage);
	dprintf(STDERR_FILENO, "\n");
	return 2;
}
