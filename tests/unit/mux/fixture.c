// The fixture of mux's unit tests. Read next: fixture.h.
#include "tests/unit/mux/fixture.h"

#include "mux/compact.h"

#include "mux/store/fsck.h"

#include <errno.h>
#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define UID_BASE 700000

void fixture_open(struct fixture *fixture)
{
    struct af_error err;
    struct mux_options options = {
        .state_dir = fixture->dir,
        .uid_base = UID_BASE,
        .uid_count = 1000,
        .reserved_uid = UID_BASE - 1,
        .batch_after = 1, // changes share transactions nearly always
    };
    if (mux_open(&options, &fixture->mux, &err) < 0)
        fail_msg("mux_open: %s", err.text);
}

void fixture_close(struct fixture *fixture)
{
    mux_close(fixture->mux);
    fixture->mux = NULL;
}

void fixture_reopen(struct fixture *fixture)
{
    fixture_close(fixture);
    fixture_open(fixture);
}

int fixture_setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    const char *tmp = getenv("TMPDIR");
    snprintf(fixture->dir, sizeof fixture->dir, "%s/af-mux-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(fixture->dir)) {
        print_error("mkdtemp %s: %s\n", fixture->dir, strerror(errno));
        free(fixture);
        return -1;
    }
    fixture_open(fixture);
    *state = fixture;
    return 0;
}

static int print_finding(void *arg, const struct store_finding *finding)
{
    (void)arg;
    print_error("fsck: %s: %s\n", finding->kind, finding->text);
    return 0;
}

static bool is_clean(struct store *store)
{
    struct store_fsck_options options = {.fn = print_finding};
    struct store_fsck_result result;
    int rc = store_fsck(store, &options, &result);
    if (rc < 0)
        print_error("fsck: %s\n", strerror(-rc));
    return rc == 0 && result.left == 0;
}

void assert_fsck_clean(struct fixture *fixture)
{
    assert_true(is_clean(mux_store(fixture->mux)));
}

