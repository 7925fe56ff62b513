/* Zero-skipping convolutions and linear layers on channels-last images.
 *
 *     y[oy, ox, o] = bias[o] + sum over ky, kx, i of weight[o, i, ky, kx] * x[iy, ix, i]
 *     iy = oy * stride + ky - padding,    ix = ox * stride + kx - padding
 *
 * The indices of the non-zero inputs are listed, and for each the row of its weights is added to the row of outputs. For the weight
 * gradient, the row of the output gradient at each position where an input is non-zero is added to the row of weight gradients.
 * Where most inputs are non-zero, register tiles run over all inputs instead: see DENSE_SHARE.
 *
 * Every sum has one order: the bias, then products by tap and by input (or by position), one fused multiply-add at a time.
 * Adding a zero changes nothing, so all loop orders, the tiles, every vector width, any number of threads and any batch composition
 * give bit-identical results. Without fused multiply-add (SSE2) results round differently.
 */
#include "common.h"
#include "tile.h"
#include "vector.h"

#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#ifndef DENSE_SHARE
/* Of non-zero inputs: beyond, tiles are faster (0.6 to 0.75 by shape, on Zen 4 with AVX-512 and with AVX2). */
#define DENSE_SHARE 0.6
#endif
#define AT_ONCE (VECTORS * LANES) /* outputs of a block */
#define INPUTS 64                 /* inputs of a block: their rows of weights fit into first-level cache */
#define BAND 16384                /* output values that are summed before the next are begun */
#define BY_TAP 6                  /* non-zero inputs of INPUTS, from which weights should stay in cache, not outputs */
#define LISTED 16                 /* positions that a list of the weight gradient should have */
#define SAMPLES 1024              /* values by which the density is estimated */
#define TASKS 8                   /* least number of parts into which a weight gradient is cut */
#define OUTPUTS_OF_A_TASK 128     /* fixed, so that the parts, and with them the order of sums, do not depend on the vector width */
#define PAGE ((size_t)2 << 20)    /* bytes of a huge page */
#define LINE 64                   /* bytes of a cache line */

/* Of input [images, height, width, in] to output [images, out_height, out_width, out]. The weight's strides are by_out, by_in and,
 * from tap to tap, 1. */
typedef struct {
    int64_t images, height, width, in, out_height, out_width, out, kernel, stride, padding, by_out, by_in;
    int32_t threads;
} shape;

EXPORT_SIZE(shape)

INLINE int64_t parts(int64_t a, int64_t b) { return (a + b - 1) / b; }
INLINE int64_t padded(const shape *s) { return parts(s->out, LANES) * LANES; }
INLINE int64_t taps(const shape *s) { return s->kernel * s->kernel; }

/* Scratch memory that a thread reuses from call to call. In huge pages: rows of weights are read in an order that no prefetcher
 * predicts. */
typedef struct {
    char *start;
    size_t size, used;
} arena;

/* shared: allocated by the thread that calls, read by all threads of the call. own: used by one thread. */
static _Thread_local arena shared, own;

/* Empties an arena and makes room for `size` bytes. Returns 0 where memory is short. */
static int reserve(arena *a, size_t size) {
    a->used = 0;
    if (a->size < size) {
        free(a->start);
        a->size = (size + PAGE - 1) / PAGE * PAGE;
        a->start = aligned_alloc(PAGE, a->size);
        if (!a->start) {
            a->size = 0;
            return 0;
        }
#ifdef MADV_HUGEPAGE
        madvise(a->start, a->size, MADV_HUGEPAGE);
#endif
    }
    return 1;
}

INLINE size_t lines(int64_t values) { return parts(values * 4, LINE) * LINE; }

static void *allocate(arena *a, int64_t values) {
    void *start = a->start + a->used;
    a->used += lines(values);
    return start;
}

static int64_t count_nonzero(const float *x, int64_t size) {
    int64_t count = 0;
    for (int64_t i = 0; i < size; i += 64) {
        count += __builtin_popcountll(nonzero_bits(x + i, at_most(64, size - i)));
    }
    return count;
}

