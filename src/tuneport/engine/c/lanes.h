/* Vectors of LANES float32, how they are loaded and stored, and how a result is rounded to what is stored. */
#pragma once
#include "kernel.h"

#define INLINE static inline __attribute__((always_inline))

#define SUM_LANES 16             /* what is summed together, whatever the width of the machine's vectors */
#define PARTS (SUM_LANES / LANES) /* so many vectors stand side by side */
#define ROW (2 * SUM_LANES)      /* elements that are done together: sixteen pairs of bfloat16, twice sixteen float32 */
#define CHUNK (32 * ROW)         /* elements that are summed in float32 before they are added up in double */

typedef uint32_t u32x __attribute__((vector_size(4 * LANES)));
typedef float f32x __attribute__((vector_size(4 * LANES)));
typedef double f64x __attribute__((vector_size(8 * LANES)));
typedef uint16_t u16x __attribute__((vector_size(2 * LANES)));

/* Part of a row: two vectors that lie in the same lanes. `pairs`: of bfloat16 neighbours in a 32-bit word the first is `one`
 * after a shift, the second is `other` after a mask, and no element changes its lane. Else `one` is of the row's first half
 * and `other` of its second, which takes moves for bfloat16. */
typedef struct {
    f32x one, other;
} Row;

INLINE f32x load_lanes(const char *from, Py_ssize_t i, int bf16) {
    f32x values;
    if (bf16) {
        u16x halves;
        memcpy(&halves, from + 2 * i, sizeof halves);
        return (f32x)(__builtin_convertvector(halves, u32x) << 16);
    }
    memcpy(&values, from + 4 * i, sizeof values);
    return values;
}

INLINE void store_lanes(char *to, Py_ssize_t i, int bf16, u32x stored) {
    if (bf16) {
        u16x halves = __builtin_convertvector(stored >> 16, u16x);
        memcpy(to + 2 * i, &halves, sizeof halves);
    } else {
        memcpy(to + 4 * i, &stored, sizeof stored);
    }
}

INLINE Row load(const char *from, Py_ssize_t i, int part, int bf16, int pairs) {
    if (pairs) {
        u32x both;
        memcpy(&both, from + 2 * i + 4 * LANES * part, sizeof both);
        return (Row){(f32x)(both << 16), (f32x)(both & 0xffff0000)};
    }
    i += LANES * part;
    return (Row){load_lanes(from, i, bf16), load_lanes(from, i + SUM_LANES, bf16)};
}

INLINE void store(char *to, Py_ssize_t i, int part, int bf16, int pairs, u32x one, u32x other) {
    if (pairs) {
        u32x both = (one >> 16) | other;
        memcpy(to + 2 * i + 4 * LANES * part, &both, sizeof both);
    } else {
        i += LANES * part;
        store_lanes(to, i, bf16, one);
        store_lanes(to, i + SUM_LANES, bf16, other);
    }
}

/* To nearest, ties to even, in the upper half; what is left in the lower half is to be thrown away. No NaN. */
INLINE u32x nearest(f32x values) {
    u32x bits = (u32x)values;
    return bits + 0x7fff + ((bits >> 16) & 1);
}

/* Away from zero with the chance that makes the mean right: that of sixteen random bits to carry into the upper half.
 * What lies beyond the largest number has no neighbour to be chosen from: it is rounded to nearest. No NaN. */
INLINE u32x stochastic(f32x values, u32x random) {
    u32x bits = (u32x)values;
    u32x beyond = (u32x)((bits & 0x7fffffff) >= 0x7f7f0000);
    return bits + ((random & ~beyond) | ((0x7fff + ((bits >> 16) & 1)) & beyond));
}

/* Every NaN becomes the quiet NaN 0x7fc0…, whichever NaN it comes from. */
INLINE u32x one_nan(u32x bits, f32x values) {
    u32x nan = (u32x)(values != values);
    return (bits & ~nan) | (nan & 0x7fc00000);
}
