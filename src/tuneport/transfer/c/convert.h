/* bfloat16 and float32 become each other; and a norm. */
#pragma once
#include "draw.h"

ON_ITS_MACHINE static void widen(const uint16_t *from, float *to, Py_ssize_t n) {
    for (Py_ssize_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)from[i] << 16;
        memcpy(to + i, &bits, 4);
    }
}

INLINE void narrow_lanes(const float *from, uint16_t *to, const uint16_t *random) {
    f32x values = load_lanes((const char *)from, 0, 0);
    u16x halves;
    u32x bits;
    if (random) {
        memcpy(&halves, random, sizeof halves);
        bits = stochastic(values, __builtin_convertvector(halves, u32x));
    } else {
        bits = nearest(values);
    }
    store_lanes((char *)to, 0, 1, one_nan(bits, values));
}

INLINE void narrow_some(const float *from, uint16_t *to, Py_ssize_t n, const uint16_t *random) {
    Py_ssize_t i = 0;
    for (; i + LANES <= n; i += LANES) narrow_lanes(from + i, to + i, random ? random + i : NULL);
    if (i < n) {
        float values[LANES] = {0};
        uint16_t halves[LANES];
        memcpy(values, from + i, (size_t)(n - i) * sizeof *from);
        narrow_lanes(values, halves, random ? random + i : NULL);
        memcpy(to + i, halves, (size_t)(n - i) * sizeof *to);
    }
}

ON_ITS_MACHINE static void narrow(const float *from, uint16_t *to, Py_ssize_t n, const Draw *draw) {
    if (!draw) {
        narrow_some(from, to, n, NULL);
        return;
    }
    uint16_t room[DRAWN];
    for (Py_ssize_t i = 0; i < n; i += CHUNK) {
        Py_ssize_t count = n - i < CHUNK ? n - i : CHUNK;
        narrow_some(from + i, to + i, count, draw_some(draw, i, count, room));
    }
}

INLINE void square_lanes(const char *values, Py_ssize_t i, int bf16, f64x sum[PARTS]) {
    for (int part = 0; part < PARTS; part++) {
        f64x wide = __builtin_convertvector(load_lanes(values, i + LANES * part, bf16), f64x);
        sum[part] += wide * wide;
    }
}

INLINE double square_of(const char *values, Py_ssize_t start, Py_ssize_t stop, int bf16) {
    f64x sum[PARTS] = {{0}};
    for (; start + SUM_LANES <= stop; start += SUM_LANES) square_lanes(values, start, bf16, sum);
    char rest[4 * SUM_LANES] = {0};
    memcpy(rest, values + (bf16 ? 2 : 4) * start, (size_t)((bf16 ? 2 : 4) * (stop - start)));
    square_lanes(rest, 0, bf16, sum);
    double total = 0;
    for (int lane = 0; lane < SUM_LANES; lane++) total += sum[lane / LANES][lane % LANES];
    return total;
}

/* Adds ‖values‖² to `total`, in lanes that begin anew with each block of the grid. */
ON_ITS_MACHINE static void square(const char *values, Py_ssize_t n, int bf16, Py_ssize_t first, Py_ssize_t block,
                                double *total) {
    for (Py_ssize_t start = 0, stop = first < n ? first : n; start < n;
         start = stop, stop = n - stop < block ? n : stop + block)
        *total += bf16 ? square_of(values, start, stop, 1) : square_of(values, start, stop, 0);
}
