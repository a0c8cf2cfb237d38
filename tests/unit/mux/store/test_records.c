// Records: entries merged over layers, inodes and their counts, blobs, garbage.
#include "tests/unit/mux/store/store_fixture.h"

#include "mux/store/store_priv.h"

#include <dirent.h>
#include <fcntl.h>

static void test_B8_names_are_bytes(void **state)
{
    struct fixture *f = *state;
    char longest[255];
    memset(longest, 'n', sizeof longest);
    const struct {
        const char *bytes;
        size_t len;
    } names[] = {{longest, 255}, {"\xff\xfe", 2}, {"with\nnewline", 12}, {".wh.x", 5}, {" ", 1}};
    struct store_txn *txn = begin(f);
    for (size_t i = 0; i < AF_ARRAY_LEN(names); i++)
        assert_int_equal(store_entry_put(txn, 1, 2, names[i].bytes, names[i].len, i + 1, DT_REG),
                         0);
    assert_int_equal(store_entry_put(txn, 1, 2, longest, 256, 9, DT_REG), -EINVAL);
    commit(txn);
    txn = begin_read(f);
    for (size_t i = 0; i < AF_ARRAY_LEN(names); i++) {
        struct store_entry entry;
        assert_int_equal(store_entry_get(txn, 1, 2, names[i].bytes, names[i].len, &entry), 0);
        assert_int_equal(entry.fid, i + 1);
    }
    store_read_end(txn);
}

#define LAYERS 4
#define NAMES  60

// What each name resolves to in a model of LAYERS layers: 0 absent, -1 whiteout, else the fid.
struct model {
    int64_t fid[LAYERS][NAMES];
};

static void change(struct store_txn *txn, struct model *model)
{
    int layer = (int)(random() % LAYERS), name = (int)(random() % NAMES);
    char text[16];
    size_t len = (size_t)snprintf(text, sizeof text, "n%d", name);
    switch (random() % 3) {
    case 0:
        model->fid[layer][name] = 1 + random() % 100000;
        assert_int_equal(store_entry_put(txn, 10 + (uint64_t)layer, 5, text, len,
                                         (uint64_t)model->fid[layer][name], DT_REG),
                         0);
        break;
    case 1:
        model->fid[layer][name] = -1;
        assert_int_equal(store_entry_put_whiteout(txn, 10 + (uint64_t)layer, 5, text, len), 0);
        break;
    default: {
        int want = model->fid[layer][name] ? 0 : -ENOENT;
        model->fid[layer][name] = 0;
        assert_int_equal(store_entry_del(txn, 10 + (uint64_t)layer, 5, text, len), want);
    }
    }
}

static int64_t resolve(const struct model *model, int name)
{
    for (int layer = 0; layer < LAYERS; layer++)
        if (model->fid[layer][name])
            return model->fid[layer][name] > 0 ? model->fid[layer][name] : 0;
    return 0;
}

// Lists from a cookie and checks order and content; remembers each name's cookie for ever.
static void check_listing(struct store_txn *txn, const struct model *model, uint64_t *cookies)
{
    const uint64_t layers[LAYERS] = {10, 11, 12, 13};
    struct store_dir_iter *iter;
    struct store_entry entry;
    uint64_t last = 0;
    int seen = 0, want = 0;
    assert_int_equal(store_dir_open(txn, layers, LAYERS, 5, 0, &iter), 0);
    while (store_dir_next(iter, &entry, NULL) == 0) {
        int name = atoi(entry.name + 1);
        assert_true(entry.cookie > last && entry.cookie > STORE_COOKIE_FIRST);
        assert_true(entry.cookie < 1ULL << 63);
        assert_int_equal(entry.fid, resolve(model, name));
        if (cookies[name])
            assert_int_equal(cookies[name], entry.cookie);
        cookies[name] = last = entry.cookie;
        seen++;
    }
    store_dir_close(iter);
    for (int name = 0; name < NAMES; name++)
        want += resolve(model, name) != 0;
    assert_int_equal(seen, want);
}

