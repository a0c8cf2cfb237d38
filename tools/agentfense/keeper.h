// A private daemon for one run, that is gone afterwards whatever happens to the tool.
//
// The tool forks a small keeper process, which makes the daemon its child and waits on a pipe whose
// other end only the tool holds. When that closes, because the tool is done or because it was
// killed, the keeper stops the daemon, unmounts what is left and removes the directory. Should the
// keeper itself be killed, the kernel ends the daemon (PR_SET_PDEATHSIG), which unmounts.
// Everything is below one directory of mode 0700 in $TMPDIR or /tmp.
// Thread: one, and to be called before the tool has open connections. Read next: keeper.c.
#ifndef AF_TOOLS_AGENTFENSE_KEEPER_H
#define AF_TOOLS_AGENTFENSE_KEEPER_H

#include "mux/base/error.h"

#include <stdbool.h>
#include <sys/types.h>

#define KEEPER_DIR_MAX 96 // so that DIR/socket fits into a sockaddr_un

struct keeper {
    char dir[KEEPER_DIR_MAX];
    char socket[KEEPER_DIR_MAX + 8];
    pid_t pid; // 0: none
    int control;
};

// Returns when the daemon serves. On failure nothing is left behind, and the sentence has the end
// of the daemon's log.
int keeper_start(struct keeper *keeper, struct af_error *err);

// Ends the daemon and waits until everything is gone. Returns false when something was left
// behind, having said so on stderr. Nothing to do when it was not started.
bool keeper_stop(struct keeper *keeper);

#endif
