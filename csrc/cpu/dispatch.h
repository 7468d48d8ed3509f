// The hot loops exist once per instruction set; this table holds the set that was chosen for this machine.
#pragma once
#include "../kernels.h"

namespace pentamask::cpu {

// What the points of one head look at, one entry a point, padded with empty levels to a multiple of kGroup.
constexpr int kGroup = 16;
template <typename T>
struct PointLevels {
  const T *width, *height;
  const int32_t *columns, *rows, *start;  // rows, columns: the same sizes as integers; start: first token
};

// Which of the three gradients of deformable attention are written; a null pointer is not computed.
template <typename T>
struct DeformAttnGrads {
  const T* out;
  T *value, *locations, *weights;
};

// Ranges are over instances, rows of all images, RoIs, or (image, head, query) triples. Scratch is private to the call.
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
  void (*ms_deform_attn)(const DeformAttnArgs<T>&, const PointLevels<T>&, T* out, const T* zeros, int64_t begin, int64_t end);
  void (*ms_deform_attn_grad)(
      const DeformAttnArgs<T>&, const PointLevels<T>&, const DeformAttnGrads<T>&, const T* zeros, T* trash,
      int64_t first_point, int64_t last_point, int64_t begin, int64_t end);
};

// Bytes of scratch for one call of the blend and spatial attention kernels.
template <typename T>
inline int64_t blend_scratch(const BlendArgs<T>& args) {
  const int64_t columns = (args.output_size + kGroup - 1) / kGroup * kGroup;
  return 64 * 32 + columns * (3 * (3 * sizeof(int32_t) + 2 * sizeof(T)) + (args.maps * (7 + args.attn_size) + 5) * sizeof(T));
}

template <typename T>
inline int64_t spatial_attention_scratch(const SpatialAttentionArgs<T>& args) {
  const int64_t padded = (args.height + args.kernel) * (args.width + args.kernel);
  return 64 * 32 + padded * 10 * sizeof(T);
}

// The kernels of the best instruction set that this machine has, or of a lower one that PENTAMASK_CPU_CAPABILITY
// (baseline, avx2 or avx512) asks for.
template <typename T>
const Kernels<T>& kernels();

}  // namespace pentamask::cpu
