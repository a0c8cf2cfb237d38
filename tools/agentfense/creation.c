// The options of a new sandbox and their values: see creation.h.
#include "tools/agentfense/creation.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "mux/base/limits.h"
#include "tools/agentfense/help.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum row {
    ROW_BANDWIDTH,
    ROW_COMMIT_POLICY,
    ROW_CONFLICTS,
    ROW_CPU_SHARES,
    ROW_CPUS,
    ROW_EXPIRES_IN,
    ROW_IMAGE,
    ROW_IOPS,
    ROW_MEMORY,
    ROW_NETWORK,
    ROW_OWNER,
    ROW_PIDS,
    ROW_QUOTA,
    ROW_QUOTA_INODES,
    ROW_RUNTIME,
};

const struct creation_option creation_options[] = {
    [ROW_BANDWIDTH] = {"bandwidth", "BYTES",
                       "what it may read and write in a second; 64K at least, or none",
                       TAKES_QUOTA},
    [ROW_COMMIT_POLICY] = {"commit-policy", "WHEN",
                           "changes reach the codebase: manual (default), on-exec, on-destroy",
                           TAKES_LIVING},
    [ROW_CONFLICTS] = {"conflicts", "HOW",
                       "when others changed the same file: last-writer-wins (default), refuse",
                       TAKES_LIVING},
    [ROW_CPU_SHARES] = {"cpu-shares", "N", "weight against other sandboxes; 1024 is usual",
                        TAKES_CREATION},
    [ROW_CPUS] = {"cpus", "N", "CPU time at most, in CPUs: 0.5, 2", TAKES_CREATION},
    [ROW_EXPIRES_IN] = {"expires-in", "TIME",
                        "destroyed after this time from now: 90s, 30m, 12h, 7d, never",
                        TAKES_LIVING},
    [ROW_IMAGE] = {"image", "NAME", "its root: one of exec.roots, or Docker's image",
                   TAKES_CREATION},
    [ROW_IOPS] = {"iops", "N", "file system requests it may make in a second, or none",
                  TAKES_QUOTA},
    [ROW_MEMORY] = {"memory", "BYTES", "memory at most; K, M, G and T are powers of 1024",
                    TAKES_CREATION},
    [ROW_NETWORK] = {"network", "KIND", "none (default), or host where the daemon allows it",
                     TAKES_CREATION},
    [ROW_OWNER] = {"owner", "NAME", "owner of its codebase, a label for limits and listings",
                   TAKES_POLICY},
    [ROW_PIDS] = {"pids", "N", "processes and threads at most", TAKES_CREATION},
    [ROW_QUOTA] = {"quota", "BYTES", "what it may add to its files", TAKES_QUOTA},
    [ROW_QUOTA_INODES] = {"quota-inodes", "N", "how many files it may add", TAKES_QUOTA},
    [ROW_RUNTIME] = {"runtime", "NAME", "bwrap or docker; default: the daemon's", TAKES_CREATION},
};
const size_t creation_option_count = AF_ARRAY_LEN(creation_options);

struct word {
    const char *text;
    int value;
};
static const struct word policies[] = {
    {"manual", AGENTFENSE__V1__COMMIT_POLICY__COMMIT_POLICY_MANUAL},
    {"on-exec", AGENTFENSE__V1__COMMIT_POLICY__COMMIT_POLICY_ON_EXEC},
    {"on-destroy", AGENTFENSE__V1__COMMIT_POLICY__COMMIT_POLICY_ON_DESTROY},
    {0},
};
static const struct word conflict_words[] = {
    {"last-writer-wins", AGENTFENSE__V1__CONFLICT_POLICY__CONFLICT_POLICY_LAST_WRITER_WINS},
    {"refuse", AGENTFENSE__V1__CONFLICT_POLICY__CONFLICT_POLICY_REFUSE},
    {0},
};
static const struct word networks[] = {
    {"none", AGENTFENSE__V1__NETWORK__NETWORK_NONE},
    {"host", AGENTFENSE__V1__NETWORK__NETWORK_HOST},
    {0},
};
static const struct word runtimes[] = {
    {"bwrap", SANDBOX__V1__RUNTIME_TYPE__RUNTIME_TYPE_BWRAP},
    {"docker", SANDBOX__V1__RUNTIME_TYPE__RUNTIME_TYPE_DOCKER},
    {0},
};

// 0: it is none of them; no word has that value.
static int find_word(const struct word *words, const char *text)
{
    for (; words->text; words++)
        if (strcmp(words->text, text) == 0)
            return words->value;
    return 0;
}

static int refuse(size_t index, const char *text, struct af_error *err)
{
    return af_error_set(err, AF_INVALID_ARGUMENT, "--%s takes %s (%s), not '%.80s'",
                        creation_options[index].name, creation_options[index].value,
                        creation_options[index].help, text);
}

