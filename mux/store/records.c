// Codebase and sandbox records. Read next: schema.h.
#include "mux/store/store_priv.h"

#include <errno.h>
#include <stdlib.h>

static MDB_val id_key(const char *id)
{
    return store_val(id, strlen(id));
}

static int copy_id(struct af_id *ret, const void *bytes, size_t len)
{
    if (len >= sizeof ret->text)
        return -EUCLEAN;
    memset(ret, 0, sizeof *ret);
    memcpy(ret->text, bytes, len);
    return 0;
}

// On a full disk records may change, but no new ones come.
static int check_space(struct store_txn *txn, enum store_dbi dbi, const char *id)
{
    MDB_val value;
    if (!atomic_load(&txn->store->full))
        return 0;
    int rc = store_get(txn, dbi, id_key(id), &value);
    return rc == -ENOENT ? store_space_for_growth(txn) : rc;
}

// Calls fn for each record after `after_id`; fn's value other than 0 ends the walk.
static int walk(struct store_txn *txn, enum store_dbi dbi, const char *after_id,
                int (*fn)(void *arg, MDB_val key, MDB_val value), void *arg)
{
    MDB_cursor *cursor;
    int rc = store_errno(mdb_cursor_open(txn->mdb, txn->store->dbi[dbi], &cursor));
    if (rc < 0)
        return rc;
    MDB_val key = id_key(after_id ? after_id : ""), value;
    int mdb_rc = mdb_cursor_get(cursor, &key, &value, after_id ? MDB_SET_RANGE : MDB_FIRST);
    if (mdb_rc == 0 && after_id && key.mv_size == strlen(after_id) &&
        memcmp(key.mv_data, after_id, key.mv_size) == 0)
        mdb_rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    while (mdb_rc == 0 && (rc = fn(arg, key, value)) == 0)
        mdb_rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    mdb_cursor_close(cursor);
    return rc == 0 && mdb_rc != 0 && mdb_rc != MDB_NOTFOUND ? store_errno(mdb_rc) : rc;
}

// ---- codebases

int store_codebase_put(struct store_txn *txn, const struct store_codebase *c)
{
    uint8_t bytes[sizeof(struct value_codebase) + 2UL * AF_NAME_TEXT_MAX];
    int rc = check_space(txn, STORE_DBI_CODEBASE, c->id.text);
    if (rc < 0)
        return rc;
    struct value_codebase v = {
        .format = STORE_FORMAT,
        .head_dirty = c->head_dirty,
        .name_len = (uint16_t)strnlen(c->name, AF_NAME_TEXT_MAX),
        .owner_len = (uint16_t)strnlen(c->owner, AF_NAME_TEXT_MAX),
        .root_fid = c->root_fid,
        .stack = c->stack,
        .head = c->head,
        .size_bytes = c->size_bytes,
        .files = c->files,
        .created_ns = c->created_ns,
        .updated_ns = c->updated_ns,
    };
    memcpy(bytes, &v, sizeof v);
    memcpy(bytes + sizeof v, c->name, v.name_len);
    memcpy(bytes + sizeof v + v.name_len, c->owner, v.owner_len);
    return store_put(txn, STORE_DBI_CODEBASE, id_key(c->id.text),
                     store_val(bytes, sizeof v + v.name_len + v.owner_len));
}

int store_codebase_decode(MDB_val key, MDB_val value, struct store_codebase *ret)
{
    struct value_codebase v;
    if (value.mv_size < sizeof v)
        return -EUCLEAN;
    memcpy(&v, value.mv_data, sizeof v);
    if (v.format != STORE_FORMAT || v.name_len > AF_NAME_TEXT_MAX ||
        v.owner_len > AF_NAME_TEXT_MAX || value.mv_size != sizeof v + v.name_len + v.owner_len)
        return -EUCLEAN;
    *ret = (struct store_codebase){
        .head_dirty = v.head_dirty,
        .root_fid = v.root_fid,
        .stack = v.stack,
        .head = v.head,
        .size_bytes = v.size_bytes,
        .files = v.files,
        .created_ns = v.created_ns,
        .updated_ns = v.updated_ns,
    };
    const char *text = (const char *)value.mv_data + sizeof v;
    memcpy(ret->name, text, v.name_len);
    memcpy(ret->owner, text + v.name_len, v.owner_len);
    return copy_id(&ret->id, key.mv_data, key.mv_size);
}

