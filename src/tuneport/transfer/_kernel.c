/* The transfer of one piece in a single pass: widen, subtract, scale, add, round, measure.
 *
 * A faster way to the very bits that arithmetic.py defines in numpy (tests hold one against the other): float32
 * steps, each rounded by itself (built with -ffp-contract=off), one rounding to nearest even for bfloat16. It keeps
 * no state, allocates nothing and lets go of the interpreter's lock, so that worker threads run side by side.
 *
 * Sums are taken over blocks of the caller's grid, in sixteen lanes, added up in a fixed order: they depend neither on
 * the piece size nor on the width of the machine's vectors. A lane adds 64 products at most in float32, then in
 * double, which keeps seven digits of a norm; a block whose products leave float32's range is summed again in double.
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

static PyMethodDef methods[] = {
    {"transfer", py_transfer, METH_VARARGS,
     "transfer(base, tuned, target, out, sums, width, first, block, scaled, scale) -> count of NaN and infinity in out"},
    {"transfer_files", py_transfer_files, METH_VARARGS,
     "transfer_files((descriptors of base, tuned, target), (places in them), room, out, sums, width, first, block, scaled, scale)"
     " -> count of NaN and infinity in out, or None where a read failed"},
    {"widen", py_widen, METH_VARARGS, "widen(bf16_bits, float32_out)"},
    {"narrow", py_narrow, METH_VARARGS, "narrow(float32, bf16_bits_out), to nearest even"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernel", "One pass over a piece; see arithmetic.py.", -1,
                                    methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernel(void) { return PyModule_Create(&module); }
