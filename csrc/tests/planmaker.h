/* SPDX-License-Identifier: Apache-2.0
 *
 * Plans made by hand, and a caller that plays its part of the handshake line by line: what the tests of launcher and init need.
 */
#ifndef WHERRY_TESTS_PLANMAKER_H
#define WHERRY_TESTS_PLANMAKER_H

#include "wherry/core.h"
#include "wherry/sys.h"

enum { PLANMAKER_ROOM = 128 << 10 };

struct planmaker {
	uint8_t heap[PLANMAKER_ROOM], steps[PLANMAKER_ROOM];
	uint32_t heap_size, steps_size, count;
	uint16_t registers, inherited;
	uint32_t flags;
	uint8_t plan[2 * PLANMAKER_ROOM] __attribute__((aligned(8)));
	uint32_t size; /* of the finished plan */
};

void plan_begin(struct planmaker *p);
struct wherry_text plan_text(struct planmaker *p, const char *text);
struct wherry_template plan_template(struct planmaker *p, const char *text);
struct wherry_blob plan_blob(struct planmaker *p, const void *bytes, uint32_t size);
struct wherry_list plan_list(struct planmaker *p, const char *const texts[]); /* NULL ends */
/* The next operation, zeroed but for its head. */
void *plan_add(struct planmaker *p, enum wherry_opcode code, enum wherry_executor executor, uint32_t size);
#define PLAN_ADD(p, code, executor, type) ((struct type *)plan_add(p, code, executor, sizeof(struct type)))
void plan_finish(struct planmaker *p);

/* A rootfs of this host's "/" without what is mounted below, attached at `directory` and pivoted to. */
void plan_rootfs(struct planmaker *p, enum wherry_executor opener, const char *directory, uint16_t tree);
/* Published, started, executed. */
void plan_program(struct planmaker *p, const char *const arguments[]);
/* The same with /bin/sh -c `script`. */
void plan_shell(struct planmaker *p, const char *script);

/* One create. */
struct caller {
	char directory[64]; /* temporary: fifos, a mount point for the rootfs */
	int socket, start, result; /* our ends; start and result are opened as the verb start would */
	int output; /* what the program writes to its stdout */
	pid_t launcher, init;
	int launcher_pidfd, init_pidfd;
	struct wherry_message message; /* the last one */
	int fd; /* that came with it */
};

struct caller_options {
	const int *registers;
	const int *preserved;
	uint32_t preserve_fds;
	const char *slots[WHERRY_SLOT_COUNT];
	bool mangled; /* a byte of the plan is wrong */
};

extern const uint8_t wherry_program_start[], wherry_program_end[];

void caller_prepare(struct caller *c); /* the directory; may be called before the plan is made */
/* 0, or what wherry_spawn said. */
int caller_launch(struct caller *c, const struct planmaker *p, const struct caller_options *options);
/* The kind of the next message, or -errno; -ETIMEDOUT after ten seconds. c->init is set by WHERRY_LAUNCHED. */
int caller_receive(struct caller *c);
int caller_answer(struct caller *c, enum wherry_message_kind kind);
/* Through LAUNCHED and every WHERRY_RUN to the answer of OP_PUBLISH. 0, or the error of a failure (c->message is it). */
int caller_create(struct caller *c, const struct planmaker *p);
int caller_start(struct caller *c); /* 0 = executed; else the error in c->message */
bool caller_is_created(const struct caller *c); /* the fifo has a reader */
int caller_wait(struct caller *c); /* wait status of init */
int caller_wait_launcher(struct caller *c);
/* All that the program writes, NUL-terminated, until the end of file. */
const char *caller_output(struct caller *c);
void caller_end(struct caller *c); /* kills what is left, reaps, removes */

#endif
