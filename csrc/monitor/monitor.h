/* SPDX-License-Identifier: Apache-2.0
 *
 * The monitor: parent of a container's first process and of each exec. It outlives the server that started it: it keeps what holds their
 * stdio together, writes down how each ended, and tells every server that is connected. A server gives it finished plans and opened descriptors: here, too,
 * nothing is decided.
 *
 * One container is one monitor. It ends when nothing of its container lives and nothing is left to be read. Where output goes into files a second
 * process, the writer, stands beside it: see output.c.
 */
#ifndef WHERRY_MONITOR_H
#define WHERRY_MONITOR_H

#include "../host/parts.h"

#include <poll.h>

enum {
	MONITOR_VERSION = 0x4d4e0001, /* first word of each message */
	MAX_MESSAGE = 64 << 10,
	MAX_PROCESSES = 1024,
	MAX_CONNECTIONS = 8,
	MAX_DESCRIPTORS = 20,
	MAX_KEPT = HOST_MAX_KEPT,
	MAX_META = 3072,
	MAX_NAME = 128,
	MONITOR_LOCK = 4, /* our descriptor of it */
};

/* From a server. */
enum monitor_request {
	MONITOR_CREATE = 1,  /* make the container. Answer: WAITING (a plan with an interlude), then MADE or FAILED */
	MONITOR_EXEC,        /* one more process. Answer: MADE or FAILED */
	MONITOR_FINISH,      /* the interlude is done */
	MONITOR_ABORT,       /* the interlude failed. Answer: FAILED with error ECANCELED */
	MONITOR_MARK,        /* journal: extra entry `index` is now in `status` */
	MONITOR_CLOSE_INPUT, /* of a process: our writing end of its stdin */
	MONITOR_RELEASE,     /* of a process that has ended: everything, its exit record included */
	MONITOR_WATCH,       /* MONITOR_FD_EVENTS: the file that counts the container's OOM kills */
	MONITOR_RESTORE,     /* make the container, by a program: TEXT_EXTRA is its path, its `count` arguments, and its environment. Its stdio is the
	                      * container's, its descriptor 3 takes a helper's answer: MADE, or FAILED with words in TEXT_META */

	/* To the writer alone, where `process` is a number that the monitor has given to two streams. */
	MONITOR_COPY,   /* HOLD_OUT into LOG_OUT, HOLD_ERR into LOG_ERR */
	MONITOR_DRAIN,  /* what is in them now. Answer: the same, when it is in the files */
	MONITOR_FORGET, /* a process that was not made: nothing was written */
};

/* To each server that is connected. */
enum monitor_report {
	MONITOR_WAITING = 32, /* init waits for the interlude; pid */
	MONITOR_MADE,         /* from the helper: status = the server that has asked knows already. pid; MONITOR_FD_PROCESS, MONITOR_FD_MASTER where there is a terminal */
	MONITOR_FAILED,       /* step, error, call, value, undo */
	MONITOR_ENDED,        /* status, signal, oom, time */
	MONITOR_DRAINED,      /* the pump of its terminal has come to an end; from the writer: two streams have */
	MONITOR_PROCESS,      /* to who connects: a process that lives; meta, descriptors as in MADE */
	MONITOR_LISTED,       /* to who connects: that was all; value: what this monitor can do, enum monitor_ability */
	MONITOR_KEEP,         /* from the helper of a create, behind MADE: MONITOR_FD_KEPT and the following, in TEXT_META their paths, each with a newline */
};

enum monitor_ability { MONITOR_COPIES = 1 }; /* a request may have MONITOR_FD_LOG_OUT and _ERR */

