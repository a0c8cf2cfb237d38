// The part of the fake mux that fs/taps.c asks: where something is, and who is attached. Included
// by fake_mux.h, after what it is made of.
#ifndef AF_TESTS_FS_FAKE_MUX_LOCATE_H
#define AF_TESTS_FS_FAKE_MUX_LOCATE_H

// Paths are of two components at most here: the directory's name and the child's.
int mux_locate(struct mux *mux, uint64_t nodeid, uid_t uid, const char *name, bool ask_hidden,
               struct mux_place *ret)
{
    (void)uid;
    (void)ask_hidden;
    pthread_mutex_lock(&mux->lock);
    const struct fake_node *node = fake_get(nodeid);
    int rc = !node ? -ENOENT : node->stale ? -ESTALE : 0;
    if (rc == 0) {
        *ret = (struct mux_place){.mode = name ? 0 : node->st.st_mode};
        snprintf(ret->sandbox_id.text, sizeof ret->sandbox_id.text, "%s", FAKE_SANDBOX);
        ret->len = (size_t)snprintf(ret->path, sizeof ret->path, "%s%s%s", node->name,
                                    name ? "/" : "", name ? name : "");
    }
    pthread_mutex_unlock(&mux->lock);
    return rc;
}

// The sandbox of the fake's slot is attached always, no other.
bool mux_view_uid(struct mux *mux, const char *id, uid_t *ret_uid)
{
    (void)mux;
    *ret_uid = FAKE_SLOT;
    return strcmp(id, FAKE_SANDBOX) == 0;
}

#endif
