// The table of sessions. See sessions.h.
//
// Owns: entries, by id and grouped by sandbox. An entry is held by the table, by exec until the
// session is over, and by calls under way. An entry that is opening is counted but not shown.
// Lock: sessions->lock, a leaf. Fails: only for want of memory. Read next: session_service.c.
#include "api/sessions.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "mux/base/limits.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

enum state { STATE_OPENING, STATE_OPEN, STATE_CLOSED };

struct waiter {
    runner_done done;
    void *arg;
    struct waiter *next;
};

struct entry {
    struct af_id id;
    char sandbox_id[AF_ID_TEXT_MAX];
    struct sessions *sessions;
    atomic_int refs;
    enum state state;
    bool known; // in the table
    int64_t created_ns, closed_ns;
    struct exec_session *session; // a reference; constant once open
    sessions_created created;
    void *created_arg;
    struct waiter *closers;
    struct entry *prev, *next; // of the group, oldest first
    UT_hash_handle hh;
};

struct group {
    char sandbox_id[AF_ID_TEXT_MAX];
    struct entry *entries;
    unsigned count, open_count; // open ones and those that are opening
    UT_hash_handle hh;
};

struct sessions {
    struct runner *runner;
    pthread_mutex_t lock;
    struct entry *entries; // by id
    struct group *groups;  // by sandbox
};

// ---- entries, under the lock unless said otherwise

static void entry_unref(struct entry *entry) // any
{
    if (atomic_fetch_sub(&entry->refs, 1) != 1)
        return;
    exec_session_unref(entry->session);
    free(entry);
}

static struct group *find_group(struct sessions *sessions, const char *sandbox_id)
{
    struct group *group;
    HASH_FIND_STR(sessions->groups, sandbox_id, group);
    return group;
}

// Takes the entry out of the table. The caller then drops the table's reference.
static void forget_entry(struct sessions *sessions, struct group *group, struct entry *entry)
{
    HASH_DEL(sessions->entries, entry);
    DL_DELETE(group->entries, entry);
    group->count--;
    entry->known = false;
    if (group->entries)
        return;
    HASH_DEL(sessions->groups, group);
    free(group);
}

static void make_room(struct sessions *sessions, struct group *group)
{
    struct entry *entry, *next;
    DL_FOREACH_SAFE (group->entries, entry, next) {
        if (group->count < AF_SESSIONS_KNOWN_MAX)
            return;
        if (entry->state == STATE_CLOSED && entry->next) {
            forget_entry(sessions, group, entry);
            entry_unref(entry);
        }
    }
}

static int enter(struct sessions *sessions, struct entry *entry, struct af_error *err)
{
    struct group *group = find_group(sessions, entry->sandbox_id);
    if (group && group->open_count >= AF_SESSIONS_MAX)
        return af_error_set(err, AF_RESOURCE_EXHAUSTED,
                            "sandbox %s has %u open sessions: destroy some", entry->sandbox_id,
                            group->open_count);
    if (group) {
        make_room(sessions, group);
    } else {
        group = calloc(1, sizeof *group);
        if (!group)
            return af_error_errno(err, ENOMEM, "cannot make a session");
        snprintf(group->sandbox_id, sizeof group->sandbox_id, "%s", entry->sandbox_id);
        HASH_ADD_STR(sessions->groups, sandbox_id, group);
    }
    HASH_ADD_KEYPTR(hh, sessions->entries, entry->id.text, strlen(entry->id.text), entry);
    DL_APPEND(group->entries, entry);
    group->count++;
    group->open_count++;
    entry->known = true;
    atomic_fetch_add(&entry->refs, 1);
    return 0;
}

static struct session_info info_of(const struct entry *entry)
{
    return (struct session_info){
        .id = entry->id.text,
        .sandbox_id = entry->sandbox_id,
        .shell = exec_session_shell(entry->session),
        .closed = entry->state == STATE_CLOSED,
        .created_ns = entry->created_ns,
        .closed_ns = entry->closed_ns,
    };
}

static struct entry *find_entry(struct sessions *sessions, const char *id, struct af_error *err)
{
    struct entry *entry;
    HASH_FIND_STR(sessions->entries, id, entry);
    if (entry && entry->state != STATE_OPENING)
        return entry;
    af_error_set(err, AF_NOT_FOUND, "there is no session %s (sessions end with the daemon)", id);
    return NULL;
}

// ---- what exec says

static void drop_failed(struct entry *entry)
{
    struct sessions *sessions = entry->sessions;
    pthread_mutex_lock(&sessions->lock);
    bool known = entry->known;
    if (known) {
        struct group *group = find_group(sessions, entry->sandbox_id);
        group->open_count--;
        forget_entry(sessions, group, entry);
    }
    pthread_mutex_unlock(&sessions->lock);
    if (known)
        entry_unref(entry);
}

static void on_ready(void *arg, const struct af_error *err)
{
    struct entry *entry = arg;
    if (err) {
        drop_failed(entry);
        entry->created(entry->created_arg, err, NULL);
        entry_unref(entry);
        return;
    }
    pthread_mutex_lock(&entry->sessions->lock);
    entry->state = STATE_OPEN;
    struct session_info info = info_of(entry);
    pthread_mutex_unlock(&entry->sessions->lock);
    entry->created(entry->created_arg, NULL, &info);
}