int creation_parse_size(const char *text, uint64_t max, uint64_t *ret)
{
    static const char units[] = "KMGT";
    char *end;
    errno = 0;
    if (!isdigit((unsigned char)*text))
        return -1;
    unsigned long long value = strtoull(text, &end, 10);
    const char *unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
    if (errno || (*end && (!unit || end[1])))
        return -1;
    unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
    if (value == 0 || value > max >> shift)
        return -1;
    *ret = (uint64_t)value << shift;
    return 0;
}

static int take_count(const char *text, uint64_t max, int64_t *ret)
{
    uint64_t value;
    size_t len = strlen(text);
    if (strspn(text, "0123456789") != len || creation_parse_size(text, max, &value) < 0)
        return -1;
    *ret = (int64_t)value;
    return 0;
}

static int take_bytes(const char *text, uint64_t *ret)
{
    return creation_parse_size(text, INT64_MAX, ret);
}

static int take_rate(const char *text, uint64_t min, uint64_t max, int64_t *ret)
{
    uint64_t value;
    if (strcmp(text, "none") == 0) {
        *ret = CREATION_NONE;
        return 0;
    }
    if (creation_parse_size(text, max, &value) < 0 || value < min)
        return -1;
    *ret = (int64_t)value;
    return 0;
}

static int take_cpus(const char *text, int64_t *ret_us)
{
    char *end;
    errno = 0;
    double cpus = strtod(text, &end);
    if (errno || end == text || *end || !isfinite(cpus) || cpus < 0.01 || cpus > 10000)
        return -1;
    *ret_us = (int64_t)(cpus * 100000 + 0.5); // of each 100 ms
    return 0;
}

static int take_time(const char *text, int64_t *ret_ns)
{
    static const struct {
        char unit;
        int64_t seconds;
    } units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
    char *end;
    errno = 0;
    if (strcmp(text, "never") == 0) {
        *ret_ns = CREATION_NEVER;
        return 0;
    }
    if (!isdigit((unsigned char)*text))
        return -1;
    long long value = strtoll(text, &end, 10);
    for (size_t i = 0; i < AF_ARRAY_LEN(units) && !errno && *end; i++) {
        if (*end != units[i].unit || end[1])
            continue;
        if (value < 1 || value > 3650 * (int64_t)86400 / units[i].seconds)
            return -1; // ten years
        *ret_ns = value * units[i].seconds * AF_NS_PER_SEC;
        return 0;
    }
    return -1;
}

static int take_text(const char *text, const char **ret)
{
    *ret = text;
    return *text ? 0 : -1;
}

static int take(struct creation *to, size_t index, const char *text)
{
    uint64_t bytes;
    switch ((enum row)index) {
    case ROW_BANDWIDTH:
        return take_rate(text, AF_BANDWIDTH_MIN, AF_BANDWIDTH_MAX, &to->bandwidth);
    case ROW_IOPS:
        return take_rate(text, 1, AF_IOPS_MAX, &to->iops);
    case ROW_COMMIT_POLICY:
        to->commit_policy = (Agentfense__V1__CommitPolicy)find_word(policies, text);
        return to->commit_policy ? 0 : -1;
    case ROW_CONFLICTS:
        to->conflicts = (Agentfense__V1__ConflictPolicy)find_word(conflict_words, text);
        return to->conflicts ? 0 : -1;
    case ROW_NETWORK:
        to->network = (Agentfense__V1__Network)find_word(networks, text);
        return to->network ? 0 : -1;
    case ROW_RUNTIME:
        to->runtime = (Sandbox__V1__RuntimeType)find_word(runtimes, text);
        return to->runtime ? 0 : -1;
    case ROW_CPU_SHARES:
        return take_count(text, 1 << 20, &to->cpu_shares);
    case ROW_CPUS:
        return take_cpus(text, &to->cpu_quota_us);
    case ROW_EXPIRES_IN:
        return take_time(text, &to->expires_in_ns);
    case ROW_IMAGE:
        return take_text(text, &to->image);
    case ROW_OWNER:
        return take_text(text, &to->owner);
    case ROW_MEMORY:
        if (take_bytes(text, &bytes) < 0)
            return -1;
        to->memory_bytes = (int64_t)bytes;
        return 0;
    case ROW_PIDS:
        return take_count(text, 1 << 22, &to->pids);
    case ROW_QUOTA:
        return take_bytes(text, &to->quota_bytes);
    case ROW_QUOTA_INODES:
        return creation_parse_size(text, INT64_MAX, &to->quota_inodes);
    }
    return -1;
}

int creation_take(struct creation *creation, size_t index, const char *text, struct af_error *err)
{
    return take(creation, index, text) < 0 ? refuse(index, text, err) : 0;
}

void creation_print_help(unsigned takes, FILE *out)
{
    for (size_t i = 0; i < creation_option_count; i++) {
        const struct creation_option *option = &creation_options[i];
        if (option->takes & takes)
            fprintf(out, "  --%s %s\n                 %s\n", option->name, option->value,
                    option->help);
    }
}
