// RoIAlign on channels-last maps: all channels of a pixel are read at once, and one call serves all levels of a pyramid.
#pragma once
#include "simd.h"

namespace pentamask {
namespace PENTAMASK_ISA {

// Where one sample lies along one axis: the two pixels around it, and the second one's share.
template <typename T>
struct AxisSample {
  int64_t low, high;
  T share;
  bool inside;

  PENTAMASK_METHOD AxisSample(T at, int64_t size) {
    inside = at >= T(-1) && at <= T(size);  // false for NaN
    const T clamped = !inside || at < T(0) ? T(0) : at;
    low = static_cast<int64_t>(clamped);
    if (low >= size - 1) {
      low = high = size - 1;
      share = T(0);
    } else {
      high = low + 1;
      share = clamped - T(low);
    }
  }
};

// to[channels] += the map's bilinear value, from four pixels' channels.
template <typename T>
PENTAMASK_INLINE void add_sample(
    const T* map, int64_t width, int64_t channels, const AxisSample<T>& y, const AxisSample<T>& x, T* to) {
  constexpr int W = kWidth<T>;
  const T *a = map + (y.low * width + x.low) * channels, *b = map + (y.low * width + x.high) * channels,
          *c = map + (y.high * width + x.low) * channels, *d = map + (y.high * width + x.high) * channels;
  const T top = T(1) - y.share, left = T(1) - x.share;
  const T wa = top * left, wb = top * x.share, wc = y.share * left, wd = y.share * x.share;
  int64_t i = 0;
  for (; i + W <= channels; i += W) {
    store<T, W>(
        to + i, load<T, W>(to + i) + wa * load<T, W>(a + i) + wb * load<T, W>(b + i) + wc * load<T, W>(c + i) + wd * load<T, W>(d + i));
  }
  for (; i < channels; ++i) {
    to[i] += wa * a[i] + wb * b[i] + wc * c[i] + wd * d[i];
  }
}

template <typename T>
PENTAMASK_INLINE int64_t samples_of(T side, const RoiAlignArgs<T>& args) {
  if (args.sampling_ratio > 0) {
    return args.sampling_ratio;
  }
  const T count = __builtin_ceil(side / T(args.output_size));
  return count >= T(1) ? (count < T(65536) ? static_cast<int64_t>(count) : 65536) : 0;
}

// Regions [begin, end), to [regions, output_size, output_size, channels].
template <typename T>
void roi_align(const RoiAlignArgs<T>& args, T* out, int64_t begin, int64_t end) {
  const int64_t cells = args.output_size, channels = args.channels;
  for (int64_t region = begin; region < end; ++region) {
    const T* roi = args.rois + region * 5;
    const int64_t level = args.levels[region], height = args.heights[level], width = args.widths[level];
    const T* map = args.maps[level] + static_cast<int64_t>(roi[0]) * height * width * channels;
    const T scale = T(args.scales[level]), shift = args.aligned ? T(0.5) : T(0);
    const T x1 = roi[1] * scale - shift, y1 = roi[2] * scale - shift;
    T roi_width = roi[3] * scale - shift - x1, roi_height = roi[4] * scale - shift - y1;
    if (!args.aligned) {
      roi_width = roi_width > T(1) ? roi_width : T(1);
      roi_height = roi_height > T(1) ? roi_height : T(1);
    }
    const T cell_width = roi_width / T(cells), cell_height = roi_height / T(cells);
    const int64_t rows = samples_of(roi_height, args), columns = samples_of(roi_width, args);
    const T count = T(rows * columns > 1 ? rows * columns : 1);
    for (int64_t cell = 0; cell < cells * cells; ++cell) {
      T* to = out + (region * cells * cells + cell) * channels;
      fill<T>(to, channels, T(0));
      for (int64_t row = 0; row < rows; ++row) {
        const AxisSample<T> y(y1 + T(cell / cells) * cell_height + (T(row) + T(0.5)) * cell_height / T(rows), height);
        for (int64_t column = 0; y.inside && column < columns; ++column) {
          const AxisSample<T> x(x1 + T(cell % cells) * cell_width + (T(column) + T(0.5)) * cell_width / T(columns), width);
          if (x.inside) {
            add_sample<T>(map, width, channels, y, x, to);
          }
        }
      }
      for (int64_t i = 0; i < channels; ++i) {
        to[i] /= count;
      }
    }
  }
}

}  // namespace PENTAMASK_ISA
}  // namespace pentamask
