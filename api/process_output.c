// The kept output of background processes, and those who read it.
//
// A reader that has read everything is armed; the next bytes, or the end, wake it once. Nothing
// waits for a reader: one that is slow misses what the ring forgets, and is told how much.
// Owns: nothing. Lock: the process's. Fails: not (see mux/base/ring.h). Read next: processes.h.
#include "api/processes_priv.h"

void process_wake_readers(struct process *process, bool ended)
{
    struct process_reader *reader;
    LIST_FOREACH(reader, &process->readers, link)
    {
        if (!reader->armed || (reader->end_only && !ended))
            continue;
        reader->armed = false;
        reader->wake(reader->arg);
    }
}

void process_keep(struct process *process, enum exec_output_kind kind, const char *bytes,
                  size_t len)
{
    pthread_mutex_lock(&process->lock);
    af_ring_add(&process->kept[kind], bytes, len);
    process_wake_readers(process, false);
    pthread_mutex_unlock(&process->lock);
}

void process_reader_open(struct process_reader *reader, struct process *process)
{
    reader->process = process;
    pthread_mutex_lock(&process->lock);
    LIST_INSERT_HEAD(&process->readers, reader, link);
    pthread_mutex_unlock(&process->lock);
}

void process_reader_close(struct process_reader *reader)
{
    struct process *process = reader->process;
    if (!process)
        return;
    pthread_mutex_lock(&process->lock);
    LIST_REMOVE(reader, link);
    pthread_mutex_unlock(&process->lock);
    reader->process = NULL;
    process_unref(process);
}

enum process_read process_reader_read(struct process_reader *reader,
                                      struct process_piece *ret_piece)
{
    struct process *process = reader->process;
    enum process_read rc = PROCESS_NOTHING;
    pthread_mutex_lock(&process->lock);
    for (int kind = 0; kind < 2 && !reader->end_only && rc == PROCESS_NOTHING; kind++) {
        ret_piece->kind = kind;
        ret_piece->len = af_ring_read(&process->kept[kind], &reader->at[kind], ret_piece->bytes,
                                      sizeof ret_piece->bytes, &ret_piece->skipped);
        if (ret_piece->len > 0)
            rc = PROCESS_OUTPUT;
    }
    if (rc == PROCESS_NOTHING && process->ended_ns)
        rc = PROCESS_ENDED;
    reader->armed = rc == PROCESS_NOTHING;
    pthread_mutex_unlock(&process->lock);
    return rc;
}
