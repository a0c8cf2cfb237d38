// The store: every durable fact of the daemon, in one LMDB environment and a folder of blobs.
//
//   DIR/store/data.mdb   records (see store/schema.h for the keys and the binary formats)
//   DIR/blobs/xx/<id>    content of files too large for their record
//   DIR/lock             held (flock) while a daemon uses DIR: one instance per state directory
//
// Caveats, before the API:
//   - One write transaction at a time in the whole process; store_write_begin waits for it.
//     Never hold one across I/O that can block for long (blob copies, hashing, the network).
//   - Read transactions see one consistent state and cost about 10 ns to begin; never hold one
//     across a blocking call: an old reader makes the database grow.
//   - Pointers returned inside records (names, inline content) live until the transaction ends
//     or, in a write transaction, until the next write.
//   - A committed transaction survives SIGKILL of the daemon. It reaches the disk at the next
//     store_sync (fsync, explicit commit) or within AF_STORE_SYNC_INTERVAL; a power cut loses
//     what came after, never the store itself: see store/durability.c.
//   - A full disk or map gives -ENOSPC and changes nothing; deletions still work (headroom).
//   - fids, versions, layer, stack and blob ids come from one counter and are never reused.
//
// Thread: every function may run on any thread; a transaction belongs to the thread that began
// it. Errors: -errno; -ENOENT where a record is absent; -EUCLEAN when a record is damaged.
// Lock rank: the LMDB writer lock is innermost, below every lock of mux.
// Read next: store/schema.h, then store/inode.c.
#ifndef AF_MUX_STORE_H
#define AF_MUX_STORE_H

#include "mux/base/error.h"
#include "mux/base/id.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

struct store;
struct store_txn;

struct store_options {
    const char *dir;          // the state directory, created (0700) when absent
    uint64_t map_bytes;       // address space reserved for the database; 0: 64 GiB
    uint32_t blob_fds;        // blob files kept open at most; 0: a share of RLIMIT_NOFILE
    int64_t sync_interval_ns; // longest age of an unsynced transaction; 0: 2 s
    bool must_exist;          // for fsck and tests: fail rather than create
    unsigned batch_after;     // changes in a row that begin to share a transaction; 0: 3
};

// Opens or creates. Fails with a sentence: another instance holds DIR, another schema version
// (the directory is left untouched), not a state directory, no space. On success *ret is owned
// by the caller. Starts the background thread that syncs and collects garbage.
int store_open(const struct store_options *options, struct store **ret, struct af_error *err);

// Syncs, stops the background thread and closes. No transaction may be open.
void store_close(struct store *store);

// ---- transactions

int store_read_begin(struct store *store, struct store_txn **ret);
void store_read_end(struct store_txn *txn);

int store_write_begin(struct store *store, struct store_txn **ret);
// Commits; on an error nothing was written. The transaction is gone either way.
int store_commit(struct store_txn *txn);
void store_abort(struct store_txn *txn);

// As store_write_begin, for one small change among many: it may share its transaction with others,
// which costs a fraction, and is as safe from a kill -9 when store_commit returns 0. It is seen by
// every store_read_begin from then on.
int store_change_begin(struct store *store, struct store_txn **ret);
// Before store_commit: what store_look_begin wants to know. 0: a transaction of its own.
uint64_t store_change_id(const struct store_txn *txn);
// A short read of what is committed, and of the changes up to the one with this id, if any: where
// store_read_begin would have them committed first, it holds the writer lock. What does not depend
// on changes (frozen layers) is read with 0, and no lock. Never begin a write meanwhile.
int store_look_begin(struct store *store, uint64_t changed_in, struct store_txn **ret);
// Whether the transaction may be kept for long: it holds no lock.
bool store_read_is_alone(const struct store_txn *txn);

// Everything committed before the call is on the disk when it returns 0 (records; a blob's
// data is the caller's fdatasync). Concurrent callers share one sync. May take milliseconds:
// never on a FUSE worker.
int store_sync(struct store *store);

// A fresh id, unique for ever (44 bits, > 16). Any transaction-less context too: blocks of ids
// are reserved durably ahead.
int store_new_id(struct store *store, uint64_t *ret);

// ---- layers and stacks

