// The version that the tools print; one with the daemon's (a test compares them).
#ifndef AF_TOOLS_COMMON_VERSION_H
#define AF_TOOLS_COMMON_VERSION_H

#define AGENTFENSE_VERSION "0.1.0"

#endif
