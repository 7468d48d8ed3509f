// Multi-scale deformable attention. Points are taken sixteen at a time: first their corners' addresses and weights as
// vectors, then the rows of D channels that the corners name, which stay in the layout of `value`.
#pragma once
#include "simd.h"

namespace pentamask {
namespace PENTAMASK_ISA {

// The four corners (top left, top right, bottom left, bottom right) of a group of points of one query and head.
template <typename T>
struct alignas(64) Corners {
  T weight[4][kGroup];  // attention times the bilinear weight
  T dx[kGroup], dy[kGroup], attention[kGroup];
  int32_t inside[kGroup];
  int32_t token[4][kGroup];  // -1 for a pixel outside the level
  const T* row[4][kGroup];   // channels of the corner, zeros for a pixel outside
};

// Reads `count` points from `locations` and `weights`; the rest of the group looks at nothing.
template <typename T>
PENTAMASK_INLINE void locate(
    const T* __restrict locations, const T* __restrict weights, const PointLevels<T>& levels, int64_t first, int count,
    Corners<T>& corners) {
  alignas(64) T x[kGroup], y[kGroup], attention[kGroup];
  if (count == kGroup) {
    for (int i = 0; i < kGroup; ++i) {
      x[i] = locations[2 * i];
      y[i] = locations[2 * i + 1];
      attention[i] = weights[i];
    }
  } else {
    for (int i = 0; i < kGroup; ++i) {
      x[i] = i < count ? locations[2 * i] : T(-8);
      y[i] = i < count ? locations[2 * i + 1] : T(-8);
      attention[i] = i < count ? weights[i] : T(0);
    }
  }
  const T *__restrict width = levels.width + first, *__restrict height = levels.height + first;
  const int32_t *__restrict columns = levels.columns + first, *__restrict rows = levels.rows + first,
                *__restrict start = levels.start + first;
  for (int i = 0; i < kGroup; ++i) {
    const AxisSample<T> sx = zero_padded_sample(x[i], width[i]), sy = zero_padded_sample(y[i], height[i]);
    const bool inside = sx.inside & sy.inside;
    const T a = inside ? attention[i] : T(0), dx = sx.fraction, dy = sy.fraction;
    corners.dx[i] = dx;
    corners.dy[i] = dy;
    corners.attention[i] = a;
    corners.inside[i] = inside;
    corners.weight[0][i] = a * (T(1) - dy) * (T(1) - dx);
    corners.weight[1][i] = a * (T(1) - dy) * dx;
    corners.weight[2][i] = a * dy * (T(1) - dx);
    corners.weight[3][i] = a * dy * dx;
    const bool left = inside & (sx.low >= 0), right = inside & (sx.high < columns[i]);
    const bool top = sy.low >= 0, bottom = sy.high < rows[i];
    const int32_t token = start[i] + sy.low * columns[i] + sx.low;
    corners.token[0][i] = left & top ? token : -1;
    corners.token[1][i] = right & top ? token + 1 : -1;
    corners.token[2][i] = left & bottom ? token + columns[i] : -1;
    corners.token[3][i] = right & bottom ? token + columns[i] + 1 : -1;
  }
}

template <typename T>
PENTAMASK_INLINE void address(const T* head, int64_t stride, const T* zeros, Corners<T>& corners) {
  for (int c = 0; c < 4; ++c) {
    for (int i = 0; i < kGroup; ++i) {
      const int64_t token = corners.token[c][i];
      corners.row[c][i] = token < 0 ? zeros : head + token * stride;
    }
  }
}

// out[0 .. N * W) (+)= the weighted rows of the group.
template <typename T, int W, int N>
PENTAMASK_INLINE void sum_rows(const Corners<T>& corners, int count, int64_t channel, bool first, T* out) {
  Vector<T, W> sum[2][N];
  for (int n = 0; n < N; ++n) {
    sum[0][n] = first ? Vector<T, W>{} : load<T, W>(out + channel + n * W);
    sum[1][n] = Vector<T, W>{};
  }
  for (int i = 0; i < count; ++i) {
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const T* row = corners.row[c][i] + channel;
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        sum[c & 1][n] += corners.weight[c][i] * load<T, W>(row + n * W);
      }
    }
  }
  for (int n = 0; n < N; ++n) {
    store<T, W>(out + channel + n * W, sum[0][n] + sum[1][n]);
  }
}

