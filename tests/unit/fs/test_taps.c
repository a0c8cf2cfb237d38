// Taps without a mount: answers go in as fs_call_send has them, events come out. The queue by
// itself under many writers.
#include "tests/unit/fs/fake_mux.h"

#include "fs/session_priv.h"
#include "fs/taps_priv.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define WRITERS   4
#define PER_WRITE 20000

static struct fs_session session;
static uint64_t view;
static atomic_uint wakes;

static void count_wake(void *arg)
{
    (void)arg;
    atomic_fetch_add(&wakes, 1);
}

static int setup(void **state)
{
    (void)state;
    fake_reset();
    view = fake_add(MUX_NODEID_TOP, "v", S_IFDIR | 0755, NULL);
    memset(&session, 0, sizeof session);
    session.mux = &fake;
    atomic_store(&wakes, 0);
    return fs_taps_new(&session);
}

static int teardown(void **state)
{
    (void)state;
    fs_taps_free(&session);
    return 0;
}

static struct fs_tap *open_tap(unsigned wants, const char *path)
{
    struct fs_tap_options options = {
        .sandbox_id = FAKE_SANDBOX, .wants = wants, .path = path, .wake = count_wake};
    struct fs_tap *tap = NULL;
    struct af_error err;
    if (fs_tap_open(&session, &options, &tap, &err) < 0)
        fail_msg("%s", err.text);
    return tap;
}

static void answer(enum fs_op op, uint64_t nodeid, const char *name, int rc)
{
    struct fs_call call = {.session = &session, .op = op, .nodeid = nodeid, .name = name};
    if (fs_taps_any(&session))
        fs_taps_answer(&call, rc, 1000);
}

static void expect_event(struct fs_tap *tap, enum fs_op op, const char *path)
{
    uint64_t lost;
    struct fs_event *event = fs_tap_next(tap, &lost);
    assert_non_null(event);
    assert_int_equal(event->op, op);
    assert_string_equal(event->path, path);
    assert_int_equal(lost, 0);
    free(event);
}

static void expect_nothing(struct fs_tap *tap)
{
    uint64_t lost;
    assert_null(fs_tap_next(tap, &lost));
}

static void test_each_tap_gets_what_it_wants(void **state)
{
    (void)state;
    struct fs_tap *changes = open_tap(FS_TAP_CHANGES, ""), *denied = open_tap(FS_TAP_DENIED, "");
    struct fs_tap *all = open_tap(FS_TAP_ALL, ""), *below = open_tap(FS_TAP_ALL, "v/a");
    answer(FS_OP_MKDIR, view, "a", 0);
    answer(FS_OP_LOOKUP, view, "b", 0);
    answer(FS_OP_CREATE, view, "ab", -EACCES);
    expect_event(changes, FS_OP_MKDIR, "v/a");
    expect_nothing(changes);
    expect_event(denied, FS_OP_CREATE, "v/ab");
    expect_nothing(denied);
    expect_event(all, FS_OP_MKDIR, "v/a");
    expect_event(all, FS_OP_LOOKUP, "v/b");
    expect_event(all, FS_OP_CREATE, "v/ab");
    expect_event(below, FS_OP_MKDIR, "v/a");
    expect_nothing(below);
    fs_tap_close(changes);
    fs_tap_close(denied);
    fs_tap_close(all);
    fs_tap_close(below);
    assert_false(fs_taps_any(&session));
}

static void test_another_view_in_the_slot_is_not_heard(void **state)
{
    (void)state;
    struct fs_tap *tap = open_tap(FS_TAP_ALL, "");
    fs_taps_detached(&session, FAKE_SLOT);
    answer(FS_OP_MKDIR, view, "a", 0);
    fs_taps_attached(&session, FAKE_SLOT, "sb_other");
    answer(FS_OP_MKDIR, view, "b", 0);
    expect_nothing(tap);
    fs_taps_attached(&session, FAKE_SLOT + 1, FAKE_SANDBOX); // it has got another slot
    answer(FS_OP_MKDIR, view, "c", 0);
    expect_nothing(tap);
    fs_taps_detached(&session, FAKE_SLOT + 1);
    fs_taps_attached(&session, FAKE_SLOT, FAKE_SANDBOX);
    answer(FS_OP_MKDIR, view, "d", 0);
    expect_event(tap, FS_OP_MKDIR, "v/d");
    fs_tap_close(tap);
}

