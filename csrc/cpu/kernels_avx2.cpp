// The hot loops, compiled for AVX2 and FMA.
#if defined(__x86_64__)
#include "dispatch.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#define PENTAMASK_ISA avx2
#define PENTAMASK_VECTOR_BYTES 32
#include "kernel_table.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
