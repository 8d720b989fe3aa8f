/* The transfer of one piece in a single pass: widen, subtract, scale, add, round, measure; and an adapter's product.
 *
 * A faster way to the very bits that arithmetic.py defines in numpy (tests hold one against the other): float32
 * steps, each rounded by itself (built with -ffp-contract=off), one rounding to nearest even for bfloat16. It keeps
 * no state, allocates nothing and lets go of the interpreter's lock, so that worker threads run side by side.
 *
 * Sums are taken over blocks of the caller's grid, in sixteen lanes, added up in a fixed order: they depend neither on
 * the piece size nor on the width of the machine's vectors. A lane adds 64 products at most in float32, then in
 * double, which keeps seven digits of a norm; a block whose products leave float32's range is summed again in double.
 * Where the difference is given instead of being taken from base and tuned, sums are double from the start.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#if !(defined(__GNUC__) || defined(__clang__))
#error "needs the vector extensions of GCC or Clang; without this module tuneport computes in numpy"
#endif

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define FOR_EACH_CPU
#endif

#define LANES 16
#define ROW (2 * LANES) /* elements that are done together: one vector of bfloat16 pairs, two of float32 */
#define ROWS 32         /* rows that are added in float32 before they are added in double */
#define SUMS 5          /* ‖Δ‖², ‖target‖², ‖base‖², ‖target − base‖², Δ·(target − base) */
#define TINY 1e-30

typedef uint32_t u32x __attribute__((vector_size(4 * LANES)));
typedef float f32x __attribute__((vector_size(4 * LANES)));

#define INLINE static inline __attribute__((always_inline))

/* Buffers of one call, and what is done to them. */
typedef struct {
    const char *base, *tuned, *target;
    char *out;
    int scaled;
    float scale;
} Piece;

/* Two float32 vectors of one row. A bfloat16 is the upper half of a float32: of each pair of neighbours in a 32-bit
 * word the first is `one` after a shift, the second is `other` after a mask, and no element changes its lane. */
typedef struct {
    f32x one, other;
} Row;

typedef struct {
    f32x sum[SUMS];
    u32x differs[2]; /* bits of Δ and of target − base that were ever set */
    u32x nonfinite;  /* sign bit: the output had NaN or infinity in this lane */
} Lanes;

INLINE Row load(const char *from, Py_ssize_t i, int bf16, size_t count) {
    Row row = {{0}, {0}};
    if (bf16) {
        u32x pairs = {0};
        memcpy(&pairs, from + 2 * i, count == ROW ? sizeof pairs : 2 * count);
        row.one = (f32x)(pairs << 16);
        row.other = (f32x)(pairs & 0xffff0000);
    } else {
        memcpy(&row, from + 4 * i, count == ROW ? sizeof row : 4 * count);
    }
    return row;
}

/* To nearest, ties to even, in the upper half; NaN becomes the quiet NaN 0x7fc0, as torch has it. */
INLINE u32x narrow(f32x values) {
    u32x bits = (u32x)values;
    u32x rounded = bits + 0x7fff + ((bits >> 16) & 1);
    u32x nan = (u32x)(values != values);
    return (rounded & ~nan) | (nan & 0x7fc00000);
}

/* An exponent of all ones is NaN or infinity: one more carries into the sign bit. */
INLINE u32x nonfinite(u32x bits) { return (bits & 0x7fffffff) + 0x00800000; }

INLINE void store(char *to, Py_ssize_t i, int bf16, size_t count, Row row, Lanes *lanes) {
    u32x one = (u32x)row.one, other = (u32x)row.other;
    if (bf16) {
        one = narrow(row.one), other = narrow(row.other);
        u32x pairs = (one >> 16) | (other & 0xffff0000);
        memcpy(to + 2 * i, &pairs, count == ROW ? sizeof pairs : 2 * count);
    } else {
        memcpy(to + 4 * i, &row, count == ROW ? sizeof row : 4 * count);
    }
    lanes->nonfinite |= nonfinite(one) | nonfinite(other);
}

