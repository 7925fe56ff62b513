/* Small whole numbers in 1, 2, 4 or 8 bits each.
 *
 * Byte i of `packed` holds values i, len + i, 2 len + i, ..., the first one in its lowest bits: neighbours are packed alike, so
 * that the compiler vectorises the loops.
 */
#include <stdint.h>
#include <string.h>

#include "common.h"

#define LARGEST 0x437f0000u /* 255 as a float; the bits of negative numbers, infinity and NaN are larger, as unsigned integers */

/* All bits that any of n values has set, if each is a whole number from 0 to 255; else -1. A negative zero is not allowed. */
int64_t bits_set(const float *restrict x, int64_t n) {
    uint32_t all = 0, invalid = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t pattern;
        memcpy(&pattern, x + i, sizeof pattern);
        const float value = pattern > LARGEST ? 0.0f : x[i]; /* a conversion of other values is undefined */
        const int32_t whole = (int32_t)value;
        all |= (uint32_t)whole;
        invalid |= (pattern > LARGEST) | ((float)whole != value);
    }
    return invalid ? -1 : (int64_t)all;
}

/* n values in `bits` each; len = ceil(n * bits / 8). */
void pack(const float *restrict x, int64_t n, int64_t bits, uint8_t *restrict packed, int64_t len) {
    if (len) { /* an empty tensor has no address */
        memset(packed, 0, len);
    }
    for (int64_t shift = 0; n > 0; shift += bits, x += len, n -= len) {
        const int64_t count = at_most(n, len);
        for (int64_t i = 0; i < count; i++) {
            packed[i] |= (uint8_t)((int32_t)x[i] << shift);
        }
    }
}

void unpack(const uint8_t *restrict packed, int64_t len, int64_t bits, float *restrict x, int64_t n) {
    const int32_t mask = (1 << bits) - 1;
    for (int64_t shift = 0; n > 0; shift += bits, x += len, n -= len) {
        const int64_t count = at_most(n, len);
        for (int64_t i = 0; i < count; i++) {
            x[i] = (float)((packed[i] >> shift) & mask);
        }
    }
}