int store_codebase_get(struct store_txn *txn, const char *id, struct store_codebase *ret)
{
    MDB_val value;
    int rc = store_get(txn, STORE_DBI_CODEBASE, id_key(id), &value);
    return rc < 0 ? rc : store_codebase_decode(id_key(id), value, ret);
}

int store_codebase_del(struct store_txn *txn, const char *id)
{
    return store_del(txn, STORE_DBI_CODEBASE, id_key(id));
}

struct codebase_walk {
    int (*fn)(void *arg, const struct store_codebase *codebase);
    void *arg;
};

static int pass_codebase(void *arg, MDB_val key, MDB_val value)
{
    struct codebase_walk *walk_arg = arg;
    struct store_codebase codebase;
    int rc = store_codebase_decode(key, value, &codebase);
    return rc < 0 ? rc : walk_arg->fn(walk_arg->arg, &codebase);
}

int store_codebase_list(struct store_txn *txn, const char *after_id,
                        int (*fn)(void *arg, const struct store_codebase *codebase), void *arg)
{
    struct codebase_walk walk_arg = {.fn = fn, .arg = arg};
    return walk(txn, STORE_DBI_CODEBASE, after_id, pass_codebase, &walk_arg);
}

// ---- sandboxes

int store_sandbox_put(struct store_txn *txn, const struct store_sandbox *s)
{
    size_t codebase_len = strlen(s->codebase_id.text);
    if (s->n_rules > AF_RULES_MAX || s->user_data_len > UINT32_MAX ||
        s->owner_len > AF_NAME_TEXT_MAX) // could not be read back
        return store_keep_error(txn, -E2BIG);
    int rc = check_space(txn, STORE_DBI_SANDBOX, s->id.text);
    if (rc < 0)
        return rc;
    const struct value_limit limit = {.iops = s->iops, .bandwidth = s->bandwidth};
    size_t limit_len = s->iops > 0 || s->bandwidth > 0 ? sizeof limit : 0;
    size_t total =
        sizeof(struct value_sandbox) + limit_len + codebase_len + s->owner_len + s->user_data_len;
    for (size_t i = 0; i < s->n_rules; i++)
        total += sizeof(struct value_rule) + s->rules[i].pattern_len;
    AF_CLEANUP_FREE uint8_t *bytes = malloc(total);
    if (!bytes)
        return -ENOMEM;
    struct value_sandbox v = {
        .format = limit_len > 0 ? STORE_FORMAT_LIMITED : STORE_FORMAT,
        .status = (uint8_t)s->status,
        .access = (uint8_t)s->access,
        .codebase_len = (uint16_t)codebase_len,
        .owner_len = (uint16_t)s->owner_len,
        .n_rules = (uint32_t)s->n_rules,
        .user_data_len = (uint32_t)s->user_data_len,
        .root_fid = s->root_fid,
        .stack = s->stack,
        .delta = s->delta,
        .quota_bytes = s->quota_bytes,
        .quota_inodes = s->quota_inodes,
        .created_ns = s->created_ns,
        .started_ns = s->started_ns,
        .stopped_ns = s->stopped_ns,
        .expires_ns = s->expires_ns,
    };
    uint8_t *p = bytes;
    memcpy(p, &v, sizeof v);
    p += sizeof v;
    memcpy(p, &limit, limit_len);
    p += limit_len;
    memcpy(p, s->codebase_id.text, codebase_len);
    p += codebase_len;
    if (s->owner_len > 0)
        memcpy(p, s->owner, s->owner_len);
    p += s->owner_len;
    for (size_t i = 0; i < s->n_rules; i++) {
        const struct store_rule *rule = &s->rules[i];
        struct value_rule head = {.pattern_len = rule->pattern_len,
                                  .type = rule->type,
                                  .level = rule->level,
                                  .priority = rule->priority};
        memcpy(p, &head, sizeof head);
        memcpy(p + sizeof head, rule->pattern, rule->pattern_len);
        p += sizeof head + rule->pattern_len;
    }
    if (s->user_data_len > 0)
        memcpy(p, s->user_data, s->user_data_len);
    return store_put(txn, STORE_DBI_SANDBOX, id_key(s->id.text), store_val(bytes, total));
}

