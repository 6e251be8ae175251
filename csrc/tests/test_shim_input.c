/* SPDX-License-Identifier: Apache-2.0
 *
 * What the shim's front reads before it does anything: its arguments, standard input, the container's annotations, small files. Bytes that others
 * wrote lie here in blocks of exactly their size, so that a look behind the end is seen.
 */
#include "check.h"

#include "../shim/arguments.c"
#include "../shim/files.c"
#include "../shim/group.c"
#include "../shim/input.c"

#include <sys/wait.h>

#define GROUP "io.containerd.runc.v2.group"
#define SANDBOX "io.kubernetes.cri.sandbox-id"

static char place[64];

static void make_place(void)
{
	strcpy(place, "/tmp/wherry-test-XXXXXX");
	CHECK(mkdtemp(place) && chdir(place) == 0);
}

static void remove_place(void)
{
	unlink("config.json");
	unlink("file");
	unlink("socket");
	CHECK(chdir("/") == 0 && rmdir(place) == 0);
}

static void write_file(const char *name, const void *data, size_t size)
{
	cleanup_fd int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	CHECK(fd >= 0 && wherry_write_all(fd, data, size) == 0);
}

/* A block of its own: malloc(size), for AddressSanitizer to guard. */
static struct shim_text block(const void *data, size_t size)
{
	char *copy = malloc(size ? size : 1);

	if (size)
		memcpy(copy, data, size);
	return (struct shim_text){ copy, size };
}

static void free_block(struct shim_text text)
{
	free((void *)(uintptr_t)text.data);
}

/* ---- arguments */

static struct shim_call call;

static bool arguments_of(const char *const *words)
{
	char *argv[16] = { (char *)(uintptr_t)"shim" };

	for (size_t i = 0; words[i]; i++)
		argv[i + 1] = (char *)(uintptr_t)words[i];
	call = (struct shim_call){ 0 };
	return shim_arguments(&call, argv);
}

#define ARGUMENTS(...) arguments_of((const char *const[]){ __VA_ARGS__, NULL })

static void usual_arguments(void)
{
	CHECK(ARGUMENTS("-namespace", "n", "-address", "/a", "-publish-binary", "/b", "-id", "one", "start"));
	CHECK(shim_is(call.namespace, "n") && shim_is(call.address, "/a") && shim_is(call.binary, "/b") && shim_is(call.id, "one"));
	CHECK(!call.debug && !call.modern && !call.bundle.size);
	CHECK_TEXT(call.action, "start");
	CHECK(ARGUMENTS("--namespace=n", "-debug", "--id=two=2", "--bundle", "-x", "-socket", "s", "-debug-socket=t", "delete"));
	CHECK(shim_is(call.id, "two=2") && shim_is(call.bundle, "-x") && call.debug);
	CHECK_TEXT(call.action, "delete");
	CHECK(ARGUMENTS("-namespace", "n", "-id", "old", "-id", "new", "-address=", "start"));
	CHECK(shim_is(call.id, "new") && shim_is(call.address, ""));
	CHECK(!ARGUMENTS("-namespace", "n", "-id", "one")); /* a porter's: all is read, and there is no action */
	CHECK(shim_is(call.namespace, "n") && !call.action);
}

static void unusual_arguments(void)
{
	static const char *const wrong[][8] = {
		{ NULL },
		{ "start" },
		{ "-id", "one", "start" },
		{ "-namespace", "n", "start" },
		{ "-namespace", "n", "-id" },
		{ "-namespace", "n", "-id", "one", "-address" },
		{ "-namespace", "", "-id", "one", "start" },
		{ "-namespace", "n", "-id", "", "start" },
		{ "-namespace", "n", "-id", ".", "start" },
		{ "-namespace", "n", "-id", "..", "start" },
		{ "-namespace", "n", "-id", "a/b", "start" },
		{ "-namespace", "n", "-id", "one", "start", "more" },
		{ "-namespace", "n", "-id", "one", "starts" },
		{ "-namespace", "n", "-id", "one", "" },
		{ "-namespace", "n", "-id", "one", "-", "start" },
		{ "-namespace", "n", "-id", "one", "--", "start" },
		{ "-namespace", "n", "-id", "one", "-debug=true", "start" },
		{ "-namespace", "n", "-id", "one", "-=", "start" },
		{ "-namespace", "n", "-id", "one", "---id=x", "start" },
		{ "-namespace", "n", "-id", "one", "-unknown", "start" },
		{ "-namespac", "n", "-id", "one", "start" },
		{ "-namespacee=n", "-id", "one", "start" },
		{ "-v" },
	};

	for (size_t i = 0; i < WHERRY_LENGTH(wrong); i++)
		CHECK(!arguments_of(wrong[i]));
}

