// Argument checks shared by the CPU and CUDA registrations. Every message names the argument, what was expected and what came.
#pragma once
#include <cmath>
#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

namespace pentamask {

inline bool is_reduced(at::ScalarType type) {
  return type == at::kHalf || type == at::kBFloat16;
}

// The type that sums run in: float64 for float64, float32 for the rest.
inline at::ScalarType compute_type(at::ScalarType type) {
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

inline void check_float(const at::Tensor& tensor, const char* op, const char* name) {
  const auto type = tensor.scalar_type();
  TORCH_CHECK_TYPE(
      type == at::kFloat || type == at::kDouble || is_reduced(type),
      op, ": expected `", name, "` in float32, float64, float16 or bfloat16, got ", type);
}

inline void check_rank(const at::Tensor& tensor, int64_t rank, const char* op, const char* name, const char* shape) {
  TORCH_CHECK_VALUE(
      tensor.dim() == rank, op, ": expected `", name, "` of shape ", shape, ", got ", tensor.sizes());
}

inline void check_device(const at::Tensor& tensor, const at::Tensor& first, const char* op, const char* name, const char* first_name) {
  TORCH_CHECK_VALUE(
      tensor.device() == first.device(),
      op, ": expected `", name, "` on ", first.device(), " as `", first_name, "`, got ", tensor.device());
}

// Coordinates: float32, or the compute type of the features (float64 for float64), or 16 bit where that is allowed.
inline void check_coordinates(const at::Tensor& tensor, const at::Tensor& first, bool allow_reduced, const char* op, const char* name) {
  const auto type = tensor.scalar_type();
  TORCH_CHECK_TYPE(
      type == at::kFloat || (type == at::kDouble && first.scalar_type() == at::kDouble) || (allow_reduced && is_reduced(type)),
      op, ": expected `", name, "` in float32 (float64 with float64 features), got ", type);
}

inline void check_sizes(const at::Tensor& tensor, at::IntArrayRef sizes, const char* op, const char* name) {
  TORCH_CHECK_VALUE(tensor.sizes() == sizes, op, ": expected `", name, "` of shape ", sizes, ", got ", tensor.sizes());
}

// The gradient of the result: shape and device of the result; the caller converts its type.
inline void check_grad_out(const at::Tensor& grad_out, at::IntArrayRef sizes, const at::Tensor& first, const char* op, const char* first_name) {
  check_sizes(grad_out, sizes, op, "grad_out");
  check_float(grad_out, op, "grad_out");
  check_device(grad_out, first, op, "grad_out", first_name);
}

inline void check_blend(
    const at::Tensor& bases, const at::Tensor& rois, const at::Tensor& attn, double spatial_scale, int64_t output_size) {
  const char* op = "blend";
  check_rank(bases, 4, op, "bases", "[B, K, H, W]");
  check_rank(rois, 2, op, "rois", "[N, 5]");
  check_rank(attn, 4, op, "attn", "[N, K, A, A]");
  TORCH_CHECK_VALUE(rois.size(1) == 5, op, ": expected `rois` of shape [N, 5], got ", rois.sizes());
  TORCH_CHECK_VALUE(
      attn.size(0) == rois.size(0) && attn.size(1) == bases.size(1) && attn.size(2) == attn.size(3),
      op, ": expected `attn` of shape [", rois.size(0), ", ", bases.size(1), ", A, A] (one map a roi and basis), got ", attn.sizes());
  TORCH_CHECK_VALUE(std::isfinite(spatial_scale), op, ": expected a finite `spatial_scale`, got ", spatial_scale);
  TORCH_CHECK_VALUE(output_size >= 1, op, ": expected `output_size` >= 1, got ", output_size);
  TORCH_CHECK_VALUE(bases.size(1) >= 1, op, ": expected `bases` with at least one map, got ", bases.sizes());
  TORCH_CHECK_VALUE(
      rois.size(0) == 0 || (attn.numel() > 0 && bases.numel() > 0),
      op, ": expected non-empty `bases` and `attn` for ", rois.size(0), " `rois`, got ", bases.sizes(), " and ", attn.sizes());
  check_float(bases, op, "bases");
  check_coordinates(rois, bases, false, op, "rois");
  TORCH_CHECK_TYPE(
      attn.scalar_type() == bases.scalar_type(),
      op, ": expected `attn` in ", bases.scalar_type(), " as `bases`, got ", attn.scalar_type());
  check_device(rois, bases, op, "rois", "bases");
  check_device(attn, bases, op, "attn", "bases");
}

inline void check_spatial_attention(const at::Tensor& input, const at::Tensor& weight) {
  const char* op = "spatial_attention";
  check_rank(input, 4, op, "input", "[N, C, H, W]");
  check_rank(weight, 4, op, "weight", "[1, 2, k, k]");
  const auto k = weight.size(3);
  TORCH_CHECK_VALUE(
      weight.size(0) == 1 && weight.size(1) == 2 && weight.size(2) == k && (k == 3 || k == 7),
      op, ": expected `weight` of shape [1, 2, k, k] with k = 3 or 7, got ", weight.sizes());
  TORCH_CHECK_VALUE(
      input.size(1) >= 1,
      op, ": expected `input` with at least one channel, got ", input.sizes());
  check_float(input, op, "input");
  TORCH_CHECK_TYPE(
      weight.scalar_type() == input.scalar_type(),
      op, ": expected `weight` in ", input.scalar_type(), " as `input`, got ", weight.scalar_type());
  check_device(weight, input, op, "weight", "input");
}

inline void check_spatial_attention_grad(
    const at::Tensor& grad_out, const at::Tensor& input, const at::Tensor& gate, const at::Tensor& argmax) {
  const char* op = "spatial_attention_backward";
  check_grad_out(grad_out, input.sizes(), input, op, "input");
  check_sizes(gate, {input.size(0), 1, input.size(2), input.size(3)}, op, "gate");
  check_sizes(argmax, gate.sizes(), op, "argmax");
  const auto type = compute_type(input.scalar_type());
  TORCH_CHECK_TYPE(gate.scalar_type() == type, op, ": expected `gate` in ", type, ", got ", gate.scalar_type());
  TORCH_CHECK_TYPE(argmax.scalar_type() == at::kLong, op, ": expected `argmax` in int64, got ", argmax.scalar_type());
  check_device(gate, input, op, "gate", "input");
  check_device(argmax, input, op, "argmax", "input");
}

// Channels-last stays channels-last; everything else is taken as, and becomes, contiguous.
inline at::MemoryFormat spatial_attention_layout(const at::Tensor& input) {
  const bool channels_last = !input.is_contiguous() && input.is_contiguous(at::MemoryFormat::ChannelsLast);
  return channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

inline void check_ms_deform_attn(
    const at::Tensor& value, const at::Tensor& spatial_shapes, const at::Tensor& level_start_index,
    const at::Tensor& sampling_locations, const at::Tensor& attention_weights) {
  const char* op = "ms_deform_attn";
  check_rank(value, 4, op, "value", "[N, S, M, D]");
  check_rank(spatial_shapes, 2, op, "spatial_shapes", "[L, 2]");
  check_rank(sampling_locations, 6, op, "sampling_locations", "[N, Q, M, L, P, 2]");
  const auto levels = spatial_shapes.size(0), queries = sampling_locations.size(1), points = sampling_locations.size(4);
  check_sizes(spatial_shapes, {levels, 2}, op, "spatial_shapes");
  check_sizes(level_start_index, {levels}, op, "level_start_index");
  check_sizes(sampling_locations, {value.size(0), queries, value.size(2), levels, points, 2}, op, "sampling_locations");
  check_sizes(attention_weights, {value.size(0), queries, value.size(2), levels, points}, op, "attention_weights");
  TORCH_CHECK_VALUE(
      value.size(1) <= INT32_MAX, op, ": expected `value` with less than 2^31 tokens per image, got ", value.sizes());
  check_float(value, op, "value");
  check_coordinates(sampling_locations, value, true, op, "sampling_locations");
  TORCH_CHECK_TYPE(
      attention_weights.scalar_type() == value.scalar_type() || attention_weights.scalar_type() == at::kFloat,
      op, ": expected `attention_weights` in float32 or in ", value.scalar_type(), " as `value`, got ", attention_weights.scalar_type());
  TORCH_CHECK_TYPE(spatial_shapes.scalar_type() == at::kLong, op, ": expected `spatial_shapes` in int64, got ", spatial_shapes.scalar_type());
  TORCH_CHECK_TYPE(level_start_index.scalar_type() == at::kLong, op, ": expected `level_start_index` in int64, got ", level_start_index.scalar_type());
  check_device(spatial_shapes, value, op, "spatial_shapes", "value");
  check_device(level_start_index, value, op, "level_start_index", "value");
  check_device(sampling_locations, value, op, "sampling_locations", "value");
  check_device(attention_weights, value, op, "attention_weights", "value");
}

constexpr int64_t kColumnBlock = 16;  // columns of a packed matrix that lie side by side

inline void check_same_type(const at::Tensor& tensor, const at::Tensor& first, const char* op, const char* name) {
  TORCH_CHECK_TYPE(
      tensor.scalar_type() == first.scalar_type(),
      op, ": expected `", name, "` in ", first.scalar_type(), " as `input`, got ", tensor.scalar_type());
  check_device(tensor, first, op, name, "input");
}

// A packed matrix [..., blocks, depth, 16] that holds `columns`, and the bias.
inline void check_packed(
    const at::Tensor& input, const at::Tensor& weight, at::IntArrayRef sizes, const std::optional<at::Tensor>& bias, int64_t columns,
    const char* op) {
  TORCH_CHECK_TYPE(
      input.scalar_type() == at::kFloat || input.scalar_type() == at::kDouble,
      op, ": expected `input` in float32 or float64, got ", input.scalar_type());
  check_sizes(weight, sizes, op, "weight");
  check_same_type(weight, input, op, "weight");
  if (bias) {
    check_sizes(*bias, {columns}, op, "bias");
    check_same_type(*bias, input, op, "bias");
  }
}

inline int64_t column_blocks(int64_t columns, const char* op, const char* name) {
  TORCH_CHECK_VALUE(columns >= 1 && columns <= INT32_MAX, op, ": expected `", name, "` from 1 to 2^31 - 1, got ", columns);
  return (columns + kColumnBlock - 1) / kColumnBlock;
}

inline void check_packed_linear(
    const at::Tensor& input, const at::Tensor& weight, int64_t out_features, const std::optional<at::Tensor>& bias,
    const std::optional<at::Tensor>& residual) {
  const char* op = "packed_linear";
  const auto blocks = column_blocks(out_features, op, "out_features");
  TORCH_CHECK_VALUE(input.dim() >= 1, op, ": expected `input` of shape [..., features], got a number");
  check_packed(input, weight, {blocks, input.size(-1), kColumnBlock}, bias, out_features, op);
  if (residual) {
    auto sizes = input.sizes().vec();
    sizes.back() = out_features;
    check_sizes(*residual, sizes, op, "residual");
    check_same_type(*residual, input, op, "residual");
  }
}

inline void check_winograd_conv3x3(
    const at::Tensor& input, const at::Tensor& weight, int64_t out_channels, const std::optional<at::Tensor>& bias) {
  const char* op = "winograd_conv3x3";
  check_rank(input, 4, op, "input", "[N, C, H, W]");
  TORCH_CHECK_VALUE(input.size(1) >= 1, op, ": expected `input` with at least one channel, got ", input.sizes());
  const auto blocks = column_blocks(out_channels, op, "out_channels");
  check_packed(input, weight, {36, blocks, input.size(1), kColumnBlock}, bias, out_channels, op);
}

inline void check_roi_align_levels(
    at::TensorList maps, const at::Tensor& rois, const at::Tensor& levels, at::ArrayRef<double> scales, int64_t output_size,
    int64_t sampling_ratio) {
  const char* op = "roi_align_levels";
  TORCH_CHECK_VALUE(!maps.empty() && maps.size() == scales.size(), op, ": expected one of `scales` for each of `maps`");
  for (const auto& map : maps) {
    check_rank(map, 4, op, "maps", "[N, C, H, W]");
    TORCH_CHECK_TYPE(
        map.scalar_type() == maps[0].scalar_type() && (map.scalar_type() == at::kFloat || map.scalar_type() == at::kDouble),
        op, ": expected `maps` in float32 or all in float64, got ", map.scalar_type());
    TORCH_CHECK_VALUE(
        map.size(0) == maps[0].size(0) && map.size(1) == maps[0].size(1) && map.size(2) > 0 && map.size(3) > 0,
        op, ": expected non-empty `maps` of one number of images and channels, got ", maps[0].sizes(), " and ", map.sizes());
    check_device(map, maps[0], op, "maps", "maps[0]");
  }
  check_sizes(rois, {rois.size(0), 5}, op, "rois");
  TORCH_CHECK_TYPE(
      rois.scalar_type() == maps[0].scalar_type(), op, ": expected `rois` in ", maps[0].scalar_type(), " as `maps`, got ", rois.scalar_type());
  check_sizes(levels, {rois.size(0)}, op, "levels");
  TORCH_CHECK_TYPE(levels.scalar_type() == at::kLong, op, ": expected `levels` in int64, got ", levels.scalar_type());
  TORCH_CHECK_VALUE(
      output_size >= 1 && output_size <= 1024, op, ": expected `output_size` from 1 to 1024, got ", output_size);
  TORCH_CHECK_VALUE(
      sampling_ratio >= 0 && sampling_ratio <= 1024, op, ": expected `sampling_ratio` from 0 to 1024, got ", sampling_ratio);
}

inline void check_resize_masks(const at::Tensor& masks, int64_t height, int64_t width) {
  const char* op = "resize_masks";
  check_rank(masks, 3, op, "masks", "[N, h, w]");
  TORCH_CHECK_TYPE(
      masks.scalar_type() == at::kFloat || masks.scalar_type() == at::kDouble,
      op, ": expected `masks` in float32 or float64, got ", masks.scalar_type());
  TORCH_CHECK_VALUE(
      masks.size(0) == 0 || (masks.size(1) > 0 && masks.size(2) > 0), op, ": expected non-empty `masks`, got ", masks.sizes());
  TORCH_CHECK_VALUE(
      height >= 1 && width >= 1 && height <= INT32_MAX && width <= INT32_MAX,
      op, ": expected `height` and `width` from 1 on, got ", height, " and ", width);
}

}  // namespace pentamask
