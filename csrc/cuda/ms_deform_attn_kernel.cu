// Multi-scale deformable attention. A block works on neighbouring queries of one head, which look at neighbouring rows; a few
// lanes on one query, each on V channels that it reads at once. The corners of the block's points are computed once, into
// shared memory, so no lane repeats another's coordinates.
#include <type_traits>

#include "device.cuh"
#include "launch.h"

namespace pentamask::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kFewThreads = 64;  // of a block, where larger ones would leave processors idle
constexpr int64_t kManyBlocks = 512;
constexpr int kSlots = 512;  // points in shared memory

// How a block is divided: `lanes` (a power of two, 4 to 32) a query, `queries` a block, `tile` points of each at a time.
// There are `blocks` such pieces of work.
struct Division {
  unsigned threads;
  int lanes, queries, tile;
  int64_t query_blocks, blocks;
};

template <int V, typename T, typename C>
Division divide(const DeformAttnArgs<T, C>& args) {
  int lanes = 4;
  while (lanes < 32 && lanes * V < args.channels) {
    lanes *= 2;
  }
  Division division{};
  for (const unsigned threads : {kThreads, kFewThreads}) {
    const int queries = static_cast<int>(threads) / lanes, most = kSlots / queries;
    const int64_t query_blocks = (args.queries + queries - 1) / queries, points = args.levels * args.points;
    division = {threads, lanes, queries, points < most ? static_cast<int>(points) : most, query_blocks,
                query_blocks * args.batch * args.heads};
    if (division.blocks >= kManyBlocks) {
      break;
    }
  }
  return division;
}

// What a block does at a time: some neighbouring queries of one head. `pair` numbers the first (query, head) pair.
struct Work {
  int64_t image, head, pair;
  int queries;
};

template <typename T, typename C>
__device__ __forceinline__ Work work_of(const DeformAttnArgs<T, C>& args, const Division& division, int64_t index) {
  const int64_t place = index / args.heads, head = index % args.heads;
  const int64_t image = place / division.query_blocks, query = place % division.query_blocks * division.queries;
  const int64_t left = args.queries - query;
  return {image, head, (image * args.queries + query) * args.heads + head,
          left < division.queries ? static_cast<int>(left) : division.queries};
}

// Where a point lies in its level, whose first token is `start`; `valid` says that it touches a token of it.
template <typename C>
struct Place {
  AxisSample<C> x, y;
  int32_t height, width, start;
  bool valid, left, right, top, bottom;  // and which of its columns and rows exist
};

template <typename T, typename C>
__device__ __forceinline__ Place<C> place_of(const DeformAttnArgs<T, C>& args, int64_t pair, int64_t point) {
  const int64_t level = static_cast<uint32_t>(point) / static_cast<uint32_t>(args.points);
  const C* location = args.locations + 2 * (pair * args.levels * args.points + point);
  const int64_t height = args.spatial_shapes[2 * level], width = args.spatial_shapes[2 * level + 1];
  const int64_t start = args.level_start_index[level];
  Place<C> place{
      zero_padded_sample(location[0], C(static_cast<int32_t>(width))),
      zero_padded_sample(location[1], C(static_cast<int32_t>(height))), static_cast<int32_t>(height),
      static_cast<int32_t>(width), static_cast<int32_t>(start)};
  place.left = place.x.low >= 0;
  place.right = place.x.high < place.width;
  place.top = place.y.low >= 0;
  place.bottom = place.y.high < place.height;
  // The level must lie inside `value`: a wrong shape gives zeros here, as checking it would stall the stream. One without
  // rows or columns has points that touch it, but no token.
  place.valid = place.x.inside && place.y.inside && (place.left || place.right) && (place.top || place.bottom) &&
      level_fits(height, width, start, args.tokens);
  return place;
}

template <typename C>
__device__ __forceinline__ void bilinear_weights(C dx, C dy, C (&weight)[4]) {
  weight[0] = (C(1) - dy) * (C(1) - dx);
  weight[1] = (C(1) - dy) * dx;
  weight[2] = dy * (C(1) - dx);
  weight[3] = dy * dx;
}

