// Shifts the wall clock by the seconds in the file that SHIFTED_BY names, read at every call.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

int gettimeofday(struct timeval *restrict tv, void *restrict tz) {
    static int file = -1;
    char text[32] = {0};
    int result = syscall(SYS_gettimeofday, tv, tz);
    if (file < 0) file = open(getenv("SHIFTED_BY"), O_RDONLY);
    if (file >= 0 && pread(file, text, sizeof text - 1, 0) > 0) tv->tv_sec += atol(text);
    return result;
}
