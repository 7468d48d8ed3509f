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
  Lane<T> inside[kGroup];    // all bits where the sample touches its level, else 0
  Lane<T> token[4][kGroup];  // -1 for a pixel outside the level
};

// The rows that a group reads: corner c of point i stands at c * points + i. `grad` has their gradients' rows, where those are
// wanted; then the list ends in kGroup rows of zeros, so it may be read in whole vectors.
template <typename T>
struct alignas(64) Rows {
  int count;
  const T* row[5 * kGroup];
  T* grad[5 * kGroup];
  T weight[5 * kGroup];
};

// One axis of W samples: the pixel centres lie at integers. A NaN, infinite or far location touches nothing, and is
// replaced before it would be converted to an integer.
template <typename T, int W>
struct AxisLanes {
  Vector<T, W> fraction;
  Vector<Lane<T>, W> low, touches;

  PENTAMASK_INLINE AxisLanes of(Vector<T, W> location, Vector<T, W> size) {
    typedef Vector<T, W> V;
    typedef Vector<Lane<T>, W> I;
    const V coordinate = location * size - T(0.5);
    const I touches = (coordinate > T(-1)) & (coordinate < size);
    const V safe = touches ? coordinate : V{};
    I low = __builtin_convertvector(safe, I);
    low += __builtin_convertvector(low, V) > safe;  // towards zero becomes downwards: a true lane is -1
    return {safe - __builtin_convertvector(low, V), low, touches};
  }
};

template <typename T, int W>
PENTAMASK_INLINE void locate_lanes(const T* locations, const T* weights, const Levels<T>& levels, int64_t first, int at, Corners<T>& to) {
  typedef Vector<T, W> V;
  typedef Vector<Lane<T>, W> I;
  const V ahead = load<T, W>(locations + 2 * at), behind = load<T, W>(locations + 2 * at + W);
  const auto x = AxisLanes<T, W>::of(even_lanes<T, W>(ahead, behind), load<T, W>(levels.width + first + at));
  const auto y = AxisLanes<T, W>::of(odd_lanes<T, W>(ahead, behind), load<T, W>(levels.height + first + at));
  const I columns = load<Lane<T>, W>(levels.columns + first + at), rows = load<Lane<T>, W>(levels.rows + first + at);
  const I inside = x.touches & y.touches;
  const V attention = inside ? load<T, W>(weights + at) : V{};
  const V dx = x.fraction, dy = y.fraction, top_weight = attention * (T(1) - dy), bottom_weight = attention * dy;
  store<T, W>(to.dx + at, dx);
  store<T, W>(to.dy + at, dy);
  store<T, W>(to.attention + at, attention);
  store<Lane<T>, W>(to.inside + at, inside);
  store<T, W>(to.weight[0] + at, top_weight * (T(1) - dx));
  store<T, W>(to.weight[1] + at, top_weight * dx);
  store<T, W>(to.weight[2] + at, bottom_weight * (T(1) - dx));
  store<T, W>(to.weight[3] + at, bottom_weight * dx);
  const I left = inside & (x.low >= 0), right = inside & (x.low + 1 < columns);
  const I top = y.low >= 0, bottom = y.low + 1 < rows;
  const I token = load<Lane<T>, W>(levels.start + first + at) + y.low * columns + x.low;
  store<Lane<T>, W>(to.token[0] + at, token | ~(left & top));
  store<Lane<T>, W>(to.token[1] + at, (token + 1) | ~(right & top));
  store<Lane<T>, W>(to.token[2] + at, (token + columns) | ~(left & bottom));
  store<Lane<T>, W>(to.token[3] + at, (token + columns + 1) | ~(right & bottom));
}

// Reads `count` points from `locations` and `weights`; the rest of the group looks at nothing.
template <typename T>
PENTAMASK_INLINE void locate(
    const T* locations, const T* weights, const Levels<T>& levels, int64_t first, int count, Corners<T>& corners) {
  alignas(64) T padded_locations[2 * kGroup], padded_weights[kGroup];
  if (count < kGroup) {
    fill(padded_locations, 2 * kGroup, T(-8));
    fill(padded_weights, kGroup, T(0));
    __builtin_memcpy(padded_locations, locations, 2 * count * sizeof(T));
    __builtin_memcpy(padded_weights, weights, count * sizeof(T));
    locations = padded_locations;
    weights = padded_weights;
  }
  for (int at = 0; at < kGroup; at += kWidth<T>) {
    locate_lanes<T, kWidth<T>>(locations, weights, levels, first, at, corners);
  }
}

