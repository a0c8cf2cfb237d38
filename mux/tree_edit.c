// Objects into a codebase's tree by path. Read next: tree_edit.h.
#include "mux/tree_edit.h"

#include "mux/inode_copy.h"
#include "mux/links.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

size_t mux_path_name_start(const char *path, size_t len)
{
    while (len > 0 && path[len - 1] != '/')
        len--;
    return len;
}

// source: what the content was read from, or NULL.
static int put_record_from(struct mux_tree_edit *edit, struct store_inode *inode,
                           const struct mux_source *source)
{
    int rc = store_new_id(edit->store, &inode->version);
    inode->origin = 0;
    if (rc == 0 && source)
        rc = mux_source_origin(source, inode->version, &inode->origin);
    if (rc == 0)
        rc = store_inode_put(edit->txn, edit->layers.ids[0], inode);
    return rc;
}

static int put_record(struct mux_tree_edit *edit, struct store_inode *inode)
{
    return put_record_from(edit, inode, NULL);
}

static struct store_inode fresh_inode(const struct mux_tree_edit *edit, mode_t mode,
                                      int64_t mtime_ns)
{
    return (struct store_inode){
        .mode = mode,
        .nlink = 1,
        .atime_ns = mtime_ns,
        .mtime_ns = mtime_ns,
        .ctime_ns = edit->now_ns,
        .btime_ns = edit->now_ns,
    };
}

// A name was added to the directory: its times change, unless an import gives them itself.
static int touch_directory(struct mux_tree_edit *edit, uint64_t fid)
{
    struct store_inode inode;
    size_t index;
    int rc = mux_resolve_inode(edit->txn, edit->layers, fid, &inode, &index);
    if (rc < 0 || (edit->implied && index == 0))
        return rc;
    struct mux_inode_copy copy;
    rc = mux_inode_copy(&inode, &copy);
    if (rc < 0)
        return rc;
    copy.inode.mtime_ns = copy.inode.ctime_ns = edit->now_ns;
    rc = put_record(edit, &copy.inode);
    if (rc == 0 && edit->implied)
        rc = mux_fid_map_put(edit->implied, fid, 1);
    return rc;
}

// Records a new object under a name that is free in the live layer or to be replaced.
static int add_object(struct mux_tree_edit *edit, uint64_t parent, const char *name,
                      size_t name_len, struct store_inode *inode, const struct mux_source *source)
{
    int rc = store_new_id(edit->store, &inode->fid);
    if (rc < 0)
        return rc;
    inode->parent = parent;
    inode->name = name;
    inode->name_len = (uint8_t)name_len;
    rc = put_record_from(edit, inode, source);
    if (rc == 0)
        rc = store_entry_put(edit->txn, edit->layers.ids[0], parent, name, name_len, inode->fid,
                             (uint8_t)IFTODT(inode->mode));
    if (rc == 0)
        rc = touch_directory(edit, parent);
    return rc;
}

static int make_directory(struct mux_tree_edit *edit, uint64_t parent, const char *name,
                          size_t name_len, uint64_t *ret_fid)
{
    struct store_inode inode = fresh_inode(edit, S_IFDIR | 0755, edit->now_ns);
    int rc = add_object(edit, parent, name, name_len, &inode, NULL);
    if (rc == 0 && edit->implied)
        rc = mux_fid_map_put(edit->implied, inode.fid, 1);
    if (rc == 0)
        *ret_fid = inode.fid;
    return rc;
}

// An import has this object in its layer already and was not led there by one below it.
bool mux_tree_edit_is_given(const struct mux_tree_edit *edit, uint64_t fid)
{
    struct store_inode inode;
    if (edit->kept && mux_fid_map_get(edit->kept, fid, NULL))
        return true;
    return edit->implied && !mux_fid_map_get(edit->implied, fid, NULL) &&
           store_inode_get(edit->txn, edit->layers.ids[0], fid, &inode) == 0;
}

