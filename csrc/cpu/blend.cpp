// Registration of the blender's CPU kernels, and their parallel loops.
#include <algorithm>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "../bilinear.h"
#include "../checks.h"
#include "dispatch.h"

namespace pentamask::cpu {
namespace {

using at::Tensor;

// The inputs in the type that sums run in, contiguous; 16 bit inputs are widened once.
struct BlendInputs {
  Tensor bases, rois, attn;

  BlendInputs(const Tensor& bases_in, const Tensor& rois_in, const Tensor& attn_in) {
    const auto type = compute_type(bases_in.scalar_type());
    bases = bases_in.to(type).contiguous();
    rois = rois_in.to(type).contiguous();
    attn = attn_in.to(type).contiguous();
  }

  template <typename T>
  BlendArgs<T> args(double spatial_scale, int64_t output_size) const {
    return {bases.const_data_ptr<T>(), rois.const_data_ptr<T>(), attn.const_data_ptr<T>(), bases.size(0), bases.size(1),
            bases.size(2), bases.size(3), rois.size(0), attn.size(2), output_size, static_cast<T>(spatial_scale)};
  }
};

template <typename T>
void check_image_indices(const BlendArgs<T>& args) {
  for (int64_t n = 0; n < args.instances; ++n) {
    const T image = args.rois[5 * n];
    TORCH_CHECK_VALUE(
        image >= 0 && image < args.batch,
        "blend: expected image indices in [0, ", args.batch, ") in column 0 of `rois`, got ", image, " in row ", n);
  }
}

template <typename T>
int64_t work_per_instance(const BlendArgs<T>& args) {
  return args.maps * args.output_size * args.output_size;
}

template <typename T>
void run_blend(const BlendArgs<T>& args, T* out) {
  check_image_indices(args);
  at::parallel_for(0, args.instances, grain(work_per_instance(args)), [&](int64_t begin, int64_t end) {
    kernels<T>().blend(args, out, begin, end);
  });
}

// Borders of `parts` bands of the rows of all images with about equal numbers of output rows on them.
template <typename T>
std::vector<int64_t> row_bands(const BlendArgs<T>& args, int64_t parts) {
  const int64_t rows = args.batch * args.height;
  std::vector<int64_t> work(rows, 1);
  for (int64_t n = 0; n < args.instances; ++n) {
    const T* roi = args.rois + 5 * n;
    const T first = roi[2] * args.spatial_scale, step = (roi[4] - roi[2]) * args.spatial_scale / args.output_size;
    for (int64_t j = 0; j < args.output_size; ++j) {
      const AxisSample<T> sample = roi_align_sample(first - T(0.5) + (j + T(0.5)) * step, static_cast<int32_t>(args.height));
      work[static_cast<int64_t>(roi[0]) * args.height + sample.low] += sample.inside ? args.output_size : 0;
    }
  }
  int64_t total = 0, sum = 0;
  for (const int64_t w : work) {
    total += w;
  }
  std::vector<int64_t> borders{0};
  for (int64_t row = 0; row < rows; ++row) {
    sum += work[row];
    while (static_cast<int64_t>(borders.size()) < parts && sum * parts >= total * static_cast<int64_t>(borders.size())) {
      borders.push_back(row + 1);
    }
  }
  borders.resize(parts, rows);
  borders.push_back(rows);
  return borders;
}

template <typename T>
void run_blend_backward(const BlendArgs<T>& args, const T* grad_out, T* grad_bases, T* grad_attn) {
  check_image_indices(args);
  if (grad_attn != nullptr) {
    at::parallel_for(0, args.instances, grain(work_per_instance(args)), [&](int64_t begin, int64_t end) {
      kernels<T>().blend_attn_grad(args, grad_out, grad_attn, begin, end);
    });
  }
  if (grad_bases != nullptr && args.instances > 0) {
    const int64_t worth = args.instances / grain(work_per_instance(args));
    const int64_t parts = std::clamp<int64_t>(worth, 1, at::get_num_threads());
    const std::vector<int64_t> borders = row_bands(args, parts);
    at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
      kernels<T>().blend_bases_grad(args, grad_out, grad_bases, borders[begin], borders[end]);
    });
  }
}

Tensor blend(const Tensor& bases, const Tensor& rois, const Tensor& attn, double spatial_scale, int64_t output_size) {
  check_blend(bases, rois, attn, spatial_scale, output_size);
  const BlendInputs inputs(bases, rois, attn);
  Tensor out = at::empty({rois.size(0), output_size, output_size}, inputs.bases.options());
  if (inputs.bases.scalar_type() == at::kDouble) {
    run_blend(inputs.args<double>(spatial_scale, output_size), out.mutable_data_ptr<double>());
  } else {
    run_blend(inputs.args<float>(spatial_scale, output_size), out.mutable_data_ptr<float>());
  }
  return out.to(bases.scalar_type());
}

std::tuple<Tensor, Tensor> blend_backward(
    const Tensor& grad_out, const Tensor& bases, const Tensor& rois, const Tensor& attn, double spatial_scale, int64_t output_size,
    bool bases_grad, bool attn_grad) {
  check_blend(bases, rois, attn, spatial_scale, output_size);
  check_grad_out(grad_out, {rois.size(0), output_size, output_size}, bases, "blend_backward", "bases");
  const BlendInputs inputs(bases, rois, attn);
  const auto options = inputs.bases.options();
  const Tensor grad = grad_out.to(options.dtype()).contiguous();
  Tensor grad_bases = at::zeros(bases_grad ? bases.sizes() : at::IntArrayRef{0}, options);
  Tensor grad_attn = at::zeros(attn_grad ? attn.sizes() : at::IntArrayRef{0}, options);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    run_blend_backward<T>(
        inputs.args<T>(spatial_scale, output_size), grad.const_data_ptr<T>(),
        bases_grad ? grad_bases.mutable_data_ptr<T>() : nullptr, attn_grad ? grad_attn.mutable_data_ptr<T>() : nullptr);
  };
  if (inputs.bases.scalar_type() == at::kDouble) {
    run(double{});
  } else {
    run(float{});
  }
  return {grad_bases.to(bases.scalar_type()), grad_attn.to(bases.scalar_type())};
}

}  // namespace

TORCH_LIBRARY_IMPL(pentamask, CPU, m) {
  m.impl("blend", blend);
  m.impl("blend_backward", blend_backward);
}

}  // namespace pentamask::cpu
