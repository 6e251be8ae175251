/* SPDX-License-Identifier: Apache-2.0
 *
 * Who is alive: a process is meant by boot id, pid and start time together, and then held by a pidfd.
 */
#include "parts.h"

#include <poll.h>
#include <string.h>
#include <sys/wait.h>

enum { START_TIME_FIELD = 22, FLAGS_FIELD = 9, STATE_FIELD = 3 };
enum { EXITING = 0x4, NEVER_EXECUTED = 0x40 }; /* the kernel's PF_EXITING and PF_FORKNOEXEC */

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

int host_boot_id(char out[40])
{
	ssize_t got = host_read_file(AT_FDCWD, "/proc/sys/kernel/random/boot_id", out, 40);

	if (got < 0)
		return (int)got;
	if (got < WHERRY_BOOT_ID_SIZE)
		return -EBADMSG;
	memset(out + WHERRY_BOOT_ID_SIZE, 0, 40 - WHERRY_BOOT_ID_SIZE);
	return 0;
}

/* "PID (comm) S PPID ...": comm may hold anything, so count from its last parenthesis. */
static int read_stat(pid_t pid, char *state, uint64_t *flags, uint64_t *start_time)
{
	char path[64] = "/proc/", text[1024];
	size_t length = strlen(path);
	const char *at;
	ssize_t got;

	if (pid <= 0)
		return -ESRCH;
	length += wherry_decimal((uint64_t)pid, path + length);
	memcpy(path + length, "/stat", sizeof("/stat"));
	got = host_read_file(AT_FDCWD, path, text, sizeof(text));
	if (got < 0)
		return got == -ENOENT ? -ESRCH : (int)got;
	at = strrchr(text, ')');
	if (!at || at[1] != ' ')
		return -EBADMSG;
	*state = at[2];
	at++;
	for (int field = STATE_FIELD; field <= START_TIME_FIELD && at; field++) {
		at = strchr(at + (field > STATE_FIELD), ' ');
		if (at && field == FLAGS_FIELD && host_parse_number(at + 1, flags) < 0)
			return -EBADMSG;
	}
	return at ? host_parse_number(at + 1, start_time) : -EBADMSG;
}

int host_process(pid_t pid, char *state, uint64_t *start_time)
{
	uint64_t flags;

	return read_stat(pid, state, &flags, start_time);
}

/* On its way out, with its files closed already, of a process that has executed no program. */
bool host_dies_unstarted(pid_t pid, uint64_t start_time)
{
	uint64_t found, flags = 0;
	char state;
	int result = read_stat(pid, &state, &flags, &found);

	return result < 0 || found != start_time || (flags & (EXITING | NEVER_EXECUTED)) == (EXITING | NEVER_EXECUTED);
}

/* A main thread that has ended is shown as a zombie while other threads live on; the pidfd is ready only when all have ended. */
static bool ended(pid_t pid, char state)
{
	cleanup_fd int pidfd = -1;
	struct pollfd item = { .events = POLLIN };

	if (state != 'Z' && state != 'X' && state != 'x')
		return false;
	pidfd = sys_pidfd_open(pid, 0);
	item.fd = pidfd;
	return pidfd < 0 || poll(&item, 1, 0) != 0;
}

int host_start_time(pid_t pid, uint64_t *start_time)
{
	char state;
	int result = host_process(pid, &state, start_time);

	return result == 0 && ended(pid, state) ? -ESRCH : result;
}

bool host_alive(pid_t pid, uint64_t start_time)
{
	uint64_t found;

	return host_start_time(pid, &found) == 0 && found == start_time;
}

/* The check comes after the pidfd exists: from then on the number cannot be given to another process unseen. */
int host_open_process(pid_t pid, uint64_t start_time)
{
	cleanup_fd int pidfd = pid > 0 ? sys_pidfd_open(pid, 0) : -1;

	if (pid <= 0)
		return -ESRCH;
	if (pidfd < 0)
		return errno == EINVAL ? -ESRCH : -errno;
	if (!host_alive(pid, start_time))
		return -ESRCH;
	return wherry_steal(&pidfd);
}

static int wait_for_end(int pidfd, uint32_t wait_ms)
{
	int64_t deadline = host_now_ms() + wait_ms;

	for (;;) {
		struct pollfd item = { .fd = pidfd, .events = POLLIN };
		int64_t left = deadline - host_now_ms();
		int ready = poll(&item, 1, left > 0 ? (int)left : 0);

		if (ready > 0)
			return 0;
		if (ready < 0 && errno != EINTR)
			return -errno;
		if (ready == 0 && left <= 0)
			return -ETIMEDOUT;
	}
}

int host_kill_and_wait(int pidfd, uint32_t wait_ms)
{
	if (pidfd < 0)
		return 0;
	if (sys_pidfd_send_signal(pidfd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
		return -errno;
	return wait_for_end(pidfd, wait_ms);
}

/* Others in this process may reap too (a loop over wait(-1)): that is no error. */
int host_kill_and_reap(pid_t pid, int pidfd, uint32_t wait_ms)
{
	siginfo_t info;
	int result = host_kill_and_wait(pidfd, wait_ms);

	if (result < 0 || pidfd < 0)
		return result;
	if (TEMP_FAILURE_RETRY(waitid((idtype_t)P_PIDFD, (id_t)pidfd, &info, WEXITED)) < 0 && errno == EINVAL && pid > 0)
		(void)TEMP_FAILURE_RETRY(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG));
	return 0;
}

static char *append_number(char *at, uint64_t value, size_t width)
{
	char digits[24];
	size_t length = wherry_decimal(value, digits);

	for (; width > length; width--)
		*at++ = '0';
	memcpy(at, digits, length);
	return at + length;
}

/* RFC 3339 in UTC. libc's gmtime may read time zone files and allocate. Days to civil date, with years that begin in March. */
size_t host_format_time(int64_t seconds, uint32_t nanoseconds, char out[40])
{
	int64_t days = seconds / 86400, rest = seconds % 86400;
	int64_t shifted = days + 719468; /* from 0000-03-01 */
	int64_t era = shifted / 146097, day_of_era = shifted % 146097;
	int64_t year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
	int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
	int64_t month_index = (5 * day_of_year + 2) / 153; /* 0 = March */
	int64_t month = month_index < 10 ? month_index + 3 : month_index - 9;
	const int64_t part[] = { month, day_of_year - (153 * month_index + 2) / 5 + 1, rest / 3600, rest / 60 % 60, rest % 60 };
	static const char before[] = "--T::";
	char *at = append_number(out, (uint64_t)(year_of_era + era * 400 + (month <= 2)), 4);

	for (size_t i = 0; i < WHERRY_LENGTH(part); i++) {
		*at++ = before[i];
		at = append_number(at, (uint64_t)part[i], 2);
	}
	*at++ = '.';
	at = append_number(at, nanoseconds, 9);
	*at++ = 'Z';
	*at = 0;
	return (size_t)(at - out);
}