INLINE f32x carry(f32x b, f32x u, f32x t, int scaled, f32x scale, Lanes *lanes) {
    f32x d = u - b, g = t - b;
    lanes->sum[0] += d * d;
    lanes->sum[1] += t * t;
    lanes->sum[2] += b * b;
    lanes->sum[3] += g * g;
    lanes->sum[4] += d * g;
    lanes->differs[0] |= (u32x)d;
    lanes->differs[1] |= (u32x)g;
    return scaled ? t + d * scale : t + d;
}

INLINE void row(const Piece *p, Py_ssize_t i, size_t count, int bf16, int scaled, f32x scale, Lanes *lanes) {
    Row b = load(p->base, i, bf16, count), u = load(p->tuned, i, bf16, count), t = load(p->target, i, bf16, count);
    Row o;
    o.one = carry(b.one, u.one, t.one, scaled, scale, lanes);
    o.other = carry(b.other, u.other, t.other, scaled, scale, lanes);
    store(p->out, i, bf16, count, o, lanes);
}

/* The exponent is all ones: infinity or NaN. `width` is 2 for bfloat16, 4 for float32. */
FOR_EACH_CPU static Py_ssize_t count_nonfinite(const void *from, Py_ssize_t n, int width) {
    Py_ssize_t count = 0;
    if (width == 2) {
        const uint16_t *bits = from;
        for (Py_ssize_t start = 0; start < n; start += 32768) { /* short runs keep the counter in 16-bit lanes */
            Py_ssize_t stop = n - start < 32768 ? n : start + 32768;
            uint16_t few = 0;
            for (Py_ssize_t i = start; i < stop; i++) few += (uint16_t)((bits[i] & 0x7f80) == 0x7f80);
            count += few;
        }
    } else {
        const uint32_t *bits = from;
        for (Py_ssize_t i = 0; i < n; i++) count += (bits[i] & 0x7f800000) == 0x7f800000;
    }
    return count;
}

INLINE double single(const char *from, Py_ssize_t i, int bf16) {
    uint32_t bits = 0;
    float value;
    if (bf16) {
        uint16_t half;
        memcpy(&half, from + 2 * i, 2);
        bits = (uint32_t)half << 16;
    } else {
        memcpy(&bits, from + 4 * i, 4);
    }
    memcpy(&value, &bits, 4);
    return value;
}

/* The sums of one block in double throughout, for products that float32 cannot hold. */
static __attribute__((noinline)) void sums_in_double(const Piece *p, Py_ssize_t start, Py_ssize_t stop, int bf16,
                                                     double *sums) {
    memset(sums, 0, SUMS * sizeof *sums);
    for (Py_ssize_t i = start; i < stop; i++) {
        double b = single(p->base, i, bf16), t = single(p->target, i, bf16);
        double d = (float)(single(p->tuned, i, bf16) - b), g = (float)(t - b);
        sums[0] += d * d;
        sums[1] += t * t;
        sums[2] += b * b;
        sums[3] += g * g;
        sums[4] += d * g;
    }
}

INLINE uint32_t any(u32x bits) {
    uint32_t seen = 0;
    for (int lane = 0; lane < LANES; lane++) seen |= bits[lane];
    return seen;
}

/* Returns how many elements of the output are NaN or infinite. */
INLINE Py_ssize_t block_of(const Piece *shared, Py_ssize_t start, Py_ssize_t stop, int bf16, int scaled, double *sums) {
    Piece own = *shared, *p = &own; /* what is written to `out` cannot change it, and the compiler knows */
    f32x scale = (f32x){0} + p->scale;
    double wide[SUMS][LANES] = {{0}};
    u32x differs[2] = {{0}, {0}}, bad = {0};
    Py_ssize_t i = start;
    while (i < stop) {
        Lanes lanes = {{{0}, {0}, {0}, {0}, {0}}, {{0}, {0}}, {0}};
        Py_ssize_t end = stop - i < ROWS * ROW ? stop : i + ROWS * ROW;
        for (; i + ROW <= end; i += ROW) row(p, i, ROW, bf16, scaled, scale, &lanes);
        if (i < end) row(p, i, (size_t)(end - i), bf16, scaled, scale, &lanes), i = end;
        for (int k = 0; k < SUMS; k++)
            for (int lane = 0; lane < LANES; lane++) wide[k][lane] += lanes.sum[k][lane];
        for (int k = 0; k < 2; k++) differs[k] |= lanes.differs[k];
        bad |= lanes.nonfinite;
    }
    for (int k = 0; k < SUMS; k++) {
        sums[k] = 0;
        for (int lane = 0; lane < LANES; lane++) sums[k] += wide[k][lane];
    }
    int lost = (sums[0] < TINY && any(differs[0]) & 0x7fffffff) || (sums[3] < TINY && any(differs[1]) & 0x7fffffff) ||
               sums[1] < TINY || sums[2] < TINY;
    for (int k = 0; k < SUMS; k++) lost |= !(sums[k] - sums[k] == 0); /* infinite or NaN */
    if (lost) sums_in_double(p, start, stop, bf16, sums);
    if (!(any(bad) >> 31)) return 0;
    return count_nonfinite(p->out + (bf16 ? 2 : 4) * start, stop - start, bf16 ? 2 : 4);
}

