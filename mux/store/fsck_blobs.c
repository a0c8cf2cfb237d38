// Blob records, digests, and the files in DIR/blobs and DIR/new.
//
// What a file's record says about its size decides: its blob has at least as many bytes, holes
// included, so a shorter one has lost its end. A repair makes the record as long as what is left:
// an end of file is honest, zeros would not be. Files that nothing refers to, and what is no
// regular file, are moved to DIR/lost+found. Beside a running daemon, what a snapshot says is
// looked at again before it is called wrong. Read next: blob.c.
#include "mux/store/fsck_priv.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <sys/stat.h>

#define LOST_FOUND "lost+found"

static uint64_t id_of(MDB_val key)
{
    struct key_id id = {0};
    if (key.mv_size == sizeof id)
        memcpy(&id, key.mv_data, sizeof id);
    return be64toh(id.be);
}

static int get_blob(struct fsck *f, uint64_t id, struct value_blob *ret)
{
    struct key_id key = key_of_id(id);
    MDB_val value;
    int rc = store_get(f->txn, STORE_DBI_BLOB, store_val(&key, sizeof key), &value);
    return rc < 0 ? rc : store_blob_decode(value, ret);
}

static int put_blob(struct fsck *f, uint64_t id, const struct value_blob *blob)
{
    struct key_id key = key_of_id(id);
    return fsck_put(f, STORE_DBI_BLOB, store_val(&key, sizeof key), store_blob_encode(blob));
}

// ---- records

static int check_reference(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    struct value_inode v;
    struct value_blob blob = {.format = STORE_FORMAT, .refs = 1};
    (void)arg, (void)key;
    if (value.mv_size < sizeof v)
        return 0;
    memcpy(&v, value.mv_data, sizeof v);
    if (v.content != STORE_CONTENT_BLOB)
        return 0;
    int rc = get_blob(f, v.blob, &blob);
    if (rc != -ENOENT)
        return rc == -EUCLEAN ? 0 : rc;
    if (!fsck_found(f, "blob-record", true, "content %" PRIu64 " is referred to, but has no record",
                    v.blob))
        return 0;
    return put_blob(f, v.blob, &blob);
}

static int check_digest_of(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    struct value_blob blob;
    uint64_t found = 0;
    (void)arg;
    if (store_blob_decode(value, &blob) < 0 || !blob.has_digest)
        return 0;
    int rc = store_digest_find(f->txn, blob.sha256, &found);
    if (rc < 0 && rc != -ENOENT && rc != -EUCLEAN)
        return rc;
    if (rc == 0 && found == id_of(key))
        return 0;
    if (!fsck_found(f, "digest-index", true,
                    "the digest of content %" PRIu64 " is not in the index of digests%s",
                    id_of(key), rc == 0 ? ": other content has it" : ""))
        return 0;
    if (rc == 0) {
        blob.has_digest = 0;
        return put_blob(f, id_of(key), &blob);
    }
    uint64_t id = id_of(key);
    return fsck_put(f, STORE_DBI_DIGEST, store_val(blob.sha256, sizeof blob.sha256),
                    store_val(&id, sizeof id));
}

static int check_digest(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    struct value_blob blob;
    uint64_t id;
    (void)arg;
    if (key.mv_size != sizeof blob.sha256 || value.mv_size != sizeof id)
        return 0;
    memcpy(&id, value.mv_data, sizeof id);
    int rc = get_blob(f, id, &blob);
    if (rc == 0 && blob.has_digest && memcmp(blob.sha256, key.mv_data, key.mv_size) == 0)
        return 0;
    if (rc < 0 && rc != -ENOENT && rc != -EUCLEAN)
        return rc;
    if (!fsck_found(f, "digest-index", true,
                    "the index of digests leads to content %" PRIu64 ", which %s", id,
                    rc == 0 ? "has another one" : "is not there"))
        return 0;
    return fsck_del(f, STORE_DBI_DIGEST, key);
}

int fsck_pass_blob_records(struct fsck *f)
{
    int rc = fsck_walk(f, STORE_DBI_INODE, fsck_everything(), check_reference, NULL);
    if (rc == 0)
        rc = fsck_walk(f, STORE_DBI_BLOB, fsck_everything(), check_digest_of, NULL);
    if (rc == 0)
        rc = fsck_walk(f, STORE_DBI_DIGEST, fsck_everything(), check_digest, NULL);
    return rc;
}

// ---- lost and found

