// The hot loops, compiled for AVX-512.
#if defined(__x86_64__)
#include "dispatch.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,avx512f,avx512dq,avx512bw,avx512vl"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,avx512f,avx512dq,avx512bw,avx512vl,prefer-vector-width=512")
#endif

#define PENTAMASK_ISA avx512
#define PENTAMASK_VECTOR_BYTES 64
#include "kernel_table.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
