// Loading a stack's layer ids. Read next: layer_list.h.
#include "mux/layer_list.h"

#include <errno.h>

#define FIRST_CAPACITY 32 // stacks are shallow; deeper ones are read twice

int mux_layer_list_load(struct store_txn *txn, uint64_t live, uint64_t stack,
                        struct mux_layer_list *ret)
{
    size_t above = live ? 1 : 0;
    size_t capacity = FIRST_CAPACITY;
    for (;;) {
        AF_CLEANUP_FREE uint64_t *ids = calloc(above + capacity, sizeof *ids);
        if (!ids)
            return -ENOMEM;
        size_t count = 0;
        int rc = store_stack_get(txn, stack, ids + above, capacity, &count);
        if (rc < 0)
            return rc;
        if (count > capacity) {
            capacity = count;
            continue;
        }
        if (live)
            ids[0] = live;
        *ret = (struct mux_layer_list){.ids = AF_TAKE_PTR(ids), .count = above + count};
        return 0;
    }
}

void mux_layer_list_fini(struct mux_layer_list *list)
{
    free(list->ids);
    *list = (struct mux_layer_list){0};
}
