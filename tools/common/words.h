// The words for levels, kinds, changes and settings, and how much of a file's mode a person wants
// to see.
//
// A value this build does not know (a newer daemon) is "unknown", never an index out of a table.
#ifndef AF_TOOLS_COMMON_WORDS_H
#define AF_TOOLS_COMMON_WORDS_H

#include "proto/agentfense.pb-c.h"
#include "proto/agentfense_sandbox.pb-c.h"

#include <stdbool.h>
#include <stdint.h>

#define TOOL_MODE_MAX 11 // "drwxr-xr-x" and NUL
#define TOOL_SIZE_MAX 24

const char *tool_level_word(Agentfense__V1__Level level);
const char *tool_kind_word(Agentfense__V1__FileKind kind);
const char *tool_change_word(Agentfense__V1__DiffEntry__Change change);
const char *tool_access_word(Agentfense__V1__Access access);
const char *tool_policy_word(Agentfense__V1__CommitPolicy policy);
const char *tool_conflict_word(Agentfense__V1__ConflictPolicy policy);
// A, M, D, R; M also for a change of metadata alone; ? when unknown.
char tool_change_letter(Agentfense__V1__DiffEntry__Change change);

void tool_mode_text(Agentfense__V1__FileKind kind, uint32_t mode, char out[TOOL_MODE_MAX]);
// "512", "1.5K", "20M"
void tool_size_text(uint64_t bytes, char out[TOOL_SIZE_MAX]);

// none, view, read, write; false when it is no level.
bool tool_level_parse(const char *text, Agentfense__V1__Level *ret);

#endif
