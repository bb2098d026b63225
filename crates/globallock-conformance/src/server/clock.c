/* Preloaded into a program, this library shifts the program's wall clock by the number of seconds in a file:
 * eight bytes, read again for each call. Monotonic clocks are not changed. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *step(void)
{
    static volatile int64_t *known;
    static volatile int64_t none;
    if (known == NULL) {
        const char *path = getenv("GLOBALLOCK_CLOCK");
        int file = path != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        void *at = file >= 0 ? mmap(NULL, sizeof *known, PROT_READ, MAP_SHARED, file, 0) : MAP_FAILED;
        if (file >= 0)
            close(file);
        known = at == MAP_FAILED ? &none : at;
    }
    return known;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (failed == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *step();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *into)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (into != NULL)
        *into = now.tv_sec;
    return now.tv_sec;
}