static void test_a_stale_nodeid_makes_no_event(void **state)
{
    (void)state;
    struct fs_tap *tap = open_tap(FS_TAP_ALL, "");
    FAKE_WITH(node, view, node->stale = true);
    answer(FS_OP_GETATTR, view, NULL, -ESTALE);
    expect_nothing(tap);
    fs_tap_close(tap);
}

static void test_writes_are_one_event_until_it_is_taken(void **state)
{
    (void)state;
    uint64_t file = fake_add(view, "f", S_IFREG | 0644, "x");
    struct fs_tap *tap = open_tap(FS_TAP_CHANGES, ""), *all = open_tap(FS_TAP_ALL, "");
    for (int i = 0; i < 3; i++)
        answer(FS_OP_WRITE, file, NULL, 0);
    expect_event(tap, FS_OP_WRITE, "f");
    expect_nothing(tap);
    answer(FS_OP_WRITE, file, NULL, 0);
    answer(FS_OP_UNLINK, view, "g", 0);
    answer(FS_OP_WRITE, file, NULL, 0); // after something else: its place in the order counts
    expect_event(tap, FS_OP_WRITE, "f");
    expect_event(tap, FS_OP_UNLINK, "v/g");
    expect_event(tap, FS_OP_WRITE, "f");
    for (int i = 0; i < 3; i++)
        expect_event(all, FS_OP_WRITE, "f");
    fs_tap_close(tap);
    fs_tap_close(all);
}

static void test_a_full_tap_counts_what_it_loses(void **state)
{
    (void)state;
    struct fs_tap *tap = open_tap(FS_TAP_ALL, "");
    uint64_t lost = 0, seen = 0;
    for (unsigned i = 0; i < AF_WATCH_EVENTS_MAX + 10; i++)
        answer(FS_OP_LOOKUP, view, "name", 0);
    for (struct fs_event *event; (event = fs_tap_next(tap, &lost)); free(event)) {
        assert_int_equal(lost, seen == 0 ? 10 : 0);
        seen++;
    }
    assert_int_equal(seen, AF_WATCH_EVENTS_MAX);
    answer(FS_OP_LOOKUP, view, "again", 0);
    expect_event(tap, FS_OP_LOOKUP, "v/again");
    fs_tap_close(tap);
}

static void test_long_names_fill_a_tap_by_their_bytes(void **state)
{
    (void)state;
    struct fs_tap *tap = open_tap(FS_TAP_ALL, "");
    char name[AF_NAME_MAX + 1];
    uint64_t lost, seen = 0;
    FAKE_WITH(node, view, memset(node->name, 'd', AF_NAME_MAX));
    memset(name, 'n', AF_NAME_MAX);
    name[AF_NAME_MAX] = '\0';
    // Over 600 bytes each with both names: the bytes run out before the places do.
    for (unsigned i = 0; i < AF_WATCH_EVENTS_MAX; i++)
        answer(FS_OP_LOOKUP, view, name, 0);
    for (struct fs_event *event; (event = fs_tap_next(tap, &lost)); free(event))
        seen++;
    assert_true(seen < AF_WATCH_EVENTS_MAX);
    assert_true(seen * 2 * AF_NAME_MAX <= AF_WATCH_BYTES_MAX);
    fs_tap_close(tap);
}

static void test_the_reader_is_woken(void **state)
{
    (void)state;
    struct fs_tap *tap = open_tap(FS_TAP_ALL, "");
    answer(FS_OP_LOOKUP, view, "a", 0);
    while (atomic_load(&wakes) == 0)
        sched_yield();
    expect_event(tap, FS_OP_LOOKUP, "v/a");
    expect_nothing(tap);
    atomic_store(&wakes, 0);
    answer(FS_OP_LOOKUP, view, "b", 0);
    while (atomic_load(&wakes) == 0)
        sched_yield();
    fs_tap_close(tap);
}

