// From tensors to the typed kernels of launch.h.
#pragma once
#include <cstdint>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "../checks.h"
#include "launch.h"

namespace pentamask::cuda {

template <typename Stored, typename Compute>
struct Types {
  using T = Stored;
  using C = Compute;
};

// Calls run(Types<T, C>) for the stored type and launches on the current stream of the tensors' device.
template <typename Run>
void dispatch(at::ScalarType type, const Run& run) {
  if (type == at::kDouble) {
    C10_CUDA_CHECK(run(Types<double, double>()));
  } else if (type == at::kHalf) {
    C10_CUDA_CHECK(run(Types<__half, float>()));
  } else if (type == at::kBFloat16) {
    C10_CUDA_CHECK(run(Types<__nv_bfloat16, float>()));
  } else {
    C10_CUDA_CHECK(run(Types<float, float>()));
  }
}

template <typename T>
const T* read(const at::Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

// Null where the tensor is a gradient that nobody asked for.
template <typename T>
T* write(const at::Tensor& tensor, bool wanted = true) {
  return wanted ? static_cast<T*>(tensor.mutable_data_ptr()) : nullptr;
}

// Contiguous and aligned for vector loads; a view into the middle of a buffer may be neither.
inline at::Tensor packed(const at::Tensor& tensor) {
  const at::Tensor result = tensor.contiguous();
  return reinterpret_cast<uintptr_t>(result.const_data_ptr()) % 16 == 0 ? result : result.clone();
}

}  // namespace pentamask::cuda
