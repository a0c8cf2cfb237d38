// The fake mux's part in the open policy `server`. Part of fake_mux.h, which includes it.
#ifndef AF_TESTS_FS_FAKE_MUX_OPEN_H
#define AF_TESTS_FS_FAKE_MUX_OPEN_H

static __attribute__((unused)) void fake_fix(uint64_t nodeid)
{
    FAKE_WITH(node, nodeid, node->fixed = true);
}

static __attribute__((unused)) void fake_refuse_opens(uint64_t nodeid, int error)
{
    FAKE_WITH(node, nodeid, node->open_error = error);
}

int mux_open_check(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid, bool write,
                   struct mux_opened *ret)
{
    (void)mux;
    FAKE_BEGIN(node, nodeid)
    *ret = (struct mux_opened){
        .level = 3, // RULES_READ
        .fixed_size = node->fixed && !write ? (uint64_t)node->st.st_size : 0,
    };
    rc = node->open_error;
    FAKE_END
}

#endif
