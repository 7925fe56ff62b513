/* Convolutions and linear maps of spikes, images channels last: only what is not zero is read.
 *
 *     y[oy, ox, o] = sum over ky, kx, i of weight[o, i, ky, kx] * x[oy * stride + ky - padding, ox * stride + kx - padding, i] + bias[o]
 *
 * Both directions are one operation, `add`: a row of outputs gathers other rows, of which a list says which and how often. Forward,
 * the row is that of a position and the rows gathered are the weight's, of the inputs that are not zero there. For the weight's
 * gradient, the row is the weight's and the rows gathered are the gradient's, of the positions at which its input is not zero.
 *
 * A sum is taken in one order, by tap and then by input, or by position, one fused multiply-add after the other, whatever the
 * order of the loops: an output depends neither on the number of threads nor on the batch beside it.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

#define LANES 16 /* outputs in a vector */
#ifdef __AVX512F__
#define VECTORS 8 /* at once: what registers hold */
#else
#define VECTORS 4
#endif
#define AT_ONCE (VECTORS * LANES) /* outputs */
#define INPUTS 64                 /* at once: their rows of weights fit into first-level cache */
#define BAND 16384                /* values of an output that are summed before the next are begun */
#define DENSE 6                   /* inputs of INPUTS that are not zero, from which weights should stay in cache, not outputs */
#define LISTED 16                 /* positions that a list of the gradient should have */
#define SAMPLES 1024              /* values by which density is guessed */
#define TASKS 8                   /* into so many at least work is cut */
#define PAGE ((size_t)2 << 20)    /* a huge one */
#define LINE 64                   /* bytes of a cache line */

#define INLINE static inline __attribute__((always_inline))

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* Of input [images, height, width, in] to output [images, out_height, out_width, out]. The weight's strides are by_out, by_in and,
 * from tap to tap, 1. */
typedef struct {
    int64_t images, height, width, in, out_height, out_width, out, kernel, stride, padding, by_out, by_in;
    int32_t threads;
} shape;

INLINE int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t parts(int64_t a, int64_t b) { return (a + b - 1) / b; }
INLINE int64_t padded(const shape *s) { return parts(s->out, LANES) * LANES; }
INLINE int64_t taps(const shape *s) { return s->kernel * s->kernel; }

/* Memory that a thread keeps from call to call. In huge pages: rows of weights are read in no order that the processor foresees. */
typedef struct {
    char *start;
    size_t size, used;
} room;

static _Thread_local room shared, own;

static void clear(room *r, size_t size) {
    r->used = 0;
    if (r->size < size) {
        free(r->start);
        r->size = (size + PAGE - 1) / PAGE * PAGE;
        r->start = aligned_alloc(PAGE, r->size);
#ifdef MADV_HUGEPAGE
        madvise(r->start, r->size, MADV_HUGEPAGE);
#endif
    }
}

INLINE size_t lines(int64_t values) { return parts(values * 4, LINE) * LINE; }

static void *take(room *r, int64_t values) {
    void *start = r->start + r->used;
    r->used += lines(values);
    return start;
}

/* to = start + sum of the listed rows, so many vectors wide as its name says. */
typedef void adder(const int32_t *row, const float *times, int64_t size, const float *rows, int64_t pitch, const float *start, float *to);

#define EACH_1(DO) DO(0)
#define EACH_2(DO) EACH_1(DO) DO(1)
#define EACH_3(DO) EACH_2(DO) DO(2)
#define EACH_4(DO) EACH_3(DO) DO(3)
#define EACH_5(DO) EACH_4(DO) DO(4)
#define EACH_6(DO) EACH_5(DO) DO(5)
#define EACH_7(DO) EACH_6(DO) DO(6)
#define EACH_8(DO) EACH_7(DO) DO(7)
#define BEGIN(v) vector sum_##v = *(const vector *)(start + v * LANES);
#define GATHER(v) sum_##v += often * *(const vector *)(from + v * LANES);
#define END(v) *(vector *)(to + v * LANES) = sum_##v;
#define ADDER(V)                                                                                                                \
    static void add_##V(const int32_t *row, const float *times, int64_t size, const float *rows, int64_t pitch,                 \
                        const float *start, float *to) {                                                                        \
        EACH_##V(BEGIN)                                                                                                         \
        for (int64_t i = 0; i < size; i++) {                                                                                    \
            const float *from = rows + row[i] * pitch;                                                                          \
            const vector often = times[i] - (vector){0};                                                                        \
            EACH_##V(GATHER)                                                                                                    \
        }                                                                                                                       \
        EACH_##V(END)                                                                                                           \
    }