/* to = start + sum of times[i] * rows[row[i] * pitch], for some vectors. */
INLINE void add_rows(const int32_t *row, const float *times, int64_t size, const float *rows, int64_t pitch, const float *start,
                     float *to, int vectors) {
    vector sum[VECTORS];
    load_vectors(start, vectors, sum);
    for (int64_t i = 0; i < size; i++) {
        add_product(sum, times[i], rows + row[i] * pitch, vectors);
    }
    store_vectors(sum, vectors, to);
}

/* add_rows for a number of vectors. */
typedef void adder(const int32_t *row, const float *times, int64_t size, const float *rows, int64_t pitch, const float *start,
                   float *to);
#define ADDER(V)                                                                                                                \
    static void add_##V(const int32_t *row, const float *times, int64_t size, const float *rows, int64_t pitch,                 \
                        const float *start, float *to) {                                                                        \
        add_rows(row, times, size, rows, pitch, start, to, V);                                                                  \
    }
ADDER(1) ADDER(2) ADDER(3) ADDER(4) ADDER(5) ADDER(6) ADDER(7) ADDER(8)
static adder *const adders[] = {add_1, add_2, add_3, add_4, add_5, add_6, add_7, add_8};

#if defined(__AVX2__) && !defined(__AVX512F__)
/* For each of 256 masks of 8 lanes, the indices of the lanes whose bit is set, first. */
static uint64_t compressing[256];

__attribute__((constructor)) static void fill_compressing(void) {
    for (int mask = 0; mask < 256; mask++) {
        uint64_t indices = 0;
        for (int lane = 7; lane >= 0; lane--) {
            indices = mask >> lane & 1 ? indices << 8 | (uint64_t)lane : indices;
        }
        compressing[mask] = indices;
    }
}
#endif

/* Appends the non-zero ones of `size` inputs, of which the first has index `first`; may write LANES more. Returns how many. */
INLINE int64_t append_nonzero(const float *x, int64_t size, int32_t first, int32_t *row, float *times) {
    int64_t n = 0, i = 0;
#if defined(__AVX512F__)
    const __m512i order = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (; i < size; i += LANES) {
        const __mmask16 known = i + LANES <= size ? 0xffff : (__mmask16)((1 << (size - i)) - 1);
        const __m512 values = _mm512_maskz_loadu_ps(known, x + i);
        const __mmask16 some = _mm512_cmp_ps_mask(values, _mm512_setzero_ps(), _CMP_NEQ_UQ);
        const __m512i indices = _mm512_add_epi32(order, _mm512_set1_epi32(first + (int32_t)i));
        _mm512_storeu_si512(row + n, _mm512_maskz_compress_epi32(some, indices));
        _mm512_storeu_ps(times + n, _mm512_maskz_compress_ps(some, values));
        n += __builtin_popcount(some);
    }
#elif defined(__AVX2__)
    for (; i + LANES <= size; i += LANES) {
        const __m256 values = _mm256_loadu_ps(x + i);
        const int some = _mm256_movemask_ps(_mm256_cmp_ps(values, _mm256_setzero_ps(), _CMP_NEQ_UQ));
        const __m256i lanes = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)compressing[some]));
        _mm256_storeu_si256((__m256i *)(row + n), _mm256_add_epi32(lanes, _mm256_set1_epi32(first + (int32_t)i)));
        _mm256_storeu_ps(times + n, _mm256_permutevar8x32_ps(values, lanes));
        n += __builtin_popcount((unsigned)some);
    }
#endif
    for (; i < size; i++) {
        row[n] = first + (int32_t)i, times[n] = x[i];
        n += x[i] != 0;
    }
    return n;
}

/* The non-zero inputs of some positions, by block of INPUTS. start: of each block of each position, and the end. */
typedef struct {
    int64_t blocks;
    int32_t *start, *row;
    float *times;
} inputs;

static void list_inputs(const float *x, int64_t positions, int64_t in, const inputs *l) {
    int64_t n = 0, at = 0;
    for (int64_t p = 0; p < positions; p++, x += in) {
        for (int64_t i = 0; i < in; i += INPUTS) {
            l->start[at++] = (int32_t)n;
            n += append_nonzero(x + i, at_most(INPUTS, in - i), (int32_t)i, l->row + n, l->times + n);
        }
    }
    l->start[at] = (int32_t)n;
}

