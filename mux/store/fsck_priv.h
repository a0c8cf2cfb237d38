// What the passes of fsck share. Internal to mux/store/fsck*.c.
//
//   fsck.c          rounds of passes, findings, walking
//   fsck_records.c  keys and values, ids, the indexes beside the records
//   fsck_refs.c     reference counts and layer counters, recounted
//   fsck_tree.c     entries, inodes and names: each layer over the layers below it
//   fsck_counters.c files and bytes of codebases, and what deltas add to them
//   fsck_names.c    the names of one file, and whether a directory is reachable
//   fsck_fix.c      repairs of names
//   fsck_blobs.c    blob files
//   fsck_owners.c   codebases and sandboxes; who refers to which layer and stack
//
// A pass runs in f->txn: a reader, or the pass's own write transaction in a repair. It calls
// fsck_found for what is wrong and repairs it when that says so. Every function returns 0 or a
// negative value that ends the check. Read next: fsck.c.
#ifndef AF_MUX_STORE_FSCK_PRIV_H
#define AF_MUX_STORE_FSCK_PRIV_H

#include "mux/store/fsck.h"
#include "mux/store/idset.h"
#include "mux/store/store_priv.h"

#define FSCK_ROUNDS_MAX 16 // of a repair: each removes what hung on what the last one removed
#define FSCK_WINDOW     (1u << 20) // ids counted at once
#define FSCK_MEMO_MAX   (1u << 20) // directories remembered as reachable
#define FSCK_PATH_MAX   (1u << 17) // levels of a tree: deeper is a cycle
#define FSCK_KEY_MAX    512
#define FSCK_QUOTED_MAX 80

struct fsck {
    struct store *store;
    struct store_txn *txn;
    const struct store_fsck_options *options;
    struct store_fsck_result *result;
    bool offline;         // nobody else uses the store
    bool lost_owner;      // one cannot be read: what it holds looks as if nobody did
    bool repairing;       // this round repairs
    bool reporting;       // this round's findings are told, repaired or not
    int stopped;          // by the receiver of findings
    uint64_t found;       // in this round
    uint64_t writes;      // repairs so far: a walk that sees it change finds its place again
    uint64_t id_max;      // the largest one seen
    struct idset deltas;  // of sandboxes
    struct idset checked; // layers over what is below them, by fingerprint
    struct idset good;    // directories of the present view that are reachable
    uint64_t good_writes; // f->writes then
    uint64_t good_view;   // fingerprint of that view
};

// A tree: the layers of a view or codebase, top first.
struct fsck_view {
    const uint64_t *layers;
    size_t count;
    uint64_t root;
    uint64_t fingerprint; // of the layers
    bool live;            // a sandbox's: orphans in the top layer are marked
};

// Reports; whether the caller has to repair it now.
bool fsck_found(struct fsck *f, const char *kind, bool repairable, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
// 0, or the value by which the receiver of findings ended the check.
int fsck_stopped(const struct fsck *f);
// A name for a sentence.
const char *fsck_quote(char buf[FSCK_QUOTED_MAX], const void *name, size_t len);

// Calls fn for every record whose key begins with `prefix`. fn may change the database; the key
// it gets is a copy, the value lives until it changes something.
typedef int (*fsck_record_fn)(struct fsck *f, MDB_val key, MDB_val value, void *arg);
int fsck_walk(struct fsck *f, enum store_dbi dbi, MDB_val prefix, fsck_record_fn fn, void *arg);
static inline MDB_val fsck_everything(void)
{
    return store_val(NULL, 0);
}
// Writes of repairs.
int fsck_put(struct fsck *f, enum store_dbi dbi, MDB_val key, MDB_val value);
int fsck_del(struct fsck *f, enum store_dbi dbi, MDB_val key);
int fsck_put_inode(struct fsck *f, uint64_t layer, const struct store_inode *inode);
int fsck_del_inode(struct fsck *f, uint64_t layer, uint64_t fid);

// fsck_records.c
int fsck_pass_records(struct fsck *f);
int fsck_pass_indexes(struct fsck *f);
// fsck_refs.c
int fsck_put_layer(struct fsck *f, const struct store_layer *layer);
int fsck_pass_counts(struct fsck *f); // bytes and inodes of layers
int fsck_pass_refs(struct fsck *f);
int fsck_pass_queues(struct fsck *f);
// fsck_tree.c
// One entry, taken apart; the name is the key's.
struct fsck_entry {
    uint64_t parent, fid;
    uint8_t type;
    const char *name;
    size_t name_len;
};
bool fsck_parse_entry(MDB_val key, MDB_val value, struct fsck_entry *ret);
int fsck_pass_trees(struct fsck *f);
// fsck_counters.c
int fsck_pass_tree_counters(struct fsck *f);
// fsck_names.c
int fsck_inode(struct fsck *f, const struct fsck_view *view, uint64_t fid, struct store_inode *ret,
               size_t *ret_index);
int fsck_entry(struct fsck *f, const struct fsck_view *view, uint64_t parent, const char *name,
               size_t name_len, struct store_entry *ret);
// How many names lead to the file, of those that its record and the index know.
int fsck_count_names(struct fsck *f, const struct fsck_view *view, const struct store_inode *inode,
                     uint32_t *ret);
// Whether the record or the index knows this name.
int fsck_knows_name(struct fsck *f, const struct fsck_view *view, const struct store_inode *inode,
                    uint64_t parent, const char *name, size_t name_len, bool *ret);
int fsck_is_reachable(struct fsck *f, const struct fsck_view *view, uint64_t dir, bool *ret);
void fsck_forget_reachable(struct fsck *f);
// fsck_fix.c
// Takes an entry out of the view; a lower layer's entry of that name does not come to light.
int fsck_hide_entry(struct fsck *f, const struct fsck_view *view, uint64_t parent, const char *name,
                    size_t name_len);
int fsck_set_links(struct fsck *f, const struct fsck_view *view, uint64_t fid, uint32_t names);
int fsck_learn_name(struct fsck *f, const struct fsck_view *view, uint64_t fid, uint64_t parent,
                    const char *name, size_t name_len);
// Gives a file of the top layer that has no name its old one back, or saves what it holds.
int fsck_reconnect(struct fsck *f, const struct fsck_view *view, uint64_t fid);
// fsck_blobs.c
int fsck_pass_blob_records(struct fsck *f);
int fsck_pass_blob_files(struct fsck *f);
int fsck_save_lost(struct fsck *f, uint64_t layer, const struct store_inode *inode);
// fsck_owners.c
typedef int (*fsck_owner_fn)(struct fsck *f, const char *what, const char *id, uint64_t live,
                             uint64_t stack, uint64_t root, bool sandbox, void *arg);
// Every codebase (its head and stack) and every sandbox (its delta and stack).
int fsck_owners(struct fsck *f, fsck_owner_fn fn, void *arg);
// The layers of an owner's tree, live one first; *ret_count 0 when the stack is lost.
int fsck_load_layers(struct fsck *f, uint64_t live, uint64_t stack,
                     uint64_t layers[STORE_STACK_MAX + 1], size_t *ret_count);
int fsck_pass_owners(struct fsck *f);

#endif
