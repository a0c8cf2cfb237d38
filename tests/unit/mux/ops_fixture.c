// File operations by path on an attached view. Read next: ops_fixture.h.
#include "tests/unit/mux/ops_fixture.h"

#include "mux/listings.h"
#include "mux/mux_priv.h"
#include "mux/node.h"
#include "mux/nodeid.h"
#include "mux/rules.h"

#include <errno.h>
#include <string.h>

#define UID_BASE 700000

void ops_reopen_sized(struct fixture *fixture, size_t nodes_max)
{
    struct af_error err;
    struct mux_options options = {
        .state_dir = fixture->dir,
        .uid_base = UID_BASE,
        .uid_count = 1000,
        .reserved_uid = UID_BASE - 1,
    };
    if (fixture->mux)
        fixture_close(fixture);
    if (mux_open_sized(&options, nodes_max, &fixture->mux, &err) < 0)
        fail_msg("mux_open: %s", err.text);
}

struct af_id ops_codebase(struct fixture *fixture, const struct base_file *files)
{
    struct af_id id = new_codebase(fixture);
    struct mux_import *import;
    struct mux_import_totals totals;
    struct af_error err;
    if (mux_import_begin(fixture->mux, id.text, &import, &err) < 0)
        fail_msg("%s", err.text);
    for (; files && files->path; files++) {
        mode_t mode = files->mode ? files->mode : S_IFREG | 0644;
        const char *target = S_ISLNK(mode) ? files->text : NULL;
        int rc = mux_import_entry(import, files->path, strlen(files->path), mode, 1000000000LL,
                                  target, target ? strlen(target) : 0, &err);
        if (rc == 0 && S_ISREG(mode) && files->text)
            rc = mux_import_data(import, files->text, strlen(files->text), &err);
        if (rc < 0)
            fail_msg("%s", err.text);
    }
    if (mux_import_commit(import, &totals, &err) < 0)
        fail_msg("%s", err.text);
    return id;
}

unsigned char ops_byte(unsigned seed, size_t offset)
{
    return (unsigned char)(seed + offset * 7 + offset / 251);
}

void ops_upload_big(struct fixture *fixture, struct af_id codebase, const char *path, size_t size,
                    unsigned seed)
{
    unsigned char *bytes = malloc(size);
    for (size_t i = 0; i < size; i++)
        bytes[i] = ops_byte(seed, i);
    upload_bytes(fixture, codebase, path, strlen(path), bytes, size);
    free(bytes);
}

// One word "PATTERN=level[@priority]".
static struct store_rule parse_rule(char *word)
{
    char *level = strrchr(word, '='), *priority = strrchr(word, '@');
    if (!level)
        fail_msg("no level in %s", word);
    *level++ = '\0';
    if (priority)
        *priority++ = '\0';
    struct store_rule rule = {.pattern = word, .pattern_len = (uint16_t)strlen(word), .type = 1};
    rule.priority = priority ? atoi(priority) : 0;
    for (int l = RULES_NONE; l <= RULES_WRITE; l++)
        if (strcmp(rules_level_name(l), level) == 0)
            rule.level = (uint8_t)l;
    assert_int_not_equal(rule.level, 0);
    return rule;
}

struct view ops_view_quota(struct fixture *fixture, struct af_id codebase, const char *rules,
                           uint64_t bytes, uint64_t inodes)
{
    struct view view = {.fixture = fixture, .codebase = codebase};
    struct store_rule list[16];
    struct mux_sandbox_spec spec = {
        .codebase_id = view.codebase.text,
        .rules = list,
        .quota_bytes = bytes,
        .quota_inodes = inodes,
    };
    struct af_error err;
    char *words = strdup(rules);
    for (char *word = strtok(words, " "); word; word = strtok(NULL, " "))
        list[spec.n_rules++] = parse_rule(word);
    if (mux_sandbox_create(fixture->mux, &spec, &view.sandbox, &err) < 0)
        fail_msg("%s", err.text);
    free(words);
    ops_attach(&view);
    return view;
}

