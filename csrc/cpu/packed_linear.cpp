// Registration of products with packed matrices, and their parallel loop.
#include <optional>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "../checks.h"
#include "dispatch.h"

namespace pentamask::cpu {
namespace {

using at::Tensor;

Tensor packed_linear(
    const Tensor& input_in, const Tensor& weight_in, int64_t out_features, const std::optional<Tensor>& bias_in,
    const std::optional<Tensor>& residual_in, bool relu) {
  check_packed_linear(input_in, weight_in, out_features, bias_in, residual_in);
  const Tensor input = input_in.contiguous(), weight = weight_in.contiguous();
  const Tensor bias = bias_in ? bias_in->contiguous() : Tensor(), residual = residual_in ? residual_in->contiguous() : Tensor();
  auto sizes = input.sizes().vec();
  sizes.back() = out_features;
  Tensor out = at::empty(sizes, input.options());
  const int64_t depth = input.size(-1), rows = out.numel() / out_features;
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const PackedMatrix<T> matrix{weight.const_data_ptr<T>(), depth, out_features};
    const RowsOut<T> to{
        out.mutable_data_ptr<T>(), out_features, bias.defined() ? bias.const_data_ptr<T>() : nullptr,
        residual.defined() ? residual.const_data_ptr<T>() : nullptr, relu};
    at::parallel_for(0, rows, grain(depth * out_features / 16), [&](int64_t begin, int64_t end) {
      kernels<T>().packed_linear(input.const_data_ptr<T>(), depth, matrix, to, begin, end);
    });
  };
  if (input.scalar_type() == at::kDouble) {
    run(double{});
  } else {
    run(float{});
  }
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(pentamask, CPU, m) {
  m.impl("packed_linear", packed_linear);
}

}  // namespace pentamask::cpu
