// Entry points of the CUDA kernels for T = float, double, __half and __nv_bfloat16; C is the type that sums run in. All
// pointers are on the device of `stream`; each returns the launch's error. A gradient given as null is not computed.
#pragma once
#include <cuda_runtime_api.h>

#include "../kernels.h"

namespace pentamask::cuda {

template <typename T, typename C>
cudaError_t blend(const BlendArgs<T, C>& args, T* out, cudaStream_t stream);

// grad_bases must hold zeros. grad_logits is scratch for grad_attn: [instances, maps, output_size, output_size].
template <typename T, typename C>
cudaError_t blend_grad(
    const BlendArgs<T, C>& args, const T* grad_out, C* grad_bases, C* grad_attn, C* grad_logits, cudaStream_t stream);

// Numbers of scratch that the two functions below need.
template <typename T>
int64_t spatial_attention_scratch(const SpatialAttentionArgs<T>& args);

template <typename T, typename C>
cudaError_t spatial_attention(
    const SpatialAttentionArgs<T>& args, T* out, C* gate, int64_t* argmax, C* scratch, cudaStream_t stream);

// grad_weights: [batch, 2, kernel, kernel], one a RoI. A channel of argmax that does not exist counts as no maximum.
template <typename T, typename C>
cudaError_t spatial_attention_grad(
    const SpatialAttentionArgs<T>& args, const T* grad_out, const C* gate, const int64_t* argmax, T* grad_input, C* grad_weights,
    C* scratch, cudaStream_t stream);

template <typename T, typename C>
cudaError_t ms_deform_attn(const DeformAttnArgs<T, C>& args, T* out, cudaStream_t stream);

// grad_value must hold zeros.
template <typename T, typename C>
cudaError_t ms_deform_attn_grad(
    const DeformAttnArgs<T, C>& args, const T* grad_out, C* grad_value, C* grad_locations, C* grad_weights, cudaStream_t stream);

}  // namespace pentamask::cuda