/* What a message carries, in the order of the bits of `fds`. */
enum monitor_fd {
	MONITOR_FD_PROGRAM,  /* sealed memfd of the static program */
	MONITOR_FD_PLAN,
	MONITOR_FD_CONFIG,
	MONITOR_FD_TARGET,   /* exec: pidfd of the container's first process */
	MONITOR_FD_STDIN,    /* as the process gets them */
	MONITOR_FD_STDOUT,
	MONITOR_FD_STDERR,
	MONITOR_FD_INPUT,    /* terminal: what is pumped into it ... */
	MONITOR_FD_OUTPUT,   /* ... and where its output goes */
	MONITOR_FD_HOLD_IN,  /* writing end of stdin's fifo: no end of file before MONITOR_CLOSE_INPUT */
	MONITOR_FD_HOLD_OUT, /* reading ends: a reader may go and come back */
	MONITOR_FD_HOLD_ERR,
	MONITOR_FD_EVENTS,
	MONITOR_FD_PROCESS,  /* pidfd */
	MONITOR_FD_MASTER,
	MONITOR_FD_LOG_OUT, /* a file: what comes to HOLD_OUT is copied there, and nobody else reads that */
	MONITOR_FD_LOG_ERR,
	MONITOR_FD_KEPT,
	MONITOR_FD_COUNT = MONITOR_FD_KEPT + HOST_MAX_KEPT,
};

enum monitor_text { TEXT_ROOT, TEXT_ID, TEXT_BUNDLE, TEXT_BUNDLE_JSON, TEXT_PID_FILE, TEXT_NAME, TEXT_META, TEXT_EXTRA, TEXT_COUNT };

/* Followed by the texts, each with a NUL that is not counted. No padding: Python packs it as <IHHIIiiiIqIIQiIiI8I. */
struct monitor_head {
	uint32_t version;
	uint16_t kind;
	uint16_t count;   /* CREATE: extra journal entries in TEXT_EXTRA, each a byte of its kind and a text with its NUL */
	uint32_t process; /* 0 = the container's first process; execs by the number that the server gave them */
	uint32_t fds;     /* 1 << enum monitor_fd */
	int32_t pid;
	int32_t status;
	int32_t signal;
	uint32_t oom;
	int64_t seconds;
	uint32_t nanoseconds;
	uint32_t step;
	uint64_t value;
	int32_t error;
	uint32_t call;
	int32_t undo;
	uint32_t index;
	uint32_t length[TEXT_COUNT];
};

/* Small, so that those of one process can stand in one page: each fork has every page copied that is written behind it. */
struct monitor_message {
	struct monitor_head head;
	const char *text[TEXT_COUNT];
	int fd[MONITOR_FD_COUNT]; /* -1 = not there; owned */
	char *data;               /* MAX_MESSAGE bytes, for the texts of one that is received */
};

/* protocol.c */
int monitor_receive(int socket, struct monitor_message *message); /* 1 = one is there, 0 = the end, -errno (-EAGAIN; -EPROTO: nothing of it is kept) */
int monitor_send(int socket, struct monitor_message *message);    /* what is in text[] and fd[]; keeps all of it */
void monitor_empty(struct monitor_message *message, uint16_t kind, uint32_t process);
void monitor_close_fds(struct monitor_message *message);

/* pump.c: between a pty and two fifos, never waiting */
struct pump {
	int master, input, output; /* -1 = ended */
	char *buffer;              /* of both directions; NULL = no pump */
	uint32_t out_at, out_size, in_at, in_size;
};
int pump_begin(struct pump *p, int master, int input, int output); /* takes them */
size_t pump_poll(const struct pump *p, struct pollfd items[3]);    /* always fills three */
void pump_run(struct pump *p, const struct pollfd items[3]);
bool pump_ended(const struct pump *p);
void pump_end(struct pump *p);

/* output.c: the writer, a process of its own. What it is told comes by `socket`; it ends when that has ended and every stream has. */
void output_run(int socket) __attribute__((noreturn));

/* process.c */
struct process {
	uint32_t number;
	pid_t pid;           /* 0 = not made yet */
	int pidfd;
	pid_t helper;        /* who makes it; 0 = has ended */
	int helper_socket;
	size_t asked;        /* the connection by which it was asked for ... */
	uint32_t peer;       /* ... and whose that was */
	int execution;       /* it makes itself (exec.c): what it says of that. -1 = not, or no more */
	int64_t deadline;    /* until when it has to */
	struct wherry_message failure; /* it has not: told when it has ended. kind = WHERRY_FAILED */
	bool ended, drained_told;
	int hold[3], master;
	int log[2];
	uint32_t copy;       /* what the writer knows its streams by; 0 = nothing is copied any more */
	bool released;       /* its server has forgotten it, and what it has left in the background goes on writing */
	struct pump pump;
	char name[MAX_NAME]; /* exec id; "" = the first process */
	uint32_t meta_size;
	char meta[MAX_META];
};

