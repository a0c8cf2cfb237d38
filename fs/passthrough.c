// Passthrough: the kernel reads a large file straight from the blob that holds its content.
//
// Only content that never changes under its nodeid is passed through (struct mux_opened,
// fixed_size), for the kernel wants all opens of one inode alike: one backing file, one mode. So
// there is a table of what is open: the nodeid, how many opens it has, and the backing id, or none
// when the first open could not be passed through; the others then follow it. An entry lives from
// the first open to the last RELEASE, before which the kernel has let go of the backing file.
//
// Owns the table and the backing ids. One mutex a shard, a leaf, held for the kernel's registering
// of a descriptor, which waits for nothing; the blob is opened before. Fails: -ENFILE when the view
// has too many such files open, -ENOMEM. Whatever else goes wrong, the file is read by requests as
// all others are; when the kernel refuses the first of all backing files, that is said once and for
// all. Read next: op_open.c, docs/FUSE.md.
#include "fs/limit.h"
#include "fs/session_priv.h"

#include "mux/base/log.h"
#include "mux/nodeid.h"

#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>

#define SHARDS   64
#define BUCKETS  1024 // in a shard
#define OPEN_MAX 4096 // nodeids of one view open at one time

struct backing {
    struct backing *next;
    uint64_t nodeid;
    unsigned opens;
    int id; // 0: not passed through
};

struct shard {
    pthread_mutex_t lock;
    struct backing *buckets[BUCKETS];
};

struct fs_passthrough {
    _Atomic uint16_t open[AF_SLOT_COUNT]; // nodeids, by slot
    atomic_bool refused;                  // by the kernel, for a reason that will not go away
    atomic_bool complained;
    struct shard shards[SHARDS];
};

int fs_passthrough_new(struct fs_passthrough **ret)
{
    struct fs_passthrough *table = calloc(1, sizeof *table);
    if (!table)
        return -ENOMEM;
    for (unsigned i = 0; i < SHARDS; i++)
        pthread_mutex_init(&table->shards[i].lock, NULL);
    *ret = table;
    return 0;
}

// The kernel's side of it went with the connection.
void fs_passthrough_free(struct fs_passthrough *table)
{
    if (!table)
        return;
    for (unsigned i = 0; i < SHARDS; i++) {
        for (unsigned b = 0; b < BUCKETS; b++) {
            for (struct backing *at = table->shards[i].buckets[b], *next; at; at = next) {
                next = at->next;
                free(at);
            }
        }
        pthread_mutex_destroy(&table->shards[i].lock);
    }
    free(table);
}

static struct backing **bucket_of(struct fs_passthrough *table, uint64_t nodeid, struct shard **ret)
{
    uint64_t hash = nodeid * 0x9e3779b97f4a7c15ULL;
    *ret = &table->shards[hash >> 58];
    return &(*ret)->buckets[(hash >> 40) % BUCKETS];
}

static struct backing *find(struct backing *chain, uint64_t nodeid)
{
    while (chain && chain->nodeid != nodeid)
        chain = chain->next;
    return chain;
}

static void record(struct fs_call *call, const struct backing *backing)
{
    call->out.open.handle = FS_HANDLE_COUNTED;
    call->out.open.backing = backing->id;
}

// Counts one more open of what is open already.
static bool join(struct fs_passthrough *table, struct fs_call *call)
{
    struct shard *shard;
    struct backing **bucket = bucket_of(table, call->nodeid, &shard);
    pthread_mutex_lock(&shard->lock);
    struct backing *backing = find(*bucket, call->nodeid);
    if (backing) {
        backing->opens++;
        record(call, backing);
    }
    pthread_mutex_unlock(&shard->lock);
    return backing != NULL;
}

// 0: the kernel does not want it.
static int register_file(struct fs_passthrough *table, struct fs_call *call, int fd)
{
    if (fd < 0 || atomic_load(&table->refused))
        return 0;
    int id = fs_compat_backing_open(call->req, fd);
    if (id <= 0)
        atomic_store(&table->refused, true);
    return id > 0 ? id : 0;
}

static _Atomic uint16_t *open_of(struct fs_passthrough *table, uint64_t nodeid)
{
    return &table->open[mux_nodeid_slot(nodeid)];
}

static int add(struct fs_passthrough *table, struct fs_call *call, int fd)
{
    struct backing *fresh = malloc(sizeof *fresh);
    if (!fresh)
        return -ENOMEM;
    struct shard *shard;
    struct backing **bucket = bucket_of(table, call->nodeid, &shard);
    int rc = 0;
    pthread_mutex_lock(&shard->lock);
    struct backing *backing = find(*bucket, call->nodeid);
    if (backing) {
        backing->opens++;
    } else if (atomic_load(open_of(table, call->nodeid)) >= OPEN_MAX) {
        rc = -ENFILE;
    } else {
        *fresh = (struct backing){
            .next = *bucket,
            .nodeid = call->nodeid,
            .opens = 1,
            .id = register_file(table, call, fd),
        };
        backing = *bucket = fresh;
        fresh = NULL;
        atomic_fetch_add(open_of(table, call->nodeid), 1);
    }
    if (rc == 0)
        record(call, backing);
    pthread_mutex_unlock(&shard->lock);
    free(fresh);
    if (atomic_load(&table->refused) && !atomic_exchange(&table->complained, true))
        af_log(AF_LOG_WARN, "fs",
               "the kernel refuses passthrough to the store's file system: large files are read "
               "by requests",
               "passthrough_bytes=%" PRIu64, call->session->passthrough_bytes);
    return rc;
}

// Bytes behind the end of the file must not come to light, nor may any be missing.
static bool is_whole(int fd, uint64_t size)
{
    struct stat st;
    return fd >= 0 && fstat(fd, &st) == 0 && (uint64_t)st.st_size == size;
}

int fs_passthrough_open(struct fs_call *call, uint64_t size)
{
    struct fs_session *session = call->session;
    if (size < session->passthrough_bytes || atomic_load(&session->no_passthrough))
        return 0;
    if (join(session->passthrough, call))
        return 0;
    struct mux_read read;
    int rc = mux_read(session->mux, &call->ctx, call->nodeid, 1, 0, &read);
    if (rc != 0)
        return rc;
    // What the kernel reads by itself counts against no limit.
    bool passes = !fs_limit_has(session, fs_call_slot(call)) && is_whole(read.fd, size);
    rc = add(session->passthrough, call, passes ? read.fd : -1);
    mux_read_done(session->mux, &read);
    return rc;
}

void fs_passthrough_close(struct fs_session *session, fuse_req_t req, uint64_t nodeid)
{
    struct fs_passthrough *table = session->passthrough;
    struct backing *gone = NULL;
    struct shard *shard;
    if (!table)
        return;
    struct backing **at = bucket_of(table, nodeid, &shard);
    pthread_mutex_lock(&shard->lock);
    while (*at && (*at)->nodeid != nodeid)
        at = &(*at)->next;
    if (*at && --(*at)->opens == 0) {
        gone = *at;
        *at = gone->next;
        atomic_fetch_sub(open_of(table, nodeid), 1);
        if (gone->id > 0)
            fs_compat_backing_close(req, gone->id);
    }
    pthread_mutex_unlock(&shard->lock);
    free(gone);
}
