// A table with aligned columns for people. Cells are copied and must be escaped already.
#ifndef AF_TOOLS_FSCTL_TABLE_H
#define AF_TOOLS_FSCTL_TABLE_H

#include <stdbool.h>
#include <stdio.h>

#define TABLE_COLUMNS_MAX 16

struct table {
    unsigned columns;
    bool right[TABLE_COLUMNS_MAX]; // numbers
    char **cells;
    size_t n_cells, max_cells;
};

// `titles`: one per column; one that begins with '>' is a column of numbers.
void table_init(struct table *table, unsigned columns, const char *const *titles);
void table_add(struct table *table, const char *cell);
void table_addf(struct table *table, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
// `bold` and `plain` go around the line of titles. Frees the table.
void table_print(struct table *table, FILE *file, const char *bold, const char *plain);
void table_fini(struct table *table); // one that is not printed

#endif
