/* The product of spiking attention, out = q (k^T v) scale, and its gradients, head by head.
 *
 * q, k, v, out: [images, tokens, channels] float32, contiguous; a head is channels / heads of the channels. Products of spikes are
 * whole numbers, exact in any order, so the result is that of any other way to multiply. A head is copied into a buffer padded with
 * zeros, and multiplied in tiles of ROWS x LANES numbers that stay in registers. Where the processor counts bits, k^T v of spikes
 * is counted: the tokens at which a channel fires are bits of a word, and two channels meet where both have one.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX512VPOPCNTDQ__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
#include <immintrin.h>
#define COUNTS_BITS
#endif

#define ROWS 8
#define LANES 16
#define SMALL 16384 /* values below which threads cost more than they save */

#define INLINE static inline __attribute__((always_inline))

typedef float lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(4)));

typedef struct {
    int64_t images, tokens, channels, heads;
    int32_t threads;
    float scale;
} shape;

/* Sizes of a head: as they are, and padded to whole tiles. */
typedef struct {
    int64_t tokens, dim, rows, width;
} head;

static head head_of(const shape *s) {
    const int64_t dim = s->channels / s->heads;
    return (head){s->tokens, dim, (s->tokens + ROWS - 1) / ROWS * ROWS, (dim + LANES - 1) / LANES * LANES};
}

/* c [rows, width] = a b times scale, b [depth, width]. a[r, d] is at r * along + d * down. */
static void multiply(const float *a, int64_t along, int64_t down, const float *b, int64_t depth, float *c, int64_t rows, int64_t width,
                     float scale) {
    for (int64_t r = 0; r < rows; r += ROWS) {
        for (int64_t w = 0; w < width; w += LANES) {
            lanes sum[ROWS] = {{0}};
            for (int64_t d = 0; d < depth; d++) {
                const lanes of_b = *(const lanes *)(b + d * width + w);
                const float *of_a = a + r * along + d * down;
                for (int i = 0; i < ROWS; i++) {
                    sum[i] += of_a[i * along] * of_b;
                }
            }
            for (int i = 0; i < ROWS; i++) {
                *(lanes *)(c + (r + i) * width + w) = sum[i] * scale;
            }
        }
    }
}

static void take(const float *x, const shape *s, const head *h, float *padded) {
    for (int64_t n = 0; n < h->tokens; n++) {
        memcpy(padded + n * h->width, x + n * s->channels, h->dim * sizeof *x);
    }
}

static void give(const float *padded, const shape *s, const head *h, float *x) {
    for (int64_t n = 0; n < h->tokens; n++) {
        memcpy(x + n * s->channels, padded + n * h->width, h->dim * sizeof *x);
    }
}

static void transpose(const float *a, int64_t size, float *b) {
    for (int64_t i = 0; i < size; i++) {
        for (int64_t j = 0; j < size; j++) {
            b[j * size + i] = a[i * size + j];
        }
    }
}

/* left^T right: [width, width]; a width is a whole number of ROWS, too. */
static void correlate(const float *left, const float *right, const head *h, float *out) {
    multiply(left, 1, h->width, right, h->rows, out, h->width, h->width, 1.0f);
}

static void of_rows(const float *x, const float *matrix, const head *h, float scale, float *out) {
    multiply(x, h->width, 1, matrix, h->width, out, h->rows, h->width, scale);
}

#ifdef COUNTS_BITS
#define WORD 32  /* tokens of a word */
#define GROUPS 8 /* of LANES channels, whose words registers hold */

/* A head that begins at the last channel may be read to a whole number of lanes. */
INLINE int64_t padded_channels(const shape *s) { return (s->channels + LANES - 1) / LANES * LANES + LANES; }

/* Of a word's tokens, so many groups of channels at once, of which the last has only those that are `there`. What is neither 0 nor 1
 * leaves something in the answer. */
