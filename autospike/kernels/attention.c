/* The product of spiking attention, out = q (k^T v) scale, and its gradients, head by head.
 *
 * q, k, v, out: [images, tokens, channels] float32, contiguous; a head is channels / heads of the channels. Products of spikes are
 * whole numbers, exact in any order, so the result equals that of any other order of multiplication. Products are computed in
 * register tiles that read rows in place. Where k and v are spikes and the processor has AVX2 or AVX-512, k^T v is counted: the
 * tokens at which a channel fires are bits of words, and an entry of k^T v is the popcount of the AND of two channels' words.
 */
#include "common.h"
#include "tile.h"
#include "vector.h"

#include <stdlib.h>
#include <string.h>
#if defined(__AVX2__) && !defined(AUTOSPIKE_PLAIN)
#define COUNTS_BITS
#endif

#define HEAD_VECTORS 2 /* of a register tile: as wide as a head of 32 channels is in AVX-512 */

typedef struct {
    int64_t images, tokens, channels, heads;
    int32_t threads;
    float scale;
} shape;

EXPORT_SIZE(shape)

/* Sizes of a head; width: its channels in whole vectors. */
typedef struct {
    int64_t tokens, dim, width;
} head;

static head head_of(const shape *s) {
    const int64_t dim = s->channels / s->heads;
    return (head){s->tokens, dim, (dim + LANES - 1) / LANES * LANES};
}

/* A matrix in memory: the element of a row and a column is at row * down + column * along. */
typedef struct {
    const float *values;
    int64_t down, along;
} matrix;

/* Some rows and vectors of out = left right scale, summed over `depth` in order. right: [depth, width], rows of whole vectors.
 * out: `pitch` values a row; columns: how many of them are left to write. */
INLINE void tile(matrix left, const float *right, int64_t width, int64_t depth, float scale, float *out, int64_t pitch,
                 int64_t columns, int rows, int vectors) {
    vector sum[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        clear(sum[r], vectors);
    }
    for (int64_t d = 0; d < depth; d++, left.values += left.along, right += width) {
        add_products(sum, left.values, left.down, right, rows, vectors);
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        store_scaled(sum[r], vectors, scale, columns, out + r * pitch);
    }
}

/* out [rows, columns], of `pitch` values a row, = left [rows, depth] right [depth, width] scale. */
static void multiply(matrix left, const float *right, int64_t width, int64_t depth, float scale, float *out, int64_t pitch,
                     int64_t rows, int64_t columns) {
    for (int64_t r = 0; r < rows; r += TILE_ROWS) {
        const matrix below = {left.values + r * left.down, left.down, left.along};
        for (int64_t c = 0; c < columns;) {
            const int whole = columns - c > (HEAD_VECTORS - 1) * LANES;
            float *to = out + r * pitch + c;
            WITH_TILE(at_most(TILE_ROWS, rows - r), whole, HEAD_VECTORS,
                      tile(below, right + c, width, depth, scale, to, pitch, columns - c, R, V));
            c += whole ? HEAD_VECTORS * LANES : LANES;
        }
    }
}

/* Copies a head's channels to rows of whole vectors; what pads them stays zero. */
static void copy_head(const float *x, const shape *s, const head *h, float *padded) {
    for (int64_t n = 0; n < h->tokens; n++) {
        memcpy(padded + n * h->width, x + n * s->channels, h->dim * sizeof *x);
    }
}

static void transpose(const float *a, const head *h, float *b) {
    for (int64_t i = 0; i < h->dim; i++) {
        for (int64_t j = 0; j < h->dim; j++) {
            b[j * h->width + i] = a[i * h->width + j];
        }
    }
}

/* left^T right of a head: [dim, width]. left in place, right copied. */
static void correlate(const float *left, const float *right, const shape *s, const head *h, float *out) {
    multiply((matrix){left, 1, s->channels}, right, h->width, h->tokens, 1.0f, out, h->width, h->dim, h->dim);
}

