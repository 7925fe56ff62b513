/* The product of spiking attention, out = q (k^T v) scale, and its gradients, head by head.
 *
 * q, k, v, out: [images, tokens, channels] float32, contiguous; a head is channels / heads of the channels. Products of spikes are
 * whole numbers, exact in any order, so the result is that of any other way to multiply. A head is copied into a buffer padded with
 * zeros, and multiplied in tiles of ROWS x LANES numbers that stay in registers. Where the processor counts bits, k^T v of spikes
 * of narrow heads is counted: the tokens at which a channel fires are bits of a word, and two channels meet where both have one.
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
#define WORD 64 /* tokens of a word */

/* Where x [tokens, channels] is 1: bits by word of tokens and channel, [words, width]. Whether everything else is 0. */
static int bits_of(const float *x, const shape *s, int64_t width, uint64_t *bits) {
    __mmask16 odd = 0;
    for (int64_t first = 0, word = 0; first < s->tokens; first += WORD, word++) {
        const int64_t last = first + WORD < s->tokens ? first + WORD : s->tokens;
        for (int64_t c = 0; c < s->channels; c += LANES) {
            const __mmask16 there = s->channels - c < LANES ? (1 << (s->channels - c)) - 1 : 0xffff;
            __m512i low = _mm512_setzero_si512(), high = low, bit = _mm512_set1_epi64(1);
            for (int64_t n = first; n < last; n++, bit = _mm512_slli_epi64(bit, 1)) {
                const __m512 values = _mm512_maskz_loadu_ps(there, x + n * s->channels + c);
                const __mmask16 ones = _mm512_cmp_ps_mask(values, _mm512_set1_ps(1), _CMP_EQ_OQ);
                odd |= ones ^ _mm512_cmp_ps_mask(values, _mm512_setzero_ps(), _CMP_NEQ_UQ);
                low = _mm512_mask_or_epi64(low, (__mmask8)ones, low, bit);
                high = _mm512_mask_or_epi64(high, (__mmask8)(ones >> 8), high, bit);
            }
            _mm512_storeu_si512(bits + word * width + c, low);
            _mm512_storeu_si512(bits + word * width + c + 8, high);
        }
    }
    return !odd;
}

/* k^T v of every head, [channels of k, those of v in the same head], padded. */
static void meetings(const uint64_t *k, const uint64_t *v, const shape *s, int64_t words, int64_t width, const head *h, float *out) {
    for (int64_t c = 0; c < s->channels; c++) {
        const int64_t start = c / h->dim * h->dim;
        for (int64_t j = 0; j < h->dim; j += 8) {
            __m512i sum = _mm512_setzero_si512();
            for (int64_t w = 0; w < words; w++) {
                const __m512i both = _mm512_and_si512(_mm512_set1_epi64(k[w * width + c]), _mm512_loadu_si512(v + w * width + start + j));
                sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(both));
            }
            _mm256_storeu_ps(out + c * h->width + j, _mm512_cvtepi64_ps(sum));
        }
    }
}

/* 16 rows of 16 numbers, `along` apart, as columns; of those, the first `rows` and `columns` are written. */
static void turn(const float *from, int64_t along, float *to, int64_t pitch, int64_t rows, int64_t columns) {
    __m512 a[LANES], b[LANES];
    for (int i = 0; i < LANES; i++) {
        a[i] = _mm512_loadu_ps(from + i * along);
    }
    for (int i = 0; i < LANES; i += 2) {
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]), b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4) {
        for (int j = 0; j < 2; j++) {
            const __m512d even = _mm512_castps_pd(b[i + j]), odd = _mm512_castps_pd(b[i + j + 2]);
            a[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(even, odd));
            a[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(even, odd));
        }
    }
    for (int i = 0; i < 4; i++) { /* a[4 g + i]: columns i, i + 4, i + 8, i + 12 of rows 4 g and on */
        const __m512 low = _mm512_shuffle_f32x4(a[i], a[i + 4], 0x88), low_odd = _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd);
        const __m512 high = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0x88), high_odd = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0xdd);
        b[i] = _mm512_shuffle_f32x4(low, high, 0x88), b[i + 8] = _mm512_shuffle_f32x4(low, high, 0xdd);
        b[i + 4] = _mm512_shuffle_f32x4(low_odd, high_odd, 0x88), b[i + 12] = _mm512_shuffle_f32x4(low_odd, high_odd, 0xdd);
    }
    const __mmask16 there = rows < LANES ? (1 << rows) - 1 : 0xffff;
    for (int64_t i = 0; i < columns; i++) {
        _mm512_mask_storeu_ps(to + i * pitch, there, b[i]);
    }
}

