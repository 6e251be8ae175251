/* SPDX-License-Identifier: Apache-2.0
 *
 * The plan cache, its key, SHA-256 and the time format: the parts of the host side that need no root.
 */
#include "check.h"
#include "planmaker.h"
#include "wherry/host.h"

#include "../host/parts.h"

#include <dirent.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

static struct planmaker plan;
static char root[64];

static void begin(void)
{
	struct wherry_op_claim *claim;

	strcpy(root, "/tmp/wherry-cache-XXXXXX");
	CHECK(mkdtemp(root) != NULL);
	plan_begin(&plan);
	claim = PLAN_ADD(&plan, OP_CLAIM, WHERRY_CALLER, wherry_op_claim);
	claim->state_head = claim->state_middle = claim->state_tail = plan_template(&plan, "-");
	plan_finish(&plan);
}

static void end(void)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf %s", root);
	CHECK_EQUAL(system(command), 0);
}

static struct host_cache_key key_of(const char *config, uint32_t options)
{
	struct host_pattern pattern;

	CHECK_EQUAL(host_pattern_read(&pattern, config, strlen(config), options, NULL), 0);
	return pattern.exact;
}

static int load(const struct host_cache_key *key)
{
	const void *base;
	size_t size;
	int result = host_cache_load(root, key, &base, &size);

	if (result == 0) {
		CHECK_EQUAL(size, plan.size);
		CHECK(memcmp(base, plan.plan, size) == 0);
		munmap((void *)base, size);
	}
	return result;
}

static const char *cached_path(const struct host_cache_key *key)
{
	static char path[256];

	snprintf(path, sizeof(path), "%s/@plans/%s", root, key->hex);
	return path;
}

static void stored_is_loaded(void)
{
	struct host_cache_key key = key_of("config", 0), other = key_of("config", 1);
	struct stat status;

	begin();
	CHECK_EQUAL(load(&key), -ENOENT);
	CHECK_EQUAL(host_cache_store(root, &key, plan.plan, plan.size), 0);
	CHECK_EQUAL(load(&key), 0);
	CHECK_EQUAL(load(&other), -ENOENT);
	CHECK(stat(cached_path(&key), &status) == 0 && (status.st_mode & 07777) == 0600);
	CHECK_EQUAL(host_cache_store(root, &key, plan.plan, plan.size), 0);
	CHECK_EQUAL(load(&key), 0);
	end();
}

static void damaged_is_absent(void)
{
	struct host_cache_key key = key_of("config", 0);
	int fd;

	begin();
	CHECK_EQUAL(host_cache_store(root, &key, plan.plan, plan.size), 0);
	fd = open(cached_path(&key), O_RDWR | O_CLOEXEC);
	CHECK(pwrite(fd, "\xff", 1, 8) == 1); /* its size */
	CHECK_EQUAL(load(&key), -WHERRY_BAD_PLAN);
	CHECK_EQUAL(ftruncate(fd, 0), 0);
	CHECK_EQUAL(load(&key), -WHERRY_BAD_PLAN);
	close(fd);
	CHECK_EQUAL(host_cache_store(root, &key, plan.plan, plan.size), 0);
	CHECK_EQUAL(load(&key), 0);
	end();
}

static void of_another_build_is_absent(void)
{
	struct host_cache_key key = key_of("config", 0);
	int fd;

	begin();
	CHECK_EQUAL(host_cache_store(root, &key, plan.plan, plan.size), 0);
	fd = open(cached_path(&key), O_RDWR | O_CLOEXEC);
	CHECK(pwrite(fd, "other", 5, offsetof(struct wherry_plan, build_id)) == 5);
	close(fd);
	CHECK_EQUAL(load(&key), -WHERRY_WRONG_VERSION);
	plan.plan[offsetof(struct wherry_plan, build_id)] ^= 1;
	CHECK_EQUAL(host_cache_store(root, &key, plan.plan, plan.size), -WHERRY_WRONG_VERSION);
	end();
}

/* What others could have written is not executed. */
static void must_be_private(void)
{
	struct host_cache_key key = key_of("config", 0);
	char directory[128], real[256];

	begin();
	CHECK_EQUAL(host_cache_store(root, &key, plan.plan, plan.size), 0);
	snprintf(directory, sizeof(directory), "%s/@plans", root);
	CHECK_EQUAL(chmod(cached_path(&key), 0620), 0);
	CHECK_EQUAL(load(&key), -WHERRY_BAD_PLAN);
	CHECK_EQUAL(chmod(cached_path(&key), 0600), 0);
	CHECK_EQUAL(chmod(directory, 0720), 0);
	CHECK_EQUAL(load(&key), -WHERRY_UNSAFE_DIRECTORY);
	CHECK_EQUAL(host_cache_store(root, &key, plan.plan, plan.size), -WHERRY_UNSAFE_DIRECTORY);
	CHECK_EQUAL(chmod(directory, 0700), 0);
	CHECK_EQUAL(chmod(root, 0720), 0);
	CHECK_EQUAL(load(&key), -WHERRY_UNSAFE_DIRECTORY);
	CHECK_EQUAL(chmod(root, 0700), 0);
	CHECK_EQUAL(load(&key), 0);
	/* through a link neither */
	snprintf(real, sizeof(real), "%s/real", directory);
	CHECK_EQUAL(rename(cached_path(&key), real), 0);
	CHECK_EQUAL(symlink(real, cached_path(&key)), 0);
	CHECK_EQUAL(load(&key), -ELOOP);
	end();
}

