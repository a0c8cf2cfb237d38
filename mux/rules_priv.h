// The inside of compiled rules: patterns, component matchers, automaton positions, states.
//
// From text to states, one file each: rules_parse.c expands and parses a pattern into parts;
// rules_compile.c ranks the patterns, numbers their positions so that a smaller number always
// wins, and interns the result; rules_match.c matches one part against one name; rules_state.c
// makes and keeps the states (sorted sets of positions); rules_explain.c tells what matched.
//
// Owns: nothing itself. Locks: struct rules has one leaf mutex, rules_states.lock, taken only
// for states not seen before; the intern table's mutex in rules_compile.c is a leaf, too.
// Read next: docs/RULES.md.
#ifndef AF_MUX_RULES_PRIV_H
#define AF_MUX_RULES_PRIV_H

#include "mux/rules.h"

#include <pthread.h>
#include <stdatomic.h>

// Positions of one list's automaton: every pattern takes one more than it has components other
// than `**`. Bounds the memory of a state and the work of making one.
#define RULES_POSITIONS_MAX 16384

// ---- patterns

// In the order in which matchers are numbered. Of the first three kinds, at most one matcher of a
// length accepts a name: a binary search finds it.
enum rules_part_kind {
    RULES_PART_LITERAL,    // code: the name
    RULES_PART_PREFIX,     // `abc*`; code: the literal bytes
    RULES_PART_SUFFIX,     // `*abc`; code: the literal bytes
    RULES_PART_WILD,       // code: operations
    RULES_PART_ANY,        // `*`
    RULES_PART_DOUBLESTAR, // `**`: no matcher, the next position loops
};

// One component of a pattern. Equal parts have equal kind and code.
struct rules_part {
    uint32_t code; // offset
    uint16_t len;  // bytes of code
    uint16_t matcher;
    uint8_t kind;
};

// Operations of RULES_PART_WILD.
enum rules_op {
    RULES_OP_BYTE = 1, // followed by the byte
    RULES_OP_ONE,      // `?`
    RULES_OP_STAR,
    RULES_OP_CLASS, // followed by a bit for each byte value
};
#define RULES_CLASS_BYTES 32

// One alternative of a rule's pattern: a rule without braces has one.
struct rules_pattern {
    uint32_t rule;       // index in the list
    uint32_t first_part; // in parts
    uint16_t n_parts;
    uint16_t prefix_len;    // literal bytes before the first wildcard, separators counted
    uint16_t literal_bytes; // in all, separators not counted
    uint16_t first_position;
    int32_t priority;
    uint8_t type, level;
    bool rooted;   // does not start with `**`
    bool wildcard; // has any
    bool replaced; // a later rule repeats it: out of force, kept for rules_explain
};

struct rules_patterns {
    struct rules_pattern *list; // winner first once ranked
    size_t n, cap;
    struct rules_part *parts;
    size_t n_parts, cap_parts;
    uint8_t *code;
    size_t n_code, cap_code;
    size_t n_positions;
};

// Appends the alternatives of rule `index` (its type and level already checked and never 0).
// 0, or -1 with a sentence that names the rule and the fault.
int rules_parse(struct rules_patterns *to, uint32_t index, const struct rules_input *rule,
                struct af_error *err);
void rules_patterns_fini(struct rules_patterns *patterns);

// How many positions a pattern takes.
size_t rules_pattern_positions(const struct rules_patterns *patterns,
                               const struct rules_pattern *pattern);

// Grows an array to hold at least `need` elements; false (array untouched) for want of memory.
bool rules_grow(void **array, size_t *cap, size_t need, size_t element_size);

// ---- matchers (rules_match.c)

struct rules_matcher {
    const uint8_t *code;
    uint64_t
        needs; // of WILD: rules_byte_bit of every literal byte; a name without one cannot match
    uint16_t len;
    uint8_t kind;
};

static inline uint64_t rules_byte_bit(uint8_t byte)
{
    return UINT64_C(1) << (byte & 63);
}