/* x square scale of a head, in place to in place. */
static void project(const float *x, const float *square, const shape *s, const head *h, float scale, float *out) {
    multiply((matrix){x, s->channels, 1}, square, h->width, h->dim, scale, out, s->channels, h->tokens, h->dim);
}

/* One token of `project`: adds the rows of `square` whose factor is not zero. */
INLINE void project_token(const float *x, const float *square, const head *h, float scale, int64_t size, float *out, int vectors) {
    vector sum[VECTORS];
    clear(sum, vectors);
    for (int64_t first = 0; first < h->dim; first += 64) {
        for (uint64_t bits = nonzero_bits(x + first, at_most(64, h->dim - first)); bits; bits &= bits - 1) {
            const int64_t d = first + __builtin_ctzll(bits);
            add_product(sum, x[d], square + d * h->width, vectors);
        }
    }
    store_scaled(sum, vectors, scale, size, out);
}

/* The same as `project`, for an x that is mostly zero, as spikes are. */
static void project_sparse(const float *x, const float *square, const shape *s, const head *h, float scale, float *out) {
    for (int64_t c = 0; c < h->width; c += VECTORS * LANES) {
        const float *part = square + c;
        const int64_t vectors = at_most(VECTORS, (h->width - c) / LANES), size = h->dim - c;
        WITH_VECTORS(vectors, for (int64_t n = 0; n < h->tokens; n++) {
            project_token(x + n * s->channels, part, h, scale, size, out + n * s->channels + c, V);
        })
    }
}

#ifdef COUNTS_BITS
#define WORD 32  /* tokens of a word */
#define GROUPS 8 /* of LANES channels, whose words registers hold */
#define BYTES 31 /* words whose popcounts by byte fit into a byte */
/* Channels of a head. At firing rates of 0.05 and 0.15, heads of 8 and 12 channels gain, those of 16 and 24 do not. */
#define DENSE_BELOW 16

typedef uint32_t words __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* With room for whole vectors that start at the last channel. */
INLINE int64_t padded_channels(const shape *s) { return (s->channels + LANES - 1) / LANES * LANES + LANES; }

/* The first `size` values as a vector of their bit patterns, padded with zeros. */
INLINE words load(const float *x, int64_t size) {
#if defined(__AVX512F__)
    return (words)_mm512_maskz_loadu_epi32(size >= LANES ? 0xffff : (__mmask16)((1 << size) - 1), x);
#else
    if (size >= LANES) {
        return *(const words *)x;
    }
    words value = {0};
    memcpy(&value, x, size * sizeof *x);
    return value;
#endif
}

/* Appends the values of one token to words of bits; `odd` collects bits of values that are neither 0 nor 1. */
INLINE words append_bits(words word, words value, words *odd) {
    const uint32_t one = 0x3f800000, top = 0x80000000; /* 1.0f; the newest token's bit, where 1.0f << 2 has one */
#if defined(__AVX512F__)
    const __m512i x = (__m512i)value;
    *odd |= (words)_mm512_min_epu32(x, _mm512_xor_si512(x, _mm512_set1_epi32((int)one)));
    const __m512i older = _mm512_srli_epi32((__m512i)word, 1), newest = _mm512_slli_epi32(x, 2);
    return (words)_mm512_ternarylogic_epi32(older, newest, _mm512_set1_epi32((int)top), 0xf8); /* older | (newest & top) */
#else
    *odd |= (words)_mm256_andnot_si256(_mm256_cmpeq_epi32((__m256i)value, _mm256_set1_epi32((int)one)), (__m256i)value);
    return word >> 1 | (value << 2 & top);
#endif
}

/* Bits of the tokens of a word, for `groups` groups of channels, of which the last has `last` channels. */
INLINE void gather_bits(const float *x, int64_t pitch, int64_t tokens, int groups, int64_t last, uint32_t *bits, words *odd) {
    words word[GROUPS];
#pragma GCC unroll 8
    for (int g = 0; g < groups; g++) {
        word[g] = (words){0};
    }
    for (int64_t n = 0; n < tokens; n++, x += pitch) {
#pragma GCC unroll 8
        for (int g = 0; g < groups; g++) {
            word[g] = append_bits(word[g], load(x + g * LANES, g == groups - 1 ? last : LANES), odd);
        }
    }
#pragma GCC unroll 8
    for (int g = 0; g < groups; g++) {
        *(words *)(bits + g * LANES) = word[g];
    }
}