static void set_given(struct mux_tree_edit *edit, uint64_t fid)
{
    if (!edit->implied || !mux_fid_map_get(edit->implied, fid, NULL))
        return;
    mux_fid_map_del(edit->implied, fid);
    edit->given[edit->n_given++] = fid;
}

void mux_tree_edit_undo(struct mux_tree_edit *edit)
{
    while (edit->n_given > 0) // in place of what was deleted: cannot fail
        mux_fid_map_put(edit->implied, edit->given[--edit->n_given], 1);
}

int mux_tree_edit_parent(struct mux_tree_edit *edit, const char *path, size_t len,
                         uint64_t *ret_parent, struct af_error *err)
{
    size_t end = mux_path_name_start(path, len);
    uint64_t dir = edit->root_fid;
    bool is_new = false; // below a directory just made there is nothing to find
    for (size_t i = 0; i < end;) {
        size_t n = 0;
        while (i + n < end && path[i + n] != '/')
            n++;
        struct store_entry entry;
        if (edit->ancestors && mux_fid_map_put(edit->ancestors, dir, 1) < 0)
            return mux_fail(err, -ENOMEM, "making the parent directories");
        int rc = is_new
                     ? -ENOENT
                     : mux_resolve_entry(edit->txn, edit->layers, dir, path + i, n, &entry, NULL);
        if (rc == 0 && entry.type != DT_DIR && !mux_tree_edit_is_given(edit, entry.fid))
            edit->clash_len = i + n;
        if (rc == 0 && entry.type != DT_DIR)
            return af_error_set(err, AF_INVALID_ARGUMENT,
                                "'%.*s' is %s, so nothing can be put below it; remove it first",
                                MUX_SHOW(path, i + n),
                                entry.type == DT_LNK ? "a symbolic link, which uploads never follow"
                                                     : "no directory");
        if (rc == 0) {
            dir = entry.fid;
        } else if (rc == -ENOENT) {
            rc = make_directory(edit, dir, path + i, n, &dir);
            is_new = true;
        }
        if (rc < 0)
            return mux_fail(err, rc, "making the parent directories");
        i += n + 1;
    }
    if (edit->ancestors && mux_fid_map_put(edit->ancestors, dir, 1) < 0)
        return mux_fail(err, -ENOMEM, "making the parent directories");
    *ret_parent = dir;
    return 0;
}

// Takes one name away from an object that another one replaces.
static int drop_name(struct mux_tree_edit *edit, const struct store_inode *old, size_t index,
                     const struct mux_link *link)
{
    if (old->nlink > 1) {
        struct mux_inode_copy copy;
        int rc = mux_inode_copy(old, &copy);
        if (rc == 0)
            rc = mux_links_lose(edit->txn, edit->layers, &copy.inode, link, copy.name);
        if (rc < 0)
            return rc;
        copy.inode.nlink--;
        copy.inode.ctime_ns = edit->now_ns;
        rc = put_record(edit, &copy.inode);
        if (rc == 0 && edit->implied)
            rc = mux_fid_map_put(edit->implied, copy.inode.fid, 1);
        return rc;
    }
    if (S_ISREG(old->mode)) {
        edit->bytes_delta -= (int64_t)old->size;
        edit->files_delta--;
    }
    return index == 0 ? store_inode_del(edit->txn, edit->layers.ids[0], old->fid) : 0;
}

static int put_new(struct mux_tree_edit *edit, uint64_t parent, const char *name, size_t name_len,
                   const struct mux_tree_object *object, uint64_t *ret_blob)
{
    struct store_inode inode = fresh_inode(edit, object->mode, object->mtime_ns);
    int rc = object->content ? mux_content_describe(edit->txn, object->content, &inode) : 0;
    if (rc == 0)
        rc = add_object(edit, parent, name, name_len, &inode, object->source);
    if (rc == 0 && object->content)
        rc = mux_content_register(edit->txn, object->content, &inode);
    if (rc < 0)
        return rc;
    if (S_ISREG(inode.mode)) {
        edit->bytes_delta += (int64_t)inode.size;
        edit->files_delta++;
    }
    *ret_blob = inode.blob;
    return 0;
}

