// Aligned tables: see table.h. Owns copies of the cells; out of memory ends the tool.
#include "tools/fsctl/table.h"

#include "tools/common/escape.h"
#include "tools/common/memory.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

void table_init(struct table *table, unsigned columns, const char *const *titles)
{
    memset(table, 0, sizeof *table);
    table->columns = columns < TABLE_COLUMNS_MAX ? columns : TABLE_COLUMNS_MAX;
    for (unsigned i = 0; i < table->columns; i++) {
        table->right[i] = titles[i][0] == '>';
        table_add(table, titles[i] + table->right[i]);
    }
}

void table_add(struct table *table, const char *cell)
{
    table->cells = tool_grow(table->cells, table->n_cells, &table->max_cells, sizeof *table->cells);
    table->cells[table->n_cells++] = tool_copy_text(cell);
}

void table_addf(struct table *table, const char *fmt, ...)
{
    va_list ap;
    char *text = NULL;
    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) < 0)
        text = NULL;
    va_end(ap);
    table_add(table, text ? text : "?");
    free(text);
}

static void print_row(const struct table *table, size_t row, const size_t *widths, FILE *file)
{
    for (unsigned i = 0; i < table->columns; i++) {
        const char *cell = table->cells[row * table->columns + i];
        int fill = (int)(widths[i] - tool_columns(cell));
        bool last = i + 1 == table->columns;
        if (table->right[i])
            fprintf(file, "%*s%s", fill, "", cell);
        else
            fprintf(file, "%s%*s", cell, last ? 0 : fill, "");
        fputs(last ? "" : "  ", file);
    }
}

void table_print(struct table *table, FILE *file, const char *bold, const char *plain)
{
    size_t widths[TABLE_COLUMNS_MAX] = {0};
    size_t rows = table->n_cells / table->columns;
    for (size_t i = 0; i < rows * table->columns; i++) {
        size_t width = tool_columns(table->cells[i]);
        if (width > widths[i % table->columns])
            widths[i % table->columns] = width;
    }
    for (size_t row = 0; row < rows; row++) {
        fputs(row == 0 ? bold : "", file);
        print_row(table, row, widths, file);
        fputs(row == 0 ? plain : "", file);
        fputc('\n', file);
    }
    table_fini(table);
}

void table_fini(struct table *table)
{
    for (size_t i = 0; i < table->n_cells; i++)
        free(table->cells[i]);
    free(table->cells);
    memset(table, 0, sizeof *table);
}