// to[i] = row token[i] of `rows`, or `outside` where the token is -1.
template <typename T, typename Pointer>
PENTAMASK_INLINE void list_addresses(const Lane<T>* tokens, Pointer rows, int64_t stride, Pointer outside, Pointer* to) {
  constexpr int W = kWidth<double>;
  typedef Vector<int64_t, W> Addresses;
  for (int i = 0; i < kGroup; i += W) {
    const Addresses token = __builtin_convertvector((load<Lane<T>, W>(tokens + i)), Addresses);
    const Addresses address = reinterpret_cast<int64_t>(rows) + token * (stride * static_cast<int64_t>(sizeof(T)));
    const Addresses chosen = token < 0 ? Addresses{} + reinterpret_cast<int64_t>(outside) : address;
    __builtin_memcpy(to + i, &chosen, sizeof(chosen));
  }
}

template <typename T, bool kGrad>
PENTAMASK_INLINE void list_rows(const Corners<T>& corners, int points, const HeadRows<T>& head, Rows<T>& rows) {
  constexpr int W = kWidth<T>;
  alignas(64) static constexpr Lane<T> kOutside[kGroup] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
  rows.count = 4 * points;
  for (int c = 0; c < (kGrad ? 5 : 4); ++c) {  // whole groups: what a corner writes too much is overwritten by the next
    const Lane<T>* tokens = c < 4 ? corners.token[c] : kOutside;
    list_addresses<T>(tokens, head.value, head.stride, head.zeros, rows.row + c * points);
    if (kGrad) {
      list_addresses<T>(tokens, head.grad_value, head.stride, head.trash, rows.grad + c * points);
    }
    for (int i = 0; i < kGroup; i += W) {
      store<T, W>(rows.weight + c * points + i, c < 4 ? load<T, W>(corners.weight[c] + i) : Vector<T, W>{});
    }
  }
}

// out[0 .. N * W) (+)= the weighted rows of the group.
template <typename T, int W, int N>
PENTAMASK_INLINE void sum_rows(const Rows<T>& rows, int64_t channel, bool first, T* out) {
  Vector<T, W> sum[2][N];
  for (int n = 0; n < N; ++n) {
    sum[0][n] = first ? Vector<T, W>{} : load<T, W>(out + channel + n * W);
    sum[1][n] = Vector<T, W>{};
  }
  for (int i = 0; i < rows.count; i += 4) {
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const T* row = rows.row[i + c] + channel;
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        sum[c & 1][n] += rows.weight[i + c] * load<T, W>(row + n * W);
      }
    }
  }
  for (int n = 0; n < N; ++n) {
    store<T, W>(out + channel + n * W, sum[0][n] + sum[1][n]);
  }
}

// All channels from `channel` on, by the widest pieces that fit.
template <typename T, int W>
PENTAMASK_INLINE void sum_channels(const Rows<T>& rows, int64_t channel, int64_t channels, bool first, T* out) {
  if constexpr (W * sizeof(T) <= 32) {
    for (; channel + 4 * W <= channels; channel += 4 * W) {
      sum_rows<T, W, 4>(rows, channel, first, out);
    }
  }
  for (; channel + 2 * W <= channels; channel += 2 * W) {
    sum_rows<T, W, 2>(rows, channel, first, out);
  }
  for (; channel + W <= channels; channel += W) {
    sum_rows<T, W, 1>(rows, channel, first, out);
  }
  if constexpr (W > 1) {
    sum_channels<T, W / 2>(rows, channel, channels, first, out);
  }
}