static void check_resume(struct store_txn *txn, const struct model *model, const uint64_t *cookies)
{
    const uint64_t layers[LAYERS] = {10, 11, 12, 13};
    int from = (int)(random() % NAMES), seen = 0, want = 0;
    struct store_dir_iter *iter;
    struct store_entry entry;
    if (!cookies[from])
        return;
    assert_int_equal(store_dir_open(txn, layers, LAYERS, 5, cookies[from], &iter), 0);
    while (store_dir_next(iter, &entry, NULL) == 0)
        seen++;
    store_dir_close(iter);
    for (int name = 0; name < NAMES; name++)
        want += resolve(model, name) != 0 && cookies[name] > cookies[from];
    assert_int_equal(seen, want);
}

static void test_S2_merged_listing_and_cookies_against_a_model(void **state)
{
    struct fixture *f = *state;
    struct model model = {0};
    uint64_t cookies[NAMES] = {0};
    srandom(7);
    for (int round = 0; round < 300; round++) {
        struct store_txn *txn = begin(f);
        struct model before = model;
        for (int i = 0; i < 20; i++)
            change(txn, &model);
        if (round % 5 == 0) {
            store_abort(txn);
            model = before;
        } else {
            commit(txn);
        }
        txn = begin_read(f);
        check_listing(txn, &model, cookies);
        check_resume(txn, &model, cookies);
        store_read_end(txn);
    }
}

struct recount {
    uint64_t bytes, inodes;
};

static int recount(void *arg, const struct store_inode *inode)
{
    struct recount *sum = arg;
    sum->bytes += S_ISREG(inode->mode) ? inode->size : 0;
    sum->inodes++;
    return 0;
}

static void test_B3_layer_counts_equal_a_recount(void **state)
{
    struct fixture *f = *state;
    struct store_txn *txn = begin(f);
    uint64_t layer, fids[20];
    assert_int_equal(store_layer_new(txn, &layer), 0);
    commit(txn);
    for (int i = 0; i < 20; i++)
        fids[i] = new_id(f);
    srandom(3);
    for (int round = 0; round < 1000; round++) {
        txn = begin(f);
        uint64_t fid = fids[random() % 20];
        char content[200];
        memset(content, 'c', sizeof content);
        content[random() % 199] = '\0';
        struct store_inode inode = regular(f, fid, content);
        if (random() % 3 == 0)
            store_inode_del(txn, layer, fid);
        else
            assert_int_equal(store_inode_put(txn, layer, &inode), 0);
        if (random() % 4 == 0)
            store_abort(txn);
        else
            commit(txn);
    }
    txn = begin_read(f);
    struct recount sum = {0};
    struct store_layer got;
    assert_int_equal(store_layer_inodes(txn, layer, recount, &sum), 0);
    assert_int_equal(store_layer_get(txn, layer, &got), 0);
    assert_int_equal(got.bytes, sum.bytes);
    assert_int_equal(got.inodes, sum.inodes);
    store_read_end(txn);
}

static void test_inode_keeps_every_field_and_its_version(void **state)
{
    struct fixture *f = *state;
    struct store_txn *txn = begin(f);
    uint64_t layer, fid = new_id(f), found_layer, found_fid;
    assert_int_equal(store_layer_new(txn, &layer), 0);
    struct store_inode in = regular(f, fid, "content"), out;
    in.atime_ns = -5;
    in.mtime_ns = 1234567890123456789;
    in.ctime_ns = 3;
    in.btime_ns = 4;
    assert_int_equal(store_inode_put(txn, layer, &in), 0);
    commit(txn);
    txn = begin_read(f);
    assert_int_equal(store_inode_get(txn, layer, fid, &out), 0);
    assert_int_equal(out.atime_ns, -5);
    assert_int_equal(out.mtime_ns, 1234567890123456789);
    assert_int_equal(out.inline_len, 7);
    assert_memory_equal(out.inline_data, "content", 7);
    assert_memory_equal(out.name, "name", 4);
    assert_int_equal(store_version_find(txn, in.version, &found_layer, &found_fid), 0);
    assert_int_equal(found_fid, fid);
    assert_int_equal(found_layer, layer);
    store_read_end(txn);
}

static struct store_inode blob_inode(struct fixture *f, uint64_t fid, uint64_t blob)
{
    struct store_inode inode = regular(f, fid, "");
    inode.content = STORE_CONTENT_BLOB;
    inode.blob = blob;
    inode.size = 5;
    return inode;
}

