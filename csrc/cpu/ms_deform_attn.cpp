// Registration of deformable attention's CPU kernels, and their parallel loops.
#include <algorithm>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "../checks.h"
#include "dispatch.h"

namespace pentamask::cpu {
namespace {

using at::Tensor;

// Fewer (image, head, query) triples than this are not worth a second thread.
constexpr int64_t kGrain = 128;

// The inputs in the type that sums run in, contiguous; 16 bit inputs are widened once.
struct DeformAttnInputs {
  Tensor value, shapes, starts, locations, weights;

  DeformAttnInputs(
      const Tensor& value_in, const Tensor& spatial_shapes, const Tensor& level_start_index, const Tensor& sampling_locations,
      const Tensor& attention_weights) {
    check_ms_deform_attn(value_in, spatial_shapes, level_start_index, sampling_locations, attention_weights);
    const auto type = compute_type(value_in.scalar_type());
    value = value_in.to(type).contiguous();
    shapes = spatial_shapes.contiguous();
    starts = level_start_index.contiguous();
    locations = sampling_locations.to(type).contiguous();
    weights = attention_weights.to(type).contiguous();
    check_levels(shapes.const_data_ptr<int64_t>(), starts.const_data_ptr<int64_t>());
  }

  void check_levels(const int64_t* shape, const int64_t* start) const {
    const int64_t tokens = value.size(1);
    for (int64_t level = 0; level < shapes.size(0); ++level) {
      const int64_t height = shape[2 * level], width = shape[2 * level + 1];
      const bool fits = height >= 0 && width >= 0 && start[level] >= 0 && height <= INT32_MAX && width <= INT32_MAX &&
          start[level] <= tokens && height * width <= tokens - start[level];
      TORCH_CHECK_VALUE(
          fits, "ms_deform_attn: level ", level, " of `spatial_shapes` (", height, " x ", width, " from token ", start[level],
          ") does not fit into the ", tokens, " tokens of `value`");
    }
  }

  template <typename T>
  DeformAttnArgs<T> args() const {
    return {value.const_data_ptr<T>(), shapes.const_data_ptr<int64_t>(), starts.const_data_ptr<int64_t>(),
            locations.const_data_ptr<T>(), weights.const_data_ptr<T>(), value.size(0), value.size(1), value.size(2),
            value.size(3), shapes.size(0), locations.size(4), locations.size(1)};
  }
};

// The level of every point, padded for a group that starts at the last one.
template <typename T>
struct PointLevelTable {
  std::vector<T> width, height;
  std::vector<int32_t> columns, rows, start;

  explicit PointLevelTable(const DeformAttnArgs<T>& args) {
    const int64_t points = args.levels * args.points;
    for (int64_t point = 0; point < points + kGroup; ++point) {
      const int64_t level = point < points ? point / args.points : -1;
      rows.push_back(level < 0 ? 0 : static_cast<int32_t>(args.spatial_shapes[2 * level]));
      columns.push_back(level < 0 ? 0 : static_cast<int32_t>(args.spatial_shapes[2 * level + 1]));
      start.push_back(level < 0 ? 0 : static_cast<int32_t>(args.level_start_index[level]));
      height.push_back(rows.back());
      width.push_back(columns.back());
    }
  }

  PointLevels<T> view() const {
    return {width.data(), height.data(), columns.data(), rows.data(), start.data()};
  }
};

template <typename T>
void run(const DeformAttnArgs<T>& args, T* out) {
  const PointLevelTable<T> table(args);
  const std::vector<T> zeros(args.channels);
  at::parallel_for(0, args.batch * args.heads * args.queries, kGrain, [&](int64_t begin, int64_t end) {
    kernels<T>().ms_deform_attn(args, table.view(), out, zeros.data(), begin, end);
  });
}

// One owner for each image and head, or, with more threads than those, for each of their levels as well.
template <typename T>
void run_backward(const DeformAttnArgs<T>& args, const DeformAttnGrads<T>& grads) {
  const PointLevelTable<T> table(args);
  const std::vector<T> zeros(args.channels);
  const int64_t pairs = args.batch * args.heads, points = args.levels * args.points;
  const int64_t parts = pairs < at::get_num_threads() ? args.levels : 1, step = points / parts;
  at::parallel_for(0, pairs * parts, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> trash(args.channels);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t pair = task / parts, first = task % parts * step;
      kernels<T>().ms_deform_attn_grad(
          args, table.view(), grads, zeros.data(), trash.data(), first, first + step, pair, pair + 1);
    }
  });
}

Tensor ms_deform_attn(
    const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index, const Tensor& sampling_locations,
    const Tensor& attention_weights) {
  const DeformAttnInputs inputs(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  const std::vector<int64_t> sizes{value.size(0), sampling_locations.size(1), value.size(2) * value.size(3)};
  const bool nothing = sampling_locations.numel() == 0 || value.size(3) == 0;
  Tensor out = nothing ? at::zeros(sizes, inputs.value.options()) : at::empty(sizes, inputs.value.options());
  if (!nothing && out.scalar_type() == at::kDouble) {
    run(inputs.args<double>(), out.mutable_data_ptr<double>());
  } else if (!nothing) {
    run(inputs.args<float>(), out.mutable_data_ptr<float>());
  }
  return out.to(value.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor> ms_deform_attn_backward(
    const Tensor& grad_out, const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
    const Tensor& sampling_locations, const Tensor& attention_weights, bool value_grad, bool locations_grad, bool weights_grad) {
  const DeformAttnInputs inputs(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  check_grad_out(
      grad_out, {value.size(0), sampling_locations.size(1), value.size(2) * value.size(3)}, value, "ms_deform_attn_backward", "value");
  const auto options = inputs.value.options();
  const Tensor grad = grad_out.to(options.dtype()).contiguous();
  const bool nothing = sampling_locations.numel() == 0;
  const auto make = [&](bool wanted, const Tensor& like) {
    return nothing ? at::zeros(wanted ? like.sizes() : at::IntArrayRef{0}, options)
                   : at::empty(wanted ? like.sizes() : at::IntArrayRef{0}, options);
  };
  Tensor grad_value = at::zeros(value_grad ? value.sizes() : at::IntArrayRef{0}, options);
  Tensor grad_locations = make(locations_grad, sampling_locations), grad_weights = make(weights_grad, attention_weights);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    run_backward<T>(
        inputs.args<T>(),
        {grad.const_data_ptr<T>(), value_grad ? grad_value.mutable_data_ptr<T>() : nullptr,
         locations_grad ? grad_locations.mutable_data_ptr<T>() : nullptr,
         weights_grad ? grad_weights.mutable_data_ptr<T>() : nullptr});
  };
  if (!nothing && options.dtype() == at::kDouble) {
    run(double{});
  } else if (!nothing) {
    run(float{});
  }
  return {grad_value.to(value.scalar_type()), grad_locations.to(sampling_locations.scalar_type()),
          grad_weights.to(attention_weights.scalar_type())};
}

}  // namespace

TORCH_LIBRARY_IMPL(pentamask, CPU, m) {
  m.impl("ms_deform_attn", ms_deform_attn);
  m.impl("ms_deform_attn_backward", ms_deform_attn_backward);
}

}  // namespace pentamask::cpu