INLINE __m512i gather(const float *x, int64_t pitch, int64_t tokens, int groups, __mmask16 there, uint32_t *bits) {
    const __m512i one = _mm512_castps_si512(_mm512_set1_ps(1)), top = _mm512_set1_epi32(INT32_MIN);
    __m512i word[GROUPS], odd = _mm512_setzero_si512();
    for (int g = 0; g < groups; g++) {
        word[g] = _mm512_setzero_si512();
    }
    for (int64_t n = 0; n < tokens; n++, x += pitch) {
        for (int g = 0; g < groups; g++) {
            const __m512i value = _mm512_maskz_loadu_epi32(g == groups - 1 ? there : 0xffff, x + g * LANES);
            odd = _mm512_or_si512(odd, _mm512_min_epu32(value, _mm512_xor_si512(value, one)));
            /* a word makes room and takes the bit that 1 has there: a | b & c */
            word[g] = _mm512_ternarylogic_epi32(_mm512_srli_epi32(word[g], 1), _mm512_slli_epi32(value, 2), top, 0xf8);
        }
    }
    for (int g = 0; g < groups; g++) {
        _mm512_storeu_si512(bits + g * LANES, word[g]);
    }
    return odd;
}

/* Where x [tokens, channels] is 1: bits by word of tokens and channel, [words, width]. Whether everything else is 0. Rows are read as
 * they lie in memory, which the processor foresees. */
static int bits_of(const float *x, const shape *s, int64_t width, uint32_t *bits) {
    __m512i odd = _mm512_setzero_si512();
    for (int64_t first = 0; first < s->tokens; first += WORD, bits += width) {
        const int64_t tokens = s->tokens - first < WORD ? s->tokens - first : WORD;
        for (int64_t c = 0; c < s->channels; c += GROUPS * LANES) {
            const int64_t left = s->channels - c < GROUPS * LANES ? s->channels - c : GROUPS * LANES;
            const __mmask16 there = left % LANES ? (1 << left % LANES) - 1 : 0xffff;
            const float *from = x + first * s->channels + c;
            switch ((left + LANES - 1) / LANES) {
#define GATHER(groups)                                                                                                             \
    case groups:                                                                                                                   \
        odd = _mm512_or_si512(odd, gather(from, s->channels, tokens, groups, there, bits + c));                                    \
        break;
                GATHER(1) GATHER(2) GATHER(3) GATHER(4) GATHER(5) GATHER(6) GATHER(7) GATHER(8)
            }
        }
    }
    return _mm512_test_epi32_mask(odd, odd) == 0;
}

/* k^T v of every head: [channels of k, those of v in the same head], padded by whatever follows there. */
static void meetings(const uint32_t *k, const uint32_t *v, const shape *s, int64_t words, int64_t width, const head *h, float *kv) {
    for (int64_t c = 0; c < s->channels; c++) {
        const int64_t start = c / h->dim * h->dim;
        for (int64_t j = 0; j < h->dim; j += LANES) {
            __m512i sum = _mm512_setzero_si512();
            for (int64_t w = 0; w < words; w++) {
                const __m512i both = _mm512_and_si512(_mm512_set1_epi32((int)k[w * width + c]), _mm512_loadu_si512(v + w * width + start + j));
                sum = _mm512_add_epi32(sum, _mm512_popcnt_epi32(both));
            }
            _mm512_storeu_ps(kv + c * h->width + j, _mm512_cvtepi32_ps(sum));
        }
    }
}

/* Some tokens' q of a head times so many columns of kv as are `there`. */
INLINE void of_tokens(const float *q, const shape *s, const head *h, const float *kv, int tokens, __mmask16 there, float *out) {
    __m512 sum[ROWS];
    for (int n = 0; n < tokens; n++) {
        sum[n] = _mm512_setzero_ps();
    }
    for (int64_t d = 0; d < h->dim; d++) {
        const __m512 row = _mm512_loadu_ps(kv + d * h->width);
        for (int n = 0; n < tokens; n++) {
            sum[n] = _mm512_fmadd_ps(_mm512_set1_ps(q[n * s->channels + d]), row, sum[n]);
        }
    }
    for (int n = 0; n < tokens; n++) {
        _mm512_mask_storeu_ps(out + n * s->channels, there, _mm512_mul_ps(sum[n], _mm512_set1_ps(s->scale)));
    }
}

/* q times the meetings, where it lies. */
static void pass(const float *q, const float *kv, const shape *s, const head *h, float *out) {
    for (int64_t c = 0; c < s->channels; c += h->dim) {
        for (int64_t j = 0; j < h->dim; j += LANES) {
            const __mmask16 there = h->dim - j < LANES ? (1 << (h->dim - j)) - 1 : 0xffff;
            int64_t n = 0;
            for (; n + ROWS <= s->tokens; n += ROWS) {
                of_tokens(q + n * s->channels + c, s, h, kv + c * h->width + j, ROWS, there, out + n * s->channels + c + j);
            }
            for (; n < s->tokens; n++) {
                of_tokens(q + n * s->channels + c, s, h, kv + c * h->width + j, 1, there, out + n * s->channels + c + j);
            }
        }
    }
}

