// The table of files with several names: every name but the first leads to the first.
#include "tools/agentfense/hardlinks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define FILES 5000
#define NAMES 3

static const char *meet(struct hardlinks *links, ino_t ino, nlink_t names, const char *path)
{
    const struct stat st = {.st_ino = ino, .st_nlink = names};
    return hardlinks_meet(links, &st, path);
}

static void every_name_leads_to_the_first(void **state)
{
    struct hardlinks links = {0};
    char path[32], first[32];
    (void)state;
    for (int name = 0; name < NAMES; name++) {
        for (int file = 0; file < FILES; file++) {
            snprintf(path, sizeof path, "%d/%d", name, file);
            snprintf(first, sizeof first, "0/%d", file);
            const char *found = meet(&links, (ino_t)file * 8 + 1, NAMES, path);
            if (name == 0)
                assert_null(found);
            else
                assert_string_equal(found, first);
        }
    }
    hardlinks_fini(&links);
}

static void files_whose_names_were_all_met_take_no_room(void **state)
{
    struct hardlinks links = {0};
    (void)state;
    for (ino_t ino = 1; ino < 100000; ino++) {
        assert_null(meet(&links, ino, 2, "a"));
        assert_string_equal(meet(&links, ino, 2, "b"), "a");
    }
    assert_true(links.capacity <= 64);
    hardlinks_fini(&links);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_name_leads_to_the_first),
        cmocka_unit_test(files_whose_names_were_all_met_take_no_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
