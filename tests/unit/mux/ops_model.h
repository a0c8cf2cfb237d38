// A file system in memory, simple enough to be right by reading: what a view is compared with.
//
// Operations answer as mux does by path: 0 or -errno with the same precedence. A name equal to
// `hidden` (may be NULL) is what the rules of the view under test hide everywhere.
#ifndef AF_TESTS_MUX_OPS_MODEL_H
#define AF_TESTS_MUX_OPS_MODEL_H

#include "tests/unit/mux/ops_fixture.h"

struct model_node {
    mode_t mode;
    unsigned char *data; // content or symlink target
    size_t size;
    unsigned refs; // one for its name, one for each handle
    bool linked;
    struct model_child {
        char name[8];
        struct model_node *node;
    } * children;
    size_t n_children;
};

struct model {
    struct model_node *root;
    const char *hidden;
    unsigned compared; // times
};

void model_init(struct model *model, const char *hidden);
void model_fini(struct model *model);
// Puts something without asking any rule: the base.
void model_add(struct model *model, const char *path, mode_t mode, const char *text);

int model_find(struct model *model, const char *path, struct model_node **ret);
int model_create(struct model *model, const char *path, mode_t mode, const char *target);
int model_remove(struct model *model, const char *path, bool dir);
int model_rename(struct model *model, const char *from, const char *to, unsigned flags);
void model_write(struct model_node *node, const void *data, size_t len, size_t offset);
void model_truncate(struct model_node *node, size_t size);
void model_ref(struct model_node *node);
void model_unref(struct model_node *node);

// Names, types, modes, sizes and contents of the whole tree are equal.
void assert_equals_model(struct view *view, struct model *model);
void assert_node_equals(struct view *view, uint64_t nodeid, const struct model_node *node,
                        const char *what);

#endif