static void texts(void)
{
	const struct shim_text nothing = { 0 };

	CHECK(shim_same(nothing, nothing) && shim_same(nothing, shim_word("")) && shim_is(nothing, ""));
	CHECK(!shim_same(shim_word("a"), nothing) && !shim_same(shim_word("a"), shim_word("ab")) && !shim_same(shim_word("ab"), shim_word("ac")));
	CHECK(!shim_is((struct shim_text){ "a\0b", 3 }, "a"));
}

/* ---- standard input */

struct bytes { size_t size; uint8_t data[4096]; };

static void put_number(struct bytes *b, uint64_t value)
{
	for (; value > 127; value >>= 7)
		b->data[b->size++] = (uint8_t)value | 128;
	b->data[b->size++] = (uint8_t)value;
}

static void put_value(struct bytes *b, uint64_t number, uint64_t value)
{
	put_number(b, number << 3 | VARINT);
	put_number(b, value);
}

static void put_bytes(struct bytes *b, uint64_t number, const void *data, size_t size)
{
	put_number(b, number << 3 | BYTES);
	put_number(b, size);
	if (size)
		memcpy(b->data + b->size, data, size);
	b->size += size;
}

static void put_word(struct bytes *b, uint64_t number, const char *word)
{
	put_bytes(b, number, word, strlen(word));
}

static struct bytes any(const char *type, const struct bytes *value)
{
	struct bytes b = { 0 };

	put_word(&b, 1, type);
	if (value)
		put_bytes(&b, 2, value->data, value->size);
	return b;
}

static bool asked_parameters(const struct bytes *b)
{
	struct shim_text copy = block(b->data, b->size);
	bool result;

	call = (struct shim_call){ .id = shim_word("one"), .namespace = shim_word("n"), .address = shim_word("/flag"), .binary = shim_word("/bin") };
	result = parameters(&call, copy);
	if (result && !call.modern)
		check_failures++;
	free_block(copy);
	return result;
}

static bool asked_options(const struct bytes *b)
{
	struct shim_text copy = block(b->data, b->size);
	bool result = plain_options(copy);

	free_block(copy);
	return result;
}

static struct bytes good_parameters(void)
{
	struct bytes b = { 0 };

	put_word(&b, 1, "one");
	put_word(&b, 2, "n");
	return b;
}

static void bootstrap_parameters(void)
{
	struct bytes b = good_parameters(), options = { 0 }, extension = { 0 }, inner;
	struct shim_text copy;

	put_value(&b, 3, (uint64_t)-4);
	put_word(&b, 4, "/unused");
	put_word(&b, 5, "/ttrpc");
	put_word(&b, 6, "/grpc");
	put_word(&b, 7, "/publish");
	put_word(&b, 9, "/sockets");
	put_word(&options, 7, "systemd");
	inner = any("containerd.runc.v1.Options", &options);
	put_bytes(&extension, 1, inner.data, inner.size);
	put_bytes(&b, 8, extension.data, extension.size);
	put_bytes(&b, 8, NULL, 0);
	copy = block(b.data, b.size);
	call = (struct shim_call){ .id = shim_word("one"), .namespace = shim_word("n"), .address = shim_word("/flag") };
	CHECK(parameters(&call, copy));
	CHECK(call.modern && call.debug && shim_is(call.ttrpc, "/ttrpc") && shim_is(call.address, "/grpc") && shim_is(call.binary, "/publish") &&
	      shim_is(call.directory, "/sockets"));
	free_block(copy);

	b = good_parameters();
	put_value(&b, 3, 4);
	CHECK(asked_parameters(&b));
	CHECK(!call.debug && shim_is(call.address, "/flag") && shim_is(call.binary, "/bin") && !call.ttrpc.size && !call.directory.size);
	put_word(&b, 1, "two"); /* the last one counts */
	CHECK(!asked_parameters(&b) && !call.modern);
	put_word(&b, 1, "one");
	CHECK(asked_parameters(&b));
	put_word(&b, 2, "N");
	CHECK(!asked_parameters(&b));
}

