/* The multi-step LIF layer: all time steps in one pass over memory, together with the batch normalisation before it, and with the
 * sum of a residual stream after it.
 *
 *     x = batch normalisation of y, if any (batch_norm.h); y is [steps, ..., channels]
 *     h[t] = v[t-1] + (x[t] - v[t-1]) / tau    or   v[t-1] - v[t-1] / tau + x[t]    with decaying input, or not
 *     s[t] = h[t] >= v_threshold                                                    levels = 1: spikes
 *     v[t] = s[t] ? 0 : h[t]                   or   h[t] - s[t] * v_threshold       hard or soft reset
 *     s[t] = round(clip(h[t] / v_threshold, 0, levels)), soft reset                 levels > 1: integers, ties to even
 *
 * Neurons are computed in blocks, whose potentials stay in registers and first-level cache over all time steps. Backward recomputes
 * the potentials from y, so that only y is saved. Without contraction to fused multiply-adds (-ffp-contract=off) the spikes of
 * finite inputs are those of spikingjelly, bit for bit.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX2__) && !defined(AUTOSPIKE_PLAIN)
#include <immintrin.h>
#define STREAMS /* stores that bypass the cache */
#endif

#include "batch_norm.h"
#include "common.h"

#define FORWARD_BLOCK 512 /* neurons that forward computes at once; backward: BLOCK */
#define CACHE_LINE 16     /* values */
#define TILE 16384        /* currents of a linear layer that are computed before their neurons are */

typedef struct {
    float tau, v_threshold, slope; /* slope: of the surrogate */
    int32_t soft_reset, decay_input, detach_reset, arctan, levels;
} neuron;

/* [steps, size], the last dimension of size being channels. stride: between two steps of the input; 0 where they are the same. */
typedef struct {
    int64_t steps, stride, size, channels;
    int32_t threads;
} shape;

/* Number of spikes by step and position, [steps, positions], added to. Whole numbers, exact in any order. sums: null to not
 * count. */
typedef struct {
    int64_t positions;
    double *sums;
} spike_counts;

EXPORT_SIZE(neuron)
EXPORT_SIZE(shape)
EXPORT_SIZE(batch_norm)

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
/* a / b, correctly rounded, from the rounded inverse of b, by one step of Markstein's algorithm: faster than a division. */
INLINE float divide(float a, float b, float inverse) {
    const float q = a * inverse;
    return fmaf(fmaf(-b, q, a), inverse, q);
}
#else
INLINE float divide(float a, float b, float inverse) { return (void)inverse, a / b; }
#endif

INLINE float charge(float x, float v, float tau, float rate, int decay_input) {
    return decay_input ? v + divide(x - v, tau, rate) : v - divide(v, tau, rate) + x;
}

INLINE float reset(float h, float v_threshold, int soft) { return h >= v_threshold ? (soft ? h - v_threshold : 0.0f) : h; }

/* round(clip(h / v_threshold, 0, levels)); halves are rounded to even. */
INLINE float integer_of(float h, float v_threshold, float levels) {
    const float u = h / v_threshold, low = u < 0.0f ? 0.0f : u;
    return nearbyintf(low > levels ? levels : low);
}

