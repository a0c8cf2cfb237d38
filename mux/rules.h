// Permission rules: which level (none < view < read < write) a path of a view has.
//
// A list of rules is compiled once into an automaton over path components. A directory's position
// in the automaton is a 32-bit state: the state of "/" is rules_root, a child's is one rules_step
// by its name, so a lookup costs no path strings. docs/RULES.md has the semantics and the design.
//
//   rules_state root = rules_root(rules);
//   rules_state child = rules_step(rules, root, "src", 3);
//   if (rules_is_hidden(rules, child)) ... -ENOENT
//   rules_state_release(rules, child);     when the node that keeps it goes
//
// Owns: compiled lists are immutable to callers, reference counted and interned: compiling an
// equal list again returns the same object, so 10,000 sandboxes with one preset share one
// automaton and its states.
// Thread: everything may be called from any thread. Step, level and below_* on states seen before
// take no lock and allocate nothing; a step to a state not seen before takes a mutex of the object
// (a leaf: nothing else is locked under it). rules_compile and the last rules_unref take the
// intern table's mutex (also a leaf).
// Fails: rules_compile with a sentence; rules_step with RULES_STATE_INVALID for want of memory,
// and that state answers none to everything: closed, never open.
// Read next: docs/RULES.md, then mux/rules_priv.h.
#ifndef AF_MUX_RULES_H
#define AF_MUX_RULES_H

#include "mux/base/error.h"
#include "mux/base/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Values of sandbox.v1.Permission; 0 (unset) in an input means none.
enum rules_level {
    RULES_NONE = 1, // does not exist for the sandbox
    RULES_VIEW = 2, // listed, with attributes; no content
    RULES_READ = 3,
    RULES_WRITE = 4,
};

// Values of sandbox.v1.PatternType; 0 (unset) in an input means glob.
enum rules_type {
    RULES_GLOB = 1,
    RULES_DIRECTORY = 2, // what the pattern matches, and everything below
    RULES_FILE = 3,      // what the pattern matches; outranks the other types
};

struct rules_input {
    const char *pattern; // bytes, need not be NUL-terminated
    size_t pattern_len;
    int type;  // enum rules_type or 0; any other value is refused
    int level; // enum rules_level or 0; any other value is refused
    int32_t priority;
};

struct rules;

// Compiles a list; the inputs are copied. *ret is a counted reference. An empty list is valid:
// everything is none. A list in which anything is malformed is refused as a whole
// (INVALID_ARGUMENT) with a sentence that names the rule's index, counted from 0, and the fault;
// RESOURCE_EXHAUSTED for want of memory.
int rules_compile(const struct rules_input *list, size_t n, struct rules **ret,
                  struct af_error *err);

// Returns its argument.
struct rules *rules_ref(struct rules *rules);
// NULL is ignored. Every state must have been released or forgotten before the last reference.
void rules_unref(struct rules *rules);

// How many rules the list had, replaced ones included.
size_t rules_count(const struct rules *rules);
// The rule at an index of the original list; type and level are never 0. Its pattern lives as long
// as the rules.
struct rules_input rules_at(const struct rules *rules, size_t index);

// ---- states

// Means something together with its rules only. Equal states of one object give equal answers for
// the path and for everything below it: a directory moved between parents of equal state under an
// equal name changes no level. (Unequal states may give equal answers, too.)
typedef uint32_t rules_state;

#define RULES_STATE_INVALID 0u // no memory: every level is none

// The state of "/". Lives as long as the rules; releasing it is allowed and does nothing.
rules_state rules_root(const struct rules *rules);

// The state of a child by its name: one component, no '/', any other bytes. The name need not
// exist. The caller owns one reference to the result. From RULES_STATE_INVALID, and when memory
// runs out, RULES_STATE_INVALID: answer -ENOMEM.
//
// References: the first RULES_STATES_RESIDENT states of an object stay for its life, and taking or
// releasing them costs one load. Only a hostile tree makes more; those are counted and freed at
// the last release, so that memory is bounded by what callers keep, whatever names are probed.
rules_state rules_step(struct rules *rules, rules_state from, const void *name, size_t name_len);

// A further reference to a state the caller has one of. Returns its argument.
rules_state rules_state_ref(struct rules *rules, rules_state state);
void rules_state_release(struct rules *rules, rules_state state);

#define RULES_STATES_RESIDENT 1024        // states kept for an object's life ...
#define RULES_RESIDENT_BYTES  (4u << 20)  // ... as long as they fit in this
#define RULES_OVERFLOW_BYTES  (64u << 20) // counted states of one object beyond them

// The level of the path itself.
enum rules_level rules_level(const struct rules *rules, rules_state state);

// The highest and the lowest level that any path strictly below could have, whether such a path
// exists or not, domination taken into account: where `**/secrets/**` none 100 beats every other
// rule, below_max of /secrets is none.
//   level(p) <= below_max(ancestor) and level(p) >= below_min(ancestor) for every p below: always.
//   There is such a p: nearly always; the bounds may be loose, never wrong.
enum rules_level rules_below_max(const struct rules *rules, rules_state state);
enum rules_level rules_below_min(const struct rules *rules, rules_state state);

// Neither visible itself nor an ancestor of anything that may be: lookup answers -ENOENT and
// listings omit it. A path that is not hidden but has level none is traversable when it is a
// directory (attributes and listing, of which only permitted names show), and hidden when it is
// not: the caller knows what kind of object it is.
bool rules_is_hidden(const struct rules *rules, rules_state state);

// Walks a path (components joined by single slashes, a leading one allowed, "" is the root) from
// the root. The caller owns a reference to the result. RULES_STATE_INVALID for want of memory.
// For tools and tests; the hot path steps from the parent's state.
rules_state rules_walk(struct rules *rules, const void *path, size_t len);

struct rules_stats {
    size_t n_rules, n_patterns, n_positions; // patterns: after braces; positions: automaton size
    size_t states_resident, states_overflow, state_bytes;
};
void rules_get_stats(struct rules *rules, struct rules_stats *ret);

// ---- explanations

struct rules_match {
    uint32_t index;      // in the original list
    const char *pattern; // as given; owned by the explanation, NUL-terminated
    size_t pattern_len;
    enum rules_type type;
    enum rules_level level;
    int32_t priority;
    bool replaced; // out of force: a later rule repeats its pattern, type and priority
};

struct rules_explanation {
    enum rules_level level;
    enum rules_level below_max;
    bool traversable_only;             // none, but an ancestor of what may be visible
    const struct rules_match *matches; // all that match, the winner first, replaced ones last
    size_t n_matches;                  // each rule once, at its best alternative
    char reason[AF_ERROR_TEXT_MAX];    // one sentence, printable UTF-8
    void *block_;                      // owns matches and their patterns
};

// Which rules match a path (normalised leniently: leading, double and trailing slashes and "." are
// ignored), which wins and why. *ret must be given to rules_explanation_fini. -EINVAL ("..", NUL),
// -ENAMETOOLONG, -ENOMEM: *ret untouched. Not for the hot path.
int rules_explain(struct rules *rules, const void *path, size_t len, struct rules_explanation *ret);
// A zeroed or already finished explanation is allowed.
void rules_explanation_fini(struct rules_explanation *explanation);

// "none", "view", "read", "write"; "glob", "directory", "file". "unknown" otherwise. Static.
const char *rules_level_name(enum rules_level level);
const char *rules_type_name(enum rules_type type);

#endif