/* Something asks for what only Python does, or is no message. */
static void parameters_for_python(void)
{
	struct bytes b, options = { 0 }, inner, extension;

	for (uint32_t number = 4; number <= 40; number++) { /* numbers and texts that are not what they should be, fields that are not known */
		b = good_parameters();
		put_value(&b, number, 1);
		CHECK(!asked_parameters(&b));
		b = good_parameters();
		put_bytes(&b, number, "", 0);
		CHECK(asked_parameters(&b) == (number < 10));
	}
	for (uint8_t wire = 0; wire < 8; wire++) { /* of the id, with eight bytes behind it */
		b = (struct bytes){ 0 };
		put_word(&b, 2, "n");
		b.data[b.size++] = (uint8_t)(1 << 3 | wire);
		memcpy(b.data + b.size, "\3one\0\0\0\0\0", 9);
		b.size += wire == BYTES ? 4 : wire == FIXED64 ? 8 : wire == FIXED32 ? 4 : 1;
		CHECK(asked_parameters(&b) == (wire == BYTES));
	}
	put_word(&options, 3, "/shim-cgroup");
	inner = any("containerd.runc.v1.Options", &options);
	for (int version = 0; version < 5; version++) {
		b = good_parameters();
		extension = (struct bytes){ 0 };
		if (version == 0)
			put_bytes(&extension, 1, inner.data, inner.size);
		else if (version == 1)
			put_value(&extension, 1, 1);
		else if (version == 2)
			put_word(&extension, 2, "x");
		else if (version == 3) {
			inner = any("containerd.runc.v1.Options", NULL);
			put_bytes(&extension, 2, inner.data, inner.size);
		} else
			put_word(&extension, 1, "\x0a\x7f");
		put_bytes(&b, 8, extension.data, extension.size);
		CHECK(!asked_parameters(&b));
	}
}

static void options_for_python(void)
{
	struct bytes options = { 0 }, b;

	b = any("containerd.runc.v1.Options", NULL);
	CHECK(asked_options(&b));
	b = any("containerd.runc.v1.Options2", NULL);
	CHECK(!asked_options(&b));
	b = any("", NULL);
	CHECK(!asked_options(&b));
	b = any("type.googleapis.com/containerd.runc.v1.Options", NULL); /* Python knows it, too */
	CHECK(!asked_options(&b));
	b = (struct bytes){ 0 };
	CHECK(!asked_options(&b));

	put_value(&options, 1, 1);
	put_word(&options, 2, "io");
	put_word(&options, 6, "/opt/wherry");
	put_value(&options, 7, 1);
	b = any("containerd.runc.v1.Options", &options);
	CHECK(asked_options(&b));
	put_value(&b, 3, 1);
	CHECK(!asked_options(&b));
	for (uint64_t number = 1; number < 4; number++) {
		b = any("containerd.runc.v1.Options", NULL);
		put_value(&b, number, 1);
		put_word(&b, 1, "containerd.runc.v1.Options");
		CHECK(!asked_options(&b));
	}
	b = any("containerd.runc.v1.Options", &options);
	put_word(&b, 3, "");
	CHECK(!asked_options(&b));
	b = any("containerd.runc.v1.Options", &options);
	b.data[b.size++] = 0x80;
	CHECK(!asked_options(&b));

	put_value(&options, 3, 0); /* the shim's cgroup, even as a number */
	b = any("containerd.runc.v1.Options", &options);
	CHECK(!asked_options(&b));
	b = any("runtimeoptions.v1.Options", &options);
	CHECK(asked_options(&b));
	options.data[options.size++] = 0x80; /* no message, and nobody asks for one */
	b = any("runtimeoptions.v1.Options", &options);
	CHECK(asked_options(&b));
	options = (struct bytes){ .size = 1, .data = { 0x80 } };
	b = any("containerd.runc.v1.Options", &options);
	CHECK(!asked_options(&b));
}

