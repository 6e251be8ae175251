/* SPDX-License-Identifier: Apache-2.0
 *
 * The last steps of init: where the program is, where it starts, the wait for `start`, and execve.
 *
 * After the user's seccomp filter init makes as few system calls as there can be, so all that can be prepared is: the vectors are built
 * when the program is looked up, descriptors and signals are put in order when `start` has come. op_execute only executes.
 */
#include "wherry/core.h"
#include "wherry/sys.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#ifndef SYS_faccessat2
#define SYS_faccessat2 439
#endif

/* ---- paths ------------------------------------------------------------------------------------------------------------- */

/* Opens `path` as the kernel would at execve or chdir, but never through a magic link: /proc/self/fd/N leads out of the container
 * (CVE-2024-21626), /proc/PID/exe to whatever runs there. -WHERRY_NOT_IN_ROOTFS for those. */
static int open_absolute(struct wherry_machine *m, const char *path, const char *as_given, int flags)
{
	int fd = securepath_open(m->rootfs, path, O_PATH | O_CLOEXEC | flags, RESOLVE_NO_MAGICLINKS);

	if (fd == -EXDEV)
		return -WHERRY_NOT_IN_ROOTFS;
	if (fd == -ELOOP) {
		/* a real loop fails here too */
		cleanup_fd int anyway = open(as_given, O_PATH | O_CLOEXEC);

		return anyway < 0 ? -ELOOP : -WHERRY_NOT_IN_ROOTFS;
	}
	return fd;
}

/* Its buffer is two pages of stack, which the usual path does not need. */
__attribute__((noinline)) static int open_relative(struct wherry_machine *m, const char *path, int flags)
{
	char absolute[2 * WHERRY_MAX_PATH];
	int length = sys_getcwd(absolute, WHERRY_MAX_PATH);

	if (length < 0)
		return -errno;
	if (absolute[0] != '/')
		return -WHERRY_CWD_OUTSIDE;
	absolute[length - 1] = '/'; /* in place of the NUL */
	memcpy(absolute + length, path, strlen(path) + 1);
	return open_absolute(m, absolute, path, flags);
}

static int open_inside(struct wherry_machine *m, const char *path, int flags)
{
	if (strlen(path) >= WHERRY_MAX_PATH)
		return -ENAMETOOLONG;
	return path[0] == '/' ? open_absolute(m, path, path, flags) : open_relative(m, path, flags);
}

/* ---- working directory ----------------------------------------------------------------------------------------------------- */

static int enter_directory(struct wherry_machine *m, const struct wherry_op_working_directory *op)
{
	const char *path = wherry_text(&m->code, op->path);
	cleanup_fd int directory = open_inside(m, path, O_DIRECTORY);

	if (directory == -ENOENT && op->create && op->stage == 0)
		directory = securepath_make_directories(m->rootfs, path, 0755);
	if (directory == -WHERRY_NOT_IN_ROOTFS)
		return -WHERRY_CWD_OUTSIDE;
	if (directory < 0)
		return directory;
	return fchdir(directory) < 0 ? -errno : 0;
}

/* Whatever way led here: a directory of the host, or one that is gone, has no absolute path (CVE-2024-21626). */
static int check_directory(void)
{
	char path[WHERRY_MAX_PATH];

	if (sys_getcwd(path, sizeof(path)) < 0)
		return errno == ENOENT ? -WHERRY_CWD_OUTSIDE : -errno;
	return path[0] == '/' ? 0 : -WHERRY_CWD_OUTSIDE;
}

/* Tried as root first, then, where root may not (a directory on NFS, a FUSE mount of the user), as the user. */
int op_working_directory(struct wherry_machine *m, const struct wherry_op_working_directory *op)
{
	int result = 0;

	if (op->stage == 0 || m->directory_refused)
		result = enter_directory(m, op);
	/* the user's limit may leave no descriptor; where plain chdir led is checked below all the same */
	if (result == -EMFILE)
		result = chdir(wherry_text(&m->code, op->path)) < 0 ? -errno : 0;
	if (op->stage == 0 && (result == -EACCES || result == -EPERM)) {
		m->directory_refused = true;
		return 0;
	}
	if (result < 0)
		return wherry_fail(m, WHERRY_CALL_CHDIR, -result);
	result = check_directory();
	/* a filter that is in force by now may forbid to ask; where the first stage led was seen before it */
	if (op->stage && !m->directory_refused && result != -WHERRY_CWD_OUTSIDE)
		result = 0;
	return result < 0 ? wherry_fail(m, WHERRY_CALL_GETCWD, -result) : 0;
}

