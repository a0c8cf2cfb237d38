// Tests of aligned tables: columns line up whatever the width of the characters' bytes.
#include "tools/fsctl/table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

static void test_columns_line_up(void **state)
{
    (void)state;
    static const char *const titles[] = {"NAME", ">N", "TEXT"};
    struct table table;
    char *text = NULL;
    size_t len;
    table_init(&table, 3, titles);
    table_add(&table, "\xC3\xBC");
    table_addf(&table, "%d", 1000);
    table_add(&table, "x");
    table_add(&table, "longer");
    table_addf(&table, "%d", 7);
    table_add(&table, "");
    FILE *file = open_memstream(&text, &len);
    table_print(&table, file, "<", ">");
    fclose(file);
    assert_string_equal(text, "<NAME       N  TEXT>\n"
                              "\xC3\xBC       1000  x\n"
                              "longer     7  \n");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_columns_line_up)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