// A point of the forward pass. A corner outside has weight 0 and the token of a corner inside, so that all four can be read
// at once without a NaN that the point does not see; token[0] is -1 if there is none inside.
template <typename C>
struct alignas(16) Corners {
  C weight[4];  // times the attention
  int32_t token[4];

  template <typename T>
  __device__ __forceinline__ void fill(const DeformAttnArgs<T, C>& args, int64_t pair, int64_t point) {
    const Place<C> at = place_of(args, pair, point);
    if (!at.valid) {
      token[0] = -1;
      return;
    }
    const C attention = args.weights[pair * args.levels * args.points + point];
    const bool inside[4] = {at.left && at.top, at.right && at.top, at.left && at.bottom, at.right && at.bottom};
    const int32_t row = at.start + (at.top ? at.y.low : at.y.high) * at.width, column = at.left ? at.x.low : at.x.high;
    const int32_t down = at.top && at.bottom ? at.width : 0, across = at.left && at.right ? 1 : 0;
    bilinear_weights(at.x.fraction, at.y.fraction, weight);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      weight[c] = inside[c] ? attention * weight[c] : C(0);
      token[c] = row + column + c / 2 * down + c % 2 * across;
    }
  }
};

// A point of the backward pass; a token is -1 outside. Of a point that touches nothing all numbers are 0.
template <typename C>
struct alignas(16) Point {
  int32_t token[4];
  C dx, dy, attention, along_x, along_y;  // the last two: how far the output moves with the location, per pixel

  template <typename T>
  __device__ __forceinline__ void fill(const DeformAttnArgs<T, C>& args, int64_t pair, int64_t point) {
    const Place<C> at = place_of(args, pair, point);
    const bool inside[4] = {at.left && at.top, at.right && at.top, at.left && at.bottom, at.right && at.bottom};
    const int32_t first = at.valid ? at.start + at.y.low * at.width + at.x.low : 0;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      token[c] = at.valid && inside[c] ? first + c / 2 * at.width + c % 2 : -1;
    }
    attention = at.valid ? args.weights[pair * args.levels * args.points + point] : C(0);
    dx = at.valid ? at.x.fraction : C(0);
    dy = at.valid ? at.y.fraction : C(0);
    along_x = attention * C(at.width);
    along_y = attention * C(at.height);
  }
};

// Fills the block's slots: [queries, tile] points from `first` on.
template <typename Slot, typename T, typename C>
__device__ __forceinline__ void fill_slots(
    const DeformAttnArgs<T, C>& args, const Division& division, const Work& work, int64_t first, int count, Slot* slots) {
  for (int i = threadIdx.x; i < work.queries * count; i += blockDim.x) {
    const int local = i / count, point = i - local * count;
    slots[local * division.tile + point].fill(args, work.pair + local * args.heads, first + point);
  }
}

template <typename T, typename C, int V>
__global__ void __launch_bounds__(kThreads) forward_kernel(const DeformAttnArgs<T, C> args, const Division division, T* out) {
  __shared__ Corners<C> slots[kSlots];
  const int64_t points = args.levels * args.points;
  const int32_t stride = static_cast<int32_t>(args.heads * args.channels);
  const int lane = threadIdx.x % division.lanes, local = threadIdx.x / division.lanes;
  for (int64_t index = blockIdx.x; index < division.blocks; index += gridDim.x) {
    const Work work = work_of(args, division, index);
    for (int64_t chunk = 0; chunk < args.channels; chunk += division.lanes * V) {
      const int64_t channel = chunk + lane * V;
      const bool active = local < work.queries && channel < args.channels;
      const T* rows = args.value + work.image * args.tokens * stride + work.head * args.channels + channel;
      C sum[V] = {};
      for (int64_t first = 0; first < points; first += division.tile) {
        const int count = points - first < division.tile ? static_cast<int>(points - first) : division.tile;
        __syncthreads();
        fill_slots(args, division, work, first, count, slots);
        __syncthreads();
        for (int i = 0; active && i < count; ++i) {
          const Corners<C> corner = slots[local * division.tile + i];
          if (corner.token[0] < 0) {
            continue;
          }
          Pack<T, V> row[4];
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            row[c] = *reinterpret_cast<const Pack<T, V>*>(rows + int64_t{corner.token[c]} * stride);
          }
#pragma unroll
          for (int c = 0; c < 4; ++c) {
#pragma unroll
            for (int v = 0; v < V; ++v) {
              sum[v] += corner.weight[c] * widen(row[c].lane[v]);
            }
          }
        }
      }
      if (active) {
        Pack<T, V> result;
#pragma unroll
        for (int v = 0; v < V; ++v) {
          narrow(sum[v], result.lane[v]);
        }
        *reinterpret_cast<Pack<T, V>*>(out + (work.pair + local * args.heads) * args.channels + channel) = result;
      }
    }
  }
}