// New content, mode and times for a file that keeps its fid, its names and its time of birth.
static int put_over(struct mux_tree_edit *edit, const struct store_inode *old,
                    const struct mux_tree_object *object, uint64_t *ret_blob)
{
    char name[AF_NAME_MAX];
    if (old->name_len > 0)
        memcpy(name, old->name, old->name_len);
    uint64_t old_size = old->size;
    struct store_inode inode = fresh_inode(edit, object->mode, object->mtime_ns);
    inode.fid = old->fid; // its extended attributes go with the content
    inode.nlink = old->nlink;
    inode.btime_ns = old->btime_ns;
    inode.parent = old->parent;
    inode.name = name;
    inode.name_len = old->name_len;
    int rc = object->content ? mux_content_describe(edit->txn, object->content, &inode) : 0;
    if (rc == 0)
        rc = put_record_from(edit, &inode, object->source);
    if (rc == 0 && object->content)
        rc = mux_content_register(edit->txn, object->content, &inode);
    if (rc < 0)
        return rc;
    set_given(edit, inode.fid);
    edit->bytes_delta += (int64_t)inode.size - (int64_t)old_size;
    *ret_blob = inode.blob;
    return 0;
}

// An explicit entry for a directory that is there: from the base, or implied by what it holds.
static int put_directory_over(struct mux_tree_edit *edit, const struct store_inode *old,
                              mode_t mode, int64_t mtime_ns)
{
    struct mux_inode_copy copy;
    int rc = mux_inode_copy(old, &copy);
    if (rc < 0)
        return rc;
    copy.inode.mode = mode;
    copy.inode.atime_ns = copy.inode.mtime_ns = mtime_ns;
    copy.inode.ctime_ns = edit->now_ns;
    rc = put_record(edit, &copy.inode);
    if (rc == 0)
        set_given(edit, copy.inode.fid);
    return rc;
}

static int given_twice(const char *path, size_t len, struct af_error *err)
{
    return af_error_set(err, AF_INVALID_ARGUMENT,
                        "the path '%.*s' is given twice; send every path once",
                        MUX_SHOW(path, len));
}

static int put_at_existing(struct mux_tree_edit *edit, uint64_t parent, const char *path,
                           size_t len, const struct store_inode *old, size_t index,
                           const struct mux_tree_object *object, uint64_t *ret_blob,
                           struct af_error *err)
{
    const char *name = path + mux_path_name_start(path, len);
    size_t name_len = (size_t)(path + len - name);
    int rc;
    if (mux_tree_edit_is_given(edit, old->fid))
        return given_twice(path, len, err);
    if (S_ISDIR(old->mode) != S_ISDIR(object->mode) &&
        !(edit->ancestors && mux_fid_map_get(edit->ancestors, old->fid, NULL)))
        edit->clash_len = len;
    if (S_ISDIR(old->mode) != S_ISDIR(object->mode))
        return af_error_set(
            err, AF_INVALID_ARGUMENT, "'%.*s' is %s; choose another name or remove it first",
            MUX_SHOW(path, len),
            S_ISDIR(old->mode) ? "a directory, not a file" : "there already and no directory");
    if (S_ISDIR(object->mode)) {
        rc = put_directory_over(edit, old, object->mode, object->mtime_ns);
    } else if (S_ISREG(old->mode) && S_ISREG(object->mode) && (!edit->implied || old->nlink == 1)) {
        rc = put_over(edit, old, object, ret_blob);
    } else {
        struct mux_link link = {.parent = parent, .name = name, .name_len = name_len};
        rc = drop_name(edit, old, index, &link);
        if (rc == 0)
            rc = put_new(edit, parent, name, name_len, object, ret_blob);
    }
    return rc < 0 ? mux_fail(err, rc, "storing the file") : 0;
}

