// What holds on every device: autocast, and spatial attention as the one output of its forward.
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <torch/library.h>

namespace pentamask {
namespace {

using at::Tensor;
using at::autocast::cached_cast;

template <typename Signature>
auto op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

// The maximum's channel is only worth its time where a gradient will be asked for.
Tensor spatial_attention(const Tensor& input, const Tensor& weight) {
  static const auto forward =
      op<std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, bool)>("pentamask::_spatial_attention_forward");
  const bool with_argmax = at::GradMode::is_enabled() && (input.requires_grad() || weight.requires_grad());
  return std::get<0>(forward.call(input, weight, with_argmax));
}

// Features in the autocast type, coordinates in float32: a 16 bit location is wrong by up to half a pixel.
template <c10::DeviceType device>
struct Autocast {
  c10::impl::ExcludeDispatchKeyGuard guard{c10::DispatchKeySet(at::autocast::get_autocast_dispatch_key_from_device_type(device))};
  at::ScalarType type = at::autocast::get_autocast_dtype(device);

  Tensor features(const Tensor& tensor) const {
    return cached_cast(type, tensor, device);
  }

  Tensor coordinates(const Tensor& tensor) const {
    return cached_cast(at::kFloat, tensor, device);
  }
};

template <c10::DeviceType device>
Tensor autocast_blend(const Tensor& bases, const Tensor& rois, const Tensor& attn, double spatial_scale, int64_t output_size) {
  static const auto blend = op<Tensor(const Tensor&, const Tensor&, const Tensor&, double, int64_t)>("pentamask::blend");
  const Autocast<device> cast;
  return blend.call(cast.features(bases), cast.coordinates(rois), cast.features(attn), spatial_scale, output_size);
}

template <c10::DeviceType device>
Tensor autocast_spatial_attention(const Tensor& input, const Tensor& weight) {
  const Autocast<device> cast;
  return spatial_attention(cast.features(input), cast.features(weight));
}

template <c10::DeviceType device>
Tensor autocast_ms_deform_attn(
    const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index, const Tensor& sampling_locations,
    const Tensor& attention_weights) {
  static const auto attend =
      op<Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&)>("pentamask::ms_deform_attn");
  const Autocast<device> cast;
  return attend.call(
      cast.features(value), spatial_shapes, level_start_index, cast.coordinates(sampling_locations),
      cast.coordinates(attention_weights));
}

template <c10::DeviceType device>
void register_autocast(torch::Library& m) {
  m.impl("blend", autocast_blend<device>);
  m.impl("spatial_attention", autocast_spatial_attention<device>);
  m.impl("ms_deform_attn", autocast_ms_deform_attn<device>);
}

}  // namespace

TORCH_LIBRARY_IMPL(pentamask, CompositeImplicitAutograd, m) {
  m.impl("spatial_attention", spatial_attention);
}

TORCH_LIBRARY_IMPL(pentamask, AutocastCPU, m) {
  register_autocast<c10::DeviceType::CPU>(m);
}

TORCH_LIBRARY_IMPL(pentamask, AutocastCUDA, m) {
  register_autocast<c10::DeviceType::CUDA>(m);
}

}  // namespace pentamask