struct store_layer {
    uint64_t id;
    bool frozen;
    bool was_frozen; // is, or was before it was thawed: views may have shown its records
    uint32_t refs;   // stacks and owners that hold it
    uint64_t bytes;  // sum of store_inode_charge over its records
    uint64_t inodes; // inode records in it
    // What the regular files of a tree gain, in number and in size, by having this layer on top:
    // kept for a view's delta (store_inode.tree_files), so that pushing it costs no recount.
    int64_t tree_files, tree_bytes;
};

int store_layer_new(struct store_txn *txn, uint64_t *ret_id); // live, refs = 1
int store_layer_get(struct store_txn *txn, uint64_t id, struct store_layer *ret);
int store_layer_freeze(struct store_txn *txn, uint64_t id);
// Makes a frozen layer live again: for the one who holds its only reference.
int store_layer_thaw(struct store_txn *txn, uint64_t id);
int store_layer_ref(struct store_txn *txn, uint64_t id);
// Drops a reference; at zero the layer is handed to the garbage collector, which deletes its
// records and releases its blobs in bounded transactions in the background.
int store_layer_unref(struct store_txn *txn, uint64_t id);
// A live layer (refs = 1) of work under way, an import, that no record names yet: store_open hands
// layers that are still pending, so left by a crash, to the collector. Adopting it keeps its
// reference, for the record that names it from now on, in the same transaction.
int store_layer_new_pending(struct store_txn *txn, uint64_t *ret_id);
int store_layer_adopt(struct store_txn *txn, uint64_t id);
// Holds layers as they are, for what may be open in a tree that its view has left: a reference to
// each, dropped by the next store_open if not by store_layers_unpin.
int store_layers_pin(struct store_txn *txn, const uint64_t *layers, size_t count, uint64_t *ret);
int store_layers_unpin(struct store_txn *txn, uint64_t pin);
// Adds to what the layer says of its tree (see struct store_layer).
int store_layer_count_tree(struct store_txn *txn, uint64_t id, int64_t files, int64_t bytes);

#define STORE_STACK_MAX 4096
// A stack: frozen layers, top first. Counted; holds a reference to each layer. The tree that it
// tells never changes, which layers tell it may: a merge puts one in the place of several.
int store_stack_new(struct store_txn *txn, const uint64_t *layers, size_t count,
                    uint64_t *ret_id); // refs = 1; count may be 0
int store_stack_ref(struct store_txn *txn, uint64_t id);
int store_stack_unref(struct store_txn *txn, uint64_t id);
int store_stack_refs(struct store_txn *txn, uint64_t id, uint32_t *ret_refs);
// Copies at most `capacity` layer ids; returns 0 and the true count.
int store_stack_get(struct store_txn *txn, uint64_t id, uint64_t *layers, size_t capacity,
                    size_t *ret_count);

// ---- merging layers (merge.c), for compaction

#define STORE_MERGE_MAX    32   // layers in one merge
#define STORE_MERGE_STACKS 256  // stacks changed in one transaction
#define STORE_STACK_DEEP   4    // stacks of this many layers are noted
#define STORE_DEEP_MAX     1024 // noted at most; beyond, some are missed
#define STORE_WEIGH_MAX    65536u
#define STORE_WEIGHT_BYTES 65536u // of content weigh as much as one record

struct store_merge;

// Begins merging a run of adjacent frozen layers, top first, 2 .. STORE_MERGE_MAX of them.
// is_bottom: nothing is below the run in any stack. Owned by the caller, for one thread at a time.
// -ENOENT: one of them is gone, or live again.
int store_merge_begin(struct store *store, const uint64_t *run, size_t count, bool is_bottom,
                      struct store_merge **ret);
// Writes up to `max` records, in one transaction. After an error it can be tried again.
int store_merge_step(struct store_merge *merge, unsigned max, bool *ret_done);
// When it is done: puts the new layer in the run's place in up to STORE_MERGE_STACKS stacks, in
// one transaction. *ret_stacks 0: no stack holds the run any more.
int store_merge_swap(struct store_merge *merge, size_t *ret_stacks);
// Lets go of the run, and of the new layer if no stack has it. Until then the run's layers are
// readable as they were, for whoever still goes by them. On an error it can be tried again, and is
// by the next store_open.
int store_merge_end(struct store_merge *merge);
void store_merge_free(struct store_merge *merge); // memory alone
uint64_t store_merge_layer(const struct store_merge *merge);
// Whether any stack still refers to the run's top layer.
bool store_merge_is_wanted(struct store_merge *merge);

