/* SPDX-License-Identifier: Apache-2.0
 *
 * host_kill_tree: children, grandchildren that were given away, and sessions of their own end with the process; its parent and its
 * brothers do not.
 */
#include "check.h"
#include "wherry/host.h"
#include "wherry/sys.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

static int told[2]; /* each process tells its pid */

static _Noreturn void stay(void)
{
	pid_t own = getpid();

	signal(SIGTERM, SIG_IGN);
	CHECK_EQUAL(write(told[1], &own, sizeof(own)), sizeof(own));
	for (;;)
		pause();
}

/* Forked twice, in a session of its own: nobody of its family is left. */
static void give_away(void)
{
	pid_t child = fork();

	if (child) {
		waitpid(child, NULL, 0);
		return;
	}
	setsid();
	if (fork())
		_exit(0);
	stay();
}

static pid_t family(bool adopts)
{
	pid_t root = fork();

	if (root)
		return root;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (adopts)
		prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	if (!fork())
		stay();
	give_away();
	stay();
}

static int ended(int pidfd, int wait_ms)
{
	struct pollfd item = { .fd = pidfd, .events = POLLIN };

	return poll(&item, 1, wait_ms);
}

static void kill_family(bool adopts, int left)
{
	pid_t root, pid[3], brother;
	int pidfd[3], living = 0;

	CHECK_EQUAL(pipe2(told, O_CLOEXEC), 0);
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	brother = fork();
	if (!brother)
		for (;;)
			pause();
	root = family(adopts);
	for (int i = 0; i < 3; i++) {
		CHECK_EQUAL(read(told[0], &pid[i], sizeof(pid[i])), sizeof(pid[i]));
		pidfd[i] = sys_pidfd_open(pid[i], 0);
	}
	int of_root = sys_pidfd_open(root, 0);

	CHECK_EQUAL(host_kill_tree(root, of_root), 0);
	CHECK_EQUAL(ended(of_root, 5000), 1);
	for (int i = 0; i < 3; i++) {
		if (ended(pidfd[i], 0))
			continue;
		living++;
		sys_pidfd_send_signal(pidfd[i], SIGKILL, NULL, 0);
	}
	CHECK_EQUAL(living, left);
	CHECK_EQUAL(waitpid(brother, NULL, WNOHANG), 0);
	kill(brother, SIGKILL);
	while (wait(NULL) > 0)
		;
	for (int i = 0; i < 3; i++)
		close(pidfd[i]);
	close(of_root);
	close(told[0]);
	close(told[1]);
}

static void all_that_descend(void)
{
	kill_family(true, 0);
}

static void given_away_without_a_subreaper(void)
{
	kill_family(false, 1);
}

static void one_that_has_ended(void)
{
	pid_t child = fork();
	int pidfd;

	if (!child)
		_exit(0);
	pidfd = sys_pidfd_open(child, 0);
	CHECK_EQUAL(ended(pidfd, 5000), 1);
	CHECK_EQUAL(host_kill_tree(child, pidfd), 0);
	CHECK_EQUAL(waitpid(child, NULL, 0), child);
	CHECK_EQUAL(host_kill_tree(child, pidfd), 0);
	close(pidfd);
}

static const struct check_case cases[] = {
	{ "all_that_descend", all_that_descend },
	{ "given_away_without_a_subreaper", given_away_without_a_subreaper },
	{ "one_that_has_ended", one_that_has_ended },
};

CHECK_MAIN(cases)
