/* One pass over a piece: out = target + scale·(tuned − base), rounded once, and measured. */
#pragma once
#include "draw.h"

#define TINY 1e-30

/* How elements are done: known where the code is inlined. */
typedef struct {
    Bf16 bf16;
    int scaled, drawn, given;
} How;

/* Sums of one part of the lanes, ERROR beside the five before it; and counts: elements of Δ that are not zero, elements of the
 * output that are what they would be if Δ were zero (all where it is zero are), and those where Δ opposes target − base. */
typedef struct {
    f32x sum[PRODUCT + 1], error;
    u32x nonzero, same, opposed;
} Lanes;

/* What is stored of a vector, as float32 bits. NaN comes out as anything. */
INLINE u32x settled(f32x sum, How how, u32x random) {
    if (!how.bf16.out) return (u32x)sum;
    return (how.drawn ? stochastic(sum, random) : nearest(sum)) & 0xffff0000;
}

/* One vector of each buffer. Where NaN or infinity is stored `error` is not finite. */
INLINE u32x carry(f32x b, f32x u, f32x t, How how, f32x scale, u32x random, Lanes *lanes) {
    f32x d = how.given ? u : u - b;
    lanes->sum[DIFF] += d * d;
    lanes->sum[TARGET] += t * t;
    if (!how.given) {
        f32x g = t - b;
        lanes->sum[BASE] += b * b;
        lanes->sum[DRIFT] += g * g;
        lanes->sum[PRODUCT] += d * g;
        lanes->opposed -= ((u32x)(d < 0) & (u32x)(g > 0)) | ((u32x)(d > 0) & (u32x)(g < 0));
    }
    f32x added = how.scaled ? d * scale : d, sum = t + added;
    u32x stored = settled(sum, how, random), unmoved = how.bf16.target ? (u32x)t : settled(t, how, random);
    f32x error = ((f32x)stored - t) - added;
    lanes->error += error * error;
    lanes->nonzero -= (u32x)(added != 0);
    lanes->same -= (u32x)((f32x)stored == (f32x)unmoved);
    return stored;
}

INLINE void row(const Piece *p, Py_ssize_t i, int part, How how, f32x scale, const uint16_t *random, Lanes *lanes) {
    const int pairs = how.bf16.parents; /* then all four are */
    Row b = {{0}, {0}}, u = load(p->tuned, i, part, pairs, pairs), t = load(p->target, i, part, how.bf16.target, pairs);
    if (!how.given) b = load(p->base, i, part, pairs, pairs);
    u32x one = {0}, other = {0};
    if (how.drawn && pairs) {
        memcpy(&other, random + 2 * LANES * part, sizeof other);
        one = other & 0xffff, other >>= 16;
    } else if (how.drawn) {
        u16x halves[2];
        memcpy(halves, random + LANES * part, sizeof *halves);
        memcpy(halves + 1, random + LANES * part + SUM_LANES, sizeof *halves);
        one = __builtin_convertvector(halves[0], u32x), other = __builtin_convertvector(halves[1], u32x);
    }
    one = carry(b.one, u.one, t.one, how, scale, one, lanes);
    other = carry(b.other, u.other, t.other, how, scale, other, lanes);
    store(p->out, i, part, how.bf16.out, pairs, one, other);
}

/* What is left of a block, less than a row, as a row of its own; what is added is zero. */
INLINE void last_row(const Piece *p, Py_ssize_t i, Py_ssize_t count, How how, f32x scale, const uint16_t *random,
                     Lanes *lanes) {
    char room[4][4 * ROW] = {{0}};
    const size_t parents = how.bf16.parents ? 2 : 4, target = how.bf16.target ? 2 : 4, out = how.bf16.out ? 2 : 4;
    const size_t at = (size_t)i, n = (size_t)count;
    Piece own = *p;
    own.base = room[0], own.tuned = room[1], own.target = room[2], own.out = room[3];
    if (!how.given) memcpy(room[0], p->base + parents * at, parents * n);
    memcpy(room[1], p->tuned + parents * at, parents * n);
    memcpy(room[2], p->target + target * at, target * n);
    for (int part = 0; part < PARTS; part++) row(&own, 0, part, how, scale, random, lanes + part);
    memcpy(p->out + out * at, room[3], out * n);
}

INLINE float single(const char *from, Py_ssize_t i, int bf16) {
    uint32_t bits = 0;
    float value;
    memcpy((char *)&bits + (bf16 ? 2 : 0), from + (bf16 ? 2 : 4) * i, bf16 ? 2 : 4);
    memcpy(&value, &bits, 4);
    return value;
}

INLINE int is_finite(double x) { return x - x == 0; }

/* A block element by element: NaN is stored as it must be, sums are double throughout, and what rounding did to NaN or
 * infinity is left out of them. Returns how many elements of the output are NaN or infinite. */
