// A view while it is attached, and the frame of every operation on it. Internal to mux.
//
// A slot owns the lock of whoever has the slot; it lives as long as mux, so a request finds its
// view without touching any table: nodeid -> route -> slot -> lock -> is it still that route?
// A view's fields are constant while it is attached, but for those below "changes". Rules, quota
// and access change between two operations, never during one (view_change.c).
//
// Locks: the slot's rwlock (rank: view). Shared for what only reads, exclusive for a whole
// mutation, so what is done under it must be short: no copying of blobs, no fsync, no walk without
// a small bound. A write transaction is begun under it, never the other way round.
// Errors: -errno; -ESTALE when the route is nobody's. Read next: node.h, then lookup.c.
#ifndef AF_MUX_VIEW_H
#define AF_MUX_VIEW_H

#include "mux/alias.h"
#include "mux/fid_map.h"
#include "mux/gone.h"
#include "mux/layer_list.h"
#include "mux/mux_priv.h"
#include "mux/node.h"
#include "mux/nodeid.h"
#include "mux/ops.h"
#include "mux/rules.h"
#include "mux/sandbox.h"

#include <pthread.h>
#include <stdatomic.h>

// What the kernel may keep without asking again: everything that changes behind its back is
// invalidated explicitly.
#define MUX_TTL_NS (1000000LL * 1000000000)

#define MUX_VIEW_MAGIC 0x6d767731u

// Small forgotten orphans are deleted this many in one transaction.
#define MUX_DEAD_MAX       32
#define MUX_DEAD_BYTES_MAX (64u << 10)
// Whether the kernel may still hold it. Plain HELD is large, or could not be deleted before: it
// does not wait for others.
enum mux_orphan { MUX_ORPHAN_HELD = 1, MUX_ORPHAN_HELD_SMALL, MUX_ORPHAN_DEAD };

struct mux_slot;

struct mux_view {
    uint32_t magic;
    uint32_t slot, route; // nodeid.h
    uint64_t epoch;       // this attachment's number, never repeated: the FUSE generation
    struct mux_slot *home;
    struct af_id sandbox_id;
    uint64_t root_fid;
    uid_t uid;
    gid_t gid;
    struct mux_layer_list layers; // ids[0] is the delta
    // ---- changes, under the lock held exclusively
    struct rules *rules;
    uint64_t
        foreign_seq; // counts changes that asked none of these rules: of the rules, and by others
    enum store_sandbox_access access;
    uint64_t quota_bytes, quota_inodes; // 0: none
    uint64_t tree;                      // of what is below the delta (listings.h)
    bool delta_is_empty;                // certainly; false says nothing
    uint64_t iops, bandwidth;           // that it asks for, 0: none
    struct mux_gone gone;               // what others have taken the names of
    struct mux_alias alias;             // directories that became one with others'
    uint64_t changed_in;                // the last change's id for store_look_begin
    uint64_t changes;                   // counts committed changes: whether a merge is still true
    uint64_t stamp;                     // cached nodes with another stamp are out of date (node.h)
    uint64_t names_seq;                 // counts changes of names: whether a walk is still true
    uint64_t moves_seq;                 // of these, directories that moved
    struct mux_fid_map orphans; // unlinked; the value says whether the kernel may still hold them
    size_t n_orphans;
    uint64_t dead[MUX_DEAD_MAX]; // forgotten orphans that will be deleted together
    size_t n_dead;
    size_t asked_to; // where room.c goes on among the orphans
    // ---- any time
    atomic_bool shown; // somebody has been told the root's nodeid, and may hold what is below
};

struct mux_slot {
    pthread_rwlock_t lock;
    struct mux_view *view; // NULL: free
    uint64_t turns;        // how often the slot was given away
};

// ---- one operation: the lock, at most one transaction, and what to do once it has committed

#define MUX_OP_TOUCHED_MAX 8
#define MUX_OP_ORPHANS_MAX 2

struct mux_op {
    struct mux *mux;
    struct mux_view *view;
    struct store_txn *txn; // NULL until mux_op_read or mux_op_write
    bool exclusive, writing;
    bool names_changed;  // on commit: the view's names_seq grows
    bool states_changed; // on commit: cached rule states are void
    bool dir_moved;      // on commit: the view's moves_seq grows
    int64_t now_ns;      // exclusive only: the time of everything this operation changes
    unsigned n_touched, n_orphans;
    struct mux_node touched[MUX_OP_TOUCHED_MAX]; // attributes that the cache takes over on commit
    const struct mux_node *created;              // or NULL: cached on commit
    uint64_t orphans[MUX_OP_ORPHANS_MAX];        // fids that become orphans on commit
    uint64_t named;                              // fid of an orphan that gets a name, or 0
    uint64_t past_stamp; // of the nodes of the one past that it looks into, or 0: a new one each
};

