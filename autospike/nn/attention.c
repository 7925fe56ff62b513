/* The product of spiking attention, out = q (k^T v) scale, and its gradients, head by head.
 *
 * q, k, v, out: [images, tokens, channels] float32, contiguous; a head is channels / heads of the channels. Products of spikes are
 * whole numbers, exact in any order, so the result is that of any other way to multiply. A head is copied into a buffer padded with
 * zeros, and multiplied in tiles of ROWS x LANES numbers that stay in registers.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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

void attention(const float *q, const float *k, const float *v, const shape *s, float *out) {
    const head h = head_of(s);
    const int64_t size = h.rows * h.width;
#pragma omp parallel num_threads(s->threads) if (s->images * s->tokens * s->channels >= SMALL)
    {
        float *buffer = calloc(4 * size + h.width * h.width, sizeof *buffer);
        float *own[] = {buffer, buffer + size, buffer + 2 * size, buffer + 3 * size}, *kv = buffer + 4 * size;
#pragma omp for
        for (int64_t i = 0; i < s->images * s->heads; i++) {
            const int64_t at = i / s->heads * s->tokens * s->channels + i % s->heads * h.dim;
            take(q + at, s, &h, own[0]), take(k + at, s, &h, own[1]), take(v + at, s, &h, own[2]);
            correlate(own[1], own[2], &h, kv);
            of_rows(own[0], kv, &h, s->scale, own[3]);
            give(own[3], s, &h, out + at);
        }
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