ADDER(1) ADDER(2) ADDER(3) ADDER(4)
#if VECTORS > 4
ADDER(5) ADDER(6) ADDER(7) ADDER(8)
static adder *const adders[] = {add_1, add_2, add_3, add_4, add_5, add_6, add_7, add_8};
#else
static adder *const adders[] = {add_1, add_2, add_3, add_4};
#endif

/* The inputs that are not zero at some positions, by block of INPUTS; start: of each block of each position, and the end. */
typedef struct {
    int64_t blocks;
    int32_t *start, *row;
    float *times;
} inputs;

/* Adds the weights of what is not zero in some blocks at a position. */
INLINE void add_inputs(const inputs *l, int64_t position, int64_t block, int64_t blocks, const float *weight, int64_t lanes,
                       const float *from, float *to) {
    const int32_t *start = l->start + position * l->blocks + block;
    adders[lanes / LANES - 1](l->row + *start, l->times + *start, start[blocks] - *start, weight, lanes, from, to);
}

/* Appends what is not zero of `size` inputs, of which the first is called `first`; may write LANES more. How many these are. */
INLINE int64_t appended(const float *x, int64_t size, int32_t first, int32_t *row, float *times) {
    int64_t n = 0, i = 0;
#ifdef __AVX512F__
    const __m512i order = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (; i < size; i += LANES) {
        const __mmask16 known = i + LANES <= size ? 0xffff : (__mmask16)((1 << (size - i)) - 1);
        const __m512 values = _mm512_maskz_loadu_ps(known, x + i);
        const __mmask16 some = _mm512_cmp_ps_mask(values, _mm512_setzero_ps(), _CMP_NEQ_UQ);
        const __m512i names = _mm512_add_epi32(order, _mm512_set1_epi32(first + (int32_t)i));
        _mm512_storeu_si512(row + n, _mm512_maskz_compress_epi32(some, names));
        _mm512_storeu_ps(times + n, _mm512_maskz_compress_ps(some, values));
        n += __builtin_popcount(some);
    }
#else
    for (; i < size; i++) {
        row[n] = first + (int32_t)i, times[n] = x[i];
        n += x[i] != 0;
    }
#endif
    return n;
}

static void list_inputs(const float *x, int64_t positions, int64_t in, const inputs *l) {
    int64_t n = 0, at = 0;
    for (int64_t p = 0; p < positions; p++, x += in) {
        for (int64_t i = 0; i < in; i += INPUTS) {
            l->start[at++] = (int32_t)n;
            n += appended(x + i, at_most(INPUTS, in - i), (int32_t)i, l->row + n, l->times + n);
        }
    }
    l->start[at] = (int32_t)n;
}

/* Some rows of an output, and those of the input that they see. */
typedef struct {
    int64_t first, last, first_in, last_in;
} band;

static band band_of(const shape *s, int64_t rows, int64_t number) {
    const int64_t first = number * rows, last = at_most(s->out_height, first + rows);
    const int64_t reach = (last - 1) * s->stride - s->padding + s->kernel;
    return (band){first, last, at_least(0, first * s->stride - s->padding), at_most(s->height, reach)};
}

/* Where a tap leads from a row or column of the input; -1: nowhere, for the stride jumps over it. Edges are part of the answer. */
INLINE int64_t reached(int64_t at, int64_t tap, const shape *s, int64_t edge) {
    const int64_t to = at + s->padding - tap + edge * s->stride;
    return s->stride == 1 ? to : to % s->stride ? -1 : to / s->stride;
}

