// States of the automaton: sorted sets of positions, made on demand, shared, looked up lock-free.
//
// Owns: struct rules_states. The first states are resident: they stay, are found and memoised
// without a lock, and references to them are not counted. When a hostile tree has made more than
// the budget, further states are counted: found and freed under the lock, never memoised.
// Locks: states.lock (a leaf), only for a state that no resident one equals.
// Fails: RULES_STATE_INVALID for want of memory; it steps to itself and answers none.
// Read next: docs/RULES.md, "The automaton".
#include "mux/base/cleanup.h"
#include "mux/rules_priv.h"

#include <errno.h>
#include <string.h>

// ---- ids

static struct rules_slot *slot_of(const struct rules_states *states, uint32_t id)
{
    uint32_t at = id - 1;
    unsigned chunk = 31u - (unsigned)__builtin_clz(at / 64 + 1);
    uint32_t first = 64 * ((1u << chunk) - 1);
    struct rules_slot *slots = atomic_load_explicit(&states->chunks[chunk], memory_order_acquire);
    return &slots[at - first];
}

// The caller has a reference, so the record is there.
static struct rules_state_rec *rec_of(const struct rules *rules, rules_state state)
{
    if (state == RULES_STATE_INVALID)
        return NULL;
    return atomic_load_explicit(&slot_of(&rules->states, state)->rec, memory_order_acquire);
}

// An unused id, 0 for want of memory. Under the lock.
static uint32_t take_id(struct rules_states *states)
{
    uint32_t id = states->first_free;
    if (id) {
        states->first_free = slot_of(states, id)->next_free;
        return id;
    }
    unsigned chunk = 31u - (unsigned)__builtin_clz(states->n_ids / 64 + 1);
    if (chunk >= RULES_CHUNKS)
        return 0;
    if (!atomic_load_explicit(&states->chunks[chunk], memory_order_relaxed)) {
        struct rules_slot *slots = calloc((size_t)64 << chunk, sizeof *slots);
        if (!slots)
            return 0;
        atomic_store_explicit(&states->chunks[chunk], slots, memory_order_release);
    }
    return ++states->n_ids;
}

// ---- sets

// Drops what cannot matter any more, so that equal meanings become equal sets:
// past the first position that covers everything below (they lose to it), all but the one that
// decides the level here; and of the positions that are nothing but an end, all but that one.
static void normalise(const struct rules *rules, struct rules_set *set)
{
    uint32_t out = 0;
    int decides = -1;
    bool covered = false;
    for (uint32_t i = 0; i < set->n; i++) {
        uint16_t at = set->at[i];
        unsigned flags = rules->positions[at].flags;
        bool first_end = (flags & RULES_POS_ACCEPT) && decides < 0;
        bool end_only = (flags & (RULES_POS_ACCEPT | RULES_POS_LOOP)) == RULES_POS_ACCEPT;
        if (first_end)
            decides = at;
        if (first_end || (!covered && !end_only))
            set->at[out++] = at;
        covered |= (flags & RULES_POS_COVERS) != 0;
        if (covered && decides >= 0)
            break;
    }
    set->n = out;
}

// The levels of a normalised set.
static void find_levels(const struct rules *rules, struct rules_state_rec *rec)
{
    uint8_t level = 0, max = 0, min = RULES_WRITE;
    bool covered = false;
    for (size_t i = 0; i < rec->n_positions; i++) {
        const struct rules_position *p = &rules->positions[rec->positions[i]];
        if ((p->flags & RULES_POS_ACCEPT) && !level)
            level = p->level;
        // Past what covers everything below there is only the one that decides here.
        bool leads_on = (p->flags & (RULES_POS_ACCEPT | RULES_POS_LOOP)) != RULES_POS_ACCEPT;
        if (leads_on && !covered) {
            max = p->level > max ? p->level : max;
            min = p->level < min ? p->level : min;
        }
        covered |= (p->flags & RULES_POS_COVERS) != 0;
    }
    rec->level = level ? level : RULES_NONE;
    rec->below_max = max ? max : RULES_NONE;
    rec->below_min = covered ? min : RULES_NONE; // else a name that no rule matches
}

static int order_u16(const void *a, const void *b)
{
    return (int)*(const uint16_t *)a - (int)*(const uint16_t *)b;
}

// The distinct matchers to try at a set, `*` not among them. Returns their number.
static size_t collect_active(const struct rules *rules, const struct rules_set *set, uint16_t *to)
{
    size_t n = 0, out = 0;
    for (uint32_t i = 0; i < set->n; i++) {
        uint16_t m = rules->positions[set->at[i]].matcher;
        if (m != RULES_NO_MATCHER && m != rules->any)
            to[n++] = m;
    }
    if (n > 1)
        qsort(to, n, sizeof *to, order_u16);
    for (size_t i = 0; i < n; i++) {
        if (out == 0 || to[out - 1] != to[i])
            to[out++] = to[i];
    }
    return out;
}

