/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of host/ share with each other and with nobody else.
 */
#ifndef WHERRY_HOST_PARTS_H
#define WHERRY_HOST_PARTS_H

#include "wherry/host.h"
#include "wherry/sys.h"

#include <limits.h>
#include <linux/limits.h>

/* The create that a machine of the caller belongs to. */
static inline struct host_create *host_of(struct wherry_machine *m)
{
	return (struct host_create *)(void *)((char *)m - offsetof(struct host_create, machine));
}

/* ---- file.c */

/* Zeroed pages that end with the scope: big buffers without an allocator. */
struct host_scratch {
	char *base;
	size_t size;
};
int host_scratch(struct host_scratch *scratch, size_t size);
void host_scratch_end(struct host_scratch *scratch);
#define cleanup_scratch __attribute__((cleanup(host_scratch_end)))

/* Length of the file's content, which is NUL-terminated in `out`, or -errno; -EOVERFLOW when it does not fit. */
ssize_t host_read_file(int directory, const char *path, char *out, size_t size);
int host_write_new(int directory, const char *name, const void *data, size_t size, mode_t mode); /* must not exist */
/* Under a temporary name, then renamed: a reader sees all or nothing. Returns the open file (O_RDWR). */
int host_write_replace(int directory, const char *name, const void *data, size_t size, mode_t mode);
int host_connect(const char *path);   /* SOCK_STREAM; a path of any length */
int host_send_fd(int socket, const void *data, size_t size, int fd);
int host_parse_number(const char *text, uint64_t *value); /* decimal digits, then NUL or white space */
int host_remove_tree(int parent, const char *name);       /* rm -r; no such file is no error */
int host_map(int directory, const char *path, struct host_bytes *out); /* a regular file; neither empty nor longer than 16 MiB */
void host_unmap(struct host_bytes *bytes);
#define cleanup_bytes __attribute__((cleanup(host_unmap)))
void host_add_namespaces(struct sha256 *s, const char *process); /* facts.c: which ones the process (its number, or "self") is in */
/* Those of the process and our own. -ESRCH: it has gone, or is going. -EOPNOTSUPP: its user namespace is not ours. */
int host_compare_namespaces(const char *process, uint8_t relations[HOST_NAMESPACES]);
int64_t host_now_ms(void);
void host_sleep_ms(uint32_t ms);
/* Joins texts into `out`: the end, or NULL when it does not fit (out is then cut and useless). */
char *host_append(char *at, const char *end, const char *text, size_t length);
bool host_join(char *out, size_t size, const char *head, const char *tail); /* head + "/" + tail */

/* ---- process.c */
int host_boot_id(char out[40]);
bool host_dies_unstarted(pid_t pid, uint64_t start_time);
int host_process(pid_t pid, char *state, uint64_t *start_time); /* of /proc/PID/stat; -ESRCH */
bool host_alive(pid_t pid, uint64_t start_time);                /* no zombie */
int host_open_process(pid_t pid, uint64_t start_time);          /* pidfd, checked; -ESRCH */
int host_kill_and_wait(int pidfd, uint32_t wait_ms);            /* SIGKILL, wait for the end; 0, -ETIMEDOUT. pidfd -1: nothing to do */
int host_kill_and_reap(pid_t pid, int pidfd, uint32_t wait_ms); /* the same with a child of ours */
size_t host_format_time(int64_t seconds, uint32_t nanoseconds, char out[40]);

/* ---- claim.c */
int host_open_root(const char *path, bool make); /* checked: ours, nobody else may write */
bool host_valid_id(const char *id);

/* ---- record.c */
size_t host_template_bound(const struct wherry_machine *m, struct wherry_template text); /* bytes that it can fill, NUL included */
int host_record_write(struct host_create *c, const struct wherry_op_claim *op);
int host_record_set(int record, size_t offset, const void *value, size_t size);
int host_record_owner(int record, enum wherry_record_status status); /* we are at it */
int host_journal_mark(struct host_create *c, uint32_t index, enum wherry_journal_state state, uint16_t made_depth);

/* ---- cgroup.c, cgroup_end.c */
#define HOST_CGROUP_MARK "wherry.parent" /* extended attribute of a parent that we made: trusted, or without privileges user */
enum host_cgroup_use { HOST_CGROUP_FREE, HOST_CGROUP_POPULATED, HOST_CGROUP_FROZEN };
int host_cgroup_use(int directory, bool v2); /* an enum host_cgroup_use or -errno */
bool host_cgroup_frozen(const char *path, bool v2);
int host_cgroup_thaw(const char *path, bool v2);
int host_cgroup_signal(const char *path, bool v2, int signal); /* every process, recursively */

/* ---- verbs.c */
bool host_same_boot(const struct host_container *c);
int host_read_result(int fd, struct wherry_message *message); /* 1 = a message of init, 0 = end of file, -EAGAIN = neither yet */

/* ---- launch.c, create.c, serve.c, publish.c. Where one fails, c->failure is filled */
int host_check_preserved(const struct host_create *c);
int host_stdio(const struct host_create *c, int number, int *null); /* what the process gets; *null: an open /dev/null for it, or -1 */
int host_check_target(const struct host_create *c); /* -ESRCH: the container's init has ended */
int host_connect_sockets(struct host_create *c); /* console, pidfd, listener: before anything is made */
int host_run_step(struct host_create *c, uint32_t step); /* one operation of the caller */
int host_serve(struct host_create *c);           /* answers init until the commit (c->finished), or until the interlude (c->waiting) */
int host_answer(struct host_create *c, uint32_t step, int result);
int host_fail(struct host_create *c, uint32_t step, int result); /* returns `result` */
int host_refuse(struct host_create *c, uint32_t step, enum wherry_call call, int error, uint64_t value); /* the same with a refusal of ours */
int host_report_death(struct host_create *c);    /* init, or before it the launcher, has ended without a word */
static inline uint32_t host_deadline_ms(const struct host_request *request)
{
	return request->deadline_ms ? request->deadline_ms : 120 * 1000;
}
int host_exec_prepare(struct host_create *c, const struct host_request *request, uint32_t *launch); /* all that can be refused before anything is made */
int host_open_execution(struct host_create *c);  /* exec: both of init's fifos are the writing end of one pipe ... */
int host_await_execution(struct host_create *c); /* ... and this reads it: what failed behind the commit, or its end */
int host_exec_end(struct host_create *c, int result); /* waits for it, and undoes what failed */
void host_await_settled(struct host_create *c);  /* after the commit: until init has closed what it needs no more, and the launcher has ended */

#endif
