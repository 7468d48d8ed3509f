// What the CUDA kernels share: number types, vector loads and atomic adds. No header of torch, so these files compile fast.
#pragma once
#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include "../bilinear.h"
#include "../kernels.h"

namespace pentamask::cuda {

__device__ __forceinline__ float widen(float x) {
  return x;
}
__device__ __forceinline__ double widen(double x) {
  return x;
}
__device__ __forceinline__ float widen(__half x) {
  return __half2float(x);
}
__device__ __forceinline__ float widen(__nv_bfloat16 x) {
  return __bfloat162float(x);
}

__device__ __forceinline__ void narrow(float from, float& to) {
  to = from;
}
__device__ __forceinline__ void narrow(double from, double& to) {
  to = from;
}
__device__ __forceinline__ void narrow(float from, __half& to) {
  to = __float2half_rn(from);
}
__device__ __forceinline__ void narrow(float from, __nv_bfloat16& to) {
  to = __float2bfloat16_rn(from);
}

// V neighbours, read and written in one instruction where their size is 16 bytes or less.
template <typename T, int V>
struct alignas(sizeof(T) * V > 16 ? 16 : sizeof(T) * V) Pack {
  T lane[V];
};

template <int V>
__device__ __forceinline__ void atomic_add(float* to, const float (&from)[V]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if constexpr (V % 4 == 0) {
#pragma unroll
    for (int i = 0; i < V; i += 4) {
      atomicAdd(reinterpret_cast<float4*>(to + i), make_float4(from[i], from[i + 1], from[i + 2], from[i + 3]));
    }
  } else
#endif
  {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      atomicAdd(to + i, from[i]);
    }
  }
}

template <int V>
__device__ __forceinline__ void atomic_add(double* to, const double (&from)[V]) {
#pragma unroll
  for (int i = 0; i < V; ++i) {
    atomicAdd(to + i, from[i]);
  }
}

// Blocks for `items` pieces of work; kernels stride over what is left.
inline unsigned blocks_for(int64_t items, int64_t items_per_block) {
  const int64_t blocks = (items + items_per_block - 1) / items_per_block;
  return static_cast<unsigned>(blocks < (int64_t{1} << 20) ? blocks : int64_t{1} << 20);
}

}  // namespace pentamask::cuda