struct view ops_view(struct fixture *fixture, struct af_id codebase, const char *rules)
{
    return ops_view_quota(fixture, codebase, rules, 0, 0);
}

void ops_attach(struct view *view)
{
    struct af_error err;
    struct mux_entry entry;
    if (mux_view_attach(view->fixture->mux, view->sandbox.text, &view->at, &err) < 0)
        fail_msg("%s", err.text);
    view->ctx = (struct mux_ctx){.uid = view->at.uid, .gid = view->at.gid};
    struct mux_ctx root = {0};
    int rc = mux_lookup(view->fixture->mux, &root, MUX_NODEID_TOP, view->sandbox.text, &entry);
    assert_int_equal(rc, 0);
    view->root = entry.nodeid;
}

void ops_detach(struct view *view)
{
    mux_view_detach(view->fixture->mux, view->sandbox.text);
}

// Splits off the last component: the parent's nodeid and the name.
static int parent_of(struct view *view, const char *path, uint64_t *ret_parent,
                     const char **ret_name)
{
    const char *slash = strrchr(path, '/');
    struct mux_entry entry = {.nodeid = view->root};
    if (slash) {
        char *up = strndup(path, (size_t)(slash - path));
        int rc = ops_lookup(view, up, &entry);
        free(up);
        if (rc < 0)
            return rc;
    }
    *ret_parent = entry.nodeid;
    *ret_name = slash ? slash + 1 : path;
    return 0;
}

int ops_lookup(struct view *view, const char *path, struct mux_entry *ret)
{
    struct mux *mux = view->fixture->mux;
    struct mux_entry entry = {.nodeid = view->root};
    if (!*path) {
        int rc = mux_getattr(mux, &view->ctx, view->root, &entry.st, &entry.attr_ttl_ns);
        *ret = entry;
        return rc;
    }
    while (*path) {
        size_t len = strcspn(path, "/");
        char *name = strndup(path, len);
        int rc = mux_lookup(mux, &view->ctx, entry.nodeid, name, &entry);
        free(name);
        if (rc < 0)
            return rc;
        if (entry.nodeid == 0)
            return -ENOENT;
        path += len + (path[len] == '/');
    }
    *ret = entry;
    return 0;
}

uint64_t ops_nodeid(struct view *view, const char *path)
{
    struct mux_entry entry;
    int rc = ops_lookup(view, path, &entry);
    if (rc < 0)
        fail_msg("%s: %s", path, strerror(-rc));
    return entry.nodeid;
}

struct stat ops_stat(struct view *view, const char *path)
{
    struct stat st;
    int64_t ttl;
    uint64_t nodeid = ops_nodeid(view, path);
    assert_int_equal(mux_getattr(view->fixture->mux, &view->ctx, nodeid, &st, &ttl), 0);
    return st;
}

bool ops_exists(struct view *view, const char *path)
{
    struct mux_entry entry;
    int rc = ops_lookup(view, path, &entry);
    assert_true(rc == 0 || rc == -ENOENT || rc == -ENOTDIR);
    return rc == 0;
}

#define WITH_PARENT(view, path)                                                                    \
    uint64_t parent;                                                                               \
    const char *name;                                                                              \
    int rc = parent_of(view, path, &parent, &name);                                                \
    if (rc < 0)                                                                                    \
        return rc;                                                                                 \
    struct mux *mux = (view)->fixture->mux;

int ops_create(struct view *view, const char *path, mode_t mode)
{
    struct mux_entry entry;
    WITH_PARENT(view, path)
    return mux_create(mux, &view->ctx, parent, name, mode, &entry);
}

int ops_mkdir(struct view *view, const char *path, mode_t mode)
{
    struct mux_entry entry;
    WITH_PARENT(view, path)
    return mux_mkdir(mux, &view->ctx, parent, name, mode, &entry);
}

