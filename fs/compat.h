// What differs between the libfuse releases we build against, in this one place.
//
//   >= 3.18.3  everything
//   3.14       (Debian 12) no io_uring transport, no passthrough, no reliable KILLPRIV_V2, 32-bit
//              capabilities
// Each difference is a function or a constant here; the rest of fs has no #if. Owns nothing.
#ifndef AF_FS_COMPAT_H
#define AF_FS_COMPAT_H

// The release must be known before the first of its headers; only newer ones install this file.
#if __has_include(<fuse3/libfuse_config.h>)
#include <fuse3/libfuse_config.h>
#endif
#if defined(FUSE_MINOR_VERSION) && (FUSE_MAJOR_VERSION > 3 || FUSE_MINOR_VERSION >= 18)
#define FUSE_USE_VERSION 318
#define FS_FUSE_HAS_RING 1
#else
#define FUSE_USE_VERSION 314
#define FS_FUSE_HAS_RING 0
#endif

#include <fuse3/fuse_lowlevel.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if FS_FUSE_HAS_RING

#define FS_FUSE_CAP_RING          FUSE_CAP_OVER_IO_URING
#define FS_FUSE_KILLPRIV_RELIABLE 1
#define FS_COMPAT_TMPFILE(fn)     .tmpfile = fn,

// Defined by a libfuse in which any thread may answer a request that came over io_uring
// (tools/build/libfuse-uring.patch); others lose answers, so we do not use their transport.
extern const int fuse_uring_answers_any_thread __attribute__((weak));

static inline bool fs_compat_ring_is_safe(void)
{
    return &fuse_uring_answers_any_thread != NULL;
}

static inline bool fs_compat_capable(struct fuse_conn_info *conn, uint64_t cap)
{
    return (conn->capable_ext & cap) != 0;
}

static inline void fs_compat_want(struct fuse_conn_info *conn, uint64_t cap, bool on)
{
    if (!on)
        fuse_unset_feature_flag(conn, cap);
    else if (fs_compat_capable(conn, cap))
        fuse_set_feature_flag(conn, cap);
}

// The buffer that the answer of a request over io_uring will travel in, so that nothing needs
// to be copied; false for a request from /dev/fuse.
static inline bool fs_compat_payload(fuse_req_t req, char **ret, size_t *ret_size)
{
    return fuse_req_get_payload(req, ret, ret_size, NULL) == 0;
}

static inline void fs_compat_no_interrupt(struct fuse_conn_info *conn)
{
    conn->no_interrupt = 1;
}

#define FS_FUSE_CAP_PASSTHROUGH FUSE_CAP_PASSTHROUGH

// Registers a file that opens may be passed through to; 0: refused.
static inline int fs_compat_backing_open(fuse_req_t req, int fd)
{
    return fuse_passthrough_open(req, fd);
}

static inline void fs_compat_backing_close(fuse_req_t req, int id)
{
    fuse_passthrough_close(req, id);
}

static inline void fs_compat_set_backing(struct fuse_file_info *file, int id)
{
    file->backing_id = id;
}

static inline int fs_compat_expire_entry(struct fuse_session *se, uint64_t parent, const char *name,
                                         size_t len)
{
    return fuse_lowlevel_notify_expire_entry(se, parent, name, len);
}

#else // libfuse 3.14

#define FS_FUSE_CAP_RING            0
#define FS_FUSE_KILLPRIV_RELIABLE   0
#define FUSE_CAP_HANDLE_KILLPRIV_V2 0
#define FS_COMPAT_TMPFILE(fn)       // the kernel is told ENOSYS: O_TMPFILE is EOPNOTSUPP

static inline bool fs_compat_ring_is_safe(void)
{
    return false;
}

static inline bool fs_compat_capable(struct fuse_conn_info *conn, uint64_t cap)
{
    return (conn->capable & cap) != 0;
}

static inline void fs_compat_want(struct fuse_conn_info *conn, uint64_t cap, bool on)
{
    if (!on)
        conn->want &= ~(unsigned)cap;
    else
        conn->want |= (unsigned)cap & conn->capable;
}

static inline bool fs_compat_payload(fuse_req_t req, char **ret, size_t *ret_size)
{
    (void)req;
    (void)ret;
    (void)ret_size;
    return false;
}

static inline void fs_compat_no_interrupt(struct fuse_conn_info *conn)
{
    (void)conn;
}

#define FS_FUSE_CAP_PASSTHROUGH 0

static inline int fs_compat_backing_open(fuse_req_t req, int fd)
{
    (void)req;
    (void)fd;
    return 0;
}

static inline void fs_compat_backing_close(fuse_req_t req, int id)
{
    (void)req;
    (void)id;
}

static inline void fs_compat_set_backing(struct fuse_file_info *file, int id)
{
    (void)file;
    (void)id;
}

static inline int fs_compat_expire_entry(struct fuse_session *se, uint64_t parent, const char *name,
                                         size_t len)
{
    return fuse_lowlevel_notify_expire_entry(se, parent, name, len, FUSE_LL_EXPIRE_ONLY);
}

#endif
#endif
