/* SPDX-License-Identifier: Apache-2.0
 *
 * A table of tests and a summary line. A test that fails goes on: every CHECK that does not hold is printed with its place.
 * In a forked child, end with check_exit(), and let the parent CHECK its exit status.
 */
#ifndef WHERRY_CHECK_H
#define WHERRY_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct check_case {
	const char *name;
	void (*run)(void);
};

static int check_failures; /* of the running test */
static const char *check_skipped;

#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			check_failures++; \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
		} \
	} while (0)

/* Two integers; prints both. */
#define CHECK_EQUAL(actual, expected) \
	do { \
		long long actual_ = (long long)(actual), expected_ = (long long)(expected); \
		if (actual_ != expected_) { \
			check_failures++; \
			fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #actual, actual_, expected_); \
		} \
	} while (0)

#define CHECK_TEXT(actual, expected) \
	do { \
		const char *actual_ = (actual), *expected_ = (expected); \
		if (!actual_ || strcmp(actual_, expected_)) { \
			check_failures++; \
			fprintf(stderr, "%s:%d: %s is \"%s\", not \"%s\"\n", __FILE__, __LINE__, #actual, actual_ ? actual_ : "(null)", \
				expected_); \
		} \
	} while (0)

/* Leaves the test; say what is missing. */
#define CHECK_SKIP(reason) \
	do { \
		check_skipped = (reason); \
		return; \
	} while (0)

__attribute__((unused)) static void check_exit(void)
{
	_exit(check_failures ? 1 : 0);
}

/* What all tests of a program lack; set by a constructor of what they share. */
static const char *check_all_lack;

/* With arguments, only the tests of these names. Exit status 77 when every test was skipped. */
__attribute__((unused)) static int check_main(const struct check_case *cases, size_t count, int argc, char **argv)
{
	int passed = 0, failed = 0, skipped = 0;

	for (size_t i = 0; i < count; i++) {
		int wanted = argc < 2;

		for (int a = 1; a < argc; a++)
			wanted |= !strcmp(argv[a], cases[i].name);
		if (!wanted)
			continue;
		check_failures = 0;
		check_skipped = check_all_lack;
		fflush(stdout);
		if (!check_skipped)
			cases[i].run();
		if (check_failures) {
			failed++;
			printf("FAILED %s\n", cases[i].name);
		} else if (check_skipped) {
			skipped++;
			printf("skipped %s: %s\n", cases[i].name, check_skipped);
		} else {
			passed++;
		}
	}
	printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
	if (failed)
		return 1;
	return skipped && !passed ? 77 : 0;
}

#define CHECK_MAIN(cases) \
	int main(int argc, char **argv) \
	{ \
		return check_main(cases, sizeof(cases) / sizeof((cases)[0]), argc, argv); \
	}

#endif