int mux_tree_edit_put(struct mux_tree_edit *edit, uint64_t parent, const char *path, size_t len,
                      const struct mux_tree_object *object, uint64_t *ret_blob,
                      struct af_error *err)
{
    const char *name = path + mux_path_name_start(path, len);
    size_t name_len = (size_t)(path + len - name);
    uint64_t blob = 0;
    struct store_entry entry;
    int rc = mux_resolve_entry(edit->txn, edit->layers, parent, name, name_len, &entry, NULL);
    if (rc == -ENOENT) {
        rc = put_new(edit, parent, name, name_len, object, &blob);
        if (rc < 0)
            return mux_fail(err, rc, "storing the file");
    } else {
        struct store_inode old;
        size_t index = 0;
        if (rc == 0)
            rc = mux_resolve_inode(edit->txn, edit->layers, entry.fid, &old, &index);
        if (rc < 0)
            return mux_fail(err, rc == -ENOENT ? -EUCLEAN : rc, "resolving the path");
        rc = put_at_existing(edit, parent, path, len, &old, index, object, &blob, err);
        if (rc < 0)
            return rc;
    }
    *ret_blob = blob;
    return 0;
}

int mux_tree_edit_put_root(struct mux_tree_edit *edit, mode_t mode, int64_t mtime_ns,
                           struct af_error *err)
{
    struct store_inode root;
    if (mux_tree_edit_is_given(edit, edit->root_fid))
        return given_twice("", 0, err);
    int rc = mux_resolve_inode(edit->txn, edit->layers, edit->root_fid, &root, NULL);
    if (rc == 0)
        rc = put_directory_over(edit, &root, mode, mtime_ns);
    return rc < 0 ? mux_fail(err, rc, "storing the root directory") : 0;
}

// ---- second names, and names that go

// The file at `target`, copied. INVALID_ARGUMENT when it is none.
static int find_target(struct mux_tree_edit *edit, const char *target, size_t len,
                       struct mux_inode_copy *ret, struct af_error *err)
{
    struct store_inode inode;
    int rc = mux_resolve_path(edit->txn, edit->layers, edit->root_fid, target, len, &inode, NULL);
    if (rc == -ENOENT || rc == -ENOTDIR)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "a hard link leads to '%.*s', which is not there; send the file first",
                            MUX_SHOW(target, len));
    if (rc == 0 && S_ISDIR(inode.mode))
        return af_error_set(err, AF_INVALID_ARGUMENT, "a hard link leads to the directory '%.*s'",
                            MUX_SHOW(target, len));
    if (rc == 0 && inode.nlink >= AF_LINKS_MAX)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "'%.*s' has %d names already, the most a "
                            "file can have",
                            MUX_SHOW(target, len), AF_LINKS_MAX);
    if (rc == 0)
        rc = mux_inode_copy(&inode, ret);
    return rc < 0 ? mux_fail(err, rc, "resolving a hard link") : 0;
}

// What stands at the path of a new name makes room. 1: the name leads to the target already.
static int clear_for_link(struct mux_tree_edit *edit, uint64_t parent, const char *path, size_t len,
                          uint64_t target_fid, struct af_error *err)
{
    const char *name = path + mux_path_name_start(path, len);
    const struct mux_link link = {
        .parent = parent, .name = name, .name_len = (size_t)(path + len - name)};
    struct store_entry entry;
    struct store_inode old;
    size_t index;
    int rc = mux_resolve_entry(edit->txn, edit->layers, parent, name, link.name_len, &entry, NULL);
    if (rc == -ENOENT)
        return 0;
    if (rc == 0 && entry.fid == target_fid)
        return 1;
    if (rc == 0)
        rc = mux_resolve_inode(edit->txn, edit->layers, entry.fid, &old, &index);
    if (rc < 0)
        return mux_fail(err, rc == -ENOENT ? -EUCLEAN : rc, "resolving the path");
    if (mux_tree_edit_is_given(edit, old.fid))
        return given_twice(path, len, err);
    if (S_ISDIR(old.mode) && !(edit->ancestors && mux_fid_map_get(edit->ancestors, old.fid, NULL)))
        edit->clash_len = len;
    if (S_ISDIR(old.mode))
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "'%.*s' is a directory, not a file; choose another name or remove it "
                            "first",
                            MUX_SHOW(path, len));
    rc = drop_name(edit, &old, index, &link);
    return rc < 0 ? mux_fail(err, rc, "storing a hard link") : 0;
}

