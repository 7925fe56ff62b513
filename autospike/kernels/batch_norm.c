/* Batch normalisation of channels-last values, y [rows, channels]: batch statistics, forward and backward. batch_norm.h has the
 * equations. */
#include "batch_norm.h"

EXPORT_SIZE(batch_norm)

static int add_moments(const float *restrict y, int64_t rows, int64_t channels, const float *origin, double *sum, double *square) {
    float *partial = calloc(2 * channels, sizeof *partial);
    if (!partial) {
        return OUT_OF_MEMORY;
    }
    float *restrict distance = partial, *restrict squared = partial + channels;
    for (int64_t row = 0; row < rows; row++, y += channels) {
        for (int64_t c = 0; c < channels; c++) {
            const float d = y[c] - origin[c];
            distance[c] += d;
            squared[c] += d * d;
        }
        if (row % FLUSH == FLUSH - 1 || row == rows - 1) {
            for (int64_t c = 0; c < channels; c++) {
                sum[c] += distance[c];
                square[c] += squared[c];
            }
            memset(partial, 0, 2 * channels * sizeof *partial);
        }
    }
    free(partial);
    return OK;
}

/* Mean and biased variance of y by channel. Distances are from the first row, so that little cancels. */
int batch_statistics(const float *y, int64_t rows, int64_t channels, int32_t threads, float *mean, float *variance) {
    double *chunks = calloc(CHUNKS * 2 * channels, sizeof *chunks);
    if (!chunks) {
        return OUT_OF_MEMORY;
    }
    int status = OK;
#pragma omp parallel for num_threads(threads) reduction(& : status) if (rows * channels >= SMALL)
    for (int64_t c = 0; c < CHUNKS; c++) {
        const int64_t first = rows * c / CHUNKS, last = rows * (c + 1) / CHUNKS;
        double *chunk = chunks + c * 2 * channels;
        status &= add_moments(y + first * channels, last - first, channels, y, chunk, chunk + channels);
    }
    for (int64_t c = 0; c < channels; c++) {
        double sum = 0, square = 0;
        for (int64_t i = 0; i < CHUNKS; i++) {
            sum += chunks[i * 2 * channels + c];
            square += chunks[(i * 2 + 1) * channels + c];
        }
        const double offset = sum / rows, spread = square / rows - offset * offset;
        mean[c] = (float)(y[c] + offset);
        variance[c] = spread > 0 ? (float)spread : 0.0f;
    }
    free(chunks);
    return status;
}

int normalise(const float *y, int64_t rows, int64_t channels, int32_t threads, const batch_norm *norm, float *x) {
    affine_row r;
    if (make_row(norm, channels, BLOCK, &r) != OK) {
        return OUT_OF_MEMORY;
    }
    const int64_t size = rows * channels;
#pragma omp parallel for num_threads(threads) if (size >= SMALL)
    for (int64_t start = 0; start < size; start += r.period) {
        const int64_t width = at_most(r.period, size - start);
        const float *restrict in = y + start, *restrict scale = r.scale, *restrict shift = r.shift;
        float *restrict out = x + start;
        for (int64_t i = 0; i < width; i++) {
            out[i] = multiply_add(in[i], scale[i], shift[i]);
        }
    }
    free(r.scale);
    return OK;
}

static int add_gradients(const float *y, const float *grad, int64_t rows, int64_t channels, const float *mean, double *by_channel) {
    float *partial = calloc(2 * channels, sizeof *partial);
    if (!partial) {
        return OUT_OF_MEMORY;
    }
    float *restrict sum = partial, *restrict centred = partial + channels;
    for (int64_t n = 0; n < rows; n++, y += channels, grad += channels) {
        for (int64_t c = 0; c < channels; c++) {
            sum[c] += grad[c];
            centred[c] += grad[c] * (y[c] - mean[c]);
        }
        if (n % FLUSH == FLUSH - 1 || n == rows - 1) {
            flush_sums((gradient_sums){sum, centred}, channels, channels, by_channel);
        }
    }
    free(partial);
    return OK;
}

/* grad: with respect to x before the call, with respect to y after it. */
int normalise_backward(const float *y, int64_t rows, int64_t channels, int32_t threads, const batch_norm *norm, int32_t by_batch,
                       float *grad, float *grad_weight, float *grad_bias) {
    double *chunks = calloc((CHUNKS + 1) * 2 * channels, sizeof *chunks);
    if (!chunks) {
        return OUT_OF_MEMORY;
    }
    double *sums = chunks + CHUNKS * 2 * channels;
    int status = OK;
#pragma omp parallel for num_threads(threads) reduction(& : status) if (rows * channels >= SMALL)
    for (int64_t c = 0; c < CHUNKS; c++) {
        const int64_t first = rows * c / CHUNKS, last = rows * (c + 1) / CHUNKS;
        double *chunk = chunks + c * 2 * channels;
        status &= add_gradients(y + first * channels, grad + first * channels, last - first, channels, norm->mean, chunk);
    }
    add_chunks(chunks, channels, sums);
    parameter_gradients(sums, norm, channels, grad_weight, grad_bias);
    status &= input_gradient(y, rows * channels, channels, threads, norm, by_batch, sums, grad);
    free(chunks);
    return status;
}
