/* SPDX-License-Identifier: Apache-2.0
 *
 * Loading filters, and getting the notify descriptor out past a filter that holds back the very calls of the protocol.
 */
#include "build.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

enum { CALLS = 8, MAX_NOTIFICATIONS = 1000 };

/* A filter that answers `action` for the given calls and allows the rest. */
static struct wherry_blob filter_of(const int *calls, size_t count, uint32_t action)
{
	struct sock_filter filter[2 * CALLS + 2] = { BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)) };
	size_t length = 1;

	for (size_t i = 0; i < count; i++) {
		filter[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)calls[i], 0, 1);
		filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action);
	}
	filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	return build_blob(filter, length * sizeof(filter[0]));
}

static void plain_child(void)
{
	static const int calls[] = { SYS_getpgid };
	struct wherry_machine *m = build_begin();
	const struct wherry_op_seccomp op = { .filter = filter_of(calls, 1, SECCOMP_RET_ERRNO | ENETDOWN), .listener = WHERRY_NO_REGISTER };

	CHECK_EQUAL(op_seccomp(m, &op), 0);
	CHECK_EQUAL(prctl(PR_GET_SECCOMP, 0, 0, 0, 0), 2);
	CHECK_EQUAL(syscall(SYS_getpgid, 0), -1);
	CHECK_EQUAL(errno, ENETDOWN);
}

static void test_plain(void)
{
	in_child(plain_child);
}

static void refused_child(void)
{
	static const int calls[] = { SYS_getpgid };
	struct wherry_machine *m = build_begin();
	struct wherry_op_seccomp op = { .filter = filter_of(calls, 1, SECCOMP_RET_ALLOW), .flags = 1U << 30, .listener = WHERRY_NO_REGISTER };

	CHECK_EQUAL(op_seccomp(m, &op), -EINVAL);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_SECCOMP);
	/* without no_new_privs only root may */
	CHECK(setresuid(12345, 12345, 12345) == 0);
	op.flags = 0;
	CHECK_EQUAL(op_seccomp(m, &op), -EACCES);
}

static void test_refused(void)
{
	in_child(refused_child);
}

/* ---- with a listener ----------------------------------------------------------------------------------------------------- */

static const int protocol_calls[] = { SYS_sendmsg, SYS_recvmsg, SYS_close, SYS_wait4, SYS_write, SYS_munmap, SYS_nanosleep };
static struct wherry_op_listener listener_op = { .op = { .code = OP_LISTENER }, .listener = 3 };
static struct wherry_op_seccomp seccomp_op;
static int sockets[2]; /* of the caller, of init */

/* Step 4 is the filter, step 5 its listener. */
static struct wherry_machine *begin_with_listener(uint32_t action)
{
	struct wherry_machine *m = build_begin();

	seccomp_op = (struct wherry_op_seccomp){
		.op = { .code = OP_SECCOMP },
		.filter = filter_of(protocol_calls, WHERRY_LENGTH(protocol_calls), action),
		.flags = SECCOMP_FILTER_FLAG_TSYNC, /* must not collide with the listener */
		.listener = 3,
	};
	m->code.steps = 6;
	m->code.step[4] = &seccomp_op.op;
	m->code.step[5] = &listener_op.op;
	m->current = 4;
	m->caller = sockets[1];
	return m;
}

static void init_with_listener(void)
{
	struct wherry_machine *m = begin_with_listener(SECCOMP_RET_USER_NOTIF);
	struct wherry_message message;

	CHECK_EQUAL(op_seccomp(m, &seccomp_op), 0);
	CHECK_EQUAL(m->requested, 5);
	CHECK(m->registers[3] >= 0);
	CHECK_EQUAL(wherry_receive(m->caller, &message, NULL), 0);
	CHECK_EQUAL(message.kind, WHERRY_DONE);
	message.kind = WHERRY_RUN;
	message.step = 6;
	CHECK_EQUAL(wherry_send(m->caller, &message, -1), 0);
	CHECK_EQUAL(waitpid(-1, NULL, 0), -1); /* the helper leaves no zombie to a PID 1 that knows nothing of it */
	CHECK_EQUAL(errno, ECHILD);
}

