// Who watches a codebase, and is told what changes in it: by uploads, imports and commits.
//
//   mux_listen     from when it returns, every change that is committed is told
//   mux_unlisten   nothing is told any more once it has returned
//
// Changes of one codebase are told in the order of their commits, after they are committed and
// before whoever made them has its answer. One upload is told as the file, and the directories that
// were made for it; an import or a commit as its difference, in path order: a removed or renamed
// directory is one change, whatever it holds.
// A codebase that nobody watches pays a shared lock and a look at an empty list for each change.
// Threads: any. Errors: an af_error. Read next: news.c, news_priv.h.
#ifndef AF_MUX_NEWS_H
#define AF_MUX_NEWS_H

#include "mux/base/id.h"
#include "mux/inspect.h"

#include <sys/queue.h>

struct mux_news_item {
    const struct mux_diff_entry *entry; // paths of the codebase; METADATA: mode, times, attributes
    const char *sandbox_id;             // whose commit it is; NULL: an upload, an import
    int64_t at_ns;                      // wall clock
};

// The caller's, from mux_listen to mux_unlisten. Its functions are called on the thread that makes
// the change: they neither block nor call mux.
struct mux_listener {
    struct af_id codebase_id;
    void (*changed)(void *arg, const struct mux_news_item *item);
    void (*lost)(void *arg, uint64_t count); // about so many changes could not be told
    void (*deleted)(void *arg);              // the codebase is gone; the last call
    void *arg;
    LIST_ENTRY(mux_listener) link; // mux's own
};

// NOT_FOUND; RESOURCE_EXHAUSTED beyond AF_WATCHERS_MAX listeners. Waits for changes under way.
int mux_listen(struct mux *mux, struct mux_listener *listener, struct af_error *err);
void mux_unlisten(struct mux *mux, struct mux_listener *listener);

#endif
