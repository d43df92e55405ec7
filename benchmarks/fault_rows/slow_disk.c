/* Preloaded: every call that changes something below $SLOW_DISK hangs, or fails with EDQUOT, while a file named
   $SLOW_DISK.hang or $SLOW_DISK.quota is there. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int is_there(const char *suffix) {
    const char *folder = getenv("SLOW_DISK");
    char path[4096];
    if (!folder) return 0;
    snprintf(path, sizeof path, "%s.%s", folder, suffix);
    return access(path, F_OK) == 0;
}

static int fault(const char *path) {
    const char *folder = getenv("SLOW_DISK");
    if (!folder || !path || strncmp(path, folder, strlen(folder)) != 0) return 0;
    while (is_there("hang")) usleep(20000);
    if (is_there("quota")) { errno = EDQUOT; return -1; }
    return 0;
}

static int fault_of(int descriptor) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return fault(path);
}

#define REAL(name) __typeof__(name) *real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

ssize_t write(int descriptor, const void *data, size_t count) {
    REAL(write);
    return fault_of(descriptor) ? -1 : real(descriptor, data, count);
}
int fsync(int descriptor) { REAL(fsync); return fault_of(descriptor) ? -1 : real(descriptor); }
int fdatasync(int descriptor) { REAL(fdatasync); return fault_of(descriptor) ? -1 : real(descriptor); }
int mkdir(const char *path, mode_t mode) { REAL(mkdir); return fault(path) ? -1 : real(path, mode); }
int rename(const char *from, const char *to) { REAL(rename); return fault(to) ? -1 : real(from, to); }

int open64(const char *path, int flags, ...) {
    REAL(open64);
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = va_arg(arguments, mode_t);
    va_end(arguments);
    return (flags & O_CREAT) && fault(path) ? -1 : real(path, flags, mode);
}