/* ---- looking the program up --------------------------------------------------------------------------------------------------- */

static int may_execute(int file)
{
	struct stat info;

	if (fstat(file, &info) < 0)
		return -errno;
	if (S_ISDIR(info.st_mode))
		return -EISDIR;
	if (!S_ISREG(info.st_mode))
		return -EACCES;
	if (syscall(SYS_faccessat2, file, "", X_OK, AT_EACCESS | AT_EMPTY_PATH) == 0)
		return 0;
	if (errno != ENOSYS && errno != EPERM && errno != EINVAL)
		return -errno;
	return info.st_mode & 0111 ? 0 : -EACCES; /* the exact answer comes with execve */
}

static int check_program(struct wherry_machine *m, const char *path)
{
	cleanup_fd int file = open_inside(m, path, 0);

	return file < 0 ? file : may_execute(file);
}

/* The next element of PATH with `name` behind it, into m->program. An empty element is the working directory. False at the end;
 * an element that is too long is left out. */
static bool next_candidate(struct wherry_machine *m, const char **path, const char *name)
{
	while (*path) {
		const char *end = strchrnul(*path, ':');
		size_t length = (size_t)(end - *path), name_length = strlen(name);
		char *out = m->program;

		if (length + name_length + 2 <= sizeof(m->program)) {
			memcpy(out, *path, length);
			if (length)
				out[length++] = '/';
			memcpy(out + length, name, name_length + 1);
			*path = *end ? end + 1 : NULL;
			return true;
		}
		*path = *end ? end + 1 : NULL;
	}
	return false;
}

/* As execvp: the first that may be executed; one that may not is remembered for the error. */
static int search_program(struct wherry_machine *m)
{
	int refused = 0;

	while (next_candidate(m, &m->prepared.candidates, m->prepared.name)) {
		int result = check_program(m, m->program);

		if (result == 0 || result == -WHERRY_NOT_IN_ROOTFS)
			return result;
		if (result == -EACCES || result == -EISDIR)
			refused = -EACCES;
	}
	return refused ? refused : -WHERRY_PROGRAM_NOT_FOUND;
}

static int find_program(struct wherry_machine *m, const char *path)
{
	size_t length = strlen(m->prepared.name);

	m->prepared.candidates = NULL;
	m->prepared.program = m->prepared.name;
	if (!length)
		return -WHERRY_PROGRAM_NOT_FOUND;
	if (length >= sizeof(m->program))
		return -ENAMETOOLONG;
	if (!strchr(m->prepared.name, '/')) {
		m->prepared.candidates = path;
		m->prepared.program = m->program;
		return search_program(m);
	}
	return check_program(m, m->prepared.program);
}

/* ---- HOME and the vectors ------------------------------------------------------------------------------------------------------- */

static const char home_prefix[] = "HOME=";
enum { HOME_PREFIX = sizeof(home_prefix) - 1 };

/* The container's file, which an engine may have mounted there. Only a regular file is read: anything else may block. */
static void fill_home(struct wherry_machine *m, uint32_t uid)
{
	cleanup_fd int file = securepath_open(m->rootfs, "etc/passwd", O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, RESOLVE_NO_MAGICLINKS);
	char *home = m->home + HOME_PREFIX;
	struct stat info;

	m->prepared.home = memcpy(m->home, home_prefix, sizeof(home_prefix));
	if (file < 0 || fstat(file, &info) < 0 || !S_ISREG(info.st_mode) || passwd_home(file, uid, home, sizeof(m->home) - HOME_PREFIX) < 0)
		memcpy(home, "/", 2);
}

static const char **fill(const struct wherry_machine *m, struct wherry_list list, const char **at, const char *without)
{
	const struct wherry_text *texts = wherry_texts(&m->code, list);

	for (uint32_t i = 0; i < list.count; i++) {
		const char *text = wherry_text(&m->code, texts[i]);

		if (!without || strncmp(text, without, strlen(without)) != 0)
			*at++ = text;
	}
	return at;
}

