// Nodeids: what they say, and that the kernel finds them as fast round many views as round one.
#include "mux/nodeid.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

// ---- what a nodeid says

static void test_a_nodeid_says_whose_it_is_and_which_file(void **state)
{
    (void)state;
    static const uint64_t numbers[] = {0, 1, 17, 1ULL << 20, MUX_FID_MASK};
    static const uint32_t slots[] = {1, 2, 400, (1u << MUX_SLOT_BITS) - 1};
    for (size_t s = 0; s < sizeof slots / sizeof slots[0]; s++) {
        for (uint64_t turn = 0; turn < 8; turn++) {
            uint32_t route = mux_route(slots[s], turn);
            for (size_t n = 0; n < sizeof numbers / sizeof numbers[0]; n++) {
                uint64_t own = mux_nodeid_private(route, numbers[n]);
                uint64_t pinned = mux_nodeid_pinned(route, numbers[n]);
                assert_false(mux_nodeid_is_shared(own));
                assert_true(mux_nodeid_is_shared(pinned));
                assert_int_equal(mux_nodeid_route(own), route);
                assert_int_equal(mux_nodeid_route(pinned), route);
                assert_int_equal(mux_nodeid_slot(own), slots[s]);
                assert_true(mux_nodeid_fid(own) == numbers[n]);
                assert_true(mux_nodeid_fid(pinned) == numbers[n]);
            }
        }
    }
    uint64_t shared = mux_nodeid_shared(MUX_CLASS_VIEW, 12345);
    assert_int_equal(mux_nodeid_class(shared), MUX_CLASS_VIEW);
    assert_true(mux_nodeid_fid(shared) == 12345);
    assert_true(mux_nodeid_fid(MUX_NODEID_TOP) == MUX_NODEID_TOP);
}

// ---- the kernel's table of inodes

#define TABLE_BITS 20 // of a machine with 16 GB
#define VIEWS      400
#define FILES      250
#define FIRST_FID  5000

// What fs/inode.c computes of a superblock's address and a nodeid.
static uint32_t kernel_bucket(uint64_t superblock, uint64_t nodeid)
{
    uint64_t ratio = 0x61c8864680b583ebULL;
    uint64_t hash = nodeid * superblock ^ (ratio + nodeid) / 64;
    hash ^= (hash ^ ratio) >> TABLE_BITS;
    return (uint32_t)(hash & ((1u << TABLE_BITS) - 1));
}

// How many inodes the kernel passes to find one of those of all views, on average.
static double steps_to_find(uint64_t superblock, uint64_t (*nodeid_of)(uint32_t, uint64_t))
{
    uint32_t *chains = calloc(1u << TABLE_BITS, sizeof *chains);
    assert_non_null(chains);
    double steps = 0;
    for (uint32_t slot = 1; slot <= VIEWS; slot++)
        for (uint64_t fid = FIRST_FID; fid < FIRST_FID + FILES; fid++)
            steps += ++chains[kernel_bucket(superblock, nodeid_of(mux_route(slot, 0), fid))];
    free(chains);
    return steps / (VIEWS * FILES);
}

static void test_files_of_many_views_do_not_meet_in_the_kernels_table(void **state)
{
    (void)state;
    static const uint64_t superblocks[] = {0xffff888103a5c800, 0xffff888104561000,
                                           0xffff8881a0b3f000, 0xffff8f2c41d07000};
    for (size_t i = 0; i < sizeof superblocks / sizeof superblocks[0]; i++) {
        assert_true(steps_to_find(superblocks[i], mux_nodeid_private) < 1.5);
        assert_true(steps_to_find(superblocks[i], mux_nodeid_pinned) < 1.5);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_nodeid_says_whose_it_is_and_which_file),
        cmocka_unit_test(test_files_of_many_views_do_not_meet_in_the_kernels_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
