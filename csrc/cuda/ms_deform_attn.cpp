// Registration of deformable attention's CUDA kernels.
#include <ATen/Context.h>
#include <torch/library.h>

#include "dispatch.h"

namespace pentamask::cuda {
namespace {

using at::Tensor;

// Locations and weights in the type that sums run in; the level sizes are read on the device, never on the host.
struct DeformAttnInputs {
  Tensor value, shapes, starts, locations, weights;

  DeformAttnInputs(
      const Tensor& value_in, const Tensor& spatial_shapes, const Tensor& level_start_index, const Tensor& sampling_locations,
      const Tensor& attention_weights)
      : value(packed(value_in)),
        shapes(spatial_shapes.contiguous()),
        starts(level_start_index.contiguous()),
        locations(sampling_locations.to(compute_type(value_in.scalar_type())).contiguous()),
        weights(attention_weights.to(compute_type(value_in.scalar_type())).contiguous()) {
    // The kernels count both in 32 bit.
    TORCH_CHECK_VALUE(
        value.size(2) * value.size(3) <= INT32_MAX && locations.size(3) * locations.size(4) <= INT32_MAX,
        "ms_deform_attn: on a GPU a token has less than 2^31 numbers and a query less than 2^31 points, got ", value.sizes(), " and ",
        locations.sizes());
  }

  template <typename T, typename C>
  DeformAttnArgs<T, C> args() const {
    return {read<T>(value), read<int64_t>(shapes), read<int64_t>(starts), read<C>(locations), read<C>(weights), value.size(0),
            value.size(1), value.size(2), value.size(3), shapes.size(0), locations.size(4), locations.size(1)};
  }
};

Tensor forward(
    const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index, const Tensor& sampling_locations,
    const Tensor& attention_weights) {
  check_ms_deform_attn(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  const c10::cuda::CUDAGuard guard(value.device());
  const DeformAttnInputs inputs(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  const int64_t size[] = {value.size(0), sampling_locations.size(1), value.size(2) * value.size(3)};
  const bool samples = sampling_locations.numel() > 0;
  Tensor out = samples ? at::empty(size, value.options()) : at::zeros(size, value.options());
  if (samples && out.numel() > 0) {
    dispatch(value.scalar_type(), [&](auto types) {
      using T = typename decltype(types)::T;
      using C = typename decltype(types)::C;
      return ms_deform_attn<T, C>(inputs.args<T, C>(), write<T>(out), c10::cuda::getCurrentCUDAStream());
    });
  }
  return out;
}

std::tuple<Tensor, Tensor, Tensor> backward(
    const Tensor& grad_out, const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
    const Tensor& sampling_locations, const Tensor& attention_weights, bool value_grad, bool locations_grad, bool weights_grad) {
  check_ms_deform_attn(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  check_grad_out(
      grad_out, {value.size(0), sampling_locations.size(1), value.size(2) * value.size(3)}, value, "ms_deform_attn_backward", "value");
  if (value_grad) {
    at::globalContext().alertNotDeterministic("pentamask::ms_deform_attn_backward (CUDA)");
  }
  const c10::cuda::CUDAGuard guard(value.device());
  const DeformAttnInputs inputs(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  const Tensor grad = packed(grad_out.to(value.scalar_type()));
  const auto options = value.options().dtype(compute_type(value.scalar_type()));
  const bool launched = sampling_locations.numel() > 0 && grad.numel() > 0;
  const auto size = [](bool wanted, const Tensor& like) { return wanted ? like.sizes() : at::IntArrayRef{0}; };
  // The kernel adds to the gradient of `value` and writes the other two.
  const auto make = [&](bool wanted, const Tensor& like) {
    return launched ? at::empty(size(wanted, like), options) : at::zeros(size(wanted, like), options);
  };
  Tensor grad_value = at::zeros(size(value_grad, value), options);
  Tensor grad_locations = make(locations_grad, sampling_locations), grad_weights = make(weights_grad, attention_weights);
  if (launched) {
    dispatch(value.scalar_type(), [&](auto types) {
      using T = typename decltype(types)::T;
      using C = typename decltype(types)::C;
      return ms_deform_attn_grad<T, C>(
          inputs.args<T, C>(), read<T>(grad), write<C>(grad_value, value_grad), write<C>(grad_locations, locations_grad),
          write<C>(grad_weights, weights_grad), c10::cuda::getCurrentCUDAStream());
    });
  }
  return {grad_value.to(value.scalar_type()), grad_locations.to(sampling_locations.scalar_type()),
          grad_weights.to(attention_weights.scalar_type())};
}

}  // namespace

TORCH_LIBRARY_IMPL(pentamask, CUDA, m) {
  m.impl("ms_deform_attn", forward);
  m.impl("ms_deform_attn_backward", backward);
}

}  // namespace pentamask::cuda
