/* Max-pool 3x3 with stride 2 and padding 1 of channels-last images: x [images, height, width, channels] float32, contiguous, to
 * out [images, (height + 1) / 2, (width + 1) / 2, channels]. Backward needs x alone: the gradient goes to the first maximum of each
 * window, row by row, as torch's does.
 */
#include <stdint.h>
#include <string.h>

#include "common.h"

#define BLOCK 256 /* channels that backward computes at once */

typedef struct {
    int64_t images, height, width, channels;
    int32_t threads;
} shape;

EXPORT_SIZE(shape)

/* The part of a window inside the image. */
typedef struct {
    int64_t first_row, last_row, first_column, last_column;
} window;

static window window_of(const shape *s, int64_t row, int64_t column) {
    return (window){
        row ? 2 * row - 1 : 0,
        at_most(2 * row + 1, s->height - 1),
        column ? 2 * column - 1 : 0,
        at_most(2 * column + 1, s->width - 1),
    };
}

/* The maximum of each of `count` channels from `first` on. */
static void window_maximum(const float *image, const shape *s, window w, int64_t first, int64_t count, float *restrict max) {
    memcpy(max, image + (w.first_row * s->width + w.first_column) * s->channels + first, count * sizeof *max);
    for (int64_t row = w.first_row; row <= w.last_row; row++) {
        for (int64_t column = w.first_column; column <= w.last_column; column++) {
            const float *restrict x = image + (row * s->width + column) * s->channels + first;
            for (int64_t c = 0; c < count; c++) {
                max[c] = x[c] > max[c] || x[c] != x[c] ? x[c] : max[c]; /* NaN is passed on */
            }
        }
    }
}

void max_pool(const float *x, const shape *s, float *out) {
    const int64_t height = (s->height + 1) / 2, width = (s->width + 1) / 2;
#pragma omp parallel for num_threads(s->threads) if (s->images * s->height * s->width * s->channels >= SMALL)
    for (int64_t i = 0; i < s->images * height; i++) {
        const float *image = x + i / height * s->height * s->width * s->channels;
        for (int64_t column = 0; column < width; column++) {
            window_maximum(image, s, window_of(s, i % height, column), 0, s->channels, out + (i * width + column) * s->channels);
        }
    }
}

/* Adds the gradient of some channels of one window at the place of their first maximum. */
static void add_window_gradient(const float *image, const shape *s, window w, int64_t first, int count, const float *restrict grad,
                                float *grad_image) {
    float max[BLOCK], remaining[BLOCK];
    window_maximum(image, s, w, first, count, max);
    memcpy(remaining, grad, count * sizeof *remaining);
    for (int64_t row = w.first_row; row <= w.last_row; row++) {
        for (int64_t column = w.first_column; column <= w.last_column; column++) {
            const int64_t offset = (row * s->width + column) * s->channels + first;
            const float *restrict x = image + offset;
            float *restrict out = grad_image + offset;
            for (int c = 0; c < count; c++) {
                out[c] += x[c] == max[c] ? remaining[c] : 0.0f;
                remaining[c] = x[c] == max[c] ? 0.0f : remaining[c];
            }
        }
    }
}

void max_pool_backward(const float *x, const float *grad_out, const shape *s, float *grad_x) {
    const int64_t height = (s->height + 1) / 2, width = (s->width + 1) / 2, size = s->height * s->width * s->channels;
#pragma omp parallel for num_threads(s->threads) if (s->images * size >= SMALL)
    for (int64_t i = 0; i < s->images; i++) {
        memset(grad_x + i * size, 0, size * sizeof *grad_x);
        for (int64_t n = 0; n < height * width; n++) {
            const window w = window_of(s, n / width, n % width);
            for (int64_t first = 0; first < s->channels; first += BLOCK) {
                const int count = (int)at_most(BLOCK, s->channels - first);
                const float *grad = grad_out + (i * height * width + n) * s->channels + first;
                add_window_gradient(x + i * size, s, w, first, count, grad, grad_x + i * size);
            }
        }
    }
}
