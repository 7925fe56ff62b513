/* The multi-step LIF neuron, fused over time and with the batch normalisation before it: one pass over memory forward, one backward,
 * and one more each way where the batch gives the statistics.
 *
 *     x = weight[c] * (y - mean[c]) / sqrt(variance[c] + eps) + bias[c]      normalisation, if any: y is [steps, ..., channels]
 *     h = v + (x - v) / tau        or   v - v / tau + x            with input that decays, or not
 *     s = h >= v_threshold;   v = s ? 0 : h   or   h - s * v_threshold      hard or soft reset
 *
 * Neurons are taken in blocks that stay in registers and first-level cache while time runs. Backward recomputes the potential from
 * the input, so that nothing but the input is kept. Without contraction to fused multiply-adds (-ffp-contract=off) the spikes of
 * finite inputs are those of spikingjelly, bit for bit; the normalisation's one multiply-add is fused, as torch's is.
 *
 * Sums over the batch are taken in a fixed number of chunks, so that no result depends on the number of threads.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define FIRED 512    /* neurons at once, forward */
#define BLOCK 256    /* and backward */
#define CHUNKS 64    /* of a sum over the batch */
#define FLUSH 64     /* so many rows are summed in single precision, the rest in double */
#define SMALL 16384  /* values below which threads cost more than they save */
#define LARGE 3000000 /* values above which nobody finds what was written in cache */
#define LINE 16      /* values of a cache line */
#define MAPPED 16384 /* currents at once, of which a map leaves none in memory */

#define INLINE static inline __attribute__((always_inline))

typedef struct {
    float tau, v_threshold, slope;
    int32_t soft_reset, decays_input, detaches_reset, arctan;
} neuron;

/* By channel; inverse: of the deviation. */
typedef struct {
    const float *weight, *bias, *mean, *inverse;
} normalisation;

/* [steps, size], the last dimension of size being channels. stride: between two steps of the input; 0 where all see the same. */
typedef struct {
    int64_t steps, stride, size, channels;
    int32_t threads;
} shape;

INLINE int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
INLINE float fused(float a, float b, float c) { return fmaf(a, b, c); }

/* a / b, correctly rounded, by the rounded inverse of b: one step of Markstein's, in a fraction of the time of a division. */
INLINE float divided(float a, float b, float inverse) {
    const float q = a * inverse;
    return fmaf(fmaf(-b, q, a), inverse, q);
}
#else
INLINE float fused(float a, float b, float c) { return a * b + c; }
INLINE float divided(float a, float b, float inverse) { return (void)inverse, a / b; }
#endif

/* A row of neurons: their channels, repeated until they are worth a loop. All null without a normalisation. */
typedef struct {
    int64_t period;
    float *scale, *shift, *mean;
} row;

static row row_of(const normalisation *norm, int64_t channels, int64_t block) {
    if (!norm) {
        return (row){block, NULL, NULL, NULL};
    }
    row r = {.period = channels >= block ? channels : block / channels * channels};
    r.scale = malloc(3 * r.period * sizeof *r.scale), r.shift = r.scale + r.period, r.mean = r.shift + r.period;
    for (int64_t i = 0, c = 0; i < r.period; i++, c = c + 1 == channels ? 0 : c + 1) {
        r.scale[i] = norm->weight[c] * norm->inverse[c];
        r.shift[i] = fused(-norm->mean[c], r.scale[i], norm->bias[c]);
        r.mean[i] = norm->mean[c];
    }
    return r;
}

INLINE float charged(float x, float v, float tau, float rate, int decays_input) {
    return decays_input ? v + divided(x - v, tau, rate) : v - divided(v, tau, rate) + x;
}

INLINE float reset(float h, float v_threshold, int soft) { return h >= v_threshold ? (soft ? h - v_threshold : 0.0f) : h; }

