// Log lines as key=value on stderr (the journal takes them as they are).
//
//   af_log(AF_LOG_WARN, "exec", "init ended early", "sandbox=%s status=%d", id, status);
//   -> level=warn area=exec msg="init ended early" sandbox=sb_x status=1
// Values from outside must be printable: pass them through af_text_make_printable first.
// Thread-safe: one write(2) a line. Never called on a path that runs once per request.
#ifndef AF_BASE_LOG_H
#define AF_BASE_LOG_H

enum af_log_level { AF_LOG_DEBUG, AF_LOG_INFO, AF_LOG_WARN, AF_LOG_ERROR };

// Lines below this level are dropped. Default AF_LOG_INFO. Set before threads start.
void af_log_set_level(enum af_log_level level);

// When stderr is the journal's stream ($JOURNAL_STREAM), lines begin with their priority as
// sd-daemon(3) has it. Call before threads start.
void af_log_find_journal(void);

// `fields` is a printf format of key=value pairs, or "" for none.
void af_log(enum af_log_level level, const char *area, const char *msg, const char *fields, ...)
    __attribute__((format(printf, 4, 5)));

#endif