/* The tokens at which each channel of x [tokens, channels] is 1, as bits of words [words, width]. Returns whether all other values
 * are 0. Rows are read in the order of memory, which prefetchers follow. */
static int bits_of(const float *x, const shape *s, int64_t width, uint32_t *bits) {
    words odd = {0};
    for (int64_t first = 0; first < s->tokens; first += WORD, bits += width) {
        const int64_t tokens = at_most(WORD, s->tokens - first);
        for (int64_t c = 0; c < s->channels; c += GROUPS * LANES) {
            const int64_t left = at_most(GROUPS * LANES, s->channels - c), groups = (left + LANES - 1) / LANES;
            const float *from = x + first * s->channels + c;
            WITH_VECTORS(groups, gather_bits(from, s->channels, tokens, V, left - (V - 1) * LANES, bits + c, &odd));
        }
    }
    uint32_t any = 0;
    for (int i = 0; i < LANES; i++) {
        any |= odd[i];
    }
    return any == 0;
}

#if defined(__AVX512F__)
typedef __m512i integers;
#define SIMD(name) _mm512_##name
#define REPEAT_128 _mm512_broadcast_i32x4
#else
typedef __m256i integers;
#define SIMD(name) _mm256_##name
#define REPEAT_128 _mm256_broadcastsi128_si256
#endif

#if defined(__AVX512VPOPCNTDQ__)
/* Of `count` words: the popcount of the AND of one channel of k with LANES channels of v. */
INLINE vector matches(const uint32_t *k, const uint32_t *v, int64_t count, int64_t width) {
    integers sum = {0};
    for (int64_t w = 0; w < count; w++, k += width, v += width) {
        sum = SIMD(add_epi32)(sum, SIMD(popcnt_epi32)(SIMD(set1_epi32)((int)*k) & (integers) * (const words *)v));
    }
    return (vector)SIMD(cvtepi32_ps)(sum);
}
#else
/* The same without a popcount instruction: a shuffle of bytes looks up the number of bits of each half of a byte. */
INLINE vector matches(const uint32_t *k, const uint32_t *v, int64_t count, int64_t width) {
    const integers low = SIMD(set1_epi8)(15);
    const integers table = REPEAT_128(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    integers sum = {0};
    for (int64_t first = 0; first < count; first += BYTES) {
        integers bytes = {0};
        for (int64_t w = first; w < at_most(count, first + BYTES); w++, k += width, v += width) {
            const integers both = SIMD(set1_epi32)((int)*k) & (integers) * (const words *)v;
            bytes = SIMD(add_epi8)(bytes, SIMD(shuffle_epi8)(table, both & low));
            bytes = SIMD(add_epi8)(bytes, SIMD(shuffle_epi8)(table, SIMD(srli_epi16)(both, 4) & low));
        }
        const integers pairs = SIMD(maddubs_epi16)(bytes, SIMD(set1_epi8)(1));
        sum = SIMD(add_epi32)(sum, SIMD(madd_epi16)(pairs, SIMD(set1_epi16)(1)));
    }
    return (vector)SIMD(cvtepi32_ps)(sum);
}
#endif

/* k^T v of a head that starts at a channel: [dim, width], padded with matches of the channels after the head. */
static void count_matches(const uint32_t *k, const uint32_t *v, int64_t count, int64_t width, const head *h, float *kv) {
    for (int64_t c = 0; c < h->dim; c++) {
        for (int64_t j = 0; j < h->dim; j += LANES) {
            *(vector *)(kv + c * h->width + j) = matches(k + c, v + j, count, width);
        }
    }
}

/* One channel of `correlate_spikes`: adds the rows of `right` at the tokens whose bit is set. */
INLINE void correlate_channel(const uint32_t *bits, int64_t width, const float *right, const head *h, float *out, int vectors) {
    vector sum[VECTORS];
    clear(sum, vectors);
    for (int64_t first = 0; first < h->tokens; first += WORD, bits += width) {
        for (uint32_t word = *bits >> (WORD - at_most(WORD, h->tokens - first)); word; word &= word - 1) {
            const float *row = right + (first + __builtin_ctz(word)) * h->width;
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) {
                sum[v] += *(const vector *)(row + v * LANES);
            }
        }
    }
    store_scaled(sum, vectors, 1.0f, h->width, out);
}

