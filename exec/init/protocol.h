// The messages between the engine and agentfense-init: one definition for both ends.
//
// Transport: one SOCK_SEQPACKET socket pair per box, one message per packet, native byte order
// (both ends run on one machine). The engine's file descriptors for a command travel with its
// START message. How a command goes is not said over this socket but over the command's own
// status pipe, whose only writers are its supervisor and, until it executes, its leader: so what
// one command's end says can never be taken for another's.
// Trust: the init believes the engine. The engine believes nothing: sizes, kinds and ids of what
// arrives are checked (exec/box.c, exec/command.c), and a breach ends the box.
// Nothing here allocates or locks. Read next: main.c (the init), exec/box.c (the other end).
#ifndef AF_EXEC_INIT_PROTOCOL_H
#define AF_EXEC_INIT_PROTOCOL_H

#include <stdint.h>

#define EXEC_PROTO_VERSION     5u
#define EXEC_PROTO_TEXT_MAX    (32u << 10) // bytes of text inside a START; more goes by a memfd
#define EXEC_PROTO_MEMFD_MAX   (1u << 20)  // bytes of text in that memfd
#define EXEC_PROTO_STRINGS_MAX 8192u       // argv and environment strings of one command
#define EXEC_PROTO_SLOTS_MAX   1024u       // commands that the init keeps track of

// Inside, everything runs as this user.
#define EXEC_INSIDE_UID  1000
#define EXEC_INSIDE_USER "agent"
#define EXEC_INSIDE_HOME "/home/agent"

// The init's process name: it says which run directory a process belongs to even while the process
// is exiting and has no memory and no descriptors any more. %08x: low bits of the lock's inode.
#define EXEC_INIT_NAME_FORMAT "af-init%08x"
#define EXEC_INIT_NAME_SIZE   16

enum exec_msg_kind {
    // init to engine
    EXEC_MSG_HELLO = 1, // the init is up (struct exec_msg_hello)
    EXEC_MSG_ENDED = 2, // nothing of the command is left (struct exec_msg_head), where its status
                        // pipe could not say so: its supervisor was killed, by END or from inside
    // engine to init
    EXEC_MSG_START = 16, // start a command (struct exec_msg_start, text, descriptors)
    EXEC_MSG_END = 17,   // kill everything of a command (struct exec_msg_head)
    // to an init that has connected by itself, before its HELLO (struct exec_msg_head): descriptors
    // of the run directory's lock and of the two system call filters, in the order of loading
    EXEC_MSG_SETUP = 18,
};

struct exec_msg_head {
    uint32_t kind;
    uint32_t reserved; // 0
    uint64_t id;       // of the command, never used twice in a box; 0 in a HELLO
};

#define EXEC_SETUP_FDS 3

enum exec_shell { EXEC_SHELL_NONE = 0, EXEC_SHELL_SH = 1, EXEC_SHELL_BASH = 2 };

struct exec_msg_hello {
    struct exec_msg_head head;
    uint32_t version; // EXEC_PROTO_VERSION
    uint32_t shell;   // enum exec_shell: what /bin has
};

enum exec_start_flags {
    EXEC_START_HAS_STDIN = 1, // a descriptor for stdin comes along; else /dev/null
    EXEC_START_TEXT_FD = 2,   // the text is in a memfd that comes along
    EXEC_START_CHANNEL = 4,   // two more descriptors for the leader (sessions, exec/session.c)
    EXEC_START_CONTROL = 8,   // the status pipe is a socket on which orders come (exec_order), and
                              // the start is reported
    EXEC_START_TERMINAL = 16, // stdin, stdout and stderr are one terminal, the leader's controlling
};

// Where the leader finds the two descriptors of EXEC_START_CHANNEL. POSIX shells take only digits
// as descriptors.
#define EXEC_CHANNEL_IN  8
#define EXEC_CHANNEL_OUT 9

// Descriptors, in this order: status pipe, stdout, stderr, [stdin], [text], [channel in, out].
// Text: argc + envc + 1 NUL-terminated strings: arguments, environment, working directory.
struct exec_msg_start {
    struct exec_msg_head head;
    uint32_t flags;
    uint32_t argc;
    uint32_t envc;
    uint32_t text_bytes;
    uint32_t cpus; // of the machine, as far as the engine may use all of them; else 0
    uint32_t reserved;
};

#define EXEC_START_FDS_MIN 3
#define EXEC_START_FDS_MAX 7

// Records on a status pipe (each one write, far below PIPE_BUF). After FAILED, an EXITED that left
// nothing, and GONE nothing else comes, and no ENDED.
enum exec_status_kind {
    EXEC_STATUS_FAILED = 1,  // value: errno, extra: enum exec_stage; nothing ran
    EXEC_STATUS_EXITED = 2,  // value: wait status of the leader, extra: 1 when it left others
    EXEC_STATUS_GONE = 3,    // those others have ended by themselves
    EXEC_STATUS_STARTED = 4, // the leader executes its program (with EXEC_START_CONTROL only)
};

enum exec_stage {
    EXEC_STAGE_FORK = 1,
    EXEC_STAGE_SETUP = 2,
    EXEC_STAGE_CHDIR = 3,
    EXEC_STAGE_EXEC = 4,
    EXEC_STAGE_SLOTS = 5,
};

struct exec_status_record {
    uint32_t kind;
    int32_t value;
    uint32_t extra;
};

// What the engine says to a supervisor, one packet each (EXEC_START_CONTROL).
enum exec_order_kind {
    EXEC_ORDER_SIGNAL = 1, // to the leader, or to all that is below the supervisor
};

struct exec_order {
    uint32_t kind;
    int32_t signal;
    uint32_t all;
};

#endif
