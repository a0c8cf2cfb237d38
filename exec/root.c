// The read-only root of a box. A tmpfs is the root; what is shared is bound into it, so that mount
// points never have to exist in the source. It is put together once and bound by every box:
// bubblewrap reads the whole table of mounts for each thing it is told to bind.
//
// From the host come /usr (without /usr/local, which belongs to the machine's administrator) and
// of /etc only what programs need to start: alternatives, CA certificates, the linker's cache and
// the time zone. passwd, group, hosts and nsswitch.conf are generated: a sandbox learns nothing
// about the host's users and names. Devices are those that every program may use.
// A given root directory is bound entry by entry, its symbolic links copied as links, which then
// lead where they lead inside.
// The sources may be exchanged while the daemon runs (the linker's cache is, by every update of the
// host): the root keeps the old ones, so marks tell when it has to be made anew.
// Owns: nothing; mounts belong to the calling thread's namespace and go with it, also after a
// failure. Locks: none. Fails: af_error or -errno. Read next: stage.c, bwrap.c.
#include "exec/root.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "exec/init/protocol.h"
#include "mux/base/cleanup.h"

#define FILE_MAX 1024u // bytes of a generated file, which are as above

// %s is the host name, where there is one.
static const struct {
    const char *path;
    const char *text;
} files_made[EXEC_ROOT_FILES] = {
    [EXEC_ROOT_PASSWD] = {"/etc/passwd",
                          "root:x:0:0:root:/root:/usr/sbin/nologin\n" EXEC_INSIDE_USER
                          ":x:1000:1000::" EXEC_INSIDE_HOME ":/bin/sh\n"
                          "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"},
    [EXEC_ROOT_GROUP] = {"/etc/group",
                         "root:x:0:\ntty:x:5:\n" EXEC_INSIDE_USER ":x:1000:\nnogroup:x:65534:\n"},
    [EXEC_ROOT_NSSWITCH] = {"/etc/nsswitch.conf",
                            "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"
                            "networks: files\nprotocols: files\nservices: files\nrpc: files\n"},
    [EXEC_ROOT_HOSTNAME] = {"/etc/hostname", "%s\n"},
    [EXEC_ROOT_HOSTS] = {"/etc/hosts",
                         "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
                         "127.0.1.1 %s\n"},
};

// What the host's /etc lends, when it has it.
static const char *const etc_lent[] = {"/etc/alternatives", "/etc/ssl/certs", "/etc/ld.so.cache",
                                       "/etc/localtime"};

#define RESOLVER "/etc/resolv.conf"

// The top of the host's root: /usr, and what leads into it or is beside it on older systems.
static const char *const host_top[] = {"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"};

// Entries of a root directory that the box makes itself.
static const char *const own_entries[] = {".",   "..",  "dev",  "proc",      "sys",
                                          "tmp", "run", "home", "workspace", "lost+found"};

static const char *const devices[] = {"/dev/null",   "/dev/zero",    "/dev/full",
                                      "/dev/random", "/dev/urandom", "/dev/tty"};

