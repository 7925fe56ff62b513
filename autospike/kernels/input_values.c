/* Sums of small integers by time step and position, and whether values are small integers at all, in one pass over memory.
 *
 * x: [steps, batch, positions, channels] float32, contiguous.
 * sums: [steps, positions], written; without meaning where values are real.
 * kinds: [steps], written: 0 where every value is 0 or 1, 1 where every value is a whole number of 0 or more, 2 otherwise (real).
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"

#define LIMIT (1 << 19) /* a whole number of this size counts as real, for no layer sums that many spikes ... */
#define CHUNK 4096      /* ... so that the sum of this many values below it fits 32 bits */
#define FEW_CHANNELS 64 /* with fewer, images are summed before channels are, for loops over channels would be short */

/* any: all bits that any value has set. fraction: whether any value is not a whole number. */
typedef struct {
    int32_t any, fraction;
} seen_values;

static int kind_of(const seen_values *seen) {
    return seen->fraction || seen->any < 0 || seen->any >= LIMIT ? 2 : seen->any > 1 ? 1 : 0;
}

static int32_t sum_row(const float *restrict row, int64_t n, seen_values *seen) {
    int32_t any = seen->any, fraction = seen->fraction;
    uint32_t sum = 0; /* unsigned: it may overflow for real values, whose sum is not used */
    for (int64_t i = 0; i < n; i++) {
        const int32_t value = (int32_t)row[i];
        sum += (uint32_t)value;
        any |= value;
        fraction |= (float)value != row[i];
    }
    *seen = (seen_values){any, fraction};
    return (int32_t)sum;
}

static void add_image(const float *restrict image, int64_t n, uint32_t *restrict total, seen_values *seen) {
    int32_t any = seen->any, fraction = seen->fraction;
    for (int64_t i = 0; i < n; i++) {
        const int32_t value = (int32_t)image[i];
        total[i] += (uint32_t)value;
        any |= value;
        fraction |= (float)value != image[i];
    }
    *seen = (seen_values){any, fraction};
}

static void add_rows(const float *x, int64_t positions, int64_t channels, double *sums, seen_values *seen) {
    for (int64_t p = 0; p < positions; p++, x += channels) {
        for (int64_t c = 0; c < channels; c += CHUNK) {
            sums[p] += sum_row(x + c, at_most(CHUNK, channels - c), seen);
        }
    }
}

/* Adds the sums of images to those by position, and clears them. */
static void flush_totals(uint32_t *total, int64_t positions, int64_t channels, double *sums) {
    for (int64_t p = 0; p < positions; p++) {
        for (int64_t c = 0; c < channels; c++) {
            sums[p] += (int32_t)total[p * channels + c];
        }
    }
    memset(total, 0, positions * channels * sizeof *total);
}

int sum_values(const float *x, int64_t steps, int64_t batch, int64_t positions, int64_t channels, double *sums, int64_t *kinds) {
    const int64_t image = positions * channels;
    uint32_t *total = channels < FEW_CHANNELS ? calloc(at_least(1, image), sizeof *total) : NULL;
    if (channels < FEW_CHANNELS && !total) {
        return OUT_OF_MEMORY;
    }
    memset(sums, 0, steps * positions * sizeof *sums);
    for (int64_t t = 0; t < steps; t++, sums += positions) {
        seen_values seen = {0, 0};
        for (int64_t b = 0; b < batch; b++, x += image) {
            if (channels >= FEW_CHANNELS) {
                add_rows(x, positions, channels, sums, &seen);
            } else {
                add_image(x, image, total, &seen);
                if (b % CHUNK == CHUNK - 1 || b == batch - 1) {
                    flush_totals(total, positions, channels, sums);
                }
            }
        }
        kinds[t] = kind_of(&seen);
    }
    free(total);
    return OK;
}
