/* The product of two factors, in the order of k. */
#pragma once
#include "lanes.h"

#define TALL 4            /* rows of the output that are done together */
#define BROAD (2 * LANES) /* and columns; the panel holds so many columns of `right`, k after k */

INLINE void pack(const Product *p, Py_ssize_t column, Py_ssize_t count) {
    for (Py_ssize_t k = 0; k < p->depth; k++) {
        const float *from = p->right + k * p->right_k + column * p->right_column;
        float *to = p->panel + k * BROAD;
        if (p->right_column == 1 && count == BROAD) {
            memcpy(to, from, BROAD * sizeof *to);
            continue;
        }
        for (Py_ssize_t j = 0; j < count; j++) to[j] = from[j * p->right_column];
        for (Py_ssize_t j = count; j < BROAD; j++) to[j] = 0;
    }
}

/* `rows` and whether `count` is all of BROAD are known where this is inlined, so the sums stay in registers. */
INLINE void tile(const Product *p, Py_ssize_t row, Py_ssize_t column, int rows, size_t count) {
    f32x sum[TALL][2];
    Py_ssize_t k = 0;
    for (int i = 0; i < rows; i++) {
        float *at = p->out + (row + i) * p->out_row + column;
        if (p->begin) {
            float first = p->left[(row + i) * p->left_row];
            f32x right[2];
            memcpy(right, p->panel, sizeof right);
            sum[i][0] = first * right[0];
            sum[i][1] = first * right[1];
            k = 1;
        } else {
            float held[BROAD] = {0};
            memcpy(held, at, count * sizeof *at);
            memcpy(sum[i], held, sizeof sum[i]);
        }
    }
    for (; k < p->depth; k++) {
        f32x right[2];
        memcpy(right, p->panel + k * BROAD, sizeof right);
        for (int i = 0; i < rows; i++) {
            float left = p->left[(row + i) * p->left_row + k * p->left_k];
            sum[i][0] += left * right[0];
            sum[i][1] += left * right[1];
        }
    }
    for (int i = 0; i < rows; i++) memcpy(p->out + (row + i) * p->out_row + column, sum[i], count * sizeof(float));
}

ON_ITS_MACHINE static void multiply(const Product *shared) {
    Product own = *shared, *p = &own; /* what is written to `out` cannot change it, and the compiler knows */
    for (Py_ssize_t column = 0; column < p->columns; column += BROAD) {
        size_t count = (size_t)(p->columns - column < BROAD ? p->columns - column : BROAD);
        pack(p, column, (Py_ssize_t)count);
        Py_ssize_t row = 0;
        if (count == BROAD)
            for (; row + TALL <= p->rows; row += TALL) tile(p, row, column, TALL, BROAD);
        else
            for (; row + TALL <= p->rows; row += TALL) tile(p, row, column, TALL, count);
        for (; row < p->rows; row++) tile(p, row, column, 1, count);
    }
}