// Asks for the numbers that belong to the query kAhead places on: one head's lie `heads` pieces apart, too far for the
// processor to guess well. The address may lie behind the end; a prefetch never faults.
constexpr int64_t kAhead = 6;
template <typename T>
PENTAMASK_INLINE void prefetch(const T* piece, int64_t size, int64_t heads) {
  if (piece != nullptr) {
    const uintptr_t first = reinterpret_cast<uintptr_t>(piece) + kAhead * heads * size * sizeof(T);
    for (uintptr_t line = 0; line < size * sizeof(T); line += 64) {
      __builtin_prefetch(reinterpret_cast<const char*>(first + line));
    }
  }
}

// out [batch, queries, heads, channels] for the queries [begin, end) of one head.
template <typename T>
void ms_deform_attn(
    const DeformAttnArgs<T>& args, const Levels<T>& levels, const HeadRows<T>& head, T* out, int64_t begin, int64_t end) {
  const int64_t points = args.levels * args.points;
  Corners<T> corners;
  Rows<T> rows;
  for (int64_t query = begin; query < end; ++query) {
    const int64_t place = (head.image * args.queries + query) * args.heads + head.head;
    prefetch(args.locations + 2 * place * points, 2 * points, args.heads);
    prefetch(args.weights + place * points, points, args.heads);
    prefetch(out + place * args.channels, args.channels, args.heads);
    for (int64_t first = 0; first < points; first += kGroup) {
      const int count = static_cast<int>(points - first < kGroup ? points - first : kGroup);
      const int64_t point = place * points + first;
      locate(args.locations + 2 * point, args.weights + point, levels, first, count, corners);
      list_rows<T, false>(corners, count, head, rows);
      sum_channels<T, kWidth<T>>(rows, 0, args.channels, first == 0, out + place * args.channels);
    }
  }
}

// Lane i of the result is the sum of the lanes of parts[i]: a tree of log2(W) levels.
template <typename T, int W>
PENTAMASK_INLINE Vector<T, W> reduce(Vector<T, W>* parts) {
  if constexpr (W > 1) {
#pragma GCC unroll 8
    for (int left = W / 2; left >= 1; left /= 2) {
#pragma GCC unroll 8
      for (int i = 0; i < left; ++i) {
        const Vector<T, W> a = parts[2 * i], b = parts[2 * i + 1];
        parts[i] = even_lanes<T, W>(a, b) + odd_lanes<T, W>(a, b);
      }
    }
  }
  return parts[0];
}

// What the backward pass of one query and head works on.
template <typename T>
struct RowGrads {
  const T* out;
  bool scatter, dot;
  alignas(64) T dots[5 * kGroup] = {};  // the result's gradient times each row
};

// W rows: adds grad * row to the dots.
template <typename T, int W, int N>
PENTAMASK_INLINE void dot_rows(const Rows<T>& rows, int first, const Vector<T, W>* grad, int64_t channel, RowGrads<T>& grads) {
  Vector<T, W> parts[W];
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) {
    const T* row = rows.row[first + i] + channel;
    parts[i] = grad[0] * load<T, W>(row);
    for (int n = 1; n < N; ++n) {
      parts[i] += grad[n] * load<T, W>(row + n * W);
    }
  }
  T* dots = grads.dots + first;
  store<T, W>(dots, load<T, W>(dots) + reduce<T, W>(parts));
}

// N * W channels: adds weight * grad to the gradients of the rows, and grad * row to the dots.
template <typename T, int W, int N>
PENTAMASK_INLINE void spread_rows(const Rows<T>& rows, int64_t channel, RowGrads<T>& grads) {
  Vector<T, W> grad[N];
  for (int n = 0; n < N; ++n) {
    grad[n] = load<T, W>(grads.out + channel + n * W);
  }
  for (int first = 0; first < rows.count && grads.dot; first += W) {
    dot_rows<T, W, N>(rows, first, grad, channel, grads);
  }
  for (int first = 0; first < rows.count && grads.scatter; first += 4) {
#pragma GCC unroll 4
    for (int i = first; i < first + 4; ++i) {
      T* to = rows.grad[i] + channel;
      for (int n = 0; n < N; ++n) {
        store<T, W>(to + n * W, load<T, W>(to + n * W) + rows.weight[i] * grad[n]);
      }
    }
  }
}

