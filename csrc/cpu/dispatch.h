// The hot loops exist once per instruction set; this table holds the set that was chosen for this machine.
#pragma once
#include <type_traits>

#include "../bilinear.h"
#include "../kernels.h"

namespace pentamask::cpu {

// What the points of one head look at, one entry per point and in its number type, padded with empty levels by kGroup.
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

// A matrix [depth, columns] in blocks of kBlock columns, each row by row; the last block is filled up with zeros.
constexpr int kBlock = 16;
template <typename T>
struct PackedMatrix {
  const T* data;
  int64_t depth, columns;
};

// Where products of rows and a matrix go: rows `stride` apart. `bias` [columns], and `residual`, laid out like `data`, are
// added if they are not null; then, with `relu`, what is negative becomes 0.
template <typename T>
struct RowsOut {
  T* data;
  int64_t stride;
  const T *bias, *residual;
  bool relu;
};

// Ranges [begin, end) are over instances, rows of all images, RoIs, queries, tiles, or masks.
template <typename T>
struct Kernels {
  void (*blend)(const BlendArgs<T>&, T* out, int64_t begin, int64_t end);
  void (*blend_attn_grad)(const BlendArgs<T>&, const T* grad_out, T* grad_attn, int64_t begin, int64_t end);
  void (*blend_bases_grad)(const BlendArgs<T>&, const T* grad_out, T* grad_bases, int64_t begin, int64_t end);
  void (*spatial_attention)(
      const SpatialAttentionArgs<T>&, T* out, T* gate, int64_t* argmax, int64_t begin, int64_t end);
  void (*spatial_attention_grad)(
      const SpatialAttentionArgs<T>&, const T* grad_out, const T* gate, const int64_t* argmax, T* grad_input, T* grad_weight,
      int64_t begin, int64_t end);
  void (*ms_deform_attn)(const DeformAttnArgs<T>&, const Levels<T>&, const HeadRows<T>&, T* out, int64_t begin, int64_t end);
  void (*ms_deform_attn_grad)(
      const DeformAttnArgs<T>&, const Levels<T>&, const HeadRows<T>&, const DeformAttnGrads<T>&, int64_t first_point, int64_t last_point);
  void (*packed_linear)(
      const T* rows, int64_t stride, const PackedMatrix<T>&, const RowsOut<T>&, int64_t begin, int64_t end);
  void (*winograd_input)(const WinogradTiles&, const T* input, const T* zeros, T* out, int64_t begin, int64_t end);
  void (*winograd_output)(
      const WinogradTiles&, const T* products, const T* bias, bool relu, T* out, int64_t begin, int64_t end);
  void (*roi_align)(const RoiAlignArgs<T>&, T* out, int64_t begin, int64_t end);
  void (*resize_masks)(const ResizeArgs<T>&, bool* inside, T* sums, int64_t begin, int64_t end);
};

PENTAMASK_INLINE int64_t round_up(int64_t count, int64_t step) {
  return (count + step - 1) / step * step;
}

// How many items are worth a thread, if each takes `work` multiplications and additions: waking one costs some microseconds.
inline int64_t grain(int64_t work) {
  constexpr int64_t kWorthAThread = 32768;  // as of ATen's elementwise loops
  return kWorthAThread / (work > 0 ? work : 1) + 1;
}

// The kernels of the best instruction set that this machine has, or of a lower one that PENTAMASK_CPU_CAPABILITY
// (baseline, avx2 or avx512) asks for.
template <typename T>
const Kernels<T>& kernels();

}  // namespace pentamask::cpu
