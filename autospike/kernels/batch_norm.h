/* Batch normalisation by channel, as lif.c and batch_norm.c apply it:
 *
 *     x = weight[c] * (y - mean[c]) * inverse[c] + bias[c] = scale[c] * y + shift[c],    inverse = 1 / sqrt(variance + eps)
 *
 * The one multiply-add is fused where the processor can, as torch's is. Sums over the batch are computed in a fixed number of
 * chunks, so that no result depends on the number of threads.
 */
#ifndef AUTOSPIKE_BATCH_NORM_H
#define AUTOSPIKE_BATCH_NORM_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"

#define BLOCK 256 /* values of a row that a loop computes at once */
#define CHUNKS 64 /* parts of a sum over the batch */
#define FLUSH 64  /* rows that are summed in single precision before they are added to a sum in double precision */

/* Parameters and statistics, [channels] each. */
typedef struct {
    const float *weight, *bias, *mean, *inverse;
} batch_norm;

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
INLINE float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
#else
INLINE float multiply_add(float a, float b, float c) { return a * b + c; }
#endif

/* Scale, shift and mean of the channels, repeated until a row is long enough for a vectorised loop. Pointers are null without a
 * normalisation. */
typedef struct {
    int64_t period;
    float *scale, *shift, *mean;
} affine_row;

/* Allocates r->scale, which the caller frees. */
static int make_row(const batch_norm *norm, int64_t channels, int64_t block, affine_row *r) {
    if (!norm) {
        *r = (affine_row){block, NULL, NULL, NULL};
        return OK;
    }
    r->period = channels >= block ? channels : block / channels * channels;
    r->scale = malloc(3 * r->period * sizeof *r->scale);
    if (!r->scale) {
        return OUT_OF_MEMORY;
    }
    r->shift = r->scale + r->period, r->mean = r->shift + r->period;
    for (int64_t i = 0, c = 0; i < r->period; i++, c = c + 1 == channels ? 0 : c + 1) {
        r->scale[i] = norm->weight[c] * norm->inverse[c];
        r->shift[i] = multiply_add(-norm->mean[c], r->scale[i], norm->bias[c]);
        r->mean[i] = norm->mean[c];
    }
    return OK;
}

/* Sums over the batch for each value of a row: of the gradient, and of the gradient times the distance from the mean. */
typedef struct {
    float *grad, *centred;
} gradient_sums;

/* Adds the sums of a row to those by channel, [2, channels], and clears them. */
static void flush_sums(gradient_sums total, int64_t period, int64_t channels, double *by_channel) {
    for (int64_t start = 0; start < period; start += channels) {
        for (int64_t c = 0; c < channels; c++) {
            by_channel[c] += total.grad[start + c];
            by_channel[channels + c] += total.centred[start + c];
        }
    }
    memset(total.grad, 0, 2 * period * sizeof *total.grad);
}

static void add_chunks(const double *chunks, int64_t channels, double *sums) {
    memset(sums, 0, 2 * channels * sizeof *sums);
    for (int64_t i = 0; i < CHUNKS; i++) {
        for (int64_t c = 0; c < 2 * channels; c++) {
            sums[c] += chunks[i * 2 * channels + c];
        }
    }
}

/* Gradients of bias and weight from the sums over the batch. */
static void parameter_gradients(const double *sums, const batch_norm *norm, int64_t channels, float *grad_weight,
                                float *grad_bias) {
    for (int64_t c = 0; c < channels; c++) {
        grad_bias[c] = (float)sums[c];
        grad_weight[c] = (float)(sums[channels + c] * norm->inverse[c]);
    }
}

/* Turns the gradient with respect to x into the one with respect to y, in place; [size], the last dimension being channels. If
 * by_batch, the statistics are those of y and pass gradient, too:
 *
 *     grad_y = scale * (grad - mean(grad) - (y - mean) * inverse^2 * mean(grad * (y - mean)))
 */
static int input_gradient(const float *y, int64_t size, int64_t channels, int32_t threads, const batch_norm *norm, int by_batch,
                          const double *sums, float *grad) {
    affine_row r;
    if (make_row(norm, channels, BLOCK, &r) != OK) {
        return OUT_OF_MEMORY;
    }
    const double count = (double)(size / channels);
    for (int64_t i = 0, c = 0; i < r.period; i++, c = c + 1 == channels ? 0 : c + 1) { /* grad = scale * grad + slope * y + shift */
        const double constant = -r.scale[i] * sums[c] / count;
        const double slope = -r.scale[i] * norm->inverse[c] * norm->inverse[c] * sums[channels + c] / count;
        r.shift[i] = by_batch ? (float)(constant - slope * norm->mean[c]) : 0.0f;
        r.mean[i] = by_batch ? (float)slope : 0.0f;
    }
#pragma omp parallel for num_threads(threads) if (size >= SMALL)
    for (int64_t start = 0; start < size; start += r.period) {
        const int64_t width = at_most(r.period, size - start);
        const float *restrict in = y + start, *restrict scale = r.scale, *restrict shift = r.shift, *restrict slope = r.mean;
        float *restrict out = grad + start;
        for (int64_t i = 0; i < width; i++) {
            out[i] = multiply_add(out[i], scale[i], multiply_add(in[i], slope[i], shift[i]));
        }
    }
    free(r.scale);
    return OK;
}

#endif
