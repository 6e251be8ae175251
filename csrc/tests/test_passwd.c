/* SPDX-License-Identifier: Apache-2.0
 *
 * passwd_home(): tables, and random files compared with a second reading of the rules that has the whole file in memory.
 */
#include "build.h"

enum { ROUNDS = 20000, FILE_SIZE = 600, HOME_SIZE = 64 };

static int file_of(const void *bytes, size_t size)
{
	int fd = sys_memfd_create("passwd", MFD_CLOEXEC);

	CHECK(fd >= 0);
	CHECK(wherry_write_all(fd, bytes, size) == 0);
	CHECK(lseek(fd, 0, SEEK_SET) == 0);
	return fd;
}

static int lookup(const void *bytes, size_t size, uint32_t uid, char *home, size_t home_size)
{
	int fd = file_of(bytes, size), result = passwd_home(fd, uid, home, home_size);

	close(fd);
	return result;
}

static void test_table(void)
{
	static const struct {
		const char *file;
		uint32_t uid;
		const char *home; /* NULL: none */
	} cases[] = {
		{ "root:x:0:0:root:/root:/bin/sh\n", 0, "/root" },
		{ "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n", 1000, "/home/user" },
		{ "root:x:0:0:root:/root:/bin/sh", 0, "/root" },
		{ "root:x:0:0:root:/root", 0, "/root" },
		{ "root:x:0:0:root", 0, NULL },
		{ "", 0, NULL },
		{ "\n\n\n", 0, NULL },
		{ "first:x:7:7::/first:\nsecond:x:7:7::/second:\n", 7, "/first" },
		{ "1000:x:0:0::/wrong:\nreal:x:1000:0::/right:\n", 1000, "/right" },
		{ "user:x::0::/empty:\n", 0, NULL },
		{ "user:x:0x0:0::/hex:\n", 0, NULL },
		{ "user:x: 0:0::/blank:\n", 0, NULL },
		{ "user:x:-0:0::/sign:\n", 0, NULL },
		{ "user:x:0000:0::/zeros:\n", 0, "/zeros" },
		{ "user:x:4294967296:0::/wrapped:\n", 0, NULL },
		{ "user:x:18446744073709551616:0::/wrapped:\n", 0, NULL },
		{ "user:x:4294967295:0::/last:\n", UINT32_MAX, "/last" },
		{ "#root:x:0:0::/comment:\nroot:x:0:0::/root:\n", 0, "/root" },
		{ "+:x:0:0::/nis:\n-a:x:0:0::/nis:\nroot:x:0:0::/root:\n", 0, "/root" },
		{ "root:x:0:0::relative:\n", 0, NULL },
		{ "root:x:0:0:::\n", 0, NULL },
		{ ":::\n::::::::\nroot:x:0:0::/root:/bin/sh:more:and:more\n", 0, "/root" },
	};

	for (size_t i = 0; i < WHERRY_LENGTH(cases); i++) {
		char home[HOME_SIZE] = "untouched";
		int result = lookup(cases[i].file, strlen(cases[i].file), cases[i].uid, home, sizeof(home));

		CHECK_EQUAL(result, cases[i].home ? 0 : -ENOENT);
		CHECK_TEXT(home, cases[i].home ? cases[i].home : "");
	}
}

static void test_too_long_for_the_buffer(void)
{
	const char file[] = "a:x:5:5::/0123456789:\nb:x:5:5::/short:\n";
	char home[8];

	CHECK_EQUAL(lookup(file, strlen(file), 5, home, sizeof(home)), 0);
	CHECK_TEXT(home, "/short");
	CHECK_EQUAL(lookup(file, strlen(file), 5, home, 1), -ENOENT);
	CHECK_EQUAL(lookup(file, strlen(file), 5, home, 0), -EINVAL);
}

static void test_long_lines_across_reads(void)
{
	static char file[100000];
	char home[HOME_SIZE];
	size_t length = 0;

	memset(file, 'a', 70000);
	length = 70000;
	length += (size_t)sprintf(file + length, ":x:9:9::/no:\nuser:x:9:9:");
	memset(file + length, 'g', 9000);
	length += 9000;
	length += (size_t)sprintf(file + length, ":/yes:\n");
	file[70003] = 'b'; /* the uid of the long line is no number */
	CHECK_EQUAL(lookup(file, length, 9, home, sizeof(home)), 0);
	CHECK_TEXT(home, "/yes");
}

static void test_nul_bytes(void)
{
	const char file[] = "a:x:5:5::/bad\0dir:\nb:x:5:5::/good:\n";
	char home[HOME_SIZE];

	CHECK_EQUAL(lookup(file, sizeof(file) - 1, 5, home, sizeof(home)), 0);
	CHECK_TEXT(home, "/good");
}

static void test_endless_file(void)
{
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	char home[HOME_SIZE];

	CHECK_EQUAL(passwd_home(fd, 0, home, sizeof(home)), -ENOENT);
	close(fd);
	fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CHECK_EQUAL(passwd_home(fd, 0, home, sizeof(home)), -EISDIR);
	close(fd);
}