/* Adds the weights of the non-zero inputs in some blocks at a position. */
INLINE void add_inputs(const inputs *l, int64_t position, int64_t block, int64_t blocks, const float *weight, int64_t lanes,
                       const float *from, float *to) {
    const int32_t *start = l->start + position * l->blocks + block;
    adders[lanes / LANES - 1](l->row + *start, l->times + *start, start[blocks] - *start, weight, lanes, from, to);
}

/* Some rows of an output, and the rows of the input that they read. */
typedef struct {
    int64_t first, last, first_in, last_in;
} band;

static band band_of(const shape *s, int64_t rows, int64_t number) {
    const int64_t first = number * rows, last = at_most(s->out_height, first + rows);
    const int64_t reach = (last - 1) * s->stride - s->padding + s->kernel;
    return (band){first, last, at_least(0, first * s->stride - s->padding), at_most(s->height, reach)};
}

/* The output row or column that an input row or column reaches by a tap; -1 if the stride skips it. Edges are part of the
 * output. */
INLINE int64_t reached(int64_t at, int64_t tap, const shape *s, int64_t edge) {
    const int64_t to = at + s->padding - tap + edge * s->stride;
    return s->stride == 1 ? to : to % s->stride ? -1 : to / s->stride;
}

/* Partial sums [rows, out_width with an edge on both sides, lanes]: taps that leave the image add to the edges. */
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

/* For many non-zero inputs: the outer loops are over weights, which stay in cache. */
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

/* For few non-zero inputs: the outer loops are over positions. */
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

/* A convolution's weights as [blocks of AT_ONCE outputs][tap, input, output] and its bias, both padded with zeros to whole vectors.
 * Valid until this thread packs the next. */
typedef struct {
    const float *weight, *bias;
} packed;

/* Some outputs of the packed weights: `lanes` with padding, of which `width` are real. */
typedef struct {
    const float *weight, *bias;
    int64_t lanes, width;
} block;

INLINE block block_of(const shape *s, packed p, int64_t first) {
    const int64_t lanes = at_most(AT_ONCE, padded(s) - first);
    return (block){p.weight + first * taps(s) * s->in, p.bias + first, lanes, at_most(lanes, s->out - first)};
}

static int pack(const shape *s, const float *weight, const float *bias, packed *p) {
    const int64_t size = padded(s) * taps(s) * s->in;
    if (!reserve(&shared, lines(size) + lines(padded(s)))) {
        return 0;
    }
    float *rows = allocate(&shared, size), *shifts = allocate(&shared, padded(s));
    for (int64_t o = 0; o < padded(s); o++) {
        shifts[o] = bias && o < s->out ? bias[o] : 0;
    }
    for (int64_t first = 0; first < padded(s); first += AT_ONCE) {
        const int64_t lanes = at_most(AT_ONCE, padded(s) - first), width = at_most(lanes, s->out - first);
        for (int64_t i = 0; i < s->in; i++) {
            for (int64_t tap = 0; tap < taps(s); tap++) {
                const float *from = weight + first * s->by_out + i * s->by_in + tap;
                float *to = rows + (first * taps(s) + tap * lanes) * s->in + i * lanes;
                for (int64_t o = 0; o < lanes; o++) {
                    to[o] = o < width ? from[o * s->by_out] : 0;
                }
            }
        }
    }
    *p = (packed){rows, shifts};
    return 1;
}

static void convolve_band(const shape *s, band b, const inputs *l, int by_tap, float *values, block w, float *out) {
    const int64_t edge = s->kernel - 1;
    const sums y = {values, edge, s->out_width + 2 * edge, w.lanes};
    for (int64_t p = 0; p < (b.last - b.first) * y.pitch; p++) {
        memcpy(y.values + p * y.lanes, w.bias, y.lanes * sizeof *w.bias);
    }
    (by_tap ? add_by_tap : add_by_position)(s, b, l, y, w.weight);
    for (int64_t oy = 0; oy < b.last - b.first; oy++) {
        for (int64_t ox = 0; ox < s->out_width; ox++) {
            const float *from = y.values + (oy * y.pitch + ox + y.edge) * y.lanes;
            memcpy(out + (oy * s->out_width + ox) * s->out, from, w.width * sizeof *out);
        }
    }
}

/* A linear layer: each position reads only itself. Sums are stored in the output where whole vectors fit, or where the values
 * written beyond a position are overwritten by the next one's; elsewhere in `values`. */