static __attribute__((noinline)) Py_ssize_t carefully(const Piece *p, Py_ssize_t start, Py_ssize_t stop, double *sums) {
    Py_ssize_t bad = 0;
    uint16_t room[DRAWN];
    const uint16_t *random = room;
    const How how = {p->bf16, p->scaled, p->draw != NULL, !p->base};
    const Bf16 bf16 = p->bf16;
    memset(sums, 0, SUMS * sizeof *sums);
    for (Py_ssize_t i = start; i < stop; i++, random++) {
        if (p->draw && (i - start) % CHUNK == 0)
            random = draw_some(p->draw, i, stop - i < CHUNK ? stop - i : CHUNK, room);
        float b = p->base ? single(p->base, i, bf16.parents) : 0, u = single(p->tuned, i, bf16.parents);
        float t = single(p->target, i, bf16.target), d = p->base ? u - b : u, g = t - b;
        float added = p->scaled ? d * p->scale : d;
        f32x sum = (t + added) - (f32x){0}; /* a vector of one number; −0 stays what it is */
        u32x drawn = (u32x){0} + (p->draw ? *random : 0), stored = one_nan(settled(sum, how, drawn), sum);
        memcpy(p->out + (bf16.out ? 2 : 4) * i, (const char *)&stored + (bf16.out ? 2 : 0), bf16.out ? 2 : 4);
        float unmoved = bf16.target ? t : ((f32x)settled(t - (f32x){0}, how, drawn))[0];
        float out = ((f32x)stored)[0], error = (out - t) - added;
        bad += !is_finite(out);
        sums[DIFF] += (double)d * d;
        sums[TARGET] += (double)t * t;
        if (p->base) {
            sums[BASE] += (double)b * b;
            sums[DRIFT] += (double)g * g;
            sums[PRODUCT] += (double)d * g;
            sums[OPPOSED] += (d < 0 && g > 0) || (d > 0 && g < 0);
        }
        if (!is_finite(error)) continue;
        sums[ADDED] += (double)added * added;
        sums[ERROR] += (double)error * error;
        sums[NONZERO] += added != 0;
        sums[UNCHANGED] += added != 0 && out == unmoved;
    }
    return bad;
}

/* Whether all numbers of two buffers are the same (−0 is zero). */
static int all_equal(const char *left, int left_bf16, const char *right, int right_bf16, Py_ssize_t start, Py_ssize_t stop) {
    size_t width = left_bf16 ? 2 : 4, at = (size_t)start * width;
    if (left_bf16 == right_bf16 && !memcmp(left + at, right + at, (size_t)(stop - start) * width)) return 1;
    for (Py_ssize_t i = start; i < stop; i++)
        if (single(left, i, left_bf16) != single(right, i, right_bf16)) return 0;
    return 1;
}

static int all_zero(const char *from, int bf16, Py_ssize_t start, Py_ssize_t stop) {
    const char *first = from + (bf16 ? 2 : 4) * start;
    return !single(first, 0, bf16) && all_equal(from, bf16, from + (bf16 ? 2 : 4), bf16, start, stop - 1);
}

/* Whether squares were lost that are not of zeros: too small for float32, or too large, or of NaN. The error needs no
 * look of its own: what it lacks is under 1e-40. */
static int is_lost(const Piece *p, Py_ssize_t start, Py_ssize_t stop, const double *sums) {
    for (int k = 0; k < SUMS; k++)
        if (!is_finite(sums[k])) return 1;
    if (sums[DIFF] >= TINY && sums[ADDED] < TINY) return 1;
    const int parents = p->bf16.parents, target = p->bf16.target;
    if (sums[TARGET] < TINY && !all_zero(p->target, target, start, stop)) return 1;
    if (!p->base) return sums[DIFF] < TINY && !all_zero(p->tuned, parents, start, stop);
    return (sums[DIFF] < TINY && !all_equal(p->tuned, parents, p->base, parents, start, stop)) ||
           (sums[DRIFT] < TINY && !all_equal(p->target, target, p->base, parents, start, stop)) ||
           (sums[BASE] < TINY && !all_zero(p->base, parents, start, stop));
}

