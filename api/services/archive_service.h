// agentfense.v1.ArchiveService: its threads, for the daemon.
//
// Imports read archives and directories on threads of their own, at most AF_ARCHIVE_THREADS_MAX at
// once. Owns the count of them. Any thread. Read next: archive_service.c.
#ifndef AF_API_SERVICES_ARCHIVE_SERVICE_H
#define AF_API_SERVICES_ARCHIVE_SERVICE_H

#include "mux/base/error.h"

struct archives;

int archives_new(struct archives **ret, struct af_error *err);
// Waits until the threads have ended: soon after their calls were cancelled. NULL is allowed.
void archives_free(struct archives *archives);

#endif
