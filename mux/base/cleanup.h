// Cleanup attributes, so that early returns leak nothing.
//
//   AF_CLEANUP_FD int fd = open(...);        closed at the end of the scope when >= 0
//   AF_CLEANUP_FREE char *p = malloc(...);   freed
// Give ownership away with af_take_fd(&fd) or AF_TAKE_PTR(p).
#ifndef AF_BASE_CLEANUP_H
#define AF_BASE_CLEANUP_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void af_cleanup_fd(int *fd)
{
    if (*fd >= 0) {
        int saved = errno;
        close(*fd);
        errno = saved;
    }
}

static inline void af_cleanup_free(void *p)
{
    free(*(void **)p);
}

static inline void af_cleanup_file(FILE **f)
{
    if (*f)
        fclose(*f);
}

static inline int af_take_fd(int *fd)
{
    int taken = *fd;
    *fd = -1;
    return taken;
}

#define AF_CLEANUP(fn)  __attribute__((cleanup(fn)))
#define AF_CLEANUP_FD   AF_CLEANUP(af_cleanup_fd)
#define AF_CLEANUP_FREE AF_CLEANUP(af_cleanup_free)
#define AF_CLEANUP_FILE AF_CLEANUP(af_cleanup_file)

#define AF_TAKE_PTR(p)                                                                             \
    ({                                                                                             \
        __typeof__(p) af_taken_ = (p);                                                             \
        (p) = NULL;                                                                                \
        af_taken_;                                                                                 \
    })

#define AF_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

// Every shared structure begins with a magic that its functions check.
#define AF_CHECK_MAGIC(ptr, value)                                                                 \
    do {                                                                                           \
        if (!(ptr) || (ptr)->magic != (value)) {                                                   \
            fprintf(stderr, "level=fatal msg=\"bad magic\" func=%s file=%s line=%d\n", __func__,   \
                    __FILE__, __LINE__);                                                           \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#endif
