/* The transfer of one piece in a single pass: read, widen, subtract, scale, add, round, measure; and an adapter's product.
 *
 * A faster way to the very bits that arithmetic.py defines in numpy (tests hold one against the other): float32
 * steps, each rounded by itself (built with -ffp-contract=off), one rounding for bfloat16, to nearest even or
 * stochastic. It keeps no state but the width of its vectors, allocates nothing and lets go of the interpreter's lock,
 * so that worker threads run side by side. Here is what Python calls; what is computed stands in c/.
 *
 * Sums are taken over blocks of the caller's grid, in sixteen lanes, added up in a fixed order: they depend neither on
 * the piece size nor on the width of the machine's vectors. A lane adds 64 products at most in float32, then in
 * double, which keeps seven digits of a norm; a block whose products leave float32's range is summed again in double.
 */
#include "c/kernel.h"
#include <errno.h>
#include <unistd.h>

#define INTERFACE 5 /* kernel.py asks for it: a module that was built from another version's source is not used */

static const Kernel *kernel; /* the widest that this machine can run */

/* The kernel of so many lanes, or NULL where this machine cannot run it. */
static const Kernel *kernel_of(int lanes) {
#ifdef MANY_CPUS
    __builtin_cpu_init();
    if (lanes == 16 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("bmi2"))
        return &kernel_of_16_lanes;
    if (lanes == 8 && __builtin_cpu_supports("avx2")) return &kernel_of_8_lanes;
#endif
    return lanes == 4 ? &kernel_of_4_lanes : NULL;
}

/* How results are rounded: `draw` is NULL where to nearest. */
typedef struct {
    const Draw *draw;
    Draw first;
} Chosen;

/* None, or (key of sixteen bytes, index of the first element). */
static int choose(PyObject *given, void *to) {
    Chosen *chosen = to;
    const char *key;
    Py_ssize_t size;
    unsigned long long index;
    chosen->draw = NULL;
    if (given == Py_None) return 1;
    if (!PyTuple_Check(given) || !PyArg_ParseTuple(given, "y#K", &key, &size, &index) || size != sizeof chosen->first.key) {
        PyErr_SetString(PyExc_ValueError, "the rounding must be None, or sixteen bytes and an index");
        return 0;
    }
    memcpy(chosen->first.key, key, sizeof chosen->first.key);
    chosen->first.index = index;
    chosen->draw = &chosen->first;
    return 1;
}

/* Bytes of a number in three buffers, as the kernel wants to know it; 0 where that is none of its mixtures. */
static int mixture(int parents, int target, int out, Bf16 *bf16) {
    *bf16 = (Bf16){parents == 2, target == 2, out == 2};
    if ((parents != 2 && parents != 4) || (target != 2 && target != 4) || (out != 2 && out != 4)) return 0;
    return bf16->parents <= bf16->target && bf16->target <= bf16->out;
}

