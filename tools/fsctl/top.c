// agentfense-fsctl top: what the running sandboxes ask for, in the whole terminal. See fsctl.h.
//
// Two looks a second apart (--interval) make the rates of a screen; keys are taken between them.
// Without a terminal, --json prints a line for each interval. ncurses owns the terminal between
// initscr and endwin, and gives it back also on SIGINT and SIGTERM; nothing is printed meanwhile.
// Read next: activity.h.
#include "tools/fsctl/activity.h"

#include "mux/base/cleanup.h"
#include "tools/common/json.h"
#include "tools/common/memory.h"
#include "tools/common/when.h"
#include "tools/common/words.h"

#include <curses.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define INTERVAL_S   1.0
#define HEADER_LINES 3 // above the rows
#define SHORT_ID     12
#define WHOLE_ID     29
#define WIDE_COLUMNS 97

enum { SORT_REQUESTS, SORT_ERRORS, SORT_MEAN, SORT_BUSY, SORT_WRITES, SORT_DELTA, SORT_COMMANDS };

static const struct {
    int key;
    const char *word;
} sorts[] = {
    [SORT_REQUESTS] = {'r', "requests"}, [SORT_ERRORS] = {'e', "errors"},
    [SORT_MEAN] = {'l', "latency"},      [SORT_BUSY] = {'b', "busy"},
    [SORT_WRITES] = {'w', "writes"},     [SORT_DELTA] = {'d', "delta"},
    [SORT_COMMANDS] = {'c', "commands"},
};

struct top {
    struct fsctl *ctl;
    double interval_s;
    struct activity looks[2];
    unsigned now; // which of the two is the later one
    struct activity_rates *rates;
    size_t max_rates, count, first; // first: row shown on top
    unsigned sort;
    bool ascending, paused, help;
};

// ---- order

static double value_of(const struct top *top, const struct activity_rates *rates)
{
    switch (top->sort) {
    case SORT_ERRORS:
        return rates->errors;
    case SORT_MEAN:
        return rates->mean_us;
    case SORT_BUSY:
        return rates->busy;
    case SORT_WRITES:
        return rates->writes;
    case SORT_DELTA:
        return (double)rates->view->delta_bytes;
    case SORT_COMMANDS:
        return rates->view->commands;
    default:
        return rates->requests;
    }
}

static int compare_rates(const void *a, const void *b, void *arg)
{
    const struct activity_rates *first = a, *second = b;
    const struct top *top = arg;
    double x = value_of(top, first), y = value_of(top, second);
    int order = (x < y) - (x > y);
    if (order == 0)
        return strcmp(first->view->id, second->view->id);
    return top->ascending ? -order : order;
}

static void sort_rates(struct top *top)
{
    if (top->count > 1)
        qsort_r(top->rates, top->count, sizeof *top->rates, compare_rates, top);
}

// ---- looking

static int look(struct top *top, struct af_error *err)
{
    unsigned next = 1 - top->now;
    if (activity_look(top->ctl->client, &top->looks[next], err) < 0)
        return -1;
    top->now = next;
    return 0;
}

static void compare(struct top *top)
{
    const struct activity *now = &top->looks[top->now];
    while (top->max_rates < now->count)
        top->rates = tool_grow(top->rates, top->max_rates, &top->max_rates, sizeof *top->rates);
    activity_compare(&top->looks[1 - top->now], now, top->rates);
    top->count = now->count;
    sort_rates(top);
}

// ---- the screen

static void draw_summary(const struct top *top)
{
    struct activity_rates all = {0};
    char when[TOOL_WHEN_MAX];
    uint32_t commands = 0;
    for (size_t i = 0; i < top->count; i++) {
        all.requests += top->rates[i].requests;
        all.errors += top->rates[i].errors;
        all.busy += top->rates[i].busy;
        commands += top->rates[i].view->commands;
    }
    tool_when_local(af_wall_ns() / AF_NS_PER_SEC, when);
    mvprintw(0, 0,
             "%.8s  %zu running, %" PRIu32 " commands  %.0f requests/s  %.0f errors/s  "
             "%.2f busy",
             strchr(when, ' ') ? strchr(when, ' ') + 1 : when, top->count, commands, all.requests,
             all.errors, all.busy);
    clrtoeol();
    mvprintw(1, 0, "by %s%s%s, every %g s  (h: help, q: quit)", sorts[top->sort].word,
             top->ascending ? ", least first" : "", top->paused ? ", paused" : "", top->interval_s);
    clrtoeol();
}