/* A sum in the making: [rows, out_width with an edge on both sides, lanes], into which taps may lead. */
typedef struct {
    float *values;
    int64_t edge, pitch, lanes;
} sums;

INLINE void add_tap(const shape *s, band b, const inputs *l, sums y, const float *weight, int64_t iy, int64_t ix, int64_t block,
                    int64_t blocks, int64_t ky, int64_t kx) {
    const int64_t oy = reached(iy, ky, s, y.edge) - y.edge - b.first, ox = reached(ix, kx, s, y.edge);
    if (oy < 0 || oy >= b.last - b.first || ox < 0) {
        return;
    }
    float *to = y.values + (oy * y.pitch + ox) * y.lanes;
    const float *rows = weight + (ky * s->kernel + kx) * s->in * y.lanes;
    add_inputs(l, (iy - b.first_in) * s->width + ix, block, blocks, rows, y.lanes, to, to);
}

/* Of many inputs: some weights after the other, which so stay in cache. */
static void add_by_tap(const shape *s, band b, const inputs *l, sums y, const float *weight) {
    for (int64_t tap = 0; tap < taps(s); tap++) {
        for (int64_t block = 0; block < l->blocks; block++) {
            for (int64_t iy = b.first_in; iy < b.last_in; iy++) {
                for (int64_t ix = 0; ix < s->width; ix++) {
                    add_tap(s, b, l, y, weight, iy, ix, block, 1, tap / s->kernel, tap % s->kernel);
                }
            }
        }
    }
}

/* Of few inputs: one position after the other. */
static void add_by_position(const shape *s, band b, const inputs *l, sums y, const float *weight) {
    for (int64_t iy = b.first_in; iy < b.last_in; iy++) {
        for (int64_t ix = 0; ix < s->width; ix++) {
            const int32_t *start = l->start + ((iy - b.first_in) * s->width + ix) * l->blocks;
            if (start[0] == start[l->blocks]) {
                continue;
            }
            for (int64_t ky = 0; ky < s->kernel; ky++) {
                for (int64_t kx = 0; kx < s->kernel; kx++) {
                    add_tap(s, b, l, y, weight, iy, ix, 0, l->blocks, ky, kx);
                }
            }
        }
    }
}

static void convolve_band(const shape *s, band b, const inputs *l, int dense, sums y, const float *weight, const float *bias,
                          int64_t width, float *out) {
    for (int64_t p = 0; p < (b.last - b.first) * y.pitch; p++) { /* a sum starts from the bias */
        memcpy(y.values + p * y.lanes, bias, y.lanes * sizeof *bias);
    }
    (dense ? add_by_tap : add_by_position)(s, b, l, y, weight);
    for (int64_t oy = 0; oy < b.last - b.first; oy++) {
        for (int64_t ox = 0; ox < s->out_width; ox++) {
            memcpy(out + (oy * s->out_width + ox) * s->out, y.values + (oy * y.pitch + ox + y.edge) * y.lanes, width * sizeof *out);
        }
    }
}

/* A linear map: every position sees itself alone. Its sum is taken where it belongs, if there is room for whole vectors, or what is
 * written beyond is yet to be overwritten by the next position's; else beside. */
static void map_band(const shape *s, band b, const inputs *l, int dense, sums y, const float *weight, const float *bias, int64_t width,
                     float *out) {
    const int64_t positions = b.last - b.first, together = dense ? 1 : l->blocks;
    const int64_t beyond = parts(y.lanes - width, s->out); /* positions, of which what is written beyond touches the first values */
    const int overwritten = width == s->out && together == l->blocks;
    const int64_t fits = beyond == 0 ? positions : overwritten ? at_least(0, positions - beyond) : 0;
    for (int64_t block = 0; block < l->blocks; block += together) {
        for (int64_t p = 0; p < positions; p++) {
            float *to = p < fits ? out + p * s->out : y.values + p * y.lanes;
            add_inputs(l, p, block, together, weight, y.lanes, block ? to : bias, to);
        }
    }
    for (int64_t p = fits; p < positions; p++) {
        memcpy(out + p * s->out, y.values + p * y.lanes, width * sizeof *out);
    }
}