/* exp(a) for |a| <= 87, relative error below 2e-7 (Cephes): plain arithmetic, so that the compiler vectorises it. */
INLINE float exponential(float a) {
    const float n = nearbyintf(a * 1.44269504088896341f);
    const float r = fused(n, 2.12194440e-4f, fused(n, -0.693359375f, a));
    float p = fused(r, 1.9875691500e-4f, 1.3981999507e-3f);
    p = fused(p, r, 8.3334519073e-3f);
    p = fused(p, r, 4.1665795894e-2f);
    p = fused(p, r, 1.6666665459e-1f);
    p = fused(p, r, 5.0000001201e-1f);
    p = fused(p * r, r, r + 1.0f);
    const int32_t bits = ((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

/* ds/dh: of a sigmoid g of this slope, slope * g (1 - g); of arctan, slope / 2 / (1 + (pi / 2 * slope * over)^2). */
INLINE float surrogate(float over, float slope, int arctan) {
    if (arctan) {
        const float a = 1.57079632679489662f * slope * over;
        return 0.5f * slope / (1.0f + a * a);
    }
    float a = slope * over;
    a = a > 40.0f ? 40.0f : (a < -40.0f ? -40.0f : a); /* beyond, it is below 1e-17 */
    const float e = exponential(-a), whole = 1.0f + e;
    return slope * e / (whole * whole);
}

/* The input current of some neurons at a step. */
INLINE float current(const float *in, const float *scale, const float *shift, int i, int norm) {
    return norm ? fused(in[i], scale[i], shift[i]) : in[i];
}

/* Steps lie far apart in memory, in as many streams as there are; the processor does not see by itself what comes next. */
INLINE void prefetch(const float *values, int width) {
    for (int i = 0; i < width; i += LINE) {
        __builtin_prefetch(values + i);
    }
}

/* Copies a block out of cache; past it, if nobody will find it there, for a line that is written whole need not be read first. */
INLINE void put(const float *block, int width, int past_cache, float *out) {
#ifdef __AVX512F__
    if (past_cache && width % LINE == 0 && (uintptr_t)out % (LINE * sizeof *out) == 0) {
        for (int i = 0; i < width; i += LINE) {
            _mm512_stream_ps(out + i, _mm512_loadu_ps(block + i));
        }
        return;
    }
#endif
    (void)past_cache;
    memcpy(out, block, width * sizeof *out);
}

/* Spikes by step and position, [steps, positions], added to; whole numbers, exact in any order. */
typedef struct {
    int64_t positions;
    double *sums;
} counts;

/* Adds some spikes of one step, of which the first is at a place in a row of channels and of a position. */
static void count(const float *spikes, int width, int64_t place, int64_t position, const shape *s, int64_t positions, double *sums) {
    for (int i = 0, along; i < width; i += along, place = 0, position = position + 1 == positions ? 0 : position + 1) {
        along = (int)at_most(s->channels - place, width - i);
        int32_t sum = 0;
        for (int j = i; j < i + along; j++) {
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

INLINE void add(const float *restrict from, int width, float *restrict to) {
    prefetch(from + width, width);
    for (int i = 0; i < width; i++) {
        to[i] += from[i];
    }
}

/* `y`: what enters the first of the neurons; `at`: which that is. */
INLINE void fire_block(const float *y, const shape *s, const neuron *p, const float *restrict scale, const float *restrict shift,
                       const float *onto, float *spikes, int64_t at, int width, counts c, int norm, int soft, int decays) {
    float v[FIRED] = {0}, block[FIRED];
    const float tau = p->tau, rate = 1.0f / tau, v_threshold = p->v_threshold;
    const int past_cache = s->steps * s->size > LARGE;
    for (int64_t t = 0; t < s->steps; t++) {
        const float *restrict in = y + t * s->stride;
        float *out = spikes + t * s->size + at, *restrict fired = past_cache ? block : out;
        prefetch(in + width, width);
        for (int i = 0; i < width; i++) {
            const float h = charged(current(in, scale, shift, i, norm), v[i], tau, rate, decays);
            fired[i] = h >= v_threshold ? 1.0f : 0.0f;
            v[i] = reset(h, v_threshold, soft);
        }
        if (c.sums) {
            count(fired, width, at % s->channels, at / s->channels % c.positions, s, c.positions, c.sums + t * c.positions);
        }
        if (onto) {
            add(onto + t * s->size + at, width, fired);
        }
        if (past_cache) {
            put(fired, width, 1, out);
        }
    }
}

/* A row of neurons, of which the first is `start`. */
static void fire_row(const float *y, const shape *s, const neuron *p, row r, const float *onto, float *spikes, int64_t start, counts c) {
    for (int64_t along = 0; along < r.period && start + along < s->size; along += FIRED, y += FIRED) {
        const int64_t at = start + along;
        const int width = (int)at_most(FIRED, at_most(r.period - along, s->size - at));
        if (r.scale && !p->soft_reset && p->decays_input) {
            fire_block(y, s, p, r.scale + along, r.shift + along, onto, spikes, at, width, c, 1, 0, 1);
        } else if (r.scale) {
            fire_block(y, s, p, r.scale + along, r.shift + along, onto, spikes, at, width, c, 1, p->soft_reset, p->decays_input);
        } else if (!p->soft_reset && p->decays_input) {
            fire_block(y, s, p, NULL, NULL, onto, spikes, at, width, c, 0, 0, 1);
        } else {
            fire_block(y, s, p, NULL, NULL, onto, spikes, at, width, c, 0, p->soft_reset, p->decays_input);
        }
    }
}

/* Spikes [steps, size]. sums: how many there are by step and position, see counts, or null.
 * onto: what they are added to, [steps, size], or null. */
void fire(const float *y, const shape *s, const neuron *p, const normalisation *norm, const float *onto, float *spikes, int64_t positions,
          double *sums) {
    const row r = row_of(norm, s->channels, FIRED);
    const counts c = {positions, sums};
#pragma omp parallel for num_threads(s->threads) if (s->steps * s->size >= SMALL)
    for (int64_t start = 0; start < s->size; start += r.period) {
        fire_row(y + start, s, p, r, onto, spikes, start, c);
    }
    free(r.scale);
}

/* Writes rows first, first + 1, ... of what a map gives, [count, channels]. */
typedef void map_rows(const void *map, int64_t first, int64_t count, float *y);

/* The same of what a map gives, [steps, size], a few rows of every step at a time: neurons take them from cache. */
void fire_mapped(map_rows *rows, const void *map, const shape *s, const neuron *p, const normalisation *norm, const float *onto,
                 float *spikes, int64_t positions, double *sums) {
    const row r = row_of(norm, s->channels, FIRED);
    const counts c = {positions, sums};
    const int64_t together = at_least(1, MAPPED / (s->steps * r.period)) * r.period;
    const shape seen = {s->steps, together, s->size, s->channels, s->threads};
#pragma omp parallel num_threads(s->threads) if (s->steps * s->size >= SMALL)
    {
        float *y = malloc(s->steps * together * sizeof *y);
#pragma omp for
        for (int64_t first = 0; first < s->size; first += together) {
            const int64_t last = at_most(s->size, first + together);
            for (int64_t t = 0; t < s->steps; t++) {
                rows(map, (t * s->size + first) / s->channels, (last - first) / s->channels, y + t * together);
            }
            for (int64_t start = first; start < last; start += r.period) {
                fire_row(y + start - first, &seen, p, r, onto, spikes, start, c);
            }
        }
        free(y);
    }
    free(r.scale);
}

/* Sums over the batch for each place of a row: of the gradient, and of the gradient times the distance from the mean. */
typedef struct {
    float *grad, *moved;
} sums;

/* Writes a block's gradient, and sums it for a normalisation. */
INLINE void leave(const float *restrict grad, const float *restrict y, const float *restrict mean, int width, int norm, int past_cache,
                  float *grad_y, sums total) {
    float *restrict grad_sum = total.grad, *restrict moved_sum = total.moved;
    for (int i = 0; norm && i < width; i++) {
        grad_sum[i] += grad[i];
        moved_sum[i] += grad[i] * (y[i] - mean[i]);
    }
    put(grad, width, past_cache, grad_y);
}

INLINE void back_block(const float *y, const shape *s, const neuron *p, const float *restrict scale, const float *restrict shift,
                       const float *restrict mean, const float *grad_spikes, float *potential, float *grad_x, sums total, int width,
                       int norm, int published) {
    float v[BLOCK] = {0}, carry[BLOCK] = {0}, whole[BLOCK] = {0}, leaving[BLOCK];
    const float tau = p->tau, rate = 1.0f / tau, v_threshold = p->v_threshold, slope = p->slope;
    const int soft = !published && p->soft_reset, decays = published || p->decays_input;
    const int detaches = published || p->detaches_reset, arctan = !published && p->arctan;
    const int once = s->stride == 0 && s->steps > 1, past_cache = s->steps * s->size > LARGE;
    for (int64_t t = 0; t < s->steps; t++) {
        const float *restrict in = y + t * s->stride;
        float *restrict kept = potential + t * BLOCK;
        prefetch(in + width, width);
        prefetch(grad_spikes + t * s->size + width, width);
        for (int i = 0; i < width; i++) {
            const float h = charged(current(in, scale, shift, i, norm), v[i], tau, rate, decays);
            kept[i] = h;
            v[i] = reset(h, v_threshold, soft);
        }
    }
    for (int64_t t = s->steps - 1; t >= 0; t--) {
        const float *restrict kept = potential + t * BLOCK, *restrict grad = grad_spikes + t * s->size;
        for (int i = 0; i < width; i++) {
            const float h = kept[i], ds = surrogate(h - v_threshold, slope, arctan);
            float through = soft || h < v_threshold ? 1.0f : 0.0f; /* dv/dh */
            if (!detaches) {
                through -= ds * (soft ? v_threshold : h);
            }
            const float grad_h = grad[i] * ds + carry[i] * through, leaked = grad_h * rate;
            carry[i] = grad_h - leaked;
            leaving[i] = decays ? leaked : grad_h;
        }
        if (once) {
            for (int i = 0; i < width; i++) {
                whole[i] += leaving[i];
            }
        } else {
            leave(leaving, y + t * s->stride, mean, width, norm, past_cache, grad_x + t * s->size, total);
        }
    }
    if (once) {
        leave(whole, y, mean, width, norm, past_cache, grad_x, total);
    }
}

/* Adds the sums of a row to those by channel, and begins anew. */
static void flush(sums total, int64_t period, int64_t channels, double *by_channel) {
    for (int64_t start = 0; start < period; start += channels) {
        for (int64_t c = 0; c < channels; c++) {
            by_channel[c] += total.grad[start + c];
            by_channel[channels + c] += total.moved[start + c];
        }
    }
    memset(total.grad, 0, 2 * period * sizeof *total.grad);
}

static void back_rows(const float *y, const shape *s, const neuron *p, row r, const float *grad_spikes, float *grad_x, int64_t first,
                      int64_t last, double *by_channel) {
    const int published = !p->soft_reset && p->decays_input && p->detaches_reset && !p->arctan;
    float *potential = malloc(s->steps * BLOCK * sizeof *potential), *held = calloc(2 * r.period, sizeof *held);
    for (int64_t n = first; n < last; n++) {
        const int64_t start = n * r.period;
        for (int64_t at = 0; at < r.period && start + at < s->size; at += BLOCK) {
            const int width = (int)at_most(BLOCK, at_most(r.period - at, s->size - start - at));
            const sums total = {held + at, held + r.period + at};
            const float *in = y + start + at, *grad = grad_spikes + start + at;
            float *out = grad_x + start + at;
            if (r.scale && published) {
                back_block(in, s, p, r.scale + at, r.shift + at, r.mean + at, grad, potential, out, total, width, 1, 1);
            } else if (r.scale) {
                back_block(in, s, p, r.scale + at, r.shift + at, r.mean + at, grad, potential, out, total, width, 1, 0);
            } else if (published) {
                back_block(in, s, p, NULL, NULL, NULL, grad, potential, out, total, width, 0, 1);
            } else {
                back_block(in, s, p, NULL, NULL, NULL, grad, potential, out, total, width, 0, 0);
            }
        }
        if (r.scale && ((n - first) % FLUSH == FLUSH - 1 || n == last - 1)) {
            flush((sums){held, held + r.period}, r.period, s->channels, by_channel);
        }
    }
    free(potential);
    free(held);
}

/* The gradient behind a normalisation, [size] of `channels`, becomes the one before it, in place. moments: sums by channel of the
 * gradient, and of it times the distance from the mean. Where the batch gave the statistics, they pass gradient, too. */
static void through_normalisation(const float *y, int64_t size, int64_t channels, int32_t threads, const normalisation *norm,
                                  int by_batch, const double *moments, float *grad) {
    const row r = row_of(norm, channels, BLOCK);
    const double count = (double)(size / channels);
    for (int64_t i = 0, c = 0; i < r.period; i++, c = c + 1 == channels ? 0 : c + 1) { /* grad = scale * grad + mean * y + shift */
        const double even = -r.scale[i] * moments[c] / count;
        const double tilt = -r.scale[i] * norm->inverse[c] * norm->inverse[c] * moments[channels + c] / count;
        r.shift[i] = by_batch ? (float)(even - tilt * norm->mean[c]) : 0.0f;
        r.mean[i] = by_batch ? (float)tilt : 0.0f;
    }
#pragma omp parallel for num_threads(threads) if (size >= SMALL)
    for (int64_t start = 0; start < size; start += r.period) {
        const int64_t width = at_most(r.period, size - start);
        const float *restrict in = y + start, *restrict scale = r.scale, *restrict shift = r.shift, *restrict tilt = r.mean;
        float *restrict out = grad + start;
        for (int64_t i = 0; i < width; i++) {
            out[i] = fused(out[i], scale[i], fused(in[i], tilt[i], shift[i]));
        }
    }
    free(r.scale);
}

static void add_chunks(const double *chunks, int64_t channels, double *moments) {
    memset(moments, 0, 2 * channels * sizeof *moments);
    for (int64_t i = 0; i < CHUNKS; i++) {
        for (int64_t c = 0; c < 2 * channels; c++) {
            moments[c] += chunks[i * 2 * channels + c];
        }
    }
}

/* Gradients of bias and weight, of sums over the batch. */
static void of_parameters(const double *moments, const normalisation *norm, int64_t channels, float *grad_weight, float *grad_bias) {
    for (int64_t c = 0; c < channels; c++) {
        grad_bias[c] = (float)moments[c];
        grad_weight[c] = (float)(moments[channels + c] * norm->inverse[c]);
    }
}

/* The gradient with respect to y, [steps, size], or [size] where every step sees the same; with a normalisation also with respect
 * to its weight and bias. by_batch: whether the batch gave the statistics. */
void fire_backward(const float *y, const shape *s, const neuron *p, const normalisation *norm, int32_t by_batch,
                   const float *grad_spikes, float *grad_y, float *grad_weight, float *grad_bias) {
    const int64_t channels = s->channels;
    const row r = row_of(norm, channels, BLOCK);
    const int64_t rows = (s->size + r.period - 1) / r.period, steps = s->stride ? s->steps : 1;
    double *chunks = norm ? calloc((CHUNKS + 1) * 2 * channels, sizeof *chunks) : NULL, *moments = norm ? chunks + CHUNKS * 2 * channels : NULL;
#pragma omp parallel for num_threads(s->threads) if (s->steps * s->size >= SMALL)
    for (int64_t c = 0; c < CHUNKS; c++) {
        back_rows(y, s, p, r, grad_spikes, grad_y, rows * c / CHUNKS, rows * (c + 1) / CHUNKS, norm ? chunks + c * 2 * channels : NULL);
    }
    if (norm) {
        add_chunks(chunks, channels, moments);
        of_parameters(moments, norm, channels, grad_weight, grad_bias);
        through_normalisation(y, steps * s->size, channels, s->threads, norm, by_batch, moments, grad_y);
    }
    free(r.scale);
    free(chunks);
}

static void moments_chunk(const float *restrict y, int64_t rows, int64_t channels, const float *origin, double *sum, double *square) {
    float *held = calloc(2 * channels, sizeof *held);
    float *restrict near = held, *restrict far = held + channels;
    for (int64_t row = 0; row < rows; row++, y += channels) {
        for (int64_t c = 0; c < channels; c++) {
            const float d = y[c] - origin[c];
            near[c] += d;
            far[c] += d * d;
        }
        if (row % FLUSH == FLUSH - 1 || row == rows - 1) {
            for (int64_t c = 0; c < channels; c++) {
                sum[c] += near[c];
                square[c] += far[c];
            }
            memset(held, 0, 2 * channels * sizeof *held);
        }
    }
    free(held);
}

/* Mean and biased variance of y [rows, channels] by channel. Distances are from the first row, so that little cancels. */
void channel_moments(const float *y, int64_t rows, int64_t channels, int32_t threads, float *mean, float *variance) {
    double *chunks = calloc(CHUNKS * 2 * channels, sizeof *chunks);
#pragma omp parallel for num_threads(threads) if (rows * channels >= SMALL)
    for (int64_t c = 0; c < CHUNKS; c++) {
        const int64_t first = rows * c / CHUNKS, last = rows * (c + 1) / CHUNKS;
        double *chunk = chunks + c * 2 * channels;
        moments_chunk(y + first * channels, last - first, channels, y, chunk, chunk + channels);
    }
    for (int64_t c = 0; c < channels; c++) {
        double sum = 0, square = 0;
        for (int64_t i = 0; i < CHUNKS; i++) {
            sum += chunks[i * 2 * channels + c];
            square += chunks[(i * 2 + 1) * channels + c];
        }
        const double off = sum / rows, spread = square / rows - off * off;
        mean[c] = (float)(y[c] + off);
        variance[c] = spread > 0 ? (float)spread : 0.0f;
    }
    free(chunks);
}

/* A normalisation alone: [rows, channels] to the same. */
void normalise(const float *y, int64_t rows, int64_t channels, int32_t threads, const normalisation *norm, float *x) {
    const row r = row_of(norm, channels, BLOCK);
    const int64_t size = rows * channels;
#pragma omp parallel for num_threads(threads) if (size >= SMALL)
    for (int64_t start = 0; start < size; start += r.period) {
        const int64_t width = at_most(r.period, size - start);
        const float *restrict in = y + start, *restrict scale = r.scale, *restrict shift = r.shift;
        float *restrict out = x + start;
        for (int64_t i = 0; i < width; i++) {
            out[i] = fused(in[i], scale[i], shift[i]);
        }
    }
    free(r.scale);
}

static void sum_rows(const float *y, const float *grad, int64_t rows, int64_t channels, const float *mean, double *by_channel) {
    float *held = calloc(2 * channels, sizeof *held);
    float *restrict even = held, *restrict moved = held + channels;
    for (int64_t n = 0; n < rows; n++, y += channels, grad += channels) {
        for (int64_t c = 0; c < channels; c++) {
            even[c] += grad[c];
            moved[c] += grad[c] * (y[c] - mean[c]);
        }
        if (n % FLUSH == FLUSH - 1 || n == rows - 1) {
            flush((sums){even, moved}, channels, channels, by_channel);
        }
    }
    free(held);
}

/* grad_y: holds the gradient behind the normalisation, and then the one before it. */
void normalise_backward(const float *y, int64_t rows, int64_t channels, int32_t threads, const normalisation *norm, int32_t by_batch,
                        float *grad_y, float *grad_weight, float *grad_bias) {
    double *chunks = calloc((CHUNKS + 1) * 2 * channels, sizeof *chunks), *moments = chunks + CHUNKS * 2 * channels;
#pragma omp parallel for num_threads(threads) if (rows * channels >= SMALL)
    for (int64_t c = 0; c < CHUNKS; c++) {
        const int64_t first = rows * c / CHUNKS, last = rows * (c + 1) / CHUNKS;
        sum_rows(y + first * channels, grad_y + first * channels, last - first, channels, norm->mean, chunks + c * 2 * channels);
    }
    add_chunks(chunks, channels, moments);
    of_parameters(moments, norm, channels, grad_weight, grad_bias);
    through_normalisation(y, rows * channels, channels, threads, norm, by_batch, moments, grad_y);
    free(chunks);
}
