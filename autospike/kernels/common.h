/* Shared by all kernels. A function that allocates memory returns OK, or OUT_OF_MEMORY, for which Python raises MemoryError. */
#ifndef AUTOSPIKE_COMMON_H
#define AUTOSPIKE_COMMON_H

#include <stdint.h>

#define OUT_OF_MEMORY 0
#define OK 1

#define SMALL 16384 /* values below which starting threads costs more time than they save */
#define LARGE 3000000 /* values of an output that does not fit into the cache, so that it is written past it */

#define INLINE static inline __attribute__((always_inline))

/* Exports the size of a struct that Python passes, which compares it with its own declaration when it loads the library. */
#define EXPORT_SIZE(name)                                                                                                       \
    int64_t sizeof_##name(void) { return (int64_t)sizeof(name); }

INLINE int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }

#endif
