/* SPDX-License-Identifier: Apache-2.0
 *
 * The porter: what containerd knows as a pod's server. It holds what must not get lost while nobody is at work, and calls a worker (Python,
 * shim/wherry_shim/{porter,parking}.py) when there is something to do. It never reads from what it holds, and knows nothing of a container.
 *
 *     awake    a worker has the listener, the connections, everything; the porter keeps no copy. It starts monitors for the worker, since
 *              children must be those of a process that stays, and tells it how they and their orphans end
 *     parked   the porter has everything: a memfd with the worker's state, and the descriptors that the state names by their place. Any
 *              event at one of them, or the time that was named, brings another worker
 *
 * Control is a socket pair of packets, one for each worker. Its end without a PARK is the worker's end, and then the porter's: as that of any
 * server that was killed, for then containerd's rule for a dead shim is what is wanted.
 */
#ifndef WHERRY_PORTER_H
#define WHERRY_PORTER_H

#include "shim.h"

#include <poll.h>
#include <sys/wait.h>

enum {
	PORTER_MAGIC = 0x50540001,
	PORTER_CONTROL = 3,      /* a worker's descriptor of it; of a porter that begins, the listener */
	PORTER_MOST = 240,       /* descriptors that are held; the kernel takes 253 in a message */
	PORTER_ENDED = 64,       /* ends that are kept for a worker that may not have heard of them; of more the oldest are forgotten */
	PORTER_TEXT = 8 << 10,   /* of a message */
	PORTER_WORDS = 16,       /* of a command */
	PORTER_BEGIN_MS = 60000, /* what a worker may need to its first word */
	PORTER_PAUSES_MS = 5000, /* between attempts at a worker, in the end */
	PORTER_ANSWER_MS = 100,  /* what the zygote may need: a cold worker takes longer */
};

enum porter_kind {
	PORTER_READY = 1, /* worker, its first word: a, b: the oldest and the newest state that it reads; text: the zygote that it has left, or nothing */
	PORTER_TAKE,      /* porter: a: our pid, b: the version of the state, 0 = none. Descriptors: lifeline; [state;] what was held, or the listener */
	PORTER_SPAWN,     /* worker: text: a path and words. Descriptors: 3 and 4 of the program */
	PORTER_SPAWNED,   /* porter: a: its pid, or -errno. Descriptor: pidfd */
	PORTER_ENDED_ONE, /* porter: a: pid of a child, or orphan, b: exit status, 128 + signal where one ended it */
	PORTER_PARK,      /* worker: a: how many ends it has heard of, b: version, until, text: what to poll for, two bytes for each descriptor but the state */
};

/* Followed by the text. Python packs it as <IIiiq. */
struct porter_head { uint32_t magic, kind; int32_t a, b; int64_t until; /* ms of the monotonic clock, -1 = never */ } __attribute__((packed));

struct porter_message {
	struct porter_head head;
	char text[PORTER_TEXT];
	size_t size; /* of the text */
	size_t count;
	int fd[PORTER_MOST + 2];
};

struct porter {
	char **argv;
	char zygote[SHIM_SOCKET], script[SHIM_PATH];
	int control, line, signals, state;
	int held[PORTER_MOST];
	short events[PORTER_MOST];
	size_t count;
	int version;
	int64_t until;
	struct { pid_t pid; int status; } ended[PORTER_ENDED];
	size_t ends;
	uint32_t told; /* to this worker */
};

/* control.c */
int porter_send(int socket, const struct porter_head *head, const int *fds, size_t count);
int porter_receive(int socket, struct porter_message *message); /* 1 = one is there, 0 = the end, -errno; EPROTO: nothing of it is kept */
void porter_close_fds(struct porter_message *message);

/* worker.c */
bool porter_find_places(struct porter *p); /* of the zygote and the script: later they may be gone, or others */
int porter_begin_worker(struct porter *p, bool cold); /* 0 = p->control speaks to one that is ready for our state; or -1 */

#endif
