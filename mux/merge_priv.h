// What the parts of a merge share. Internal to the merge. Within its transaction; nothing is
// locked. Errors: -errno. Read next: merge.c (the passes), merge_place.c, merge_record.c,
// merge_xattr.c.
#ifndef AF_MUX_MERGE_PRIV_H
#define AF_MUX_MERGE_PRIV_H

#include "mux/inode_copy.h"
#include "mux/links.h"
#include "mux/merge.h"

#include "mux/base/limits.h"

#define MUX_MERGE_NAMES_MAX (8u << 20) // entries of one delta

// An entry of the delta that is not as in the base.
struct mux_merge_name {
    uint64_t parent;
    uint64_t fid, base_fid; // 0: none
    const char *name;
    uint8_t name_len, type, base_type;
};

struct mux_merge_put {
    uint64_t parent;
    const char *name;
    size_t name_len;
    uint64_t before; // 1 + index of the same file's put before this one, or 0
};

// What the view's delta stands on.
static inline struct mux_layers mux_merge_base(const struct mux_merge *merge)
{
    return (struct mux_layers){.ids = merge->view.ids + 1, .count = merge->view.count - 1};
}

// merge.c
// 0, or -ECANCELED when conflicts are refused.
int mux_merge_conflict(struct mux_merge *merge);
// Between two changes: a batch may end here, and with it every pointer into the database.
int mux_merge_step(struct mux_merge *merge);
int mux_merge_grow(void **array, size_t *capacity, size_t count, size_t size);

// merge_place.c
int mux_merge_load(struct mux_merge *merge, struct mux_layers layers, uint64_t fid,
                   struct mux_inode_copy *ret);
// Whether a name of these layers leads to the fid.
int mux_merge_has_name(struct mux_merge *merge, struct mux_layers layers, uint64_t fid, bool *ret);
// Whether names lead from the head's root to the directory.
int mux_merge_is_reachable(struct mux_merge *merge, uint64_t dir, bool *ret);
// What the head has under a name; fid 0: nothing.
int mux_merge_look(struct mux_merge *merge, uint64_t parent, const char *name, size_t len,
                   struct store_entry *ret);
int mux_merge_unname(struct mux_merge *merge, uint64_t parent, const char *name, size_t len);
// Takes the head's name of a directory or file with one name away, if there is one.
int mux_merge_detach(struct mux_merge *merge, uint64_t fid, bool *ret_was);
// The head's directory for one of the view: the same where it is there, else one of its name, else
// it is put where the view has it.
int mux_merge_target(struct mux_merge *merge, uint64_t view_dir, uint64_t *ret);
int mux_merge_put_file(struct mux_merge *merge, uint64_t parent, const struct mux_merge_name *name);
// A file that was there before, or that is the view's own, and has lost its last name to one that
// the view has put there, stays beside it. After all names are put.
int mux_merge_spare(struct mux_merge *merge, const struct mux_merge_name *loser);

// merge_record.c
bool mux_merge_same_content(const struct store_inode *a, const struct store_inode *b);
// A name comes or goes. Before its entry changes.
int mux_merge_count_link(struct mux_merge *merge, uint64_t fid, int change);
// Whether the merge has taken the file's last name.
int mux_merge_is_nameless(struct mux_merge *merge, uint64_t fid, bool *ret);
int mux_merge_touch(struct mux_merge *merge, uint64_t dir);
int mux_merge_record_all(struct mux_merge *merge);

// merge_xattr.c: into `to`, a copy of one of them that is to be put into the head's top layer. base
// may be NULL. 1: they are others than the head's.
int mux_merge_xattrs(struct mux_merge *merge, const struct store_inode *view,
                     const struct store_inode *base, const struct store_inode *head,
                     struct store_inode *to);

#endif