// How much a layer weighs: its records, and its content at STORE_WEIGHT_BYTES for one.
int store_layer_weight(struct store_txn *txn, uint64_t id, uint64_t *ret);
// fn is called after a commit that noted deep stacks, on the committer's thread: to wake somebody.
// NULL: nobody listens any more once it returns.
void store_deep_listen(struct store *store, void (*fn)(void *arg), void *arg);
// Takes the stacks noted since the last call, oldest first. *ret_missed: there were others.
size_t store_deep_take(struct store *store, uint64_t ids[STORE_DEEP_MAX], bool *ret_missed);
// Ids of deep stacks before the given one, newest first.
int store_deep_scan(struct store *store, uint64_t before, uint64_t *ids, size_t max,
                    size_t *ret_count);
// Whether anybody has or waits for the writer lock.
bool store_has_writers(struct store *store);

// ---- directory entries: (layer, parent fid, name) -> fid or whiteout

struct store_entry {
    uint64_t cookie; // readdir position just after this entry: > STORE_COOKIE_FIRST, < 2^63,
                     // strictly growing along the directory, stable under mutation
    uint64_t fid;    // 0 for a whiteout
    uint8_t type;    // DT_REG, DT_DIR, ...; 0 for a whiteout
    uint8_t name_len;
    const char *name; // not NUL-terminated
};

// The cookie that a name has in whatever directory.
uint64_t store_name_cookie(const struct store *store, const char *name, size_t len);

#define STORE_COOKIE_FIRST 16 // cookies up to this are free for "." and ".."

int store_entry_get(struct store_txn *txn, uint64_t layer, uint64_t parent, const char *name,
                    size_t name_len, struct store_entry *ret);
int store_entry_put(struct store_txn *txn, uint64_t layer, uint64_t parent, const char *name,
                    size_t name_len, uint64_t fid, uint8_t type);
int store_entry_put_whiteout(struct store_txn *txn, uint64_t layer, uint64_t parent,
                             const char *name, size_t name_len);
int store_entry_del(struct store_txn *txn, uint64_t layer, uint64_t parent, const char *name,
                    size_t name_len);

// One directory merged over several layers (top first: the first layer that names an entry
// wins, whiteouts hide and are not returned), in cookie order.
struct store_dir_iter;
int store_dir_open(struct store_txn *txn, const uint64_t *layers, size_t count, uint64_t parent,
                   uint64_t after_cookie, struct store_dir_iter **ret);
// 0 and an entry, or -ENOENT at the end. ret_layer (may be NULL): which layer it came from.
int store_dir_next(struct store_dir_iter *iter, struct store_entry *ret, uint64_t *ret_layer);
void store_dir_close(struct store_dir_iter *iter);
// Whether one layer has anything about the names of a directory, whiteouts included.
int store_dir_is_touched(struct store_txn *txn, uint64_t layer, uint64_t parent, bool *ret);

// Walks all entries of one layer, whiteouts included, ordered by parent fid (diff, merge).
// after: NULL or the last (parent, cookie) seen. The callback returns 0 to go on, else its value
// ends the walk and is returned.
int store_layer_entries(struct store_txn *txn, uint64_t layer,
                        int (*fn)(void *arg, uint64_t parent, const struct store_entry *entry),
                        void *arg);

// ---- inodes: (layer, fid) -> attributes and content

enum store_content {
    STORE_CONTENT_NONE = 0,   // directory, fifo, socket, empty file
    STORE_CONTENT_INLINE = 1, // file content or symlink target inside the record
    STORE_CONTENT_BLOB = 2,   // blob; its file has at least `size` bytes, holes included
};

