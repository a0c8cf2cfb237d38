// Every limit on what comes from outside, in one place, with its unit and reason.
//
// Those that a deployment may want to change are defaults here and options in
// docs/agentfensed.yaml; the rest are properties of the formats. Read next: api/config.h.
#ifndef AF_BASE_LIMITS_H
#define AF_BASE_LIMITS_H

// File system.
#define AF_NAME_MAX           255         // bytes in one name (NAME_MAX)
#define AF_PATH_MAX           4095        // bytes in a path given to an RPC (PATH_MAX - 1)
#define AF_SYMLINK_MAX        4095        // bytes in a symlink target
#define AF_FILE_SIZE_MAX      (1LL << 43) // bytes in one file (8 TiB)
#define AF_LINKS_MAX          4096        // names of one file: each is looked at to learn its level
#define AF_XATTR_VALUE_MAX    65536       // bytes in one extended attribute (XATTR_SIZE_MAX)
#define AF_XATTR_NAMES_MAX    65536       // bytes in one file's list of them (XATTR_LIST_MAX)
#define AF_XATTR_TOTAL_MAX    (128u << 10) // bytes of all those of one file
#define AF_INLINE_CONTENT_MAX 2048         // bytes of a file kept in its LMDB record
#define AF_CODEBASE_SIZE_MAX  (1LL << 60) // bytes in all files of a codebase, for holes cost nothing

// Identity: see mux/nodeid.h for the bit budget.
#define AF_SLOT_COUNT (1u << 16) // views attached at once; one host uid each
#define AF_FID_BITS   44

// Memory.
#define AF_NODE_CACHE_DEFAULT        262144u // inodes cached over all views, about 250 bytes each
#define AF_LISTINGS_BYTES_MAX        (32u << 20) // of listings of frozen directories, all views
#define AF_PASSTHROUGH_BYTES_DEFAULT (64u << 10) // measured: docs/FUSE.md

// Limits of one sandbox: more is none. A READ has up to 1 MiB, which takes 16 s at the least.
#define AF_IOPS_MAX      1000000000u
#define AF_BANDWIDTH_MIN (64u << 10)  // bytes a second
#define AF_BANDWIDTH_MAX (1ULL << 33) //

// Rules.
#define AF_RULES_MAX           1024 // rules of one sandbox
#define AF_PATTERN_MAX         1024 // bytes in one pattern
#define AF_PATTERN_PARTS_MAX   64   // components in one pattern
#define AF_BRACE_EXPANSION_MAX 64   // patterns that one pattern with {a,b} may stand for

// API.
#define AF_MESSAGE_MAX      (4u << 20)  // bytes in one gRPC message (the clients' own limit)
#define AF_UNPACK_BUDGET    (16u << 20) // bytes that one message may take when decoded
#define AF_HEADER_LIST_MAX  (16u << 10) // bytes of request headers
#define AF_STREAMS_PER_CONN 128
#define AF_CONNS_MAX        4096         // connections in all; an eighth of who may not call (yet)
#define AF_CONNS_PER_UID    1024         //
#define AF_CONN_BUFFER_MAX  (64u << 20)  // bytes of requests held for one, and of replies
#define AF_TOTAL_BUFFER_MAX (512u << 20) // of both, for all
#define AF_HANDSHAKE_NS     (10LL * 1000000000)
#define AF_IDLE_NS          (3600LL * 1000000000) // without a call
#define AF_STALL_NS         (120LL * 1000000000)  // replies not read, half a message and no more
#define AF_PING_AFTER_NS    (30LL * 1000000000)   // of a TCP peer's silence while calls are open
#define AF_PING_WAIT_NS     (20LL * 1000000000)
#define AF_ID_TEXT_MAX      64   // bytes in an id, prefix included
#define AF_NAME_TEXT_MAX    256  // bytes in a codebase name or an owner id
#define AF_BATCH_MAX        1024 // sandboxes made or destroyed by one call
#define AF_LABELS_MAX       64   // labels of one sandbox
#define AF_LABEL_BYTES_MAX  1024 // bytes in one label's key or value

// Commands.
#define AF_COMMAND_MAX             131071u      // bytes in an argument (MAX_ARG_STRLEN has its NUL)
#define AF_ENV_MAX                 256          // variables of one command
#define AF_IMAGE_MAX               255          // bytes in the name of an image or a root
#define AF_IMAGE_ENV_MAX           1024         // variables of a container image
#define AF_STDIN_MAX               (3u << 20)   // bytes of stdin in one Exec
#define AF_STDIN_QUEUE_MAX         (5u << 20)   // bytes that wait to be read by one command
#define AF_TERMINALS_MAX           64u          // terminals of one sandbox, its own included
#define AF_OUTPUT_MAX              (1u << 20)   // bytes kept of each of stdout and stderr
#define AF_SESSIONS_MAX            64           // sessions that are open at once in one sandbox
#define AF_SESSIONS_KNOWN_MAX      1024         // sessions of one sandbox that are remembered
#define AF_SESSION_TURNS_MAX       16           // commands that wait in one session
#define AF_SESSION_IDLE_OUTPUT_MAX (64u << 10)  // bytes of each stream kept between two commands
#define AF_PROCESSES_MAX           64u          // processes that run at once in one sandbox
#define AF_PROCESSES_KEPT_MAX      32u          // ended ones of a sandbox that are remembered
#define AF_PROCESS_OUTPUT_MAX      (256u << 10) // last bytes of each of their streams
#define AF_TIMEOUT_DEFAULT_NS      (30LL * 1000000000)
#define AF_TIMEOUT_MAX_NS          (24LL * 3600 * 1000000000)

// Live observation (Watch, Trace, ListHandles).
#define AF_HANDLES_MAX      65536u     // open files listed of one sandbox
#define AF_WATCHERS_MAX     256        // streams open at once
#define AF_WATCH_EVENTS_MAX 4096u      // events that wait for one of them ...
#define AF_WATCH_BYTES_MAX  (2u << 20) // ... and the bytes they take; more are lost, and counted

// Imports of archives and directories at once: each has a thread, and those that come later wait
// for one. While others wait, a client has to send so much in so long a time that it is waited for.
#define AF_ARCHIVE_THREADS_MAX 16
#define AF_FEED_PATIENCE_NS    INT64_C(10000000000)
#define AF_FEED_PATIENCE_BYTES (128u << 10)
#define AF_FEED_LOOK_NS        INT64_C(500000000) // how often somebody looks whether others wait
// What a compressed archive may unpack to: so many bytes, and so many more for each that was sent.
#define AF_ARCHIVE_UNPACKED_FREE  (256LL << 20)
#define AF_ARCHIVE_UNPACKED_RATIO 200
#define AF_ARCHIVE_HEADER_MAX     (4 << 20) // bytes before one entry: maps of holes are kept in memory

#endif
