// Limits of a view: what waits, for how long, in what order, and what never does. No mount, no
// thread, no clock but the one in the calls: what is to go is collected by hand.
#include "fs/limit_priv.h"

#include "mux/nodeid.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MS     INT64_C(1000000)
#define KIB    1024u
#define UID(n) (200000u + (n))

enum { VIEW = 7, OTHER = 8, FID = 5 };

static struct fs_session session;
static char request[4096]; // of no transport that has a payload
static int64_t now_ns;     // moved by the tests alone

static int setup(void **state)
{
    (void)state;
    session = (struct fs_session){.uid_base = UID(0), .policy = FS_OPEN_KERNEL};
    session.counters = fs_counters_new();
    assert_non_null(session.counters);
    assert_int_equal(fs_limits_new(&session), 0);
    now_ns = af_monotonic_ns();
    return 0;
}

static void drop_going(void)
{
    struct fs_held *held;
    while ((held = TAILQ_FIRST(&session.limits->going))) {
        TAILQ_REMOVE(&session.limits->going, held, link);
        free(held);
    }
}

static int teardown(void **state)
{
    (void)state;
    fs_limits_close(&session);
    drop_going();
    fs_limits_free(&session);
    fs_counters_free(session.counters);
    return 0;
}

static void limit(uint32_t slot, uint64_t iops, uint64_t bandwidth)
{
    fs_limit_set(&session, slot, iops, bandwidth, now_ns);
}

static int never_run(struct fs_call *call)
{
    (void)call;
    fail_msg("nothing is run here");
    return 0;
}

static struct fs_call call_of(enum fs_op op, uint32_t slot, uint64_t fid)
{
    return (struct fs_call){
        .session = &session,
        .req = (fuse_req_t)request,
        .op = op,
        .start_ns = now_ns,
        .ctx = {.uid = UID(slot)},
        .nodeid = mux_nodeid_private(mux_route(slot, 0), fid),
    };
}

static bool holds(struct fs_call call)
{
    return fs_limit_holds(&call, never_run);
}

static bool looks_up(uint32_t slot)
{
    return holds(call_of(FS_OP_LOOKUP, slot, FID));
}

static bool reads(uint32_t slot, size_t size)
{
    struct fs_call call = call_of(FS_OP_READ, slot, FID);
    call.size = size;
    return holds(call);
}

// A WRITE that has run; whether its answer waits.
static bool has_written(struct fs_call call, size_t size)
{
    static const char data[1 << 20];
    call.data = data;
    call.size = size;
    assert_false(fs_limit_holds(&call, never_run));
    return call.limited && fs_limit_settle(&call, 0, now_ns);
}

// How many go by now.
static unsigned go(void)
{
    unsigned n = 0;
    struct fs_held *held;
    fs_limits_collect(session.limits, now_ns, UINT32_MAX);
    TAILQ_FOREACH(held, &session.limits->going, link)
    n++;
    drop_going();
    return n;
}

static void test_a_view_without_a_limit_is_not_held(void **state)
{
    (void)state;
    limit(OTHER, 1, 0);
    for (int i = 0; i < 1000; i++)
        assert_false(looks_up(VIEW));
}

static void test_requests_go_at_the_rate_and_no_faster(void **state)
{
    (void)state;
    limit(VIEW, 100, 0); // one in 10 ms
    assert_false(looks_up(VIEW));
    for (int i = 0; i < 50; i++)
        assert_true(looks_up(VIEW));
    for (int i = 1; i <= 50; i++) {
        now_ns += 10 * MS - 1000;
        assert_int_equal(go(), 0);
        now_ns += 1000;
        assert_int_equal(go(), 1);
    }
    assert_int_equal(fs_limits_held(&session), 0);
    assert_int_equal(fs_limits_due_ns(session.limits), INT64_MAX);
}

static void test_what_is_saved_is_a_tenth_of_a_second(void **state)
{
    (void)state;
    limit(VIEW, 100, 0);
    assert_false(looks_up(VIEW));
    now_ns += 3600 * AF_NS_PER_SEC;
    unsigned n = 0;
    while (!looks_up(VIEW))
        n++;
    assert_int_equal(n, 11); // of 100 ms, and the one whose time it is
}

