// Delta records as the operations would leave them. Read next: delta_writer.h.
#include "tests/unit/mux/delta_writer.h"

#include "mux/base/clock.h"
#include "mux/layer_list.h"
#include "mux/links.h"
#include "mux/resolve.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

struct edit {
    struct store *store;
    struct store_txn *txn;
    struct mux_layer_list list;
    struct mux_layers layers;
    uint64_t root;
};

// A path within an edit: its directory and, when it exists, its inode with copied pointers.
struct place {
    uint64_t parent;
    const char *name;
    size_t name_len;
    bool exists;
    struct store_inode inode;
    char hint[256];
    char content[AF_SYMLINK_MAX];
};

static void begin(struct delta_writer *writer, struct edit *edit)
{
    struct store_sandbox sandbox;
    edit->store = mux_store(writer->fixture->mux);
    assert_int_equal(store_write_begin(edit->store, &edit->txn), 0);
    assert_int_equal(store_sandbox_get(edit->txn, writer->sandbox.text, &sandbox), 0);
    assert_int_equal(mux_layer_list_load(edit->txn, sandbox.delta, sandbox.stack, &edit->list), 0);
    edit->layers = mux_layer_list_all(&edit->list);
    edit->root = sandbox.root_fid;
    store_sandbox_free_rules(&sandbox);
}

static int end(struct edit *edit, int rc)
{
    if (rc == 0)
        assert_int_equal(store_commit(edit->txn), 0);
    else
        store_abort(edit->txn);
    mux_layer_list_fini(&edit->list);
    return rc;
}

static void load(struct place *place, const struct store_inode *inode)
{
    place->exists = true;
    place->inode = *inode;
    memcpy(place->hint, inode->name, inode->name_len);
    memcpy(place->content, inode->inline_data ? inode->inline_data : "", inode->inline_len);
    place->inode.name = place->hint;
    place->inode.inline_data = place->content;
}

static int find(struct edit *edit, const char *path, struct place *place)
{
    const char *slash = strrchr(path, '/');
    struct store_inode inode;
    memset(place, 0, sizeof *place);
    place->name = slash ? slash + 1 : path;
    place->name_len = strlen(place->name);
    int rc = mux_resolve_path(edit->txn, edit->layers, edit->root, path,
                              slash ? (size_t)(slash - path) : 0, &inode, NULL);
    if (rc < 0)
        return rc;
    if (!S_ISDIR(inode.mode))
        return -ENOTDIR;
    place->parent = inode.fid;
    rc = mux_resolve_path(edit->txn, edit->layers, edit->root, path, strlen(path), &inode, NULL);
    if (rc == 0)
        load(place, &inode);
    return rc == -ENOENT ? 0 : rc;
}

static void put_inode(struct edit *edit, struct store_inode *inode)
{
    assert_int_equal(store_new_id(edit->store, &inode->version), 0);
    inode->ctime_ns = af_wall_ns();
    assert_int_equal(store_inode_put(edit->txn, edit->layers.ids[0], inode), 0);
}

static void put_name(struct edit *edit, const struct place *place, const struct store_inode *inode)
{
    assert_int_equal(store_entry_put(edit->txn, edit->layers.ids[0], place->parent, place->name,
                                     place->name_len, inode->fid, (uint8_t)IFTODT(inode->mode)),
                     0);
}

static void drop_name(struct edit *edit, const struct place *place)
{
    bool in_lower;
    uint64_t delta = edit->layers.ids[0];
    assert_int_equal(mux_resolve_in_lower(edit->txn, edit->layers, place->parent, place->name,
                                          place->name_len, &in_lower),
                     0);
    int rc = in_lower
                 ? store_entry_put_whiteout(edit->txn, delta, place->parent, place->name,
                                            place->name_len)
                 : store_entry_del(edit->txn, delta, place->parent, place->name, place->name_len);
    assert_int_equal(rc, 0);
}

// One name fewer: the last one takes the delta's record with it.
static void drop_link(struct edit *edit, struct place *place)
{
    if (!S_ISDIR(place->inode.mode) && place->inode.nlink > 1) {
        struct mux_link link = {
            .parent = place->parent, .name = place->name, .name_len = place->name_len};
        int rc = mux_links_lose(edit->txn, edit->layers, &place->inode, &link, place->hint);
        assert_int_equal(rc, 0);
        place->inode.nlink--;
        put_inode(edit, &place->inode);
        return;
    }
    int rc = store_inode_del(edit->txn, edit->layers.ids[0], place->inode.fid);
    assert_true(rc == 0 || rc == -ENOENT);
    if (S_ISREG(place->inode.mode))
        assert_int_equal(
            store_layer_count_tree(edit->txn, edit->layers.ids[0], -1, -(int64_t)place->inode.size),
            0);
}

static void make(struct edit *edit, struct place *place, mode_t mode, const char *text)
{
    struct store_inode inode = {
        .mode = mode,
        .nlink = 1,
        .mtime_ns = af_wall_ns(),
        .parent = place->parent,
        .name = place->name,
        .name_len = (uint8_t)place->name_len,
        .size = strlen(text),
        .inline_data = text,
        .inline_len = strlen(text),
        .content = *text ? STORE_CONTENT_INLINE : STORE_CONTENT_NONE,
        .tree_files = S_ISREG(mode) ? 1 : 0,
        .tree_bytes = S_ISREG(mode) ? (int64_t)strlen(text) : 0,
    };
    assert_int_equal(store_new_id(edit->store, &inode.fid), 0);
    put_inode(edit, &inode);
    put_name(edit, place, &inode);
}

