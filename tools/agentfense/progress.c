// The line of progress: see progress.h.
#include "tools/agentfense/progress.h"

#include "mux/base/clock.h"
#include "tools/common/words.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PATIENCE_NS (AF_NS_PER_SEC / 2)
#define REDRAW_NS   (AF_NS_PER_SEC / 10)

void progress_start(struct progress *progress)
{
    memset(progress, 0, sizeof *progress);
    progress->is_shown = isatty(STDERR_FILENO);
    progress->start_ns = af_monotonic_ns();
}

void progress_add(struct progress *progress, uint64_t bytes)
{
    char size[TOOL_SIZE_MAX], rate[TOOL_SIZE_MAX];
    progress->bytes += bytes;
    if (!progress->is_shown)
        return;
    int64_t now_ns = af_monotonic_ns(), took_ns = now_ns - progress->start_ns;
    if (took_ns < PATIENCE_NS || now_ns - progress->drawn_ns < REDRAW_NS)
        return;
    double seconds = (double)took_ns / (double)AF_NS_PER_SEC;
    tool_size_text(progress->bytes, size);
    tool_size_text((uint64_t)((double)progress->bytes / seconds), rate);
    fprintf(stderr, "\r\033[K%s  %s/s", size, rate);
    progress->is_drawn = true;
    progress->drawn_ns = now_ns;
}

void progress_end(struct progress *progress)
{
    if (progress->is_drawn)
        fputs("\r\033[K", stderr);
    progress->is_drawn = false;
}
