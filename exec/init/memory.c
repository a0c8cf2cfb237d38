// Memory for one command: what its START says, and two stacks.
//
// Most commands are small, and one comes after the other: what one has used is kept for the next,
// which saves mapping it and the faults of its first use. A command's memory is free when nothing
// of the command is left, so nobody runs on its stacks any more.
// Owns: the pieces that are kept. Thread: the init's own. Fails: NULL and errno.
// Read next: command.c.
#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>

#include "exec/init/init.h"

#define STACK_BYTES (16u << 10)
#define KEPT_BYTES  (64u << 10) // of each piece that is kept; enough for most commands
#define KEPT_MAX    4

static struct init_command *kept[KEPT_MAX];
static unsigned kept_count;

static bool is_sound(const struct exec_msg_start *head)
{
    return head->argc > 0 && head->argc <= EXEC_PROTO_STRINGS_MAX &&
           head->envc <= EXEC_PROTO_STRINGS_MAX && head->text_bytes > 0 &&
           head->text_bytes <= EXEC_PROTO_MEMFD_MAX;
}

static struct init_command *piece_new(size_t bytes)
{
    if (bytes <= KEPT_BYTES && kept_count > 0)
        return kept[--kept_count];
    bytes = bytes <= KEPT_BYTES ? KEPT_BYTES : (bytes + 15) & ~(size_t)15;
    struct init_command *command =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (command == MAP_FAILED)
        return NULL;
    command->bytes = bytes;
    return command;
}

struct init_command *init_command_new(const struct exec_msg_start *head)
{
    if (!is_sound(head)) {
        errno = EBADMSG;
        return NULL;
    }
    size_t pointers = (size_t)head->argc + head->envc + INIT_POINTERS_MORE;
    size_t seen = head->flags & EXEC_START_CONTROL ? INIT_SEEN_MAX : 0;
    size_t used = sizeof(struct init_command) + pointers * sizeof(char *) + seen * sizeof(pid_t) +
                  head->text_bytes;
    struct init_command *command = piece_new(used + (size_t)2 * STACK_BYTES + 16);
    if (!command)
        return NULL;
    // From the front what is read, from the back the stacks, which grow towards it.
    char *end = (char *)command + command->bytes;
    command->head = *head;
    command->pointers = (char **)(command + 1);
    command->seen = (pid_t *)(command->pointers + pointers);
    command->text = (char *)(command->seen + seen);
    command->supervisor_stack_end = end;
    command->leader_stack_end = end - STACK_BYTES;
    return command;
}

void init_command_free(struct init_command *command)
{
    if (!command)
        return;
    if (command->bytes == KEPT_BYTES && kept_count < KEPT_MAX)
        kept[kept_count++] = command;
    else
        munmap(command, command->bytes);
}
