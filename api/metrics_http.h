// The Prometheus endpoint: GET /metrics over HTTP/1.1, on a loopback address or a unix socket.
//
// One thread with a few connections at a time; everything else is refused. It answers one request
// per connection, of at most 4 KiB, within seconds, and knows no other method and no other path.
// Errors: an af_error, at the start. Read next: metrics_http.c, metrics.h.
#ifndef AF_API_METRICS_HTTP_H
#define AF_API_METRICS_HTTP_H

#include "api/daemon.h"

struct metrics_http;

// Listens as daemon->config.metrics says. The daemon must be up, and stay until metrics_http_stop.
int metrics_http_start(struct daemon *daemon, struct metrics_http **ret, struct af_error *err);
// Ends the thread and frees; connections are closed. NULL is ignored.
void metrics_http_stop(struct metrics_http *http);

#endif
