// From a node's level to the attributes and the nodeid that the kernel enforces it by.
//
//   level   regular file                              symbolic link          directory
//   write   owner the view's, mode as stored          owner the view's       owner the view's, as
//   stored read    owner reserved, 0444 (0555 if any x)      owner reserved         owner the
//   view's, 0755 view    owner reserved, 0000                      reserved, no readlink  owner the
//   view's, 0555* none    hidden                                    hidden                 hidden,
//   or 0555* on the way
//                                                                            to what is permitted
//   * 0755 where something below may be writable: the server decides each change itself.
// The reserved owner is mapped in no sandbox, so a nested user namespace gains nothing by it.
// Internal to mux; nothing is owned or locked. Read next: attr.c, docs/VIEWS.md.
#ifndef AF_MUX_ATTR_H
#define AF_MUX_ATTR_H

#include "mux/node.h"
#include "mux/ops.h"

struct mux_view;

// view: NULL for a shared node.
void mux_attr_fill(const struct mux *mux, const struct mux_view *view, const struct mux_node *node,
                   struct stat *ret);
// The same of an inode that the kernel has: a directory that is two to it (alias.h) keeps by either
// number that number.
void mux_attr_fill_of(const struct mux *mux, const struct mux_view *view,
                      const struct mux_node *node, uint64_t nodeid, struct stat *ret);
// How long the kernel may remember them: not at all of a directory that it has under two numbers
// (alias.h).
int64_t mux_attr_ttl_ns(const struct mux_view *view, const struct mux_node *node);
// Whether the kernel may have one inode for this file in all views: an unmodified regular file
// that the sandbox cannot write and that has one name.
bool mux_node_is_shareable(const struct mux_node *node);
// A complete answer for a name of the operation's view.
void mux_entry_fill(const struct mux_op *op, const struct mux_node *node, struct mux_entry *ret);
// What the kernel may remember of a name in the directory, after either of these: nothing in one
// that it has under two numbers (alias.h).
void mux_entry_limit(const struct mux_op *op, uint64_t dir_fid, struct mux_entry *ret);
// The answer for a name that is not there: the kernel may cache it.
void mux_entry_fill_absent(struct mux_entry *ret);

// The nodeid that a lookup answers for a record at a level, without a node: for inspection.
uint64_t mux_nodeid_of(const struct mux *mux, uint32_t route, const struct store_inode *inode,
                       bool in_delta, enum rules_level level);

#endif