// Sums four numbers over the 4 to 32 lanes of a query at once: each step halves what a lane has to add. A quarter of the
// lanes ends with each number; see `writes_number`.
template <typename C>
__device__ __forceinline__ C sum_lanes(const C (&numbers)[4], int lanes, int lane) {
  const bool upper = lane & lanes / 2, odd = lane & lanes / 4;
  C low = upper ? numbers[2] : numbers[0], high = upper ? numbers[3] : numbers[1];
  low += __shfl_xor_sync(0xffffffffu, upper ? numbers[0] : numbers[2], lanes / 2);
  high += __shfl_xor_sync(0xffffffffu, upper ? numbers[1] : numbers[3], lanes / 2);
  C sum = odd ? high : low;
  sum += __shfl_xor_sync(0xffffffffu, odd ? low : high, lanes / 4);
  for (int offset = lanes / 8; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  }
  return sum;
}

template <typename C>
struct Gradients {
  C *value, *locations, *weights;

  // Where lane `lane` puts its number of `sum_lanes`: the gradient of the attention, of x or of y; null if nowhere.
  __device__ __forceinline__ C* of_lane(int lanes, int lane) const {
    if (lane % (lanes / 4) != 0) {
      return nullptr;
    }
    const int number = lane / (lanes / 4);
    return number == 0 ? weights : number < 3 && locations != nullptr ? locations + (number - 1) : nullptr;
  }
};

template <typename T, typename C, int V>
__global__ void __launch_bounds__(kThreads) backward_kernel(
    const DeformAttnArgs<T, C> args, const Division division, const T* grad_out, const Gradients<C> grads) {
  __shared__ Point<C> slots[kSlots];
  const int64_t points = args.levels * args.points;
  const int32_t stride = static_cast<int32_t>(args.heads * args.channels);
  const int lane = threadIdx.x % division.lanes, local = threadIdx.x / division.lanes;
  const bool small = grads.locations != nullptr || grads.weights != nullptr;
  C* const own = grads.of_lane(division.lanes, lane);
  const int own_step = lane < division.lanes / 4 ? 1 : 2;  // locations are pairs
  for (int64_t index = blockIdx.x; index < division.blocks; index += gridDim.x) {
    const Work work = work_of(args, division, index);
    const int64_t pair = work.pair + local * args.heads;
    for (int64_t chunk = 0; chunk < args.channels; chunk += division.lanes * V) {
      const int64_t channel = chunk + lane * V;
      const bool active = local < work.queries && channel < args.channels;
      const int64_t offset = work.image * args.tokens * stride + work.head * args.channels + channel;
      C grad[V] = {};
      if (active) {
        const auto row = *reinterpret_cast<const Pack<T, V>*>(grad_out + pair * args.channels + channel);
#pragma unroll
        for (int v = 0; v < V; ++v) {
          grad[v] = widen(row.lane[v]);
        }
      }
      for (int64_t first = 0; first < points; first += division.tile) {
        const int count = points - first < division.tile ? static_cast<int>(points - first) : division.tile;
        __syncthreads();
        fill_slots(args, division, work, first, count, slots);
        __syncthreads();
        for (int i = 0; i < count; ++i) {
          const Point<C>& point = slots[local < work.queries ? local * division.tile + i : 0];
          C dots[4] = {}, weight[4];
          bilinear_weights(point.dx, point.dy, weight);
#pragma unroll
          for (int c = 0; small && c < 4; ++c) {
            if (active && point.token[c] >= 0) {
              const T* place = args.value + offset + int64_t{point.token[c]} * stride;
              const auto row = *reinterpret_cast<const Pack<T, V>*>(place);
#pragma unroll
              for (int v = 0; v < V; ++v) {
                dots[c] += grad[v] * widen(row.lane[v]);
              }
            }
          }
#pragma unroll
          for (int c = 0; grads.value != nullptr && c < 4; ++c) {
            if (active && point.token[c] >= 0) {
              C share[V];
#pragma unroll
              for (int v = 0; v < V; ++v) {
                share[v] = point.attention * weight[c] * grad[v];
              }
              atomic_add(grads.value + offset + int64_t{point.token[c]} * stride, share);
            }
          }
          if (small) {  // the same for all threads: every lane takes part in the sum over the lanes
            const C numbers[4] = {
                weight[0] * dots[0] + weight[1] * dots[1] + weight[2] * dots[2] + weight[3] * dots[3],
                point.along_x * ((dots[1] - dots[0]) * (C(1) - point.dy) + (dots[3] - dots[2]) * point.dy),
                point.along_y * ((dots[2] - dots[0]) * (C(1) - point.dx) + (dots[3] - dots[1]) * point.dx), C(0)};
            const C sum = sum_lanes(numbers, division.lanes, lane);
            if (own != nullptr && local < work.queries) {
              C* to = own + (pair * points + first + i) * own_step;
              *to = chunk > 0 ? *to + sum : sum;  // joins the chunks of a head with more channels than lanes
            }
          }
        }
      }
    }
  }
}