// Cuts the active matchers into groups of one kind and length. Returns their number.
static size_t make_groups(const struct rules *rules, const uint16_t *active, size_t n_active,
                          struct rules_group *to)
{
    size_t n = 0;
    for (size_t i = 0; i < n_active; i++) {
        const struct rules_matcher *m = &rules->matchers[active[i]];
        bool joins = n > 0 && to[n - 1].kind == m->kind &&
                     (to[n - 1].len == m->len || m->kind == RULES_PART_WILD);
        if (joins)
            to[n - 1].n++;
        else
            to[n++] = (struct rules_group){(uint16_t)i, 1, m->len, m->kind};
    }
    return n;
}

// ---- records

static struct rules_state_rec *rec_new(const struct rules *rules, const struct rules_set *set,
                                       uint64_t hash)
{
    AF_CLEANUP_FREE uint16_t *active = malloc((set->n + 1) * sizeof *active);
    if (!active)
        return NULL;
    size_t n_active = collect_active(rules, set, active);
    AF_CLEANUP_FREE struct rules_group *groups = malloc((n_active + 1) * sizeof *groups);
    if (!groups)
        return NULL;
    size_t n_groups = make_groups(rules, active, n_active, groups);
    size_t bytes = sizeof(struct rules_state_rec) + (1 + n_active) * sizeof(uint32_t) +
                   n_groups * sizeof *groups + (n_active + set->n) * sizeof(uint16_t);
    struct rules_state_rec *rec = calloc(1, bytes);
    if (!rec)
        return NULL;
    struct rules_group *own_groups = (struct rules_group *)(rec->next + 1 + n_active);
    uint16_t *own_active = (uint16_t *)(own_groups + n_groups);
    memcpy(own_groups, groups, n_groups * sizeof *groups);
    memcpy(own_active, active, n_active * sizeof *active);
    memcpy(own_active + n_active, set->at, set->n * sizeof *set->at);
    rec->groups = own_groups;
    rec->active = own_active;
    rec->positions = own_active + n_active;
    rec->n_groups = (uint16_t)n_groups;
    rec->n_active = (uint16_t)n_active;
    rec->n_positions = (uint16_t)set->n;
    rec->hash = hash;
    rec->bytes = bytes;
    find_levels(rules, rec);
    return rec;
}

static bool rec_equals(const struct rules_state_rec *rec, const struct rules_set *set,
                       uint64_t hash)
{
    return rec->hash == hash && rec->n_positions == set->n &&
           memcmp(rec->positions, set->at, set->n * sizeof *set->at) == 0;
}

// Lock-free: chains grow at their head and never change behind it.
static struct rules_state_rec *find_resident(struct rules_states *states,
                                             const struct rules_set *set, uint64_t hash)
{
    struct rules_state_rec *rec =
        atomic_load_explicit(&states->resident[hash % RULES_STATE_BUCKETS], memory_order_acquire);
    while (rec && !rec_equals(rec, set, hash))
        rec = rec->hash_next;
    return rec;
}

static struct rules_state_rec **overflow_bucket(struct rules_states *states, uint64_t hash)
{
    return &states->overflow[hash & (states->n_overflow_buckets - 1)];
}

// Keeps the table at least as large as its load. Failing to grow is no error once there is one.
static bool grow_overflow(struct rules_states *states)
{
    size_t old_n = states->n_overflow_buckets;
    if (old_n > states->n_overflow)
        return true;
    size_t n = old_n ? old_n * 2 : 1024;
    struct rules_state_rec **old = states->overflow,
                           **grown = calloc(n, sizeof(struct rules_state_rec *));
    if (!grown)
        return old_n > 0;
    states->overflow = grown;
    states->n_overflow_buckets = n;
    for (size_t i = 0; i < old_n; i++) {
        for (struct rules_state_rec *rec = old[i], *next; rec; rec = next) {
            next = rec->hash_next;
            struct rules_state_rec **bucket = overflow_bucket(states, rec->hash);
            rec->hash_next = *bucket;
            *bucket = rec;
        }
    }
    free(old);
    return true;
}

