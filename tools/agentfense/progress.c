// The line of progress: see progress.h.
#include "tools/agentfense/progress.h"

#include "mux/base/clock.h"
#include "tools/common/words.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_NS (AF_NS_PER_SEC / 2)
#define REDRAW_NS   (AF_NS_PER_SEC / 10)
#define BAR_WIDTH   30

void progress_start(struct progress *progress, const char *what)
{
    memset(progress, 0, sizeof *progress);
    progress->what = what;
    progress->is_shown = isatty(STDERR_FILENO);
    progress->start_ns = af_monotonic_ns();
}

static void draw_bar(const struct progress *progress)
{
    char bar[BAR_WIDTH + 1];
    uint64_t done = progress->bytes < progress->total ? progress->bytes : progress->total;
    size_t filled = (size_t)((double)done / (double)progress->total * BAR_WIDTH);
    memset(bar, ' ', BAR_WIDTH);
    memset(bar, '=', filled);
    if (filled < BAR_WIDTH)
        bar[filled] = '>';
    bar[BAR_WIDTH] = '\0';
    fprintf(stderr, " [%s] %3d%%", bar, (int)(100.0 * (double)done / (double)progress->total));
}

static void draw(struct progress *progress, int64_t now_ns)
{
    char size[TOOL_SIZE_MAX], rate[TOOL_SIZE_MAX];
    double seconds = (double)(now_ns - progress->start_ns) / (double)AF_NS_PER_SEC;
    tool_size_text(progress->bytes, size);
    tool_size_text((uint64_t)((double)progress->bytes / seconds), rate);
    fprintf(stderr, "\r\033[K%s", progress->what);
    if (progress->total > 0)
        draw_bar(progress);
    if (progress->files > 0)
        fprintf(stderr, "  %llu files", (unsigned long long)progress->files);
    fprintf(stderr, "  %s  %s/s", size, rate);
    progress->is_drawn = true;
    progress->drawn_ns = now_ns;
}

void progress_add(struct progress *progress, uint64_t bytes)
{
    progress->bytes += bytes;
    if (!progress->is_shown)
        return;
    int64_t now_ns = af_monotonic_ns();
    if (now_ns - progress->start_ns >= PATIENCE_NS && now_ns - progress->drawn_ns >= REDRAW_NS)
        draw(progress, now_ns);
}

void progress_add_file(struct progress *progress)
{
    progress->files++;
    progress_add(progress, 0);
}

void progress_end(struct progress *progress)
{
    if (progress->is_drawn)
        fputs("\r\033[K", stderr);
    progress->is_drawn = false;
}

// ---- only the time is known

struct progress_wait {
    const char *what;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t ended; // by the monotonic clock
    bool is_over;
};

static void *draw_time(void *arg)
{
    struct progress_wait *wait = arg;
    int64_t start_ns = af_monotonic_ns(), next_ns = start_ns + PATIENCE_NS;
    bool is_drawn = false;
    pthread_mutex_lock(&wait->lock);
    while (!wait->is_over) {
        struct timespec until = {next_ns / AF_NS_PER_SEC, next_ns % AF_NS_PER_SEC};
        pthread_cond_timedwait(&wait->ended, &wait->lock, &until);
        int64_t now_ns = af_monotonic_ns();
        if (wait->is_over || now_ns < next_ns)
            continue;
        fprintf(stderr, "\r\033[K%s  %lld s", wait->what,
                (long long)((now_ns - start_ns) / AF_NS_PER_SEC));
        is_drawn = true;
        next_ns = now_ns + AF_NS_PER_SEC / 2;
    }
    pthread_mutex_unlock(&wait->lock);
    if (is_drawn)
        fputs("\r\033[K", stderr);
    return NULL;
}

struct progress_wait *progress_wait_start(const char *what)
{
    sigset_t all, before;
    pthread_condattr_t monotonic;
    struct progress_wait *wait = isatty(STDERR_FILENO) ? calloc(1, sizeof *wait) : NULL;
    if (!wait)
        return NULL;
    wait->what = what;
    pthread_mutex_init(&wait->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&wait->ended, &monotonic);
    pthread_condattr_destroy(&monotonic);
    sigfillset(&all); // signals are for the thread that waits for the daemon
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&wait->thread, NULL, draw_time, wait);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0)
        return wait;
    pthread_cond_destroy(&wait->ended);
    pthread_mutex_destroy(&wait->lock);
    free(wait);
    return NULL;
}

void progress_wait_end(struct progress_wait *wait)
{
    if (!wait)
        return;
    pthread_mutex_lock(&wait->lock);
    wait->is_over = true;
    pthread_cond_signal(&wait->ended);
    pthread_mutex_unlock(&wait->lock);
    pthread_join(wait->thread, NULL);
    pthread_cond_destroy(&wait->ended);
    pthread_mutex_destroy(&wait->lock);
    free(wait);
}