INLINE Py_ssize_t transfer_blocks(const Piece *p, Py_ssize_t n, Py_ssize_t first, Py_ssize_t block, int bf16, int scaled,
                                  double *total) {
    Py_ssize_t bad = 0;
    for (Py_ssize_t start = 0, stop = first < n ? first : n; start < n;
         start = stop, stop = n - stop < block ? n : stop + block) {
        double sums[SUMS];
        bad += block_of(p, start, stop, bf16, scaled, sums);
        for (int k = 0; k < SUMS; k++) total[k] += sums[k];
    }
    return bad;
}

FOR_EACH_CPU static Py_ssize_t transfer_bf16(const Piece *p, Py_ssize_t n, Py_ssize_t first, Py_ssize_t block,
                                             double *total) {
    return p->scaled ? transfer_blocks(p, n, first, block, 1, 1, total) : transfer_blocks(p, n, first, block, 1, 0, total);
}

FOR_EACH_CPU static Py_ssize_t transfer_f32(const Piece *p, Py_ssize_t n, Py_ssize_t first, Py_ssize_t block,
                                            double *total) {
    return p->scaled ? transfer_blocks(p, n, first, block, 0, 1, total) : transfer_blocks(p, n, first, block, 0, 0, total);
}

FOR_EACH_CPU static void widen_all(const uint16_t *from, float *to, Py_ssize_t n) {
    for (Py_ssize_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)from[i] << 16;
        memcpy(to + i, &bits, 4);
    }
}

FOR_EACH_CPU static void narrow_all(const float *from, uint16_t *to, Py_ssize_t n) {
    for (Py_ssize_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, from + i, 4);
        uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        to[i] = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
    }
}

static PyObject *py_transfer(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer base, tuned, target, out, sums;
    Py_ssize_t first, block, nonfinite;
    int width, scaled;
    double scale;
    if (!PyArg_ParseTuple(args, "y*y*y*w*w*innpd", &base, &tuned, &target, &out, &sums, &width, &first, &block, &scaled,
                          &scale))
        return NULL;
    PyObject *result = NULL;
    if ((width != 2 && width != 4) || base.len != out.len || tuned.len != out.len || target.len != out.len ||
        out.len % width || sums.len != SUMS * (Py_ssize_t)sizeof(double) || first < 1 || block < 1) {
        PyErr_SetString(PyExc_ValueError, "buffers of one length, five doubles of sums and a positive grid are needed");
    } else {
        Py_ssize_t n = out.len / width;
        Py_BEGIN_ALLOW_THREADS;
        Piece piece = {base.buf, tuned.buf, target.buf, out.buf, scaled, (float)scale};
        nonfinite = (width == 2 ? transfer_bf16 : transfer_f32)(&piece, n, first, block, sums.buf);
        Py_END_ALLOW_THREADS;
        result = PyLong_FromSsize_t(nonfinite);
    }
    PyBuffer_Release(&base);
    PyBuffer_Release(&tuned);
    PyBuffer_Release(&target);
    PyBuffer_Release(&out);
    PyBuffer_Release(&sums);
    return result;
}

