// Where the daemon and its clients meet unless told otherwise.
//
// docs/agentfensed.yaml says the same: tests/unit/api/test_config.c compares.
#ifndef AF_BASE_PLACES_H
#define AF_BASE_PLACES_H

#define AF_SOCKET_DEFAULT "/run/agentfense/agentfensed.sock"
#define AF_SOCKET_ENV     "AGENTFENSE_SOCKET" // for clients: another place

#endif