/* Half a path at the end of what is read is no path. */
static void test_line_cut_by_the_limit(void)
{
	static const char last[] = "user:x:5:5::/home/directory:\n";
	static char file[(4 << 20) + sizeof(last)];
	char home[HOME_SIZE];

	memset(file, '\n', sizeof(file));
	memcpy(file + (4 << 20) - 15, last, strlen(last));
	CHECK_EQUAL(lookup(file, sizeof(file), 5, home, sizeof(home)), -ENOENT);
	memset(file, '\n', sizeof(file));
	memcpy(file + (4 << 20) - strlen(last), last, strlen(last));
	CHECK_EQUAL(lookup(file, sizeof(file), 5, home, sizeof(home)), 0);
}

/* ---- the second reading --------------------------------------------------------------------------------------------------- */

/* One line, its fields cut out. True when it decides; then `answer` is its home. */
static bool oracle_line(char *line, size_t length, uint32_t uid, size_t home_size, char *answer)
{
	char *fields[8] = { line };
	size_t count = 1;
	unsigned long long number = 0;

	if (memchr(line, 0, length) || strchr("#+-", line[0]))
		return false;
	for (size_t i = 0; i < length; i++) {
		if (line[i] != ':')
			continue;
		line[i] = 0;
		if (count < WHERRY_LENGTH(fields))
			fields[count++] = line + i + 1;
	}
	if (count < 6 || !fields[2][0] || strspn(fields[2], "0123456789") != strlen(fields[2]))
		return false;
	for (const char *c = fields[2]; *c; c++)
		if ((number = number * 10 + (unsigned long long)(*c - '0')) > UINT32_MAX)
			return false;
	if (number != uid || strlen(fields[5]) >= home_size)
		return false;
	strcpy(answer, fields[5][0] == '/' ? fields[5] : "");
	return true;
}

static void oracle(const char *bytes, size_t size, uint32_t uid, size_t home_size, char *answer)
{
	char line[FILE_SIZE + 1];

	answer[0] = 0;
	for (size_t at = 0; at < size;) {
		const char *end = memchr(bytes + at, '\n', size - at);
		size_t length = end ? (size_t)(end - bytes) - at : size - at;

		memcpy(line, bytes + at, length);
		line[length] = 0;
		if (length && oracle_line(line, length, uid, home_size, answer))
			return;
		at += length + 1;
	}
}

static uint64_t random_state = 0x9e3779b97f4a7c15;

static unsigned int random_below(unsigned int bound)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (unsigned int)(random_state >> 33) % bound;
}

/* Pieces of passwd files in any order: near misses are likelier than noise is. */
static size_t random_file(char *file)
{
	static const char *const pieces[] = { ":", ":", ":", ":", "\n", "root", "x", "0", "1", "00", "1000", "4294967295", "4294967296", "/", "/home/a",
		"root:x:0:0:root:/root:/bin/sh\n", "u:x:1000:1000::/home/u:\n", "a:x:1:1:g:", "#", "+", "-", " ", "/0123456789012345678901234567890123456789" };
	size_t length = 0, wanted = 1 + random_below(60);

	for (size_t i = 0; i < wanted; i++) {
		const char *piece = pieces[random_below(WHERRY_LENGTH(pieces))];

		if (length + strlen(piece) + 1 >= FILE_SIZE)
			break;
		memcpy(file + length, piece, strlen(piece));
		length += strlen(piece);
		if (random_below(40) == 0)
			file[length++] = (char)random_below(256);
	}
	return length;
}

static void test_random_files(void)
{
	static const uint32_t uids[] = { 0, 1, 1000, UINT32_MAX };
	int found = 0;

	for (int round = 0; round < ROUNDS && !check_failures; round++) {
		char file[FILE_SIZE], home[HOME_SIZE], expected[HOME_SIZE];
		size_t length = random_file(file), home_size = 2 + random_below(HOME_SIZE - 2);
		uint32_t uid = uids[random_below(WHERRY_LENGTH(uids))];
		int result = lookup(file, length, uid, home, home_size);

		oracle(file, length, uid, home_size, expected);
		CHECK_TEXT(home, expected);
		CHECK_EQUAL(result, expected[0] ? 0 : -ENOENT);
		found += result == 0;
		if (check_failures)
			fprintf(stderr, "round %d, uid %u:\n%.*s\n", round, uid, (int)length, file);
	}
	CHECK(found > ROUNDS / 50);
}

static const struct check_case cases[] = {
	{ "table", test_table },
	{ "too_long_for_the_buffer", test_too_long_for_the_buffer },
	{ "long_lines_across_reads", test_long_lines_across_reads },
	{ "nul_bytes", test_nul_bytes },
	{ "endless_file", test_endless_file },
	{ "line_cut_by_the_limit", test_line_cut_by_the_limit },
	{ "random_files", test_random_files },
};

CHECK_MAIN(cases)