/* Fill `to` from a file; 0 where the file ends before, or the system says no. */
static int read_all(int file, char *to, Py_ssize_t count, int64_t at) {
    while (count) {
        ssize_t done = pread(file, to, (size_t)count, (off_t)at);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return 0;
        to += done, count -= done, at += done;
    }
    return 1;
}

/* Reads a block of each input and computes it while it lies in the second-level cache, block after block. Returns how many
 * elements are NaN or infinite, or None where a read failed: then nothing is added to the sums, and the caller reads by
 * itself to learn and say why. */
static PyObject *py_transfer_files(PyObject *self, PyObject *args) {
    (void)self;
    int files[3], width, scaled;
    long long places[3];
    Py_buffer inputs, out, sums;
    Py_ssize_t first, block, bad = 0;
    double scale;
    if (!PyArg_ParseTuple(args, "(iii)(LLL)w*w*w*innpd", files, files + 1, files + 2, places, places + 1, places + 2,
                          &inputs, &out, &sums, &width, &first, &block, &scaled, &scale))
        return NULL;
    PyObject *result = NULL;
    if ((width != 2 && width != 4) || out.len % width || sums.len != SUMS * (Py_ssize_t)sizeof(double) || first < 1 ||
        block < first || inputs.len < 3 * block * width) {
        PyErr_SetString(PyExc_ValueError, "room for three blocks, five doubles of sums and a positive grid are needed");
    } else {
        double total[SUMS];
        int whole = 1;
        memcpy(total, sums.buf, sizeof total);
        Py_BEGIN_ALLOW_THREADS;
        Py_ssize_t n = out.len / width;
        char *in = inputs.buf;
        for (Py_ssize_t start = 0, stop = first < n ? first : n; start < n && whole;
             start = stop, stop = n - stop < block ? n : stop + block) {
            Py_ssize_t count = (stop - start) * width;
            for (int k = 0; k < 3 && whole; k++)
                whole = read_all(files[k], in + k * block * width, count, places[k] + start * width);
            if (!whole) break;
            Piece piece = {in, in + block * width, in + 2 * block * width, (char *)out.buf + start * width, scaled,
                           (float)scale};
            bad += (width == 2 ? transfer_bf16 : transfer_f32)(&piece, stop - start, block, block, total);
        }
        Py_END_ALLOW_THREADS;
        if (whole) memcpy(sums.buf, total, sizeof total);
        result = whole ? PyLong_FromSsize_t(bad) : Py_NewRef(Py_None);
    }
    PyBuffer_Release(&inputs);
    PyBuffer_Release(&out);
    PyBuffer_Release(&sums);
    return result;
}

static PyObject *convert(PyObject *args, int to_narrow) {
    Py_buffer from, to;
    if (!PyArg_ParseTuple(args, "y*w*", &from, &to)) return NULL;
    PyObject *result = NULL;
    Py_ssize_t n = (to_narrow ? to.len : from.len) / 2;
    if ((to_narrow ? from.len : to.len) != 4 * n) {
        PyErr_SetString(PyExc_ValueError, "float32 and bfloat16 buffers must hold the same number of elements");
    } else {
        Py_BEGIN_ALLOW_THREADS;
        if (to_narrow)
            narrow_all(from.buf, to.buf, n);
        else
            widen_all(from.buf, to.buf, n);
        Py_END_ALLOW_THREADS;
        result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&from);
    PyBuffer_Release(&to);
    return result;
}

static PyObject *py_widen(PyObject *self, PyObject *args) {
    (void)self;
    return convert(args, 0);
}

static PyObject *py_narrow(PyObject *self, PyObject *args) {
    (void)self;
    return convert(args, 1);
}

/* ---- A difference that is given: out = target + scale·diff ------------------------------------------------------- */

#define CHUNK (64 * LANES) /* elements that are widened together, in the first-level cache */

typedef double f64x __attribute__((vector_size(8 * LANES)));

INLINE void widen_some(const char *from, float *to, Py_ssize_t n, int bf16) {
    if (!bf16) {
        memcpy(to, from, 4 * (size_t)n);
        return;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, from + 2 * i, 2);
        uint32_t bits = (uint32_t)half << 16;
        memcpy(to + i, &bits, 4);
    }
}