static void on_closed(void *arg)
{
    struct entry *entry = arg;
    struct sessions *sessions = entry->sessions;
    pthread_mutex_lock(&sessions->lock);
    entry->state = STATE_CLOSED;
    entry->closed_ns = af_wall_ns();
    struct waiter *closers = entry->closers, *next;
    entry->closers = NULL;
    if (entry->known)
        find_group(sessions, entry->sandbox_id)->open_count--;
    pthread_mutex_unlock(&sessions->lock);
    for (; closers; closers = next) {
        next = closers->next;
        closers->done(closers->arg, NULL);
        free(closers);
    }
    entry_unref(entry);
}

// ---- the functions

int sessions_new(struct runner *runner, struct sessions **ret, struct af_error *err)
{
    struct sessions *sessions = calloc(1, sizeof *sessions);
    if (!sessions)
        return af_error_errno(err, ENOMEM, "sessions");
    sessions->runner = runner;
    pthread_mutex_init(&sessions->lock, NULL);
    *ret = sessions;
    return 0;
}

void sessions_forget(struct sessions *sessions, const char *sandbox_id)
{
    pthread_mutex_lock(&sessions->lock);
    struct group *group = find_group(sessions, sandbox_id);
    unsigned left = group ? group->count : 0;
    while (left-- > 0) { // the last one takes the group with it
        struct entry *entry = group->entries;
        forget_entry(sessions, group, entry);
        entry_unref(entry);
    }
    pthread_mutex_unlock(&sessions->lock);
}

void sessions_free(struct sessions *sessions)
{
    if (!sessions)
        return;
    while (sessions->groups) {
        char id[AF_ID_TEXT_MAX];
        snprintf(id, sizeof id, "%s", sessions->groups->sandbox_id);
        sessions_forget(sessions, id);
    }
    pthread_mutex_destroy(&sessions->lock);
    free(sessions);
}

int sessions_create(struct sessions *sessions, const char *sandbox_id,
                    const struct exec_session_spec *spec, sessions_created done, void *arg,
                    struct af_error *err)
{
    struct entry *entry = calloc(1, sizeof *entry);
    if (!entry)
        return af_error_errno(err, ENOMEM, "cannot make a session");
    af_id_new("sess", &entry->id);
    snprintf(entry->sandbox_id, sizeof entry->sandbox_id, "%s", sandbox_id);
    entry->sessions = sessions;
    atomic_init(&entry->refs, 1); // exec's
    entry->created_ns = af_wall_ns();
    entry->created = done;
    entry->created_arg = arg;
    pthread_mutex_lock(&sessions->lock);
    int rc = enter(sessions, entry, err);
    pthread_mutex_unlock(&sessions->lock);
    if (rc == 0) {
        rc = runner_session(sessions->runner, sandbox_id, spec, on_ready, on_closed, entry,
                            &entry->session, err);
        if (rc < 0)
            drop_failed(entry);
    }
    if (rc < 0)
        entry_unref(entry);
    return rc;
}

int sessions_get(struct sessions *sessions, const char *id, sessions_seen seen, void *arg,
                 struct af_error *err)
{
    int rc = -1;
    pthread_mutex_lock(&sessions->lock);
    struct entry *entry = find_entry(sessions, id, err);
    if (entry) {
        struct session_info info = info_of(entry);
        rc = seen(arg, &info);
    }
    pthread_mutex_unlock(&sessions->lock);
    return rc;
}

int sessions_list(struct sessions *sessions, const char *sandbox_id, sessions_seen seen, void *arg)
{
    int rc = 0;
    pthread_mutex_lock(&sessions->lock);
    struct group *group = find_group(sessions, sandbox_id);
    struct entry *entry = group ? group->entries : NULL;
    for (; entry && rc == 0; entry = entry->next)
        if (entry->state != STATE_OPENING) {
            struct session_info info = info_of(entry);
            rc = seen(arg, &info);
        }
    pthread_mutex_unlock(&sessions->lock);
    return rc;
}

int sessions_close(struct sessions *sessions, const char *id, runner_done done, void *arg,
                   struct af_error *err)
{
    struct waiter *waiter = malloc(sizeof *waiter);
    if (!waiter)
        return af_error_errno(err, ENOMEM, "cannot close the session");
    *waiter = (struct waiter){.done = done, .arg = arg};
    pthread_mutex_lock(&sessions->lock);
    struct entry *entry = find_entry(sessions, id, err);
    bool open = entry && entry->state == STATE_OPEN;
    if (open) {
        atomic_fetch_add(&entry->refs, 1);
        LL_PREPEND(entry->closers, waiter);
    }
    pthread_mutex_unlock(&sessions->lock);
    if (open) {
        exec_session_close(entry->session);
        entry_unref(entry);
        return 0;
    }
    free(waiter);
    if (entry)
        done(arg, NULL);
    return entry ? 0 : -1;
}

int sessions_run(struct sessions *sessions, const char *id, const struct exec_turn_spec *spec,
                 exec_command_done done, void *arg, struct exec_turn **ret_turn,
                 struct af_error *err)
{
    pthread_mutex_lock(&sessions->lock);
    struct entry *entry = find_entry(sessions, id, err);
    bool open = entry && entry->state == STATE_OPEN;
    if (open)
        atomic_fetch_add(&entry->refs, 1);
    pthread_mutex_unlock(&sessions->lock);
    if (!entry)
        return -1;
    if (!open)
        return af_error_set(err, AF_FAILED_PRECONDITION, "session %s is closed: create another one",
                            id);
    int rc = session_run_turn(runner_turns(sessions->runner), entry->sandbox_id, entry->session,
                              spec, done, arg, ret_turn, err);
    entry_unref(entry);
    return rc;
}