// Finds and locks the view of a private nodeid. -ESTALE: nobody's. On success, and only then,
// mux_op_leave must follow. For what the sandbox does: shared to look (-EACCES when the view is cut
// off), exclusive to change (-EROFS when it is read-only).
int mux_op_enter(struct mux *mux, uint64_t nodeid, struct mux_op *op);
int mux_op_enter_change(struct mux *mux, uint64_t nodeid, struct mux_op *op);
// The error of who comes to a view that is cut off; -1.
int mux_fail_cut_off(const char *id, struct af_error *err);
// For what mux does by itself, whatever the view's access.
int mux_op_enter_inside(struct mux *mux, uint64_t nodeid, struct mux_op *op);
int mux_op_enter_exclusive(struct mux *mux, uint64_t nodeid, struct mux_op *op);
// Begins the transaction if there is none yet. After mux_op_write what mux_op_read's transaction
// returned is void.
int mux_op_read(struct mux_op *op);
// The same for a long read, or one that outlives the view's lock: holds no lock of the store.
int mux_op_read_alone(struct mux_op *op);
// Drops a read transaction before work that takes longer.
void mux_op_end_read(struct mux_op *op);
int mux_op_write(struct mux_op *op);
// Commits a write transaction and publishes to the node cache; the lock stays. Needed only where
// what is published lives shorter than mux_op_leave.
int mux_op_commit(struct mux_op *op);
// Commits when rc is 0 and a write transaction is open, else drops the transaction; unlocks.
// Returns rc, or why the commit failed.
int mux_op_leave(struct mux_op *op, int rc);

// The record of a fid, by the layers or, when its names are gone, from what they were (gone.h);
// then *ret_index (may be NULL) is no layer's. In any transaction of the operation. -ENOENT.
int mux_op_inode(struct mux_op *op, uint64_t fid, struct store_inode *ret, size_t *ret_index);

// Not to be kept over mux_op_write.
static inline struct mux_layers mux_op_layers(const struct mux_op *op)
{
    struct mux_layers layers = mux_layer_list_all(&op->view->layers);
    layers.skip = op->view->delta_is_empty ? 1 : 0;
    return layers;
}

static inline uint64_t mux_op_delta(const struct mux_op *op)
{
    return op->view->layers.ids[0];
}

// The key of a node, and what the kernel knows a file or directory by: they differ for directories
// that became one (alias.h).
static inline uint64_t mux_view_nodeid(const struct mux_view *view, uint64_t fid)
{
    return mux_nodeid_private(view->route, fid);
}

static inline uint64_t mux_view_shown(const struct mux_view *view, uint64_t fid)
{
    return mux_nodeid_private(view->route, mux_alias_shown(&view->alias, fid));
}

// The same for who holds no lock: mux_view_nodeid's when nobody has the route.
uint64_t mux_view_shown_by(struct mux *mux, uint32_t route, uint64_t fid);

// The fid that a private nodeid from the kernel means.
static inline uint64_t mux_op_fid(const struct mux_op *op, uint64_t nodeid)
{
    return mux_alias_inside(&op->view->alias, mux_nodeid_fid(nodeid));
}

// -EDQUOT when the delta would exceed the view's quota. Inside any transaction.
int mux_op_check_quota(struct mux_op *op, uint64_t more_bytes, uint64_t more_inodes);
// -EDQUOT when it would still exceed the view's quota with so many bytes less.
int mux_op_check_within_quota(struct mux_op *op, uint64_t fewer_bytes);

// ---- the table (view_table.c)

int mux_view_table_new(struct mux *mux);
void mux_view_table_free(struct mux *mux); // detaches what is attached
uint64_t mux_view_table_count(struct mux *mux);
// The slot with this number, or NULL. Lock-free.
struct mux_slot *mux_view_slot(struct mux *mux, uint32_t slot);
// The root's nodeid of an attached sandbox, for the top directory and for inspection.
bool mux_view_find(struct mux *mux, const char *sandbox_id, uint64_t *ret_root_nodeid);
// The first attached view with a slot >= *slot; updates it. Ids are copied.
bool mux_view_next(struct mux *mux, uint32_t *slot, struct af_id *ret_id,
                   uint64_t *ret_root_nodeid);
// A sandbox's view held against every change, attached or not: with its lock held exclusively, as
// by mux_op_enter_exclusive on its root, or kept from being attached. mux_view_release must follow.
struct mux_hold {
    struct mux *mux;
    struct mux_op op;     // op.view NULL: not attached
    uint64_t attachments; // when not attached: how often any view ever was
};
void mux_view_hold(struct mux *mux, const char *sandbox_id, struct mux_hold *ret);
void mux_view_release(struct mux_hold *hold);
// Compaction has put one layer in the place of a run: the attached views that go by the run, and
// whose stacks have the new layer, go by it from now on. Nodes in the cache stay true: of a layer
// they know no more than whether it is the delta.
void mux_view_merge_layers(struct mux *mux, const uint64_t *run, size_t count, uint64_t merged);
// Tells the notifier what the view may ask for in a second. With the view or the table held.
void mux_view_tell_limit(struct mux *mux, const struct mux_view *view);
// A stamp that was never used before.
uint64_t mux_view_new_stamp(struct mux *mux);

#endif
