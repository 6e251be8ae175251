/* SPDX-License-Identifier: Apache-2.0
 *
 * Where a worker comes from: the zygote, in two milliseconds; else an interpreter of its own, which leaves a zygote behind.
 */
#include "porter.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

static const char script_name[] = "containerd-shim-wherry-python";

bool porter_find_places(struct porter *p)
{
	ssize_t length = readlink("/proc/self/exe", p->script, sizeof(p->script) - sizeof(script_name));

	while (length > 0 && p->script[length - 1] != '/')
		length--;
	if (length < 1)
		return false;
	memcpy(p->script + length, script_name, sizeof(script_name));
	return shim_zygote_path(p->zygote);
}

/* The script's first line names the interpreter. It is started without `site`, as the script knows what to do without it. */
static bool interpreter(const struct porter *p, char *line, size_t room)
{
	cleanup_fd int fd = open(p->script, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : TEMP_FAILURE_RETRY(read(fd, line, room - 1));
	char *end;

	if (got < 3 || memcmp(line, "#!/", 3))
		return false;
	line[got] = '\0';
	end = strpbrk(line, " \n");
	if (!end || *end != '\n')
		return false;
	*end = '\0';
	return true;
}

static _Noreturn void become_worker(const struct porter *p, char **words, int control)
{
	if (control == PORTER_CONTROL)
		fcntl(control, F_SETFD, 0);
	else
		dup2(control, PORTER_CONTROL);
	wherry_cloexec_from(PORTER_CONTROL + 1);
	setpgid(0, 0);
	if (words)
		execve(words[0], words, environ);
	execve(p->script, p->argv, environ);
	_exit(127);
}

static bool start_cold(struct porter *p, int control)
{
	static char line[512], *words[PORTER_WORDS + 4];
	size_t count = 0;
	pid_t pid;

	while (p->argv[count])
		count++;
	if (!interpreter(p, line, sizeof(line)) || count > PORTER_WORDS)
		words[0] = NULL;
	else {
		words[0] = line + 2;
		words[1] = (char *)(uintptr_t)"-I";
		words[2] = (char *)(uintptr_t)"-S";
		words[3] = p->script;
		memcpy(words + 4, p->argv + 1, count * sizeof(*words));
	}
	pid = fork();
	if (!pid) {
		wherry_reset_signals();
		become_worker(p, words[0] ? words : NULL, control);
	}
	return pid > 0;
}


/* Its first word, and whether it reads what we have: a state of a newer version is not given to an older one, that would lose it. */
static bool is_ready(struct porter *p, int control, int patience_ms)
{
	static struct porter_message message;
	const struct timeval patience = { .tv_sec = patience_ms / 1000, .tv_usec = patience_ms % 1000 * 1000 };
	bool fits;

	setsockopt(control, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (porter_receive(control, &message) != 1)
		return false;
	porter_close_fds(&message);
	fits = message.head.kind == PORTER_READY && (!p->version || (message.head.a <= p->version && p->version <= message.head.b));
	if (fits && message.size && message.size < sizeof(p->zygote))
		memcpy(p->zygote, message.text, message.size + 1);
	return fits;
}

/* The zygote's, or a cold one. control: the worker's end, which is closed here: its end is to be seen at the other. */
static bool begin(struct porter *p, int ours, int control, bool cold)
{
	cleanup_fd int zygote = cold ? -1 : shim_zygote_connect(p->zygote, PORTER_ANSWER_MS);
	const bool asked = cold ? start_cold(p, control)
		: zygote >= 0 && shim_zygote_ask(zygote, p->argv, (int32_t)shim_score("/proc/self/oom_score_adj"), control, STDERR_FILENO);

	close(control);
	return asked && is_ready(p, ours, cold ? PORTER_BEGIN_MS : PORTER_ANSWER_MS);
}

int porter_begin_worker(struct porter *p, bool cold)
{
	int pair[2];

	for (;; cold = true) {
		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
			return -1;
		if (begin(p, pair[0], pair[1], cold)) {
			p->control = pair[0];
			return 0;
		}
		close(pair[0]);
		if (cold)
			return -1;
	}
}