int ops_symlink(struct view *view, const char *target, const char *path)
{
    struct mux_entry entry;
    WITH_PARENT(view, path)
    return mux_symlink(mux, &view->ctx, parent, name, target, &entry);
}

int ops_mkfifo(struct view *view, const char *path, mode_t mode)
{
    struct mux_entry entry;
    WITH_PARENT(view, path)
    return mux_mknod(mux, &view->ctx, parent, name, S_IFIFO | mode, &entry);
}

int ops_unlink(struct view *view, const char *path)
{
    WITH_PARENT(view, path)
    return mux_unlink(mux, &view->ctx, parent, name);
}

int ops_rmdir(struct view *view, const char *path)
{
    WITH_PARENT(view, path)
    return mux_rmdir(mux, &view->ctx, parent, name);
}

// Calls again as a thread that may block when the operation would take long.
#define OR_SLOW(view, call)                                                                        \
    ({                                                                                             \
        struct mux_ctx ctx = (view)->ctx;                                                          \
        int rc_ = call;                                                                            \
        if (rc_ == MUX_SLOW) {                                                                     \
            (view)->slow++;                                                                        \
            ctx.may_block = true;                                                                  \
            rc_ = call;                                                                            \
        }                                                                                          \
        rc_;                                                                                       \
    })

int ops_link(struct view *view, const char *from, const char *to)
{
    struct mux_entry entry, ret;
    WITH_PARENT(view, to)
    rc = ops_lookup(view, from, &entry);
    if (rc < 0)
        return rc;
    uint64_t nodeid = entry.nodeid;
    rc = OR_SLOW(view, mux_link(mux, &ctx, nodeid, parent, name, &ret));
    if (rc == 0)
        assert_int_equal(ret.nodeid, nodeid);
    return rc;
}

int ops_rename(struct view *view, const char *from, const char *to, unsigned flags)
{
    uint64_t to_parent;
    const char *to_name;
    WITH_PARENT(view, from)
    rc = parent_of(view, to, &to_parent, &to_name);
    if (rc < 0)
        return rc;
    return OR_SLOW(view, mux_rename(mux, &ctx, parent, name, to_parent, to_name, flags));
}

int ops_write_node(struct view *view, uint64_t nodeid, const void *data, size_t len, off_t offset)
{
    return OR_SLOW(view, mux_write(view->fixture->mux, &ctx, nodeid, data, len, offset));
}

int ops_write(struct view *view, const char *path, const void *data, size_t len, off_t offset)
{
    struct mux_entry entry;
    int rc = ops_lookup(view, path, &entry);
    return rc < 0 ? rc : ops_write_node(view, entry.nodeid, data, len, offset);
}

int ops_setattr(struct view *view, uint64_t nodeid, unsigned set, const struct stat *attr,
                struct stat *ret)
{
    int64_t ttl;
    struct stat st;
    int rc = OR_SLOW(view, mux_setattr(view->fixture->mux, &ctx, nodeid, attr, set, &st, &ttl));
    if (rc == 0 && ret)
        *ret = st;
    return rc;
}

int ops_truncate(struct view *view, const char *path, off_t size)
{
    struct mux_entry entry;
    struct stat attr = {.st_size = size};
    int rc = ops_lookup(view, path, &entry);
    return rc < 0 ? rc : ops_setattr(view, entry.nodeid, MUX_SET_SIZE, &attr, NULL);
}

int ops_chmod(struct view *view, const char *path, mode_t mode)
{
    struct mux_entry entry;
    struct stat attr = {.st_mode = mode};
    int rc = ops_lookup(view, path, &entry);
    return rc < 0 ? rc : ops_setattr(view, entry.nodeid, MUX_SET_MODE, &attr, NULL);
}