/* The weight as [blocks of AT_ONCE outputs][tap, input, output], the last block padded. The bias, too. */
typedef struct {
    const float *weight, *bias;
} packed;

/* Until this thread packs the next. */
static packed pack(const shape *s, const float *weight, const float *bias) {
    const int64_t size = padded(s) * taps(s) * s->in;
    clear(&shared, lines(size) + lines(padded(s)));
    float *rows = take(&shared, size), *shifts = take(&shared, padded(s));
    for (int64_t o = 0; o < padded(s); o++) {
        shifts[o] = bias && o < s->out ? bias[o] : 0;
    }
    for (int64_t block = 0; block < padded(s); block += AT_ONCE) {
        const int64_t lanes = at_most(AT_ONCE, padded(s) - block), width = at_most(lanes, s->out - block);
        for (int64_t i = 0; i < s->in; i++) {
            for (int64_t tap = 0; tap < taps(s); tap++) {
                const float *from = weight + block * s->by_out + i * s->by_in + tap;
                float *to = rows + (block * taps(s) + tap * lanes) * s->in + i * lanes;
                for (int64_t o = 0; o < lanes; o++) {
                    to[o] = o < width ? from[o * s->by_out] : 0;
                }
            }
        }
    }
    return (packed){rows, shifts};
}

typedef void banded(const shape *s, band b, const inputs *l, int dense, sums y, const float *weight, const float *bias, int64_t width,
                    float *out);

/* A band of an image, of which x and out are the first values that it sees and gives. */
static void whole_band(banded *of_outputs, const float *x, const shape *s, band b, const inputs *l, const packed *weights, float *values,
                       float *out) {
    const int64_t positions = (b.last_in - b.first_in) * s->width, edge = s->kernel - 1;
    list_inputs(x, positions, s->in, l);
    const int dense = l->start[positions * l->blocks] > DENSE * positions * l->blocks;
    for (int64_t block = 0; block < padded(s); block += AT_ONCE) {
        const int64_t lanes = at_most(AT_ONCE, padded(s) - block), width = at_most(lanes, s->out - block);
        const sums y = {values, edge, s->out_width + 2 * edge, lanes};
        const float *rows = weights->weight + block * taps(s) * s->in;
        of_outputs(s, b, l, dense, y, rows, weights->bias + block, width, out + block);
    }
}

/* A linear map of x [rows, in], of which any rows may be taken by themselves, as `neuron.c` does. */
typedef struct {
    const float *x;
    shape s;
    packed weights;
} map;

void begin_map(const float *x, const shape *s, const float *weight, const float *bias, map *m) {
    *m = (map){x, *s, pack(s, weight, bias)};
}

void map_rows(const map *m, int64_t first, int64_t count, float *y) {
    const shape *s = &m->s;
    const int64_t blocks = parts(s->in, INPUTS), of_lists = count * s->in + LANES, of_sums = count * AT_ONCE;
    clear(&own, lines(count * blocks + 1) + 2 * lines(of_lists) + lines(of_sums));
    const inputs l = {blocks, take(&own, count * blocks + 1), take(&own, of_lists), take(&own, of_lists)};
    whole_band(map_band, m->x + first * s->in, s, (band){0, count, 0, count}, &l, &m->weights, take(&own, of_sums), y);
}

