// Files of a running sandbox as its agent would use them. Read next: file_agent.h.
#include "api/services/file_agent.h"

#include "mux/base/cleanup.h"
#include "mux/base/whole.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define COPY_BYTES  (256u << 10)
#define RETRIES     16   // of a resolution that a rename got in the way of
#define DEPTH_MAX   1000 // of directories removed at once: each takes a descriptor
#define PATHS_SHOWN 160

// ---- whose rights

// The kernel takes CAP_DAC_OVERRIDE and the like from a thread whose file-system uid is not root's,
// and gives them back with it (capabilities(7), "Effect of user ID changes").
static void become(const struct file_agent *agent)
{
    setfsgid((gid_t)agent->uid);
    setfsuid(agent->uid);
}

static void become_root(void)
{
    setfsuid(0);
    setfsgid(0);
}

static int not_running(struct daemon *daemon, const struct af_id *id, struct af_error *err)
{
    struct mux_node_info root; // tells whether there is such a sandbox
    if (mux_inspect_stat(daemon->mux, id->text, "", 0, &root, err) < 0)
        return -1;
    return af_error_set(err, AF_FAILED_PRECONDITION, "sandbox %s is not running; start it first",
                        id->text);
}

int file_agent_open(struct daemon *daemon, ProtobufCBinaryData sandbox_id, struct file_agent *ret,
                    struct af_error *err)
{
    struct af_id id;
    char path[PATH_MAX];
    uid_t uid;
    if (service_check_id("sb", sandbox_id, &id, err) < 0)
        return -1;
    snprintf(path, sizeof path, "%s/%s", daemon->config.mount, id.text);
    if (!mux_view_uid(daemon->mux, id.text, &ret->uid))
        return not_running(daemon, &id, err);
    ret->root = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (ret->root < 0 && errno == EACCES && mux_view_blame_cut_off(daemon->mux, id.text, err))
        return -1;
    if (ret->root < 0)
        return errno == ENOENT
                   ? af_error_set(err, AF_FAILED_PRECONDITION, "sandbox %s has just stopped",
                                  id.text)
                   : af_error_errno(err, errno, "cannot open the view of sandbox %s", id.text);
    // A lazy one's may have got another uid with its first command; what is open stays as it is.
    if (mux_view_uid(daemon->mux, id.text, &uid))
        ret->uid = uid;
    return 0;
}

void file_agent_close(struct file_agent *agent)
{
    close(agent->root);
}

int file_agent_path(ProtobufCBinaryData field, char **ret, struct af_error *err)
{
    const char *text = (const char *)field.data;
    size_t len = field.len;
    while (len > 0 && text[0] == '/') {
        text++;
        len--;
    }
    if (len > AF_PATH_MAX || (len > 0 && memchr(text, '\0', len)))
        return af_error_set(err, AF_INVALID_ARGUMENT, "path is too long or holds a NUL byte");
    *ret = strndup(len > 0 ? text : "", len);
    return *ret ? 0 : af_error_errno(err, ENOMEM, "cannot take the path");
}

// ---- resolving

static int fail(struct af_error *err, const char *what, const char *path)
{
    int error = errno;
    if (error == ENOTDIR) // below something that is no directory there is nothing
        error = ENOENT;
    if (error == E2BIG) // remove_name's
        return af_error_set(err, AF_RESOURCE_EXHAUSTED,
                            "'%.*s' has directories nested deeper than %d: remove it by a command "
                            "(rm -rf) in the sandbox",
                            PATHS_SHOWN, path, DEPTH_MAX);
    if (error == ESTALE)
        return af_error_set(err, AF_ABORTED,
                            "'%.*s' was replaced or removed meanwhile: nothing is lost, try again",
                            PATHS_SHOWN, path);
    return af_error_errno(err, error, "cannot %s '%.*s'", what, PATHS_SHOWN, path);
}