struct store_inode {
    uint64_t fid;
    uint64_t version; // names these attributes and content; new at every copy-up
    uint32_t mode;    // type and permission bits
    uint32_t nlink;   // names in the view; 0: orphan. Directories: 1
    uint64_t size;
    int64_t atime_ns, mtime_ns, ctime_ns, btime_ns; // since 1970
    uint64_t parent;  // directory of one of its names, for walking up (the root: 0)
    const char *name; // that name
    uint8_t name_len;
    enum store_content content;
    uint64_t blob;        // for STORE_CONTENT_BLOB
    bool blob_owned;      // the blob's bytes from blob_shared on are this record's alone: they
                          // may be written in place while the layer is live, by one record of
                          // a blob at most. Means nothing in a frozen layer. Kept as put; mux
                          // clears it when it copies a record to another layer.
    uint64_t blob_shared; // when owned: no other record of the blob has more bytes; <= size
    uint64_t origin; // of a file that an import read here: names what it was read from, together
                     // with `version`, so a record that was changed since has none that fits.
                     // 0: none. The store does not look into it.
    const void *inline_data; // for STORE_CONTENT_INLINE
    size_t inline_len;
    uint32_t xattr_bytes; // size of its extended attributes, 0: it has none
    uint64_t xattr_layer; // where they are. Set by get; a record that is put into another layer
                          // takes them along.
    int64_t tree_files, tree_bytes; // put only: added to the layer's counts of the same names
};

// The bytes that a record counts in its layer.
static inline uint64_t store_inode_charge(const struct store_inode *inode)
{
    return ((inode->mode & S_IFMT) == S_IFREG ? inode->size : 0) + inode->xattr_bytes;
}

int store_inode_get(struct store_txn *txn, uint64_t layer, uint64_t fid, struct store_inode *ret);
// The first layer (top first) that records the fid.
int store_inode_find(struct store_txn *txn, const uint64_t *layers, size_t count, uint64_t fid,
                     struct store_inode *ret, size_t *ret_index);
// The same for many fids, which are asked for in growing order from first_fid to last_fid: a step
// each where their records stand together.
struct store_inode_run;
int store_inode_run_open(struct store_txn *txn, const uint64_t *layers, size_t count,
                         uint64_t first_fid, uint64_t last_fid, struct store_inode_run **ret);
int store_inode_run_find(struct store_inode_run *run, uint64_t fid, struct store_inode *ret);
void store_inode_run_close(struct store_inode_run *run);
// The first fid, from this one on, that a layer has a record of. -ENOENT.
int store_inode_next(struct store_txn *txn, uint64_t layer, uint64_t fid, uint64_t *ret_fid);
// Inserts or replaces. Keeps the layer's counts, the version index and the blob reference
// counts right: replacing a record releases what it referred to and takes what it refers to now.
int store_inode_put(struct store_txn *txn, uint64_t layer, const struct store_inode *inode);
// Removes, releasing its blob and version.
int store_inode_del(struct store_txn *txn, uint64_t layer, uint64_t fid);
// The extended attributes of a record, as one value that the store does not look into: -ENOENT when
// it has none. After a put the record must be put with the new size; a record with none deletes
// them.
int store_xattr_get(struct store_txn *txn, uint64_t layer, uint64_t fid, const void **ret,
                    size_t *ret_len);
int store_xattr_put(struct store_txn *txn, uint64_t layer, uint64_t fid, const void *bytes,
                    size_t len);

// A regular file's version -> where its record is (for shared nodeids).
int store_version_find(struct store_txn *txn, uint64_t version, uint64_t *ret_layer,
                       uint64_t *ret_fid);
// The record of a version: of one that is kept (below) as kept.c has it.
int store_version_get(struct store_txn *txn, uint64_t version, struct store_inode *ret);
int store_layer_inodes(struct store_txn *txn, uint64_t layer,
                       int (*fn)(void *arg, const struct store_inode *inode), void *arg);

// ---- versions kept for those who have them open (kept.c)
//
// While somebody listens, the version of a regular file that was ever in a frozen layer is kept
// when its last record goes, whatever takes it away: a merge, the collector, a change in place.
// fn is called on the committer's thread, under the writer lock, just before the commit, with the
// versions that are kept from then on (when it fails, some may not be): it must not block. -ENOMEM
// there is: they stay until nobody listens any more.
void store_kept_listen(struct store *store,
                       void (*fn)(void *arg, const uint64_t *versions, size_t count), void *arg);
// Nobody has these open any more.
int store_kept_drop(struct store_txn *txn, const uint64_t *versions, size_t count);
// Nobody has any: all go. store_open does the same with what a crash left.
int store_kept_drop_all(struct store *store);

