// A small file whose payload is replaced as a whole, safely across a power cut.
//
// Two slots, each with a sequence number and a checksum; a write goes to the older one and is
// synced, a read takes the newest intact one. The file is written in full when it is created, so
// that later writes need no space on the disk. One user at a time (the owner's lock).
// Fails: -errno; -EUCLEAN when no slot is intact. Read next: durability.c, ids.c.
#ifndef AF_MUX_STORE_SIDEFILE_H
#define AF_MUX_STORE_SIDEFILE_H

#include <stddef.h>
#include <stdint.h>

#define SIDEFILE_SLOT_BYTES   4096
#define SIDEFILE_HEADER_BYTES 40
#define SIDEFILE_PAYLOAD_MAX  (SIDEFILE_SLOT_BYTES - SIDEFILE_HEADER_BYTES)

struct sidefile {
    int fd;
    uint64_t seq;
};

// Creates dir_fd/name (replacing a half-made one) with this payload; syncs it and the folder.
int sidefile_create(int dir_fd, const char *name, const void *payload, size_t len);
// Opens and reads a payload of exactly len bytes. -ENOENT, -EUCLEAN.
int sidefile_open(int dir_fd, const char *name, struct sidefile *ret, void *payload, size_t len);
// On failure either payload may be found later.
int sidefile_write(struct sidefile *file, const void *payload, size_t len);
void sidefile_close(struct sidefile *file);

#endif
