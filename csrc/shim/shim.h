/* SPDX-License-Identifier: Apache-2.0
 *
 * containerd-shim-wherry-v2 on PATH: `start` and `delete` as they nearly always are, in a millisecond, and the porter of each pod. It decides nothing that
 * Python (shim/wherry_shim/bootstrap*.py) would decide otherwise: whatever is unusual, or fails before anything was done, is left to Python with the
 * same arguments and the same standard input.
 */
#ifndef WHERRY_SHIM_H
#define WHERRY_SHIM_H

#include "wherry/host.h"
#include "wherry/sys.h"

enum {
	SHIM_PATH = 4096,
	SHIM_SOCKET = 107,        /* what fits into an address, with its NUL */
	SHIM_INPUT = 256 << 10,   /* of standard input; more is for Python */
	SHIM_PACKET = 192 << 10,
	SHIM_TEXTS = 16 << 10,    /* of the server's command line */
	SHIM_VARIABLES = 512,
};

#define SHIM_DIRECTORY "/run/containerd/s"

struct shim_text { const char *data; size_t size; };

/* The command line, and what standard input says. Texts that are absent have size 0. */
struct shim_call {
	struct shim_text namespace, address, binary, id, bundle, ttrpc, directory;
	bool debug, modern; /* modern: containerd 2.3 or later asks, and knows version 3 */
	const char *action;
};

struct shim_text shim_word(const char *word);
bool shim_same(struct shim_text a, struct shim_text b);
bool shim_is(struct shim_text text, const char *word);

/* arguments.c: false = not a plain `start` or `delete` */
bool shim_arguments(struct shim_call *call, char **argv);

/* input.c: reads standard input and puts it back. false = something that Python has to look at */
bool shim_input(struct shim_call *call);

/* group.c: with whom the container shares its server. false = Python has to read the configuration; size 0 = with nobody */
bool shim_group(struct shim_text *group);

/* world.c: of the zygote that can serve us */
bool shim_zygote_path(char path[SHIM_SOCKET]);

/* zygote.c: a connected socket, or -1; then whether a worker is asked for, which speaks to `given` */
int shim_zygote_connect(const char *path, int patience_ms);
bool shim_zygote_ask(int zygote, char **argv, int32_t score, int given, int log);

/* porter.c: without an action and with a listening socket as descriptor 3 this program is a pod's porter (porter.h) */
bool shim_is_porter(void);
int shim_porter(char **argv);

/* start.c, delete.c: the exit status, or -1 = nothing has been done, Python shall */
int shim_start(const struct shim_call *call, char **argv);
int shim_delete(const struct shim_call *call);

/* files.c: a whole file into the buffer, with a NUL; the size, or -1 where it is not there or does not fit */
ssize_t shim_read(const char *path, char *buffer, size_t room);
bool shim_say(struct shim_text text);
long shim_score(const char *path);   /* of an oom_score_adj; 0 where it cannot be read */
bool shim_serves(const char *path);  /* somebody answers at this socket: the connections of a server that is killed end some time before it listens no more */

#endif
