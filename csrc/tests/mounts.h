/* SPDX-License-Identifier: Apache-2.0
 *
 * What tests of mounts have in common: operations in one line.
 */
#ifndef WHERRY_MOUNTS_H
#define WHERRY_MOUNTS_H

#include "bed.h"

#include "../core/mount.h"

enum { TREE = 1, HOST_ID = 200000 };

__attribute__((unused)) static const struct wherry_attributes none;

__attribute__((unused)) static int bind(const char *source, const char *destination, const struct wherry_attributes *a, uint32_t flags)
{
	const struct wherry_op_open_tree tree = { .source = build_template(source), .flags = WHERRY_TREE_RECURSIVE, .out = TREE };
	const struct wherry_op_mount_bind op = {
		.destination = build_text(destination), .attributes = *a, .tree = TREE, .flags = flags,
	};
	int result = op_open_tree(m, &tree);

	if (result)
		return result;
	result = op_mount_bind(m, &op);
	CHECK_EQUAL(m->registers[TREE], -1);
	return result;
}

__attribute__((unused)) static struct wherry_op_mount_fs request(const char *type, const char *destination, const char *data, uint64_t set, uint64_t flags)
{
	return (struct wherry_op_mount_fs){
		.destination = build_text(destination), .type = build_text(type), .source = build_template(type),
		.data = build_text(data), .attributes = { .set = set }, .flags = flags,
	};
}

__attribute__((unused)) static int fs(const char *type, const char *destination, const char *data, uint64_t set, uint64_t flags)
{
	const struct wherry_op_mount_fs op = request(type, destination, data, set, flags);

	return op_mount_fs(m, &op);
}

__attribute__((unused)) static void begin(void)
{
	if (syscall(SYS_mount_setattr, -1, "", 0, NULL, 0) < 0 && errno == ENOSYS)
		mount_without_setattr = true;
	bed_make();
	bed_directory(ROOT "/etc");
	bed_directory(ROOT "/dev");
	bed_directory(ROOT "/proc");
	bed_directory(ROOT "/sys");
	bed_directory(ROOT "/tmp");
	TRY(chmod(ROOT "/tmp", 01777));
}

/* The bed as a user namespace sees it: a rootfs that belongs to its root, a source with flags that are locked. */
__attribute__((unused)) static void begin_for_user(void)
{
	begin();
	TRY(mount(NULL, DECOY, NULL, MS_REMOUNT | MS_BIND | MS_NOSUID | MS_RDONLY, NULL));
	TRY(chown(ROOT, HOST_ID, HOST_ID));
	close(m->rootfs);
	m->rootfs = -1;
}

__attribute__((unused)) static void enter_root(void)
{
	m->rootfs = open(ROOT, O_PATH | O_DIRECTORY | O_CLOEXEC);
	TRY(m->rootfs);
}

#endif