static const struct {
    const char *target, *name;
} device_links[] = {{"/proc/self/fd", "fd"},       {"/proc/self/fd/0", "stdin"},
                    {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"},
                    {"/proc/kcore", "core"},       {"pts/ptmx", "ptmx"}};

static void cleanup_dir(DIR **dir)
{
    if (*dir)
        closedir(*dir);
}

// ---- generated files ----------------------------------------------------------------------

const char *exec_root_file_path(enum exec_root_file file)
{
    return files_made[file].path;
}

static void text_of(enum exec_root_file file, const char *hostname, char ret[FILE_MAX])
{
    const char *text = files_made[file].text, *mark = strstr(text, "%s");
    if (mark)
        snprintf(ret, FILE_MAX, "%.*s%s%s", (int)(mark - text), text, hostname, mark + 2);
    else
        snprintf(ret, FILE_MAX, "%s", text);
}

int exec_root_file_new(enum exec_root_file file, const char *hostname, int *ret_fd)
{
    char text[FILE_MAX];
    AF_CLEANUP_FD int fd = memfd_create("agentfense-etc", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    text_of(file, hostname, text);
    if (write(fd, text, strlen(text)) != (ssize_t)strlen(text) || lseek(fd, 0, SEEK_SET) < 0)
        return -errno;
    *ret_fd = af_take_fd(&fd);
    return 0;
}

// ---- mounts and entries -------------------------------------------------------------------

struct build {
    const char *dir;
    struct af_error *err;
    bool failed;
};

static void fail(struct build *build, int e, const char *what)
{
    if (!build->failed)
        af_error_errno(build->err, e, "cannot put the sandboxes' root together: %s", what);
    build->failed = true;
}

// Where `path`, absolute inside, is now.
static const char *at(const struct build *build, const char *path, char buffer[PATH_MAX])
{
    snprintf(buffer, PATH_MAX, "%s%s", build->dir, path);
    return buffer;
}

static void make_dir(struct build *build, const char *path)
{
    char full[PATH_MAX];
    if (mkdir(at(build, path, full), 0755) < 0 && errno != EEXIST)
        fail(build, errno, path);
}

static void make_parents(struct build *build, const char *path)
{
    char parent[PATH_MAX];
    for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        snprintf(parent, sizeof(parent), "%.*s", (int)(slash - path), path);
        make_dir(build, parent);
    }
}

static void make_link(struct build *build, const char *target, const char *path)
{
    char full[PATH_MAX];
    if (symlink(target, at(build, path, full)) < 0)
        fail(build, errno, path);
}

// A file with this text; NULL: an empty one, to be covered.
static void make_file(struct build *build, const char *path, const char *text)
{
    char full[PATH_MAX];
    AF_CLEANUP_FD int fd =
        open(at(build, path, full), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0 || (text && write(fd, text, strlen(text)) != (ssize_t)strlen(text)))
        fail(build, errno, path);
}

static int bind_tree(const char *source, const char *target)
{
    return mount(source, target, NULL, MS_BIND | MS_REC | MS_SILENT, NULL);
}

static void set_attributes(struct build *build, const char *path, uint64_t attributes,
                           bool recursive)
{
    char full[PATH_MAX];
    struct mount_attr attr = {.attr_set = attributes};
    if (mount_setattr(AT_FDCWD, at(build, path, full), recursive ? AT_RECURSIVE : 0, &attr,
                      sizeof(attr)) < 0)
        fail(build, errno, path);
}

// Binds, or copies as a link, a thing of the host to a path inside where there is nothing yet.
// What is not there, or is neither file, directory nor link, is left out.
static void lend(struct build *build, const char *source, const char *path)
{
    char full[PATH_MAX], target[PATH_MAX];
    struct stat st;
    if (lstat(source, &st) < 0)
        return;
    if (S_ISLNK(st.st_mode)) {
        ssize_t n = readlink(source, target, sizeof(target) - 1);
        target[n > 0 ? n : 0] = '\0';
        if (n > 0)
            make_link(build, target, path);
        return;
    }
    if (S_ISDIR(st.st_mode))
        make_dir(build, path);
    else if (S_ISREG(st.st_mode))
        make_file(build, path, NULL);
    else
        return;
    if (bind_tree(source, at(build, path, full)) < 0)
        fail(build, errno, source);
}

// ---- what every root has ------------------------------------------------------------------

static void build_places(struct build *build)
{
    static const char *const places[] = {"/proc", "/dev",           "/tmp",
                                         "/run",  EXEC_INSIDE_HOME, "/workspace"};
    for (size_t i = 0; i < AF_ARRAY_LEN(places); i++) {
        make_parents(build, places[i]);
        make_dir(build, places[i]);
    }
}

// Of the root's mounts only these may have devices.
static void build_devices(struct build *build)
{
    char full[PATH_MAX], path[64];
    if (mount("tmpfs", at(build, "/dev", full), "tmpfs", MS_NOSUID | MS_NOEXEC,
              "mode=0755,size=64k") < 0)
        fail(build, errno, "/dev");
    for (size_t i = 0; i < AF_ARRAY_LEN(devices); i++) {
        make_file(build, devices[i], NULL);
        if (bind_tree(devices[i], at(build, devices[i], full)) < 0)
            fail(build, errno, devices[i]);
    }
    for (size_t i = 0; i < AF_ARRAY_LEN(device_links); i++) {
        snprintf(path, sizeof(path), "/dev/%s", device_links[i].name);
        make_link(build, device_links[i].target, path);
    }
    make_dir(build, "/dev/pts"); // mounted in each box (attach.c)
    make_dir(build, "/dev/shm"); // mounted in each box (bwrap.c)
    set_attributes(build, "/dev", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, true);
    set_attributes(build, "/dev", MOUNT_ATTR_RDONLY, false);
}

// ---- the host's -----------------------------------------------------------------------------

static void lend_top(struct build *build)
{
    char path[64];
    for (size_t i = 0; i < AF_ARRAY_LEN(host_top); i++) {
        snprintf(path, sizeof(path), "/%s", host_top[i]);
        lend(build, path, path);
    }
}

static void lend_end(struct build *build, const char *path)
{
    AF_CLEANUP_FREE char *real = realpath(path, NULL); // a link's end, not the link
    if (real)
        lend(build, real, path);
}

static void build_etc(struct build *build, bool resolver)
{
    char text[FILE_MAX];
    make_dir(build, "/etc");
    for (int i = 0; i < EXEC_ROOT_FILES; i++) {
        text_of(i, EXEC_HOSTNAME, text);
        make_file(build, files_made[i].path, text);
    }
    for (size_t i = 0; i < AF_ARRAY_LEN(etc_lent); i++) {
        make_parents(build, etc_lent[i]);
        lend_end(build, etc_lent[i]);
    }
    if (resolver)
        lend_end(build, RESOLVER);
    make_link(build, "../proc/self/mounts", "/etc/mtab");
}

static void build_host(struct build *build, bool resolver)
{
    char full[PATH_MAX];
    struct stat st;
    lend_top(build);
    if (stat("/usr/local", &st) == 0 &&
        mount("tmpfs", at(build, "/usr/local", full), "tmpfs", 0, "mode=0755,size=4k") < 0)
        fail(build, errno, "/usr/local");
    build_etc(build, resolver);
    make_dir(build, "/var");
    make_link(build, "/tmp", "/var/tmp");
}

// ---- a directory's --------------------------------------------------------------------------

// Whether the root has a plain file there in a plain /etc, to be covered by the generated one.
// Through a link the cover would land elsewhere.
static bool has_etc_file(const char *rootfs, const char *path)
{
    char full[PATH_MAX];
    struct stat st;
    snprintf(full, sizeof(full), "%s/etc", rootfs);
    if (lstat(full, &st) < 0 || !S_ISDIR(st.st_mode))
        return false;
    snprintf(full, sizeof(full), "%s%s", rootfs, path);
    return lstat(full, &st) == 0 && S_ISREG(st.st_mode);
}

static bool is_own(const char *name)
{
    for (size_t i = 0; i < AF_ARRAY_LEN(own_entries); i++)
        if (strcmp(name, own_entries[i]) == 0)
            return true;
    return false;
}

// The generated files lie in a tmpfs that is mounted on /workspace until they are bound.
static void cover_files(struct build *build, const char *rootfs)
{
    char text[FILE_MAX], made[64], from[PATH_MAX], to[PATH_MAX];
    for (int i = 0; i < EXEC_ROOT_FILES; i++) {
        if (!has_etc_file(rootfs, files_made[i].path))
            continue;
        text_of(i, EXEC_HOSTNAME, text);
        snprintf(made, sizeof(made), "/workspace/%d", i);
        make_file(build, made, text);
        if (bind_tree(at(build, made, from), at(build, files_made[i].path, to)) < 0)
            fail(build, errno, files_made[i].path);
    }
}

static int build_directory(struct build *build, const char *rootfs, bool resolver)
{
    AF_CLEANUP(cleanup_dir) DIR *dir = opendir(rootfs);
    if (!dir)
        return af_error_errno(build->err, errno, "cannot use %s as a root directory", rootfs);
    char source[PATH_MAX], path[NAME_MAX + 2], full[PATH_MAX];
    struct dirent *entry;
    while ((entry = readdir(dir))) {
        if (is_own(entry->d_name))
            continue;
        snprintf(source, sizeof(source), "%s/%s", rootfs, entry->d_name);
        snprintf(path, sizeof(path), "/%s", entry->d_name);
        lend(build, source, path);
    }
    if (mount("tmpfs", at(build, "/workspace", full), "tmpfs", 0, "mode=0755,size=256k") < 0)
        fail(build, errno, "/workspace");
    cover_files(build, rootfs);
    if (resolver && has_etc_file(rootfs, RESOLVER) && access(RESOLVER, F_OK) == 0 &&
        bind_tree(RESOLVER, at(build, RESOLVER, full)) < 0)
        fail(build, errno, RESOLVER);
    if (umount2(at(build, "/workspace", full), MNT_DETACH) < 0)
        fail(build, errno, "/workspace");
    return 0;
}

bool exec_root_has(const char *rootfs, enum exec_root_file file)
{
    return !rootfs || has_etc_file(rootfs, files_made[file].path);
}

int exec_root_build(const struct exec_root *root, const char *dir, struct af_error *err)
{
    struct build build = {.dir = dir, .err = err};
    if (mount("tmpfs", dir, "tmpfs", 0, "mode=0755,size=1m") < 0)
        return af_error_errno(err, errno, "cannot mount a tmpfs for the sandboxes' root");
    build_places(&build);
    if (!root->rootfs)
        build_host(&build, root->resolver);
    else if (build_directory(&build, root->rootfs, root->resolver) < 0)
        return -1;
    set_attributes(&build, "", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, true);
    build_devices(&build);
    return build.failed ? -1 : 0;
}

int exec_root_lend_host(const char *dir, const char *program, struct af_error *err)
{
    struct build build = {.dir = dir, .err = err};
    char top[PATH_MAX], full[PATH_MAX];
    struct stat st;
    lend_top(&build);
    int len = (int)strcspn(program + 1, "/") + 1; // its first component
    snprintf(top, sizeof(top), "%.*s", len, program);
    if (lstat(at(&build, top, full), &st) < 0)
        lend(&build, top, top);
    return build.failed ? -1 : 0;
}

// ---- what it is made of ---------------------------------------------------------------------

static void mark(struct exec_root_mark *mark, const char *path, int flags, bool listing)
{
    struct stat st;
    if (fstatat(AT_FDCWD, path, &st, flags) < 0)
        return;
    mark->dev = st.st_dev;
    mark->ino = st.st_ino;
    if (listing || !S_ISDIR(st.st_mode)) // what happens in a directory shows through its mount
        mark->changed = st.st_ctim;
}

void exec_root_look(const struct exec_root *root, struct exec_root_marks *ret)
{
    struct exec_root_mark *next = ret->at;
    char path[PATH_MAX];
    memset(ret, 0, sizeof(*ret));
    if (root->resolver)
        mark(next++, RESOLVER, 0, false);
    if (root->rootfs) {
        mark(next++, root->rootfs, 0, true);
        snprintf(path, sizeof(path), "%s/etc", root->rootfs);
        mark(next++, path, AT_SYMLINK_NOFOLLOW, true);
        return;
    }
    for (size_t i = 0; i < AF_ARRAY_LEN(host_top); i++) {
        snprintf(path, sizeof(path), "/%s", host_top[i]);
        mark(next++, path, AT_SYMLINK_NOFOLLOW, false);
    }
    mark(next++, "/usr/local", 0, false);
    for (size_t i = 0; i < AF_ARRAY_LEN(etc_lent); i++)
        mark(next++, etc_lent[i], 0, false);
    static_assert(AF_ARRAY_LEN(host_top) + AF_ARRAY_LEN(etc_lent) + 2 <= EXEC_ROOT_MARKS, "room");
}

bool exec_root_same(const struct exec_root_marks *a, const struct exec_root_marks *b)
{
    for (size_t i = 0; i < EXEC_ROOT_MARKS; i++) {
        const struct exec_root_mark *x = &a->at[i], *y = &b->at[i];
        if (x->dev != y->dev || x->ino != y->ino || x->changed.tv_sec != y->changed.tv_sec ||
            x->changed.tv_nsec != y->changed.tv_nsec)
            return false;
    }
    return true;
}