/* Lets everything through, until the filtered process is gone. */
static int supervise(int notify)
{
	int answered = 0;

	while (answered < MAX_NOTIFICATIONS) {
		struct seccomp_notif request = { 0 };
		struct pollfd ready = { .fd = notify, .events = POLLIN };

		if (poll(&ready, 1, 20000) <= 0 || !(ready.revents & POLLIN))
			break;
		if (ioctl(notify, SECCOMP_IOCTL_NOTIF_RECV, &request) < 0)
			continue;
		struct seccomp_notif_resp answer = { .id = request.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE };

		ioctl(notify, SECCOMP_IOCTL_NOTIF_SEND, &answer);
		answered++;
	}
	return answered;
}

/* The caller's side: the descriptor comes with a request for the listener's step although init itself may not send. */
static void test_listener(void)
{
	struct wherry_message message;
	int notify = -1, status = -1;
	pid_t pid;

	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) == 0);
	pid = fork();
	if (pid == 0) {
		check_failures = 0;
		alarm(30);
		init_with_listener();
		check_exit();
	}
	wherry_close(&sockets[1]);
	CHECK_EQUAL(wherry_receive(sockets[0], &message, &notify), 0);
	CHECK_EQUAL(message.kind, WHERRY_RUN);
	CHECK_EQUAL(message.step, 5);
	CHECK(notify >= 0);
	message.kind = WHERRY_DONE;
	CHECK_EQUAL(wherry_send(sockets[0], &message, -1), 0);
	CHECK(supervise(notify) >= 3);
	CHECK_EQUAL(wherry_receive(sockets[0], &message, NULL), 0);
	CHECK_EQUAL(message.step, 6);
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK_EQUAL(status, 0);
	close(notify);
	wherry_close(&sockets[0]);
}

/* The kernel refuses the filter: the helper goes away and says nothing. */
static void listener_refused_child(void)
{
	struct wherry_machine *m;
	struct wherry_message message;

	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) == 0);
	m = begin_with_listener(SECCOMP_RET_ALLOW);
	seccomp_op.flags = 1U << 30;
	CHECK_EQUAL(op_seccomp(m, &seccomp_op), -EINVAL);
	CHECK_EQUAL(m->failed_call, WHERRY_CALL_SECCOMP);
	CHECK_EQUAL(m->requested, 0);
	CHECK_EQUAL(m->registers[3], -1);
	CHECK_EQUAL(waitpid(-1, NULL, 0), -1);
	CHECK_EQUAL(errno, ECHILD);
	wherry_close(&sockets[1]);
	CHECK_EQUAL(wherry_receive(sockets[0], &message, NULL), -EPIPE);
}

static void test_listener_refused(void)
{
	in_child(listener_refused_child);
}

/* Only with the step that takes the descriptor right behind it. */
static void test_listener_needs_its_step(void)
{
	struct wherry_machine *m = begin_with_listener(SECCOMP_RET_ALLOW);

	m->code.step[5] = &seccomp_op.op;
	CHECK_EQUAL(op_seccomp(m, &seccomp_op), -WHERRY_BAD_PLAN);
	m->code.steps = 5;
	CHECK_EQUAL(op_seccomp(m, &seccomp_op), -WHERRY_BAD_PLAN);
	CHECK_EQUAL(prctl(PR_GET_SECCOMP, 0, 0, 0, 0), 0);
}

static const struct check_case cases[] = {
	{ "plain", test_plain },
	{ "refused", test_refused },
	{ "listener", test_listener },
	{ "listener_refused", test_listener_refused },
	{ "listener_needs_its_step", test_listener_needs_its_step },
};

int main(int argc, char **argv)
{
	if (geteuid()) {
		puts("skipped: these tests need root");
		return 77;
	}
	return check_main(cases, WHERRY_LENGTH(cases), argc, argv);
}