template <typename T, int W>
PENTAMASK_INLINE void spread_channels(const Rows<T>& rows, int64_t channel, int64_t channels, RowGrads<T>& grads) {
  if constexpr (W * sizeof(T) <= 32) {
    for (; channel + 4 * W <= channels; channel += 4 * W) {
      spread_rows<T, W, 4>(rows, channel, grads);
    }
  }
  for (; channel + 2 * W <= channels; channel += 2 * W) {
    spread_rows<T, W, 2>(rows, channel, grads);
  }
  for (; channel + W <= channels; channel += W) {
    spread_rows<T, W, 1>(rows, channel, grads);
  }
  if constexpr (W > 1) {
    spread_channels<T, W / 2>(rows, channel, channels, grads);
  }
}

// The gradients of attention and location of a group, from the four dot products of each point.
template <typename T>
PENTAMASK_INLINE void point_grads(
    const Corners<T>& corners, const T* dots, int points, const T* width, const T* height, T* attention, T (*location)[2]) {
  const T *d00 = dots, *d01 = dots + points, *d10 = dots + 2 * points, *d11 = dots + 3 * points;
  for (int i = 0; i < kGroup; ++i) {
    const T dx = corners.dx[i], dy = corners.dy[i], a = corners.attention[i];
    const T top = d00[i] + dx * (d01[i] - d00[i]), bottom = d10[i] + dx * (d11[i] - d10[i]);
    const T along_x = (d01[i] - d00[i]) * (T(1) - dy) + (d11[i] - d10[i]) * dy;
    const bool inside = corners.inside[i] != 0;
    attention[i] = inside ? top + dy * (bottom - top) : T(0);
    location[i][0] = inside ? a * width[i] * along_x : T(0);
    location[i][1] = inside ? a * height[i] * (bottom - top) : T(0);
  }
}

// Where the group that starts at `first` ends. Unless all points of a query fit into one group, a group stays inside its
// level: the order in which a row's gradients are added is then the same whether or not the levels are shared out.
PENTAMASK_INLINE int64_t group_end(int64_t first, int64_t last, int64_t points, int64_t points_per_level) {
  if (points <= kGroup) {
    return last;
  }
  const int64_t level_end = (first / points_per_level + 1) * points_per_level, end = level_end < last ? level_end : last;
  return end < first + kGroup ? end : first + kGroup;
}

// Gradients for the points [first_point, last_point) of all queries of one head. The head's part of grad_value, and each
// level of it, has one owner that adds the queries in order.
template <typename T>
void ms_deform_attn_grad(
    const DeformAttnArgs<T>& args, const Levels<T>& levels, const HeadRows<T>& head, const cpu::DeformAttnGrads<T>& out,
    int64_t first_point, int64_t last_point) {
  const int64_t points = args.levels * args.points;
  Corners<T> corners;
  Rows<T> rows;
  RowGrads<T> grads{nullptr, head.grad_value != nullptr, out.weights || out.locations};
  alignas(64) T attention[kGroup], location[kGroup][2];
  for (int64_t query = 0; query < args.queries; ++query) {
    const int64_t place = (head.image * args.queries + query) * args.heads + head.head;
    grads.out = out.out + place * args.channels;
    prefetch(args.locations + 2 * place * points, 2 * points, args.heads);
    prefetch(args.weights + place * points, points, args.heads);
    prefetch(grads.out, args.channels, args.heads);
    prefetch(out.locations ? out.locations + 2 * place * points : nullptr, 2 * points, args.heads);
    prefetch(out.weights ? out.weights + place * points : nullptr, points, args.heads);
    for (int64_t first = first_point, next; first < last_point; first = next) {
      next = group_end(first, last_point, points, args.points);
      const int count = static_cast<int>(next - first);
      const int64_t point = place * points + first;
      locate(args.locations + 2 * point, args.weights + point, levels, first, count, corners);
      list_rows<T, true>(corners, count, head, rows);
      fill(grads.dots, 5 * kGroup, T(0));
      spread_channels<T, kWidth<T>>(rows, 0, args.channels, grads);
      point_grads(corners, grads.dots, count, levels.width + first, levels.height + first, attention, location);
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