static void test_bytes_go_at_the_rate_whatever_their_pieces(void **state)
{
    (void)state;
    limit(VIEW, 0, 100 * KIB);
    assert_false(reads(VIEW, 50 * KIB));
    for (int i = 0; i < 10; i++)
        assert_true(reads(VIEW, i % 2 ? 10 * KIB : 90 * KIB)); // 500 KiB
    unsigned went = 0;
    for (int ms = 1; ms < 5400; ms++) { // the last one's price is for who comes next
        now_ns += MS;
        went += go();
        assert_true(went > 0 || ms < 500);
    }
    assert_int_equal(went, 9);
    now_ns += MS;
    assert_int_equal(go(), 1);
}

static void test_one_that_is_larger_than_a_second_goes_and_is_paid_for(void **state)
{
    (void)state;
    limit(VIEW, 0, AF_BANDWIDTH_MIN);
    assert_false(reads(VIEW, FS_IO_MAX));
    assert_true(reads(VIEW, 1));
    now_ns += 16 * AF_NS_PER_SEC - 1 * MS;
    assert_int_equal(go(), 0);
    now_ns += 1 * MS;
    assert_int_equal(go(), 1);
}

static void test_a_read_gets_back_what_there_was_not(void **state)
{
    (void)state;
    limit(VIEW, 0, 100 * KIB);
    struct fs_call call = call_of(FS_OP_READ, VIEW, FID);
    call.size = 100 * KIB;
    assert_false(fs_limit_holds(&call, never_run));
    assert_true(looks_up(VIEW));
    call.answer = FS_ANSWER_BUF;
    call.out.buf.size = 1 * KIB;
    assert_true(call.limited);
    assert_false(fs_limit_settle(&call, 0, now_ns));
    now_ns += 10 * MS;
    assert_int_equal(go(), 1);
}

static void test_what_was_copied_is_charged_when_it_is_known(void **state)
{
    (void)state;
    limit(VIEW, 0, 100 * KIB);
    struct fs_call call = call_of(FS_OP_COPY_FILE_RANGE, VIEW, FID);
    call.size = 1 << 30;
    assert_false(fs_limit_holds(&call, never_run));
    assert_false(looks_up(VIEW));
    call.size = 200 * KIB;
    assert_false(fs_limit_settle(&call, 0, now_ns));
    assert_true(looks_up(VIEW));
    now_ns += 1999 * MS;
    assert_int_equal(go(), 0);
    now_ns += 1 * MS;
    assert_int_equal(go(), 1);
}

static void test_the_answer_of_a_write_waits_and_not_the_write(void **state)
{
    (void)state;
    limit(VIEW, 0, 100 * KIB);
    assert_false(has_written(call_of(FS_OP_WRITE, VIEW, FID), 50 * KIB));
    assert_true(has_written(call_of(FS_OP_WRITE, VIEW, FID), 50 * KIB));
    assert_int_equal(session.limits->held_bytes, 0);
    assert_true(looks_up(VIEW)); // behind it
    now_ns += 499 * MS;
    assert_int_equal(go(), 0);
    now_ns += 1 * MS;
    fs_limits_collect(session.limits, now_ns, UINT32_MAX);
    struct fs_held *held = TAILQ_FIRST(&session.limits->going);
    assert_non_null(held);
    assert_null(held->run); // to be answered
    drop_going();
    now_ns += 500 * MS;
    assert_int_equal(go(), 1);
}

static void test_pages_that_the_kernel_writes_back_are_charged_and_not_held(void **state)
{
    (void)state;
    limit(VIEW, 0, 100 * KIB);
    for (int i = 0; i < 10; i++) {
        struct fs_call call = call_of(FS_OP_WRITE, VIEW, FID);
        call.ctx.uid = 0; // has no caller
        call.flags = FS_WRITE_BACK;
        assert_false(has_written(call, 1024 * KIB));
    }
    assert_true(looks_up(VIEW));
    now_ns += FS_DEBT_MAX_NS + 11 * AF_NS_PER_SEC; // and the first, which went in its time
    assert_int_equal(go(), 1);
}

static void test_the_debt_of_what_went_out_of_turn_ends(void **state)
{
    (void)state;
    struct fs_bucket bucket;
    fs_bucket_set(&bucket, 1, 0);
    for (int i = 0; i < 1000; i++)
        fs_bucket_take(&bucket, 1, 0, FS_DEBT_MAX_NS);
    assert_int_equal(fs_bucket_due_ns(&bucket), FS_DEBT_MAX_NS);
    fs_bucket_set(&bucket, AF_BANDWIDTH_MAX, 0);
    fs_bucket_take(&bucket, AF_FILE_SIZE_MAX, 0, FS_UNBOUNDED_NS);
    assert_int_equal(fs_bucket_due_ns(&bucket), 1024 * AF_NS_PER_SEC);
    fs_bucket_set(&bucket, AF_BANDWIDTH_MIN, 0);
    fs_bucket_take(&bucket, AF_FILE_SIZE_MAX, 0, FS_UNBOUNDED_NS);
    assert_int_equal(fs_bucket_due_ns(&bucket), (AF_FILE_SIZE_MAX >> 16) * AF_NS_PER_SEC);
}