static void test_taps_are_bounded_in_number(void **state)
{
    (void)state;
    static struct fs_tap *taps[AF_WATCHERS_MAX];
    struct fs_tap_options options = {
        .sandbox_id = FAKE_SANDBOX, .wants = FS_TAP_ALL, .path = "", .wake = count_wake};
    struct fs_tap *more;
    struct af_error err;
    for (int i = 0; i < AF_WATCHERS_MAX; i++)
        taps[i] = open_tap(FS_TAP_ALL, "");
    assert_int_equal(fs_tap_open(&session, &options, &more, &err), -1);
    assert_int_equal(err.status, AF_RESOURCE_EXHAUSTED);
    fs_tap_close(taps[5]);
    taps[5] = open_tap(FS_TAP_ALL, "");
    for (int i = 0; i < AF_WATCHERS_MAX; i++)
        fs_tap_close(taps[i]);
}

// ---- many threads

static atomic_bool answering;

static void *answer_thread(void *arg)
{
    (void)arg;
    while (atomic_load(&answering))
        answer(FS_OP_LOOKUP, view, "n", 0);
    return NULL;
}

static void test_taps_open_and_close_while_answers_go_out(void **state)
{
    (void)state;
    pthread_t threads[WRITERS];
    atomic_store(&answering, true);
    for (int i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, answer_thread, NULL), 0);
    for (int i = 0; i < 500; i++) {
        struct fs_tap *tap = open_tap(FS_TAP_ALL, "");
        uint64_t lost;
        struct fs_event *event;
        while (!(event = fs_tap_next(tap, &lost)))
            sched_yield();
        assert_string_equal(event->path, "v/n");
        free(event);
        fs_tap_close(tap);
    }
    atomic_store(&answering, false);
    for (int i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
}

struct writer {
    struct fs_tap_queue *queue;
    uint64_t put;
    int number;
};

static void *write_thread(void *arg)
{
    struct writer *writer = arg;
    for (int i = 0; i < PER_WRITE; i++) {
        struct fs_event *event = malloc(sizeof *event);
        *event = (struct fs_event){.pid = writer->number, .at_ns = i};
        if (fs_tap_queue_put(writer->queue, event, sizeof *event))
            writer->put++;
        else
            free(event);
    }
    return NULL;
}

static void test_the_queue_keeps_each_writers_order_and_loses_nothing_that_it_took(void **state)
{
    (void)state;
    struct fs_tap_queue *queue = fs_tap_queue_new();
    struct writer writers[WRITERS];
    pthread_t threads[WRITERS];
    int64_t last[WRITERS];
    uint64_t taken = 0, put = 0;
    for (int i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){.queue = queue, .number = i};
        last[i] = -1;
        assert_int_equal(pthread_create(&threads[i], NULL, write_thread, &writers[i]), 0);
    }
    for (int joined = 0; joined < WRITERS;) {
        struct fs_event *event = fs_tap_queue_take(queue);
        if (event) {
            assert_true(event->at_ns > last[event->pid]);
            last[event->pid] = event->at_ns;
            taken++;
            free(event);
        } else if (pthread_tryjoin_np(threads[joined], NULL) == 0) {
            put += writers[joined++].put;
        }
    }
    for (struct fs_event *event; (event = fs_tap_queue_take(queue)); free(event))
        taken++;
    assert_int_equal(taken, put);
    fs_tap_queue_free(queue);
}

#define TAP_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TAP_TEST(test_each_tap_gets_what_it_wants),
        TAP_TEST(test_another_view_in_the_slot_is_not_heard),
        TAP_TEST(test_a_stale_nodeid_makes_no_event),
        TAP_TEST(test_writes_are_one_event_until_it_is_taken),
        TAP_TEST(test_a_full_tap_counts_what_it_loses),
        TAP_TEST(test_long_names_fill_a_tap_by_their_bytes),
        TAP_TEST(test_the_reader_is_woken),
        TAP_TEST(test_taps_are_bounded_in_number),
        TAP_TEST(test_taps_open_and_close_while_answers_go_out),
        cmocka_unit_test(test_the_queue_keeps_each_writers_order_and_loses_nothing_that_it_took),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