// -1 with errno. Under the agent's rights.
static int resolve(const struct file_agent *agent, const char *path, uint64_t flags, mode_t mode)
{
    struct open_how how = {.flags = flags | O_CLOEXEC,
                           .mode = mode,
                           .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
    long fd = -1;
    for (int i = 0; i < RETRIES; i++) {
        fd = syscall(SYS_openat2, agent->root, *path ? path : ".", &how, sizeof how);
        if (fd >= 0 || errno != EAGAIN)
            break;
    }
    return (int)fd;
}

// The directory of a path's last name, which *ret_name is. Under the agent's rights.
static int resolve_parent(const struct file_agent *agent, const char *path, const char **ret_name)
{
    size_t len = strlen(path);
    char parent[AF_PATH_MAX + 1];
    while (len > 0 && path[len - 1] == '/')
        len--;
    size_t start = len;
    while (start > 0 && path[start - 1] != '/')
        start--;
    const char *name = path + start;
    // Only a plain name can be made, moved or removed.
    if (len == start || path[len] == '/' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
        errno = EINVAL;
        return -1;
    }
    snprintf(parent, sizeof parent, "%.*s", (int)start, path);
    *ret_name = name;
    return resolve(agent, parent, O_PATH | O_DIRECTORY, 0);
}

// ---- one call each

int file_agent_read(const struct file_agent *agent, const char *path, int *ret_fd,
                    struct af_error *err)
{
    struct stat st;
    become(agent);
    AF_CLEANUP_FD int fd = resolve(agent, path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
    int rc = fd < 0 ? fail(err, "open", path) : 0;
    become_root();
    if (rc < 0)
        return rc;
    if (fstat(fd, &st) < 0)
        return fail(err, "open", path);
    if (!S_ISREG(st.st_mode))
        return af_error_set(err, AF_INVALID_ARGUMENT, "'%.*s' is no regular file", PATHS_SHOWN,
                            path);
    *ret_fd = af_take_fd(&fd);
    return 0;
}

// -errno.
static int copy_all(int from, int to)
{
    AF_CLEANUP_FREE char *buffer = malloc(COPY_BYTES);
    ssize_t n = buffer ? 0 : -ENOMEM;
    int rc = (int)n;
    for (off_t at = 0; rc == 0 && (n = af_read_whole(from, buffer, COPY_BYTES, at)) > 0; at += n)
        rc = af_write_whole(to, buffer, (size_t)n, at);
    return rc < 0 ? rc : (int)(n < 0 ? n : 0);
}

int file_agent_write(const struct file_agent *agent, const char *path, mode_t mode, int from,
                     struct af_error *err)
{
    int rc = 0;
    become(agent);
    AF_CLEANUP_FD int fd = resolve(
        agent, path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOCTTY, mode ? mode : 0644);
    struct stat st = {.st_mode = 0};
    if (fd >= 0 && fstat(fd, &st) == 0 && !S_ISREG(st.st_mode))
        rc = af_error_set(err, AF_INVALID_ARGUMENT, "'%.*s' is no regular file", PATHS_SHOWN, path);
    else if (fd < 0 || (errno = -copy_all(from, fd)) != 0 || (mode && fchmod(fd, mode) < 0))
        rc = fail(err, "write", path);
    become_root();
    return rc;
}

int file_agent_stat(const struct file_agent *agent, const char *path, struct stat *ret,
                    char target[AF_SYMLINK_MAX + 1], struct af_error *err)
{
    int rc = 0;
    target[0] = '\0';
    become(agent);
    AF_CLEANUP_FD int fd = resolve(agent, path, O_PATH | O_NOFOLLOW, 0);
    if (fd < 0 || fstat(fd, ret) < 0) {
        rc = fail(err, "look at", path);
    } else if (S_ISLNK(ret->st_mode)) {
        ssize_t n = readlinkat(fd, "", target, AF_SYMLINK_MAX);
        target[n > 0 ? n : 0] = '\0';
    }
    become_root();
    return rc;
}

int file_agent_mkdir(const struct file_agent *agent, const char *path, mode_t mode,
                     struct af_error *err)
{
    const char *name;
    become(agent);
    AF_CLEANUP_FD int dir = resolve_parent(agent, path, &name);
    int rc = dir < 0 || mkdirat(dir, name, mode ? mode : 0755) < 0
                 ? fail(err, "make the directory", path)
                 : 0;
    become_root();
    return rc;
}

int file_agent_rename(const struct file_agent *agent, const char *from, const char *to,
                      struct af_error *err)
{
    const char *old_name, *new_name;
    int rc = 0;
    become(agent);
    AF_CLEANUP_FD int old_dir = resolve_parent(agent, from, &old_name);
    AF_CLEANUP_FD int new_dir = old_dir < 0 ? -1 : resolve_parent(agent, to, &new_name);
    if (old_dir >= 0 && new_dir < 0)
        rc = fail(err, "move to", to);
    else if (old_dir < 0 || renameat(old_dir, old_name, new_dir, new_name) < 0)
        rc = fail(err, "move", from);
    become_root();
    return rc;
}

static int link_name(const struct file_agent *agent, int dir, const char *name, const char *target)
{
    const char *old_name;
    AF_CLEANUP_FD int old_dir = resolve_parent(agent, target, &old_name);
    return old_dir < 0 ? -1 : linkat(old_dir, old_name, dir, name, 0);
}

int file_agent_link(const struct file_agent *agent, const char *path, const char *target, bool hard,
                    struct af_error *err)
{
    const char *name;
    int rc = -1;
    become(agent);
    AF_CLEANUP_FD int dir = resolve_parent(agent, path, &name);
    if (dir >= 0)
        rc = hard ? link_name(agent, dir, name, target) : symlinkat(target, dir, name);
    if (rc < 0)
        fail(err, "link", path);
    become_root();
    return rc;
}

// ---- removing

static int remove_name(int dir, const char *name, bool recursive, unsigned depth,
                       uint64_t *removed);

// Everything in a directory. Removing while reading skips nothing: positions are names' hashes.
static int remove_content(int dir, const char *name, unsigned depth, uint64_t *removed)
{
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *stream = fd < 0 ? NULL : fdopendir(fd);
    int rc = stream ? 0 : -1;
    if (fd >= 0 && !stream)
        close(fd);
    struct dirent *entry;
    while (rc == 0 && (errno = 0, entry = readdir(stream)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            rc = remove_name(dirfd(stream), entry->d_name, true, depth + 1, removed);
    int error = errno;
    if (stream)
        closedir(stream);
    errno = error;
    return rc < 0 || error != 0 ? -1 : 0;
}

static int remove_name(int dir, const char *name, bool recursive, unsigned depth, uint64_t *removed)
{
    int rc = unlinkat(dir, name, 0);
    if (rc < 0 && errno == EISDIR && depth >= DEPTH_MAX) {
        errno = E2BIG;
        return -1;
    }
    if (rc < 0 && errno == EISDIR) {
        rc = recursive ? remove_content(dir, name, depth, removed) : 0;
        if (rc == 0)
            rc = unlinkat(dir, name, AT_REMOVEDIR);
    }
    if (rc == 0)
        ++*removed;
    return rc;
}

int file_agent_remove(const struct file_agent *agent, const char *path, bool recursive,
                      uint64_t *ret_removed, struct af_error *err)
{
    const char *name;
    *ret_removed = 0;
    become(agent);
    AF_CLEANUP_FD int dir = resolve_parent(agent, path, &name);
    int rc = dir < 0 || remove_name(dir, name, recursive, 0, ret_removed) < 0
                 ? fail(err, "remove", path)
                 : 0;
    become_root();
    return rc;
}