INLINE void narrow_some(const float *from, char *to, Py_ssize_t n, int bf16) {
    if (!bf16) {
        memcpy(to, from, 4 * (size_t)n);
        return;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, from + i, 4);
        uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        uint16_t half = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
        memcpy(to + 2 * i, &half, 2);
    }
}

/* Adds ‖diff‖² and ‖target‖² to the first two sums, in lanes that begin anew with each block of the grid. */
INLINE void add_block(const float *diff, const char *target, char *out, Py_ssize_t n, int bf16, int scaled, float scale,
                      double *total) {
    f64x dd = {0}, tt = {0};
    int width = bf16 ? 2 : 4;
    for (Py_ssize_t start = 0; start < n; start += CHUNK) {
        float wide[CHUNK], d[CHUNK];
        Py_ssize_t count = n - start < CHUNK ? n - start : CHUNK, padded = (count + LANES - 1) / LANES * LANES;
        widen_some(target + start * width, wide, count, bf16);
        memcpy(d, diff + start, 4 * (size_t)count);
        for (Py_ssize_t i = count; i < padded; i++) wide[i] = d[i] = 0;
        for (Py_ssize_t i = 0; i < padded; i += LANES) {
            f32x t, u;
            memcpy(&t, wide + i, sizeof t);
            memcpy(&u, d + i, sizeof u);
            f64x td = __builtin_convertvector(t, f64x), ud = __builtin_convertvector(u, f64x);
            dd += ud * ud;
            tt += td * td;
            t = scaled ? t + u * scale : t + u;
            memcpy(wide + i, &t, sizeof t);
        }
        narrow_some(wide, out + start * width, count, bf16);
    }
    double sums[2] = {0, 0};
    for (int lane = 0; lane < LANES; lane++) {
        sums[0] += dd[lane];
        sums[1] += tt[lane];
    }
    total[0] += sums[0];
    total[1] += sums[1];
}

INLINE void add_blocks(const float *diff, const char *target, char *out, Py_ssize_t n, Py_ssize_t first, Py_ssize_t block,
                       int bf16, int scaled, float scale, double *total) {
    int width = bf16 ? 2 : 4;
    for (Py_ssize_t start = 0, stop = first < n ? first : n; start < n;
         start = stop, stop = n - stop < block ? n : stop + block)
        add_block(diff + start, target + start * width, out + start * width, stop - start, bf16, scaled, scale, total);
}

FOR_EACH_CPU static void add_bf16(const float *diff, const char *target, char *out, Py_ssize_t n, Py_ssize_t first,
                                  Py_ssize_t block, int scaled, float scale, double *total) {
    scaled ? add_blocks(diff, target, out, n, first, block, 1, 1, scale, total)
           : add_blocks(diff, target, out, n, first, block, 1, 0, scale, total);
}

FOR_EACH_CPU static void add_f32(const float *diff, const char *target, char *out, Py_ssize_t n, Py_ssize_t first,
                                 Py_ssize_t block, int scaled, float scale, double *total) {
    scaled ? add_blocks(diff, target, out, n, first, block, 0, 1, scale, total)
           : add_blocks(diff, target, out, n, first, block, 0, 0, scale, total);
}

/* ---- The product of two factors: out[i,j] (+)= Σ left[i,k]·right[k,j], in the order of k -------------------------- */

#define TALL 4           /* rows of the output that are done together */
#define BROAD (2 * LANES) /* and columns; the panel holds so many columns of `right`, k after k */

/* Strides are counted in elements. `begin`: the first term is put in place instead of being added. */
typedef struct {
    const float *left, *right;
    float *out, *panel;
    Py_ssize_t rows, columns, depth;
    Py_ssize_t left_row, left_k, right_k, right_column, out_row;
    int begin;
} Product;

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