// All channels from `channel` on, by the widest pieces that fit.
template <typename T, int W>
PENTAMASK_INLINE void sum_channels(const Corners<T>& corners, int count, int64_t channel, int64_t channels, bool first, T* out) {
  for (; channel + 2 * W <= channels; channel += 2 * W) {
    sum_rows<T, W, 2>(corners, count, channel, first, out);
  }
  for (; channel + W <= channels; channel += W) {
    sum_rows<T, W, 1>(corners, count, channel, first, out);
  }
  if constexpr (W > 1) {
    sum_channels<T, W / 2>(corners, count, channel, channels, first, out);
  }
}

// out [batch, queries, heads, channels] for the (image, head, query) triples [begin, end), query fastest: one head's
// levels stay in the cache while neighbouring queries look around neighbouring places.
template <typename T>
void ms_deform_attn(
    const DeformAttnArgs<T>& args, const PointLevels<T>& levels, T* out, const T* zeros, int64_t begin, int64_t end) {
  const int64_t points = args.levels * args.points, stride = args.heads * args.channels;
  Corners<T> corners;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t query = item % args.queries, head = item / args.queries % args.heads, image = item / args.queries / args.heads;
    const int64_t place = (image * args.queries + query) * args.heads + head;
    const T* rows = args.value + (image * args.tokens * args.heads + head) * args.channels;
    T* target = out + place * args.channels;
    for (int64_t first = 0; first < points; first += kGroup) {
      const int count = static_cast<int>(points - first < kGroup ? points - first : kGroup);
      const int64_t point = place * points + first;
      locate(args.locations + 2 * point, args.weights + point, levels, first, count, corners);
      address(rows, stride, zeros, corners);
      sum_channels<T, kWidth<T>>(corners, count, 0, args.channels, first == 0, target);
    }
  }
}

// lanes [0, W) of the result: the sum of each of the W vectors; a tree of log2(W) levels.
template <typename T, int W>
PENTAMASK_INLINE Vector<T, W> reduce(Vector<T, W>* parts) {
  if constexpr (W > 1) {
    typedef Vector<T, W> V;
    typedef decltype(V{} < V{}) Lanes;
    Lanes even, odd;
    for (int i = 0; i < W; ++i) {  // lanes 0, 2, 4, ... of both; lanes 1, 3, 5, ... of both
      even[i] = 2 * i;
      odd[i] = 2 * i + 1;
    }
#pragma GCC unroll 8
    for (int left = W / 2; left >= 1; left /= 2) {
#pragma GCC unroll 8
      for (int i = 0; i < left; ++i) {
        const V a = parts[2 * i], b = parts[2 * i + 1];
        parts[i] = __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, odd);
      }
    }
  }
  return parts[0];
}

// What the backward pass of one query and head works on. `to_grad`: distance from a row of value to its gradient's row.
template <typename T>
struct RowGrads {
  const T *out, *zeros;
  T* trash;
  int64_t to_grad;
  bool scatter, dot;
  alignas(64) T dots[4][kGroup] = {};  // the result's gradient times each corner's row
};

// One corner of W points: adds weight * grad to their rows, and grad * row to the dots.
template <typename T, int W, int N>
PENTAMASK_INLINE void spread_rows(const Corners<T>& corners, int c, int first, int64_t channel, RowGrads<T>& grads) {
  Vector<T, W> grad[N], parts[W];
  for (int n = 0; n < N; ++n) {
    grad[n] = load<T, W>(grads.out + channel + n * W);
  }
  if (grads.scatter) {
    for (int i = 0; i < W; ++i) {
      const T* row = corners.row[c][first + i];
      T* to = (row == grads.zeros ? grads.trash : const_cast<T*>(row) + grads.to_grad) + channel;
      for (int n = 0; n < N; ++n) {
        store<T, W>(to + n * W, load<T, W>(to + n * W) + corners.weight[c][first + i] * grad[n]);
      }
    }
  }
  if (grads.dot) {
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) {
      const T* row = corners.row[c][first + i] + channel;
      parts[i] = grad[0] * load<T, W>(row);
      for (int n = 1; n < N; ++n) {
        parts[i] += grad[n] * load<T, W>(row + n * W);
      }
    }
    T* dots = grads.dots[c] + first;
    store<T, W>(dots, load<T, W>(dots) + reduce<T, W>(parts));
  }
}

