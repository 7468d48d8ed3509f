// Registration of spatial attention's CPU kernels, and their parallel loops.
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "../checks.h"
#include "dispatch.h"

namespace pentamask::cpu {
namespace {

using at::Tensor;

template <typename T>
SpatialAttentionArgs<T> arguments(const Tensor& input, const Tensor& weight) {
  return {input.const_data_ptr<T>(), weight.const_data_ptr<T>(), input.size(0), input.size(1), input.size(2), input.size(3),
          weight.size(3), !input.is_contiguous()};
}

template <typename T>
int64_t work_per_roi(const SpatialAttentionArgs<T>& args) {
  return args.height * args.width * (args.channels + 2 * args.kernel * args.kernel);
}

template <typename T>
void run(const SpatialAttentionArgs<T>& args, const Tensor& out, const Tensor& gate, const Tensor& argmax) {
  int64_t* winners = argmax.dim() == 1 ? nullptr : argmax.mutable_data_ptr<int64_t>();
  at::parallel_for(0, args.batch, grain(work_per_roi(args)), [&](int64_t begin, int64_t end) {
    kernels<T>().spatial_attention(args, out.mutable_data_ptr<T>(), gate.mutable_data_ptr<T>(), winners, begin, end);
  });
}

std::tuple<Tensor, Tensor, Tensor> spatial_attention_forward(const Tensor& input_in, const Tensor& weight_in, bool with_argmax) {
  check_spatial_attention(input_in, weight_in);
  const auto type = compute_type(input_in.scalar_type());
  const Tensor input = input_in.contiguous(spatial_attention_layout(input_in)).to(type), weight = weight_in.to(type).contiguous();
  const std::vector<int64_t> map{input.size(0), 1, input.size(2), input.size(3)};
  Tensor out = at::empty_like(input), gate = at::empty(map, input.options());
  Tensor argmax = at::empty(with_argmax ? at::IntArrayRef(map) : at::IntArrayRef{0}, input.options().dtype(at::kLong));
  if (input.numel() > 0 && type == at::kDouble) {
    run(arguments<double>(input, weight), out, gate, argmax);
  } else if (input.numel() > 0) {
    run(arguments<float>(input, weight), out, gate, argmax);
  }
  return {out.to(input_in.scalar_type()), gate, argmax};
}

void check_winners(const Tensor& argmax, int64_t channels) {
  const int64_t* winners = argmax.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < argmax.numel(); ++i) {
    TORCH_CHECK_VALUE(
        winners[i] >= 0 && winners[i] < channels,
        "spatial_attention_backward: expected `argmax` in [0, ", channels, "), got ", winners[i]);
  }
}

template <typename T>
void run_backward(
    const SpatialAttentionArgs<T>& args, const Tensor& grad, const Tensor& gate, const Tensor& argmax, T* grad_input, T* grad_weights) {
  at::parallel_for(0, args.batch, grain(work_per_roi(args)), [&](int64_t begin, int64_t end) {
    kernels<T>().spatial_attention_grad(
        args, grad.const_data_ptr<T>(), gate.const_data_ptr<T>(), argmax.const_data_ptr<int64_t>(), grad_input, grad_weights,
        begin, end);
  });
}

std::tuple<Tensor, Tensor> spatial_attention_backward(
    const Tensor& grad_out, const Tensor& input_in, const Tensor& weight_in, const Tensor& gate_in, const Tensor& argmax_in,
    bool input_grad, bool weight_grad) {
  check_spatial_attention(input_in, weight_in);
  check_spatial_attention_grad(grad_out, input_in, gate_in, argmax_in);
  const auto type = compute_type(input_in.scalar_type());
  const auto layout = spatial_attention_layout(input_in);
  const Tensor input = input_in.contiguous(layout).to(type), weight = weight_in.to(type).contiguous();
  const Tensor grad = grad_out.contiguous(layout).to(type), gate = gate_in.contiguous(), argmax = argmax_in.contiguous();
  check_winners(argmax, input.size(1));
  Tensor grad_input = input_grad ? at::empty_like(input) : at::empty({0}, input.options());
  // One gradient a RoI, added in order afterwards: the same for any number of threads.
  Tensor grad_weights = at::empty({weight_grad ? input.size(0) : 0, 2, weight.size(2), weight.size(3)}, weight.options());
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    run_backward<T>(
        arguments<T>(input, weight), grad, gate, argmax, input_grad ? grad_input.mutable_data_ptr<T>() : nullptr,
        weight_grad ? grad_weights.mutable_data_ptr<T>() : nullptr);
  };
  if (input.numel() > 0 && type == at::kDouble) {
    run(double{});
  } else if (input.numel() > 0) {
    run(float{});
  } else {
    grad_weights.zero_();
  }
  Tensor grad_weight = weight_grad ? grad_weights.sum(0, true) : at::empty({0}, weight.options());
  return {grad_input.to(input_in.scalar_type()), grad_weight.to(weight_in.scalar_type())};
}

}  // namespace

TORCH_LIBRARY_IMPL(pentamask, CPU, m) {
  m.impl("_spatial_attention_forward", spatial_attention_forward);
  m.impl("spatial_attention_backward", spatial_attention_backward);
}

}  // namespace pentamask::cpu
