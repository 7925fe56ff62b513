/* Sums of small integers by time step and position, and whether they are small integers at all: one pass over memory.
 *
 * x: [steps, batch, positions, channels] float32, contiguous. sums: [steps, positions], written; of no meaning where values are
 * real. kinds: [steps], written: 0 where every value is 0 or 1, 1 where every one is a whole number of 0 or more, 2 otherwise: real.
 * scratch: positions * channels integers.
 */
#include <stdint.h>
#include <string.h>

#define LIMIT (1 << 19) /* a whole number of that size is no sum of spikes ... */
#define CHUNK 4096      /* ... and the sum of so many below it fits 32 bits */
#define FEW_CHANNELS 64 /* with fewer, images are added up before channels are */

typedef struct {
    int32_t any, fraction;
} seen;

static int kind_of(const seen *all) {
    return all->fraction || all->any < 0 || all->any >= LIMIT ? 2 : all->any > 1 ? 1 : 0;
}

static int32_t sum_row(const float *restrict row, int64_t n, seen *all) {
    int32_t sum = 0, any = all->any, fraction = all->fraction;
    for (int64_t i = 0; i < n; i++) {
        const int32_t value = (int32_t)row[i];
        sum += value;
        any |= value;
        fraction |= (float)value != row[i];
    }
    *all = (seen){any, fraction};
    return sum;
}

static void add_image(const float *restrict image, int64_t n, int32_t *restrict total, seen *all) {
    int32_t any = all->any, fraction = all->fraction;
    for (int64_t i = 0; i < n; i++) {
        const int32_t value = (int32_t)image[i];
        total[i] += value;
        any |= value;
        fraction |= (float)value != image[i];
    }
    *all = (seen){any, fraction};
}

static void add_rows(const float *x, int64_t positions, int64_t channels, double *sums, seen *all) {
    for (int64_t p = 0; p < positions; p++, x += channels) {
        for (int64_t c = 0; c < channels; c += CHUNK) {
            sums[p] += sum_row(x + c, channels - c < CHUNK ? channels - c : CHUNK, all);
        }
    }
}

static void add_totals(int32_t *total, int64_t positions, int64_t channels, double *sums) {
    for (int64_t p = 0; p < positions; p++) {
        for (int64_t c = 0; c < channels; c++) {
            sums[p] += total[p * channels + c];
        }
    }
    memset(total, 0, positions * channels * sizeof *total);
}

void sum_values(const float *x, int64_t steps, int64_t batch, int64_t positions, int64_t channels, double *sums, int64_t *kinds,
                int32_t *scratch) {
    const int64_t image = positions * channels;
    memset(sums, 0, steps * positions * sizeof *sums);
    if (channels < FEW_CHANNELS) {
        memset(scratch, 0, image * sizeof *scratch);
    }
    for (int64_t t = 0; t < steps; t++, sums += positions) {
        seen all = {0, 0};
        for (int64_t b = 0; b < batch; b++, x += image) {
            if (channels >= FEW_CHANNELS) {
                add_rows(x, positions, channels, sums, &all);
            } else {
                add_image(x, image, scratch, &all);
                if (b % CHUNK == CHUNK - 1 || b == batch - 1) {
                    add_totals(scratch, positions, channels, sums);
                }
            }
        }
        kinds[t] = kind_of(&all);
    }
}
