// One axis of a bilinear sample, on the host and on the device. Each function is small enough to vanish into a vector loop.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define PENTAMASK_INLINE static __host__ __device__ __forceinline__
#else
#define PENTAMASK_INLINE static inline __attribute__((always_inline))
#endif

namespace pentamask {

// Two neighbouring pixels and the share of the second; `inside` is false where the sample counts as zero.
template <typename C>
struct AxisSample {
  int32_t low, high;
  C fraction;
  bool inside;
};

// RoIAlign's rule: outside [-1, size] the sample is zero, else the coordinate is clamped to the pixel centres. NaN is outside.
template <typename C>
PENTAMASK_INLINE AxisSample<C> roi_align_sample(C coordinate, int32_t size) {
  const bool inside = (coordinate >= C(-1)) & (coordinate <= C(size));
  C clamped = inside ? coordinate : C(0);
  clamped = clamped > C(0) ? clamped : C(0);
  const int32_t floor = static_cast<int32_t>(clamped);
  const bool last = floor >= size - 1;
  const int32_t low = last ? size - 1 : floor;
  return {low, last ? low : low + 1, last ? C(0) : clamped - C(floor), inside};
}

// Bilinear resizing with align_corners=False: output position `index` of an axis with `size` inputs, ratio = inputs / outputs.
template <typename C>
PENTAMASK_INLINE AxisSample<C> resize_sample(int32_t index, int32_t size, C ratio) {
  C source = (C(index) + C(0.5)) * ratio - C(0.5);
  source = source > C(0) ? source : C(0);
  const int32_t floor = static_cast<int32_t>(source);
  const int32_t low = floor < size - 1 ? floor : size - 1;
  return {low, low + 1 < size ? low + 1 : size - 1, source - C(low), true};
}

PENTAMASK_INLINE float round_down(float x) {
  return __builtin_floorf(x);
}

PENTAMASK_INLINE double round_down(double x) {
  return __builtin_floor(x);
}

// Whether height * width tokens from `start` on lie among `tokens` < 2^31; written so that no argument makes it overflow.
PENTAMASK_INLINE bool level_fits(int64_t height, int64_t width, int64_t start, int64_t tokens) {
  return height >= 0 && width >= 0 && height <= INT32_MAX && width <= INT32_MAX && start >= 0 && start <= tokens &&
      height * width <= tokens - start;
}

// Deformable attention's rule: pixel centres at integers, every pixel outside counts as zero by itself. `inside` says that
// the sample touches the level at all; a NaN, infinite or far location does not, and is never converted to an integer.
template <typename C>
PENTAMASK_INLINE AxisSample<C> zero_padded_sample(C location, C size) {
  const C coordinate = location * size - C(0.5);
  const bool inside = (coordinate > C(-1)) & (coordinate < size);
  const C safe = inside ? coordinate : C(0);
  const C floor = round_down(safe);
  const int32_t low = static_cast<int32_t>(floor);
  return {low, low + 1, safe - floor, inside};
}

}  // namespace pentamask
