/* The multi-step LIF neuron, fused over time: one pass over memory forward, one backward.
 *
 *     h = v + (x - v) / tau;   s = h >= v_threshold;   v = s ? 0 : h
 *
 * Neurons are taken in blocks that stay in registers and first-level cache while time runs. Backward recomputes the potential from
 * the input, so that nothing but the input is kept. Without contraction to fused multiply-adds (-ffp-contract=off) the spikes of
 * finite inputs are those of spikingjelly, bit for bit.
 *
 * x, spikes, grads: [steps, n] float32. `stride`: distance between two steps of x in elements; 0 where every step has the same input.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 128

void lif_forward(const float *x, int64_t stride, int64_t steps, int64_t n, float tau, float v_threshold, float *spikes) {
    for (int64_t start = 0; start < n; start += BLOCK) {
        const int width = (int)(n - start < BLOCK ? n - start : BLOCK);
        float v[BLOCK] = {0};
        for (int64_t t = 0; t < steps; t++) {
            const float *restrict in = x + t * stride + start;
            float *restrict out = spikes + t * n + start;
            for (int i = 0; i < width; i++) {
                const float h = v[i] + (in[i] - v[i]) / tau;
                out[i] = h >= v_threshold ? 1.0f : 0.0f;
                v[i] = h >= v_threshold ? 0.0f : h;
            }
        }
    }
}

/* exp(a) for |a| <= 87, relative error below 2e-7 (Cephes): plain arithmetic, so that the compiler vectorises it. */
static inline float exponential(float a) {
    const float n = nearbyintf(a * 1.44269504088896341f);
    const float r = a - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const int32_t bits = ((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

/* `potential`: scratch of steps * BLOCK floats. */
void lif_backward(const float *x, int64_t stride, const float *grad_spikes, int64_t steps, int64_t n, float tau, float v_threshold,
                  float slope, float *potential, float *grad_x) {
    for (int64_t start = 0; start < n; start += BLOCK) {
        const int width = (int)(n - start < BLOCK ? n - start : BLOCK);
        float v[BLOCK] = {0}, carry[BLOCK] = {0};
        for (int64_t t = 0; t < steps; t++) {
            const float *restrict in = x + t * stride + start;
            float *restrict kept = potential + t * BLOCK;
            for (int i = 0; i < width; i++) {
                const float h = v[i] + (in[i] - v[i]) / tau;
                kept[i] = h;
                v[i] = h >= v_threshold ? 0.0f : h;
            }
        }
        for (int64_t t = steps - 1; t >= 0; t--) {
            const float *restrict kept = potential + t * BLOCK;
            const float *restrict grad = grad_spikes + t * n + start;
            float *restrict out = grad_x + t * n + start;
            for (int i = 0; i < width; i++) {
                float a = slope * (kept[i] - v_threshold);
                a = a > 80.0f ? 80.0f : (a < -80.0f ? -80.0f : a);
                const float g = 1.0f / (1.0f + exponential(-a));
                const float through = kept[i] >= v_threshold ? 0.0f : carry[i];
                const float grad_h = grad[i] * (slope * g * (1.0f - g)) + through;
                out[i] = grad_h / tau;
                carry[i] = grad_h - out[i];
            }
        }
    }
}