template <typename T, int W>
PENTAMASK_INLINE void spread_channels(const Corners<T>& corners, int count, int64_t channel, int64_t channels, RowGrads<T>& grads) {
  for (; channel + 2 * W <= channels; channel += 2 * W) {
    for (int first = 0; first < count; first += W) {
      for (int c = 0; c < 4; ++c) {
        spread_rows<T, W, 2>(corners, c, first, channel, grads);
      }
    }
  }
  for (; channel + W <= channels; channel += W) {
    for (int first = 0; first < count; first += W) {
      for (int c = 0; c < 4; ++c) {
        spread_rows<T, W, 1>(corners, c, first, channel, grads);
      }
    }
  }
  if constexpr (W > 1) {
    spread_channels<T, W / 2>(corners, count, channel, channels, grads);
  }
}

// The gradients of attention and location of a group, from the four dot products of each point.
template <typename T>
PENTAMASK_INLINE void point_grads(
    const Corners<T>& corners, const T (&dots)[4][kGroup], const T* width, const T* height, T* attention, T (*location)[2]) {
  for (int i = 0; i < kGroup; ++i) {
    const T dx = corners.dx[i], dy = corners.dy[i], a = corners.attention[i];
    const T top = dots[0][i] + dx * (dots[1][i] - dots[0][i]), bottom = dots[2][i] + dx * (dots[3][i] - dots[2][i]);
    const T along_x = (dots[1][i] - dots[0][i]) * (T(1) - dy) + (dots[3][i] - dots[2][i]) * dy;
    const bool inside = corners.inside[i];
    attention[i] = inside ? top + dy * (bottom - top) : T(0);
    location[i][0] = inside ? a * width[i] * along_x : T(0);
    location[i][1] = inside ? a * height[i] * (bottom - top) : T(0);
  }
}

// Gradients for the points [first_point, last_point) of the (image, head) pairs [begin, end). A pair owns its part of
// grad_value, and so do whole levels of a pair; queries are added in order.
template <typename T>
void ms_deform_attn_grad(
    const DeformAttnArgs<T>& args, const PointLevels<T>& levels, const cpu::DeformAttnGrads<T>& out, const T* zeros, T* trash,
    int64_t first_point, int64_t last_point, int64_t begin, int64_t end) {
  const int64_t points = args.levels * args.points, stride = args.heads * args.channels;
  Corners<T> corners;
  RowGrads<T> grads{nullptr, zeros, trash, out.value - args.value, out.value != nullptr, out.weights || out.locations};
  alignas(64) T attention[kGroup], location[kGroup][2];
  for (int64_t item = begin * args.queries; item < end * args.queries; ++item) {
    const int64_t query = item % args.queries, head = item / args.queries % args.heads, image = item / args.queries / args.heads;
    const int64_t place = (image * args.queries + query) * args.heads + head;
    const T* rows = args.value + (image * args.tokens * args.heads + head) * args.channels;
    grads.out = out.out + place * args.channels;
    for (int64_t first = first_point; first < last_point; first += kGroup) {
      const int count = static_cast<int>(last_point - first < kGroup ? last_point - first : kGroup);
      const int64_t point = place * points + first;
      locate(args.locations + 2 * point, args.weights + point, levels, first, count, corners);
      address(rows, stride, zeros, corners);
      fill(grads.dots[0], 4 * kGroup, T(0));
      spread_channels<T, kWidth<T>>(corners, count, 0, args.channels, grads);
      point_grads(corners, grads.dots, levels.width + first, levels.height + first, attention, location);
      if (out.weights) {
        __builtin_memcpy(out.weights + point, attention, count * sizeof(T));
      }
      if (out.locations) {
        __builtin_memcpy(out.locations + 2 * point, location, 2 * count * sizeof(T));
      }
    }
  }
}

}  // namespace PENTAMASK_ISA
}  // namespace pentamask
