// The line of progress: on a terminal only, after a while only, and gone at the end.
#include "tools/agentfense/progress.h"

#include "mux/base/clock.h"

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

struct screen {
    int master, kept; // kept: what stderr was
    char text[4096];
};

static void begin(struct screen *screen)
{
    int slave;
    memset(screen, 0, sizeof *screen);
    assert_int_equal(openpty(&screen->master, &slave, NULL, NULL, NULL), 0);
    screen->kept = dup(STDERR_FILENO);
    dup2(slave, STDERR_FILENO);
    close(slave);
}

static void end(struct screen *screen)
{
    dup2(screen->kept, STDERR_FILENO);
    close(screen->kept);
    close(screen->master);
}

// What was drawn, waiting for `wanted` if there is one.
static const char *seen(struct screen *screen, const char *wanted)
{
    size_t len = strlen(screen->text);
    struct pollfd ready = {.fd = screen->master, .events = POLLIN};
    while (poll(&ready, 1, wanted && !strstr(screen->text, wanted) ? 30000 : 0) > 0) {
        ssize_t n = read(screen->master, screen->text + len, sizeof screen->text - 1 - len);
        if (n <= 0)
            break;
        len += (size_t)n;
        screen->text[len] = '\0';
    }
    return screen->text;
}

static void test_nothing_is_drawn_for_short_work(void **state)
{
    (void)state;
    struct screen screen;
    struct progress progress;
    begin(&screen);
    progress_start(&progress, "import");
    progress_add(&progress, 1 << 20);
    progress_end(&progress);
    const char *text = seen(&screen, NULL);
    end(&screen);
    assert_string_equal(text, "");
}

static void test_long_work_shows_files_bytes_and_a_rate_and_goes(void **state)
{
    (void)state;
    struct screen screen;
    struct progress progress;
    begin(&screen);
    progress_start(&progress, "import");
    progress.start_ns -= 2 * AF_NS_PER_SEC;
    progress_add_file(&progress);
    progress.drawn_ns = 0;
    progress_add(&progress, 4 << 20);
    progress_end(&progress);
    const char *text = seen(&screen, "/s");
    end(&screen);
    assert_non_null(strstr(text, "import  1 files  4"));
    assert_string_equal(text + strlen(text) - 4, "\r\033[K");
}

static void test_a_known_whole_is_a_bar_that_never_overflows(void **state)
{
    (void)state;
    struct screen screen;
    struct progress progress;
    begin(&screen);
    progress_start(&progress, "cp");
    progress.total = 1000;
    progress.start_ns -= 2 * AF_NS_PER_SEC;
    progress_add(&progress, 500);
    progress.drawn_ns = 0;
    progress_add(&progress, 5000);
    progress_end(&progress);
    const char *text = seen(&screen, "100%");
    end(&screen);
    assert_non_null(strstr(text, "[===============>              ]  50%"));
    assert_non_null(strstr(text, "[==============================] 100%"));
}

static void test_a_wait_shows_its_time_until_the_end(void **state)
{
    (void)state;
    struct screen screen;
    begin(&screen);
    struct progress_wait *wait = progress_wait_start("commit");
    const char *text = seen(&screen, "commit  0 s");
    progress_wait_end(wait);
    seen(&screen, NULL);
    end(&screen);
    assert_non_null(strstr(text, "commit  0 s"));
    assert_string_equal(text + strlen(text) - 4, "\r\033[K");
}

static void test_nothing_is_drawn_where_there_is_no_terminal(void **state)
{
    (void)state;
    int kept = dup(STDERR_FILENO), ends[2];
    struct progress progress;
    char byte;
    assert_int_equal(pipe2(ends, O_NONBLOCK), 0);
    dup2(ends[1], STDERR_FILENO);
    progress_start(&progress, "import");
    progress.start_ns -= 2 * AF_NS_PER_SEC;
    progress_add(&progress, 1);
    progress_end(&progress);
    struct progress_wait *wait = progress_wait_start("commit");
    dup2(kept, STDERR_FILENO);
    close(kept);
    assert_null(wait);
    assert_int_equal(read(ends[0], &byte, 1), -1);
    close(ends[0]);
    close(ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_is_drawn_for_short_work),
        cmocka_unit_test(test_long_work_shows_files_bytes_and_a_rate_and_goes),
        cmocka_unit_test(test_a_known_whole_is_a_bar_that_never_overflows),
        cmocka_unit_test(test_a_wait_shows_its_time_until_the_end),
        cmocka_unit_test(test_nothing_is_drawn_where_there_is_no_terminal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