static void test_what_root_does_is_not_the_sandboxs(void **state)
{
    (void)state;
    limit(VIEW, 1, 0);
    struct fs_call call = call_of(FS_OP_LOOKUP, VIEW, FID);
    call.ctx.uid = 0;
    for (int i = 0; i < 10; i++)
        assert_false(holds(call));
    assert_false(looks_up(VIEW)); // nothing of it was charged
    assert_true(looks_up(VIEW));
}

static void test_what_views_share_is_held_for_a_moment(void **state)
{
    (void)state;
    limit(VIEW, 1, 0);
    struct fs_call call = call_of(FS_OP_READ, VIEW, FID);
    call.nodeid = mux_nodeid_shared(MUX_CLASS_READ, 9);
    assert_false(holds(call));
    assert_true(looks_up(VIEW));
    call.start_ns = now_ns;
    assert_true(holds(call));
    now_ns += FS_SHARED_HOLD_NS - 1;
    assert_int_equal(go(), 0);
    now_ns += 1;
    assert_int_equal(go(), 1); // the READ; the LOOKUP pays for it
    now_ns += 2 * AF_NS_PER_SEC;
    assert_int_equal(go(), 1);
}

static void test_under_the_policy_server_nothing_is_shared(void **state)
{
    (void)state;
    session.policy = FS_OPEN_SERVER;
    limit(VIEW, 1, 0);
    struct fs_call call = call_of(FS_OP_READ, VIEW, FID);
    call.nodeid = mux_nodeid_pinned(mux_route(VIEW, 0), 9);
    assert_false(holds(call));
    assert_true(holds(call));
    now_ns += 999 * MS;
    assert_int_equal(go(), 0);
}

static void test_a_change_holds_for_what_waits(void **state)
{
    (void)state;
    limit(VIEW, 1, 0);
    looks_up(VIEW);
    for (int i = 0; i < 10; i++)
        assert_true(looks_up(VIEW));
    limit(VIEW, 1000, 0);
    now_ns += 5 * MS;
    assert_in_range(go(), 5, 6);
    limit(VIEW, 0, 0);
    assert_in_range(go(), 4, 5);
    assert_false(fs_limit_has(&session, VIEW));
    assert_int_equal(fs_limits_held(&session), 0);
}

static void test_closing_lets_all_go_and_holds_no_more(void **state)
{
    (void)state;
    limit(VIEW, 1, 0);
    limit(OTHER, 1, 0);
    for (int i = 0; i < 4; i++) {
        looks_up(VIEW);
        looks_up(OTHER);
    }
    fs_limits_close(&session);
    assert_int_equal(go(), 6);
    assert_false(looks_up(VIEW));
    assert_int_equal(fs_limits_held(&session), 0);
}

// Views in the order of their times, whatever the order in which they came.
static void test_each_of_many_views_goes_at_its_own_rate(void **state)
{
    (void)state;
    enum { VIEWS = 100 };
    unsigned went[VIEWS + 1] = {0};
    for (uint32_t v = 1; v <= VIEWS; v++)
        fs_limit_set(&session, v, (v * 37) % VIEWS + 1, 0, now_ns);
    int64_t began_ns = now_ns;
    for (uint32_t v = 1; v <= VIEWS; v++) {
        assert_false(looks_up(v));
        for (int i = 0; i < 2 * VIEWS; i++)
            assert_true(looks_up(v));
    }
    while (now_ns < began_ns + AF_NS_PER_SEC) {
        now_ns += MS;
        struct fs_held *held;
        fs_limits_collect(session.limits, now_ns, UINT32_MAX);
        TAILQ_FOREACH(held, &session.limits->going, link)
        went[mux_nodeid_slot(held->call.nodeid)]++;
        drop_going();
    }
    for (uint32_t v = 1; v <= VIEWS; v++)
        assert_in_range(went[v], (v * 37) % VIEWS, (v * 37) % VIEWS + 1);
    for (uint32_t v = 1; v <= VIEWS; v += 2)
        fs_limit_set(&session, v, 0, 0, now_ns);
    drop_going();
    assert_int_equal(atomic_load(&session.limits->count), VIEWS / 2);
}

