/* Small whole numbers in few bits, two passes over memory: one that looks, one that writes.
 *
 * Byte i of `packed` holds values i, len + i, 2 len + i, ..., the first in its lowest bits: so neighbours are packed alike, and a
 * compiler makes vectors of them.
 */
#include <stdint.h>
#include <string.h>

#define LARGEST 0x437f0000u /* 255 as a float; patterns of what is negative, infinite or no number are larger */

/* All bits that any of n values has set, if each is a whole number from 0 to 255; else -1. A negative zero is none. */
int64_t bits_set(const float *restrict x, int64_t n) {
    uint32_t all = 0, odd = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t pattern;
        memcpy(&pattern, x + i, sizeof pattern);
        const float value = pattern > LARGEST ? 0.0f : x[i]; /* what may be converted */
        const int32_t whole = (int32_t)value;
        all |= (uint32_t)whole;
        odd |= (pattern > LARGEST) | ((float)whole != value);
    }
    return odd ? -1 : (int64_t)all;
}

/* n values in `bits` each: (n * bits + 7) / 8 bytes, len of them. */
void pack(const float *restrict x, int64_t n, int64_t bits, uint8_t *restrict packed, int64_t len) {
    memset(packed, 0, len);
    for (int64_t shift = 0; n > 0; shift += bits, x += len, n -= len) {
        const int64_t here = n < len ? n : len;
        for (int64_t i = 0; i < here; i++) {
            packed[i] |= (uint8_t)((int32_t)x[i] << shift);
        }
    }
}

void unpack(const uint8_t *restrict packed, int64_t len, int64_t bits, float *restrict x, int64_t n) {
    const int32_t mask = (1 << bits) - 1;
    for (int64_t shift = 0; n > 0; shift += bits, x += len, n -= len) {
        const int64_t here = n < len ? n : len;
        for (int64_t i = 0; i < here; i++) {
            x[i] = (float)((packed[i] >> shift) & mask);
        }
    }
}
