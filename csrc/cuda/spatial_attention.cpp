// Registration of spatial attention's CUDA kernels.
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "dispatch.h"

namespace pentamask::cuda {
namespace {

using at::Tensor;

template <typename T>
SpatialAttentionArgs<T> arguments(const Tensor& input, const Tensor& weight) {
  // The kernels count the numbers of a RoI in 32 bit.
  TORCH_CHECK_VALUE(
      input.numel() / input.size(0) <= INT32_MAX, "spatial_attention: on a GPU a RoI has less than 2^31 numbers, got ", input.sizes());
  return {read<T>(input), read<T>(weight), input.size(0), input.size(1), input.size(2), input.size(3), weight.size(3),
          !input.is_contiguous()};
}

template <typename T, typename C>
Tensor scratch_for(const SpatialAttentionArgs<T>& args, const Tensor& input) {
  return at::empty({spatial_attention_scratch(args)}, input.options().dtype(compute_type(input.scalar_type())));
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& input_in, const Tensor& weight_in, bool with_argmax) {
  check_spatial_attention(input_in, weight_in);
  const c10::cuda::CUDAGuard guard(input_in.device());
  const Tensor input = input_in.contiguous(spatial_attention_layout(input_in)), weight = weight_in.contiguous();
  const std::vector<int64_t> map{input.size(0), 1, input.size(2), input.size(3)};
  Tensor out = at::empty_like(input), gate = at::empty(map, input.options().dtype(compute_type(input.scalar_type())));
  Tensor argmax = at::empty(with_argmax ? at::IntArrayRef(map) : at::IntArrayRef{0}, input.options().dtype(at::kLong));
  if (input.numel() > 0) {
    dispatch(input.scalar_type(), [&](auto types) {
      using T = typename decltype(types)::T;
      using C = typename decltype(types)::C;
      const auto args = arguments<T>(input, weight);
      const Tensor scratch = scratch_for<T, C>(args, input);
      return spatial_attention<T, C>(
          args, write<T>(out), write<C>(gate), write<int64_t>(argmax, with_argmax), write<C>(scratch),
          c10::cuda::getCurrentCUDAStream());
    });
  }
  return {out, gate, argmax};
}

std::tuple<Tensor, Tensor> backward(
    const Tensor& grad_out, const Tensor& input_in, const Tensor& weight_in, const Tensor& gate_in, const Tensor& argmax_in,
    bool input_grad, bool weight_grad) {
  check_spatial_attention(input_in, weight_in);
  check_spatial_attention_grad(grad_out, input_in, gate_in, argmax_in);
  const c10::cuda::CUDAGuard guard(input_in.device());
  const auto type = input_in.scalar_type();
  const auto layout = spatial_attention_layout(input_in);
  const Tensor input = input_in.contiguous(layout), weight = weight_in.contiguous(), argmax = argmax_in.contiguous();
  const Tensor grad = grad_out.to(type).contiguous(layout), gate = gate_in.contiguous();
  Tensor grad_input = input_grad ? at::empty_like(input) : at::empty({0}, input.options());
  // One gradient a RoI, added afterwards: no atomic adds.
  const int64_t size[] = {weight_grad ? input.size(0) : 0, 2, weight.size(2), weight.size(3)};
  const auto options = weight.options().dtype(compute_type(type));
  Tensor grad_weights = input.numel() > 0 ? at::empty(size, options) : at::zeros(size, options);
  if (input.numel() > 0) {
    dispatch(type, [&](auto types) {
      using T = typename decltype(types)::T;
      using C = typename decltype(types)::C;
      const auto args = arguments<T>(input, weight);
      const Tensor scratch = scratch_for<T, C>(args, input);
      return spatial_attention_grad<T, C>(
          args, read<T>(grad), read<C>(gate), read<int64_t>(argmax), write<T>(grad_input, input_grad),
          write<C>(grad_weights, weight_grad), write<C>(scratch), c10::cuda::getCurrentCUDAStream());
    });
  }
  Tensor grad_weight = weight_grad ? grad_weights.sum(0, true) : at::empty({0}, weight.options());
  return {grad_input, grad_weight.to(type)};
}

}  // namespace

TORCH_LIBRARY_IMPL(pentamask, CUDA, m) {
  m.impl("_spatial_attention_forward", forward);
  m.impl("spatial_attention_backward", backward);
}

}  // namespace pentamask::cuda