/* An image at once, if k and v are spikes. Whether they are. */
static int counted(const float *q, const float *k, const float *v, const shape *s, const head *h, uint32_t *bits, float *kv, float *out) {
    const int64_t words = (s->tokens + WORD - 1) / WORD, width = padded_channels(s);
    uint32_t *of_k = bits, *of_v = bits + words * width;
    if (!bits_of(k, s, width, of_k) || !bits_of(v, s, width, of_v)) {
        return 0;
    }
    meetings(of_k, of_v, s, words, width, h, kv);
    pass(q, kv, s, h, out);
    return 1;
}
#endif

static void multiplied(const float *q, const float *k, const float *v, const shape *s, const head *h, float *buffer, float *out) {
    const int64_t size = h->rows * h->width;
    float *own[] = {buffer, buffer + size, buffer + 2 * size, buffer + 3 * size}, *kv = buffer + 4 * size;
    for (int64_t at = 0; at < s->channels; at += h->dim) {
        take(q + at, s, h, own[0]), take(k + at, s, h, own[1]), take(v + at, s, h, own[2]);
        correlate(own[1], own[2], h, kv);
        of_rows(own[0], kv, h, s->scale, own[3]);
        give(own[3], s, h, out + at);
    }
}

void attention(const float *q, const float *k, const float *v, const shape *s, float *out) {
    const head h = head_of(s);
    const int64_t image = s->tokens * s->channels, size = 4 * h.rows * h.width + h.width * h.width;
#pragma omp parallel num_threads(s->threads) if (s->images * image >= SMALL)
    {
        float *buffer = calloc(size, sizeof *buffer);
#ifdef COUNTS_BITS
        uint32_t *bits = calloc(2 * ((s->tokens + WORD - 1) / WORD) * padded_channels(s), sizeof *bits);
        float *kv = malloc(s->channels * h.width * sizeof *kv);
#endif
#pragma omp for
        for (int64_t i = 0; i < s->images; i++) {
            const int64_t at = i * image;
#ifdef COUNTS_BITS
            if (counted(q + at, k + at, v + at, s, &h, bits, kv, out + at)) {
                continue;
            }
#endif
            multiplied(q + at, k + at, v + at, s, &h, buffer, out + at);
        }
#ifdef COUNTS_BITS
        free(bits), free(kv);
#endif
        free(buffer);
    }
}

/* With g = grad_out scale: grad_q = g (k^T v)^T, grad_k = v (q^T g)^T, grad_v = k (q^T g). */
void attention_backward(const float *q, const float *k, const float *v, const float *grad_out, const shape *s, float *grad_q,
                        float *grad_k, float *grad_v) {
    const head h = head_of(s);
    const int64_t size = h.rows * h.width, square = h.width * h.width;
#pragma omp parallel num_threads(s->threads) if (s->images * s->tokens * s->channels >= SMALL)
    {
        float *buffer = calloc(5 * size + 3 * square, sizeof *buffer);
        float *own[] = {buffer, buffer + size, buffer + 2 * size, buffer + 3 * size}, *out = buffer + 4 * size;
        float *kv = buffer + 5 * size, *qg = kv + square, *turned = qg + square;
#pragma omp for
        for (int64_t i = 0; i < s->images * s->heads; i++) {
            const int64_t at = i / s->heads * s->tokens * s->channels + i % s->heads * h.dim;
            take(q + at, s, &h, own[0]), take(k + at, s, &h, own[1]), take(v + at, s, &h, own[2]), take(grad_out + at, s, &h, own[3]);
            correlate(own[1], own[2], &h, kv);
            transpose(kv, h.width, turned);
            of_rows(own[3], turned, &h, s->scale, out);
            give(out, s, &h, grad_q + at);
            correlate(own[0], own[3], &h, qg);
            of_rows(own[1], qg, &h, s->scale, out);
            give(out, s, &h, grad_v + at);
            transpose(qg, h.width, turned);
            of_rows(own[2], turned, &h, s->scale, out);
            give(out, s, &h, grad_k + at);
        }
        free(buffer);
    }
}