/* The same as `correlate`, for a left operand that is spikes, given as bits [words, width]. */
static void correlate_spikes(const uint32_t *bits, int64_t width, const float *right, const head *h, float *out) {
    for (int64_t c = 0; c < h->width; c += VECTORS * LANES) {
        const int64_t vectors = at_most(VECTORS, (h->width - c) / LANES);
        WITH_VECTORS(vectors, for (int64_t d = 0; d < h->dim; d++) {
            correlate_channel(bits + d, width, right + c, h, out + d * h->width + c, V);
        })
    }
}

/* The same for spikes. In a head of few channels, adding all products takes less time than finding those that are not zero. */
static void project_spikes(const float *x, const float *square, const shape *s, const head *h, float scale, float *out) {
    (h->dim < DENSE_BELOW ? project : project_sparse)(x, square, s, h, scale, out);
}

/* The output of an image, if its k and v are spikes. Returns whether they are. */
static int count_image(const float *q, const float *k, const float *v, const shape *s, const head *h, uint32_t *bits, float *kv,
                       float *out) {
    const int64_t count = (s->tokens + WORD - 1) / WORD, width = padded_channels(s);
    uint32_t *of_k = bits, *of_v = bits + count * width;
    if (!bits_of(k, s, width, of_k) || !bits_of(v, s, width, of_v)) {
        return 0;
    }
    for (int64_t at = 0; at < s->channels; at += h->dim) {
        count_matches(of_k + at, of_v + at, count, width, h, kv);
        project_spikes(q + at, kv, s, h, s->scale, out + at);
    }
    return 1;
}
#endif

/* The output of an image, for any k and v. */
static void multiply_image(const float *q, const float *k, const float *v, const shape *s, const head *h, float *copied, float *kv,
                           float *out) {
    for (int64_t at = 0; at < s->channels; at += h->dim) {
        copy_head(v + at, s, h, copied);
        correlate(k + at, copied, s, h, kv);
        project_sparse(q + at, kv, s, h, s->scale, out + at);
    }
}

int attention(const float *q, const float *k, const float *v, const shape *s, float *out) {
    const head h = head_of(s);
    const int64_t image = s->tokens * s->channels, square = h.dim * h.width;
    int enough = 1;
#pragma omp parallel num_threads(s->threads) if (s->images * image >= SMALL)
    {
        float *copied = calloc(h.tokens * h.width, sizeof *copied), *kv = malloc(square * sizeof *kv);
        int ready = copied && kv;
#ifdef COUNTS_BITS
        uint32_t *bits = calloc(2 * ((s->tokens + WORD - 1) / WORD) * padded_channels(s), sizeof *bits);
        ready = ready && bits;
#endif
        if (!ready) {
#pragma omp atomic write
            enough = 0;
        }
#pragma omp for
        for (int64_t i = 0; i < s->images; i++) {
            const int64_t at = i * image;
            if (!ready) {
                continue;
            }
#ifdef COUNTS_BITS
            if (count_image(q + at, k + at, v + at, s, &h, bits, kv, out + at)) {
                continue;
            }
#endif
            multiply_image(q + at, k + at, v + at, s, &h, copied, kv, out + at);
        }
#ifdef COUNTS_BITS
        free(bits);
#endif
        free(kv);
        free(copied);
    }
    return enough;
}

/* What attention_backward reads, and writes, of an image. */
typedef struct {
    const float *q, *k, *v, *grad_out;
    float *grad_q, *grad_k, *grad_v;
} gradients;

