/* SPDX-License-Identifier: Apache-2.0
 *
 * The home directory of a uid, from the container's own passwd file. The file is hostile: it may be endless, hold lines of any
 * length, NUL bytes and numbers of any size. So it is read as a stream, a byte at a time out of a small buffer, and only the two
 * fields that count are kept. A uid is a number here, never a name (CVE-2016-3697).
 */
#include "wherry/core.h"
#include "wherry/sys.h"

#include <string.h>

enum {
	MAX_PASSWD = 4 << 20, /* bytes that are read at most */
	FIELD_UID = 2,
	FIELD_HOME = 5,
	FIELDS_NEEDED = 6, /* the shell may be missing */
};

/* The line that is being read. */
struct line {
	uint32_t uid;      /* the one looked for */
	unsigned int field;
	uint64_t number;   /* of the uid field, cut off above 2^32 */
	bool digits, bad;  /* the uid has digits; the line is not to be used */
	char *home;
	size_t length, size;
};

static void line_begin(struct line *line)
{
	line->field = 0;
	line->number = 0;
	line->digits = line->bad = false;
	line->length = 0;
}

static void line_uid_digit(struct line *line, char c)
{
	if (c < '0' || c > '9') {
		line->bad = true;
		return;
	}
	line->digits = true;
	line->number = line->number * 10 + (uint64_t)(c - '0');
	if (line->number > UINT32_MAX)
		line->bad = true;
}

static void line_byte(struct line *line, char c, bool first)
{
	/* comments, and the "+" and "-" entries of NIS */
	if (c == 0 || (first && (c == '#' || c == '+' || c == '-')))
		line->bad = true;
	if (line->bad)
		return;
	if (c == ':')
		line->field++;
	else if (line->field == FIELD_UID)
		line_uid_digit(line, c);
	else if (line->field == FIELD_HOME && line->length + 1 < line->size)
		line->home[line->length++] = c;
	else if (line->field == FIELD_HOME)
		line->bad = true; /* half a path is no path */
}

static bool line_matches(const struct line *line)
{
	return !line->bad && line->field + 1 >= FIELDS_NEEDED && line->digits && line->number == line->uid;
}

/* The first line of the uid decides. An empty or relative home is none. */
static int line_answer(struct line *line)
{
	line->home[line->length] = 0;
	if (line->home[0] == '/')
		return 0;
	line->home[0] = 0;
	return -ENOENT;
}

int passwd_home(int fd, uint32_t uid, char *home, size_t size)
{
	struct line line = { .uid = uid, .home = home, .size = size };
	char buffer[4096];
	size_t total = 0;
	bool first = true;

	if (!size)
		return -EINVAL;
	home[0] = 0;
	line_begin(&line);
	while (total < MAX_PASSWD) {
		ssize_t count = TEMP_FAILURE_RETRY(read(fd, buffer, sizeof(buffer)));

		if (count < 0)
			return -errno;
		if (count == 0)
			break;
		for (ssize_t i = 0; i < count; i++) {
			if (buffer[i] != '\n') {
				line_byte(&line, buffer[i], first);
				first = false;
				continue;
			}
			if (line_matches(&line))
				return line_answer(&line);
			line_begin(&line);
			first = true;
		}
		total += (size_t)count;
	}
	/* a last line without newline counts, one that the limit has cut does not */
	if (total < MAX_PASSWD && line_matches(&line))
		return line_answer(&line);
	home[0] = 0;
	return -ENOENT;
}