void convolve(const float *x, const shape *s, const float *weight, const float *bias, float *out) {
    const int pointwise = s->kernel == 1 && s->stride == 1 && s->padding == 0 && s->width == 1;
    const int64_t blocks = parts(s->in, INPUTS), pitch = s->out_width + 2 * (s->kernel - 1);
    const int64_t rows = at_least(1, at_most(s->out_height, BAND / (s->out_width * at_most(padded(s), AT_ONCE))));
    const int64_t bands = parts(s->out_height, rows), seen = ((rows - 1) * s->stride + s->kernel) * s->width;
    const int64_t of_lists = seen * s->in + LANES, of_sums = rows * pitch * AT_ONCE;
    const packed weights = pack(s, weight, bias);
#pragma omp parallel num_threads(s->threads)
    {
        clear(&own, lines(seen * blocks + 1) + 2 * lines(of_lists) + lines(of_sums));
        const inputs l = {blocks, take(&own, seen * blocks + 1), take(&own, of_lists), take(&own, of_lists)};
        float *values = take(&own, of_sums);
#pragma omp for
        for (int64_t task = 0; task < s->images * bands; task++) {
            const int64_t image = task / bands;
            const band b = band_of(s, rows, task % bands);
            const float *from = x + (image * s->height + b.first_in) * s->width * s->in;
            float *to = out + (image * s->out_height + b.first) * s->out_width * s->out;
            whole_band(pointwise ? map_band : convolve_band, from, s, b, &l, &weights, values, to);
        }
    }
}

/* The positions at which inputs are not zero, [inputs, space]; a position is that of a row of the copied gradient. */
typedef struct {
    int64_t space, *size;
    int32_t *row;
    float *times;
} positions;

INLINE void append(const positions *l, int64_t input, int64_t at, float times) {
    const int64_t end = input * l->space + l->size[input]++;
    l->row[end] = (int32_t)at, l->times[end] = times;
}

/* Of x [rows, width, in]; a row of the gradient has `pitch` positions. */
static void list_positions(const float *x, int64_t rows, int64_t pitch, const shape *s, const positions *l) {
    memset(l->size, 0, s->in * sizeof *l->size);
    for (int64_t p = 0; p < rows * s->width; p++, x += s->in) {
        const int64_t at = p / s->width * pitch + p % s->width;
        int64_t i = 0;
#ifdef __AVX512F__
        while (i + LANES <= s->in) {
            const int64_t first = i;
            uint64_t some = 0;
            for (; i + LANES <= s->in && i < first + 64; i += LANES) {
                some |= (uint64_t)_mm512_cmp_ps_mask(_mm512_loadu_ps(x + i), _mm512_setzero_ps(), _CMP_NEQ_UQ) << (i - first);
            }
            for (; some; some &= some - 1) {
                const int64_t input = first + __builtin_ctzll(some);
                append(l, input, at, x[input]);
            }
        }
#endif
        for (; i < s->in; i++) {
            if (x[i] != 0) {
                append(l, i, at, x[i]);
            }
        }
    }
}

/* Row `oy` of some outputs' gradient, zeros where there is none: [pitch, lanes]. */
static void copy_row(const float *grad, const shape *s, int64_t oy, int64_t pitch, int64_t lanes, int64_t width, float *to) {
    const int64_t before = s->kernel - 1 - s->padding, inside = oy >= 0 && oy < s->out_height;
    for (int64_t n = 0; n < pitch; n++, to += lanes) {
        const int64_t ox = n - before, known = inside && ox >= 0 && ox < s->out_width ? width : 0;
        memcpy(to, grad + (oy * s->out_width + ox) * s->out, known * sizeof *to);
        memset(to + known, 0, (lanes - known) * sizeof *to);
    }
}

/* Adds to the gradient of some outputs' weights, [tap, input, lanes], what some rows of an image give. */
static void add_gradient(const float *x, const float *grad, const shape *s, int64_t first, int64_t last, int64_t lanes, int64_t width,
                         const positions *l, float *copied, float *sum) {
    const int64_t edge = s->kernel - 1, pitch = s->width + edge, direct = edge == 0 && s->padding == 0 && lanes == s->out;
    adder *add = adders[lanes / LANES - 1];
    list_positions(x + first * s->width * s->in, last - first, pitch, s, l);
    for (int64_t y = 0; y < last - first + edge && !direct; y++) {
        copy_row(grad, s, first + y + s->padding - edge, pitch, lanes, width, copied + y * pitch * lanes);
    }
    const float *rows = direct ? grad + first * s->width * lanes : copied;
    for (int64_t tap = 0; tap < taps(s); tap++) {
        const float *seen = rows + ((edge - tap / s->kernel) * pitch + edge - tap % s->kernel) * lanes;
        for (int64_t i = 0; i < s->in; i++, sum += lanes) {
            add(l->row + i * l->space, l->times + i * l->space, l->size[i], seen, lanes, sum, sum);
        }
    }
}

