/* Max-pool 3x3 with stride 2 and padding 1 of channels-last images: x [images, height, width, channels] float32, contiguous, to
 * out [images, (height + 1) / 2, (width + 1) / 2, channels]. Backward needs x alone: the gradient goes to the first maximum of each
 * window, row by row, as torch's does.
 */
#include <stdint.h>
#include <stdlib.h>

#include "common.h"
#include "vector.h"

#define VECTORS (64 / LANES) /* that are computed together at each position */

typedef struct {
    int64_t images, height, width, channels;
    int32_t threads;
} shape;

EXPORT_SIZE(shape)

/* The rows of a row of windows inside the image. continued: the first one is also the last one of the windows above; continues: the
 * last one is also the first one of the windows below. */
typedef struct {
    int64_t first;
    int count, continued, continues;
} rows;

static rows rows_of(const shape *s, int64_t row) {
    const int64_t first = row ? 2 * row - 1 : 0;
    return (rows){first, (int)(at_most(2 * row + 1, s->height - 1) - first + 1), row > 0, 2 * row + 2 < s->height};
}

/* The maximum of `count` rows at one column; x: the first row. */
INLINE vector column_maximum(const float *x, const shape *s, int count, int64_t lanes) {
    vector max = load_first(x, lanes);
    for (int row = 1; row < count; row++) {
        max = maximum(max, load_first(x + row * s->width * s->channels, lanes));
    }
    return max;
}

/* One row of windows: `vectors` vectors of `lanes` channels at each position. Neighbouring windows share a column. */
INLINE void pool_row(const float *x, const shape *s, int count, int vectors, int64_t lanes, float *out) {
    vector left[VECTORS];
    for (int v = 0; v < vectors; v++) {
        left[v] = column_maximum(x + v * LANES, s, count, lanes);
    }
    for (int64_t column = 0; column < s->width; column += 2, out += s->channels) {
        for (int v = 0; v < vectors; v++) {
            const float *middle = x + column * s->channels + v * LANES;
            vector max = maximum(left[v], column_maximum(middle, s, count, lanes));
            if (column + 1 < s->width) {
                left[v] = column_maximum(middle + s->channels, s, count, lanes);
                max = maximum(max, left[v]);
            }
            store_first(max, lanes, out + v * LANES);
        }
    }
}

/* Windows with three rows are compiled separately. */
static void pool_channels(const float *x, const shape *s, int count, int64_t channels, float *out) {
    if (count == 3 && channels == VECTORS * LANES) {
        pool_row(x, s, 3, VECTORS, LANES, out);
    } else if (channels == VECTORS * LANES) {
        pool_row(x, s, count, VECTORS, LANES, out);
    } else if (count == 3 && channels == LANES) {
        pool_row(x, s, 3, 1, LANES, out);
    } else {
        pool_row(x, s, count, 1, channels, out);
    }
}

/* The number of channels that are computed together, of `rest`: as many as are adjacent in memory, so that it is read in order. */
INLINE int64_t channels_at_once(int64_t rest) { return rest >= VECTORS * LANES ? VECTORS * LANES : at_most(LANES, rest); }

void max_pool(const float *x, const shape *s, float *out) {
    const int64_t height = (s->height + 1) / 2, width = (s->width + 1) / 2, row_size = s->width * s->channels;
#pragma omp parallel for num_threads(s->threads) if (s->images * s->height * row_size >= SMALL)
    for (int64_t i = 0; i < s->images * height; i++) {
        const rows r = rows_of(s, i % height);
        const float *image = x + i / height * s->height * row_size;
        for (int64_t c = 0, count; c < s->channels; c += count) {
            count = channels_at_once(s->channels - c);
            pool_channels(image + r.first * row_size + c, s, r.count, count, out + i * width * s->channels + c);
        }
    }
}

/* One column of a row of windows: the maximum, and the gradients so far. */
typedef struct {
    vector max, grad[3];
} column;

/* Where the gradients of a row of windows are written. */
typedef struct {
    float *grad_x;  /* the first row, in the first column */
    float *shared;  /* the gradients so far of the row that two rows of windows share, [width, channels] */
    int past_cache; /* whether finished rows are written past the cache */
} gradients;

INLINE column load_column(const float *x, const shape *s, rows r, const float *shared, int64_t lanes) {
    column c;
    c.max = column_maximum(x, s, r.count, lanes);
    for (int row = 0; row < r.count; row++) {
        c.grad[row] = r.continued && row == 0 ? load_first(shared, lanes) : (vector){0};
    }
    return c;
}

INLINE void store_column(const column *c, const shape *s, rows r, int64_t lanes, gradients g, int64_t offset) {
    for (int row = 0; row < r.count; row++) {
        float *to = g.grad_x + row * s->width * s->channels + offset;
        if (r.continues && row == r.count - 1) {
            store_first(c->grad[row], lanes, g.shared + offset);
        } else if (g.past_cache) {
            store_past_cache(c->grad[row], to);
        } else {
            store_first(c->grad[row], lanes, to);
        }
    }
}