// Whole ids where there is room, else a beginning, which every command takes.
static int id_width(void)
{
    return COLS >= WIDE_COLUMNS ? WHOLE_ID : SHORT_ID;
}

static void draw_row(int y, const struct activity_rates *rates)
{
    char delta[TOOL_SIZE_MAX];
    tool_size_text(rates->view->delta_bytes, delta);
    // 79 columns or more: the last one stays free, for some terminals wrap there.
    mvprintw(y, 0, "%-*.*s %4" PRIu32 " %8.0f %6.0f %8.0f %7.0f %7.0f %7.0f %6.2f %5s", id_width(),
             id_width(), rates->view->id, rates->view->commands, rates->requests, rates->errors,
             rates->names, rates->reads, rates->writes, rates->mean_us, rates->busy, delta);
    clrtoeol();
}

static void draw_help(void)
{
    static const char *const lines[] = {
        "r e l b w d c   sort by requests, errors, latency, busy, writes, delta, commands",
        "i               least first, or most first",
        "up down PgUp PgDn Home   which sandboxes are shown",
        "space           show what happened until now",
        "p               pause",
        "q               quit",
        "",
        "NAMES: lookups and changes of names. MEAN: microseconds from a request's arrival",
        "to its answer. BUSY: requests under way on the average. DELTA: bytes it has added.",
        "What the kernel answers from its caches is no request, and is not counted.",
    };
    for (size_t i = 0; i < AF_ARRAY_LEN(lines); i++)
        mvaddnstr((int)i + HEADER_LINES, 0, lines[i], COLS - 1);
}

static void draw(struct top *top)
{
    size_t room = LINES > HEADER_LINES ? (size_t)(LINES - HEADER_LINES) : 0;
    if (top->first + room > top->count)
        top->first = top->count > room ? top->count - room : 0;
    erase();
    draw_summary(top);
    attron(A_REVERSE);
    mvprintw(2, 0, "%-*s %4s %8s %6s %8s %7s %7s %7s %6s %5s", id_width(), "SANDBOX", "CMDS",
             "REQ/s", "ERR/s", "NAMES/s", "READ/s", "WRITE/s", "MEAN us", "BUSY", "DELTA");
    attroff(A_REVERSE);
    if (top->help)
        draw_help();
    for (size_t i = 0; i < room && top->first + i < top->count && !top->help; i++)
        draw_row(HEADER_LINES + (int)i, &top->rates[top->first + i]);
    refresh();
}

// ---- keys

enum pressed { PRESSED_NOTHING, PRESSED_REDRAW, PRESSED_LOOK, PRESSED_QUIT };

static void scroll_by(struct top *top, long rows)
{
    long first = (long)top->first + rows;
    top->first = first > 0 ? (size_t)first : 0;
}

static enum pressed press(struct top *top, int key)
{
    for (unsigned i = 0; i < AF_ARRAY_LEN(sorts); i++) {
        if (sorts[i].key != key)
            continue;
        top->sort = i;
        top->first = 0;
        sort_rates(top);
        return PRESSED_REDRAW;
    }
    switch (key) {
    case 'q':
        return PRESSED_QUIT;
    case ' ':
        return PRESSED_LOOK;
    case 'i':
        top->ascending = !top->ascending;
        sort_rates(top);
        break;
    case 'p':
        top->paused = !top->paused;
        break;
    case 'h':
    case '?':
        top->help = !top->help;
        break;
    case KEY_UP:
    case KEY_DOWN:
        scroll_by(top, key == KEY_UP ? -1 : 1);
        break;
    case KEY_PPAGE:
    case KEY_NPAGE:
        scroll_by(top, (LINES - HEADER_LINES) * (key == KEY_PPAGE ? -1L : 1L));
        break;
    case KEY_HOME:
        top->first = 0;
        break;
    case KEY_RESIZE: // ncurses knows the new size already
        break;
    default:
        return PRESSED_NOTHING;
    }
    return PRESSED_REDRAW;
}

