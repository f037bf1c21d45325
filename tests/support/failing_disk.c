/* A disk that fails on order, for tests: preloaded into a process, it answers some calls by errno.
 *
 * M3LUNG_TEST_DISK names a file of orders, which may change while the process runs. A line is
 * "CALL ERRNO TEXT": CALL (open, read, write, fsync, fsyncdir or rename) fails with ERRNO for every
 * file whose path contains TEXT. fsync stands for fdatasync, write for pwrite, read for pread, rename
 * for renameat2 as well; fsyncdir is the fsync of a directory alone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Orders are read by system calls alone: the functions below are what is replaced. */
static int ordered(const char *call, const char *path)
{
    const char *orders = getenv("M3LUNG_TEST_DISK");
    char text[4096];
    int saved = errno, found = 0;
    if (!orders || !path)
        return 0;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, orders, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        long length = syscall(SYS_read, fd, text, sizeof text - 1);
        syscall(SYS_close, fd);
        text[length > 0 ? length : 0] = 0;
        char *rest = text, *line;
        while (!found && (line = strsep(&rest, "\n"))) {
            char name[16], part[256];
            int number;
            if (sscanf(line, "%15s %d %255s", name, &number, part) == 3 && !strcmp(name, call) &&
                strstr(path, part))
                found = number;
        }
    }
    errno = saved;
    return found;
}

static int ordered_for(const char *call, int fd)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    return ordered(call, path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL_IF(order)                                                                             \
    do {                                                                                           \
        int number = (order);                                                                      \
        if (number) {                                                                              \
            errno = number;                                                                        \
            return -1;                                                                             \
        }                                                                                          \
    } while (0)

int fsync(int fd)
{
    struct stat status;
    FAIL_IF(ordered_for("fsync", fd));
    if (!fstat(fd, &status) && S_ISDIR(status.st_mode))
        FAIL_IF(ordered_for("fsyncdir", fd));
    return REAL(fsync)(fd);
}

int fdatasync(int fd)
{
    FAIL_IF(ordered_for("fsync", fd));
    return REAL(fdatasync)(fd);
}

ssize_t write(int fd, const void *data, size_t size)
{
    FAIL_IF(ordered_for("write", fd));
    return REAL(write)(fd, data, size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    FAIL_IF(ordered_for("write", fd));
    return REAL(pwrite)(fd, data, size, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset)
{
    FAIL_IF(ordered_for("write", fd));
    return REAL(pwrite64)(fd, data, size, offset);
}

ssize_t read(int fd, void *data, size_t size)
{
    FAIL_IF(ordered_for("read", fd));
    return REAL(read)(fd, data, size);
}

ssize_t pread(int fd, void *data, size_t size, off_t offset)
{
    FAIL_IF(ordered_for("read", fd));
    return REAL(pread)(fd, data, size, offset);
}

ssize_t pread64(int fd, void *data, size_t size, off64_t offset)
{
    FAIL_IF(ordered_for("read", fd));
    return REAL(pread64)(fd, data, size, offset);
}

int rename(const char *from, const char *to)
{
    FAIL_IF(ordered("rename", to));
    return REAL(rename)(from, to);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    FAIL_IF(ordered("rename", to));
    return REAL(renameat2)(from_dir, from, to_dir, to, flags);
}

int open64(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    mode_t mode = va_arg(more, mode_t);
    va_end(more);
    FAIL_IF(ordered("open", path));
    return REAL(open64)(path, flags, mode);
}

int open(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    mode_t mode = va_arg(more, mode_t);
    va_end(more);
    FAIL_IF(ordered("open", path));
    return REAL(open)(path, flags, mode);
}
