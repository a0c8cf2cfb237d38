// Files of a running sandbox as its agent would use them: through the mount, under its uid.
//
// So the rules, quotas and caches that hold for the agent hold here, by the same code. Every path
// is resolved with the view's root as the root (RESOLVE_IN_ROOT): no link leads out of it.
// The calling thread takes the sandbox's file-system uid for the length of one call; root's
// capabilities over files go with it. Calls block as long as the file system does: any thread but
// those of fs. Errors: an af_error, NOT_FOUND for what is hidden, PERMISSION_DENIED for what is
// forbidden, FAILED_PRECONDITION when the sandbox is not running. Read next: file_agent.c.
#ifndef AF_API_SERVICES_FILE_AGENT_H
#define AF_API_SERVICES_FILE_AGENT_H

#include "api/services/common.h"
#include "mux/inspect.h"

#include <sys/stat.h>

struct file_agent {
    int root; // the view's directory
    uid_t uid;
};

// On success to be closed.
int file_agent_open(struct daemon *daemon, ProtobufCBinaryData sandbox_id, struct file_agent *ret,
                    struct af_error *err);
void file_agent_close(struct file_agent *agent);

// A path in a request, without slashes in front and NUL-terminated; to be freed.
int file_agent_path(ProtobufCBinaryData field, char **ret, struct af_error *err);

// A regular file for reading. *ret_fd is the caller's.
int file_agent_read(const struct file_agent *agent, const char *path, int *ret_fd,
                    struct af_error *err);
// Replaces a file's content by that of `from` (a file of the host, from its beginning), making the
// file when it is not there. mode 0: 0644.
int file_agent_write(const struct file_agent *agent, const char *path, mode_t mode, int from,
                     struct af_error *err);
// Attributes of the name itself, and a link's target where the agent may read it, else "".
int file_agent_stat(const struct file_agent *agent, const char *path, struct stat *ret,
                    char target[AF_SYMLINK_MAX + 1], struct af_error *err);
int file_agent_mkdir(const struct file_agent *agent, const char *path, mode_t mode,
                     struct af_error *err);
int file_agent_rename(const struct file_agent *agent, const char *from, const char *to,
                      struct af_error *err);
// path: of the new name. A symbolic link, or, when hard, one more name for the file `target`.
int file_agent_link(const struct file_agent *agent, const char *path, const char *target, bool hard,
                    struct af_error *err);
// Counts what it has removed, also when it then fails.
int file_agent_remove(const struct file_agent *agent, const char *path, bool recursive,
                      uint64_t *ret_removed, struct af_error *err);

#endif