// Counts the name in the record; from one name to two, both are indexed.
static int add_name(struct mux_tree_edit *edit, struct store_inode *inode, uint64_t parent,
                    const char *name, size_t name_len)
{
    uint64_t layer = edit->layers.ids[0];
    bool was_given = mux_tree_edit_is_given(edit, inode->fid);
    int rc = 0;
    if (inode->nlink == 1)
        rc = store_link_put(edit->txn, layer, inode->fid, inode->parent, inode->name,
                            inode->name_len);
    if (rc == 0)
        rc = store_link_put(edit->txn, layer, inode->fid, parent, name, name_len);
    inode->nlink++;
    inode->ctime_ns = edit->now_ns;
    if (rc == 0)
        rc = put_record(edit, inode);
    if (rc == 0)
        rc = store_entry_put(edit->txn, layer, parent, name, name_len, inode->fid,
                             (uint8_t)IFTODT(inode->mode));
    if (rc == 0)
        rc = touch_directory(edit, parent);
    if (rc == 0 && edit->implied && !was_given)
        rc = mux_fid_map_put(edit->implied, inode->fid, 1);
    return rc;
}

int mux_tree_edit_link(struct mux_tree_edit *edit, uint64_t parent, const char *path, size_t len,
                       const char *target, size_t target_len, struct af_error *err)
{
    const char *name = path + mux_path_name_start(path, len);
    struct mux_inode_copy copy;
    if (find_target(edit, target, target_len, &copy, err) < 0)
        return -1;
    int rc = clear_for_link(edit, parent, path, len, copy.inode.fid, err);
    if (rc != 0)
        return rc < 0 ? -1 : 0;
    rc = add_name(edit, &copy.inode, parent, name, (size_t)(path + len - name));
    return rc < 0 ? mux_fail(err, rc, "storing a hard link") : 0;
}

int mux_tree_edit_drop(struct mux_tree_edit *edit, const char *path, size_t len)
{
    size_t start = mux_path_name_start(path, len);
    struct mux_link link = {.name = path + start, .name_len = len - start};
    struct store_entry entry;
    struct store_inode inode;
    size_t index;
    bool below;
    int rc = mux_resolve_path(edit->txn, edit->layers, edit->root_fid, path,
                              start > 0 ? start - 1 : 0, &inode, NULL);
    link.parent = inode.fid;
    if (rc == 0)
        rc = mux_resolve_entry(edit->txn, edit->layers, link.parent, link.name, link.name_len,
                               &entry, NULL);
    if (rc < 0)
        return rc == -ENOENT || rc == -ENOTDIR ? 0 : rc;
    rc = mux_resolve_inode(edit->txn, edit->layers, entry.fid, &inode, &index);
    if (rc == 0)
        rc = drop_name(edit, &inode, index, &link);
    if (rc == 0)
        rc = mux_resolve_in_lower(edit->txn, edit->layers, link.parent, link.name, link.name_len,
                                  &below);
    if (rc < 0)
        return rc == -ENOENT ? -EUCLEAN : rc;
    uint64_t layer = edit->layers.ids[0];
    rc = below ? store_entry_put_whiteout(edit->txn, layer, link.parent, link.name, link.name_len)
               : store_entry_del(edit->txn, layer, link.parent, link.name, link.name_len);
    return rc == 0 ? touch_directory(edit, link.parent) : rc;
}