// Until it is time to look again, or to quit.
static enum pressed take_keys(struct top *top)
{
    int64_t until_ns = af_monotonic_ns() + (int64_t)(top->interval_s * 1e9);
    for (;;) {
        int64_t left_ms = (until_ns - af_monotonic_ns()) / 1000000;
        if (left_ms <= 0 && !top->paused)
            return PRESSED_LOOK;
        timeout(top->paused ? -1 : (int)left_ms + 1);
        int key = getch();
        if (key == ERR && top->paused && errno != EINTR)
            return PRESSED_QUIT; // the terminal is gone
        enum pressed pressed = key == ERR ? PRESSED_NOTHING : press(top, key);
        if (pressed == PRESSED_LOOK || pressed == PRESSED_QUIT)
            return pressed;
        if (pressed == PRESSED_REDRAW)
            draw(top);
    }
}

static int run_screen(struct top *top, struct af_error *err)
{
    int rc = look(top, err);
    SCREEN *screen = rc == 0 ? newterm(NULL, stdout, stdin) : NULL;
    if (rc == 0 && !screen)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "this terminal cannot be drawn on (TERM); use --json");
    if (rc < 0)
        return -1;
    cbreak();
    noecho();
    keypad(stdscr, TRUE);
    (void)curs_set(0);
    draw(top); // empty: rates need two looks
    for (uint64_t i = 0; rc == 0 && (top->ctl->count == 0 || i < top->ctl->count); i++) {
        if (take_keys(top) == PRESSED_QUIT)
            break;
        rc = look(top, err);
        if (rc == 0) {
            compare(top);
            draw(top);
        }
    }
    endwin();
    delscreen(screen);
    return rc;
}

// ---- for programs

static void print_json(const struct top *top)
{
    struct json json;
    struct timespec now = af_timespec_of_ns(af_wall_ns());
    json_init(&json, top->ctl->out);
    json.one_line = true;
    json_begin_object(&json, NULL);
    json_time(&json, "at", now.tv_sec, (int32_t)now.tv_nsec);
    json_begin_array(&json, "sandboxes");
    for (size_t i = 0; i < top->count; i++) {
        const struct activity_rates *rates = &top->rates[i];
        json_begin_object(&json, NULL);
        json_text(&json, "sandbox_id", rates->view->id);
        json_uint(&json, "commands", rates->view->commands);
        json_number(&json, "requests_per_second", rates->requests);
        json_number(&json, "errors_per_second", rates->errors);
        json_number(&json, "names_per_second", rates->names);
        json_number(&json, "reads_per_second", rates->reads);
        json_number(&json, "writes_per_second", rates->writes);
        json_number(&json, "mean_us", rates->mean_us);
        json_number(&json, "busy", rates->busy);
        json_uint(&json, "delta_bytes", rates->view->delta_bytes);
        json_end(&json);
    }
    json_end(&json);
    json_end(&json);
    json_finish(&json);
}

static int run_json(struct top *top, struct af_error *err)
{
    const struct timespec pause = af_timespec_of_ns((int64_t)(top->interval_s * 1e9));
    if (look(top, err) < 0)
        return -1;
    for (uint64_t i = 0; top->ctl->count == 0 || i < top->ctl->count; i++) {
        nanosleep(&pause, NULL);
        if (look(top, err) < 0)
            return -1;
        compare(top);
        print_json(top);
        if (fflush(top->ctl->out) != 0)
            return af_error_errno(err, errno, "cannot write the output");
    }
    return 0;
}

int fsctl_top(struct fsctl *ctl, struct af_error *err)
{
    struct top top = {.ctl = ctl, .interval_s = ctl->interval_s > 0 ? ctl->interval_s : INTERVAL_S};
    int rc;
    if (ctl->json)
        rc = run_json(&top, err);
    else if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO))
        rc = run_screen(&top, err);
    else
        rc = af_error_set(err, AF_FAILED_PRECONDITION, "top needs a terminal; or use --json");
    free(top.rates);
    activity_fini(&top.looks[0]);
    activity_fini(&top.looks[1]);
    return rc;
}
