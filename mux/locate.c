// Paths by parent hints, from the end to the beginning. Read next: locate.h.
#include "mux/locate.h"

#include "mux/names.h"
#include "mux/view.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define LEVELS_MAX 256 // climbed for one request

// The beginning of the path is put in front of `start`.
struct climb {
    char *text;
    size_t start;
    bool is_cut;
};

static bool put_in_front(struct climb *climb, const char *name, size_t len)
{
    size_t slash = climb->start < AF_PATH_MAX ? 1 : 0;
    if (len + slash > climb->start) {
        climb->is_cut = true;
        return false;
    }
    if (slash)
        climb->text[--climb->start] = '/';
    climb->start -= len;
    memcpy(climb->text + climb->start, name, len);
    return true;
}

static int climb_up(struct mux_op *op, uint64_t fid, mode_t *ret_mode, struct climb *climb)
{
    for (unsigned level = 0;; level++) {
        struct store_inode inode;
        int rc = mux_resolve_inode(op->txn, mux_op_layers(op), fid, &inode, NULL);
        if (rc < 0)
            return rc;
        if (level == 0)
            *ret_mode = inode.mode;
        if (fid == op->view->root_fid)
            return 0;
        if (inode.nlink == 0 || inode.name_len == 0)
            return -ENOENT; // it has lost its last name, or never had one
        if (level == LEVELS_MAX)
            climb->is_cut = true;
        if (climb->is_cut || !put_in_front(climb, inode.name, inode.name_len))
            return 0;
        fid = inode.parent;
    }
}

static int mode_of_entry(struct mux_op *op, uint64_t dir, const char *name, mode_t *ret)
{
    struct store_entry entry;
    struct store_inode inode;
    int rc = mux_resolve_entry(op->txn, mux_op_layers(op), dir, name, strlen(name), &entry, NULL);
    if (rc == 0)
        rc = mux_resolve_inode(op->txn, mux_op_layers(op), entry.fid, &inode, NULL);
    *ret = rc == 0 ? inode.mode : 0;
    return rc == -ENOENT ? 0 : rc;
}

// Of a name that may be hidden nothing is looked for but what the rules say: as in mux_lookup, the
// time that it takes must not tell whether it exists.
static int locate(struct mux_op *op, uint64_t fid, const char *name, bool may_exist,
                  struct mux_place *ret)
{
    struct climb climb = {.text = ret->path, .start = AF_PATH_MAX};
    mode_t mode = 0, ignored;
    int rc = mux_op_read(op);
    if (rc == 0 && name) {
        put_in_front(&climb, name, strlen(name));
        rc = may_exist ? mode_of_entry(op, fid, name, &mode) : 0;
    }
    if (rc == 0)
        rc = climb_up(op, fid, name ? &ignored : &mode, &climb);
    if (rc < 0)
        return rc;
    ret->mode = mode;
    ret->is_cut = climb.is_cut;
    ret->len = AF_PATH_MAX - climb.start;
    memmove(ret->path, ret->path + climb.start, ret->len);
    ret->path[ret->len] = '\0';
    return 0;
}

// Whether the lookup of an absent name was refused, as mux_lookup decides it.
static int ask_rules(struct mux_op *op, uint64_t dir_nodeid, const char *text, bool *ret)
{
    struct mux_node dir;
    struct mux_name name;
    int rc = mux_dir_load(op, dir_nodeid, &dir);
    if (rc < 0)
        return rc;
    rc = mux_name_resolve(op, &dir, text, &name);
    mux_node_fini(op, &dir);
    if (rc < 0)
        return rc;
    *ret = !name.visible && (name.hidden || name.exists);
    mux_name_fini(op, &name);
    return 0;
}

// The view that runs as this uid.
static int route_of_uid(struct mux *mux, uid_t uid, uint32_t *ret)
{
    struct mux_slot *slot = uid > mux->uid_base ? mux_view_slot(mux, uid - mux->uid_base) : NULL;
    if (!slot)
        return -ESTALE;
    pthread_rwlock_rdlock(&slot->lock);
    *ret = slot->view ? slot->view->route : 0;
    pthread_rwlock_unlock(&slot->lock);
    return *ret ? 0 : -ESTALE;
}

static int fid_of_version(struct mux_op *op, uint64_t version, uint64_t *ret)
{
    uint64_t layer;
    int rc = mux_op_read(op);
    return rc < 0 ? rc : store_version_find(op->txn, version, &layer, ret);
}

int mux_locate(struct mux *mux, uint64_t nodeid, uid_t uid, const char *name, bool ask_hidden,
               struct mux_place *ret)
{
    struct mux_op op;
    uint32_t route;
    uint64_t fid = mux_nodeid_fid(nodeid), inside = nodeid;
    bool shared = mux_nodeid_is_shared(nodeid);
    if (name && strnlen(name, AF_NAME_MAX + 1) > AF_NAME_MAX)
        return -ENAMETOOLONG;
    if (shared) {
        route = mux_nodeid_route(nodeid);
        int rc = mux->no_sharing ? 0 : route_of_uid(mux, uid, &route);
        if (rc < 0)
            return rc;
        inside = mux_nodeid_private(route, 0);
    }
    int rc = mux_op_enter_inside(mux, inside, &op);
    if (rc < 0)
        return rc;
    if (!shared)
        fid = mux_op_fid(&op, nodeid);
    else
        rc = fid_of_version(&op, fid, &fid);
    if (rc == 0)
        rc = locate(&op, fid, name, !ask_hidden, ret);
    if (rc == 0) {
        ret->hidden = false;
        ret->sandbox_id = op.view->sandbox_id;
    }
    if (rc == 0 && name && ask_hidden)
        rc = ask_rules(&op, nodeid, name, &ret->hidden);
    return mux_op_leave(&op, rc);
}
