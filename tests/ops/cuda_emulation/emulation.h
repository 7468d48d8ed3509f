// What csrc/cuda uses of CUDA, for the host compiler. build.py puts this in the place of CUDA's headers and rewrites kernels,
// shared memory and launches into the calls below; every thread of a block is then a fiber of its own, see emulation.cpp.
#pragma once
#include <math.h>  // exp of a float is a float, as on a GPU

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#define __host__
#define __device__
#define __forceinline__ inline
#define __CUDA_ARCH__ 900  // the branch with the widest instructions

using __half = c10::Half;
using __nv_bfloat16 = c10::BFloat16;
inline float __half2float(__half x) { return x; }
inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline __half __float2half_rn(float x) { return x; }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return x; }

struct alignas(16) float4 {
  float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

struct Dimension {
  unsigned x;
};
extern Dimension threadIdx, blockIdx, blockDim, gridDim;

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorLaunchFailure };
cudaError_t cudaGetLastError();  // and forgets it

float atomicAdd(float* to, float number);
double atomicAdd(double* to, double number);
float4 atomicAdd(float4* to, float4 numbers);

namespace emulation {

struct Configuration {
  unsigned blocks, threads;
  size_t shared_bytes;
  cudaStream_t stream;
};

const char* last_message();
void run(const Configuration& configuration, const std::function<void()>& thread);
void check_launch_bounds(unsigned most);
void* shared_memory(const void* key, size_t bytes);
void barrier(int line);
// Gives `value` to the other lanes in `mask` and takes that of lane `from`; lanes outside the warp have none.
uint64_t exchange(unsigned mask, uint64_t value, unsigned from, int line);

template <typename Kernel, typename... Arguments>
void launch(const Configuration& configuration, Kernel kernel, const Arguments&... arguments) {
  run(configuration, [&] { kernel(arguments...); });
}

template <typename Array, int line>
Array& shared() {
  static char key;
  return *static_cast<Array*>(shared_memory(&key, sizeof(Array)));
}

template <typename T>
T shuffle(unsigned mask, T value, unsigned from, int line) {
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  bits = exchange(mask, bits, from, line);
  memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace emulation

inline void __syncthreads(int line = __builtin_LINE()) { emulation::barrier(line); }

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned offset, int line = __builtin_LINE()) {
  const unsigned lane = threadIdx.x % 32;
  return emulation::shuffle(mask, value, lane + offset < 32 ? lane + offset : lane, line);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, unsigned bits, int line = __builtin_LINE()) {
  return emulation::shuffle(mask, value, threadIdx.x % 32 ^ bits, line);
}

#define C10_CUDA_CHECK(error) TORCH_CHECK((error) == cudaSuccess, emulation::last_message())

namespace c10::cuda {

struct CUDAGuard {
  template <typename Device>
  explicit CUDAGuard(const Device&) {}
};

inline cudaStream_t getCurrentCUDAStream() { return nullptr; }

}  // namespace c10::cuda