// The kernel waits for requests on an inode before it forgets what it is told to.
static void test_what_the_kernel_is_told_about_is_let_go(void **state)
{
    (void)state;
    limit(VIEW, 1, 0);
    uint64_t told = mux_nodeid_private(mux_route(VIEW, 0), FID);
    looks_up(VIEW);
    struct fs_call rename = call_of(FS_OP_RENAME, VIEW, FID + 1);
    rename.new_parent = told;
    assert_true(looks_up(VIEW));
    assert_true(holds(call_of(FS_OP_LOOKUP, VIEW, FID + 1)));
    assert_true(holds(rename));
    assert_true(fs_limit_pass(&session, told));
    assert_int_equal(go(), 2);
    assert_false(looks_up(VIEW));
    assert_false(holds(rename));
    assert_true(holds(call_of(FS_OP_LOOKUP, VIEW, FID + 2)));
    fs_limit_pass_end(&session, told);
    assert_true(looks_up(VIEW));
}

static void test_more_than_are_kept_count_of_pass_all_the_same(void **state)
{
    (void)state;
    limit(VIEW, 1, 0);
    looks_up(VIEW);
    for (uint64_t i = 0; i < 2 * FS_PASSES_MAX; i++)
        assert_true(fs_limit_pass(&session, 1000 + i));
    assert_false(looks_up(VIEW));
    for (uint64_t i = 0; i < 2 * FS_PASSES_MAX; i++)
        fs_limit_pass_end(&session, 1000 + i);
    assert_true(looks_up(VIEW));
}

static void test_what_goes_out_of_turn_puts_off_what_is_held(void **state)
{
    (void)state;
    limit(VIEW, 1, 0);
    looks_up(VIEW);
    assert_true(looks_up(VIEW));
    struct fs_call call = call_of(FS_OP_WRITE, VIEW, FID);
    call.ctx.uid = 0;
    call.flags = FS_WRITE_BACK;
    assert_false(has_written(call, 1));
    now_ns += 1 * AF_NS_PER_SEC;
    assert_int_equal(go(), 0);
    now_ns += 1 * AF_NS_PER_SEC;
    assert_int_equal(go(), 1);
}

static void test_held_reads_leave_the_kernel_room_for_others(void **state)
{
    (void)state;
    limit(VIEW, 1, 0);
    reads(VIEW, 1);
    unsigned n = 0;
    while (reads(VIEW, 1))
        n++;
    assert_int_equal(n, FS_BACKGROUND / 2);
    assert_true(looks_up(VIEW)); // nobody waits for room with it
}

// A WRITE that came on this ring has run; whether its answer waits. That the request has no payload
// says that it came on none, so the ring is put in here, as its thread found it.
static bool has_written_on(unsigned ring)
{
    struct fs_call call = call_of(FS_OP_WRITE, VIEW, FID);
    assert_false(fs_limit_holds(&call, never_run));
    assert_int_equal(call.ring, FS_RINGS_MAX);
    call.ring = ring;
    return fs_limit_settle(&call, 0, now_ns);
}

static void test_what_is_held_leaves_entries_of_its_ring_to_others(void **state)
{
    (void)state;
    session.transport.depth = FS_RING_SPARE + 4;
    limit(VIEW, 1, 0);
    assert_false(looks_up(VIEW));
    for (int i = 0; i < 4; i++)
        assert_true(has_written_on(3));
    assert_false(has_written_on(3)); // goes, and the others pay for it
    assert_true(has_written_on(4));  // another ring
    assert_true(looks_up(VIEW));     // none
    now_ns += 2 * AF_NS_PER_SEC;
    assert_int_equal(go(), 1);
    assert_true(has_written_on(3)); // in the place of the one that went
    assert_false(has_written_on(3));
}

// A process that was killed and is still there, as one is that waits for the answer to a request.
static pid_t killed_child(void)
{
    siginfo_t info;
    pid_t pid = fork();
    if (pid == 0)
        for (;;)
            pause();
    assert_true(pid > 0);
    assert_false(fs_thread_is_killed(pid));
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
    return pid;
}

static bool looks_up_as(pid_t pid)
{
    struct fs_call call = call_of(FS_OP_LOOKUP, VIEW, FID);
    call.ctx.pid = pid;
    return holds(call);
}

static void look(void)
{
    pthread_mutex_lock(&session.limits->lock);
    fs_limits_look(session.limits, now_ns);
    pthread_mutex_unlock(&session.limits->lock);
}

