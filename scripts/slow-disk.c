/* A slow disk, to be loaded before a program (LD_PRELOAD): each read of a shard takes SLOW_DISK_MS milliseconds more, and
   shards cannot be mapped. Shards are files whose names end in .tar. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

static int is_shard(int file)
{
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path);
    return length > 4 && memcmp(path + length - 4, ".tar", 4) == 0;
}

static void wait_for(int file)
{
    const char *milliseconds = getenv("SLOW_DISK_MS");
    if (milliseconds && is_shard(file)) usleep(1000 * (useconds_t)atoi(milliseconds));
}

ssize_t pread64(int file, void *into, size_t size, off64_t from)
{
    static ssize_t (*real)(int, void *, size_t, off64_t);
    if (!real) real = dlsym(RTLD_NEXT, "pread64");
    wait_for(file);
    return real(file, into, size, from);
}

ssize_t read(int file, void *into, size_t size)
{
    static ssize_t (*real)(int, void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "read");
    wait_for(file);
    return real(file, into, size);
}

void *mmap64(void *at, size_t size, int protection, int flags, int file, off64_t from)
{
    static void *(*real)(void *, size_t, int, int, int, off64_t);
    if (!real) real = dlsym(RTLD_NEXT, "mmap64");
    if (file >= 0 && is_shard(file)) {
        errno = ENODEV;
        return MAP_FAILED;
    }
    return real(at, size, protection, flags, file, from);
}

void *mmap(void *at, size_t size, int protection, int flags, int file, off_t from)
{
    return mmap64(at, size, protection, flags, file, from);
}
