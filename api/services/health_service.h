// grpc.health.v1.Health: probes ask whether the server is there.
//
// Owns: the calls that watch, until the daemon stops. Any thread. Read next: health_service.c.
#ifndef AF_API_SERVICES_HEALTH_SERVICE_H
#define AF_API_SERVICES_HEALTH_SERVICE_H

#include "mux/base/error.h"

struct health;

int health_new(struct health **ret, struct af_error *err);
// Tells everybody who watches that the server stops, and ends their calls, which would otherwise
// hold up a graceful stop. Calls that come later are answered NOT_SERVING. NULL is allowed.
void health_stop(struct health *health);
// No call may be left. NULL is allowed.
void health_free(struct health *health);

#endif
