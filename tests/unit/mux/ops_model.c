// The model file system. Read next: ops_model.h, test_ops_random.c.
#include "tests/unit/mux/ops_model.h"

#include <errno.h>
#include <linux/fs.h>
#include <string.h>

static struct model_node *node_new(mode_t mode, const char *text)
{
    struct model_node *node = calloc(1, sizeof *node);
    node->mode = mode;
    node->refs = 1;
    node->linked = true;
    if (text)
        model_write(node, text, strlen(text), 0);
    return node;
}

void model_ref(struct model_node *node)
{
    node->refs++;
}

void model_unref(struct model_node *node)
{
    if (--node->refs > 0)
        return;
    for (size_t i = 0; i < node->n_children; i++)
        model_unref(node->children[i].node);
    free(node->children);
    free(node->data);
    free(node);
}

void model_init(struct model *model, const char *hidden)
{
    *model = (struct model){.root = node_new(S_IFDIR | 0755, NULL), .hidden = hidden};
}

void model_fini(struct model *model)
{
    model_unref(model->root);
}

static struct model_child *child_of(struct model_node *dir, const char *name)
{
    for (size_t i = 0; i < dir->n_children; i++)
        if (strcmp(dir->children[i].name, name) == 0)
            return &dir->children[i];
    return NULL;
}

static void link_child(struct model_node *dir, const char *name, struct model_node *node)
{
    dir->children = realloc(dir->children, (dir->n_children + 1) * sizeof *dir->children);
    struct model_child *child = &dir->children[dir->n_children++];
    snprintf(child->name, sizeof child->name, "%s", name);
    child->node = node;
}

// Takes the name away; the reference is the caller's.
static struct model_node *unlink_child(struct model_node *dir, struct model_child *child)
{
    struct model_node *node = child->node;
    *child = dir->children[--dir->n_children];
    return node;
}

static bool is_hidden(const struct model *model, const char *name)
{
    return model->hidden && strcmp(model->hidden, name) == 0;
}

static bool holds_hidden(const struct model *model, const struct model_node *node)
{
    for (size_t i = 0; i < node->n_children; i++)
        if (is_hidden(model, node->children[i].name) || holds_hidden(model, node->children[i].node))
            return true;
    return false;
}

int model_find(struct model *model, const char *path, struct model_node **ret)
{
    struct model_node *at = model->root;
    while (*path) {
        char name[8] = "";
        size_t len = strcspn(path, "/");
        memcpy(name, path, len);
        path += len + (path[len] == '/');
        if (!S_ISDIR(at->mode))
            return -ENOTDIR;
        struct model_child *child = is_hidden(model, name) ? NULL : child_of(at, name);
        if (!child)
            return -ENOENT;
        at = child->node;
    }
    *ret = at;
    return 0;
}

static int find_parent(struct model *model, const char *path, struct model_node **ret_dir,
                       const char **ret_name)
{
    const char *slash = strrchr(path, '/');
    char up[128] = "";
    if (slash)
        memcpy(up, path, (size_t)(slash - path));
    *ret_name = slash ? slash + 1 : path;
    return model_find(model, up, ret_dir);
}

static int check_dir(const struct model_node *dir)
{
    return S_ISDIR(dir->mode) ? 0 : -ENOTDIR;
}

void model_add(struct model *model, const char *path, mode_t mode, const char *text)
{
    const char *hidden = model->hidden, *name;
    struct model_node *dir;
    model->hidden = NULL;
    assert_int_equal(find_parent(model, path, &dir, &name), 0);
    link_child(dir, name, node_new(mode, text));
    model->hidden = hidden;
}

int model_create(struct model *model, const char *path, mode_t mode, const char *target)
{
    struct model_node *dir;
    const char *name;
    int rc = find_parent(model, path, &dir, &name);
    if (rc == 0)
        rc = check_dir(dir);
    if (rc < 0)
        return rc;
    if (is_hidden(model, name))
        return -EACCES;
    if (child_of(dir, name))
        return -EEXIST;
    link_child(dir, name, node_new(mode, target));
    return 0;
}

static void drop(struct model_node *node)
{
    node->linked = false;
    model_unref(node);
}

int model_remove(struct model *model, const char *path, bool want_dir)
{
    struct model_node *dir;
    const char *name;
    int rc = find_parent(model, path, &dir, &name);
    if (rc == 0)
        rc = check_dir(dir);
    if (rc < 0)
        return rc;
    struct model_child *child = is_hidden(model, name) ? NULL : child_of(dir, name);
    if (!child)
        return -ENOENT;
    if (want_dir && !S_ISDIR(child->node->mode))
        return -ENOTDIR;
    if (!want_dir && S_ISDIR(child->node->mode))
        return -EISDIR;
    if (child->node->n_children > 0)
        return -ENOTEMPTY;
    drop(unlink_child(dir, child));
    return 0;
}

static bool contains(const struct model_node *tree, const struct model_node *node)
{
    if (tree == node)
        return true;
    for (size_t i = 0; i < tree->n_children; i++)
        if (contains(tree->children[i].node, node))
            return true;
    return false;
}