/* How many positions to list at once: so many that a list is worth a loop, so few that their gradient stays in cache. */
static int64_t worth(const float *x, const shape *s) {
    const int64_t size = s->images * s->height * s->width * s->in, step = at_least(1, size / SAMPLES) | 1;
    int64_t some = 1, seen = 1;
    for (int64_t i = 0; i < size; i += step, seen++) {
        some += x[i] != 0;
    }
    return at_most(8 * INPUTS, at_least(INPUTS, LISTED * seen / some));
}

/* Back from the order of `pack`; some outputs at a time, for lines of cache are to be written whole. */
static void unpack(const shape *s, const float *packed, float *weight) {
    for (int64_t first = 0; first < s->out; first += LANES) {
        const int64_t block = first / AT_ONCE * AT_ONCE, lanes = at_most(AT_ONCE, padded(s) - block), outs = at_most(LANES, s->out - first);
        for (int64_t i = 0; i < s->in; i++) {
            for (int64_t tap = 0; tap < taps(s); tap++) {
                const float *from = packed + (block * taps(s) + tap * lanes) * s->in + i * lanes + first - block;
                for (int64_t o = 0; o < outs; o++) {
                    weight[((first + o) * s->in + i) * taps(s) + tap] = from[o];
                }
            }
        }
    }
}

/* The weight's gradient [out, in, kernel, kernel], where the stride is 1. It is summed in groups of bands, as many as cut the
 * work. */
void convolve_backward_weight(const float *x, const float *grad, const shape *s, float *out) {
    const int64_t edge = s->kernel - 1, outs = parts(padded(s), AT_ONCE), size = padded(s) * taps(s) * s->in;
    const int64_t rows = at_least(1, at_most(s->height, worth(x, s) / s->width)), of_image = parts(s->height, rows);
    const int64_t bands = s->images * of_image;
    const int64_t groups = at_most(bands, parts(TASKS, outs)), of_copy = (rows + edge) * (s->width + edge) * AT_ONCE;
    const int64_t space = rows * s->width + LANES; /* not a power of two, at which lists would share lines of cache */
    clear(&shared, lines(groups * size));
    float *sum = take(&shared, groups * size);
    memset(sum, 0, groups * size * sizeof *sum);
#pragma omp parallel num_threads(s->threads)
    {
        clear(&own, lines(2 * s->in) + 2 * lines(s->in * space) + lines(of_copy));
        const positions l = {space, take(&own, 2 * s->in), take(&own, s->in * space), take(&own, s->in * space)};
        float *copied = take(&own, of_copy);
#pragma omp for
        for (int64_t task = 0; task < outs * groups; task++) {
            const int64_t group = task / outs, block = task % outs * AT_ONCE, lanes = at_most(AT_ONCE, padded(s) - block);
            float *start = sum + group * size + block * taps(s) * s->in;
            for (int64_t n = bands * group / groups; n < bands * (group + 1) / groups; n++) {
                const int64_t image = n / of_image, first = n % of_image * rows;
                const float *in = x + image * s->height * s->width * s->in;
                const float *of = grad + image * s->out_height * s->out_width * s->out + block;
                const int64_t last = at_most(s->height, first + rows), width = at_most(lanes, s->out - block);
                add_gradient(in, of, s, first, last, lanes, width, &l, copied, start);
            }
        }
    }
    for (int64_t g = 1; g < groups; g++) {
        for (int64_t i = 0; i < size; i++) {
            sum[i] += sum[g * size + i];
        }
    }
    unpack(s, sum, out);
}
