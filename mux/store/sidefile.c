// Slot layout (the machine's order, as LMDB's file is): magic 8, sequence 8, length 4, zero 12,
// checksum 8, payload. The checksum is SipHash with a fixed key over all of the slot but itself:
// it finds torn writes, not forgeries. See sidefile.h.
#include "mux/store/sidefile.h"

#include "mux/base/cleanup.h"
#include "mux/store/siphash.h"

#include <fcntl.h>
#include <stdio.h>

#define SLOT_MAGIC UINT64_C(0x31656469735f6661) // "af_side1"

struct slot {
    uint64_t magic, seq;
    uint32_t len, zero[3];
    uint64_t checksum;
    uint8_t payload[SIDEFILE_PAYLOAD_MAX];
};
_Static_assert(sizeof(struct slot) == SIDEFILE_SLOT_BYTES, "a slot is one block");

static uint64_t slot_checksum(const struct slot *slot)
{
    static const uint64_t key[2] = {UINT64_C(0x6167656e7466656e), UINT64_C(0x7365207369646521)};
    return store_siphash(key, slot, offsetof(struct slot, checksum)) ^
           store_siphash(key, slot->payload, sizeof slot->payload);
}

static void fill_slot(struct slot *slot, uint64_t seq, const void *payload, size_t len)
{
    memset(slot, 0, sizeof *slot);
    slot->magic = SLOT_MAGIC;
    slot->seq = seq;
    slot->len = (uint32_t)len;
    memcpy(slot->payload, payload, len);
    slot->checksum = slot_checksum(slot);
}

static int write_slot(int fd, const struct slot *slot, off_t number)
{
    ssize_t n;
    do
        n = pwrite(fd, slot, sizeof *slot, number * SIDEFILE_SLOT_BYTES);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    return n == (ssize_t)sizeof *slot ? 0 : -ENOSPC;
}

int sidefile_create(int dir_fd, const char *name, const void *payload, size_t len)
{
    char tmp[32];
    struct slot slot = {0};
    if (len > SIDEFILE_PAYLOAD_MAX)
        return -EMSGSIZE;
    snprintf(tmp, sizeof tmp, "%s.tmp", name);
    AF_CLEANUP_FD int fd =
        openat(dir_fd, tmp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    int rc = write_slot(fd, &slot, 1);
    fill_slot(&slot, 2, payload, len);
    if (rc == 0)
        rc = write_slot(fd, &slot, 0);
    if (rc < 0)
        return rc;
    if (fsync(fd) < 0 || renameat(dir_fd, tmp, dir_fd, name) < 0 || fsync(dir_fd) < 0)
        return -errno;
    return 0;
}

int sidefile_open(int dir_fd, const char *name, struct sidefile *ret, void *payload, size_t len)
{
    AF_CLEANUP_FD int fd = openat(dir_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    struct slot slots[2];
    int best = -1;
    for (int i = 0; i < 2; i++) {
        ssize_t n = pread(fd, &slots[i], sizeof slots[i], (off_t)i * SIDEFILE_SLOT_BYTES);
        if (n < 0)
            return -errno;
        if (n == (ssize_t)sizeof slots[i] && slots[i].magic == SLOT_MAGIC && slots[i].len == len &&
            slots[i].checksum == slot_checksum(&slots[i]) &&
            (best < 0 || slots[i].seq > slots[best].seq))
            best = i;
    }
    if (best < 0)
        return -EUCLEAN;
    memcpy(payload, slots[best].payload, len);
    ret->seq = slots[best].seq;
    ret->fd = af_take_fd(&fd);
    return 0;
}

int sidefile_write(struct sidefile *file, const void *payload, size_t len)
{
    struct slot slot;
    if (len > SIDEFILE_PAYLOAD_MAX)
        return -EMSGSIZE;
    fill_slot(&slot, file->seq + 1, payload, len);
    int rc = write_slot(file->fd, &slot, (off_t)((file->seq + 1) & 1));
    if (rc == 0 && fdatasync(file->fd) < 0)
        rc = -errno;
    if (rc == 0)
        file->seq++;
    return rc;
}

void sidefile_close(struct sidefile *file)
{
    if (file->fd >= 0)
        close(file->fd);
    file->fd = -1;
}
