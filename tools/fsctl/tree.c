// agentfense-fsctl tree: a drawn tree for people, a stream of nodes for machines. See fsctl.h.
//
// Drawing a node needs to know whether its directory has more to come, so the nodes are gathered
// first, and sorted by components: a directory is followed by all that it holds.
#include "tools/fsctl/fsctl.h"

#include "tools/common/escape.h"
#include "tools/common/json.h"
#include "tools/common/memory.h"
#include "tools/common/words.h"
#include "mux/base/cleanup.h"
#include "mux/base/limits.h"

#include <errno.h>
#include <string.h>

struct node {
    char *path; // below the directory that was asked for
    size_t len;
    char *target; // escaped, or NULL
    Agentfense__V1__FileKind kind;
    Agentfense__V1__Level level;
    uint64_t size;
    uint32_t mode;
    bool traversable_only;
};

struct tree {
    struct fsctl *ctl;
    struct json json;
    bool has_begun; // the array: with its first entry, so that a failed call prints nothing
    ProtobufCBinaryData root;
    struct node *nodes;
    size_t n_nodes, max_nodes;
};

static void node_json(struct json *json, const Agentfense__V1__TreeNode *node)
{
    json_begin_object(json, NULL);
    json_bytes(json, "path", node->path.data, node->path.len);
    json_text(json, "kind", tool_kind_word(node->kind));
    json_text(json, "level", tool_level_word(node->level));
    json_bool(json, "traversable_only", node->traversable_only);
    json_uint(json, "size", node->size);
    json_uint(json, "mode", node->mode);
    if (node->kind == AGENTFENSE__V1__FILE_KIND__FILE_KIND_SYMLINK)
        json_bytes(json, "symlink_target", node->symlink_target.data, node->symlink_target.len);
    json_end(json);
}

static void begin_json(struct tree *tree)
{
    if (!tree->has_begun)
        json_begin_array(&tree->json, NULL);
    tree->has_begun = true;
}

static int add_node(void *arg, const ProtobufCMessage *message, struct af_error *err)
{
    struct tree *tree = arg;
    const Agentfense__V1__TreeNode *from = (const void *)message;
    (void)err;
    if (tree->ctl->json) {
        begin_json(tree);
        node_json(&tree->json, from);
        return 0;
    }
    size_t skip = tree->root.len;
    if (from->path.len < skip || (skip > 0 && memcmp(from->path.data, tree->root.data, skip) != 0))
        skip = 0;
    if (skip < from->path.len && skip > 0)
        skip++; // the slash
    if (from->path.len == skip)
        return 0; // the directory itself
    tree->nodes = tool_grow(tree->nodes, tree->n_nodes, &tree->max_nodes, sizeof *tree->nodes);
    struct node *node = &tree->nodes[tree->n_nodes++];
    *node = (struct node){
        .path = tool_copy(from->path.data + skip, from->path.len - skip),
        .len = from->path.len - skip,
        .target = from->symlink_target.len > 0
                      ? tool_escaped(from->symlink_target.data, from->symlink_target.len)
                      : NULL,
        .kind = from->kind,
        .level = from->level,
        .size = from->size,
        .mode = from->mode,
        .traversable_only = from->traversable_only,
    };
    return 0;
}

// By components: '/' sorts before every other byte.
static int compare_nodes(const void *a, const void *b)
{
    const struct node *left = a, *right = b;
    size_t len = left->len < right->len ? left->len : right->len;
    for (size_t i = 0; i < len; i++) {
        unsigned char x = (unsigned char)left->path[i], y = (unsigned char)right->path[i];
        if (x != y)
            return x == '/' ? -1 : y == '/' ? 1 : (int)x - (int)y;
    }
    return left->len < right->len ? -1 : left->len > right->len;
}

// Bytes of the path up to and including the last slash; the parent's length plus one.
static size_t parent_len(const struct node *node)
{
    const char *slash = memrchr(node->path, '/', node->len);
    return slash ? (size_t)(slash - node->path) + 1 : 0;
}

static size_t depth_of(const struct node *node)
{
    size_t depth = 0;
    for (size_t i = 0; i < node->len; i++)
        depth += node->path[i] == '/';
    return depth;
}