static void numbers(void)
{
	static const struct { const char *bytes; size_t size; bool good; uint64_t value; } known[] = {
		{ "", 0, false, 0 },
		{ "\x00", 1, true, 0 },
		{ "\x7f", 1, true, 127 },
		{ "\x80", 1, false, 0 },
		{ "\x80\x01", 2, true, 128 },
		{ "\x80\x00", 2, true, 0 },
		{ "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 10, true, UINT64_MAX },
		{ "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 10, false, 0 },
		{ "\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", 11, false, 0 },
	};

	for (size_t i = 0; i < WHERRY_LENGTH(known); i++) {
		struct shim_text copy = block(known[i].bytes, known[i].size), rest = copy;
		uint64_t value;

		CHECK_EQUAL(varint(&rest, &value), known[i].good);
		if (known[i].good)
			CHECK(value == known[i].value && rest.size == 0);
		free_block(copy);
	}
}

static void fields(void)
{
	static const struct { const char *bytes; size_t size; int result; uint32_t number, text; } known[] = {
		{ "", 0, 0, 0, 0 },
		{ "\x08\x05", 2, 1, 1, 0 },
		{ "\x08", 1, -1, 0, 0 },
		{ "\x09" "12345678", 9, 1, 1, 8 },
		{ "\x09" "1234567", 8, -1, 0, 0 },
		{ "\x0d" "1234", 5, 1, 1, 4 },
		{ "\x0d" "123", 4, -1, 0, 0 },
		{ "\x0a\x02" "12", 4, 1, 1, 2 },
		{ "\x0a\x02" "1", 3, -1, 0, 0 },
		{ "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11, -1, 0, 0 }, /* as long as can be said */
		{ "\xfa\xff\xff\xff\x0f\x00", 6, 1, (1U << 29) - 1, 0 },
		{ "\x8a\x80\x80\x80\x10\x00", 6, -1, 0, 0 }, /* field 1, were a tag of 33 bits cut to 32 */
		{ "\x02\x00", 2, -1, 0, 0 }, /* no field has the number 0 */
		{ "\x0b", 1, -1, 0, 0 },     /* groups, and kinds that there are not */
		{ "\x0c", 1, -1, 0, 0 },
		{ "\x0e", 1, -1, 0, 0 },
		{ "\x0f", 1, -1, 0, 0 },
	};

	for (size_t i = 0; i < WHERRY_LENGTH(known); i++) {
		struct shim_text copy = block(known[i].bytes, known[i].size), rest = copy;
		struct field f = { 0 };

		CHECK_EQUAL(next(&rest, &f), known[i].result);
		if (known[i].result == 1)
			CHECK(f.number == known[i].number && f.text.size == known[i].text && !rest.size);
		free_block(copy);
	}
}

/* Each cut of a message is refused, or is one by itself; so is each with a byte that is another. */
static void cut_and_spoilt(void)
{
	struct bytes whole = good_parameters(), options = { 0 }, inner, extension = { 0 };

	put_value(&whole, 3, (uint64_t)-4);
	put_word(&options, 2, "io");
	inner = any("containerd.runc.v1.Options", &options);
	put_bytes(&extension, 1, inner.data, inner.size);
	put_bytes(&whole, 8, extension.data, extension.size);
	CHECK(asked_parameters(&whole));
	for (size_t cut = 0; cut < whole.size; cut++) {
		struct bytes b = whole;

		b.size = cut;
		if (asked_parameters(&b))
			CHECK(cut == 8 || cut == 19); /* behind the namespace, behind the level */
		asked_options(&b);
	}
	srand(11);
	for (int round = 0; round < 20000; round++) {
		struct bytes b = whole;

		for (int i = rand() % 4; i >= 0; i--)
			b.data[(size_t)rand() % b.size] = (uint8_t)rand();
		b.size -= (size_t)rand() % 3;
		if (asked_parameters(&b))
			CHECK(call.modern && call.ttrpc.size < b.size && call.address.size < b.size);
		asked_options(&b);
	}
}

/* The whole of it, in a child: 0 = ours, 1 = Python's, 2 = it gave up. What is read again is what was there. */
static int input_of(const void *data, size_t size, bool pipe_it)
{
	int line[2] = { memfd_create("input", MFD_CLOEXEC), -1 }, status = 0;
	pid_t pid;

	if (pipe_it) {
		close(line[0]);
		CHECK(pipe2(line, O_CLOEXEC) == 0);
	}
	CHECK_EQUAL(wherry_write_all(pipe_it ? line[1] : line[0], data, size), 0);
	wherry_close(&line[1]);
	if (!pipe_it)
		lseek(line[0], 0, SEEK_SET);
	pid = fork();
	if (!pid) {
		char *again = malloc(size + 1);
		bool ours;

		dup2(line[0], STDIN_FILENO);
		dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDERR_FILENO);
		call = (struct shim_call){ .id = shim_word("one"), .namespace = shim_word("n") };
		ours = shim_input(&call);
		if (read(STDIN_FILENO, again, size + 1) != (ssize_t)size || (size && memcmp(again, data, size)))
			_exit(3);
		_exit(ours ? 0 : 2);
	}
	close(line[0]);
	CHECK_EQUAL(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -status;
}

static void standard_input(void)
{
	static char big[SHIM_INPUT + 1];
	struct bytes b = good_parameters(), options = { 0 };

	for (int pipes = 0; pipes < 2; pipes++) {
		CHECK_EQUAL(input_of("", 0, pipes), 0);
		CHECK_EQUAL(input_of(b.data, b.size, pipes), 0);
		CHECK_EQUAL(input_of("x", 1, pipes), 2);
		CHECK_EQUAL(input_of("\0\0\0\0", 4, pipes), 2);
	}
	b = any("containerd.runc.v1.Options", NULL);
	CHECK_EQUAL(input_of(b.data, b.size, true), 0);
	put_word(&options, 3, "/shim");
	b = any("containerd.runc.v1.Options", &options);
	CHECK_EQUAL(input_of(b.data, b.size, true), 2);
	CHECK_EQUAL(input_of(big, SHIM_INPUT - 1, false), 2);
	CHECK_EQUAL(input_of(big, SHIM_INPUT, false), 1); /* it cannot be put back whole */
	CHECK_EQUAL(input_of(big, SHIM_INPUT + 1, false), 1);
}

static void no_standard_input(void)
{
	int status = -1;
	pid_t pid = fork();

	if (!pid) {
		close(STDIN_FILENO);
		call = (struct shim_call){ 0 };
		_exit(shim_input(&call));
	}
	CHECK_EQUAL(waitpid(pid, &status, 0), pid);
	CHECK_EQUAL(status, 0); /* Python's */
}

/* ---- the group */

/* NULL = Python has to look; "" = nobody. */
static const char *group_in(const char *config, size_t size)
{
	static char text[256];
	struct shim_text group;

	write_file("config.json", config, size);
	if (!shim_group(&group))
		return NULL;
	snprintf(text, sizeof(text), "%.*s", (int)group.size, group.size ? group.data : "");
	return text;
}

static void groups(void)
{
	static const struct { const char *config, *group; } known[] = {
		{ "{}", "" },
		{ "{\"annotations\":{\"" GROUP "\":\"g\"}}", "g" },
		{ "{\"annotations\":{\"" GROUP "\" \t\r\n:\n \"g h\"}}", "g h" },
		{ "{\"annotations\":{\"" SANDBOX "\":\"s\"}}", "s" },
		{ "{\"annotations\":{\"" SANDBOX "\":\"s\",\"" GROUP "\":\"g\"}}", "g" },
		{ "{\"annotations\":{\"" SANDBOX "\":\"s\",\"" GROUP "\":\"\"}}", "s" },
		{ "{\"annotations\":{\"" GROUP "\":\"\"}}", "" },
		{ "{\"annotations\":{\"" GROUP "\":\"\xc3\xa4\"}}", "\xc3\xa4" },
		/* escapes, in what is looked for and around it */
		{ "{\"annotations\":{\"" GROUP "\":\"a\\u0062\"}}", NULL },
		{ "{\"annotations\":{\"" GROUP "\":\"a\\\"\"}}", NULL },
		{ "{\"annotations\":{\"" GROUP "\":\"\\\\\"}}", NULL },
		{ "{\"a\":\"\\\"" GROUP "\\\":\\\"g\\\"\"}", NULL },
		{ "{\"a\":\"\\\"" GROUP "\":\"g\"}", NULL },
		{ "{\"a\":\"\\\\\\\"" GROUP "\":\"g\"}", NULL },
		{ "{\"" GROUP "\\\":\"g\"}", NULL },
		{ "{\"a\":\"\\n\",\"" GROUP "\":\"g\",\"b\":\"\\n\"}", "g" },
		/* more than once: as keys, a key and a value, within another string */
		{ "{\"" GROUP "\":\"g\",\"" GROUP "\":\"g\"}", NULL },
		{ "{\"" GROUP "\":\"g\",\"a\":\"" GROUP "\"}", NULL },
		{ "{\"a\":\"x" GROUP "x\",\"" GROUP "\":\"g\"}", NULL },
		{ "{\"" SANDBOX "\":\"g\",\"" SANDBOX "\":\"h\"}", NULL },
		{ "{\"" SANDBOX "\":\"g\",\"" SANDBOX "\":\"h\",\"" GROUP "\":\"g\"}", "g" },
		/* not a key, or of no string */
		{ "[\"" GROUP "\"]", NULL },
		{ "[\"" GROUP "\",\"g\"]", NULL },
		{ "{\"a\":\"" GROUP "\"}", NULL },
		{ "{\"x" GROUP "\":\"g\"}", NULL },
		{ "{\"" GROUP "x\":\"g\"}", NULL },
		{ "{\"" GROUP "\":1}", NULL },
		{ "{\"" GROUP "\":null}", NULL },
		{ "{\"" GROUP "\":{\"a\":\"g\"}}", NULL },
		{ "{\"" GROUP "\":[\"g\"]}", NULL },
		{ "{\"" GROUP "\"::\"g\"}", NULL },
		{ "{\"" GROUP "\" \v:\"g\"}", NULL },
		{ "{\"" GROUP "\":\"g}", NULL },
		/* nothing before it */
		{ GROUP, NULL },
		{ GROUP "\":\"g\"", NULL },
		{ "\"" GROUP "\":\"g\"", NULL },
		/* another protocol */
		{ "{\"org.wherry.shim.protocol\":\"grpc\"}", NULL },
		{ "{\"" GROUP "\":\"g\",\"org.wherry.shim.protocol\":\"ttrpc\"}", NULL },
		{ "org.wherry.shim.protocol", NULL },
		{ "org.wherry.shim.protoco", "" },
	};

	make_place();
	for (size_t i = 0; i < WHERRY_LENGTH(known); i++) {
		const char *group = group_in(known[i].config, strlen(known[i].config));

		CHECK(!group == !known[i].group);
		if (group && known[i].group)
			CHECK_TEXT(group, known[i].group);
		else if (!group != !known[i].group)
			fprintf(stderr, "%s\n", known[i].config);
	}
	remove_place();
}

static void no_configuration(void)
{
	struct shim_text group = shim_word("x");

	make_place();
	CHECK(shim_group(&group) && !group.size); /* a sandbox has none */
	CHECK(group_in("", 0) == NULL);
	unlink("config.json");
	CHECK(symlink("nowhere/at/all", "config.json") == 0 && shim_group(&group) && !group.size);
	unlink("config.json");
	CHECK(symlink("config.json", "config.json") == 0 && !shim_group(&group));
	unlink("config.json");
	CHECK(mkdir("config.json", 0700) == 0 && !shim_group(&group) && !group.size);
	rmdir("config.json");
	CHECK(symlink("/dev/null", "config.json") == 0 && !shim_group(&group));
	remove_place();
}

/* Each cut gives nobody (before the key was whole), nothing sure, or the whole group. In a block of its size, and at the end of a page, behind
 * which nothing is mapped. */
static void cut_configurations(void)
{
	static const char whole[] = "{ \"annotations\" : { \"" GROUP "\" : \"the-group\" } }";
	const size_t page = (size_t)sysconf(_SC_PAGESIZE), key = (size_t)(strstr(whole, GROUP) - whole) + strlen(GROUP);
	const size_t value = (size_t)(strstr(whole, "the-group\"") - whole) + strlen("the-group\"");
	char *text = malloc(2 * page);

	make_place();
	memset(text, ' ', 2 * page);
	for (size_t cut = 0; cut < sizeof(whole); cut++) {
		struct shim_text config = block(whole, cut), found = { 0 };
		const char *group;

		CHECK_EQUAL(look_for(config, GROUP, &found), cut < key || cut >= value);
		if (cut >= value)
			CHECK(shim_is(found, "the-group"));
		else
			CHECK(!found.size);
		free_block(config);
		memcpy(text + 2 * page - cut, whole, cut);
		group = group_in(text, 2 * page);
		CHECK(!group == (cut >= key && cut < value));
		if (group)
			CHECK_TEXT(group, cut < key ? "" : "the-group");
		memset(text, ' ', 2 * page);
	}
	remove_place();
	free(text);
}

static void big_configurations(void)
{
	static const char piece[] = "{\"io.containerd.runc.v2.grou\":\"io.kubernetes.cri.sandbox-i\"},", last[] = "{\"" SANDBOX "\":\"far away\"}";
	const size_t size = 16 << 20;
	char *text = malloc(size);

	make_place();
	for (size_t at = 0; at < size; at += sizeof(piece) - 1)
		memcpy(text + at, piece, size - at < sizeof(piece) - 1 ? size - at : sizeof(piece) - 1);
	CHECK_TEXT(group_in(text, size), "");
	memcpy(text + size - sizeof(last) + 1, last, sizeof(last) - 1);
	CHECK_TEXT(group_in(text, size), "far away");
	memset(text, '\0', size - sizeof(last) + 1);
	CHECK_TEXT(group_in(text, size), "far away");
	memcpy(text, last, sizeof(last) - 1);
	CHECK(group_in(text, size) == NULL);
	remove_place();
	free(text);
}

static void random_configurations(void)
{
	static const char *const pieces[] = { "\"", GROUP, SANDBOX, ":", " ", "\\", "g", "{", "}", ",", "\"" GROUP "\":\"", "\"" SANDBOX "\":\"", "\n", "u0062" };
	char text[2048];

	srand(5);
	for (int round = 0; round < 20000; round++) {
		struct shim_text config, found;
		size_t size = 0;

		for (int i = rand() % 16; i >= 0; i--) {
			const char *piece = pieces[(size_t)rand() % WHERRY_LENGTH(pieces)];

			memcpy(text + size, piece, strlen(piece));
			size += strlen(piece);
		}
		config = block(text, size);
		if (look_for(config, GROUP, &found) && found.data) {
			CHECK(found.data > config.data && found.data + found.size < config.data + config.size);
			CHECK(found.data[-1] == '"' && found.data[found.size] == '"');
			CHECK(!memchr(found.data, '"', found.size) && !memchr(found.data, '\\', found.size));
		}
		free_block(config);
	}
}

/* ---- files */

static void small_files(void)
{
	static const char text[] = "0123456789abcdef";
	char buffer[16 + 1];

	make_place();
	CHECK_EQUAL(shim_read("file", buffer, sizeof(buffer)), -1);
	CHECK_EQUAL(shim_read(".", buffer, sizeof(buffer)), -1);
	for (size_t size = 0; size < sizeof(buffer) - 1; size++) {
		write_file("file", text, size);
		memset(buffer, 'x', sizeof(buffer));
		CHECK_EQUAL(shim_read("file", buffer, sizeof(buffer)), size);
		CHECK(strlen(buffer) == size && !memcmp(buffer, text, size));
	}
	for (size_t size = sizeof(buffer); size < sizeof(text); size++) {
		write_file("file", text, size);
		CHECK_EQUAL(shim_read("file", buffer, sizeof(buffer)), -1);
	}
	write_file("file", text, 16);
	CHECK_EQUAL(shim_read("file", buffer, 8), -1);
	CHECK_TEXT(buffer, "0123456"); /* what did fit, with its NUL */
	CHECK_EQUAL(shim_read("file", buffer, 1), -1);
	CHECK_EQUAL(shim_score("nowhere"), 0);
	write_file("file", "-998\n", 5);
	CHECK_EQUAL(shim_score("file"), -998);
	write_file("file", "1000", 4);
	CHECK_EQUAL(shim_score("file"), 1000);
	write_file("file", "x", 1);
	CHECK_EQUAL(shim_score("file"), 0);
	remove_place();
}

static int listener(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(address.sun_path, path);
	CHECK(bind(fd, (const struct sockaddr *)&address, sizeof(address)) == 0 && listen(fd, 0) == 0);
	return fd;
}

/* Answers one connection, or only ends it. */
static pid_t server(int fd, bool answers)
{
	pid_t pid = fork();

	if (!pid) {
		char request[128];
		int peer = accept(fd, NULL, NULL);
		ssize_t size = recv(peer, request, sizeof(request), 0);

		if (size != 10 + 34 || memcmp(request, "\0\0\0\x22", 4)) /* ttrpc's head, and as much as it says */
			_exit(2);
		if (answers && send(peer, "x", 1, MSG_NOSIGNAL) != 1)
			_exit(1);
		_exit(0);
	}
	return pid;
}

static void who_serves(void)
{
	char far[200];
	int fd, peer, status = -1;
	pid_t pid;

	make_place();
	CHECK(!shim_serves("socket"));
	memset(far, 'x', sizeof(far));
	far[199] = '\0';
	CHECK(!shim_serves(far));
	far[108] = '\0';
	CHECK(!shim_serves(far));
	far[107] = '\0';
	CHECK(!shim_serves(far));
	write_file("file", "", 0);
	CHECK(!shim_serves("file"));
	fd = listener("socket");
	for (int answers = 1; answers >= 0; answers--) {
		pid = server(fd, answers);
		CHECK_EQUAL(shim_serves("socket"), answers);
		CHECK_EQUAL(waitpid(pid, &status, 0), pid);
		CHECK_EQUAL(status, 0);
	}
	peer = connect_to("socket");
	CHECK(peer >= 0);
	CHECK_EQUAL(connect_to("socket"), -EAGAIN);
	CHECK(shim_serves("socket")); /* nobody has time for one more, but somebody is there */
	wherry_close(&peer);
	close(fd);
	CHECK_EQUAL(connect_to("socket"), -ECONNREFUSED);
	CHECK(!shim_serves("socket"));
	remove_place();
}

static const struct check_case cases[] = {
	{ "usual arguments", usual_arguments },
	{ "unusual arguments", unusual_arguments },
	{ "texts", texts },
	{ "bootstrap parameters", bootstrap_parameters },
	{ "parameters for Python", parameters_for_python },
	{ "options for Python", options_for_python },
	{ "numbers", numbers },
	{ "fields", fields },
	{ "cut and spoilt messages", cut_and_spoilt },
	{ "standard input", standard_input },
	{ "no standard input", no_standard_input },
	{ "groups", groups },
	{ "no configuration", no_configuration },
	{ "cut configurations", cut_configurations },
	{ "big configurations", big_configurations },
	{ "random configurations", random_configurations },
	{ "small files", small_files },
	{ "who serves", who_serves },
};

CHECK_MAIN(cases)