static int make_new(struct delta_writer *writer, const char *path, mode_t mode, const char *text)
{
    struct edit edit;
    struct place place;
    begin(writer, &edit);
    int rc = find(&edit, path, &place);
    if (rc == 0 && place.exists)
        rc = -EEXIST;
    if (rc == 0)
        make(&edit, &place, mode, text);
    return end(&edit, rc);
}

int delta_mkdir(struct delta_writer *writer, const char *path)
{
    return make_new(writer, path, S_IFDIR | 0755, "");
}

int delta_symlink(struct delta_writer *writer, const char *path, const char *target)
{
    return make_new(writer, path, S_IFLNK | 0777, target);
}

int delta_write(struct delta_writer *writer, const char *path, const char *text)
{
    struct edit edit;
    struct place place;
    begin(writer, &edit);
    int rc = find(&edit, path, &place);
    if (rc == 0 && place.exists && !S_ISREG(place.inode.mode))
        rc = -EISDIR;
    if (rc == 0 && !place.exists) {
        make(&edit, &place, S_IFREG | 0644, text);
    } else if (rc == 0) {
        place.inode.tree_bytes = (int64_t)strlen(text) - (int64_t)place.inode.size;
        place.inode.size = place.inode.inline_len = strlen(text);
        place.inode.inline_data = text;
        place.inode.content = *text ? STORE_CONTENT_INLINE : STORE_CONTENT_NONE;
        place.inode.blob = 0;
        place.inode.mtime_ns = af_wall_ns();
        put_inode(&edit, &place.inode);
    }
    return end(&edit, rc);
}

int delta_chmod(struct delta_writer *writer, const char *path, mode_t mode)
{
    struct edit edit;
    struct place place;
    begin(writer, &edit);
    int rc = find(&edit, path, &place);
    if (rc == 0 && !place.exists)
        rc = -ENOENT;
    if (rc == 0) {
        place.inode.mode = (place.inode.mode & S_IFMT) | mode;
        put_inode(&edit, &place.inode);
    }
    return end(&edit, rc);
}

static int removable(struct edit *edit, const struct place *place, bool is_dir)
{
    bool empty = true;
    if (!place->exists)
        return -ENOENT;
    if (S_ISDIR(place->inode.mode) != is_dir)
        return is_dir ? -ENOTDIR : -EISDIR;
    if (is_dir)
        assert_int_equal(
            mux_resolve_dir_is_empty(edit->txn, edit->layers, place->inode.fid, &empty), 0);
    return empty ? 0 : -ENOTEMPTY;
}

static int remove_path(struct delta_writer *writer, const char *path, bool is_dir)
{
    struct edit edit;
    struct place place;
    begin(writer, &edit);
    int rc = find(&edit, path, &place);
    if (rc == 0)
        rc = removable(&edit, &place, is_dir);
    if (rc == 0) {
        drop_name(&edit, &place);
        drop_link(&edit, &place);
    }
    return end(&edit, rc);
}

int delta_unlink(struct delta_writer *writer, const char *path)
{
    return remove_path(writer, path, false);
}

int delta_rmdir(struct delta_writer *writer, const char *path)
{
    return remove_path(writer, path, true);
}

static bool is_below(const char *path, const char *dir)
{
    size_t len = strlen(dir);
    return strncmp(path, dir, len) == 0 && (path[len] == '/' || path[len] == '\0');
}

static void place_at(struct edit *edit, struct place *object, const struct place *target)
{
    object->inode.parent = target->parent;
    object->inode.name = target->name;
    object->inode.name_len = (uint8_t)target->name_len;
    put_inode(edit, &object->inode);
    put_name(edit, target, &object->inode);
}

int delta_rename(struct delta_writer *writer, const char *from, const char *to)
{
    static struct place source, target;
    struct edit edit;
    begin(writer, &edit);
    int rc = find(&edit, from, &source);
    if (rc == 0 && !source.exists)
        rc = -ENOENT;
    if (rc == 0)
        rc = find(&edit, to, &target);
    if (rc == 0 && is_below(to, from))
        rc = -EINVAL;
    if (rc == 0 && target.exists)
        rc = source.inode.fid == target.inode.fid
                 ? -EINVAL
                 : removable(&edit, &target, S_ISDIR(source.inode.mode));
    if (rc == 0) {
        if (target.exists)
            drop_link(&edit, &target);
        drop_name(&edit, &source);
        place_at(&edit, &source, &target);
    }
    return end(&edit, rc);
}

int delta_exchange(struct delta_writer *writer, const char *a, const char *b)
{
    static struct place x, y;
    struct edit edit;
    begin(writer, &edit);
    int rc = is_below(a, b) || is_below(b, a) ? -EINVAL : find(&edit, a, &x);
    if (rc == 0)
        rc = find(&edit, b, &y);
    if (rc == 0 && (!x.exists || !y.exists))
        rc = -ENOENT;
    if (rc == 0) {
        place_at(&edit, &x, &y);
        place_at(&edit, &y, &x);
    }
    return end(&edit, rc);
}

int delta_link(struct delta_writer *writer, const char *from, const char *to)
{
    static struct place source, target;
    struct edit edit;
    begin(writer, &edit);
    int rc = find(&edit, from, &source);
    if (rc == 0)
        rc = find(&edit, to, &target);
    if (rc == 0 && (!source.exists || target.exists || S_ISDIR(source.inode.mode)))
        rc = -EPERM;
    if (rc == 0) {
        uint64_t delta = edit.layers.ids[0], fid = source.inode.fid;
        source.inode.nlink++;
        rc = store_link_put(edit.txn, delta, fid, source.inode.parent, source.inode.name,
                            source.inode.name_len);
        if (rc == 0)
            rc = store_link_put(edit.txn, delta, fid, target.parent, target.name, target.name_len);
        put_inode(&edit, &source.inode);
        put_name(&edit, &target, &source.inode);
    }
    return end(&edit, rc);
}
