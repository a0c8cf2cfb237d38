// The option table that flags, the YAML file and the help text share.
//
// No state. Read next: config.c (the table), config_value.c, config_yaml.c.
#ifndef AF_API_CONFIG_PRIV_H
#define AF_API_CONFIG_PRIV_H

#include "api/config.h"

#include <stddef.h>

enum config_type {
    CONFIG_TEXT,     // char *
    CONFIG_PATH,     // char *, made absolute
    CONFIG_BOOL,     // bool; the flag takes no value
    CONFIG_U32,      // unsigned, uid_t, uint32_t
    CONFIG_BYTES,    // uint64_t; "65536", "64K", "256M", "2G"
    CONFIG_DURATION, // int64_t nanoseconds; "30s", "500ms", "5m", "24h"; a bare number: seconds
    CONFIG_ENUM,     // an enum; `names` in the order of its values
};

struct config_option {
    const char *flag;    // "--" left out
    const char *section; // of the file, or NULL
    const char *key;
    enum config_type type;
    size_t offset; // in struct af_config
    uint64_t min, max;
    const char *const *names; // NULL-terminated
    const char *value;        // in the help
    const char *help;
};

extern const struct config_option config_options[];
extern const size_t config_option_count;

// Sets one option from its text. On failure -1 and a sentence that begins with `where`.
int config_set(struct af_config *config, const struct config_option *option, const char *text,
               const char *where, struct af_error *err);

#endif
