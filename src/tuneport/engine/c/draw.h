/* Random numbers for stochastic rounding: Threefry4x32-20 (Salmon et al. 2011), a counter in each lane. */
#pragma once
#include "lanes.h"

#define GROUP (4 * ROW) /* elements that sixteen counters give sixteen bits each: four words of 32 bits a counter */

INLINE void mix(u32x *one, u32x *other, int by) {
    *one += *other;
    *other = ((*other << by) | (*other >> (32 - by))) ^ *one;
}

/* Four rounds, and the `step`-th adding of the key. */
INLINE void four_rounds(u32x x[4], const uint32_t *key, uint32_t step, const int by[8]) {
    mix(x, x + 1, by[0]), mix(x + 2, x + 3, by[1]);
    mix(x, x + 3, by[2]), mix(x + 2, x + 1, by[3]);
    mix(x, x + 1, by[4]), mix(x + 2, x + 3, by[5]);
    mix(x, x + 3, by[6]), mix(x + 2, x + 1, by[7]);
    for (uint32_t w = 0; w < 4; w++) x[w] += key[(step + w) % 5];
    x[3] += step;
}

/* Sixteen random bits for each element of so many groups, from group `first` on. Word w of counter 16·group + lane is that
 * of row w of the group, and of the two neighbours in that lane. */
ON_ITS_MACHINE static __attribute__((noinline)) void draw_groups(const uint32_t *key, uint64_t first, size_t count,
                                                               uint16_t *to) {
    static const int odd[8] = {10, 26, 11, 21, 13, 27, 23, 5}, even[8] = {6, 20, 17, 11, 25, 10, 18, 20};
    uint32_t k[5] = {key[0], key[1], key[2], key[3], 0x1bd11bda ^ key[0] ^ key[1] ^ key[2] ^ key[3]};
    const u32x none = {0};
    u32x lane;
    for (int i = 0; i < LANES; i++) lane[i] = (uint32_t)i;
    for (size_t step = 0; step < PARTS * count; step++) {
        uint64_t counter = SUM_LANES * first + LANES * step; /* its lower word does not overflow within the lanes */
        u32x x[4];
        x[0] = lane + (uint32_t)counter + k[0];
        x[1] = none + (uint32_t)(counter >> 32) + k[1];
        x[2] = none + k[2];
        x[3] = none + k[3];
        four_rounds(x, k, 1, odd);
        four_rounds(x, k, 2, even);
        four_rounds(x, k, 3, odd);
        four_rounds(x, k, 4, even);
        four_rounds(x, k, 5, odd);
        uint16_t *at = to + GROUP * (step / PARTS) + 2 * LANES * (step % PARTS);
        for (int w = 0; w < 4; w++) memcpy(at + ROW * w, x + w, sizeof *x);
    }
}

/* Room for the random bits of a chunk, wherever it begins in a group, and whole rows of them. */
#define DRAWN (CHUNK + 2 * GROUP)

/* Sixteen random bits for each of `count` elements; returns where in `room` those of the first one lie. */
static inline const uint16_t *draw_some(const Draw *draw, Py_ssize_t from, Py_ssize_t count, uint16_t *room) {
    uint64_t index = draw->index + (uint64_t)from, first = index / GROUP;
    draw_groups(draw->key, first, (size_t)((index + (uint64_t)count - 1) / GROUP - first + 1), room);
    return room + index % GROUP;
}
