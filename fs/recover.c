// After a kill -9: ends the dead connection of the former daemon and unmounts it.
//
// Requests in flight over io_uring hang, unkillably, until their connection is aborted, so the
// abort comes first. Only mounts of our own type are touched. Owns nothing.
// Fails with a sentence. Read next: mounts.c.
#include "fs/session_priv.h"

#include "mux/base/cleanup.h"

#include <sys/mount.h>

#define STACKED_MAX 64 // mounts on top of each other; more means something else is going on

int fs_recover(const char *mountpoint, unsigned *ret_count, struct af_error *err)
{
    AF_CLEANUP_FREE char *path = NULL;
    unsigned count = 0;
    int rc = fs_mount_canonical(mountpoint, &path);
    if (rc != 0)
        return af_error_errno(err, rc, "mountpoint %s", mountpoint);
    for (; count < STACKED_MAX; count++) {
        struct fs_mount mount;
        rc = fs_mount_find(path, &mount);
        if (rc < 0)
            return af_error_errno(err, rc, "reading the list of mounts");
        if (rc == 0) {
            if (ret_count)
                *ret_count = count;
            return 0;
        }
        if (!mount.is_ours)
            return af_error_set(err, AF_FAILED_PRECONDITION,
                                "%s is a mount of type %s: unmount it or choose another mount "
                                "directory",
                                path, mount.type);
        rc = fs_mount_abort(mount.minor);
        if (rc != 0 && rc != -ENOENT) // gone already: what was wanted
            return af_error_errno(err, rc, "aborting the FUSE connection %u on %s", mount.minor,
                                  path);
        if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) != 0)
            return af_error_errno(err, errno, "unmounting %s", path);
    }
    return af_error_set(err, AF_FAILED_PRECONDITION,
                        "more than %d mounts are stacked on %s: unmount them", STACKED_MAX, path);
}
