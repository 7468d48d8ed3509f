// The hot loops exist once per instruction set; this table holds the set that was chosen for this machine.
#pragma once
#include <type_traits>

#include "../bilinear.h"
#include "../kernels.h"

namespace pentamask::cpu {

// What the points of one head look at, one entry a point and in its number type, padded with empty levels by kGroup.
// Tokens are counted in `Index`, which is as wide as T, so that vectors of both have the same lanes.
constexpr int kGroup = 16;
template <typename T, typename Index>
struct PointLevels {
  const T *width, *height;
  const Index *columns, *rows, *start;  // the same sizes as integers; first token of the level
};
template <typename T>
using Levels = PointLevels<T, std::conditional_t<sizeof(T) == 8, int64_t, int32_t>>;

// One head of one image: rows of `channels` numbers, `stride` apart, one a token; `zeros` is such a row for the pixels
// outside, `trash` one that takes their gradients. grad_value is null where it is not asked for.
template <typename T>
struct HeadRows {
  int64_t image, head;
  const T* value;
  T* grad_value;
  int64_t stride;
  const T* zeros;
  T* trash;
};

// The gradient of the result, and where those of locations and weights go; null: not asked for.
template <typename T>
struct DeformAttnGrads {
  const T* out;
  T *locations, *weights;
};

// Ranges [begin, end) are over instances, rows of all images, RoIs, or queries. Scratch is private to the call.
template <typename T>
struct Kernels {
  void (*blend)(const BlendArgs<T>&, T* out, char* scratch, int64_t begin, int64_t end);
  void (*blend_attn_grad)(const BlendArgs<T>&, const T* grad_out, T* grad_attn, char* scratch, int64_t begin, int64_t end);
  void (*blend_bases_grad)(const BlendArgs<T>&, const T* grad_out, T* grad_bases, char* scratch, int64_t begin, int64_t end);
  void (*spatial_attention)(
      const SpatialAttentionArgs<T>&, T* out, T* gate, int64_t* argmax, char* scratch, int64_t begin, int64_t end);
  void (*spatial_attention_grad)(
      const SpatialAttentionArgs<T>&, const T* grad_out, const T* gate, const int64_t* argmax, T* grad_input, T* grad_weight,
      char* scratch, int64_t begin, int64_t end);
  void (*ms_deform_attn)(const DeformAttnArgs<T>&, const Levels<T>&, const HeadRows<T>&, T* out, int64_t begin, int64_t end);
  void (*ms_deform_attn_grad)(
      const DeformAttnArgs<T>&, const Levels<T>&, const HeadRows<T>&, const DeformAttnGrads<T>&, int64_t first_point, int64_t last_point);
};

PENTAMASK_INLINE int64_t round_up(int64_t count, int64_t step) {
  return (count + step - 1) / step * step;
}

// Bytes of scratch for one call of the blend and spatial attention kernels; at least what they take.
template <typename T>
inline int64_t blend_scratch(const BlendArgs<T>& args) {
  const int64_t columns = round_up(args.output_size, kGroup), width = round_up(args.width, kGroup);
  const int64_t attn = round_up(args.attn_size, kGroup);
  const int64_t axes = 3 * columns * (3 * sizeof(int32_t) + 2 * sizeof(T));
  const int64_t entries = 2 * (2 * columns + 2 * args.output_size * kGroup);  // of the four lists of taps, times their lanes
  const int64_t taps = entries * (2 * sizeof(T) + sizeof(int32_t)) + 4 * (columns + width + attn + 4 * kGroup) * (2 * sizeof(int32_t) + sizeof(T));
  const int64_t rows = args.maps * (8 + args.attn_size) * (columns + 2 * kGroup) + 4 * columns + 2 * (width + attn);
  return 64 * 64 + axes + taps + (rows + args.maps * kGroup) * sizeof(T);
}

template <typename T>
inline int64_t spatial_attention_scratch(const SpatialAttentionArgs<T>& args) {
  const int64_t padded = (args.height + args.kernel) * (args.width + args.kernel) + args.kernel + kGroup;
  return 64 * 32 + padded * 10 * sizeof(T);
}

// The kernels of the best instruction set that this machine has, or of a lower one that PENTAMASK_CPU_CAPABILITY
// (baseline, avx2 or avx512) asks for.
template <typename T>
const Kernels<T>& kernels();

}  // namespace pentamask::cpu
