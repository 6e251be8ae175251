// SPDX-License-Identifier: Apache-2.0
//
// The probe: PID 1 of a test container. It reports from inside what it finds, as one JSON object on stdout, or tries something and
// says how that went. It allocates nothing and asks the kernel rather than /proc where both know.
#ifndef PROBE_H
#define PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// json.c: a writer on stdout. A name is given inside of objects, NULL inside of lists. Bytes from 0x80 on become \udcXX, which is what
// Python's surrogateescape undoes.
void json_open(const char *name, char bracket); // '{' or '['
void json_close(void);
void json_string(const char *name, const char *value); // NULL: null
void json_bytes(const char *name, const char *value, size_t length);
void json_signed(const char *name, int64_t value);
void json_unsigned(const char *name, uint64_t value);
void json_hex(const char *name, uint64_t value); // "0000000000000003", as in /proc/PID/status
void json_bool(const char *name, bool value);
void json_null(const char *name);
void json_error(const char *name, int error); // 0 or the errno's name, "EPERM"
void json_end(void);                          // newline, and all of it written
const char *error_name(int error, char buffer[16]);

// Lines of a file as a list of strings; null where it cannot be read.
void json_lines(const char *name, const char *path);
// A file's content less the last newline; null where it cannot be read.
void json_file(const char *name, const char *path);

// process.c, system.c, calls.c: one section of the report each
struct section {
	const char *name;
	void (*report)(const char *name);
};
extern const struct section process_sections[], system_sections[], long_sections[]; // a NULL name ends
extern int given_count;
extern char **given_arguments, **given_environment;

// actions.c: what the probe does instead of reporting; the exit status
struct action {
	const char *name, *usage;
	int (*run)(int count, char **arguments); // arguments behind the name
};
extern const struct action actions[];

#endif
