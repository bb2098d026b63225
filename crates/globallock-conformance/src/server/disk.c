/* Preloaded into a program, this library makes its disk full while the first byte of a file is 1, which is read
 * again for each call. What would make a file longer fails with ENOSPC. What a file has room for is written, as
 * on a disk that is really full.
 *
 * A program ends at once, with status 99, if GLOBALLOCK_DISK names a file that cannot be used: its disk would never
 * be full, and nobody would notice. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static volatile char *full;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("GLOBALLOCK_DISK");
    if (path == NULL)
        return;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    void *at = MAP_FAILED;
    /* Behind the end of an empty file, a program that reads is killed. */
    if (file >= 0 && lseek(file, 0, SEEK_END) > 0)
        at = mmap(NULL, 1, PROT_READ, MAP_SHARED, file, 0);
    if (at == MAP_FAILED)
        _exit(99);
    close(file);
    full = at;
}

/* Whether there is no room for a file that ends here. Logs have room. */
static int has_no_room(int file, off_t end)
{
    struct stat seen;
    if (full == NULL || *full != 1 || file <= STDERR_FILENO)
        return 0;
    return fstat(file, &seen) == 0 && S_ISREG(seen.st_mode) && end > seen.st_size;
}

/* The function of the C library that has this name. */
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int file, const void *buffer, size_t size)
{
    static __typeof__(&write) real;
    if (real == NULL)
        real = REAL(write);
    if (full != NULL && *full == 1 && has_no_room(file, lseek(file, 0, SEEK_CUR) + (off_t)size)) {
        errno = ENOSPC;
        return -1;
    }
    return real(file, buffer, size);
}

ssize_t pwrite(int file, const void *buffer, size_t size, off_t from)
{
    static __typeof__(&pwrite) real;
    if (real == NULL)
        real = REAL(pwrite);
    if (has_no_room(file, from + (off_t)size)) {
        errno = ENOSPC;
        return -1;
    }
    return real(file, buffer, size, from);
}

ssize_t pwritev(int file, const struct iovec *parts, int count, off_t from)
{
    static __typeof__(&pwritev) real;
    off_t end = from;
    if (real == NULL)
        real = REAL(pwritev);
    for (int part = 0; part < count; part++)
        end += (off_t)parts[part].iov_len;
    if (has_no_room(file, end)) {
        errno = ENOSPC;
        return -1;
    }
    return real(file, parts, count, from);
}

int posix_fallocate(int file, off_t from, off_t size)
{
    static __typeof__(&posix_fallocate) real;
    if (real == NULL)
        real = REAL(posix_fallocate);
    return has_no_room(file, from + size) ? ENOSPC : real(file, from, size);
}