static int build_vectors(struct wherry_machine *m, const struct wherry_op_program *op)
{
	size_t count = (size_t)op->arguments.count + op->environment.count + 3;
	const char **at = m->vectors;

	if (count > WHERRY_FEW_TEXTS)
		at = mmap(NULL, count * sizeof(*at), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if ((void *)at == MAP_FAILED)
		return -errno;
	m->prepared.argv = at;
	at = fill(m, op->arguments, at, NULL);
	*at++ = NULL;
	m->prepared.envp = at;
	at = fill(m, op->environment, at, m->prepared.home ? home_prefix : NULL);
	if (m->prepared.home)
		*at++ = m->prepared.home;
	*at = NULL;
	return 0;
}

int op_program(struct wherry_machine *m, const struct wherry_op_program *op)
{
	int result;

	m->prepared.name = wherry_text(&m->code, wherry_texts(&m->code, op->arguments)[0]);
	result = find_program(m, wherry_text(&m->code, op->path));
	if (result < 0)
		return wherry_fail(m, WHERRY_CALL_LOOKUP, -result);
	if (op->flags & WHERRY_PROGRAM_ADOPTS)
		prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); /* execve keeps it; no child has it */
	m->prepared.home = NULL;
	if (op->flags & WHERRY_PROGRAM_FILL_HOME)
		fill_home(m, op->uid);
	result = build_vectors(m, op);
	return result < 0 ? wherry_fail(m, WHERRY_CALL_LOOKUP, -result) : 0;
}

/* ---- start ------------------------------------------------------------------------------------------------------------------------ */

static void close_between(int first, int last)
{
	if (first > last || sys_close_range((unsigned int)first, (unsigned int)last, 0) == 0)
		return;
	for (int fd = first; fd <= last; fd++)
		close(fd);
}

/* Keeps stdio, the preserved descriptors, and the two fifos, which end with execve. The rest is closed and not left to close-on-exec: an
 * interpreter line such as #!/proc/self/fd/9 is opened before that acts. */
static void order_descriptors(struct wherry_machine *m)
{
	int first = STDERR_FILENO + 1 + (int)m->preserve_fds;
	int low = m->start_fifo < m->result_fifo ? m->start_fifo : m->result_fifo;
	int high = m->start_fifo < m->result_fifo ? m->result_fifo : m->start_fifo;

	if (low >= first)
		close_between(first, low - 1);
	close_between(low >= first ? low + 1 : first, high - 1);
	wherry_close_from(high >= first ? high + 1 : first);
	for (int fd = STDERR_FILENO + 1; fd < first; fd++)
		fcntl(fd, F_SETFD, 0);
	for (size_t i = 0; i < WHERRY_MAX_REGISTERS; i++)
		m->registers[i] = -1;
	m->caller = m->helper = m->rootfs = m->init_pidfd = m->pending_fd = -1;
	m->ordered = true;
}

int op_wait_start(struct wherry_machine *m, const struct wherry_op_wait_start *op)
{
	int result = wherry_await_start(m);

	(void)op;
	if (result == 0)
		order_descriptors(m);
	return result;
}

static bool may_be_elsewhere(int error)
{
	return error == EACCES || error == ENOENT || error == ENOTDIR;
}

/* No disposition is set here: init has those of its launcher (or of the monitor), which has reset all 64 as its first act, and since then nobody has
 * ignored a signal: hooks get theirs in a child, and the SA_NOCLDWAIT of OP_SECCOMP ends with execve. These would be 62 calls, some of them under a
 * filter of the user's. */
int op_execute(struct wherry_machine *m, const struct wherry_op_execute *op)
{
	int error = 0;

	(void)op;
	if (!m->prepared.argv)
		return wherry_fail(m, WHERRY_CALL_EXECVE, WHERRY_BAD_PLAN);
	if (!m->ordered) { /* a plan without a start to wait for */
		order_descriptors(m);
		sys_signal_mask(SIG_SETMASK, 0, NULL);
	}
	/* the lookup may have been done with more rights than the user has: as execvp, a file that may not be executed is passed over */
	do {
		execve(m->prepared.program, (char *const *)m->prepared.argv, (char *const *)m->prepared.envp);
		error = error == EACCES && may_be_elsewhere(errno) ? error : errno;
	} while (may_be_elsewhere(errno) && next_candidate(m, &m->prepared.candidates, m->prepared.name));
	return wherry_fail(m, WHERRY_CALL_EXECVE, error);
}
