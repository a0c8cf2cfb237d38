// MonitorService/Watch and Trace: the streams that are open, for the daemon's other parts.
//
// Owns the list of them. Any thread. Read next: watch_service.c.
#ifndef AF_API_SERVICES_WATCH_SERVICE_H
#define AF_API_SERVICES_WATCH_SERVICE_H

#include "mux/base/error.h"

struct watches;

int watches_new(struct watches **ret, struct af_error *err);
// Has every stream end with UNAVAILABLE, and those that come from now on. NULL is ignored.
void watches_stop(struct watches *watches);
// Has the streams of a sandbox that was destroyed end, after what is there to be said.
void watches_forget(struct watches *watches, const char *sandbox_id);
// Every stream must have ended. NULL is ignored.
void watches_free(struct watches *watches);

#endif