static void test_who_was_killed_is_let_go_at_once_and_nobody_else(void **state)
{
    (void)state;
    limit(VIEW, 1, 0);
    pid_t killed = killed_child();
    assert_false(looks_up_as(getpid()));
    assert_true(looks_up_as(getpid()));
    assert_true(looks_up_as(killed));
    assert_true(looks_up_as(0)); // of no process
    struct fs_call write = call_of(FS_OP_WRITE, VIEW, FID);
    write.ctx.pid = killed;
    assert_true(has_written(write, 1));
    assert_int_equal(fs_limits_held(&session), 4);
    look();
    assert_int_equal(fs_limits_held(&session), 2);
    struct fs_held *held = TAILQ_FIRST(&session.limits->going);
    for (int i = 0; i < 2; i++, held = TAILQ_NEXT(held, link)) {
        assert_non_null(held);
        assert_int_equal(held->call.ctx.pid, killed);
        assert_null(held->run); // it is answered, not run
        assert_int_equal(held->rc, held->call.op == FS_OP_WRITE ? 0 : -EINTR);
    }
    drop_going();
    assert_int_equal(waitpid(killed, NULL, 0), killed);
    for (int i = 0; i < 2; i++) { // nothing was charged for what went
        now_ns += 1 * AF_NS_PER_SEC;
        assert_int_equal(go(), 1);
    }
}

static void test_a_process_that_has_gone_is_let_go(void **state)
{
    (void)state;
    limit(VIEW, 1, 0);
    pid_t killed = killed_child();
    assert_int_equal(waitpid(killed, NULL, 0), killed);
    assert_false(looks_up_as(killed));
    assert_true(looks_up_as(killed)); // a READ ahead of its, for example
    look();
    assert_int_equal(fs_limits_held(&session), 0);
}

static void test_detaching_a_view_without_a_limit_wakes_nobody(void **state)
{
    (void)state;
    session.limits->background_fails = true; // cleared for whoever is woken
    limit(VIEW, 0, 0);
    assert_true(session.limits->background_fails);
    limit(VIEW, 1, 0);
    assert_false(session.limits->background_fails); // the kernel is asked again
}

static void test_a_copy_keeps_names_and_attributes(void **state)
{
    (void)state;
    limit(VIEW, 1, 0);
    looks_up(VIEW);
    char name[] = "name", target[] = "target";
    struct stat attr = {.st_size = 42};
    struct fs_call call = call_of(FS_OP_SYMLINK, VIEW, FID);
    call.name = name;
    call.new_name = target;
    call.attr = &attr;
    assert_true(holds(call));
    name[0] = target[0] = '\0';
    attr.st_size = 0;
    fs_limit_set(&session, VIEW, 0, 0, now_ns);
    struct fs_held *held = TAILQ_FIRST(&session.limits->going);
    assert_string_equal(held->call.name, "name");
    assert_string_equal(held->call.new_name, "target");
    assert_int_equal(held->call.attr->st_size, 42);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_view_without_a_limit_is_not_held),
        TEST(test_requests_go_at_the_rate_and_no_faster),
        TEST(test_what_is_saved_is_a_tenth_of_a_second),
        TEST(test_bytes_go_at_the_rate_whatever_their_pieces),
        TEST(test_one_that_is_larger_than_a_second_goes_and_is_paid_for),
        TEST(test_a_read_gets_back_what_there_was_not),
        TEST(test_what_was_copied_is_charged_when_it_is_known),
        TEST(test_the_answer_of_a_write_waits_and_not_the_write),
        TEST(test_pages_that_the_kernel_writes_back_are_charged_and_not_held),
        TEST(test_the_debt_of_what_went_out_of_turn_ends),
        TEST(test_what_root_does_is_not_the_sandboxs),
        TEST(test_what_views_share_is_held_for_a_moment),
        TEST(test_under_the_policy_server_nothing_is_shared),
        TEST(test_a_change_holds_for_what_waits),
        TEST(test_closing_lets_all_go_and_holds_no_more),
        TEST(test_each_of_many_views_goes_at_its_own_rate),
        TEST(test_what_the_kernel_is_told_about_is_let_go),
        TEST(test_more_than_are_kept_count_of_pass_all_the_same),
        TEST(test_what_goes_out_of_turn_puts_off_what_is_held),
        TEST(test_held_reads_leave_the_kernel_room_for_others),
        TEST(test_what_is_held_leaves_entries_of_its_ring_to_others),
        TEST(test_who_was_killed_is_let_go_at_once_and_nobody_else),
        TEST(test_a_process_that_has_gone_is_let_go),
        TEST(test_detaching_a_view_without_a_limit_wakes_nobody),
        TEST(test_a_copy_keeps_names_and_attributes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
