/* Preloaded: lets calls on files below one folder fail as a full or a broken disk would. Armed by tests/soak/disks.py.
   The page is shared with forked children, so the parent reads the counts. A call of a mapped file is not seen. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OFF, COUNT, FULL, WRITE_ONCE, WRITE_EVERY, READ_ONCE };
static struct page { int mode; long at, writes, reads, bytes; char prefix[4096]; } *page;

__attribute__((constructor)) static void begin(void) {
    page = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

void soak_arm(int mode, long at, const char *prefix) {
    memset(page, 0, sizeof *page);
    page->at = at;
    strncpy(page->prefix, prefix, sizeof page->prefix - 1);
    page->mode = mode;
}
long soak_writes(void) { return page->writes; }
long soak_reads(void) { return page->reads; }
long soak_bytes(void) { return page->bytes; }

static int below(const char *path) {
    return path[0] != '/' || strncmp(path, page->prefix, strlen(page->prefix)) == 0;
}
static int ours(int fd) {
    char name[64], path[4096];
    if (!page || page->mode == OFF) return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    long size = syscall(SYS_readlinkat, AT_FDCWD, name, path, sizeof path - 1);
    if (size <= 0) return 0;
    path[size] = 0;
    return path[0] == '/' && below(path);
}
/* Whether this writing call is to fail. */
static int write_fails(void) {
    long n = __atomic_add_fetch(&page->writes, 1, __ATOMIC_SEQ_CST);
    if ((page->mode == WRITE_ONCE && n == page->at) || (page->mode == WRITE_EVERY && n % page->at == 0)) {
        errno = EIO;
        return 1;
    }
    return 0;
}
static int read_fails(void) {
    long n = __atomic_add_fetch(&page->reads, 1, __ATOMIC_SEQ_CST);
    if (page->mode == READ_ONCE && n == page->at) {
        errno = EIO;
        return 1;
    }
    return 0;
}
/* How much of a write a disk takes that has `at` bytes; -1: none. */
static long taken(size_t size) {
    if (write_fails()) return -1;
    long before = __atomic_fetch_add(&page->bytes, (long)size, __ATOMIC_SEQ_CST);
    if (page->mode != FULL || before + (long)size <= page->at) return (long)size;
    if (before < page->at) return page->at - before;
    errno = ENOSPC;
    return -1;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    if (!ours(fd)) return real(fd, data, size);
    long most = taken(size);
    return most < 0 ? -1 : real(fd, data, (size_t)most);
}
#define PWRITE(name) \
    ssize_t name(int fd, const void *data, size_t size, off_t place) { \
        REAL(ssize_t, name, int, const void *, size_t, off_t); \
        if (!ours(fd)) return real(fd, data, size, place); \
        long most = taken(size); \
        return most < 0 ? -1 : real(fd, data, (size_t)most, place); \
    }
PWRITE(pwrite)
PWRITE(pwrite64)
ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    if (!ours(fd)) return real(fd, parts, count);
    size_t size = 0;
    for (int k = 0; k < count; k++) size += parts[k].iov_len;
    long most = taken(size);
    if (most < 0) return -1;
    if ((size_t)most == size) return real(fd, parts, count);
    struct iovec first = {parts[0].iov_base, parts[0].iov_len < (size_t)most ? parts[0].iov_len : (size_t)most};
    return real(fd, &first, 1);
}
#define SENDFILE(name) \
    ssize_t name(int out, int in, off_t *place, size_t size) { \
        REAL(ssize_t, name, int, int, off_t *, size_t); \
        if (!ours(out)) return real(out, in, place, size); \
        struct stat about; \
        if (size > 1 << 20 && fstat(in, &about) == 0 && (size_t)about.st_size < size) size = (size_t)about.st_size; \
        long most = taken(size); \
        return most < 0 ? -1 : real(out, in, place, (size_t)most); \
    }
SENDFILE(sendfile)
SENDFILE(sendfile64)
ssize_t copy_file_range(int in, off_t *from, int out, off_t *to, size_t size, unsigned flags) {
    REAL(ssize_t, copy_file_range, int, off_t *, int, off_t *, size_t, unsigned);
    if (!ours(out)) return real(in, from, out, to, size, flags);
    long most = taken(size);
    return most < 0 ? -1 : real(in, from, out, to, (size_t)most, flags);
}
#define ON_FD(name) \
    int name(int fd) { \
        REAL(int, name, int); \
        return ours(fd) && write_fails() ? -1 : real(fd); \
    }
ON_FD(fsync)
ON_FD(fdatasync)
#define TRUNCATE(name) \
    int name(int fd, off_t size) { \
        REAL(int, name, int, off_t); \
        return ours(fd) && write_fails() ? -1 : real(fd, size); \
    }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)
int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    return page && page->mode && below(to) && write_fails() ? -1 : real(from, to);
}
int renameat(int a, const char *from, int b, const char *to) {
    REAL(int, renameat, int, const char *, int, const char *);
    return page && page->mode && below(to) && write_fails() ? -1 : real(a, from, b, to);
}
int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t);
    return page && page->mode && below(path) && write_fails() ? -1 : real(path, mode);
}
static int opening_fails(const char *path, int flags) {
    return page && page->mode && below(path) && ((flags & O_CREAT) ? write_fails() : read_fails());
}
#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, name, const char *, int, ...); \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = va_arg(more, mode_t); \
        va_end(more); \
        return opening_fails(path, flags) ? -1 : real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        REAL(int, name, int, const char *, int, ...); \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = va_arg(more, mode_t); \
        va_end(more); \
        return opening_fails(path, flags) ? -1 : real(folder, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)
ssize_t read(int fd, void *data, size_t size) {
    REAL(ssize_t, read, int, void *, size_t);
    return ours(fd) && read_fails() ? -1 : real(fd, data, size);
}
#define PREAD(name) \
    ssize_t name(int fd, void *data, size_t size, off_t place) { \
        REAL(ssize_t, name, int, void *, size_t, off_t); \
        return ours(fd) && read_fails() ? -1 : real(fd, data, size, place); \
    }
PREAD(pread)
PREAD(pread64)