// Where the names of a file with several names may be: (layer, fid) -> (parent, name). Hints: a
// name counts only when its entry leads to the fid, so what a frozen layer tells of names that are
// gone does no harm. Files with one name need none: their record has it.
int store_link_put(struct store_txn *txn, uint64_t layer, uint64_t fid, uint64_t parent,
                   const char *name, size_t name_len);
// No error when absent.
int store_link_del(struct store_txn *txn, uint64_t layer, uint64_t fid, uint64_t parent,
                   const char *name, size_t name_len);
// All of a fid in this layer.
int store_link_clear(struct store_txn *txn, uint64_t layer, uint64_t fid);
// The callback returns 0 to go on, else its value ends the walk and is returned. It may read.
int store_link_walk(struct store_txn *txn, uint64_t layer, uint64_t fid,
                    int (*fn)(void *arg, uint64_t parent, const char *name, size_t name_len),
                    void *arg);

// Unlinked inodes that something may still hold open: (layer, fid).
int store_orphan_put(struct store_txn *txn, uint64_t layer, uint64_t fid);
int store_orphan_del(struct store_txn *txn, uint64_t layer, uint64_t fid);
bool store_orphan_has(struct store_txn *txn, uint64_t layer, uint64_t fid);
// The first orphan of a layer after this fid; -ENOENT: there is none.
int store_orphan_next(struct store_txn *txn, uint64_t layer, uint64_t after, uint64_t *ret_fid);
// Deletes every orphan of a layer with its inode (nobody has it open any more).
int store_orphans_reap(struct store_txn *txn, uint64_t layer, uint64_t *ret_count);

// ---- blobs: content in files, counted by inode records

struct store_blob; // an open blob: counted, shared by its users, kept in a bounded cache

// A new empty blob file, not yet recorded anywhere: a crash before the transaction that first
// refers to it leaves nothing behind (swept at the next start).
int store_blob_new(struct store *store, struct store_blob **ret);
// An existing one. -ENOENT, -EMFILE; -EIO also when its file is no regular file.
int store_blob_open(struct store *store, uint64_t id, struct store_blob **ret);
// One that must have `size` bytes, as its record says: a file that lost its end is -EIO, never
// zeros.
int store_blob_open_sized(struct store *store, uint64_t id, uint64_t size, struct store_blob **ret);
int store_blob_check(struct store_blob *blob, uint64_t size);
// The same for the record that owns the blob and is about to write it: the file is asked for its
// length only beyond what it was seen to have. Then, once it has so many bytes:
int store_blob_open_owned(struct store *store, uint64_t id, uint64_t size, struct store_blob **ret);
void store_blob_extended(struct store_blob *blob, uint64_t size);
void store_blob_release(struct store_blob *blob);
// 1: a record may become the owner of the blob (blob_owned): the last one that was cannot write it
// any more, and nobody finds it by its content. Whether another record has more bytes is not looked
// at. 0: it may not; -errno.
int store_blob_may_own(struct store_txn *txn, uint64_t id);
// The owner's record is on its way to where nobody writes it.
int store_blob_disown(struct store_txn *txn, uint64_t id);
// Unlinks a new blob that no record will refer to; releases the handle.
void store_blob_discard(struct store_blob *blob);
int store_blob_fd(const struct store_blob *blob); // open read-write; stays the handle's
uint64_t store_blob_id(const struct store_blob *blob);

// Content addressing of base files: SHA-256 -> blob. The entry goes when the blob goes.
int store_digest_find(struct store_txn *txn, const uint8_t sha256[32], uint64_t *ret_blob);
int store_digest_put(struct store_txn *txn, const uint8_t sha256[32], uint64_t blob);

// ---- codebases

struct store_codebase {
    struct af_id id;
    char name[AF_NAME_TEXT_MAX + 1];
    char owner[AF_NAME_TEXT_MAX + 1];
    uint64_t root_fid;
    uint64_t stack;      // frozen layers, counted reference
    uint64_t head;       // the open layer on top, counted reference
    bool head_dirty;     // whether the head has records; an empty head need not be frozen
    uint64_t size_bytes; // sum of file sizes
    uint64_t files;
    int64_t created_ns, updated_ns;
};