void ops_put(struct view *view, const char *path, const char *text)
{
    int rc = ops_create(view, path, 0644);
    if (rc == -EEXIST)
        rc = ops_truncate(view, path, 0);
    if (rc == 0 && *text)
        rc = ops_write(view, path, text, strlen(text), 0);
    if (rc < 0)
        fail_msg("%s: %s", path, strerror(-rc));
}

ssize_t ops_read_node(struct view *view, uint64_t nodeid, void *buf, size_t size, off_t offset)
{
    struct mux *mux = view->fixture->mux;
    struct mux_read read;
    int rc = mux_read(mux, &view->ctx, nodeid, size, offset, &read);
    if (rc < 0)
        return rc;
    assert_true(read.size <= size);
    if (read.data) {
        memcpy(buf, read.data, read.size);
    } else if (read.size > 0) {
        memset(buf, 0, read.size);
        ssize_t got = pread(read.fd, buf, read.size, read.offset);
        assert_true(got >= 0);
        memset((char *)buf + got, 0, read.size - (size_t)got);
    }
    size_t got = read.size;
    mux_read_done(mux, &read);
    return (ssize_t)got;
}

ssize_t ops_read(struct view *view, const char *path, void *buf, size_t size, off_t offset)
{
    struct mux_entry entry;
    int rc = ops_lookup(view, path, &entry);
    return rc < 0 ? rc : ops_read_node(view, entry.nodeid, buf, size, offset);
}

void assert_text(struct view *view, const char *path, const char *text)
{
    size_t len = strlen(text);
    char *buf = calloc(1, len + 2);
    ssize_t got = ops_read(view, path, buf, len + 1, 0);
    if (got < 0)
        fail_msg("%s: %s", path, strerror((int)-got));
    assert_string_equal(buf, text);
    assert_int_equal(got, len);
    free(buf);
}

struct batch {
    char **names;
    struct mux_entry *entries;
    size_t count, room;
    uint64_t cookie;
};

static bool add_name(void *arg, const char *name, size_t len, uint64_t cookie,
                     const struct mux_entry *entry)
{
    struct batch *batch = arg;
    if (batch->room == 0)
        return false;
    assert_true(cookie > batch->cookie);
    batch->room--;
    batch->cookie = cookie;
    assert_int_not_equal(entry->st.st_mode & S_IFMT, 0);
    if (strncmp(name, "..", len) == 0 && len <= 2)
        return true;
    assert_int_not_equal(entry->st.st_ino, 0);
    batch->names = realloc(batch->names, (batch->count + 1) * sizeof *batch->names);
    batch->entries = realloc(batch->entries, (batch->count + 1) * sizeof *batch->entries);
    batch->names[batch->count] = calloc(1, len + 1);
    memcpy(batch->names[batch->count], name, len);
    batch->entries[batch->count++] = *entry;
    return true;
}

static void assert_looked_up(struct view *view, uint64_t dir, const struct batch *batch)
{
    for (size_t i = 0; i < batch->count; i++) {
        struct mux_entry found, *entry = &batch->entries[i];
        int rc = mux_lookup(view->fixture->mux, &view->ctx, dir, batch->names[i], &found);
        assert_int_equal(rc, 0);
        if (memcmp(&found.st, &entry->st, sizeof found.st) != 0 || found.nodeid != entry->nodeid ||
            found.generation != entry->generation || found.attr_ttl_ns != entry->attr_ttl_ns)
            fail_msg("%s is listed as nodeid %llx mode %o size %lld, looked up as %llx, %o, %lld",
                     batch->names[i], (unsigned long long)entry->nodeid, entry->st.st_mode,
                     (long long)entry->st.st_size, (unsigned long long)found.nodeid,
                     found.st.st_mode, (long long)found.st.st_size);
    }
}

