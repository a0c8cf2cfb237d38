// Log lines on stderr. Owns the level, which is set once before threads start.
#include "mux/base/log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINE_MAX_BYTES 2048

static enum af_log_level log_level = AF_LOG_INFO;
static bool is_journal; // set once before threads start

void af_log_set_level(enum af_log_level level)
{
    log_level = level;
}

void af_log_find_journal(void)
{
    unsigned long long dev, ino;
    char rest;
    struct stat st;
    const char *stream = getenv("JOURNAL_STREAM");
    is_journal = stream && sscanf(stream, "%llu:%llu%c", &dev, &ino, &rest) == 2 &&
                 fstat(STDERR_FILENO, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
}

void af_log(enum af_log_level level, const char *area, const char *msg, const char *fields, ...)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    static const char *const priorities[] = {"<7>", "<6>", "<4>", "<3>"}; // sd-daemon(3)
    if (level < log_level)
        return;
    char line[LINE_MAX_BYTES];
    int used = snprintf(line, sizeof line, "%slevel=%s area=%s msg=\"%s\" ",
                        is_journal ? priorities[level] : "", names[level], area, msg);
    if (used < 0 || (size_t)used >= sizeof line)
        used = (int)sizeof line - 2;
    va_list ap;
    va_start(ap, fields);
    vsnprintf(line + used, sizeof line - (size_t)used, fields, ap);
    va_end(ap);
    size_t len = strlen(line);
    while (len > 0 && line[len - 1] == ' ')
        len--;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)line[i] < 0x20)
            line[i] = ' ';
    if (len == sizeof line - 1)
        len--;
    line[len] = '\n';
    // A log line that cannot be written has nowhere else to go.
    ssize_t ignored = write(STDERR_FILENO, line, len + 1);
    (void)ignored;
}