int store_codebase_put(struct store_txn *txn, const struct store_codebase *codebase);
int store_codebase_get(struct store_txn *txn, const char *id, struct store_codebase *ret);
int store_codebase_del(struct store_txn *txn, const char *id); // the record alone
int store_codebase_list(struct store_txn *txn, const char *after_id,
                        int (*fn)(void *arg, const struct store_codebase *codebase), void *arg);

// ---- sandboxes

enum store_sandbox_status {
    STORE_SANDBOX_PENDING = 1, // values of sandbox.v1.SandboxStatus
    STORE_SANDBOX_RUNNING = 2,
    STORE_SANDBOX_STOPPED = 3,
    STORE_SANDBOX_ERROR = 4,
};

// What a view lets through whatever its rules say: values of agentfense.v1.Access.
enum store_sandbox_access {
    STORE_ACCESS_NORMAL = 1,
    STORE_ACCESS_READ_ONLY = 2,
    STORE_ACCESS_CUT_OFF = 3,
};

struct store_rule {
    const char *pattern;
    uint16_t pattern_len;
    uint8_t type;  // PatternType of sandbox.v1
    uint8_t level; // Permission of sandbox.v1
    int32_t priority;
};

struct store_sandbox {
    struct af_id id;
    struct af_id codebase_id;
    uint64_t root_fid;
    uint64_t stack; // counted reference
    uint64_t delta; // the live layer, counted reference
    enum store_sandbox_status status;
    enum store_sandbox_access access;
    int64_t created_ns, started_ns, stopped_ns, expires_ns; // 0: never
    uint64_t quota_bytes, quota_inodes;                     // 0: none
    uint64_t iops, bandwidth; // requests and bytes a second; 0: no limit
    const struct store_rule *rules;
    size_t n_rules;
    const char *owner; // of its codebase when it was made; not NUL-terminated
    size_t owner_len;
    const void *user_data; // the api's own (labels, runtime, limits), opaque here
    size_t user_data_len;
};

// The record returned by get and passed to list's callback lives until the transaction ends,
// its rules array until store_sandbox_free_rules.
int store_sandbox_put(struct store_txn *txn, const struct store_sandbox *sandbox);
int store_sandbox_get(struct store_txn *txn, const char *id, struct store_sandbox *ret);
void store_sandbox_free_rules(struct store_sandbox *sandbox);
int store_sandbox_del(struct store_txn *txn, const char *id); // the record alone
int store_sandbox_list(struct store_txn *txn, const char *after_id,
                       int (*fn)(void *arg, const struct store_sandbox *sandbox), void *arg);

// ---- looking at it

struct store_stats {
    uint64_t map_bytes, used_bytes; // address space, database file
    uint64_t entries, inodes, layers, stacks, blobs, codebases, sandboxes, orphans;
    uint64_t blob_bytes;                                           // as recorded
    uint64_t commits, syncs;                                       // since start
    uint64_t reads;                                                // read transactions since start
    uint64_t garbage_layers;                                       // waiting for the collector
    uint64_t blob_fds, blob_fds_max, blob_fd_hits, blob_fd_misses; // files kept open
};
int store_get_stats(struct store *store, struct store_stats *ret);

// Blocks until the collector has nothing left to do (tests, fsctl gc). Returns records removed.
int store_gc_drain(struct store *store, uint64_t *ret_records);

// Whether anything deleted still holds space: store_gc_drain would free it.
bool store_has_garbage(struct store *store);

// All layers and all blobs with an id greater than `after`, in order. The callback returns 0 to go
// on, else its value ends the walk and is returned; it may read.
int store_layer_list(struct store_txn *txn, uint64_t after,
                     int (*fn)(void *arg, const struct store_layer *layer), void *arg);
struct store_blob_info {
    uint64_t id, bytes, disk_bytes; // of its file; 0 when it is missing
    uint32_t refs;
};
int store_blob_list(struct store_txn *txn, uint64_t after,
                    int (*fn)(void *arg, const struct store_blob_info *blob), void *arg);

// The filesystem id and free space of the state directory, for statfs.
int store_statfs(struct store *store, uint64_t *ret_total_bytes, uint64_t *ret_free_bytes);

#endif
