// Checking the store against itself, and repairing it.
//
// A check looks at one consistent state, writes nothing, and says in a sentence what is wrong. A
// repair works on a store that nobody else has open (store_open_for_fsck): each pass is one write
// transaction, so a crash in the middle leaves a store that another repair goes on with. Content
// that no name leads to any more is put back under its name or, when that is not possible, copied
// to DIR/lost+found, which no sandbox sees.
// Memory is bounded by the windows in fsck_priv.h, whatever the size of the store, but for one
// number for each layer.
// Fails: -errno when the check itself could not be done. Thread: a check may run beside everything
// else; a repair may not. Read next: fsck_priv.h, docs/STORE.md.
#ifndef AF_MUX_STORE_FSCK_H
#define AF_MUX_STORE_FSCK_H

#include "mux/store/store.h"

struct store_finding {
    const char *kind; // a word that stays the same: "entry-target"
    const char *text; // a sentence, printable UTF-8
    bool repairable;
    bool repaired;
};

struct store_fsck_options {
    bool repair;
    bool deep; // read every blob that has a digest and compare
    // Called for each finding; a value other than 0 ends the check and is returned. May be NULL.
    int (*fn)(void *arg, const struct store_finding *finding);
    void *arg;
};

struct store_fsck_result {
    uint64_t records;  // looked at in the last round
    uint64_t found;    // findings of the first round
    uint64_t repaired; // repairs made, in all rounds
    uint64_t left;     // findings of the last round
};

// Opens a state directory for a check or a repair: it must exist; nothing is started, and without
// `repair` nothing is written but for what a power cut makes necessary (durability.c).
int store_open_for_fsck(const char *dir, bool repair, struct store **ret, struct af_error *err);

int store_fsck(struct store *store, const struct store_fsck_options *options,
               struct store_fsck_result *ret);

#endif