static int check_rename(struct model *model, struct model_node *from_dir, struct model_child *from,
                        struct model_node *to_dir, const char *to_name, struct model_child *to,
                        unsigned flags)
{
    bool exchange = flags & RENAME_EXCHANGE;
    if (exchange && !to)
        return -ENOENT;
    if (is_hidden(model, to_name))
        return -EACCES;
    if (from_dir != to_dir && S_ISDIR(from->node->mode) && contains(from->node, to_dir))
        return -EINVAL;
    if (exchange && from_dir != to_dir && contains(to->node, from_dir))
        return -EINVAL;
    if (to && !exchange) {
        if (flags & RENAME_NOREPLACE)
            return -EEXIST;
        if (S_ISDIR(from->node->mode) != S_ISDIR(to->node->mode))
            return S_ISDIR(to->node->mode) ? -EISDIR : -ENOTDIR;
        if (to->node->n_children > 0)
            return -ENOTEMPTY;
    }
    if (from == to)
        return 0;
    if (holds_hidden(model, from->node) || (exchange && holds_hidden(model, to->node)))
        return -EACCES;
    return 0;
}

int model_rename(struct model *model, const char *from_path, const char *to_path, unsigned flags)
{
    struct model_node *from_dir, *to_dir;
    const char *from_name, *to_name;
    int rc = find_parent(model, from_path, &from_dir, &from_name);
    if (rc == 0)
        rc = find_parent(model, to_path, &to_dir, &to_name);
    if (rc == 0)
        rc = check_dir(from_dir);
    if (rc == 0)
        rc = check_dir(to_dir);
    if (rc < 0)
        return rc;
    struct model_child *from = is_hidden(model, from_name) ? NULL : child_of(from_dir, from_name);
    struct model_child *to = child_of(to_dir, to_name);
    if (!from)
        return -ENOENT;
    if ((flags & RENAME_EXCHANGE) && is_hidden(model, to_name))
        return -ENOENT;
    rc = check_rename(model, from_dir, from, to_dir, to_name, to, flags);
    if (rc < 0 || from == to)
        return rc;
    if (flags & RENAME_EXCHANGE) {
        struct model_node *node = from->node;
        from->node = to->node;
        to->node = node;
        return 0;
    }
    if (to)
        drop(unlink_child(to_dir, to));
    from = child_of(from_dir, from_name);
    struct model_node *node = unlink_child(from_dir, from);
    link_child(to_dir, to_name, node);
    return 0;
}

void model_write(struct model_node *node, const void *data, size_t len, size_t offset)
{
    if (offset + len > node->size)
        model_truncate(node, offset + len);
    if (len > 0)
        memcpy(node->data + offset, data, len);
}

void model_truncate(struct model_node *node, size_t size)
{
    node->data = realloc(node->data, size ? size : 1);
    if (size > node->size)
        memset(node->data + node->size, 0, size - node->size);
    node->size = size;
}

void assert_node_equals(struct view *view, uint64_t nodeid, const struct model_node *node,
                        const char *what)
{
    struct stat st;
    int64_t ttl;
    struct mux *mux = view->fixture->mux;
    assert_int_equal(mux_getattr(mux, &view->ctx, nodeid, &st, &ttl), 0);
    if (st.st_mode != node->mode)
        fail_msg("%s: mode %o, should be %o", what, st.st_mode, node->mode);
    assert_int_equal(st.st_nlink, node->linked);
    if (S_ISDIR(node->mode))
        return;
    if ((size_t)st.st_size != node->size)
        fail_msg("%s: %zu bytes, should be %zu", what, (size_t)st.st_size, node->size);
    unsigned char *buf = calloc(1, node->size + AF_SYMLINK_MAX + 1);
    if (S_ISLNK(node->mode))
        assert_int_equal(mux_readlink(mux, &view->ctx, nodeid, (char *)buf), 0);
    else if (S_ISREG(node->mode))
        assert_int_equal(ops_read_node(view, nodeid, buf, node->size + 1, 0), node->size);
    for (size_t i = 0; i < node->size; i++)
        if (buf[i] != node->data[i])
            fail_msg("%s: byte %zu of %zu is %02x, should be %02x", what, i, node->size, buf[i],
                     node->data[i]);
    free(buf);
}

static int compare_children(const void *a, const void *b)
{
    return strcmp(((const struct model_child *)a)->name, ((const struct model_child *)b)->name);
}

static void compare(struct view *view, struct model *model, struct model_node *dir,
                    const char *path, size_t batch)
{
    char *expected = NULL, *found = ops_list(view, path, batch);
    size_t len;
    FILE *out = open_memstream(&expected, &len);
    if (dir->n_children > 0)
        qsort(dir->children, dir->n_children, sizeof *dir->children, compare_children);
    for (size_t i = 0, shown = 0; i < dir->n_children; i++)
        if (!is_hidden(model, dir->children[i].name))
            fprintf(out, "%s%s", shown++ ? " " : "", dir->children[i].name);
    fclose(out);
    if (strcmp(expected, found) != 0)
        fail_msg("'%s' lists '%s', should list '%s'", path, found, expected);
    free(expected);
    free(found);
    for (size_t i = 0; i < dir->n_children; i++) {
        struct model_child *child = &dir->children[i];
        char sub[256];
        if (is_hidden(model, child->name))
            continue;
        snprintf(sub, sizeof sub, "%s%s%s", path, *path ? "/" : "", child->name);
        assert_node_equals(view, ops_nodeid(view, sub), child->node, sub);
        if (S_ISDIR(child->node->mode))
            compare(view, model, child->node, sub, batch);
    }
}

void assert_equals_model(struct view *view, struct model *model)
{
    // Most go on with the caches as they are: the next operations find them warm.
    bool empties_caches = model->compared++ % 8 == 7;
    compare(view, model, model->root, "", empties_caches ? 8 : 6);
}
