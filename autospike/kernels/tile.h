/* Sums in registers: rows of vectors, to which products are added before they are written to memory.
 *
 * All loops have constant bounds once the functions are inlined, and are unrolled, so that the arrays of sums become registers.
 * WITH_VECTORS and WITH_TILE turn numbers that are known at run time into constants.
 */
#ifndef AUTOSPIKE_TILE_H
#define AUTOSPIKE_TILE_H

#include <stdint.h>
#include <string.h>

#include "common.h"
#include "vector.h"

/* TILE_ROWS x TILE_VECTORS: sums of a tile, which with a row of the right operand and one broadcast value of the left one fill the
 * registers. VECTORS: sums of one row. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define TILE_VECTORS 4
#else
#define TILE_VECTORS 2
#endif
#define TILE_ROWS 6
#define VECTORS 8

INLINE void clear(vector *sum, int vectors) {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) {
        sum[v] = (vector){0};
    }
}

INLINE void load_vectors(const float *from, int vectors, vector *sum) {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) {
        sum[v] = *(const vector *)(from + v * LANES);
    }
}

INLINE void store_vectors(const vector *sum, int vectors, float *to) {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) {
        *(vector *)(to + v * LANES) = sum[v];
    }
}

/* Writes the first `size` values of the vectors times scale. */
INLINE void store_scaled(const vector *sum, int vectors, float scale, int64_t size, float *to) {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) {
        const vector scaled = sum[v] * scale;
        const int64_t here = size - v * LANES;
        if (here >= LANES) {
            *(vector *)(to + v * LANES) = scaled;
        } else if (here > 0) {
            store_first(scaled, here, to + v * LANES);
        }
    }
}

/* Adds factor * row. The pointer advances so that each address is in one register: multiply-adds with indexed addresses are slower
 * on Intel processors. */
INLINE void add_product(vector *sum, float factor, const float *row, int vectors) {
    const vector factors = broadcast(factor);
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++, row += LANES) {
        sum[v] = multiply_add(factors, *(const vector *)row, sum[v]);
    }
}

/* Adds the products of a column of the left operand, whose values are `down` apart, with a row of the right one. */
INLINE void add_products(vector (*sum)[TILE_VECTORS], const float *left, int64_t down, const float *row, int rows, int vectors) {
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) { /* the inner loop is over vectors: one broadcast value at a time takes a register */
        add_product(sum[r], left[r * down], row, vectors);
    }
}

/* Runs a statement with the number of vectors, from 1 to VECTORS, as a constant V. */
#define WITH_VECTORS(number, ...)                                                                                               \
    switch (number) {                                                                                                           \
        VECTORS_CASE(1, __VA_ARGS__)                                                                                            \
        VECTORS_CASE(2, __VA_ARGS__)                                                                                            \
        VECTORS_CASE(3, __VA_ARGS__)                                                                                            \
        VECTORS_CASE(4, __VA_ARGS__)                                                                                            \
        VECTORS_CASE(5, __VA_ARGS__)                                                                                            \
        VECTORS_CASE(6, __VA_ARGS__)                                                                                            \
        VECTORS_CASE(7, __VA_ARGS__)                                                                                            \
        VECTORS_CASE(8, __VA_ARGS__)                                                                                            \
    }
#define VECTORS_CASE(n, ...)                                                                                                    \
    case n: {                                                                                                                   \
        enum { V = n };                                                                                                         \
        __VA_ARGS__;                                                                                                            \
        break;                                                                                                                  \
    }

/* Runs a statement with the number of rows, from 1 to TILE_ROWS, as a constant R, and the number of vectors, `most` or 1, as a
 * constant V. whole: whether it is `most`. */
#define WITH_TILE(rows, whole, most, ...)                                                                                       \
    switch (((rows) - 1) * 2 + (whole)) {                                                                                       \
        TILE_CASE(1, most, __VA_ARGS__)                                                                                         \
        TILE_CASE(2, most, __VA_ARGS__)                                                                                         \
        TILE_CASE(3, most, __VA_ARGS__)                                                                                         \
        TILE_CASE(4, most, __VA_ARGS__)                                                                                         \
        TILE_CASE(5, most, __VA_ARGS__)                                                                                         \
        TILE_CASE(6, most, __VA_ARGS__)                                                                                         \
    }
#define TILE_CASE(n, most, ...)                                                                                                 \
    case (n - 1) * 2: {                                                                                                         \
        enum { R = n, V = 1 };                                                                                                  \
        __VA_ARGS__;                                                                                                            \
        break;                                                                                                                  \
    }                                                                                                                           \
    case (n - 1) * 2 + 1: {                                                                                                     \
        enum { R = n, V = most };                                                                                               \
        __VA_ARGS__;                                                                                                            \
        break;                                                                                                                  \
    }

#endif
