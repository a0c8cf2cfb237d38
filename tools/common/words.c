// Tables of words: see words.h.
#include "tools/common/words.h"

#include "mux/base/cleanup.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *const level_words[] = {"unspecified", "none", "view", "read", "write"};
static const char *const kind_words[] = {"unspecified", "file", "directory",
                                         "symlink",     "fifo", "socket"};
static const char *const change_words[] = {"unspecified", "added",    "modified",
                                           "deleted",     "metadata", "renamed"};
static const char *const access_words[] = {"unknown", "normal", "read-only", "cut-off"};
// What is not specified is the first, by agentfense_sandbox.proto.
static const char *const policy_words[] = {"on-exec", "on-exec", "manual", "on-destroy"};
static const char *const conflict_words[] = {"last-writer-wins", "last-writer-wins", "refuse"};

static const char *word(const char *const *words, size_t count, int value)
{
    return value >= 0 && (size_t)value < count ? words[value] : "unknown";
}

const char *tool_level_word(Agentfense__V1__Level level)
{
    return word(level_words, AF_ARRAY_LEN(level_words), (int)level);
}

const char *tool_kind_word(Agentfense__V1__FileKind kind)
{
    return word(kind_words, AF_ARRAY_LEN(kind_words), (int)kind);
}

const char *tool_change_word(Agentfense__V1__DiffEntry__Change change)
{
    return word(change_words, AF_ARRAY_LEN(change_words), (int)change);
}

const char *tool_access_word(Agentfense__V1__Access access)
{
    return word(access_words, AF_ARRAY_LEN(access_words), (int)access);
}

const char *tool_policy_word(Agentfense__V1__CommitPolicy policy)
{
    return word(policy_words, AF_ARRAY_LEN(policy_words), (int)policy);
}

const char *tool_conflict_word(Agentfense__V1__ConflictPolicy policy)
{
    return word(conflict_words, AF_ARRAY_LEN(conflict_words), (int)policy);
}

char tool_change_letter(Agentfense__V1__DiffEntry__Change change)
{
    static const char letters[] = {'?', 'A', 'M', 'D', 'M', 'R'};
    return letters[(int)change >= 0 && (size_t)change < sizeof letters ? change : 0];
}

void tool_mode_text(Agentfense__V1__FileKind kind, uint32_t mode, char out[TOOL_MODE_MAX])
{
    static const char kinds[] = {'?', '-', 'd', 'l', 'p', 's'};
    memcpy(out, "?rwxrwxrwx", TOOL_MODE_MAX);
    out[0] = kinds[(int)kind >= 0 && (size_t)kind < sizeof kinds ? kind : 0];
    for (unsigned i = 0; i < 9; i++) {
        if (!(mode & (0400u >> i)))
            out[1 + i] = '-';
    }
    static const char special[] = {'S', 's', 'T', 't'};
    if (mode & 04000)
        out[3] = special[out[3] == 'x'];
    if (mode & 02000)
        out[6] = special[out[6] == 'x'];
    if (mode & 01000)
        out[9] = special[2 + (out[9] == 'x')];
}

void tool_size_text(uint64_t bytes, char out[TOOL_SIZE_MAX])
{
    static const char units[] = "KMGTPE";
    if (bytes < 1024) {
        snprintf(out, TOOL_SIZE_MAX, "%" PRIu64, bytes);
        return;
    }
    double value = (double)bytes / 1024;
    size_t unit = 0;
    for (; value >= 1023.5 && unit + 1 < sizeof units - 1; unit++)
        value /= 1024;
    snprintf(out, TOOL_SIZE_MAX, value < 9.95 ? "%.1f%c" : "%.0f%c", value, units[unit]);
}

bool tool_level_parse(const char *text, Agentfense__V1__Level *ret)
{
    for (size_t i = 1; i < AF_ARRAY_LEN(level_words); i++) {
        if (strcmp(text, level_words[i]) == 0) {
            *ret = (Agentfense__V1__Level)i;
            return true;
        }
    }
    return false;
}