FOR_EACH_CPU static void multiply(const Product *shared) {
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

static PyObject *py_add(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer diff, target, out, sums;
    Py_ssize_t first, block, nonfinite;
    int width, scaled;
    double scale;
    if (!PyArg_ParseTuple(args, "y*y*w*w*innpd", &diff, &target, &out, &sums, &width, &first, &block, &scaled, &scale))
        return NULL;
    PyObject *result = NULL;
    if ((width != 2 && width != 4) || target.len != out.len || out.len % width || diff.len / 4 != out.len / width ||
        diff.len % 4 || sums.len != SUMS * (Py_ssize_t)sizeof(double) || first < 1 || block < 1) {
        PyErr_SetString(PyExc_ValueError, "buffers of one length, five doubles of sums and a positive grid are needed");
    } else {
        Py_ssize_t n = out.len / width;
        Py_BEGIN_ALLOW_THREADS;
        (width == 2 ? add_bf16 : add_f32)(diff.buf, target.buf, out.buf, n, first, block, scaled, (float)scale, sums.buf);
        nonfinite = count_nonfinite(out.buf, n, width);
        Py_END_ALLOW_THREADS;
        result = PyLong_FromSsize_t(nonfinite);
    }
    PyBuffer_Release(&diff);
    PyBuffer_Release(&target);
    PyBuffer_Release(&out);
    PyBuffer_Release(&sums);
    return result;
}

/* Whether a matrix of `rows`×`columns` with these strides lies in `length` bytes of float32. */
static int lies_in(Py_ssize_t length, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t row, Py_ssize_t column) {
    Py_ssize_t elements = length / (Py_ssize_t)sizeof(float);
    if (rows < 1 || columns < 1 || row < 0 || column < 0) return 0;
    if (row && rows - 1 > elements / row) return 0;
    if (column && columns - 1 > elements / column) return 0;
    return (rows - 1) * row + (columns - 1) * column < elements;
}

static PyObject *py_multiply(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer left, right, out, panel;
    Product p;
    if (!PyArg_ParseTuple(args, "y*y*w*w*nnnnnnnnp", &left, &right, &out, &panel, &p.rows, &p.columns, &p.depth,
                          &p.left_row, &p.left_k, &p.right_k, &p.right_column, &p.out_row, &p.begin))
        return NULL;
    PyObject *result = NULL;
    if (!lies_in(left.len, p.rows, p.depth, p.left_row, p.left_k) ||
        !lies_in(right.len, p.depth, p.columns, p.right_k, p.right_column) ||
        !lies_in(out.len, p.rows, p.columns, p.out_row, 1) ||
        panel.len / (Py_ssize_t)(BROAD * sizeof(float)) < p.depth) {
        PyErr_SetString(PyExc_ValueError, "the matrices do not lie in their buffers, or the panel is too small");
    } else {
        p.left = left.buf, p.right = right.buf, p.out = out.buf, p.panel = panel.buf;
        Py_BEGIN_ALLOW_THREADS;
        multiply(&p);
        Py_END_ALLOW_THREADS;
        result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&left);
    PyBuffer_Release(&right);
    PyBuffer_Release(&out);
    PyBuffer_Release(&panel);
    return result;
}

static PyMethodDef methods[] = {
    {"transfer", py_transfer, METH_VARARGS,
     "transfer(base, tuned, target, out, sums, width, first, block, scaled, scale) -> count of NaN and infinity in out"},
    {"transfer_files", py_transfer_files, METH_VARARGS,
     "transfer_files((descriptors of base, tuned, target), (places in them), room, out, sums, width, first, block, scaled, scale)"
     " -> count of NaN and infinity in out, or None where a read failed"},
    {"add", py_add, METH_VARARGS,
     "add(diff, target, out, sums, width, first, block, scaled, scale) -> count of NaN and infinity in out"},
    {"multiply", py_multiply, METH_VARARGS,
     "multiply(left, right, out, panel, rows, columns, depth, left_row, left_k, right_k, right_column, out_row, begin): "
     "float32, strides in elements, the panel holds 32 float32 for each k"},
    {"widen", py_widen, METH_VARARGS, "widen(bf16_bits, float32_out)"},
    {"narrow", py_narrow, METH_VARARGS, "narrow(float32, bf16_bits_out), to nearest even"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernel", "One pass over a piece; see arithmetic.py.", -1,
                                    methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernel(void) { return PyModule_Create(&module); }