// What a listing says of a name is also what the store says to a lookup that finds nothing kept or
// cached.
static void assert_looked_up_cold(struct view *view, uint64_t dir, const struct batch *batch)
{
    struct mux *mux = view->fixture->mux;
    struct mux_listings *kept = mux->listings;
    assert_int_equal(mux_listings_new(0, &mux->listings), 0);
    mux_node_cache_clear(mux->nodes, 0);
    assert_looked_up(view, dir, batch);
    mux_listings_free(mux->listings);
    mux->listings = kept;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

char *ops_list(struct view *view, const char *path, size_t batch_size)
{
    struct batch batch = {0};
    uint64_t nodeid = ops_nodeid(view, path);
    do {
        batch.room = batch_size;
        int rc = OR_SLOW(view, mux_readdir(view->fixture->mux, &ctx, nodeid, batch.cookie,
                                           batch_size % 2 == 0, add_name, &batch));
        assert_int_equal(rc, 0);
    } while (batch.room < batch_size);
    if (batch_size % 2 == 0)
        assert_looked_up(view, nodeid, &batch);
    if (batch_size % 4 == 0)
        assert_looked_up_cold(view, nodeid, &batch);
    if (batch.count > 0)
        qsort(batch.names, batch.count, sizeof *batch.names, compare_names);
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    for (size_t i = 0; i < batch.count; i++) {
        fprintf(out, "%s%s", i ? " " : "", batch.names[i]);
        free(batch.names[i]);
    }
    fclose(out);
    free(batch.names);
    free(batch.entries);
    return text;
}

void assert_names(struct view *view, const char *path, const char *names)
{
    for (size_t batch = 1; batch <= 64; batch *= 4) {
        char *found = ops_list(view, path, batch + (batch > 1 && batch < 64));
        assert_string_equal(found, names);
        free(found);
    }
}

struct recount {
    uint64_t bytes, inodes;
};

static int recount_one(void *arg, const struct store_inode *inode)
{
    struct recount *recount = arg;
    recount->inodes++;
    recount->bytes += store_inode_charge(inode);
    return 0;
}

static int delta_of(void *arg, const struct store_sandbox *sandbox)
{
    *(uint64_t *)arg = sandbox->delta;
    return 0;
}

void assert_accounting(struct view *view)
{
    struct recount recount = {0};
    struct store_layer layer;
    struct store_txn *txn;
    struct af_error err;
    uint64_t delta = 0;
    struct mux *mux = view->fixture->mux;
    assert_int_equal(mux_sandbox_get(mux, view->sandbox.text, delta_of, &delta, &err), 0);
    assert_int_equal(store_read_begin(mux_store(mux), &txn), 0);
    assert_int_equal(store_layer_get(txn, delta, &layer), 0);
    assert_int_equal(store_layer_inodes(txn, delta, recount_one, &recount), 0);
    store_read_end(txn);
    assert_int_equal(layer.bytes, recount.bytes);
    assert_int_equal(layer.inodes, recount.inodes);
}

struct mux_commit_result ops_commit(struct view *view)
{
    struct mux_commit_result result;
    struct af_error err;
    if (mux_commit(view->fixture->mux, view->sandbox.text, MUX_LAST_WRITER_WINS, &result, &err) < 0)
        fail_msg("commit: %s", err.text);
    return result;
}

struct mux_commit_result ops_rebase(struct view *view)
{
    struct mux_commit_result result;
    struct af_error err;
    if (mux_rebase(view->fixture->mux, view->sandbox.text, MUX_LAST_WRITER_WINS, &result, &err) < 0)
        fail_msg("rebase: %s", err.text);
    return result;
}

struct mux_commit_state ops_look(struct view *view)
{
    struct mux_commit_state state;
    struct af_error err;
    assert_int_equal(mux_commit_look(view->fixture->mux, view->sandbox.text, &state, &err), 0);
    return state;
}

void assert_download(struct view *view, const char *path, const char *text)
{
    char *found = download(view->fixture, view->codebase, path);
    assert_string_equal(found, text);
    free(found);
}