// After every test, whatever it did: the state directory as a stopped daemon leaves it.
static bool state_is_clean(struct fixture *fixture)
{
    struct store *store;
    struct af_error err;
    if (store_open_for_fsck(fixture->dir, false, &store, &err) < 0) {
        print_error("fsck: %s\n", err.text);
        return false;
    }
    bool clean = is_clean(store);
    store_close(store);
    return clean;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

int fixture_teardown(void **state)
{
    struct fixture *fixture = *state;
    if (fixture->mux)
        fixture_close(fixture);
    bool clean = fixture->may_be_damaged || state_is_clean(fixture);
    umount2(fixture->dir, MNT_DETACH); // a test may have mounted a small file system there
    nftw(fixture->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(fixture);
    return clean ? 0 : -1;
}

void expect_error(int rc, const struct af_error *err, enum af_status status, const char *part)
{
    assert_true(rc < 0);
    if (err->status != status || !strstr(err->text, part))
        fail_msg("expected %s with '%s', got %s: %s", af_status_name(status), part,
                 af_status_name(err->status), err->text);
}

struct af_id new_codebase(struct fixture *fixture)
{
    struct store_codebase codebase;
    struct af_error err;
    if (mux_codebase_create(fixture->mux, "test", "owner", &codebase, &err) < 0)
        fail_msg("%s", err.text);
    return codebase.id;
}

void upload_bytes(struct fixture *fixture, struct af_id codebase, const void *path, size_t path_len,
                  const void *data, size_t len)
{
    struct mux_upload *upload;
    struct mux_upload_result result;
    struct af_error err;
    if (mux_upload_begin(fixture->mux, codebase.text, path, path_len, -1, &upload, &err) < 0 ||
        mux_upload_write(upload, data, len, &err) < 0 ||
        mux_upload_commit(upload, &result, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(result.size, len);
}

void upload(struct fixture *fixture, struct af_id codebase, const char *path, const char *text)
{
    upload_bytes(fixture, codebase, path, strlen(path), text, strlen(text));
}

struct store_codebase get_codebase(struct fixture *fixture, struct af_id id)
{
    struct store_codebase codebase;
    struct af_error err;
    if (mux_codebase_get(fixture->mux, id.text, &codebase, &err) < 0)
        fail_msg("%s", err.text);
    return codebase;
}

struct af_id new_sandbox(struct fixture *fixture, struct af_id codebase)
{
    static const struct store_rule all = {
        .pattern = "**/*",
        .pattern_len = 4,
        .type = 1,
        .level = 4,
    };
    struct mux_sandbox_spec spec = {.codebase_id = codebase.text, .rules = &all, .n_rules = 1};
    struct af_id id;
    struct af_error err;
    if (mux_sandbox_create(fixture->mux, &spec, &id, &err) < 0)
        fail_msg("%s", err.text);
    return id;
}

char *read_all(struct mux_file *file, size_t *ret_len)
{
    size_t size = (size_t)mux_file_size(file), got = 0;
    char *bytes = calloc(1, size + 1);
    for (;;) {
        ssize_t n = mux_file_read(file, bytes + got, 65521, got); // clamped to the size
        assert_true(n >= 0);
        if (n == 0)
            break;
        got += (size_t)n;
    }
    assert_int_equal(got, size);
    if (ret_len)
        *ret_len = got;
    return bytes;
}

char *download(struct fixture *fixture, struct af_id codebase, const char *path)
{
    struct mux_file *file;
    struct af_error err;
    if (mux_codebase_open_file(fixture->mux, codebase.text, path, strlen(path), &file, &err) < 0)
        fail_msg("%s", err.text);
    char *bytes = read_all(file, NULL);
    mux_file_close(file);
    return bytes;
}

static int print_file(void *arg, const struct mux_file_info *info)
{
    const char *slash = strrchr(info->path, '/');
    assert_string_equal(info->name, slash ? slash + 1 : info->path);
    assert_int_equal(info->is_dir, S_ISDIR(info->mode));
    fprintf(arg, "%s%s\n", info->path, info->is_dir ? "/" : "");
    return 0;
}

char *listing(struct fixture *fixture, struct af_id codebase, const char *path, bool recursive)
{
    char *text = NULL;
    size_t len;
    struct af_error err;
    FILE *out = open_memstream(&text, &len);
    if (mux_codebase_list_files(fixture->mux, codebase.text, path, strlen(path), recursive,
                                print_file, out, &err) < 0)
        fail_msg("%s", err.text);
    fclose(out);
    return text;
}

void assert_listing(struct fixture *fixture, struct af_id codebase, const char *expected)
{
    char *text = listing(fixture, codebase, "", true);
    assert_string_equal(text, expected);
    free(text);
}

struct recount {
    uint64_t files, bytes;
};

static int recount_one(void *arg, const struct mux_file_info *info)
{
    struct recount *recount = arg;
    if (S_ISREG(info->mode)) {
        recount->files++;
        recount->bytes += info->size;
    }
    return 0;
}

void assert_counters(struct fixture *fixture, struct af_id id)
{
    struct recount recount = {0};
    struct af_error err;
    int rc =
        mux_codebase_list_files(fixture->mux, id.text, "", 0, true, recount_one, &recount, &err);
    assert_int_equal(rc, 0);
    struct store_codebase codebase = get_codebase(fixture, id);
    assert_int_equal(codebase.files, recount.files);
    assert_int_equal(codebase.size_bytes, recount.bytes);
}

struct store_stats stats_of(struct fixture *fixture)
{
    struct store_stats stats;
    assert_int_equal(store_get_stats(mux_store(fixture->mux), &stats), 0);
    return stats;
}

void assert_no_garbage(struct fixture *fixture, uint64_t layers, uint64_t inodes, uint64_t blobs)
{
    uint64_t removed;
    assert_int_equal(mux_compact_drain(fixture->mux), 0); // lets go of what it kept
    assert_int_equal(store_gc_drain(mux_store(fixture->mux), &removed), 0);
    struct store_stats stats = stats_of(fixture);
    assert_int_equal(stats.garbage_layers, 0);
    assert_int_equal(stats.layers, layers);
    assert_int_equal(stats.inodes, inodes);
    assert_int_equal(stats.blobs, blobs);
    assert_int_equal(count_blob_files(fixture), blobs);
}

static size_t blob_files;

static int count_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)path;
    (void)st;
    (void)ftw;
    blob_files += type == FTW_F;
    return 0;
}

size_t count_blob_files(struct fixture *fixture)
{
    char path[600];
    snprintf(path, sizeof path, "%s/blobs", fixture->dir);
    blob_files = 0;
    nftw(path, count_one, 16, FTW_PHYS);
    return blob_files;
}

uint64_t prng_next(struct prng *prng)
{
    uint64_t z = (prng->state += 0x9E3779B97F4A7C15ULL); // splitmix64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
}

void prng_path(struct prng *prng, char *ret)
{
    static const char *const names[] = {"a", "b", "c", "d"};
    strcpy(ret, names[prng_below(prng, 4)]);
    for (size_t depth = prng_below(prng, 3); depth > 0; depth--) {
        strcat(ret, "/");
        strcat(ret, names[prng_below(prng, 4)]);
    }
}
