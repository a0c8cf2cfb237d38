// Values of options: from text, and checked together.
//
// Failure: INVALID_ARGUMENT naming the option, what was given and what is allowed.
// Read next: config_priv.h.
#include "api/config_priv.h"

#include "mux/base/cleanup.h"
#include "mux/base/limits.h"

#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct unit {
    const char *suffix;
    uint64_t factor;
};

static const struct unit byte_units[] = {
    {"", 1}, {"K", 1u << 10}, {"M", 1u << 20}, {"G", 1u << 30}, {NULL, 0}};
static const struct unit time_units[] = {
    {"", 1000000000u},  {"ns", 1},           {"us", 1000},          {"ms", 1000000},
    {"s", 1000000000u}, {"m", 60000000000u}, {"h", 3600000000000u}, {NULL, 0}};
static const struct unit no_units[] = {{"", 1}, {NULL, 0}};

// A decimal number with one of the units. False for anything else and on overflow.
static bool parse_number(const char *text, const struct unit *units, uint64_t *ret)
{
    uint64_t value = 0;
    const char *p = text;
    for (; *p >= '0' && *p <= '9'; p++)
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*p - '0'), &value))
            return false;
    if (p == text)
        return false;
    for (const struct unit *unit = units; unit->suffix; unit++)
        if (strcmp(p, unit->suffix) == 0)
            return !__builtin_mul_overflow(value, unit->factor, ret);
    return false;
}

static int set_number(void *at, const struct config_option *option, const char *text,
                      const char *where, struct af_error *err)
{
    const struct unit *units = option->type == CONFIG_BYTES      ? byte_units
                               : option->type == CONFIG_DURATION ? time_units
                                                                 : no_units;
    static const char *const kinds[] = {
        [CONFIG_U32] = "a number",
        [CONFIG_BYTES] = "a number of bytes (as 65536, 64K or 256M)",
        [CONFIG_DURATION] = "a time (as 30s, 500ms, 5m or 24h)",
    };
    uint64_t value;
    if (!parse_number(text, units, &value))
        return af_error_set(err, AF_INVALID_ARGUMENT, "%s: '%s' is not %s", where, text,
                            kinds[option->type]);
    if (value < option->min || value > option->max) {
        bool time = option->type == CONFIG_DURATION;
        return af_error_set(err, AF_INVALID_ARGUMENT, "%s: %s is out of range: %g to %g%s", where,
                            text, (double)option->min / (time ? 1e9 : 1),
                            (double)option->max / (time ? 1e9 : 1), time ? " seconds" : "");
    }
    if (option->type == CONFIG_U32)
        *(uint32_t *)at = (uint32_t)value;
    else if (option->type == CONFIG_BYTES)
        *(uint64_t *)at = value;
    else
        *(int64_t *)at = (int64_t)value;
    return 0;
}

static int set_enum(void *at, const struct config_option *option, const char *text,
                    const char *where, struct af_error *err)
{
    char allowed[128] = "";
    for (unsigned i = 0; option->names[i]; i++) {
        if (strcmp(option->names[i], text) == 0) {
            *(unsigned *)at = i;
            return 0;
        }
        size_t used = strlen(allowed);
        snprintf(allowed + used, sizeof allowed - used, "%s%s", i ? ", " : "", option->names[i]);
    }
    return af_error_set(err, AF_INVALID_ARGUMENT, "%s: '%s' is not one of: %s", where, text,
                        allowed);
}

static int set_bool(void *at, const char *text, const char *where, struct af_error *err)
{
    bool yes = strcmp(text, "true") == 0;
    if (!yes && strcmp(text, "false") != 0)
        return af_error_set(err, AF_INVALID_ARGUMENT, "%s: '%s' is not true or false", where, text);
    *(bool *)at = yes;
    return 0;
}

