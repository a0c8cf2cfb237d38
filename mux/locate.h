// Where a request was: from a nodeid to a path, for those who watch (fs/taps.c).
//
// Called for one request at a time, after it has been done and before it is answered: the kernel
// still holds the directory of a change, so the path is the one that the change was made by. The
// climb is bounded, in bytes and in levels: of what lies deeper the end of the path is given.
// Within the view's lock (shared) and one read transaction. -ESTALE: nobody's nodeid; -ENOENT: no
// name leads there any more. Owns nothing, allocates nothing. Read next: locate.c.
#ifndef AF_MUX_LOCATE_H
#define AF_MUX_LOCATE_H

#include "mux/base/id.h"
#include "mux/base/limits.h"
#include "mux/mux.h"

struct mux_place {
    mode_t mode; // of what is there; 0: nothing
    bool hidden; // the name is absent by a rule's word; filled only when it is asked for
    bool is_cut; // the beginning is missing: the path is too long or too deep
    struct af_id sandbox_id; // whose view it is
    size_t len;
    char path[AF_PATH_MAX + 1]; // NUL-terminated, relative to the view's root; "" is the root
};

// `name` (may be NULL) is in the directory `nodeid`. `uid` tells the view of a shared nodeid: that
// of the caller. ret is filled only on success.
int mux_locate(struct mux *mux, uint64_t nodeid, uid_t uid, const char *name, bool ask_hidden,
               struct mux_place *ret);

#endif