/* exp(a) for |a| <= 87, relative error below 2e-7 (Cephes): plain arithmetic, so that the compiler vectorises it. */
INLINE float exponential(float a) {
    const float n = nearbyintf(a * 1.44269504088896341f);
    const float r = multiply_add(n, 2.12194440e-4f, multiply_add(n, -0.693359375f, a));
    float p = multiply_add(r, 1.9875691500e-4f, 1.3981999507e-3f);
    p = multiply_add(p, r, 8.3334519073e-3f);
    p = multiply_add(p, r, 4.1665795894e-2f);
    p = multiply_add(p, r, 1.6666665459e-1f);
    p = multiply_add(p, r, 5.0000001201e-1f);
    p = multiply_add(p * r, r, r + 1.0f);
    const int32_t bits = ((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

/* ds/dh. Sigmoid g of this slope: slope * g * (1 - g). Arctan: slope / 2 / (1 + (pi / 2 * slope * distance)^2). */
INLINE float surrogate_gradient(float distance, float slope, int arctan) {
    if (arctan) {
        const float a = 1.57079632679489662f * slope * distance;
        return 0.5f * slope / (1.0f + a * a);
    }
    float a = slope * distance;
    a = a > 40.0f ? 40.0f : (a < -40.0f ? -40.0f : a); /* beyond, the gradient is below 1e-17 */
    const float e = exponential(-a), denominator = 1.0f + e;
    return slope * e / (denominator * denominator);
}

INLINE float input_current(const float *y, const float *scale, const float *shift, int i, int norm) {
    return norm ? multiply_add(y[i], scale[i], shift[i]) : y[i];
}

/* The values of one neuron at successive time steps are far apart in memory, so the hardware does not prefetch them. */
INLINE void prefetch(const float *values, int width) {
    for (int i = 0; i < width; i += CACHE_LINE) {
        __builtin_prefetch(values + i);
    }
}

/* Copies a block to memory. past_cache: lines that are written whole and not soon read again need not be read first. */
INLINE void store(const float *block, int width, int past_cache, float *out) {
#ifdef STREAMS
    if (past_cache && width % CACHE_LINE == 0 && (uintptr_t)out % (CACHE_LINE * sizeof *out) == 0) {
        for (int i = 0; i < width; i += CACHE_LINE) {
#ifdef __AVX512F__
            _mm512_stream_ps(out + i, _mm512_loadu_ps(block + i));
#else
            _mm256_stream_ps(out + i, _mm256_loadu_ps(block + i));
            _mm256_stream_ps(out + i + 8, _mm256_loadu_ps(block + i + 8));
#endif
        }
        return;
    }
#endif
    (void)past_cache;
    memcpy(out, block, width * sizeof *out);
}

/* Counts some spikes of one step; the first is of channel `channel` of position `position`. */
static void count_spikes(const float *spikes, int width, int64_t channel, int64_t position, const shape *s, int64_t positions,
                         double *sums) {
    for (int i = 0, run; i < width; i += run, channel = 0, position = position + 1 == positions ? 0 : position + 1) {
        run = (int)at_most(s->channels - channel, width - i);
        int32_t sum = 0;
        for (int j = i; j < i + run; j++) {
            sum += (int32_t)spikes[j];
        }
        if (s->threads == 1) {
            sums[position] += sum;
        } else {
#pragma omp atomic
            sums[position] += sum;
        }
    }
}

INLINE void add_stream(const float *restrict stream, int width, float *restrict spikes) {
    prefetch(stream + width, width);
    for (int i = 0; i < width; i++) {
        spikes[i] += stream[i];
    }
}

/* Neurons start, ..., start + width - 1; y: the input of the first one. */
INLINE void forward_block(const float *y, const shape *s, const neuron *p, const float *restrict scale, const float *restrict shift,
                          const float *stream, float *spikes, int64_t start, int width, spike_counts c, float *potential,
                          int norm, int soft, int decay_input, int integers) {
    float v[FORWARD_BLOCK] = {0}, block[FORWARD_BLOCK];
    if (potential) {
        memcpy(v, potential + start, width * sizeof *v);
    }
    const float tau = p->tau, rate = 1.0f / tau, v_threshold = p->v_threshold, levels = (float)p->levels;
    const int past_cache = s->steps * s->size > LARGE;
    for (int64_t t = 0; t < s->steps; t++) {
        const float *restrict in = y + t * s->stride;
        float *out = spikes + t * s->size + start, *restrict fired = past_cache ? block : out;
        prefetch(in + width, width);
        for (int i = 0; i < width && integers; i++) {
            const float h = charge(input_current(in, scale, shift, i, norm), v[i], tau, rate, decay_input);
            const float s = integer_of(h, v_threshold, levels);
            fired[i] = s;
            v[i] = h - s * v_threshold;
        }
        for (int i = 0; i < width && !integers; i++) {
            const float h = charge(input_current(in, scale, shift, i, norm), v[i], tau, rate, decay_input);
            fired[i] = h >= v_threshold ? 1.0f : 0.0f;
            v[i] = reset(h, v_threshold, soft);
        }
        if (c.sums) {
            const int64_t channel = start % s->channels, position = start / s->channels % c.positions;
            count_spikes(fired, width, channel, position, s, c.positions, c.sums + t * c.positions);
        }
        if (stream) {
            add_stream(stream + t * s->size + start, width, fired);
        }
        if (past_cache) {
            store(fired, width, 1, out);
        }
    }
    if (potential) {
        memcpy(potential + start, v, width * sizeof *v);
    }
}

/* A row of neurons from `first` on. The published dynamics, and integers without a decaying input, are compiled separately. */
static void forward_row(const float *y, const shape *s, const neuron *p, affine_row r, const float *stream, float *spikes,
                        int64_t first, spike_counts c, float *potential) {
    for (int64_t i = 0; i < r.period && first + i < s->size; i += FORWARD_BLOCK, y += FORWARD_BLOCK) {
        const int64_t start = first + i;
        const int width = (int)at_most(FORWARD_BLOCK, at_most(r.period - i, s->size - start));
        if (p->levels > 1 && r.scale && !p->decay_input) {
            forward_block(y, s, p, r.scale + i, r.shift + i, stream, spikes, start, width, c, potential, 1, 1, 0, 1);
        } else if (p->levels > 1 && r.scale) {
            forward_block(y, s, p, r.scale + i, r.shift + i, stream, spikes, start, width, c, potential, 1, 1, 1, 1);
        } else if (p->levels > 1) {
            forward_block(y, s, p, NULL, NULL, stream, spikes, start, width, c, potential, 0, 1, p->decay_input, 1);
        } else if (r.scale && !p->soft_reset && p->decay_input) {
            forward_block(y, s, p, r.scale + i, r.shift + i, stream, spikes, start, width, c, potential, 1, 0, 1, 0);
        } else if (r.scale) {
            forward_block(y, s, p, r.scale + i, r.shift + i, stream, spikes, start, width, c, potential, 1, p->soft_reset,
                          p->decay_input, 0);
        } else if (!p->soft_reset && p->decay_input) {
            forward_block(y, s, p, NULL, NULL, stream, spikes, start, width, c, potential, 0, 0, 1, 0);
        } else {
            forward_block(y, s, p, NULL, NULL, stream, spikes, start, width, c, potential, 0, p->soft_reset, p->decay_input, 0);
        }
    }
}

/* Spikes, or stream plus spikes, [steps, size]. norm, stream: null for none. potential: v[0], [size], which v[steps] replaces; null
 * for 0. */
int lif(const float *y, const shape *s, const neuron *p, const batch_norm *norm, const float *stream, float *spikes,
        int64_t positions, double *sums, float *potential) {
    affine_row r;
    if (make_row(norm, s->channels, FORWARD_BLOCK, &r) != OK) {
        return OUT_OF_MEMORY;
    }
    const spike_counts c = {positions, sums};
#pragma omp parallel for num_threads(s->threads) if (s->steps * s->size >= SMALL)
    for (int64_t start = 0; start < s->size; start += r.period) {
        forward_row(y + start, s, p, r, stream, spikes, start, c, potential);
    }
    free(r.scale);
    return OK;
}

/* Computes output rows first, ..., first + count - 1 of a linear layer, [count, channels]: `linear_rows` of sparse_conv.c. */
typedef int linear_rows(const void *linear, int64_t first, int64_t count, float *y);

/* As `lif`, where y is the output of a linear layer. It is computed in tiles of a few rows of every step, which the neurons read
 * from cache. */
int linear_lif(linear_rows *rows, const void *linear, const shape *s, const neuron *p, const batch_norm *norm, const float *stream,
               float *spikes, int64_t positions, double *sums, float *potential) {
    affine_row r;
    if (make_row(norm, s->channels, FORWARD_BLOCK, &r) != OK) {
        return OUT_OF_MEMORY;
    }
    const spike_counts c = {positions, sums};
    const int64_t tile = at_least(1, TILE / (s->steps * r.period)) * r.period;
    const shape tile_shape = {s->steps, tile, s->size, s->channels, s->threads};
    int status = OK;
#pragma omp parallel num_threads(s->threads) reduction(& : status) if (s->steps * s->size >= SMALL)
    {
        float *y = malloc(s->steps * tile * sizeof *y);
        status = y ? OK : OUT_OF_MEMORY;
#pragma omp for
        for (int64_t first = 0; first < s->size; first += tile) {
            const int64_t last = at_most(s->size, first + tile);
            for (int64_t t = 0; t < s->steps && status == OK; t++) {
                status &= rows(linear, (t * s->size + first) / s->channels, (last - first) / s->channels, y + t * tile);
            }
            for (int64_t start = first; start < last && status == OK; start += r.period) {
                forward_row(y + start - first, &tile_shape, p, r, stream, spikes, start, c, potential);
            }
        }
        free(y);
    }
    free(r.scale);
    return status;
}

/* Writes the gradient of a block, and adds it to the sums that a normalisation needs. */
INLINE void store_gradient(const float *restrict grad, const float *restrict y, const float *restrict mean, int width, int norm,
                           int past_cache, float *grad_y, gradient_sums total) {
    float *restrict sum = total.grad, *restrict centred = total.centred;
    for (int i = 0; norm && i < width; i++) {
        sum[i] += grad[i];
        centred[i] += grad[i] * (y[i] - mean[i]);
    }
    store(grad, width, past_cache, grad_y);
}

/* Dynamics that backward is compiled for. */
typedef enum {
    PUBLISHED_SPIKES,   /* hard reset, decaying input, sigmoid, no gradient through the reset: the published networks */
    PUBLISHED_INTEGERS, /* levels > 1, the input does not decay, no gradient through the reset: E-SpikeFormer */
    OTHER
} dynamics;

/* potential: scratch, [steps, BLOCK]. */
INLINE void backward_block(const float *y, const shape *s, const neuron *p, const float *restrict scale,
                           const float *restrict shift, const float *restrict mean, const float *grad_spikes, float *potential,
                           float *grad_y, gradient_sums total, int width, int norm, dynamics of) {
    float v[BLOCK] = {0}, grad_v[BLOCK] = {0}, over_time[BLOCK] = {0}, grad_x[BLOCK];
    const float tau = p->tau, rate = 1.0f / tau, v_threshold = p->v_threshold, slope = p->slope;
    const int soft = of == OTHER && p->soft_reset, arctan = of == OTHER && p->arctan;
    const int decay_input = of == PUBLISHED_SPIKES || (of == OTHER && p->decay_input);
    const int detach_reset = of != OTHER || p->detach_reset;
    const int integers = of == PUBLISHED_INTEGERS || (of == OTHER && p->levels > 1);
    const float levels = (float)p->levels;
    const int same_input = s->stride == 0 && s->steps > 1, past_cache = s->steps * s->size > LARGE;
    for (int64_t t = 0; t < s->steps; t++) {
        const float *restrict in = y + t * s->stride;
        float *restrict charged = potential + t * BLOCK;
        prefetch(in + width, width);
        prefetch(grad_spikes + t * s->size + width, width);
        for (int i = 0; i < width; i++) {
            const float h = charge(input_current(in, scale, shift, i, norm), v[i], tau, rate, decay_input);
            charged[i] = h;
            v[i] = integers ? h - integer_of(h, v_threshold, levels) * v_threshold : reset(h, v_threshold, soft);
        }
    }
    for (int64_t t = s->steps - 1; t >= 0; t--) {
        const float *restrict charged = potential + t * BLOCK, *restrict grad = grad_spikes + t * s->size;
        for (int i = 0; i < width; i++) {
            const float h = charged[i], u = h / v_threshold, inside = u >= 0.0f && u <= levels ? 1.0f / v_threshold : 0.0f;
            const float ds = integers ? inside : surrogate_gradient(h - v_threshold, slope, arctan);
            float dv = integers || soft || h < v_threshold ? 1.0f : 0.0f; /* dv/dh */
            if (!detach_reset) {
                dv -= ds * (integers || soft ? v_threshold : h);
            }
            const float grad_h = grad[i] * ds + grad_v[i] * dv, leaked = grad_h * rate;
            grad_v[i] = grad_h - leaked;
            grad_x[i] = decay_input ? leaked : grad_h;
        }
        if (same_input) {
            for (int i = 0; i < width; i++) {
                over_time[i] += grad_x[i];
            }
        } else {
            store_gradient(grad_x, y + t * s->stride, mean, width, norm, past_cache, grad_y + t * s->size, total);
        }
    }
    if (same_input) {
        store_gradient(over_time, y, mean, width, norm, past_cache, grad_y, total);
    }
}

static dynamics dynamics_of(const neuron *p) {
    if (p->levels > 1) {
        return p->detach_reset && !p->decay_input ? PUBLISHED_INTEGERS : OTHER;
    }
    return p->detach_reset && p->decay_input && !p->soft_reset && !p->arctan ? PUBLISHED_SPIKES : OTHER;
}

static int backward_rows(const float *y, const shape *s, const neuron *p, affine_row r, const float *grad_spikes, float *grad_y,
                         int64_t first, int64_t last, double *by_channel) {
    const dynamics of = dynamics_of(p);
    float *potential = malloc(s->steps * BLOCK * sizeof *potential), *row_sums = calloc(2 * r.period, sizeof *row_sums);
    const int status = potential && row_sums ? OK : OUT_OF_MEMORY;
    for (int64_t n = first; n < last && status == OK; n++) {
        const int64_t start = n * r.period;
        for (int64_t i = 0; i < r.period && start + i < s->size; i += BLOCK) {
            const int width = (int)at_most(BLOCK, at_most(r.period - i, s->size - start - i));
            const gradient_sums total = {row_sums + i, row_sums + r.period + i};
            const float *in = y + start + i, *grad = grad_spikes + start + i;
            float *out = grad_y + start + i;
            if (r.scale && of == PUBLISHED_SPIKES) {
                backward_block(in, s, p, r.scale + i, r.shift + i, r.mean + i, grad, potential, out, total, width, 1,
                               PUBLISHED_SPIKES);
            } else if (r.scale && of == PUBLISHED_INTEGERS) {
                backward_block(in, s, p, r.scale + i, r.shift + i, r.mean + i, grad, potential, out, total, width, 1,
                               PUBLISHED_INTEGERS);
            } else if (r.scale) {
                backward_block(in, s, p, r.scale + i, r.shift + i, r.mean + i, grad, potential, out, total, width, 1, OTHER);
            } else if (of == PUBLISHED_SPIKES) {
                backward_block(in, s, p, NULL, NULL, NULL, grad, potential, out, total, width, 0, PUBLISHED_SPIKES);
            } else if (of == PUBLISHED_INTEGERS) {
                backward_block(in, s, p, NULL, NULL, NULL, grad, potential, out, total, width, 0, PUBLISHED_INTEGERS);
            } else {
                backward_block(in, s, p, NULL, NULL, NULL, grad, potential, out, total, width, 0, OTHER);
            }
        }
        if (r.scale && ((n - first) % FLUSH == FLUSH - 1 || n == last - 1)) {
            flush_sums((gradient_sums){row_sums, row_sums + r.period}, r.period, s->channels, by_channel);
        }
    }
    free(potential);
    free(row_sums);
    return status;
}

/* The gradient with respect to y, [steps, size], or [size] where every step has the same input, and with respect to weight and bias
 * of the normalisation, if any. by_batch: whether its statistics are those of y. */
int lif_backward(const float *y, const shape *s, const neuron *p, const batch_norm *norm, int32_t by_batch,
                 const float *grad_spikes, float *grad_y, float *grad_weight, float *grad_bias) {
    const int64_t channels = s->channels;
    double *chunks = norm ? calloc((CHUNKS + 1) * 2 * channels, sizeof *chunks) : NULL;
    affine_row r;
    if ((norm && !chunks) || make_row(norm, channels, BLOCK, &r) != OK) {
        free(chunks);
        return OUT_OF_MEMORY;
    }
    const int64_t rows = (s->size + r.period - 1) / r.period, steps = s->stride ? s->steps : 1;
    int status = OK;
#pragma omp parallel for num_threads(s->threads) reduction(& : status) if (s->steps * s->size >= SMALL)
    for (int64_t c = 0; c < CHUNKS; c++) {
        double *by_channel = norm ? chunks + c * 2 * channels : NULL;
        status &= backward_rows(y, s, p, r, grad_spikes, grad_y, rows * c / CHUNKS, rows * (c + 1) / CHUNKS, by_channel);
    }
    if (norm && status == OK) {
        double *sums = chunks + CHUNKS * 2 * channels;
        add_chunks(chunks, channels, sums);
        parameter_gradients(sums, norm, channels, grad_weight, grad_bias);
        status = input_gradient(y, steps * s->size, channels, s->threads, norm, by_batch, sums, grad_y);
    }
    free(r.scale);
    free(chunks);
    return status;
}