// The widest vector that divides the channels and has at most kMost numbers, which is even.
template <int kMost, typename F>
cudaError_t with_width(int64_t channels, const F& launch) {
  if (channels % kMost == 0) {
    return launch(std::integral_constant<int, kMost>());
  }
  if (channels % (kMost / 2) == 0) {
    return launch(std::integral_constant<int, kMost / 2>());
  }
  return launch(std::integral_constant<int, 1>());
}

}  // namespace

template <typename T, typename C>
cudaError_t ms_deform_attn(const DeformAttnArgs<T, C>& args, T* out, cudaStream_t stream) {
  return with_width<16 / sizeof(T)>(args.channels, [&](auto width) {
    constexpr int V = decltype(width)::value;
    const Division division = divide<V>(args);
    forward_kernel<T, C, V><<<blocks_for(division.blocks, 1), division.threads, 0, stream>>>(args, division, out);
    return cudaGetLastError();
  });
}

template <typename T, typename C>
cudaError_t ms_deform_attn_grad(
    const DeformAttnArgs<T, C>& args, const T* grad_out, C* grad_value, C* grad_locations, C* grad_weights, cudaStream_t stream) {
  // The sums are at least float32, so more than four neighbours of 16 bit would be added in pieces that lie apart.
  return with_width<16 / sizeof(C)>(args.channels, [&](auto width) {
    constexpr int V = decltype(width)::value;
    const Division division = divide<V>(args);
    const Gradients<C> grads{grad_value, grad_locations, grad_weights};
    backward_kernel<T, C, V><<<blocks_for(division.blocks, 1), division.threads, 0, stream>>>(args, division, grad_out, grads);
    return cudaGetLastError();
  });
}

#define PENTAMASK_INSTANTIATE(T, C)                                                       \
  template cudaError_t ms_deform_attn(const DeformAttnArgs<T, C>&, T*, cudaStream_t);     \
  template cudaError_t ms_deform_attn_grad(const DeformAttnArgs<T, C>&, const T*, C*, C*, C*, cudaStream_t)

PENTAMASK_INSTANTIATE(float, float);
PENTAMASK_INSTANTIATE(double, double);
PENTAMASK_INSTANTIATE(__half, float);
PENTAMASK_INSTANTIATE(__nv_bfloat16, float);

}  // namespace pentamask::cuda