static int count_files(void)
{
	char path[128];
	DIR *directory;
	int count = -2;

	snprintf(path, sizeof(path), "%s/@plans", root);
	directory = opendir(path);
	while (readdir(directory))
		count++;
	closedir(directory);
	return count;
}

static void is_bounded_and_drops_the_oldest(void)
{
	struct host_cache_key first = key_of("first", 0), last;
	struct timespec old[2] = { { .tv_sec = 1000 }, { .tv_sec = 1000 } };

	begin();
	CHECK_EQUAL(host_cache_store(root, &first, plan.plan, plan.size), 0);
	CHECK_EQUAL(utimensat(AT_FDCWD, cached_path(&first), old, 0), 0);
	for (uint32_t i = 1; i < 512; i++) {
		last = key_of("more", i);
		CHECK_EQUAL(host_cache_store(root, &last, plan.plan, plan.size), 0);
	}
	CHECK_EQUAL(count_files(), 512);
	CHECK_EQUAL(load(&first), 0);
	last = key_of("last", 0);
	CHECK_EQUAL(host_cache_store(root, &last, plan.plan, plan.size), 0);
	CHECK_EQUAL(count_files(), 512);
	CHECK_EQUAL(load(&first), -ENOENT);
	CHECK_EQUAL(load(&last), 0);
	end();
}

/* FIPS 180-4, and the same in pieces. */
static void sha256_of_known_texts(void)
{
	static const struct { const char *text, *hex; } known[] = {
		{ "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
		{ "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" },
		{ "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1" },
	};

	for (size_t i = 0; i < WHERRY_LENGTH(known); i++) {
		uint8_t digest[32];
		struct sha256 s;
		char hex[65];

		sha256(known[i].text, strlen(known[i].text), digest);
		host_hex(digest, sizeof(digest), hex);
		CHECK_TEXT(hex, known[i].hex);
		sha256_begin(&s);
		for (const char *at = known[i].text; *at; at++)
			sha256_add(&s, at, 1);
		sha256_end(&s, digest);
		host_hex(digest, sizeof(digest), hex);
		CHECK_TEXT(hex, known[i].hex);
	}
}

/* Against libc, over four hundred years by odd steps. */
static void times_are_those_of_the_calendar(void)
{
	for (int64_t at = 0; at < 12622780800; at += 86399 * 13 + 7) {
		time_t seconds = (time_t)at;
		char expected[64], text[40];
		struct tm parts;

		gmtime_r(&seconds, &parts);
		strftime(expected, sizeof(expected), "%Y-%m-%dT%H:%M:%S.000000042Z", &parts);
		CHECK_EQUAL(host_format_time(at, 42, text), strlen(expected));
		CHECK_TEXT(text, expected);
		if (check_failures)
			return;
	}
}

static void numbers_are_parsed_strictly(void)
{
	static const struct { const char *text; int result; uint64_t value; } table[] = {
		{ "0", 0, 0 }, { "42", 0, 42 }, { "42\n", 0, 42 }, { "42 x", 0, 42 }, { "18446744073709551615", 0, UINT64_MAX },
		{ "18446744073709551616", -EOVERFLOW, 0 }, { "", -EINVAL, 0 }, { "-1", -EINVAL, 0 }, { " 1", -EINVAL, 0 }, { "1x", -EINVAL, 0 },
	};

	for (size_t i = 0; i < WHERRY_LENGTH(table); i++) {
		uint64_t value = 0;

		CHECK_EQUAL(host_parse_number(table[i].text, &value), table[i].result);
		CHECK(value == table[i].value);
	}
}

static const struct check_case cases[] = {
	{ "stored_is_loaded", stored_is_loaded },
	{ "damaged_is_absent", damaged_is_absent },
	{ "of_another_build_is_absent", of_another_build_is_absent },
	{ "must_be_private", must_be_private },
	{ "is_bounded_and_drops_the_oldest", is_bounded_and_drops_the_oldest },
	{ "sha256_of_known_texts", sha256_of_known_texts },
	{ "times_are_those_of_the_calendar", times_are_those_of_the_calendar },
	{ "numbers_are_parsed_strictly", numbers_are_parsed_strictly },
};

CHECK_MAIN(cases)
