/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside the core: what mount.c, attach.c, rootfs.c, device.c, copy_up.c and securepath.c share. Everything is on descriptors.
 */
#ifndef WHERRY_CORE_MOUNT_H
#define WHERRY_CORE_MOUNT_H

#include "wherry/core.h"

enum { MODE_DIRECTORY = 0755, MODE_FILE = 0644 };

/* securepath.c */
/* Something is missing at `path`: mkdir -p, or an empty file with its parents. What has come there meanwhile is opened. */
int securepath_create(int root, const char *path, bool directory, mode_t mode, uint64_t extra_resolve);
uint64_t securepath_mount_id(int fd);              /* the device number where the kernel does not tell (before 5.8) */
int open_procfs_mounted(struct wherry_machine *m); /* what stands on /proc, verified, as it is */

/* attach.c: the mount API and what stands in for it on older kernels. They return 0, or -errno without wherry_fail(). */
extern bool mount_without_fsopen;  /* tests: fsopen is refused */
extern bool mount_without_setattr; /* tests: mount_setattr does not exist (before 5.12) */

extern bool mount_clones_are_slaves; /* each clone, from here on: see WHERRY_TREE_ON_HOST */
int mount_clone(int directory, const char *path, bool recursive); /* a detached copy; "" = of the descriptor itself */
int mount_attach(int tree, int target);
uint64_t mount_current_attributes(int fd);                        /* MOUNT_ATTR_* as they are */
unsigned long mount_flags(uint64_t attributes);                   /* the same as MS_* */
/* mount_setattr. -ENOSYS: the kernel has none, and mount(2) cannot do it on a detached or recursive mount: see mount_remount. */
int mount_set(int fd, bool recursive, uint64_t set, uint64_t clear);
int mount_remount(int fd, uint64_t set, uint64_t clear);          /* the same through mount(2); the mount must be attached */
int mount_propagation(int fd, uint64_t flags);                    /* MS_*, MS_REC; attached mounts only on older kernels */

struct mount_request {
	const char *type, *source, *data; /* source, data: or NULL */
	const char *first;                /* one option before data, or NULL */
	uint64_t superblock;              /* MS_* */
	uint64_t attributes;              /* MOUNT_ATTR_* */
};
/* A new filesystem, detached. -WHERRY_UNSUPPORTED: this one has to be made by mount_classic. */
int mount_create(const struct mount_request *request, enum wherry_call *call);
/* mount(2) on /proc/self/fd/TARGET: what has no form in the mount API, and kernels that refuse it. */
int mount_classic(const struct mount_request *request, int target);
/* The options of a superblock that is mounted at `fd`. */
int mount_reconfigure(int fd, const struct mount_request *request, enum wherry_call *call);

/* copy_up.c: everything in `source` into `target`, an empty directory of ours. */
int copy_up(int source, int target);

/* rootfs.c */
int rootfs_mask_directory(struct wherry_machine *m, int target); /* an empty read-only tmpfs, one for all */

#endif