/* Returns how many elements of the output are NaN or infinite. */
INLINE Py_ssize_t block_of(const Piece *shared, Py_ssize_t start, Py_ssize_t stop, How how, double *sums) {
    Piece own = *shared, *p = &own; /* what is written to `out` cannot change it, and the compiler knows */
    f32x scale = (f32x){0} + p->scale;
    uint16_t room[DRAWN];
    const uint16_t *random = room;
    double wide[PRODUCT + 2][SUM_LANES] = {{0}};
    u32x nonzero[PARTS] = {{0}}, same[PARTS] = {{0}}, opposed[PARTS] = {{0}};
    Py_ssize_t padding = (ROW - (stop - start) % ROW) % ROW;
    for (Py_ssize_t i = start; i < stop;) {
        Py_ssize_t end = stop - i < CHUNK ? stop : i + CHUNK, rows = (end - i) / ROW;
        Lanes lanes[PARTS];
        if (how.drawn) random = draw_some(p->draw, i, end - i, room);
        for (int part = 0; part < PARTS; part++) { /* one after the other: the sums of one stay in registers */
            Lanes here = {{{0}, {0}, {0}, {0}, {0}}, {0}, nonzero[part], same[part], opposed[part]};
            for (Py_ssize_t r = 0; r < rows; r++) row(p, i + r * ROW, part, how, scale, random + r * ROW, &here);
            lanes[part] = here;
        }
        if (i + rows * ROW < end)
            last_row(p, i + rows * ROW, end - i - rows * ROW, how, scale, random + rows * ROW, lanes);
        for (int part = 0; part < PARTS; part++) {
            for (int lane = 0; lane < LANES; lane++) {
                for (int k = 0; k <= PRODUCT; k++) wide[k][LANES * part + lane] += lanes[part].sum[k][lane];
                wide[PRODUCT + 1][LANES * part + lane] += lanes[part].error[lane];
            }
            nonzero[part] = lanes[part].nonzero, same[part] = lanes[part].same, opposed[part] = lanes[part].opposed;
        }
        i = end;
    }
    memset(sums, 0, SUMS * sizeof *sums);
    for (int lane = 0; lane < SUM_LANES; lane++) {
        for (int k = 0; k <= PRODUCT; k++) sums[k] += wide[k][lane];
        sums[ERROR] += wide[PRODUCT + 1][lane];
        sums[NONZERO] += nonzero[lane / LANES][lane % LANES];
        sums[UNCHANGED] += same[lane / LANES][lane % LANES];
        sums[OPPOSED] += opposed[lane / LANES][lane % LANES];
    }
    sums[ADDED] = how.scaled ? (double)p->scale * p->scale * sums[DIFF] : sums[DIFF];
    sums[UNCHANGED] -= (double)(stop - start + padding) - sums[NONZERO];
    return is_lost(p, start, stop, sums) ? carefully(p, start, stop, sums) : 0;
}

INLINE Py_ssize_t blocks_of(const Piece *p, Py_ssize_t n, Py_ssize_t first, Py_ssize_t block, How how, double *total) {
    Py_ssize_t bad = 0;
    for (Py_ssize_t start = 0, stop = first < n ? first : n; start < n;
         start = stop, stop = n - stop < block ? n : stop + block) {
        double sums[SUMS];
        bad += block_of(p, start, stop, how, sums);
        for (int k = 0; k < SUMS; k++) total[k] += sums[k];
    }
    return bad;
}

#define MAKE_TRANSFER(NAME, PARENTS, TARGET, OUT, DRAWN, GIVEN)                                                        \
    ON_ITS_MACHINE static Py_ssize_t NAME(const Piece *p, Py_ssize_t n, Py_ssize_t first, Py_ssize_t block,            \
                                          double *total) {                                                             \
        return p->scaled ? blocks_of(p, n, first, block, (How){{PARENTS, TARGET, OUT}, 1, DRAWN, GIVEN}, total)        \
                         : blocks_of(p, n, first, block, (How){{PARENTS, TARGET, OUT}, 0, DRAWN, GIVEN}, total);       \
    }

MAKE_TRANSFER(transfer_f32, 0, 0, 0, 0, 0)
MAKE_TRANSFER(transfer_bf16, 1, 1, 1, 0, 0)
MAKE_TRANSFER(transfer_bf16_drawn, 1, 1, 1, 1, 0)
MAKE_TRANSFER(onto_bf16, 0, 1, 1, 0, 0)
MAKE_TRANSFER(onto_bf16_drawn, 0, 1, 1, 1, 0)
MAKE_TRANSFER(cast_to_bf16, 0, 0, 1, 0, 0)
MAKE_TRANSFER(cast_to_bf16_drawn, 0, 0, 1, 1, 0)
MAKE_TRANSFER(add_f32, 0, 0, 0, 0, 1)
MAKE_TRANSFER(add_bf16, 0, 1, 1, 0, 1)
MAKE_TRANSFER(add_bf16_drawn, 0, 1, 1, 1, 1)
MAKE_TRANSFER(add_cast, 0, 0, 1, 0, 1)
MAKE_TRANSFER(add_cast_drawn, 0, 0, 1, 1, 1)

typedef Py_ssize_t Transfer(const Piece *, Py_ssize_t, Py_ssize_t, Py_ssize_t, double *);

static Py_ssize_t transfer(const Piece *p, Py_ssize_t n, Py_ssize_t first, Py_ssize_t block, double *total) {
    static Transfer *const onto_f32[] = {transfer_f32, add_f32}; /* where all that is computed is stored */
    static Transfer *const onto[3][2][2] = {                     /* by what holds bfloat16; given; drawn */
        {{cast_to_bf16, cast_to_bf16_drawn}, {add_cast, add_cast_drawn}},
        {{onto_bf16, onto_bf16_drawn}, {add_bf16, add_bf16_drawn}},
        {{transfer_bf16, transfer_bf16_drawn}, {NULL, NULL}},
    };
    const int given = !p->base, drawn = p->draw != NULL;
    Transfer *found = p->bf16.out ? onto[p->bf16.target + p->bf16.parents][given][drawn] : onto_f32[given];
    return found(p, n, first, block, total);
}