static int open_lost(struct fsck *f)
{
    int dir_fd = f->store->dir_fd;
    if (mkdirat(dir_fd, LOST_FOUND, 0700) < 0 && errno != EEXIST)
        return -errno;
    int fd = openat(dir_fd, LOST_FOUND, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 ? -errno : fd;
}

static int move_to_lost(struct fsck *f, int from_dir, const char *name)
{
    AF_CLEANUP_FD int lost = open_lost(f);
    if (lost < 0)
        return lost;
    for (unsigned i = 0; i < 1000; i++) {
        char to[NAME_MAX + 1];
        snprintf(to, sizeof to, "%.200s.%u", name, i);
        if (renameat2(from_dir, name, lost, to, RENAME_NOREPLACE) == 0)
            return 0;
        if (errno != EEXIST)
            return -errno;
    }
    return -EEXIST;
}

int fsck_save_lost(struct fsck *f, uint64_t layer, const struct store_inode *inode)
{
    if (!S_ISREG(inode->mode) || inode->content == STORE_CONTENT_NONE)
        return 0;
    AF_CLEANUP_FD int lost = open_lost(f);
    char name[64], from[STORE_BLOB_PATH_MAX];
    if (lost < 0)
        return lost;
    snprintf(name, sizeof name, "file-%" PRIu64 "-%" PRIu64, layer, inode->fid);
    if (inode->content == STORE_CONTENT_BLOB) {
        for (int i = 0; i < 2; i++) {
            store_blob_path(inode->blob, i == 1, from);
            int dir = i == 1 ? f->store->new_fd : f->store->blobs_fd;
            if (linkat(dir, from, lost, name, 0) == 0 || errno == EEXIST)
                return 0;
        }
        return errno == ENOENT ? 0 : -errno; // its content is lost, too: said elsewhere
    }
    AF_CLEANUP_FD int fd =
        openat(lost, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || write(fd, inode->inline_data, inode->inline_len) != (ssize_t)inode->inline_len)
        return errno ? -errno : -EIO;
    return fsync(fd) < 0 ? -errno : 0;
}

// ---- files of records

// Where a blob's file is. -ENOENT: nowhere.
static int find_file(struct fsck *f, uint64_t id, struct stat *ret, bool *ret_fresh)
{
    char path[STORE_BLOB_PATH_MAX];
    for (int i = 0; i < 3; i++) { // it may be moving from new/ to blobs/
        *ret_fresh = i == 1;
        store_blob_path(id, *ret_fresh, path);
        if (fstatat(*ret_fresh ? f->store->new_fd : f->store->blobs_fd, path, ret,
                    AT_SYMLINK_NOFOLLOW) == 0)
            return 0;
        if (errno != ENOENT && errno != ENOTDIR) // of its folder: said where that is looked at
            return -errno;
    }
    return -ENOENT;
}

// Whether the record is still what the snapshot said: a running daemon goes on.
static bool is_current(struct fsck *f, uint64_t layer, const struct store_inode *inode)
{
    struct store_txn *txn;
    struct store_inode now;
    if (f->offline || store_read_begin(f->store, &txn) < 0)
        return f->offline;
    bool same = store_inode_get(txn, layer, inode->fid, &now) == 0 && now.blob == inode->blob &&
                now.size == inode->size;
    store_read_end(txn);
    return same;
}

static int shrink(struct fsck *f, uint64_t layer, const struct store_inode *inode, uint64_t size)
{
    struct store_inode left = *inode;
    left.size = size;
    left.blob_owned = false; // what the others have of it may be more by now
    if (size == 0) {
        left.content = STORE_CONTENT_NONE;
        left.blob = 0;
    }
    return fsck_put_inode(f, layer, &left);
}

static int check_file(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    struct key_inode place;
    struct store_inode inode;
    struct stat st = {0};
    bool fresh;
    char path[STORE_BLOB_PATH_MAX];
    (void)arg;
    if (key.mv_size != sizeof place)
        return 0;
    memcpy(&place, key.mv_data, sizeof place);
    uint64_t layer = be64toh(place.layer_be);
    if (store_inode_decode(value, layer, be64toh(place.fid_be), &inode) < 0 ||
        inode.content != STORE_CONTENT_BLOB)
        return 0;
    int rc = find_file(f, inode.blob, &st, &fresh);
    if (rc < 0 && rc != -ENOENT)
        return rc;
    if (rc == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size >= inode.size)
        return 0;
    if (!is_current(f, layer, &inode))
        return 0;
    bool irregular = rc == 0 && !S_ISREG(st.st_mode);
    uint64_t left = rc == 0 && !irregular ? (uint64_t)st.st_size : 0;
    if (!fsck_found(f,
                    rc < 0      ? "blob-missing"
                    : irregular ? "blob-irregular"
                                : "blob-short",
                    true,
                    "content %" PRIu64 " of file %" PRIu64 " in layer %" PRIu64
                    " should have %" PRIu64 " bytes; %s%" PRIu64 " are there",
                    inode.blob, inode.fid, layer, inode.size,
                    rc < 0      ? "its file is missing: "
                    : irregular ? "something else is in the place of its file: "
                                : "",
                    left))
        return 0;
    store_blob_path(inode.blob, fresh, path);
    if (irregular && !fresh) {
        char folder[3] = {path[0], path[1], '\0'};
        AF_CLEANUP_FD int dir =
            openat(f->store->blobs_fd, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        rc = dir < 0 ? -errno : move_to_lost(f, dir, path + 3);
    } else if (irregular) {
        rc = move_to_lost(f, f->store->new_fd, path);
    } else {
        rc = 0;
    }
    return rc < 0 ? rc : shrink(f, layer, &inode, left);
}

// ---- files without records

static bool is_wanted(struct fsck *f, struct store_txn *txn, uint64_t id)
{
    struct key_id key = key_of_id(id);
    MDB_val value;
    (void)f;
    return store_get(txn, STORE_DBI_BLOB, store_val(&key, sizeof key), &value) == 0 ||
           store_get(txn, STORE_DBI_UNLINK, store_val(&key, sizeof key), &value) == 0;
}

static bool parse_name(const char *name, uint64_t *ret)
{
    size_t n = 0;
    while (n < 16 && isxdigit((unsigned char)name[n]))
        n++;
    *ret = strtoull(name, NULL, 16);
    return n == 16 && name[16] == '\0';
}

static int check_stray(struct fsck *f, int dir, unsigned folder, const char *name)
{
    char quoted[FSCK_QUOTED_MAX];
    struct store_txn *txn = f->txn;
    struct stat st;
    uint64_t id;
    bool named = parse_name(name, &id) && (id & 0xff) == folder;
    if (!f->offline && store_read_begin(f->store, &txn) < 0)
        return 0;
    bool wanted = named && is_wanted(f, txn, id);
    if (!f->offline)
        store_read_end(txn);
    if (wanted || fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return 0;
    if (!fsck_found(f, "blob-stray", true, "nothing refers to the file %s in blobs/%02x",
                    fsck_quote(quoted, name, strlen(name)), folder))
        return 0;
    return move_to_lost(f, dir, name);
}

static int check_folder(struct fsck *f, unsigned folder)
{
    char path[4];
    snprintf(path, sizeof path, "%02x", folder);
    int fd = openat(f->store->blobs_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;
    int rc = 0;
    if (!dir) {
        rc = -errno;
        if (fd >= 0)
            close(fd);
        if (rc == -ENOENT) // made at the next start
            return 0;
        if (rc != -ENOTDIR && rc != -ELOOP)
            return rc;
        return fsck_found(f, "blob-folder", true, "blobs/%s is no directory", path)
                   ? move_to_lost(f, f->store->blobs_fd, path)
                   : 0;
    }
    while (rc == 0 && (entry = readdir(dir)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            rc = check_stray(f, dirfd(dir), folder, entry->d_name);
    closedir(dir);
    return rc;
}

// ---- digests against content

static int hash_file(struct fsck *f, uint64_t id, uint8_t sha256[32])
{
    struct store_blob *blob;
    AF_CLEANUP_FREE char *buf = malloc(1u << 20);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    int rc = store_blob_open(f->store, id, &blob);
    if (rc < 0) {
        EVP_MD_CTX_free(ctx);
        return rc;
    }
    rc = buf && ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1 ? 0 : -ENOMEM;
    off_t at = 0;
    ssize_t n = 1;
    while (rc == 0 && n > 0) {
        n = pread(store_blob_fd(blob), buf, 1u << 20, at);
        if (n < 0 && errno != EINTR)
            rc = -errno;
        if (n < 0)
            n = 1; // again
        else if (n > 0 && EVP_DigestUpdate(ctx, buf, (size_t)n) != 1)
            rc = -ENOMEM;
        else
            at += n;
    }
    if (rc == 0 && EVP_DigestFinal_ex(ctx, sha256, NULL) != 1)
        rc = -ENOMEM;
    store_blob_release(blob);
    EVP_MD_CTX_free(ctx);
    return rc;
}

static int check_content(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    struct value_blob blob;
    uint8_t sha256[32];
    (void)arg;
    if (store_blob_decode(value, &blob) < 0 || !blob.has_digest)
        return 0;
    int rc = hash_file(f, id_of(key), sha256);
    if (rc == -ENOENT || (rc == 0 && memcmp(sha256, blob.sha256, sizeof sha256) == 0))
        return 0; // missing: said already
    if (rc < 0 && rc != -EIO)
        return rc;
    if (!fsck_found(f, "digest-content", true,
                    "content %" PRIu64 " %s; the digest is dropped, so that no other file gets "
                    "this content",
                    id_of(key),
                    rc < 0 ? "cannot be read" : "is not what it was when its digest was taken"))
        return 0;
    rc = fsck_del(f, STORE_DBI_DIGEST, store_val(blob.sha256, sizeof blob.sha256));
    blob.has_digest = 0;
    return rc == 0 ? put_blob(f, id_of(key), &blob) : rc;
}

int fsck_pass_blob_files(struct fsck *f)
{
    int rc = fsck_walk(f, STORE_DBI_INODE, fsck_everything(), check_file, NULL);
    for (unsigned i = 0; rc == 0 && i < 256; i++)
        rc = check_folder(f, i);
    if (rc == 0 && f->options->deep)
        rc = fsck_walk(f, STORE_DBI_BLOB, fsck_everything(), check_content, NULL);
    return rc;
}
