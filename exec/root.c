// The read-only root of a box. The box's own tmpfs is the root; what is shared is bound into it,
// so that mount points never have to exist in the source.
//
// From the host come /usr (without /usr/local, which belongs to the machine's administrator) and
// of /etc only what programs need to start: alternatives, CA certificates, the linker's cache and
// the time zone. passwd, group, hosts and nsswitch.conf are generated: a sandbox learns nothing
// about the host's users and names.
// A given root directory is bound entry by entry, its symbolic links copied as links: bubblewrap
// resolves sources on the host, where an absolute link would lead out of that directory.
// Generated files go to bwrap by descriptor: it looks up paths as the sandbox's user, who cannot
// enter the daemon's directories.
// Owns: nothing. Locks: none. Fails: af_error or -errno. Read next: bwrap.c.
#include "exec/root.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "exec/init/protocol.h"
#include "mux/base/cleanup.h"

// %s is the host name, where there is one.
static const struct {
    const char *path;
    const char *text;
} files_made[EXEC_ROOT_FILES] = {
    {"/etc/passwd", "root:x:0:0:root:/root:/usr/sbin/nologin\n" EXEC_INSIDE_USER
                    ":x:1000:1000::" EXEC_INSIDE_HOME ":/bin/sh\n"
                    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"},
    {"/etc/group", "root:x:0:\ntty:x:5:\n" EXEC_INSIDE_USER ":x:1000:\nnogroup:x:65534:\n"},
    {"/etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"
                           "networks: files\nprotocols: files\nservices: files\nrpc: files\n"},
    {"/etc/hostname", "%s\n"},
    {"/etc/hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
                   "127.0.1.1 %s\n"},
};

// What the host's /etc lends, when it has it.
static const char *const etc_lent[] = {"/etc/alternatives", "/etc/ssl/certs", "/etc/ld.so.cache",
                                       "/etc/localtime"};

// Entries of a root directory that the box makes itself.
static const char *const own_entries[] = {".",   "..",  "dev",  "proc",      "sys",
                                          "tmp", "run", "home", "workspace", "lost+found"};

static void cleanup_dir(DIR **dir)
{
    if (*dir)
        closedir(*dir);
}

static int file_new(const char *text, const char *hostname, int *ret_fd)
{
    AF_CLEANUP_FD int fd = memfd_create("agentfense-etc", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    const char *mark = strstr(text, "%s");
    int n = mark ? dprintf(fd, "%.*s%s%s", (int)(mark - text), text, hostname, mark + 2)
                 : dprintf(fd, "%s", text);
    if (n < 0 || lseek(fd, 0, SEEK_SET) < 0)
        return -errno;
    *ret_fd = af_take_fd(&fd);
    return 0;
}

int exec_root_files_new(const char *hostname, struct exec_root_files *files)
{
    int e = 0;
    for (int i = 0; e == 0 && i < EXEC_ROOT_FILES; i++)
        e = file_new(files_made[i].text, hostname, &files->fds[i]);
    return e;
}

void exec_root_files_close(struct exec_root_files *files)
{
    for (int i = 0; i < EXEC_ROOT_FILES; i++) {
        af_cleanup_fd(&files->fds[i]);
        files->fds[i] = -1;
    }
}

// Binds or links one top-level entry of a root, as it is there.
static void bind_entry(struct exec_argv *argv, const char *root, const char *name)
{
    char path[PATH_MAX], inside[NAME_MAX + 2], target[PATH_MAX];
    snprintf(path, sizeof(path), "%s/%s", root, name);
    snprintf(inside, sizeof(inside), "/%s", name);
    struct stat st;
    if (lstat(path, &st) < 0)
        return;
    if (S_ISLNK(st.st_mode)) {
        ssize_t n = readlink(path, target, sizeof(target) - 1);
        if (n < 0)
            return;
        target[n] = '\0';
        exec_argv_add3(argv, "--symlink", target, inside);
    } else if (S_ISDIR(st.st_mode) || S_ISREG(st.st_mode)) {
        exec_argv_add3(argv, "--ro-bind", path, inside);
    }
}

// An empty, read-only directory over one that is there.
static void cover(struct exec_argv *argv, const char *path)
{
    exec_argv_add3(argv, "--size", "4096", "--tmpfs");
    exec_argv_add(argv, "%s", path);
    exec_argv_add(argv, "--remount-ro");
    exec_argv_add(argv, "%s", path);
}

// Adds one generated file; `option` is --file (into the box's own /etc) or --ro-bind-data (over
// a file that is there).
static void add_file(struct exec_argv *argv, const char *option,
                     const struct exec_root_files *files, int index)
{
    exec_argv_add3(argv, "--perms", "0644", option);
    exec_argv_add(argv, "%d", files->fds[index]);
    exec_argv_add(argv, "%s", files_made[index].path);
}

void exec_root_host(struct exec_argv *argv, const struct exec_root_files *files)
{
    static const char *const names[] = {"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"};
    for (size_t i = 0; i < AF_ARRAY_LEN(names); i++)
        bind_entry(argv, "", names[i]);
    struct stat st;
    if (stat("/usr/local", &st) == 0)
        cover(argv, "/usr/local");
    for (int i = 0; i < EXEC_ROOT_FILES; i++)
        add_file(argv, "--file", files, i);
    for (size_t i = 0; i < AF_ARRAY_LEN(etc_lent); i++)
        exec_argv_add3(argv, "--ro-bind-try", etc_lent[i], etc_lent[i]);
    exec_argv_add3(argv, "--symlink", "../proc/self/mounts", "/etc/mtab");
    exec_argv_add3(argv, "--symlink", "/tmp", "/var/tmp");
}

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

int exec_root_directory(struct exec_argv *argv, const struct exec_root_files *files,
                        const char *rootfs, struct af_error *err)
{
    AF_CLEANUP(cleanup_dir) DIR *dir = opendir(rootfs);
    if (!dir)
        return af_error_errno(err, errno, "cannot use %s as a root directory", rootfs);
    struct dirent *entry;
    while ((entry = readdir(dir)))
        if (!is_own(entry->d_name))
            bind_entry(argv, rootfs, entry->d_name);
    for (int i = 0; i < EXEC_ROOT_FILES; i++)
        if (has_etc_file(rootfs, files_made[i].path))
            add_file(argv, "--ro-bind-data", files, i);
    return 0;
}
