// Codebases: versioned trees that views are made of.
//
// Paths are relative, normalised by these functions with af_path_normalize (lenient only where it
// says so). Every change is one transaction: all or nothing. Views made earlier never see later
// changes. Errors: an af_error whose text says what to do. Any thread.
#ifndef AF_MUX_CODEBASE_H
#define AF_MUX_CODEBASE_H

#include "mux/base/limits.h"
#include "mux/mux.h"

#include <stddef.h>
#include <sys/stat.h>

struct store_codebase; // mux/store/store.h: id, name, owner, size_bytes, files, times

int mux_codebase_create(struct mux *mux, const char *name, const char *owner,
                        struct store_codebase *ret, struct af_error *err);
int mux_codebase_get(struct mux *mux, const char *id, struct store_codebase *ret,
                     struct af_error *err);
// Sandboxes made from it keep working; its content goes when the last of them does.
int mux_codebase_delete(struct mux *mux, const char *id, struct af_error *err);
// In id order after `after_id` (NULL: from the start), only those of `owner` unless NULL. fn
// returns 0 to go on, another value to stop. fn runs inside a read transaction: no blocking.
int mux_codebase_list(struct mux *mux, const char *owner, const char *after_id,
                      int (*fn)(void *arg, const struct store_codebase *codebase), void *arg,
                      struct af_error *err);

// ---- one file in: streams to disk, then one transaction (O4)

struct mux_upload;
// total_size: what the client announces, for an early refusal; negative: unknown.
int mux_upload_begin(struct mux *mux, const char *codebase_id, const void *path, size_t path_len,
                     int64_t total_size, struct mux_upload **ret, struct af_error *err);
int mux_upload_write(struct mux_upload *upload, const void *data, size_t len, struct af_error *err);
struct mux_upload_result {
    uint64_t size;
    char md5_hex[33];
    char path[AF_PATH_MAX + 1];
};
// Files that begin with "#!" or an ELF header become 0755, others 0644. Missing directories are
// made. Frees the upload, also on failure.
int mux_upload_commit(struct mux_upload *upload, struct mux_upload_result *ret,
                      struct af_error *err);
void mux_upload_abort(struct mux_upload *upload);

// ---- a tree in: all or nothing

struct mux_import;
struct mux_import_totals {
    uint64_t files, directories, symlinks, hard_links, removed, bytes;
    uint64_t reused_files; // of `files`: whose content took no copy
    int64_t updated_ns;    // of the codebase, with the import in it
};
int mux_import_begin(struct mux *mux, const char *codebase_id, struct mux_import **ret,
                     struct af_error *err);
// mode: type and permission bits. Parents that are missing are made 0755. A path given twice, or
// one below a path that is no directory, is INVALID_ARGUMENT. For a regular file, the data follows.
// Entries are applied in batches, so such a clash may be told by a later call or by the commit.
// After a failure every call fails the same way: abort.
int mux_import_entry(struct mux_import *import, const void *path, size_t path_len, mode_t mode,
                     int64_t mtime_ns, const void *symlink_target, size_t target_len,
                     struct af_error *err);
// A regular file of this host, with all of its content: `st` is the fstat of `fd`, from just
// before, which it takes. May block on the disk. A file that changes meanwhile may arrive as a mix
// of both states.
int mux_import_file(struct mux_import *import, const void *path, size_t path_len,
                    const struct stat *st, int fd, struct af_error *err);
// For a tree of this host that is imported again: whether the codebase has the object as it is.
// Then it stays, and the path counts as sent. Files are compared by what was remembered of them
// when mux_import_file read them, links and directories by what they are. target: of a link.
// mux_import_may_keep: false when there is nothing that it could keep.
bool mux_import_may_keep(const struct mux_import *import);
int mux_import_keep(struct mux_import *import, const void *path, size_t path_len,
                    const struct stat *st, const void *target, size_t target_len, bool *ret_kept,
                    struct af_error *err);
// One more name for a file that has been sent, or is in the codebase.
int mux_import_link(struct mux_import *import, const void *path, size_t path_len,
                    const void *target, size_t target_len, struct af_error *err);
// Takes the path out, with everything below it; "" empties the tree. Nothing happens when it is not
// there. Applied at once: what is sent later may stand in its place.
int mux_import_remove(struct mux_import *import, const void *path, size_t path_len,
                      struct af_error *err);
// ABORTED unless the codebase is the version of that time; see updated_ns above.
int mux_import_expect(struct mux_import *import, int64_t updated_ns, struct af_error *err);
// Below this directory the codebase becomes what is sent: at the commit, every name there that was
// not sent goes. Before the first entry.
int mux_import_replace(struct mux_import *import, const void *path, size_t path_len,
                       struct af_error *err);
int mux_import_data(struct mux_import *import, const void *data, size_t len, struct af_error *err);
// `len` bytes of zeros in the place of data: no space on the disk, and no time, whatever the
// length.
int mux_import_hole(struct mux_import *import, uint64_t len, struct af_error *err);
// ABORTED when the codebase changed meanwhile. Frees the import, also on failure.
int mux_import_commit(struct mux_import *import, struct mux_import_totals *ret,
                      struct af_error *err);
void mux_import_abort(struct mux_import *import);

// ---- reading

// An open regular file of a codebase's head or of a view: a fixed version of its content.
struct mux_file;
int mux_codebase_open_file(struct mux *mux, const char *codebase_id, const void *path,
                           size_t path_len, struct mux_file **ret, struct af_error *err);
uint64_t mux_file_size(const struct mux_file *file);
// Bytes read, 0 at the end, or -errno. May block on the disk.
ssize_t mux_file_read(struct mux_file *file, void *buf, size_t size, uint64_t offset);
// How many bytes from `offset` on are known to be zeros without reading them: 0 where data is.
uint64_t mux_file_hole(struct mux_file *file, uint64_t offset);
void mux_file_close(struct mux_file *file);

struct mux_file_info {
    const char *path; // relative to the codebase, no leading slash
    const char *name;
    bool is_dir;
    uint64_t size;
    int64_t mtime_ns;
    mode_t mode;
};
// Path is normalised leniently ("/" and "" are the root). In path order (compared component by
// component, names as bytes); a directory comes before what it holds. fn returns 0 to go on;
// another value stops and is returned; it runs inside a read transaction: no blocking. NOT_FOUND
// when there is no such path, INVALID_ARGUMENT when it is no directory.
int mux_codebase_list_files(struct mux *mux, const char *codebase_id, const void *path,
                            size_t path_len, bool recursive,
                            int (*fn)(void *arg, const struct mux_file_info *info), void *arg,
                            struct af_error *err);

#endif