/* Adds the remaining gradient of a window where a value is its maximum, and sets it to zero there. */
INLINE void add_at_maximum(vector x, vector max, vector *grad, vector *remaining) {
    const lane_mask is_max = x == max;
    *grad += blend(is_max, *remaining, (vector){0});
    *remaining = blend(is_max, (vector){0}, *remaining);
}

/* The gradients of one row of windows: `vectors` vectors of `lanes` channels at each position. */
INLINE void backward_row(const float *x, const float *grad, const shape *s, rows r, int vectors, int64_t lanes, gradients g) {
    column left[VECTORS] = {0};
    for (int64_t i = 0; i < s->width; i += 2, grad += s->channels) {
        const int has_left = i > 0, has_right = i + 1 < s->width;
        for (int v = 0; v < vectors; v++) {
            const int64_t offset = i * s->channels + v * LANES, next = offset + s->channels;
            column middle = load_column(x + offset, s, r, g.shared + offset, lanes), right = {0};
            vector max = has_left ? maximum(left[v].max, middle.max) : middle.max, remaining = load_first(grad + v * LANES, lanes);
            if (has_right) {
                right = load_column(x + next, s, r, g.shared + next, lanes);
                max = maximum(max, right.max);
            }
            for (int row = 0; row < r.count; row++) {
                const float *values = x + row * s->width * s->channels + offset;
                if (has_left) {
                    add_at_maximum(load_first(values - s->channels, lanes), max, &left[v].grad[row], &remaining);
                }
                add_at_maximum(load_first(values, lanes), max, &middle.grad[row], &remaining);
                if (has_right) {
                    add_at_maximum(load_first(values + s->channels, lanes), max, &right.grad[row], &remaining);
                }
            }
            if (has_left) {
                store_column(&left[v], s, r, lanes, g, offset - s->channels);
            }
            store_column(&middle, s, r, lanes, g, offset);
            left[v] = right;
        }
    }
    for (int v = 0; v < vectors && s->width % 2 == 0; v++) {
        store_column(&left[v], s, r, lanes, g, (s->width - 1) * s->channels + v * LANES);
    }
}

/* Windows with three rows are compiled separately. */
static void backward_channels(const float *x, const float *grad, const shape *s, rows r, int64_t channels, gradients g) {
    const rows inner = {r.first, 3, 1, r.continues};
    const int is_inner = r.count == 3;
    if (is_inner && channels == VECTORS * LANES && g.past_cache) {
        backward_row(x, grad, s, inner, VECTORS, LANES, (gradients){g.grad_x, g.shared, 1});
    } else if (is_inner && channels == VECTORS * LANES) {
        backward_row(x, grad, s, inner, VECTORS, LANES, (gradients){g.grad_x, g.shared, 0});
    } else if (channels == VECTORS * LANES) {
        backward_row(x, grad, s, r, VECTORS, LANES, g);
    } else if (is_inner && channels == LANES) {
        backward_row(x, grad, s, inner, 1, LANES, g);
    } else if (channels == LANES) {
        backward_row(x, grad, s, r, 1, LANES, g);
    } else {
        backward_row(x, grad, s, r, 1, channels, (gradients){g.grad_x, g.shared, 0});
    }
}

static void backward_image(const float *x, const float *grad, const shape *s, gradients g) {
    const int64_t height = (s->height + 1) / 2, width = (s->width + 1) / 2, row_size = s->width * s->channels;
    for (int64_t row = 0; row < height; row++, grad += width * s->channels) {
        const rows r = rows_of(s, row);
        for (int64_t c = 0, count; c < s->channels; c += count) {
            const int64_t offset = r.first * row_size + c;
            count = channels_at_once(s->channels - c);
            backward_channels(x + offset, grad + c, s, r, count, (gradients){g.grad_x + offset, g.shared + c, g.past_cache});
        }
    }
}

int max_pool_backward(const float *x, const float *grad_out, const shape *s, float *grad_x) {
    const int64_t size = s->height * s->width * s->channels, pooled = (s->height + 1) / 2 * ((s->width + 1) / 2) * s->channels;
    const int past_cache = s->images * size > LARGE && s->channels % LANES == 0 && fills_cache_lines(grad_x);
    int status = OK;
#pragma omp parallel num_threads(s->threads) reduction(& : status) if (s->images * size >= SMALL)
    {
        float *shared = malloc(s->width * s->channels * sizeof *shared);
        status = shared ? OK : OUT_OF_MEMORY;
#pragma omp for
        for (int64_t i = 0; i < s->images; i++) {
            if (status == OK) {
                backward_image(x + i * size, grad_out + i * pooled, s, (gradients){grad_x + i * size, shared, past_cache});
            }
        }
        free(shared);
    }
    return status;
}
