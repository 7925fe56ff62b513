/* Max-pool 3x3 with stride 2 and padding 1, of channels-last images: x [images, height, width, channels] float32, contiguous, to
 * out [images, (height + 1) / 2, (width + 1) / 2, channels]. Nothing but x is kept for backward: the gradient goes to the first
 * maximum of each window, row by row, as torch's does.
 */
#include <stdint.h>
#include <string.h>

#define SMALL 16384 /* values below which threads cost more than they save */
#define BLOCK 256   /* channels at once */

typedef struct {
    int64_t images, height, width, channels;
    int32_t threads;
} shape;

typedef struct {
    int64_t first_row, last_row, first_column, last_column;
} window;

static window window_of(const shape *s, int64_t row, int64_t column) {
    return (window){
        row ? 2 * row - 1 : 0,
        2 * row + 1 < s->height ? 2 * row + 1 : s->height - 1,
        column ? 2 * column - 1 : 0,
        2 * column + 1 < s->width ? 2 * column + 1 : s->width - 1,
    };
}

static void largest(const float *image, const shape *s, window w, int64_t from, int64_t count, float *restrict max) {
    memcpy(max, image + (w.first_row * s->width + w.first_column) * s->channels + from, count * sizeof *max);
    for (int64_t row = w.first_row; row <= w.last_row; row++) {
        for (int64_t column = w.first_column; column <= w.last_column; column++) {
            const float *restrict x = image + (row * s->width + column) * s->channels + from;
            for (int64_t c = 0; c < count; c++) {
                max[c] = x[c] > max[c] || x[c] != x[c] ? x[c] : max[c];
            }
        }
    }
}

void pool(const float *x, const shape *s, float *out) {
    const int64_t height = (s->height + 1) / 2, width = (s->width + 1) / 2;
#pragma omp parallel for num_threads(s->threads) if (s->images * s->height * s->width * s->channels >= SMALL)
    for (int64_t i = 0; i < s->images * height; i++) {
        const float *image = x + i / height * s->height * s->width * s->channels;
        for (int64_t column = 0; column < width; column++) {
            largest(image, s, window_of(s, i % height, column), 0, s->channels, out + (i * width + column) * s->channels);
        }
    }
}

/* Adds the gradient of some channels of one window to where their maximum was. */
static void pass_back(const float *image, const shape *s, window w, int64_t from, int count, const float *restrict grad, float *grad_image) {
    float max[BLOCK], left[BLOCK];
    largest(image, s, w, from, count, max);
    memcpy(left, grad, count * sizeof *left);
    for (int64_t row = w.first_row; row <= w.last_row; row++) {
        for (int64_t column = w.first_column; column <= w.last_column; column++) {
            const int64_t at = (row * s->width + column) * s->channels + from;
            const float *restrict x = image + at;
            float *restrict out = grad_image + at;
            for (int c = 0; c < count; c++) {
                const float here = x[c] == max[c] ? left[c] : 0.0f;
                out[c] += here;
                left[c] = x[c] == max[c] ? 0.0f : left[c];
            }
        }
    }
}

void pool_backward(const float *x, const float *grad_out, const shape *s, float *grad_x) {
    const int64_t height = (s->height + 1) / 2, width = (s->width + 1) / 2, size = s->height * s->width * s->channels;
#pragma omp parallel for num_threads(s->threads) if (s->images * size >= SMALL)
    for (int64_t i = 0; i < s->images; i++) {
        memset(grad_x + i * size, 0, size * sizeof *grad_x);
        for (int64_t place = 0; place < height * width; place++) {
            const window w = window_of(s, place / width, place % width);
            for (int64_t from = 0; from < s->channels; from += BLOCK) {
                const int count = (int)(s->channels - from < BLOCK ? s->channels - from : BLOCK);
                const float *grad = grad_out + (i * height * width + place) * s->channels + from;
                pass_back(x + i * size, s, w, from, count, grad, grad_x + i * size);
            }
        }
    }
}
