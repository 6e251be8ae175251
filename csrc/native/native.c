/* SPDX-License-Identifier: Apache-2.0
 *
 * The prelude of the cffi extension: the few functions that Python needs beside those of host.h. The only file of csrc that is of a process
 * with an allocator and threads.
 */
#include "wherry/core.h"
#include "wherry/host.h"
#include "wherry/sys.h"

#include <inttypes.h>
#include <link.h>
#include <malloc.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/wait.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

/* Too big for a stack or for Python's allocator to clear: pages that are touched only where they are used. */
static struct host_create *native_create_new(void)
{
	struct host_create *c = mmap(NULL, sizeof(*c), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return c == MAP_FAILED ? NULL : c;
}

static void native_create_free(struct host_create *c)
{
	munmap(c, sizeof(*c));
}

static int native_unlock(int directory)
{
	return flock(directory, LOCK_UN) < 0 ? -errno : 0;
}

static int native_run_hook(const char *path, const char *const *argv, const char *const *envp, const char *state, size_t state_length,
			   uint32_t timeout_seconds, struct wherry_message *failure)
{
	enum wherry_call call = WHERRY_CALL_NONE;
	int status = 0;
	int result = wherry_run_hook(path, argv, envp, state, state_length, timeout_seconds, &status, &call);

	*failure = (struct wherry_message){ .kind = WHERRY_FAILED, .step = UINT32_MAX, .error = -result, .call = call,
					    .value = (uint64_t)(uint32_t)status };
	return result;
}

static int native_check_plan(const void *plan, size_t size, uint64_t *where)
{
	struct wherry_code *code = mmap(NULL, sizeof(*code), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int result;

	if (code == MAP_FAILED)
		return -errno;
	result = wherry_decode(plan, size, code, where);
	munmap(code, sizeof(*code));
	return result;
}

static void native_unmap(const void *base, size_t size)
{
	munmap((void *)base, size);
}

/* ---- plans of execs in one container: what it brings to them is read before one comes */

/* With a copy of its blanks. */
struct native_foreseen {
	struct host_foreseen it;
	char texts[];
};

/* NULL: the container is of no kind. Nothing in the answer is of that which is open. */
static struct native_foreseen *native_foresee(const struct host_container *c, const char *facts)
{
	struct host_foreseen found;
	struct native_foreseen *f;
	struct host_blank *blank = found.kind.blanks;
	size_t size = 0;
	char *at;

	if (host_foresee(&found, c, facts) < 0)
		return NULL;
	for (uint32_t i = 0; i < found.kind.count; i++)
		size += blank[i].length;
	f = malloc(sizeof(*f) + size);
	if (!f)
		return NULL;
	at = f->texts;
	for (uint32_t i = 0; i < found.kind.count; at += blank[i++].length)
		blank[i].text = memcpy(at, blank[i].text, blank[i].length);
	f->it = found;
	return f;
}

static void native_foreseen_free(struct native_foreseen *f)
{
	free(f);
}

static void native_foreseen_relations(const struct native_foreseen *f, uint8_t relations[HOST_NAMESPACES])
{
	memcpy(relations, f->it.kind.kind.relations, HOST_NAMESPACES);
}

static int native_foreseen_plan(const struct native_foreseen *f, const char *root, const void *text, size_t size, const void **plan, size_t *plan_size)
{
	struct host_pattern pattern;
	int result = host_foreseen_kind(&pattern, &f->it, text, size);

	return result < 0 ? result : host_pattern_load(root, &pattern, plan, plan_size);
}

/* ---- processes */

/* 1 = ended, 0 = the time is over, -EINTR = a signal came (Python looks after it and calls again). */
static int native_pidfd_wait(int pidfd, int timeout_ms)
{
	struct pollfd item = { .fd = pidfd, .events = POLLIN };
	int ready = poll(&item, 1, timeout_ms);

	if (ready < 0)
		return -errno;
	return ready > 0 && item.revents & POLLNVAL ? -EBADF : ready > 0;
}

/* Exit status, or 256 + the signal that killed it. */
static int native_pidfd_reap(int pidfd)
{
	siginfo_t info = { .si_pid = 0 };

	if (waitid((idtype_t)P_PIDFD, (id_t)pidfd, &info, WEXITED) < 0)
		return -errno;
	return info.si_code == CLD_EXITED ? info.si_status : 256 + info.si_status;
}

static int native_pidfd_signal(int pidfd, int signal)
{
	return sys_pidfd_send_signal(pidfd, signal, NULL, 0) < 0 ? -errno : 0;
}

/* Orphans of ours come to us. */
static int native_subreaper(void)
{
	return prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0 ? -errno : 0;
}

/* ---- pages, as the kernel tells of them */

/* Each is an address, and in its lowest bits a number of pages less one. */
struct native_ranges {
	uint64_t *at;
	unsigned int count, most;
};

static const uint64_t native_range_pages = (1 << 12) - 1;

static void *native_range_begin(uint64_t range)
{
	return (void *)(uintptr_t)(range & ~native_range_pages);
}

static size_t native_range_size(uint64_t range, uintptr_t page)
{
	return ((range & native_range_pages) + 1) * page;
}

static void native_add_page(struct native_ranges *r, uintptr_t address, uintptr_t page)
{
	uint64_t *last = r->count ? &r->at[r->count - 1] : NULL;
	uint64_t pages = last ? *last & native_range_pages : native_range_pages;

	if (pages < native_range_pages && *last - pages + (pages + 1) * page == address)
		++*last;
	else if (r->count < r->most)
		r->at[r->count++] = address;
}

enum { NATIVE_OWN, NATIVE_OF_FILE };

/* There, and of nobody else and no file; or of a file, and not written to. */
static bool native_is(int what, uint64_t entry)
{
	const bool present = entry >> 63 & 1, of_file = entry >> 61 & 1, exclusive = entry >> 56 & 1;

	return present && (what == NATIVE_OF_FILE ? of_file : exclusive && !of_file);
}

static void native_add_pages(struct native_ranges *r, int pagemap, uintptr_t begin, uintptr_t end, uintptr_t page, int what)
{
	uint64_t entries[256];
	const size_t most = sizeof(entries), one = sizeof(*entries);
	ssize_t got;

	for (uintptr_t at = begin; at < end; at += (size_t)got / one * page) {
		size_t wanted = (end - at) / page * one;

		got = pread(pagemap, entries, wanted < most ? wanted : most, (off_t)(at / page * one));
		if (got < (ssize_t)one)
			return;
		for (size_t i = 0; i < (size_t)got / one; i++)
			if (native_is(what, entries[i]))
				native_add_page(r, at + i * page, page);
	}
}

/* ---- a process that has nothing to do */

struct native_leaving {
	uintptr_t page;
	int pagemap; /* -1: what is only read */
};

/* Of what may be written to, that which never was. The process has one thread: nothing is written meanwhile. */
static void native_leave_unwritten(const struct native_leaving *l, uintptr_t begin, uintptr_t end)
{
	uint64_t ranges[64];
	struct native_ranges found = { .at = ranges, .most = WHERRY_LENGTH(ranges) };

	native_add_pages(&found, l->pagemap, begin, end, l->page, NATIVE_OF_FILE);
	for (unsigned int i = 0; i < found.count; i++)
		madvise(native_range_begin(ranges[i]), native_range_size(ranges[i], l->page), MADV_DONTNEED);
}

/* The segment that holds the table which is being read here comes last. */
static int native_leave_segments(struct dl_phdr_info *object, size_t size, void *leaving)
{
	const struct native_leaving *l = leaving;
	const uintptr_t mask = l->page - 1;

	(void)size;
	for (unsigned int i = object->dlpi_phnum; i--;) {
		const ElfW(Phdr) *one = &object->dlpi_phdr[i];
		const uintptr_t begin = (uintptr_t)(object->dlpi_addr + one->p_vaddr) & ~mask;
		const uintptr_t end = (uintptr_t)(object->dlpi_addr + one->p_vaddr + one->p_memsz + mask) & ~mask;

		if (one->p_type != PT_LOAD || !(one->p_flags & PF_W) != (l->pagemap < 0))
			continue;
		if (l->pagemap < 0)
			madvise((void *)begin, end - begin, MADV_DONTNEED);
		else
			native_leave_unwritten(l, begin, end);
	}
	return 0;
}

/* What is only read of a program or library (code, constants) comes last: no page of it is ever its own, and what reads pagemaps is in there. */
static void native_leave_files(void)
{
	cleanup_fd int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct native_leaving leaving = { .page = (uintptr_t)sysconf(_SC_PAGESIZE), .pagemap = pagemap };

	if (pagemap >= 0)
		dl_iterate_phdr(native_leave_segments, &leaving);
	wherry_close(&pagemap);
	leaving.pagemap = -1;
	dl_iterate_phdr(native_leave_segments, &leaving);
}

/* 1 = one of them is ready, 0 = the time is over, or a signal came. Meanwhile the pages of files are the kernel's alone, which may need them for
 * something else; one that is used again comes with fifteen neighbours, in two microseconds. It waits here, where next to nothing is used. */
static int native_rest(const int *fds, unsigned int count, int timeout_ms)
{
	struct pollfd items[2];

	for (unsigned int i = 0; i < count; i++)
		items[i] = (struct pollfd){ .fd = fds[i], .events = POLLIN };
	if (poll(items, count, 0))
		return 1;
	native_leave_files();
	return poll(items, count, timeout_ms) > 0;
}

/* What the allocator holds for nobody goes back to the kernel. */
static void native_trim(void)
{
#ifdef __GLIBC__
	malloc_trim(0);
#endif
}

/* ---- pages that one fork has written to, for the next ones of the same parent */

/* How many ranges; 0 where the kernel does not tell. */
static unsigned int native_own_pages(uint64_t *ranges, unsigned int most)
{
	struct native_ranges found = { .at = ranges, .most = most };
	cleanup_fd int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[512], may[5];
	uintptr_t begin, end;

	while (maps && pagemap >= 0 && fgets(line, sizeof(line), maps))
		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s", &begin, &end, may) == 3 && may[1] == 'w' && may[3] == 'p')
			native_add_pages(&found, pagemap, begin, end, (uintptr_t)sysconf(_SC_PAGESIZE), NATIVE_OWN);
	if (maps)
		fclose(maps);
	return found.count;
}

/* As if they had been written to: the kernel copies them now. Before Linux 5.14 it does so when they are. */
static void native_take_pages(const void *ranges, unsigned int count)
{
	const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	const uint64_t *at = ranges;

	for (unsigned int i = 0; i < count; i++)
		if (madvise(native_range_begin(at[i]), native_range_size(at[i], page), MADV_POPULATE_WRITE) < 0 && errno == EINVAL)
			return;
}

/* ---- mounts of a root filesystem, on the host */

/* Into a mount namespace of our own: a descriptor of the one before, for native_leave_mounts(). The process must have one thread. */
static int native_own_mounts(void)
{
	cleanup_fd int before = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);

	if (before < 0 || unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return -errno;
	return wherry_steal(&before);
}

static int native_leave_mounts(int before)
{
	return setns(before, CLONE_NEWNS) < 0 ? -errno : 0;
}

static int native_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)
{
	return mount(source, target, type, flags, data) < 0 ? -errno : 0;
}

static int native_unmount(const char *target, int flags)
{
	return umount2(target, flags) < 0 ? -errno : 0;
}

static int native_fs_option(int fs, unsigned int command, const char *key, const char *value)
{
	return sys_fsconfig(fs, command, key, value, 0) < 0 ? -errno : 0;
}

/* What has been configured, created and attached in one. */
static int native_fs_mount(int fs, unsigned int attributes, const char *target)
{
	cleanup_fd int mount_fd = -1;

	if (sys_fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -errno;
	mount_fd = sys_fsmount(fs, FSMOUNT_CLOEXEC, attributes);
	if (mount_fd < 0 || sys_move_mount(mount_fd, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return -errno;
	return 0;
}

/* ---- the static program, whose bytes the build puts into the extension */

extern const uint8_t wherry_program_start[], wherry_program_end[];

static size_t native_program_size(void)
{
	return (size_t)(wherry_program_end - wherry_program_start);
}

static const char *native_program_libc(void)
{
	return WHERRY_PROGRAM_LIBC;
}

/* Out of the way of the low numbers, which have a meaning to whoever starts a server. */
static int native_seal(const void *bytes, size_t size)
{
	int fd = wherry_seal_program(bytes, size);

	if (fd >= 0)
		wherry_lift(&fd, 64); /* else it stays where it is */
	return fd;
}

/* One memfd for the life of the process. Two threads may make two; the second then serves. A forked child shares it: it is sealed. */
static int native_program(void)
{
	static _Atomic int cached = -1;
	int fd = atomic_load(&cached), none = -1;

	if (fd >= 0)
		return fd;
	fd = native_seal(wherry_program_start, native_program_size());
	if (fd < 0 || atomic_compare_exchange_strong(&cached, &none, fd))
		return fd;
	close(fd);
	return none;
}

static const char *native_call_name(uint32_t call)
{
	static const char *const names[] = {
#define NAME(name) #name,
		WHERRY_CALLS(NAME)
#undef NAME
	};

	return call < WHERRY_LENGTH(names) ? names[call] : "NONE";
}