static void publish(struct rules_states *states, struct rules_state_rec *rec)
{
    if (rec->resident) {
        struct rules_state_rec *_Atomic *head = &states->resident[rec->hash % RULES_STATE_BUCKETS];
        rec->hash_next = atomic_load_explicit(head, memory_order_relaxed);
        states->n_resident++;
        states->resident_bytes += rec->bytes;
        atomic_store_explicit(&slot_of(states, rec->id)->rec, rec, memory_order_release);
        atomic_store_explicit(head, rec, memory_order_release);
        return;
    }
    struct rules_state_rec **bucket = overflow_bucket(states, rec->hash);
    rec->hash_next = *bucket;
    *bucket = rec;
    states->n_overflow++;
    states->overflow_bytes += rec->bytes;
    atomic_store_explicit(&slot_of(states, rec->id)->rec, rec, memory_order_release);
}

// A counted state that equals the set, with one more reference; or a new state. Under the lock.
static struct rules_state_rec *find_or_make(struct rules *rules, const struct rules_set *set,
                                            uint64_t hash)
{
    struct rules_states *states = &rules->states;
    struct rules_state_rec *rec = find_resident(states, set, hash); // made in the meantime?
    if (rec)
        return rec;
    if (states->n_overflow_buckets) {
        rec = *overflow_bucket(states, hash);
        while (rec && !rec_equals(rec, set, hash))
            rec = rec->hash_next;
        if (rec) {
            rec->refs++;
            return rec;
        }
    }
    rec = rec_new(rules, set, hash);
    if (!rec)
        return NULL;
    rec->resident = states->n_resident < RULES_STATES_RESIDENT &&
                    (states->n_resident < 2 || // the root and the dead state always are
                     states->resident_bytes + rec->bytes <= RULES_RESIDENT_BYTES);
    rec->refs = 1;
    bool room = rec->resident || (states->overflow_bytes + rec->bytes <= RULES_OVERFLOW_BYTES &&
                                  grow_overflow(states));
    rec->id = room ? take_id(states) : 0;
    if (!rec->id) {
        free(rec);
        return NULL;
    }
    publish(states, rec);
    return rec;
}

// The state of a set, which is normalised here. The caller owns a reference.
static struct rules_state_rec *intern_set(struct rules *rules, struct rules_set *set)
{
    normalise(rules, set);
    // Seeded by the address, so that nobody can aim at one bucket.
    uint64_t hash = rules_hash(set->at, set->n * sizeof *set->at, (uintptr_t)rules);
    struct rules_state_rec *rec = find_resident(&rules->states, set, hash);
    if (rec)
        return rec;
    pthread_mutex_lock(&rules->states.lock);
    rec = find_or_make(rules, set, hash);
    pthread_mutex_unlock(&rules->states.lock);
    return rec;
}

// ---- steps

// A step that no memo answers. Memoised when at most one matcher accepts.
static __attribute__((noinline)) rules_state
step_slow(struct rules *rules, struct rules_state_rec *from, const void *name, size_t len)
{
    uint16_t hits[RULES_POSITIONS_MAX];
    struct rules_set to;
    size_t n_hits = rules_find_hits(rules->matchers, from, name, len, hits, RULES_POSITIONS_MAX);
    size_t memo = n_hits ? hits[0] + 1u : 0;
    to.n = 0;
    for (size_t i = 0; i < n_hits; i++)
        hits[i] = from->active[hits[i]]; // from indices to matchers, still in order
    for (size_t i = 0; i < from->n_positions; i++) {
        uint16_t at = from->positions[i];
        const struct rules_position *p = &rules->positions[at];
        if (p->flags & RULES_POS_LOOP)
            rules_set_add(&to, at);
        if (p->matcher != RULES_NO_MATCHER &&
            (p->matcher == rules->any ||
             (n_hits && bsearch(&p->matcher, hits, n_hits, sizeof *hits, order_u16))))
            rules_set_add(&to, at + 1u);
    }
    struct rules_state_rec *rec = intern_set(rules, &to);
    if (!rec)
        return RULES_STATE_INVALID;
    if (n_hits <= 1 && from->resident && rec->resident)
        atomic_store_explicit(&from->next[memo], rec->id, memory_order_release);
    return rec->id;
}

rules_state rules_step(struct rules *rules, rules_state state, const void *name, size_t len)
{
    AF_CHECK_MAGIC(rules, RULES_MAGIC);
    struct rules_state_rec *from = rec_of(rules, state);
    if (!from)
        return RULES_STATE_INVALID;
    uint16_t hits[2];
    size_t n_hits = rules_find_hits(rules->matchers, from, name, len, hits, 2);
    if (n_hits < 2) {
        rules_state next =
            atomic_load_explicit(&from->next[n_hits ? hits[0] + 1u : 0], memory_order_acquire);
        if (next)
            return next;
    }
    return step_slow(rules, from, name, len);
}