static void draw_node(struct tree *tree, const struct node *node, const bool *more, size_t depth)
{
    static const char *const utf8[] = {"│   ", "    ", "├── ", "└── "};
    static const char *const ascii[] = {"|   ", "    ", "|-- ", "`-- "};
    struct fsctl *ctl = tree->ctl;
    const char *const *strokes = ctl->utf8 ? utf8 : ascii;
    char mode[TOOL_MODE_MAX], size[TOOL_SIZE_MAX] = "-";
    bool is_directory = node->kind == AGENTFENSE__V1__FILE_KIND__FILE_KIND_DIRECTORY;
    tool_mode_text(node->kind, node->mode, mode);
    if (!is_directory)
        tool_size_text(node->size, size);
    fprintf(ctl->out, "%s%-5s%s  %s  %6s  ", fsctl_level_colour(ctl, node->level),
            tool_level_word(node->level), fsctl_plain(ctl), mode, size);
    for (size_t i = 0; i < depth; i++)
        fputs(strokes[more[i] ? 0 : 1], ctl->out);
    fputs(strokes[more[depth] ? 2 : 3], ctl->out);
    size_t skip = parent_len(node);
    tool_print_escaped(ctl->out, node->path + skip, node->len - skip);
    fputs(is_directory ? "/" : "", ctl->out);
    if (node->target)
        fprintf(ctl->out, " -> %s", node->target);
    fputs(node->traversable_only ? "  (traversable only)\n" : "\n", ctl->out);
}

static void draw(struct tree *tree)
{
    // Backwards: a node has a sibling below it when one of its directory came before in this
    // order. The answers are kept per node, then the tree is drawn forwards.
    size_t max_depth = 1;
    for (size_t i = 0; i < tree->n_nodes; i++) {
        size_t depth = depth_of(&tree->nodes[i]) + 1;
        max_depth = depth > max_depth ? depth : max_depth;
    }
    bool *seen = tool_alloc((max_depth + 1) * sizeof *seen);
    bool *has_more = tool_alloc(tree->n_nodes * sizeof *has_more);
    for (size_t i = tree->n_nodes; i-- > 0;) {
        size_t depth = depth_of(&tree->nodes[i]);
        has_more[i] = seen[depth];
        seen[depth] = true;
        memset(seen + depth + 1, 0, (max_depth - depth) * sizeof *seen);
    }
    for (size_t i = 0; i < tree->n_nodes; i++) {
        size_t depth = depth_of(&tree->nodes[i]);
        seen[depth] = has_more[i];
        draw_node(tree, &tree->nodes[i], seen, depth);
    }
    free(seen);
    free(has_more);
}

static void print_text(struct tree *tree)
{
    FILE *out = tree->ctl->out;
    fprintf(out, "%sLEVEL  MODE          SIZE  ", fsctl_bold(tree->ctl));
    fputc('/', out);
    tool_print_escaped(out, tree->root.data, tree->root.len);
    fprintf(out, "%s\n", fsctl_plain(tree->ctl));
    if (tree->n_nodes > 0)
        qsort(tree->nodes, tree->n_nodes, sizeof *tree->nodes, compare_nodes);
    draw(tree);
    fprintf(out, "%zu %s\n", tree->n_nodes, tree->n_nodes == 1 ? "entry" : "entries");
}

int fsctl_tree(struct fsctl *ctl, struct af_error *err)
{
    struct tree tree = {.ctl = ctl};
    struct af_id id;
    char path[AF_PATH_MAX + 1];
    Agentfense__V1__TreeRequest request = AGENTFENSE__V1__TREE_REQUEST__INIT;
    if (fsctl_path(ctl->argc > 1 ? ctl->argv[1] : "", path, &request.path, err) < 0 ||
        rpc_find_view(ctl->client, ctl->argv[0], &id, err) < 0)
        return -1;
    request.sandbox_id = af_client_text(id.text);
    request.depth = ctl->depth;
    request.all = ctl->all;
    tree.root = request.path;
    json_init(&tree.json, ctl->out);
    int rc = rpc_stream(ctl->client, "/agentfense.v1.InspectService/Tree", &request.base,
                        &agentfense__v1__tree_node__descriptor, add_node, &tree, err);
    if (rc == 0 && ctl->json) {
        begin_json(&tree);
        json_end(&tree.json);
        json_finish(&tree.json);
    } else if (rc == 0) {
        print_text(&tree);
    }
    for (size_t i = 0; i < tree.n_nodes; i++) {
        free(tree.nodes[i].path);
        free(tree.nodes[i].target);
    }
    free(tree.nodes);
    return rc;
}