static void test_blob_lives_as_long_as_a_record_refers_to_it(void **state)
{
    struct fixture *f = *state;
    struct store_blob *blob;
    uint64_t layer, removed;
    assert_int_equal(store_blob_new(f->store, &blob), 0);
    assert_int_equal(pwrite(store_blob_fd(blob), "hello", 5, 0), 5);
    uint64_t id = store_blob_id(blob);
    struct store_txn *txn = begin(f);
    assert_int_equal(store_layer_new(txn, &layer), 0);
    struct store_inode one = blob_inode(f, new_id(f), id), two = blob_inode(f, new_id(f), id);
    assert_int_equal(store_inode_put(txn, layer, &one), 0);
    assert_int_equal(store_inode_put(txn, layer, &two), 0);
    commit(txn);
    store_blob_release(blob);
    // It moves in with the sync point: a power cut before that would take the record back.
    assert_int_equal(count_files(f->dir, "new"), 1);
    assert_int_equal(store_sync(f->store), 0);
    assert_int_equal(count_files(f->dir, "new"), 0);
    assert_int_equal(count_files(f->dir, "blobs"), 1);

    fixture_reopen(f);
    txn = begin(f);
    assert_int_equal(store_inode_del(txn, layer, one.fid), 0);
    commit(txn);
    assert_int_equal(store_gc_drain(f->store, &removed), 0);
    char text[6] = "";
    assert_int_equal(store_blob_open(f->store, id, &blob), 0);
    assert_int_equal(pread(store_blob_fd(blob), text, 5, 0), 5);
    assert_string_equal(text, "hello");
    store_blob_release(blob);

    txn = begin(f);
    assert_int_equal(store_layer_unref(txn, layer), 0);
    commit(txn);
    assert_int_equal(store_gc_drain(f->store, &removed), 0);
    assert_int_equal(count_files(f->dir, "blobs"), 0);
    struct store_stats stats;
    assert_int_equal(store_get_stats(f->store, &stats), 0);
    assert_int_equal(stats.inodes + stats.layers + stats.blobs + stats.garbage_layers, 0);
}

static void test_D6_a_new_blob_that_nothing_refers_to_is_swept(void **state)
{
    struct fixture *f = *state;
    struct store_blob *kept, *lost;
    uint64_t layer;
    assert_int_equal(store_blob_new(f->store, &kept), 0);
    assert_int_equal(store_blob_new(f->store, &lost), 0);
    struct store_txn *txn = begin(f);
    assert_int_equal(store_layer_new(txn, &layer), 0);
    struct store_inode inode = blob_inode(f, new_id(f), store_blob_id(lost));
    assert_int_equal(store_inode_put(txn, layer, &inode), 0);
    store_abort(txn);
    txn = begin(f);
    assert_int_equal(store_layer_new(txn, &layer), 0);
    inode = blob_inode(f, new_id(f), store_blob_id(kept));
    assert_int_equal(store_inode_put(txn, layer, &inode), 0);
    commit(txn);
    store_blob_release(kept);
    store_blob_release(lost);
    fixture_reopen(f);
    assert_int_equal(count_files(f->dir, "new"), 0);
    assert_int_equal(count_files(f->dir, "blobs"), 1);
}

static void test_digest_goes_with_its_blob(void **state)
{
    struct fixture *f = *state;
    const uint8_t sha[32] = {1, 2, 3};
    struct store_blob *blob;
    uint64_t layer, found;
    assert_int_equal(store_blob_new(f->store, &blob), 0);
    struct store_inode inode = blob_inode(f, new_id(f), store_blob_id(blob));
    struct store_txn *txn = begin(f);
    assert_int_equal(store_layer_new(txn, &layer), 0);
    assert_int_equal(store_inode_put(txn, layer, &inode), 0);
    assert_int_equal(store_digest_put(txn, sha, inode.blob), 0);
    commit(txn);
    store_blob_release(blob);
    txn = begin(f);
    assert_int_equal(store_digest_find(txn, sha, &found), 0);
    assert_int_equal(found, inode.blob);
    assert_int_equal(store_inode_del(txn, layer, inode.fid), 0);
    assert_int_equal(store_digest_find(txn, sha, &found), -ENOENT);
    commit(txn);
}