/* What is written for every exec stands first, in one page. */
struct monitor {
	struct monitor_message request; /* of a server */
	struct monitor_message answer;  /* of a helper */
	struct monitor_message report;  /* ours, to either */
	struct host_kept kept; /* kept.c */
	int signals, listener, directory, events;
	int pids; /* our pid namespace; -1 = not opened yet */
	uint32_t oom_before;
	char *name; /* what ps shows */
	pid_t writer; /* 0 = none */
	int writer_socket;
	uint32_t copies; /* numbers given so far */
	int connection[MAX_CONNECTIONS];
	uint32_t peer[MAX_CONNECTIONS]; /* how many this place has had before */
	uint32_t processes;
	struct host_create create; /* of the exec that is being made; behind its table nothing is of every exec */
	struct process *process[MAX_PROCESSES];
	char directory_path[WHERRY_MAX_PATH];
};

void process_request(struct monitor *m, size_t from, struct monitor_message *message); /* by that connection; takes the descriptors that it needs */
void process_hear(struct monitor *m, struct process *p);                  /* its helper has spoken, or itself */
void process_reap(struct monitor *m);
void process_pumped(struct monitor *m, struct process *p);
bool process_over(const struct monitor *m);    /* nothing lives, nothing is made, nothing is left to be read */
bool process_waiting(const struct monitor *m); /* nothing lives, but something is left to be read */
void process_forget_creates(struct monitor *m); /* no server is there: a create that is under way has nobody who asked for it */
void process_list(struct monitor *m, int connection);
void process_copied(struct monitor *m, struct process *p);             /* its streams have ended */
bool process_deleted(const struct monitor *m);                         /* the container's directory is gone */
void monitor_tell(struct monitor *m, struct monitor_message *message); /* every connection */

/* writer.c: the monitor's side of it */
void writer_begin(struct monitor *m, struct process *p);  /* where it has logs */
void writer_drain(struct monitor *m, struct process *p);  /* what it has written is in the files, or a bounded time has passed */
void writer_forget(struct monitor *m, struct process *p); /* it was not made */
void writer_hear(struct monitor *m);
bool writer_tend(struct monitor *m); /* there is one, where one is needed; false: there could be none now */
void writer_reaped(struct monitor *m, pid_t pid);
void writer_end(struct monitor *m);

/* exec.c: one fork, and nobody between us and the process */
int exec_begin(struct monitor *m, struct process *p, const struct monitor_message *r); /* 0; 1: it needs a helper; -errno with p->failure */
bool exec_under_way(const struct process *p); /* it is not made yet, or never will be */
bool exec_made(struct process *p);            /* once execution has come to its end; false: p->failure */
void exec_ended(struct process *p, const siginfo_t *info); /* of one that was not made: how */
int exec_tend(struct monitor *m);             /* those whose time is over; for how long poll may wait, -1 = no matter */

/* helper.c: makes a process, in a child of the monitor, and ends. */
struct helper_ends {
	int monitor, server; /* the server that has asked; ours to close is neither */
	const char *directory; /* of the container */
};
void helper_raise_files(void); /* the monitor takes as many descriptors as it may; what it makes begins with the limit that it had */
void helper_lower_files(void); /* the limit that it had */
int helper_request(const struct monitor_message *r, struct host_request *request); /* plan and config are mapped */
void helper_describe(struct monitor_message *failed, uint32_t process, const struct wherry_message *failure, int error); /* error: where that is empty */
void helper_run(struct helper_ends ends, struct monitor_message *request) __attribute__((noreturn));

/* kept.c */
void kept_gather(struct host_create *c, struct monitor_message *out); /* it is to be sent, and its descriptors are ours */
void kept_take(struct monitor *m, struct monitor_message *r);
void kept_drop(struct monitor *m);
bool kept_is_gone(const struct wherry_message *failure); /* of an exec: a cgroup of its plan */

/* record.c */
struct ending {
	int status, signal;
	uint32_t oom;
	struct timespec at;
};
int record_write(const struct monitor *m, const struct process *p, const struct ending *ending);
void record_remove(const struct monitor *m, const struct process *p);
uint32_t record_oom_kills(int events);
int record_listen(const struct monitor *m);

#endif