static void linear_band(const shape *s, band b, const inputs *l, int by_tap, float *values, block w, float *out) {
    const int64_t positions = b.last - b.first, together = by_tap ? 1 : l->blocks;
    const int64_t beyond = parts(w.lanes - w.width, s->out); /* following positions that a whole vector overwrites */
    const int overwritten = w.width == s->out && together == l->blocks;
    const int64_t fits = beyond == 0 ? positions : overwritten ? at_least(0, positions - beyond) : 0;
    for (int64_t block = 0; block < l->blocks; block += together) {
        for (int64_t p = 0; p < positions; p++) {
            float *to = p < fits ? out + p * s->out : values + p * w.lanes;
            add_inputs(l, p, block, together, w.weight, w.lanes, block ? to : w.bias, to);
        }
    }
    for (int64_t p = fits; p < positions; p++) {
        memcpy(out + p * s->out, values + p * w.lanes, w.width * sizeof *out);
    }
}

/* Adds to `vectors` vectors of the sums of `rows` positions, from `at` on, what `inputs` inputs of one tap give, in registers. x:
 * the inputs of each position; to: its sums. */
INLINE void tile(const float *const *x, float *const *to, int64_t at, int64_t first, int64_t inputs, const float *weight,
                 int64_t lanes, int rows, int vectors) {
    vector sum[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        load_vectors(to[r] + at, vectors, sum[r]);
    }
    for (int64_t i = first; i < first + inputs; i++, weight += lanes) {
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) { /* as add_products, where rows of the left operand are anywhere in memory */
            add_product(sum[r], x[r][i], weight, vectors);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        store_vectors(sum[r], vectors, to[r] + at);
    }
}

/* All positions and outputs of a block, for one block of inputs of one tap: its weights stay in first-level cache. */
static void add_tiles(const float *const *x, float *const *to, int64_t positions, int64_t first, int64_t inputs,
                      const float *weight, int64_t lanes) {
    for (int64_t v = 0; v < lanes / LANES;) {
        const int whole = lanes / LANES - v >= TILE_VECTORS;
        const float *rows = weight + v * LANES;
        for (int64_t p = 0; p < positions; p += TILE_ROWS) {
            WITH_TILE(at_most(TILE_ROWS, positions - p), whole, TILE_VECTORS,
                      tile(x + p, to + p, v * LANES, first, inputs, rows, lanes, R, V));
        }
        v += whole ? TILE_VECTORS : 1;
    }
}

/* The same outputs as `convolve_band` and `linear_band`, without skipping zeros. x, to: room for two pointers for each position. */
static void tile_band(const shape *s, band b, const float *image, const float **x, float **to, float *values, block w, float *out) {
    const int64_t positions = (b.last - b.first) * s->out_width;
    for (int64_t p = 0; p < positions; p++) {
        memcpy(values + p * w.lanes, w.bias, w.lanes * sizeof *values);
    }
    for (int64_t tap = 0; tap < taps(s); tap++) {
        int64_t inside = 0; /* positions whose tap is not in the padding */
        for (int64_t p = 0; p < positions; p++) {
            const int64_t iy = (b.first + p / s->out_width) * s->stride + tap / s->kernel - s->padding;
            const int64_t ix = p % s->out_width * s->stride + tap % s->kernel - s->padding;
            if (iy >= 0 && iy < s->height && ix >= 0 && ix < s->width) {
                x[inside] = image + (iy * s->width + ix) * s->in;
                to[inside++] = values + p * w.lanes;
            }
        }
        for (int64_t first = 0; first < s->in; first += INPUTS) {
            const float *weight = w.weight + (tap * s->in + first) * w.lanes;
            add_tiles(x, to, inside, first, at_most(INPUTS, s->in - first), weight, w.lanes);
        }
    }
    for (int64_t p = 0; p < positions; p++) {
        memcpy(out + p * s->out, values + p * w.lanes, w.width * sizeof *out);
    }
}

/* What a thread needs to convolve a band. */
typedef struct {
    inputs list;
    float *values, **to;
    const float **x;
} scratch;

