/* What the kernel is given and what it measures; and its functions, which are built for vectors of several widths. */
#pragma once
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

#if !(defined(__GNUC__) || defined(__clang__))
#error "needs the vector extensions of GCC or Clang; without this module tuneport computes in numpy"
#endif

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define MANY_CPUS /* the machine that runs this is asked which vectors it has */
#endif

/* The sums of a piece: squares, a product, counts (arithmetic.py says what they are of). */
enum { DIFF, TARGET, BASE, DRIFT, PRODUCT, OPPOSED, ADDED, ERROR, NONZERO, UNCHANGED, SUMS };

/* Where the random numbers of stochastic rounding begin: the tensor's key, and the element's index in the tensor. */
typedef struct {
    uint32_t key[4];
    uint64_t index;
} Draw;

/* What buffers hold: bfloat16, or else float32. Where the parents do, all do; where the target does, the output does. */
typedef struct {
    int parents, target, out;
} Bf16;

/* Buffers of one call, and what is done to them: out = target + scale·(tuned − base). Without `base` the difference is
 * given: `tuned` holds it, in float32. Without `draw` the rounding is to nearest. */
typedef struct {
    const char *base, *tuned, *target;
    char *out;
    Bf16 bf16;
    int scaled;
    float scale;
    const Draw *draw;
} Piece;

/* out[i,j] (+)= Σ left[i,k]·right[k,j]. Strides are counted in elements; `begin`: the first term is put in place instead of
 * being added; the panel holds PANEL float32 for each k. */
#define PANEL 32
typedef struct {
    const float *left, *right;
    float *out, *panel;
    Py_ssize_t rows, columns, depth;
    Py_ssize_t left_row, left_k, right_k, right_column, out_row;
    int begin;
} Product;

typedef struct {
    /* Adds the sums of each block of the grid to `total`; returns how many elements of the output are NaN or infinite. */
    Py_ssize_t (*transfer)(const Piece *piece, Py_ssize_t n, Py_ssize_t first, Py_ssize_t block, double *total);
    void (*square)(const char *values, Py_ssize_t n, int bf16, Py_ssize_t first, Py_ssize_t block, double *total);
    void (*widen)(const uint16_t *from, float *to, Py_ssize_t n);
    void (*narrow)(const float *from, uint16_t *to, Py_ssize_t n, const Draw *draw);
    void (*loss)(const float *const from[4], Py_ssize_t n, double *total);
    void (*multiply)(const Product *product);
} Kernel;

extern const Kernel kernel_of_4_lanes, kernel_of_8_lanes, kernel_of_16_lanes;