// Sets matcher->needs.
void rules_matcher_prepare(struct rules_matcher *matcher);
// Whether a name matches. At most name length times code length steps.
bool rules_matcher_test(const struct rules_matcher *matcher, const void *name, size_t len);
// The indices in active of the matchers that accept a name, in increasing order; stops at `max`.
// Returns their number.
struct rules_state_rec;
size_t rules_find_hits(const struct rules_matcher *matchers, const struct rules_state_rec *rec,
                       const void *name, size_t len, uint16_t *hits, size_t max);

// ---- the automaton

#define RULES_NO_MATCHER UINT16_MAX

enum {
    RULES_POS_LOOP = 1,   // any name leads (also) back here
    RULES_POS_ACCEPT = 2, // the pattern matches the path that ends here
    RULES_POS_COVERS = 4, // and every path strictly below, whatever its names
};

// Being at position p means: the pattern's components before p matched the path so far. A name
// that p's matcher accepts leads to p + 1. Numbers follow the rank of the patterns, so the lowest
// accepting position of a set decides.
struct rules_position {
    uint16_t matcher; // RULES_NO_MATCHER at a pattern's end
    uint16_t pattern;
    uint8_t flags, level;
};

// Positions in increasing order: the working form of a state, large enough for any.
struct rules_set {
    uint32_t n;
    uint16_t at[RULES_POSITIONS_MAX];
};

// Neighbours among a state's active matchers that are tried together.
struct rules_group {
    uint16_t first, n; // indices in active
    uint16_t len;      // of the code of each, unless WILD
    uint8_t kind;
};

struct rules_state_rec {
    struct rules_state_rec *hash_next;
    uint64_t hash;
    uint64_t refs; // of a counted state; under the lock
    size_t bytes;
    uint32_t id;
    uint16_t n_positions, n_active, n_groups;
    uint8_t level, below_max, below_min;
    bool resident;
    const uint16_t *positions;
    const uint16_t *active; // distinct matchers of the positions but `*`, in order
    const struct rules_group *groups;
    _Atomic uint32_t next[]; // resident: memoised steps; [0] no active matcher accepts, [1 + i]
                             // active[i] alone does; 0 not known yet
};

#define RULES_CHUNKS        24 // chunk k holds 64 << k slots
#define RULES_STATE_BUCKETS 256

struct rules_slot {
    struct rules_state_rec *_Atomic rec;
    uint32_t next_free; // while unused; under the lock
};

struct rules_states {
    pthread_mutex_t lock; // leaf; guards all but the reads of atomics
    struct rules_slot *_Atomic chunks[RULES_CHUNKS];
    struct rules_state_rec *_Atomic resident[RULES_STATE_BUCKETS]; // chains only grow
    struct rules_state_rec **overflow;                             // hash table of counted states
    size_t n_overflow_buckets;
    uint32_t n_ids, first_free; // ids count from 1
    size_t n_resident, n_overflow, resident_bytes, overflow_bytes;
    uint32_t root;
};

#define RULES_MAGIC 0x72756c65u

struct rules {
    uint32_t magic;
    atomic_size_t refs;
    struct rules *intern_next;
    uint64_t hash;
    struct rules_input *inputs; // type and level never 0; patterns in texts
    char *texts;
    size_t n_inputs;
    struct rules_patterns patterns;
    struct rules_matcher *matchers;
    struct rules_position *positions;
    size_t n_matchers, n_positions;
    uint16_t any; // the matcher of `*`, RULES_NO_MATCHER when none
    struct rules_states states;
};

// Sets up the states and makes those of the root and of "nothing can match". 0 or -ENOMEM.
int rules_states_init(struct rules *rules);
void rules_states_fini(struct rules *rules);

// Appends a position unless it is the last one already. Positions must come in order.
static inline void rules_set_add(struct rules_set *set, uint32_t position)
{
    if (set->n == 0 || set->at[set->n - 1] != position)
        set->at[set->n++] = (uint16_t)position;
}

static inline uint64_t rules_hash(const void *bytes, size_t len, uint64_t seed)
{
    const uint8_t *p = bytes;
    uint64_t hash = seed ^ 0xcbf29ce484222325u;
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash ^ hash >> 29;
}

// Which of two patterns wins: < 0 the first. 0 means a full tie between equal levels. ret_why (may
// be NULL): the deciding criterion in words.
int rules_rank_order(const struct rules_pattern *a, const struct rules_pattern *b,
                     const char **ret_why);

#endif
