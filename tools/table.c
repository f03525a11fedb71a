// SPDX-License-Identifier: GPL-2.0-or-later
/* Tables on stdout. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"

struct cmd_table {
    int n_cols;
    size_t n_cells, cap; /* of cells: titles first, then row by row */
    char **cells;
    bool failed; /* no memory: said when it is printed */
};

/* Columns a cleaned string takes: one a character; good enough for names. */
static size_t width_of(const char *s)
{
    size_t n = 0;

    for (; *s; s++)
        n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

struct cmd_table *cmd_table_new(int n_cols, const char *const *titles)
{
    struct cmd_table *t = calloc(1, sizeof(*t));

    if (!t)
        return NULL;
    t->n_cols = n_cols;
    cmd_table_row(t, titles);
    return t;
}

void cmd_table_row(struct cmd_table *t, const char *const *cells)
{
    size_t cap;
    char **grown;
    int i;

    if (!t || t->failed)
        return;
    if (t->n_cells + (size_t)t->n_cols > t->cap) {
        cap = (t->cap + (size_t)t->n_cols) * 2;
        grown = reallocarray(t->cells, cap, sizeof(*grown));
        if (!grown) {
            t->failed = true;
            return;
        }
        t->cells = grown;
        t->cap = cap;
    }
    for (i = 0; i < t->n_cols; i++) {
        t->cells[t->n_cells] = cmd_clean(cells[i] ? cells[i] : "");
        if (!t->cells[t->n_cells]) {
            t->failed = true;
            return;
        }
        t->n_cells++;
    }
}

static void print_rows(const struct cmd_table *t, size_t *width)
{
    size_t n_cols = (size_t)t->n_cols, i, col, w;

    for (i = 0; i < t->n_cells; i++) {
        w = width_of(t->cells[i]);
        if (w > width[i % n_cols])
            width[i % n_cols] = w;
    }
    for (i = 0; i < t->n_cells; i++) {
        col = i % n_cols;
        fputs(t->cells[i], stdout);
        if (col + 1 == n_cols)
            fputc('\n', stdout);
        else
            printf("%*s", (int)(width[col] - width_of(t->cells[i])) + 2, "");
    }
}

void cmd_table_print(struct cmd_table *t)
{
    size_t *width = NULL, i;

    if (t && !t->failed)
        width = calloc((size_t)t->n_cols, sizeof(*width));
    if (width)
        print_rows(t, width);
    else
        fputs("blksub: out of memory\n", stderr);
    free(width);
    if (!t)
        return;
    for (i = 0; i < t->n_cells; i++)
        free(t->cells[i]);
    free(t->cells);
    free(t);
}
