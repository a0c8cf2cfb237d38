// Standard streams that are closed: see streams.h. Owns: their descriptors, for good. Locks: none;
// there are no threads yet. Fails: not; without /dev/null they stay closed.
#include "mux/base/streams.h"

#include "mux/base/cleanup.h"

#include <fcntl.h>

void af_streams_init(void)
{
    static const int modes[] = {O_RDONLY, O_RDONLY, O_WRONLY};
    for (int fd = 0; fd < (int)AF_ARRAY_LEN(modes); fd++)
        if (fcntl(fd, F_GETFD) < 0)
            (void)!open("/dev/null", modes[fd]); // the lowest number that is free: this one
}