rules_state rules_root(const struct rules *rules)
{
    AF_CHECK_MAGIC(rules, RULES_MAGIC);
    return rules->states.root;
}

rules_state rules_state_ref(struct rules *rules, rules_state state)
{
    AF_CHECK_MAGIC(rules, RULES_MAGIC);
    struct rules_state_rec *rec = rec_of(rules, state);
    if (rec && !rec->resident) {
        pthread_mutex_lock(&rules->states.lock);
        rec->refs++;
        pthread_mutex_unlock(&rules->states.lock);
    }
    return state;
}

void rules_state_release(struct rules *rules, rules_state state)
{
    AF_CHECK_MAGIC(rules, RULES_MAGIC);
    struct rules_states *states = &rules->states;
    struct rules_state_rec *rec = rec_of(rules, state);
    if (!rec || rec->resident)
        return;
    pthread_mutex_lock(&states->lock);
    bool last = --rec->refs == 0;
    if (last) {
        struct rules_state_rec **at = overflow_bucket(states, rec->hash);
        while (*at != rec)
            at = &(*at)->hash_next;
        *at = rec->hash_next;
        states->n_overflow--;
        states->overflow_bytes -= rec->bytes;
        struct rules_slot *slot = slot_of(states, state);
        atomic_store_explicit(&slot->rec, NULL, memory_order_relaxed);
        slot->next_free = states->first_free;
        states->first_free = state;
    }
    pthread_mutex_unlock(&states->lock);
    if (last)
        free(rec);
}

// ---- answers

enum rules_level rules_level(const struct rules *rules, rules_state state)
{
    const struct rules_state_rec *rec = rec_of(rules, state);
    return rec ? rec->level : RULES_NONE;
}

enum rules_level rules_below_max(const struct rules *rules, rules_state state)
{
    const struct rules_state_rec *rec = rec_of(rules, state);
    return rec ? rec->below_max : RULES_NONE;
}

enum rules_level rules_below_min(const struct rules *rules, rules_state state)
{
    const struct rules_state_rec *rec = rec_of(rules, state);
    return rec ? rec->below_min : RULES_NONE;
}

bool rules_is_hidden(const struct rules *rules, rules_state state)
{
    const struct rules_state_rec *rec = rec_of(rules, state);
    return !rec || (rec->level == RULES_NONE && rec->below_max == RULES_NONE);
}

rules_state rules_walk(struct rules *rules, const void *path, size_t len)
{
    const char *at = path, *end = at + len;
    rules_state state = rules_root(rules);
    if (at < end && *at == '/')
        at++;
    while (at < end) {
        const char *slash = memchr(at, '/', (size_t)(end - at));
        const char *stop = slash ? slash : end;
        rules_state next = rules_step(rules, state, at, (size_t)(stop - at));
        rules_state_release(rules, state);
        state = next;
        at = slash ? slash + 1 : end;
    }
    return state;
}

// ---- the table

int rules_states_init(struct rules *rules)
{
    pthread_mutex_init(&rules->states.lock, NULL);
    struct rules_set set;
    set.n = 0;
    struct rules_state_rec *dead = intern_set(rules, &set);
    // Patterns are numbered in order, so their first positions are, too.
    for (size_t i = 0; i < rules->patterns.n; i++) {
        if (!rules->patterns.list[i].replaced)
            rules_set_add(&set, rules->patterns.list[i].first_position);
    }
    struct rules_state_rec *root = intern_set(rules, &set);
    if (!dead || !root)
        return -ENOMEM;
    rules->states.root = root->id;
    return 0;
}

void rules_states_fini(struct rules *rules)
{
    struct rules_states *states = &rules->states;
    for (uint32_t id = 1; id <= states->n_ids; id++)
        free(atomic_load_explicit(&slot_of(states, id)->rec, memory_order_relaxed));
    for (size_t i = 0; i < RULES_CHUNKS; i++)
        free(atomic_load_explicit(&states->chunks[i], memory_order_relaxed));
    free(states->overflow);
    pthread_mutex_destroy(&states->lock);
}

void rules_get_stats(struct rules *rules, struct rules_stats *ret)
{
    AF_CHECK_MAGIC(rules, RULES_MAGIC);
    pthread_mutex_lock(&rules->states.lock);
    *ret = (struct rules_stats){
        .n_rules = rules->n_inputs,
        .n_patterns = rules->patterns.n,
        .n_positions = rules->n_positions,
        .states_resident = rules->states.n_resident,
        .states_overflow = rules->states.n_overflow,
        .state_bytes = rules->states.resident_bytes + rules->states.overflow_bytes,
    };
    pthread_mutex_unlock(&rules->states.lock);
}