static PyObject *py_transfer(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer base, tuned, target, out, sums;
    Py_ssize_t first, block, nonfinite;
    int widths[3], scaled;
    double scale;
    Bf16 bf16;
    Chosen chosen;
    if (!PyArg_ParseTuple(args, "y*y*y*w*w*(iii)nnpdO&", &base, &tuned, &target, &out, &sums, widths, widths + 1, widths + 2,
                          &first, &block, &scaled, &scale, choose, &chosen))
        return NULL;
    PyObject *result = NULL;
    Py_ssize_t n = widths[2] > 0 ? out.len / widths[2] : 0;
    if (!mixture(widths[0], widths[1], widths[2], &bf16) || base.len != n * widths[0] || tuned.len != n * widths[0] ||
        target.len != n * widths[1] || out.len != n * widths[2] || sums.len != SUMS * (Py_ssize_t)sizeof(double) ||
        first < 1 || block < 1) {
        PyErr_SetString(PyExc_ValueError, "buffers of one length, ten doubles of sums and a positive grid are needed");
    } else {
        Py_BEGIN_ALLOW_THREADS;
        Piece piece = {base.buf, tuned.buf, target.buf, out.buf, bf16, scaled, (float)scale, chosen.draw};
        nonfinite = kernel->transfer(&piece, n, first, block, sums.buf);
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
    Chosen chosen;
    if (!PyArg_ParseTuple(args, "(iii)(LLL)w*w*w*innpdO&", files, files + 1, files + 2, places, places + 1, places + 2,
                          &inputs, &out, &sums, &width, &first, &block, &scaled, &scale, choose, &chosen))
        return NULL;
    PyObject *result = NULL;
    if ((width != 2 && width != 4) || out.len % width || sums.len != SUMS * (Py_ssize_t)sizeof(double) || first < 1 ||
        block < first || inputs.len < 3 * block * width) {
        PyErr_SetString(PyExc_ValueError, "room for three blocks, ten doubles of sums and a positive grid are needed");
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
            Bf16 bf16 = {width == 2, width == 2, width == 2};
            Piece piece = {in, in + block * width, in + 2 * block * width, (char *)out.buf + start * width, bf16,
                           scaled, (float)scale, chosen.draw};
            bad += kernel->transfer(&piece, stop - start, block, block, total);
            chosen.first.index += (uint64_t)(stop - start);
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

static PyObject *py_widen(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer from, to;
    if (!PyArg_ParseTuple(args, "y*w*", &from, &to)) return NULL;
    PyObject *result = NULL;
    Py_ssize_t n = from.len / 2;
    if (from.len % 2 || to.len != 4 * n) {
        PyErr_SetString(PyExc_ValueError, "bfloat16 and float32 buffers must hold the same number of elements");
    } else {
        Py_BEGIN_ALLOW_THREADS;
        kernel->widen(from.buf, to.buf, n);
        Py_END_ALLOW_THREADS;
        result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&from);
    PyBuffer_Release(&to);
    return result;
}

static PyObject *py_narrow(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer from, to;
    Chosen chosen;
    if (!PyArg_ParseTuple(args, "y*w*O&", &from, &to, choose, &chosen)) return NULL;
    PyObject *result = NULL;
    Py_ssize_t n = to.len / 2;
    if (to.len % 2 || from.len != 4 * n) {
        PyErr_SetString(PyExc_ValueError, "float32 and bfloat16 buffers must hold the same number of elements");
    } else {
        Py_BEGIN_ALLOW_THREADS;
        kernel->narrow(from.buf, to.buf, n, chosen.draw);
        Py_END_ALLOW_THREADS;
        result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&from);
    PyBuffer_Release(&to);
    return result;
}

/* Adds ‖values‖² to the sums, in double. */
static PyObject *py_square(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer values, sums;
    Py_ssize_t first, block;
    int width;
    if (!PyArg_ParseTuple(args, "y*w*inn", &values, &sums, &width, &first, &block)) return NULL;
    PyObject *result = NULL;
    if ((width != 2 && width != 4) || values.len % width || sums.len != SUMS * (Py_ssize_t)sizeof(double) || first < 1 ||
        block < 1) {
        PyErr_SetString(PyExc_ValueError, "a buffer of numbers, ten doubles of sums and a positive grid are needed");
    } else {
        Py_BEGIN_ALLOW_THREADS;
        kernel->square(values.buf, values.len / width, width == 2, first, block, (double *)sums.buf + TARGET);
        Py_END_ALLOW_THREADS;
        result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&values);
    PyBuffer_Release(&sums);
    return result;
}

static PyObject *py_loss(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer parts[4], sums;
    if (!PyArg_ParseTuple(args, "y*y*y*y*w*", parts, parts + 1, parts + 2, parts + 3, &sums)) return NULL;
    PyObject *result = NULL;
    int alike = parts[0].len % (Py_ssize_t)sizeof(float) == 0;
    for (int k = 1; k < 4; k++) alike &= parts[k].len == parts[0].len;
    if (!alike || sums.len != SUMS * (Py_ssize_t)sizeof(double)) {
        PyErr_SetString(PyExc_ValueError, "four buffers of as many float32 and ten doubles of sums are needed");
    } else {
        const float *const from[4] = {parts[0].buf, parts[1].buf, parts[2].buf, parts[3].buf};
        Py_BEGIN_ALLOW_THREADS;
        kernel->loss(from, parts[0].len / (Py_ssize_t)sizeof(float), sums.buf);
        Py_END_ALLOW_THREADS;
        result = Py_NewRef(Py_None);
    }
    for (int k = 0; k < 4; k++) PyBuffer_Release(parts + k);
    PyBuffer_Release(&sums);
    return result;
}

static PyObject *py_add(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer diff, target, out, sums;
    Py_ssize_t first, block, nonfinite;
    int widths[2], scaled;
    double scale;
    Bf16 bf16;
    Chosen chosen;
    if (!PyArg_ParseTuple(args, "y*y*w*w*(ii)nnpdO&", &diff, &target, &out, &sums, widths, widths + 1, &first, &block,
                          &scaled, &scale, choose, &chosen))
        return NULL;
    PyObject *result = NULL;
    Py_ssize_t n = diff.len / (Py_ssize_t)sizeof(float);
    if (!mixture(4, widths[0], widths[1], &bf16) || diff.len != n * (Py_ssize_t)sizeof(float) ||
        target.len != n * widths[0] || out.len != n * widths[1] || sums.len != SUMS * (Py_ssize_t)sizeof(double) ||
        first < 1 || block < 1) {
        PyErr_SetString(PyExc_ValueError, "buffers of one length, ten doubles of sums and a positive grid are needed");
    } else {
        Py_BEGIN_ALLOW_THREADS;
        Piece piece = {NULL, diff.buf, target.buf, out.buf, bf16, scaled, (float)scale, chosen.draw};
        nonfinite = kernel->transfer(&piece, n, first, block, sums.buf);
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

static PyObject *py_accumulate(PyObject *self, PyObject *args) {
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
        panel.len / (Py_ssize_t)(PANEL * sizeof(float)) < p.depth) {
        PyErr_SetString(PyExc_ValueError, "the matrices do not lie in their buffers, or the panel is too small");
    } else {
        p.left = left.buf, p.right = right.buf, p.out = out.buf, p.panel = panel.buf;
        Py_BEGIN_ALLOW_THREADS;
        kernel->multiply(&p);
        Py_END_ALLOW_THREADS;
        result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&left);
    PyBuffer_Release(&right);
    PyBuffer_Release(&out);
    PyBuffer_Release(&panel);
    return result;
}

static PyObject *py_use(PyObject *self, PyObject *args) {
    (void)self;
    int lanes;
    if (!PyArg_ParseTuple(args, "i", &lanes)) return NULL;
    const Kernel *found = kernel_of(lanes);
    if (found) kernel = found;
    return PyBool_FromLong(found != NULL);
}

static PyMethodDef methods[] = {
    {"transfer", py_transfer, METH_VARARGS,
     "transfer(base, tuned, target, out, sums, (bytes of a number of base and tuned, target, out), first, block, scaled, scale,"
     " rounding) -> count of NaN and infinity in out"},
    {"transfer_files", py_transfer_files, METH_VARARGS,
     "transfer_files((descriptors of base, tuned, target), (places in them), room, out, sums, width, first, block, scaled,"
     " scale, rounding) -> count of NaN and infinity in out, or None where a read failed"},
    {"add", py_add, METH_VARARGS,
     "add(diff, target, out, sums, (bytes of a number of target, out), first, block, scaled, scale, rounding)"
     " -> count of NaN and infinity in out"},
    {"accumulate", py_accumulate, METH_VARARGS,
     "accumulate(left, right, out, panel, rows, columns, depth, left_row, left_k, right_k, right_column, out_row, begin): "
     "float32, strides in elements, the panel holds 32 float32 for each k"},
    {"widen", py_widen, METH_VARARGS, "widen(bf16_bits, float32_out)"},
    {"narrow", py_narrow, METH_VARARGS, "narrow(float32, bf16_bits_out, rounding)"},
    {"square", py_square, METH_VARARGS, "square(values, sums, width, first, block)"},
    {"loss", py_loss, METH_VARARGS, "loss(out, target, added, unmoved, sums), all float32: see measure_rounding"},
    {"use", py_use, METH_VARARGS,
     "use(lanes) -> whether this machine can run the kernel of 4, 8 or 16 lanes, which serves from now on: for tests, all"
     " give the same"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernel", "One pass over a piece; see arithmetic.py.", -1,
                                    methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernel(void) {
    for (int lanes = 16; !(kernel = kernel_of(lanes)); lanes /= 2) continue;
    PyObject *made = PyModule_Create(&module);
    if (made && PyModule_AddIntConstant(made, "INTERFACE", INTERFACE) < 0) Py_CLEAR(made);
    return made;
}