/* seen, rows: input positions and output rows of the largest band. Returns 0 where memory is short. */
static int scratch_of(const shape *s, int64_t seen, int64_t rows, scratch *t) {
    const int64_t blocks = parts(s->in, INPUTS), of_lists = seen * s->in + LANES, pointers = 2 * rows * s->out_width;
    const int64_t of_sums = rows * (s->out_width + 2 * (s->kernel - 1)) * AT_ONCE;
    if (!reserve(&own, lines(seen * blocks + 1) + 2 * lines(of_lists) + lines(of_sums) + 2 * lines(pointers))) {
        return 0;
    }
    t->list = (inputs){blocks, allocate(&own, seen * blocks + 1), allocate(&own, of_lists), allocate(&own, of_lists)};
    t->values = allocate(&own, of_sums), t->x = allocate(&own, pointers), t->to = allocate(&own, pointers);
    return 1;
}

/* The outputs of a band of an image; out: its first output. The loops are chosen by the values of the band, so that the choice does
 * not depend on the batch. */
static void outputs_of_band(const float *image, const shape *s, band b, int pointwise, packed weights, const scratch *t,
                            float *out) {
    const int64_t positions = (b.last_in - b.first_in) * s->width;
    const float *x = image + b.first_in * s->width * s->in;
    const int64_t nonzero = count_nonzero(x, positions * s->in);
    const int dense = nonzero > DENSE_SHARE * positions * s->in, by_tap = nonzero > BY_TAP * positions * t->list.blocks;
    if (!dense) {
        list_inputs(x, positions, s->in, &t->list);
    }
    for (int64_t first = 0; first < padded(s); first += AT_ONCE) {
        const block w = block_of(s, weights, first);
        if (dense) {
            tile_band(s, b, image, t->x, t->to, t->values, w, out + first);
        } else {
            (pointwise ? linear_band : convolve_band)(s, b, &t->list, by_tap, t->values, w, out + first);
        }
    }
}

/* A linear layer on x [rows, in], of which any rows can be computed alone, as the fused operator in lif.c does. */
typedef struct {
    const float *x;
    shape s;
    packed weights;
} linear;

EXPORT_SIZE(linear)

int begin_linear(const float *x, const shape *s, const float *weight, const float *bias, linear *l) {
    *l = (linear){.x = x, .s = *s};
    return pack(s, weight, bias, &l->weights);
}

int linear_rows(const linear *l, int64_t first, int64_t count, float *y) {
    const shape *s = &l->s;
    scratch t;
    if (!scratch_of(s, count, count, &t)) {
        return 0;
    }
    outputs_of_band(l->x + first * s->in, s, (band){0, count, 0, count}, 1, l->weights, &t, y);
    return 1;
}

/* Returns 0 where memory is short. */
int convolve(const float *x, const shape *s, const float *weight, const float *bias, float *out) {
    const int pointwise = s->kernel == 1 && s->stride == 1 && s->padding == 0 && s->width == 1;
    const int64_t rows = at_least(1, at_most(s->out_height, BAND / (s->out_width * at_most(parts(s->out, 16) * 16, 128))));
    const int64_t bands = parts(s->out_height, rows), seen = ((rows - 1) * s->stride + s->kernel) * s->width;
    packed weights;
    int enough = pack(s, weight, bias, &weights);
#pragma omp parallel num_threads(s->threads) if (enough)
    {
        scratch t;
        const int ready = enough && scratch_of(s, seen, rows, &t);
        if (!ready) {
#pragma omp atomic write
            enough = 0;
        }
#pragma omp for
        for (int64_t task = 0; task < s->images * bands; task++) {
            const int64_t image = task / bands;
            const band b = band_of(s, rows, task % bands);
            if (ready) {
                float *to = out + (image * s->out_height + b.first) * s->out_width * s->out;
                outputs_of_band(x + image * s->height * s->width * s->in, s, b, pointwise, weights, &t, to);
            }
        }
    }
    return enough;
}

/* The positions at which each input is non-zero, [inputs, space]; a position counts rows of the copied gradient. */
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
        for (int64_t first = 0; first < s->in; first += 64) {
            for (uint64_t some = nonzero_bits(x + first, at_most(64, s->in - first)); some; some &= some - 1) {
                const int64_t input = first + __builtin_ctzll(some);
                append(l, input, at, x[input]);
            }
        }
    }
}