static void test_stack_holds_its_layers(void **state)
{
    struct fixture *f = *state;
    struct store_txn *txn = begin(f);
    uint64_t layers[3], stack, got[3], removed;
    size_t count;
    for (int i = 0; i < 3; i++)
        assert_int_equal(store_layer_new(txn, &layers[i]), 0);
    assert_int_equal(store_stack_new(txn, layers, 3, &stack), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(store_layer_unref(txn, layers[i]), 0);
    assert_int_equal(store_stack_ref(txn, stack), 0);
    commit(txn);
    txn = begin(f);
    assert_int_equal(store_stack_unref(txn, stack), 0);
    assert_int_equal(store_stack_get(txn, stack, got, 3, &count), 0);
    assert_int_equal(count, 3);
    assert_memory_equal(got, layers, sizeof got);
    assert_int_equal(store_stack_unref(txn, stack), 0);
    commit(txn);
    assert_int_equal(store_gc_drain(f->store, &removed), 0);
    struct store_stats stats;
    assert_int_equal(store_get_stats(f->store, &stats), 0);
    assert_int_equal(stats.layers + stats.stacks, 0);
}

static void test_pending_layer_of_a_crashed_import_is_collected(void **state)
{
    struct fixture *f = *state;
    struct store_txn *txn = begin(f);
    uint64_t adopted, pending, removed;
    assert_int_equal(store_layer_new_pending(txn, &adopted), 0);
    assert_int_equal(store_layer_adopt(txn, adopted), 0);
    assert_int_equal(store_layer_new_pending(txn, &pending), 0);
    commit(txn);
    fixture_reopen(f);
    assert_int_equal(store_gc_drain(f->store, &removed), 0);
    struct store_layer layer;
    txn = begin_read(f);
    assert_int_equal(store_layer_get(txn, adopted, &layer), 0);
    assert_int_equal(store_layer_get(txn, pending, &layer), -ENOENT);
    store_read_end(txn);
}

static void test_orphans_are_reaped_with_their_inodes(void **state)
{
    struct fixture *f = *state;
    struct store_txn *txn = begin(f);
    uint64_t layer, count;
    assert_int_equal(store_layer_new(txn, &layer), 0);
    for (int i = 0; i < 10; i++) {
        struct store_inode inode = regular(f, new_id(f), "x");
        assert_int_equal(store_inode_put(txn, layer, &inode), 0);
        if (i % 2)
            assert_int_equal(store_orphan_put(txn, layer, inode.fid), 0);
    }
    assert_int_equal(store_orphans_reap(txn, layer, &count), 0);
    assert_int_equal(count, 5);
    commit(txn);
    struct store_stats stats;
    assert_int_equal(store_get_stats(f->store, &stats), 0);
    assert_int_equal(stats.inodes, 5);
    assert_int_equal(stats.orphans, 0);
}

static int count_sandbox(void *arg, const struct store_sandbox *sandbox)
{
    (void)sandbox;
    ++*(int *)arg;
    return 0;
}

static void test_sandbox_and_codebase_records_come_back_whole(void **state)
{
    struct fixture *f = *state;
    struct store_rule rules[2] = {{.pattern = "**/*", .pattern_len = 4, .level = 3},
                                  {.pattern = "/o", .pattern_len = 2, .type = 2, .priority = -9}};
    struct store_sandbox in = {.root_fid = 5,
                               .stack = 6,
                               .delta = 7,
                               .n_rules = 2,
                               .rules = rules,
                               .access = STORE_ACCESS_READ_ONLY,
                               .owner = "an owner",
                               .owner_len = 8,
                               .user_data = "\0data",
                               .user_data_len = 5,
                               .expires_ns = 99};
    struct store_codebase cb = {.root_fid = 9, .size_bytes = 10, .files = 11, .head_dirty = true};
    af_id_new("sb", &in.id);
    af_id_new("cb", &in.codebase_id);
    cb.id = in.codebase_id;
    strcpy(cb.name, "a name");
    strcpy(cb.owner, "an owner");
    struct store_txn *txn = begin(f);
    assert_int_equal(store_sandbox_put(txn, &in), 0);
    assert_int_equal(store_codebase_put(txn, &cb), 0);
    commit(txn);
    fixture_reopen(f);
    txn = begin_read(f);
    struct store_sandbox out;
    struct store_codebase cb_out;
    assert_int_equal(store_sandbox_get(txn, in.id.text, &out), 0);
    assert_int_equal(out.n_rules, 2);
    assert_memory_equal(out.rules[1].pattern, "/o", 2);
    assert_int_equal(out.rules[1].priority, -9);
    assert_memory_equal(out.user_data, "\0data", 5);
    assert_int_equal(out.expires_ns, 99);
    assert_int_equal(out.access, STORE_ACCESS_READ_ONLY);
    assert_int_equal(out.owner_len, 8);
    assert_memory_equal(out.owner, "an owner", 8);
    assert_string_equal(out.codebase_id.text, in.codebase_id.text);
    store_sandbox_free_rules(&out);
    assert_int_equal(store_codebase_get(txn, cb.id.text, &cb_out), 0);
    assert_string_equal(cb_out.owner, "an owner");
    assert_true(cb_out.head_dirty && cb_out.files == 11);
    int count = 0;
    assert_int_equal(store_sandbox_list(txn, NULL, count_sandbox, &count), 0);
    assert_int_equal(store_sandbox_list(txn, in.id.text, count_sandbox, &count), 0);
    assert_int_equal(count, 1);
    assert_int_equal(store_sandbox_get(txn, "sb_x", &out), -ENOENT);
    store_read_end(txn);
}

// With a limit the value has another form; without one it is as it always was.
static void test_a_sandboxs_limit_comes_back_and_goes_again(void **state)
{
    struct fixture *f = *state;
    struct store_sandbox sandbox = {.access = STORE_ACCESS_NORMAL,
                                    .owner = "o",
                                    .owner_len = 1,
                                    .user_data = "data",
                                    .user_data_len = 4};
    static const struct {
        uint64_t iops, bandwidth;
        uint8_t format;
    } limits[] = {{0, 0, STORE_FORMAT},
                  {100, 0, STORE_FORMAT_LIMITED},
                  {0, UINT64_MAX, STORE_FORMAT_LIMITED},
                  {1, 2, STORE_FORMAT_LIMITED},
                  {0, 0, STORE_FORMAT}};
    af_id_new("sb", &sandbox.id);
    af_id_new("cb", &sandbox.codebase_id);
    MDB_val key = store_val(sandbox.id.text, strlen(sandbox.id.text)), value;
    for (size_t i = 0; i < AF_ARRAY_LEN(limits); i++) {
        struct store_txn *txn = begin(f);
        struct store_sandbox out;
        sandbox.iops = limits[i].iops;
        sandbox.bandwidth = limits[i].bandwidth;
        assert_int_equal(store_sandbox_put(txn, &sandbox), 0);
        assert_int_equal(store_sandbox_get(txn, sandbox.id.text, &out), 0);
        assert_true(out.iops == sandbox.iops && out.bandwidth == sandbox.bandwidth);
        assert_memory_equal(out.user_data, "data", 4);
        assert_memory_equal(out.owner, "o", 1);
        store_sandbox_free_rules(&out);
        assert_int_equal(store_get(txn, STORE_DBI_SANDBOX, key, &value), 0);
        assert_int_equal(*(const uint8_t *)value.mv_data, limits[i].format);
        uint8_t bytes[512];
        assert_true(value.mv_size < sizeof bytes);
        memcpy(bytes, value.mv_data, value.mv_size);
        for (size_t len = 0; len < value.mv_size; len++) // cut short
            assert_int_equal(store_sandbox_decode(key, store_val(bytes, len), &out), -EUCLEAN);
        bytes[0] = 3; // a form that does not exist
        assert_int_equal(store_sandbox_decode(key, store_val(bytes, value.mv_size), &out),
                         -EUCLEAN);
        commit(txn);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_B8_names_are_bytes),
        TEST(test_S2_merged_listing_and_cookies_against_a_model),
        TEST(test_B3_layer_counts_equal_a_recount),
        TEST(test_inode_keeps_every_field_and_its_version),
        TEST(test_blob_lives_as_long_as_a_record_refers_to_it),
        TEST(test_D6_a_new_blob_that_nothing_refers_to_is_swept),
        TEST(test_digest_goes_with_its_blob),
        TEST(test_stack_holds_its_layers),
        TEST(test_pending_layer_of_a_crashed_import_is_collected),
        TEST(test_orphans_are_reaped_with_their_inodes),
        TEST(test_sandbox_and_codebase_records_come_back_whole),
        TEST(test_a_sandboxs_limit_comes_back_and_goes_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