/* Scratch of a thread: a copied head, two squares, and the bits of q, k and v. */
typedef struct {
    float *copied, *product, *transposed;
    uint32_t *bits;
} scratch;

#ifdef COUNTS_BITS
/* The gradients of an image, if its q, k and v are spikes. Returns whether they are. */
static int backward_spikes(gradients g, const shape *s, const head *h, scratch t) {
    const int64_t count = (s->tokens + WORD - 1) / WORD, width = padded_channels(s);
    uint32_t *of_q = t.bits, *of_k = of_q + count * width, *of_v = of_k + count * width;
    if (!bits_of(g.q, s, width, of_q) || !bits_of(g.k, s, width, of_k) || !bits_of(g.v, s, width, of_v)) {
        return 0;
    }
    for (int64_t at = 0; at < s->channels; at += h->dim) {
        count_matches(of_v + at, of_k + at, count, width, h, t.transposed); /* v^T k, the transpose of k^T v */
        project(g.grad_out + at, t.transposed, s, h, s->scale, g.grad_q + at);
        copy_head(g.grad_out + at, s, h, t.copied);
        correlate_spikes(of_q + at, width, t.copied, h, t.product);
        project_spikes(g.k + at, t.product, s, h, s->scale, g.grad_v + at);
        transpose(t.product, h, t.transposed);
        project_spikes(g.v + at, t.transposed, s, h, s->scale, g.grad_k + at);
    }
    return 1;
}
#endif

/* The gradients of an image, for any q, k and v. */
static void backward_image(gradients g, const shape *s, const head *h, scratch t) {
    for (int64_t at = 0; at < s->channels; at += h->dim) {
        copy_head(g.v + at, s, h, t.copied);
        correlate(g.k + at, t.copied, s, h, t.product);
        transpose(t.product, h, t.transposed);
        project(g.grad_out + at, t.transposed, s, h, s->scale, g.grad_q + at);
        copy_head(g.grad_out + at, s, h, t.copied);
        correlate(g.q + at, t.copied, s, h, t.product);
        project_sparse(g.k + at, t.product, s, h, s->scale, g.grad_v + at);
        transpose(t.product, h, t.transposed);
        project_sparse(g.v + at, t.transposed, s, h, s->scale, g.grad_k + at);
    }
}

/* With g = grad_out scale: grad_q = g (k^T v)^T, grad_k = v (q^T g)^T, grad_v = k (q^T g). */
int attention_backward(const float *q, const float *k, const float *v, const float *grad_out, const shape *s, float *grad_q,
                       float *grad_k, float *grad_v) {
    const head h = head_of(s);
    const int64_t image = s->tokens * s->channels, square = h.dim * h.width;
    int enough = 1;
#pragma omp parallel num_threads(s->threads) if (s->images * image >= SMALL)
    {
        scratch t = {.copied = calloc(h.tokens * h.width, sizeof(float)),
                     .product = malloc(square * sizeof(float)),
                     .transposed = calloc(square, sizeof(float))};
        int ready = t.copied && t.product && t.transposed;
#ifdef COUNTS_BITS
        t.bits = calloc(3 * ((s->tokens + WORD - 1) / WORD) * padded_channels(s), sizeof *t.bits);
        ready = ready && t.bits;
#endif
        if (!ready) {
#pragma omp atomic write
            enough = 0;
        }
#pragma omp for
        for (int64_t i = 0; i < s->images; i++) {
            const int64_t at = i * image;
            const gradients g = {q + at, k + at, v + at, grad_out + at, grad_q + at, grad_k + at, grad_v + at};
            if (!ready) {
                continue;
            }
#ifdef COUNTS_BITS
            if (backward_spikes(g, s, &h, t)) {
                continue;
            }
#endif
            backward_image(g, s, &h, t);
        }
#ifdef COUNTS_BITS
        free(t.bits);
#endif
        free(t.transposed);
        free(t.product);
        free(t.copied);
    }
    return enough;
}
