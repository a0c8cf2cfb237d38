// Fingerprints of files of the host. Read next: source.h.
#include "mux/source.h"

#include "mux/base/clock.h"

#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

static int64_t time_ns(struct timespec time)
{
    return time.tv_sec * AF_NS_PER_SEC + time.tv_nsec;
}

struct mux_source mux_source_of(const struct stat *st)
{
    return (struct mux_source){
        .device = st->st_dev,
        .inode = st->st_ino,
        .mode = st->st_mode,
        .size = (uint64_t)st->st_size,
        .mtime_ns = time_ns(st->st_mtim),
        .ctime_ns = time_ns(st->st_ctim),
    };
}

bool mux_source_is_settled(const struct mux_source *source, int64_t now_ns)
{
    int64_t bound = now_ns - MUX_SOURCE_SETTLED_NS;
    return source->mtime_ns < bound && source->ctime_ns < bound;
}

int mux_source_origin(const struct mux_source *source, uint64_t version, uint64_t *ret)
{
    struct {
        struct mux_source source;
        uint64_t version;
    } named = {*source, version}; // no padding: all members have eight bytes
    uint8_t digest[EVP_MAX_MD_SIZE];
    if (EVP_Digest(&named, sizeof named, digest, NULL, EVP_sha256(), NULL) != 1)
        return -ENOMEM;
    memcpy(ret, digest, sizeof *ret);
    if (*ret == 0)
        *ret = 1;
    return 0;
}