// Reads n rules from [*p, end), advancing *p.
static int decode_rules(const uint8_t **p, const uint8_t *end, size_t n, struct store_rule *rules)
{
    for (size_t i = 0; i < n; i++) {
        struct value_rule head;
        if ((size_t)(end - *p) < sizeof head)
            return -EUCLEAN;
        memcpy(&head, *p, sizeof head);
        *p += sizeof head;
        if ((size_t)(end - *p) < head.pattern_len)
            return -EUCLEAN;
        rules[i] = (struct store_rule){.pattern = (const char *)*p,
                                       .pattern_len = head.pattern_len,
                                       .type = head.type,
                                       .level = head.level,
                                       .priority = head.priority};
        *p += head.pattern_len;
    }
    return 0;
}

int store_sandbox_decode(MDB_val key, MDB_val value, struct store_sandbox *ret)
{
    struct value_sandbox v;
    struct value_limit limit = {0};
    const uint8_t *p = value.mv_data, *end = p + value.mv_size;
    if (value.mv_size < sizeof v)
        return -EUCLEAN;
    memcpy(&v, p, sizeof v);
    p += sizeof v;
    if (v.format == STORE_FORMAT_LIMITED) {
        if ((size_t)(end - p) < sizeof limit)
            return -EUCLEAN;
        memcpy(&limit, p, sizeof limit);
        p += sizeof limit;
    } else if (v.format != STORE_FORMAT) {
        return -EUCLEAN;
    }
    if (v.n_rules > AF_RULES_MAX || (size_t)(end - p) < (size_t)v.codebase_len + v.owner_len ||
        v.owner_len > AF_NAME_TEXT_MAX || v.access < STORE_ACCESS_NORMAL ||
        v.access > STORE_ACCESS_CUT_OFF)
        return -EUCLEAN;
    struct store_sandbox s = {
        .root_fid = v.root_fid,
        .stack = v.stack,
        .delta = v.delta,
        .status = (enum store_sandbox_status)v.status,
        .access = (enum store_sandbox_access)v.access,
        .created_ns = v.created_ns,
        .started_ns = v.started_ns,
        .stopped_ns = v.stopped_ns,
        .expires_ns = v.expires_ns,
        .quota_bytes = v.quota_bytes,
        .quota_inodes = v.quota_inodes,
        .iops = limit.iops,
        .bandwidth = limit.bandwidth,
        .n_rules = v.n_rules,
        .user_data_len = v.user_data_len,
    };
    int rc = copy_id(&s.id, key.mv_data, key.mv_size);
    if (rc == 0)
        rc = copy_id(&s.codebase_id, p, v.codebase_len);
    if (rc < 0)
        return rc;
    p += v.codebase_len;
    s.owner = (const char *)p;
    s.owner_len = v.owner_len;
    p += v.owner_len;
    struct store_rule *rules = calloc(v.n_rules + 1, sizeof *rules);
    if (!rules)
        return -ENOMEM;
    rc = decode_rules(&p, end, v.n_rules, rules);
    if (rc == 0 && (size_t)(end - p) != v.user_data_len)
        rc = -EUCLEAN;
    if (rc < 0) {
        free(rules);
        return rc;
    }
    s.rules = rules;
    s.user_data = p;
    *ret = s;
    return 0;
}

int store_sandbox_get(struct store_txn *txn, const char *id, struct store_sandbox *ret)
{
    MDB_val value;
    int rc = store_get(txn, STORE_DBI_SANDBOX, id_key(id), &value);
    return rc < 0 ? rc : store_sandbox_decode(id_key(id), value, ret);
}

void store_sandbox_free_rules(struct store_sandbox *sandbox)
{
    free((void *)(uintptr_t)sandbox->rules);
    sandbox->rules = NULL;
    sandbox->n_rules = 0;
}

int store_sandbox_del(struct store_txn *txn, const char *id)
{
    return store_del(txn, STORE_DBI_SANDBOX, id_key(id));
}

struct sandbox_walk {
    int (*fn)(void *arg, const struct store_sandbox *sandbox);
    void *arg;
};

static int pass_sandbox(void *arg, MDB_val key, MDB_val value)
{
    struct sandbox_walk *walk_arg = arg;
    struct store_sandbox sandbox;
    int rc = store_sandbox_decode(key, value, &sandbox);
    if (rc < 0)
        return rc;
    rc = walk_arg->fn(walk_arg->arg, &sandbox);
    store_sandbox_free_rules(&sandbox);
    return rc;
}

int store_sandbox_list(struct store_txn *txn, const char *after_id,
                       int (*fn)(void *arg, const struct store_sandbox *sandbox), void *arg)
{
    struct sandbox_walk walk_arg = {.fn = fn, .arg = arg};
    return walk(txn, STORE_DBI_SANDBOX, after_id, pass_sandbox, &walk_arg);
}