/* Row `oy` of the gradient of some outputs, zeros outside the image: [pitch, lanes]. */
static void copy_row(const float *grad, const shape *s, int64_t oy, int64_t pitch, int64_t lanes, int64_t width, float *to) {
    const int64_t before = s->kernel - 1 - s->padding, inside = oy >= 0 && oy < s->out_height;
    for (int64_t n = 0; n < pitch; n++, to += lanes) {
        const int64_t ox = n - before, known = inside && ox >= 0 && ox < s->out_width ? width : 0;
        memcpy(to, grad + (oy * s->out_width + ox) * s->out, known * sizeof *to);
        memset(to + known, 0, (lanes - known) * sizeof *to);
    }
}

/* Some rows of an image: x [rows, width, in]. pitch: positions of a row of the gradient. */
typedef struct {
    const float *x;
    int64_t rows, width, in, pitch;
} slab;

/* Adds to the weight gradients of `inputs` inputs, `vectors` vectors of outputs and one tap, in registers. seen: the gradient that
 * the tap reads, [rows, pitch, lanes]. */
INLINE void gradient_tile(slab b, const float *seen, int64_t lanes, float *to, int inputs, int vectors) {
    vector sum[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 6
    for (int i = 0; i < inputs; i++) {
        load_vectors(to + i * lanes, vectors, sum[i]);
    }
    for (int64_t y = 0; y < b.rows; y++) {
        const float *grad = seen + y * b.pitch * lanes, *x = b.x + y * b.width * b.in;
        for (int64_t n = 0; n < b.width; n++, grad += lanes, x += b.in) {
            add_products(sum, x, 1, grad, inputs, vectors);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < inputs; i++) {
        store_vectors(sum[i], vectors, to + i * lanes);
    }
}

/* The same sums as the adders take from a list of positions, without skipping zeros: [in, lanes], one tap. */
static void add_all_positions(slab b, const float *seen, int64_t lanes, float *to) {
    slab from = b;
    if (b.pitch == b.width) { /* one long row: the loop over rows costs time where they are short */
        from.rows = 1, from.width = from.pitch = b.rows * b.width;
    }
    for (int64_t v = 0; v < lanes / LANES;) {
        const int whole = lanes / LANES - v >= TILE_VECTORS;
        for (int64_t i = 0; i < b.in; i += TILE_ROWS) {
            float *sum = to + i * lanes + v * LANES;
            from.x = b.x + i;
            WITH_TILE(at_most(TILE_ROWS, b.in - i), whole, TILE_VECTORS, gradient_tile(from, seen + v * LANES, lanes, sum, R, V));
        }
        v += whole ? TILE_VECTORS : 1;
    }
}

/* Adds to the weight gradient of a block of outputs, [tap, input, lanes], what some rows of an image give. `l` lists the non-zero
 * positions, or is null where all are to be read. */
static void add_gradient(slab b, const float *grad, const shape *s, int64_t first, int64_t lanes, int64_t width, const positions *l,
                         float *copied, float *sum) {
    const int64_t edge = s->kernel - 1, direct = edge == 0 && s->padding == 0 && lanes == s->out;
    adder *add = adders[lanes / LANES - 1];
    for (int64_t y = 0; y < b.rows + edge && !direct; y++) {
        copy_row(grad, s, first + y + s->padding - edge, b.pitch, lanes, width, copied + y * b.pitch * lanes);
    }
    const float *rows = direct ? grad + first * s->width * lanes : copied;
    for (int64_t tap = 0; tap < taps(s); tap++, sum += s->in * lanes) {
        const float *seen = rows + ((edge - tap / s->kernel) * b.pitch + edge - tap % s->kernel) * lanes;
        if (!l) {
            add_all_positions(b, seen, lanes, sum);
        }
        for (int64_t i = 0; l && i < s->in; i++) {
            add(l->row + i * l->space, l->times + i * l->space, l->size[i], seen, lanes, sum + i * lanes, sum + i * lanes);
        }
    }
}

/* How many positions to list at once: enough that a list is worth a loop, few enough that their gradient stays in cache. */
static int64_t positions_at_once(const float *x, const shape *s) {
    const int64_t size = s->images * s->height * s->width * s->in, step = at_least(1, size / SAMPLES) | 1;
    int64_t some = 1, seen = 1;
    for (int64_t i = 0; i < size; i += step, seen++) {
        some += x[i] != 0;
    }
    return at_most(8 * INPUTS, at_least(INPUTS, LISTED * seen / some));
}

/* Back from the order of `pack`, LANES outputs at a time, so that whole lines of cache are written. */
static void unpack(const shape *s, const float *packed, float *weight) {
    for (int64_t first = 0; first < s->out; first += LANES) {
        const int64_t block = first / AT_ONCE * AT_ONCE, lanes = at_most(AT_ONCE, padded(s) - block);
        const int64_t outs = at_most(LANES, s->out - first);
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

/* How the weight gradient is cut: bands of rows, in groups that are summed one by one, for OUTPUTS_OF_A_TASK outputs at a time. */
typedef struct {
    int64_t rows, of_image, bands, groups, outs;
} cut;

static cut cut_of(const float *x, const shape *s) {
    const int64_t rows = at_least(1, at_most(s->height, positions_at_once(x, s) / s->width)), of_image = parts(s->height, rows);
    const int64_t bands = s->images * of_image, outs = parts(s->out, OUTPUTS_OF_A_TASK);
    return (cut){rows, of_image, bands, at_most(bands, parts(TASKS, outs)), outs};
}

/* Adds what a group of bands gives to the weight gradient of the outputs of a task. */
static void add_group(const float *x, const float *grad, const shape *s, cut c, int64_t group, int64_t out, const positions *l,
                      float *copied, float *sum) {
    const int64_t pitch = s->width + s->kernel - 1, last = at_most(padded(s), out + OUTPUTS_OF_A_TASK);
    for (int64_t n = c.bands * group / c.groups; n < c.bands * (group + 1) / c.groups; n++) {
        const int64_t image = n / c.of_image, first = n % c.of_image * c.rows, rows = at_most(s->height - first, c.rows);
        const slab b = {x + (image * s->height + first) * s->width * s->in, rows, s->width, s->in, pitch};
        const int dense = count_nonzero(b.x, rows * s->width * s->in) > DENSE_SHARE * rows * s->width * s->in;
        if (!dense) {
            list_positions(b.x, rows, pitch, s, l);
        }
        for (int64_t block = out; block < last; block += AT_ONCE) {
            const int64_t lanes = at_most(AT_ONCE, padded(s) - block), width = at_most(lanes, s->out - block);
            const float *of = grad + image * s->out_height * s->out_width * s->out + block;
            add_gradient(b, of, s, first, lanes, width, dense ? NULL : l, copied, sum + block * taps(s) * s->in);
        }
    }
}

/* The weight gradient [out, in, kernel, kernel], where the stride is 1. Returns 0 where memory is short. */
int convolve_backward_weight(const float *x, const float *grad, const shape *s, float *out) {
    const cut c = cut_of(x, s);
    const int64_t edge = s->kernel - 1, size = padded(s) * taps(s) * s->in;
    const int64_t of_copy = (c.rows + edge) * (s->width + edge) * AT_ONCE;
    const int64_t space = c.rows * s->width + LANES; /* not a power of two, at which lists would share lines of cache */
    const int64_t groups = c.groups;
    int enough = reserve(&shared, lines(groups * size));
    float *sum = enough ? allocate(&shared, groups * size) : NULL;
#pragma omp parallel num_threads(s->threads) if (enough)
    {
        const int ready = enough && reserve(&own, lines(2 * s->in) + 2 * lines(s->in * space) + lines(of_copy));
        positions l;
        float *copied = NULL;
        if (ready) {
            l = (positions){space, allocate(&own, 2 * s->in), allocate(&own, s->in * space), allocate(&own, s->in * space)};
            copied = allocate(&own, of_copy);
        } else {
#pragma omp atomic write
            enough = 0;
        }
#pragma omp for
        for (int64_t task = 0; task < c.outs * groups; task++) {
            const int64_t first = task % c.outs * OUTPUTS_OF_A_TASK, outs = at_most(OUTPUTS_OF_A_TASK, padded(s) - first);
            float *to = sum + task / c.outs * size;
            if (ready) {
                memset(to + first * taps(s) * s->in, 0, outs * taps(s) * s->in * sizeof *to);
                add_group(x, grad, s, c, task / c.outs, first, &l, copied, to);
            }
        }
    }
    if (!enough) {
        return 0;
    }
    for (int64_t g = 1; g < groups; g++) {
        for (int64_t i = 0; i < size; i++) {
            sum[i] += sum[g * size + i];
        }
    }
    unpack(s, sum, out);
    return 1;
}
