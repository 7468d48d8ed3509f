// Masks resized bilinearly and compared with a threshold, without the resized masks themselves.
#pragma once
#include "simd.h"

namespace pentamask {
namespace PENTAMASK_ISA {

// For each column of the result the two columns that it lies between, and the second one's share; and two rows of masks
// resized along their rows only.
template <typename T>
struct ResizeMemory {
  int32_t *left, *right;
  T *share, *upper, *lower;

  ResizeMemory(const ResizeArgs<T>& args, Scratch& scratch) {
    left = scratch.take<int32_t>(args.out_width);
    right = scratch.take<int32_t>(args.out_width);
    share = scratch.take<T>(args.out_width);
    upper = scratch.take<T>(args.out_width);
    lower = scratch.take<T>(args.out_width);
  }
};

// As in `F.interpolate(..., align_corners=False)`.
template <typename T>
PENTAMASK_INLINE void source_of(int64_t at, int64_t size, int64_t out_size, int32_t* low, int32_t* high, T* share) {
  T source = (T(size) / T(out_size)) * (T(at) + T(0.5)) - T(0.5);
  source = source < T(0) ? T(0) : source;
  int64_t first = static_cast<int64_t>(source);
  first = first < size - 1 ? first : size - 1;
  *low = static_cast<int32_t>(first);
  *high = static_cast<int32_t>(first < size - 1 ? first + 1 : first);
  const T rest = source - T(first);
  *share = rest < T(1) ? rest : T(1);
}

template <typename T>
PENTAMASK_INLINE void resize_row(const T* from, const ResizeMemory<T>& memory, int64_t out_width, T* to) {
  for (int64_t x = 0; x < out_width; ++x) {
    to[x] = (T(1) - memory.share[x]) * from[memory.left[x]] + memory.share[x] * from[memory.right[x]];
  }
}

// Masks [begin, end), to inside [masks, out_height, out_width] and sums [masks, 2]: of the values inside, and their number.
template <typename T>
void resize_masks(const ResizeArgs<T>& args, bool* inside, T* sums, int64_t begin, int64_t end) {
  const Memory<ResizeMemory<T>> storage(args);
  Scratch scratch = storage.scratch();
  const ResizeMemory<T> memory(args, scratch);
  for (int64_t x = 0; x < args.out_width; ++x) {
    source_of<T>(x, args.width, args.out_width, memory.left + x, memory.right + x, memory.share + x);
  }
  for (int64_t mask = begin; mask < end; ++mask) {
    const T* from = args.masks + mask * args.height * args.width;
    double total = 0;
    int64_t count = 0;
    T *upper = memory.upper, *lower = memory.lower;
    int32_t in_upper = -1, in_lower = -1;
    for (int64_t y = 0; y < args.out_height; ++y) {
      int32_t low, high;
      T share;
      source_of<T>(y, args.height, args.out_height, &low, &high, &share);
      if (low == in_lower) {  // rows come in order: the lower becomes the upper
        T* swapped = upper;
        upper = lower;
        lower = swapped;
        in_upper = in_lower;
        in_lower = -1;
      }
      if (low != in_upper) {
        resize_row<T>(from + low * args.width, memory, args.out_width, upper);
        in_upper = low;
      }
      if (high != in_lower) {
        resize_row<T>(from + high * args.width, memory, args.out_width, lower);
        in_lower = high;
      }
      bool* to = inside + (mask * args.out_height + y) * args.out_width;
      T row_total = 0;
      int32_t row_count = 0;
      for (int64_t x = 0; x < args.out_width; ++x) {
        const T value = (T(1) - share) * upper[x] + share * lower[x];
        const bool is_inside = value > args.threshold;
        to[x] = is_inside;
        row_count += is_inside;
        row_total += is_inside ? value : T(0);
      }
      total += row_total;
      count += row_count;
    }
    sums[mask * 2] = T(total);
    sums[mask * 2 + 1] = T(count);
  }
}

}  // namespace PENTAMASK_ISA
}  // namespace pentamask
