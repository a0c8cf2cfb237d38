// How a FUSE nodeid names a file: the bit budget, in one place.
//
//   private:  0 | turn (3 bits) | slot (16 bits) | fid (44 bits)   one view's directory or file
//   shared:   1 | class (19 bits) | version (44 bits)              an unmodified regular file
//                                                                  whose pages all views share
// Where nothing is to be shared (struct mux_options, no_sharing), the class is a route: the number
// then names one immutable version in one view, and is called pinned.
// A private nodeid names a file for ever (fids are never reused). turn and slot together are the
// view's route. turn counts the slot's uses, modulo 8: what the kernel still says about a former
// user of the slot (a late FORGET above all) does not meet the present one. Besides, the view's
// epoch, which never repeats, travels as the FUSE generation. A shared nodeid names one immutable
// version of a file's content and attributes at one level, never a hash of its content. 1 is
// FUSE's root: the root-only top directory of the mount, above all views. Slot 0 is never given
// to a view.
// Within the 44 bits the number is turned by the route (mux_nodeid_turned): the kernel's table of
// inodes looks at the low half of a nodeid and hardly at the slot, so that views of one codebase,
// which have the same fids, would all meet in the same chains of it.
// Nothing here owns or locks anything. Read next: mux/view.h.
#ifndef AF_MUX_NODEID_H
#define AF_MUX_NODEID_H

#include "mux/base/limits.h"

#include <stdbool.h>
#include <stdint.h>

#define MUX_NODEID_TOP      1 // FUSE_ROOT_ID
#define MUX_NODEID_SENTINEL 2 // the read-only file .agentfense in the top directory

enum mux_node_class { MUX_CLASS_PRIVATE = 0, MUX_CLASS_READ = 1, MUX_CLASS_VIEW = 2 };

#define MUX_FID_MASK   ((1ULL << AF_FID_BITS) - 1)
#define MUX_SHARED_BIT (1ULL << 63)

#define MUX_SLOT_BITS  16
#define MUX_ROUTE_BITS 19

static inline uint32_t mux_route(uint32_t slot, uint64_t turn)
{
    return slot | (uint32_t)(turn & 7) << MUX_SLOT_BITS;
}

// A number as a route, or class, has it in its nodeids, and back. 0 turns nothing.
static inline uint64_t mux_nodeid_turned(uint32_t route, uint64_t number)
{
    return number ^ (route * 0x9e3779b97f4a7c15ULL) >> (64 - AF_FID_BITS);
}

static inline uint64_t mux_nodeid_private(uint32_t route, uint64_t fid)
{
    return ((uint64_t)route << AF_FID_BITS) | mux_nodeid_turned(route, fid);
}

static inline uint64_t mux_nodeid_shared(enum mux_node_class cls, uint64_t version)
{
    return MUX_SHARED_BIT | mux_nodeid_private(cls, version);
}

static inline bool mux_nodeid_is_shared(uint64_t nodeid)
{
    return (nodeid & MUX_SHARED_BIT) != 0;
}

// The route of a private or pinned nodeid, or the class of a shared one.
static inline uint32_t mux_nodeid_route(uint64_t nodeid)
{
    return (uint32_t)((nodeid & ~MUX_SHARED_BIT) >> AF_FID_BITS);
}

// The view slot of a private nodeid.
static inline uint32_t mux_nodeid_slot(uint64_t nodeid)
{
    return mux_nodeid_route(nodeid) & ((1u << MUX_SLOT_BITS) - 1);
}

// The same number in the place of the class: no two views have it.
static inline uint64_t mux_nodeid_pinned(uint32_t route, uint64_t version)
{
    return MUX_SHARED_BIT | mux_nodeid_private(route, version);
}

// The class of a shared nodeid.
static inline enum mux_node_class mux_nodeid_class(uint64_t nodeid)
{
    return (enum mux_node_class)mux_nodeid_route(nodeid);
}

// The fid of a private nodeid, or the version of a shared one.
static inline uint64_t mux_nodeid_fid(uint64_t nodeid)
{
    return mux_nodeid_turned(mux_nodeid_route(nodeid), nodeid & MUX_FID_MASK);
}

#endif
