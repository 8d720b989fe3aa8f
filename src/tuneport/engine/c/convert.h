/* bfloat16 and float32 become each other; a norm; and what rounding did where it was done elsewhere. */
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

/* What became of a difference that was to be added: the last four sums, in double. */
typedef struct {
    f64x added, error;
    u32x nonzero, vanished;
} Loss;

INLINE void lose(const float *const from[4], Py_ssize_t i, Loss *loss) {
    const f32x out = load_lanes((const char *)from[0], i, 0), target = load_lanes((const char *)from[1], i, 0);
    const f32x added = load_lanes((const char *)from[2], i, 0), unmoved = load_lanes((const char *)from[3], i, 0);
    const f32x error = (out - target) - added;
    const u32x finite = (u32x)(error - error == 0), moves = (u32x)(added != 0) & finite;
    const f64x e = __builtin_convertvector((f32x)((u32x)error & finite), f64x);
    const f64x a = __builtin_convertvector((f32x)((u32x)added & finite), f64x);
    loss->added += a * a;
    loss->error += e * e;
    loss->nonzero -= moves;
    loss->vanished -= moves & (u32x)(out == unmoved);
}

/* `from` is what was stored, the target, what was to be added, and what would have been stored without it. */
ON_ITS_MACHINE static void loss_of(const float *const from[4], Py_ssize_t n, double *total) {
    Loss loss[PARTS] = {{{0}, {0}, {0}, {0}}};
    Py_ssize_t i = 0;
    for (; i + SUM_LANES <= n; i += SUM_LANES)
        for (int part = 0; part < PARTS; part++) lose(from, i + LANES * part, loss + part);
    float rest[4][SUM_LANES] = {{0}};
    for (int k = 0; k < 4; k++) memcpy(rest[k], from[k] + i, (size_t)(n - i) * sizeof(float));
    const float *const last[4] = {rest[0], rest[1], rest[2], rest[3]};
    for (int part = 0; part < PARTS; part++) lose(last, LANES * part, loss + part);
    double sums[SUMS] = {0};
    for (int lane = 0; lane < SUM_LANES; lane++) {
        const Loss *each = loss + lane / LANES;
        sums[ADDED] += each->added[lane % LANES];
        sums[ERROR] += each->error[lane % LANES];
        sums[NONZERO] += each->nonzero[lane % LANES];
        sums[UNCHANGED] += each->vanished[lane % LANES];
    }
    for (int k = ADDED; k < SUMS; k++) total[k] += sums[k];
}
