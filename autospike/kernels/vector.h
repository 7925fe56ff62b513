/* Vectors of floats, of the width of the instruction set that a library is compiled for. */
#ifndef AUTOSPIKE_VECTOR_H
#define AUTOSPIKE_VECTOR_H

#include <stdint.h>
#include <string.h>

#include "common.h"

#if defined(__AVX2__) && !defined(AUTOSPIKE_PLAIN)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

/* LANES: values of a vector. */
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* What a comparison of two vectors gives: all bits of the lanes where it holds. */
typedef int32_t lane_mask __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* a where all bits of the mask are set, b where none is. */
INLINE vector blend(lane_mask mask, vector a, vector b) { return (vector)((mask & (lane_mask)a) | (~mask & (lane_mask)b)); }

/* The larger one of a and b, NaN if one of them is NaN. */
INLINE vector maximum(vector a, vector b) {
#if defined(__AVX512F__)
    const __m512 larger = _mm512_max_ps((__m512)b, (__m512)a); /* a if one of them is NaN */
    return (vector)_mm512_mask_mov_ps(larger, _mm512_cmp_ps_mask((__m512)b, (__m512)b, _CMP_UNORD_Q), (__m512)b);
#elif defined(__AVX2__) && !defined(AUTOSPIKE_PLAIN)
    const __m256 larger = _mm256_max_ps((__m256)b, (__m256)a); /* a if one of them is NaN */
    return (vector)_mm256_blendv_ps(larger, (__m256)b, _mm256_cmp_ps((__m256)b, (__m256)b, _CMP_UNORD_Q));
#else
    return blend((b > a) | (b != b), b, a);
#endif
}

/* a * b + c, rounded once, where the processor can. Written out, because compilers split the operation where that shortens a chain
 * of sums. */
INLINE vector multiply_add(vector a, vector b, vector c) {
#if defined(__AVX512F__)
    return (vector)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
    return (vector)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (vector)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

INLINE vector broadcast(float x) { return x - (vector){0}; }

#if defined(__AVX512F__)
/* The first `size` lanes, of at most LANES. */
INLINE __mmask16 first_lanes(int64_t size) { return (__mmask16)((1u << size) - 1); }
#elif defined(__AVX2__) && !defined(AUTOSPIKE_PLAIN)
/* The same: all bits of these lanes are set. */
INLINE __m256i first_lanes(int64_t size) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)size), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#endif

/* Reads the first `size` values of a vector, of at most LANES; the others are zero. */
INLINE vector load_first(const float *from, int64_t size) {
    if (__builtin_constant_p(size) && size == LANES) {
        return *(const vector *)from;
    }
#if defined(__AVX512F__)
    return (vector)_mm512_maskz_loadu_ps(first_lanes(size), from);
#elif defined(__AVX2__) && !defined(AUTOSPIKE_PLAIN)
    return (vector)_mm256_maskload_ps(from, first_lanes(size));
#else
    vector x = {0};
    memcpy(&x, from, size * sizeof *from);
    return x;
#endif
}

/* Writes the first `size` values of a vector, of at most LANES. */
INLINE void store_first(vector x, int64_t size, float *to) {
    if (__builtin_constant_p(size) && size == LANES) {
        *(vector *)to = x;
        return;
    }
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(to, first_lanes(size), (__m512)x);
#elif defined(__AVX2__) && !defined(AUTOSPIKE_PLAIN)
    _mm256_maskstore_ps(to, first_lanes(size), (__m256)x);
#else
    memcpy(to, &x, size * sizeof *to);
#endif
}

/* Whether every vector from this address on is a line of the cache, so that it can be written past it. */
INLINE int fills_cache_lines(const float *to) { return LANES == 16 && (uintptr_t)to % sizeof(vector) == 0; }

/* Writes a vector that is a line of the cache, past the cache. */
INLINE void store_past_cache(vector x, float *to) {
#if defined(__AVX512F__)
    _mm512_stream_ps(to, (__m512)x);
#else
    *(vector *)to = x;
#endif
}

/* The bits of those of up to 64 values that are not zero. */
INLINE uint64_t nonzero_bits(const float *x, int64_t size) {
    uint64_t bits = 0;
    int64_t i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= size; i += 16) {
        bits |= (uint64_t)_mm512_cmp_ps_mask(_mm512_loadu_ps(x + i), _mm512_setzero_ps(), _CMP_NEQ_UQ) << i;
    }
    if (i < size) {
        const __mmask16 rest = first_lanes(size - i);
        const __m512 values = _mm512_maskz_loadu_ps(rest, x + i);
        return bits | (uint64_t)_mm512_mask_cmp_ps_mask(rest, values, _mm512_setzero_ps(), _CMP_NEQ_UQ) << i;
    }
#elif defined(__AVX2__) && !defined(AUTOSPIKE_PLAIN)
    for (; i + 8 <= size; i += 8) {
        const __m256 differs = _mm256_cmp_ps(_mm256_loadu_ps(x + i), _mm256_setzero_ps(), _CMP_NEQ_UQ);
        bits |= (uint64_t)(uint32_t)_mm256_movemask_ps(differs) << i;
    }
    if (i < size) {
        const __m256 differs = _mm256_cmp_ps(_mm256_maskload_ps(x + i, first_lanes(size - i)), _mm256_setzero_ps(), _CMP_NEQ_UQ);
        return bits | (uint64_t)(uint32_t)_mm256_movemask_ps(differs) << i;
    }
#endif
    for (; i < size; i++) {
        bits |= (uint64_t)(x[i] != 0) << i;
    }
    return bits;
}

#endif