/* Of a word of tokens: q times the meetings. A channel is summed at all tokens at once, in registers, and then turned. */
static void pass(const uint64_t *q, const float *kv, const shape *s, const head *h, int64_t tokens, float *by_channel, float *out) {
    const __m512 scale = _mm512_set1_ps(s->scale);
    for (int64_t c = 0; c < s->channels; c++) {
        const int64_t start = c / h->dim * h->dim;
        __m512 sum[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
        for (int64_t i = start; i < start + h->dim; i++) {
            const __m512 met = _mm512_set1_ps(kv[i * h->width + c - start]);
            for (int part = 0; part < 4; part++) {
                sum[part] = _mm512_mask_add_ps(sum[part], (__mmask16)(q[i] >> (LANES * part)), sum[part], met);
            }
        }
        for (int part = 0; part < 4; part++) {
            _mm512_storeu_ps(by_channel + c * WORD + LANES * part, _mm512_mul_ps(sum[part], scale));
        }
    }
    for (int64_t c = 0; c < s->channels; c += LANES) {
        for (int64_t n = 0; n < tokens; n += LANES) {
            const int64_t rows = s->channels - c < LANES ? s->channels - c : LANES, columns = tokens - n < LANES ? tokens - n : LANES;
            turn(by_channel + c * WORD + n, WORD, out + n * s->channels + c, s->channels, rows, columns);
        }
    }
}

/* Of spikes, an image at once. Whether that is what they were. */
static int counted(const float *q, const float *k, const float *v, const shape *s, const head *h, uint64_t *bits, float *room, float *out) {
    const int64_t words = (s->tokens + WORD - 1) / WORD, width = (s->channels + LANES - 1) / LANES * LANES + 8;
    uint64_t *of_q = bits, *of_k = bits + words * width, *of_v = bits + 2 * words * width;
    if (!bits_of(q, s, width, of_q) || !bits_of(k, s, width, of_k) || !bits_of(v, s, width, of_v)) {
        return 0;
    }
    meetings(of_k, of_v, s, words, width, h, room);
    float *by_channel = room + width * h->width;
    for (int64_t w = 0; w < words; w++) {
        const int64_t first = w * WORD, tokens = s->tokens - first < WORD ? s->tokens - first : WORD;
        pass(of_q + w * width, room, s, h, tokens, by_channel, out + first * s->channels);
    }
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
        const int64_t width = (s->channels + LANES - 1) / LANES * LANES + 8;
        uint64_t *bits = calloc(3 * (s->tokens + WORD - 1) / WORD * width + 3 * width, sizeof *bits);
        float *room = calloc(width * (h.width + 8 + WORD), sizeof *room);
#endif
#pragma omp for
        for (int64_t i = 0; i < s->images; i++) {
            const int64_t at = i * image;
#ifdef COUNTS_BITS
            if (h.dim < LANES && counted(q + at, k + at, v + at, s, &h, bits, room, out + at)) {
                continue;
            }
#endif
            multiplied(q + at, k + at, v + at, s, &h, buffer, out + at);
        }
#ifdef COUNTS_BITS
        free(bits), free(room);
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
