// What exists twice because tools may not include mux or api must be the same in both places.
#include "api/daemon.h"
#include "mux/presets.h"
#include "tools/common/permissions.h"
#include "tools/common/version.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

static void test_the_tools_presets_are_those_of_the_daemon(void **state)
{
    (void)state;
    size_t count;
    const struct preset *presets = presets_list(&count);
    for (size_t i = 0; i < count; i++) {
        const struct preset_rules *mine = preset_find(presets[i].name);
        assert_non_null(mine);
        assert_ptr_equal(mine, &presets_all[i]); // in the same order
        assert_int_equal(mine->count, presets[i].n_rules);
        for (size_t j = 0; j < mine->count; j++) {
            const struct rules_input *rule = &presets[i].rules[j];
            assert_int_equal(rule->type, RULES_GLOB); // what the tools send
            assert_int_equal(strlen(mine->rules[j].pattern), rule->pattern_len);
            assert_memory_equal(mine->rules[j].pattern, rule->pattern, rule->pattern_len);
            assert_int_equal(mine->rules[j].level, rule->level);
            assert_int_equal(mine->rules[j].priority, rule->priority);
        }
    }
    assert_null(presets_all[count].name);
}

static void test_the_tools_version_is_that_of_the_daemon(void **state)
{
    (void)state;
    assert_string_equal(AGENTFENSE_VERSION, AF_VERSION);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_tools_presets_are_those_of_the_daemon),
        cmocka_unit_test(test_the_tools_version_is_that_of_the_daemon),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