// Absolute, without slashes at the end.
static int set_path(char **at, const char *text, const char *where, struct af_error *err)
{
    char cwd[PATH_MAX] = "";
    if (text[0] != '/' && !getcwd(cwd, sizeof cwd))
        return af_error_errno(err, errno, "%s: cannot find the current directory", where);
    if (strlen(cwd) + strlen(text) + 2 > PATH_MAX)
        return af_error_set(err, AF_INVALID_ARGUMENT, "%s: the path is too long", where);
    char *path;
    if (asprintf(&path, "%s%s%s", cwd, *cwd ? "/" : "", text) < 0)
        return af_error_errno(err, ENOMEM, "%s", where);
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/')
        path[--len] = '\0';
    free(*at);
    *at = path;
    return 0;
}

int config_set(struct af_config *config, const struct config_option *option, const char *text,
               const char *where, struct af_error *err)
{
    void *at = (char *)config + option->offset;
    if (*text == '\0')
        return af_error_set(err, AF_INVALID_ARGUMENT, "%s needs a value", where);
    switch (option->type) {
    case CONFIG_TEXT: {
        char *copy = strdup(text);
        if (!copy)
            return af_error_errno(err, ENOMEM, "%s", where);
        free(*(char **)at);
        *(char **)at = copy;
        return 0;
    }
    case CONFIG_PATH:
        return set_path(at, text, where, err);
    case CONFIG_BOOL:
        return set_bool(at, text, where, err);
    case CONFIG_ENUM:
        return set_enum(at, option, text, where, err);
    default:
        return set_number(at, option, text, where, err);
    }
}

// ---- together ---------------------------------------------------------------------------

static int find_group(struct af_config *config, struct af_error *err)
{
    uint64_t number;
    if (parse_number(config->group, no_units, &number)) {
        if (number >= UINT32_MAX)
            return af_error_set(err, AF_INVALID_ARGUMENT, "group: %s is no group id",
                                config->group);
        config->group_id = (gid_t)number;
        return 0;
    }
    char buffer[16384];
    struct group entry, *found = NULL;
    int error = getgrnam_r(config->group, &entry, buffer, sizeof buffer, &found);
    if (!found)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "group: there is no group '%s'%s%s: create it or give its number",
                            config->group, error ? ": " : "", error ? strerror(error) : "");
    config->group_id = found->gr_gid;
    return 0;
}

static int default_mount(struct af_config *config, struct af_error *err)
{
    if (config->mount)
        return 0;
    if (asprintf(&config->mount, "%s/mnt", config->state) >= 0)
        return 0;
    config->mount = NULL;
    return af_error_errno(err, ENOMEM, "mount");
}

int af_config_validate(struct af_config *config, struct af_error *err)
{
    if (!config->state)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "--state is missing: name the directory that holds the store");
    if ((uint64_t)config->uid_base + config->uid_count > UINT32_MAX - 65536ull)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "uid_base %u and uid_count %u reach beyond the last host uid",
                            (unsigned)config->uid_base, config->uid_count);
    if (config->bandwidth_max > 0 && config->bandwidth_max < AF_BANDWIDTH_MIN)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "bandwidth_max must be at least %u bytes a second, or 0 for none",
                            AF_BANDWIDTH_MIN);
    if (config->exec.timeout_default_ns > config->exec.timeout_max_ns)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "exec.timeout_default is longer than exec.timeout_max");
    if (config->exec.runtime == EXEC_RUNTIME_DOCKER && !config->exec.docker_socket)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "exec.runtime is docker, but exec.docker_socket is not set");
    if (config->exec.bwrap[0] != '/' && strcmp(config->exec.bwrap, "bwrap") != 0)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "exec.bwrap: %s is no absolute path (or `bwrap`, for the one in the "
                            "system's directories)",
                            config->exec.bwrap);
    unsigned tls_parts = !!config->tls_cert + !!config->tls_key + !!config->token_file;
    if (config->listen_tls && tls_parts != 3)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "listen_tls needs tls_cert, tls_key and token_file as well");
    if (!config->listen_tls && tls_parts > 0)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "tls_cert, tls_key and token_file are of use with listen_tls only");
    if (config->group && find_group(config, err))
        return -1;
    return default_mount(config, err);
}
