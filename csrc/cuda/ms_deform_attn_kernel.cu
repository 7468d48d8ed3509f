// Multi-scale deformable attention. A few neighbouring lanes work on one (query, head) pair, each on V channels that it
// reads at once. A block first puts the corners of its points into shared memory, so no lane repeats another's coordinates.
#include <type_traits>

#include "device.cuh"
#include "launch.h"

namespace pentamask::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSlots = 512;  // points in shared memory

template <typename C>
struct alignas(16) Corner {
  C weight[4];       // bilinear weight; times the attention in the forward pass
  int32_t token[4];  // -1: outside the level
};

// How a block is divided: `lanes` (a power of two, at most 32) a pair, `pairs` a block, `tile` points of each at a time.
struct Division {
  int lanes, pairs, tile;
};

template <int V>
Division divide(int64_t channels, int64_t points) {
  int lanes = 1;
  while (lanes < 32 && lanes * V < channels) {
    lanes *= 2;
  }
  const int pairs = kThreads / lanes, most = kSlots / pairs;
  return {lanes, pairs, points < most ? static_cast<int>(points) : most};
}

template <typename C>
struct Place {
  AxisSample<C> x, y;
  int32_t height, width;
};

template <typename T, typename C>
__device__ __forceinline__ Place<C> place_of(const DeformAttnArgs<T, C>& args, int64_t pair, int64_t point) {
  const int64_t level = point / args.points;
  const C* location = args.locations + 2 * (pair * args.levels * args.points + point);
  const int32_t height = static_cast<int32_t>(args.spatial_shapes[2 * level]);
  const int32_t width = static_cast<int32_t>(args.spatial_shapes[2 * level + 1]);
  return {zero_padded_sample(location[0], C(width)), zero_padded_sample(location[1], C(height)), height, width};
}

template <typename T, typename C>
__device__ __forceinline__ Corner<C> corner_of(const DeformAttnArgs<T, C>& args, int64_t pair, int64_t point, C scale) {
  const Place<C> place = place_of(args, pair, point);
  const auto &x = place.x, &y = place.y;
  const int64_t level = point / args.points, start = args.level_start_index[level];
  const bool touches = x.inside && y.inside;
  // The level must lie inside `value`: a wrong shape gives zeros here, as checking it would stall the stream.
  const bool valid =
      touches && level_fits(args.spatial_shapes[2 * level], args.spatial_shapes[2 * level + 1], start, args.tokens);
  const bool left = valid && x.low >= 0, right = valid && x.high < place.width;
  const bool top = y.low >= 0, bottom = y.high < place.height;
  const int32_t token = valid ? static_cast<int32_t>(start) + y.low * place.width + x.low : -1;
  return {
      {scale * (C(1) - y.fraction) * (C(1) - x.fraction), scale * (C(1) - y.fraction) * x.fraction,
       scale * y.fraction * (C(1) - x.fraction), scale * y.fraction * x.fraction},
      {left && top ? token : -1, right && top ? token + 1 : -1, left && bottom ? token + place.width : -1,
       right && bottom ? token + place.width + 1 : -1}};
}

// Fills the block's slots: [pairs, tile] points from `first_pair` and `first` on. With `weighted`, attention is multiplied in.
template <typename T, typename C>
__device__ __forceinline__ void fill_slots(
    const DeformAttnArgs<T, C>& args, const Division& division, int64_t first_pair, int64_t total, int64_t first, int count,
    bool weighted, Corner<C>* slots) {
  const int64_t points = args.levels * args.points;
  for (int i = threadIdx.x; i < division.pairs * count; i += blockDim.x) {
    const int64_t pair = first_pair + i / count, point = first + i % count;
    if (pair < total) {
      const C scale = weighted ? args.weights[pair * points + point] : C(1);
      slots[i / count * division.tile + i % count] = corner_of(args, pair, point, scale);
    }
  }
}

template <typename T, typename C, int V>
__global__ void __launch_bounds__(kThreads) forward_kernel(const DeformAttnArgs<T, C> args, const Division division, T* out) {
  __shared__ Corner<C> slots[kSlots];
  const int64_t points = args.levels * args.points, stride = args.heads * args.channels;
  const int64_t total = args.batch * args.queries * args.heads;
  const int lane = threadIdx.x % division.lanes, local = threadIdx.x / division.lanes;
  for (int64_t base = int64_t{blockIdx.x} * division.pairs; base < total; base += int64_t{gridDim.x} * division.pairs) {
    const int64_t pair = base + local;
    const int64_t image = pair / args.heads / args.queries, head = pair % args.heads;
    for (int64_t chunk = 0; chunk < args.channels; chunk += division.lanes * V) {
      const int64_t channel = chunk + lane * V;
      const bool active = pair < total && channel < args.channels;
      const T* rows = args.value + image * args.tokens * stride + head * args.channels + channel;
      C sum[V] = {};
      for (int64_t first = 0; first < points; first += division.tile) {
        const int count = points - first < division.tile ? static_cast<int>(points - first) : division.tile;
        __syncthreads();
        fill_slots(args, division, base, total, first, count, true, slots);
        __syncthreads();
        for (int i = 0; active && i < count; ++i) {
          const Corner<C> corner = slots[local * division.tile + i];
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            if (corner.token[c] >= 0) {
              const auto row = *reinterpret_cast<const Pack<T, V>*>(rows + corner.token[c] * stride);
#pragma unroll
              for (int v = 0; v < V; ++v) {
                sum[v] += corner.weight[c] * widen(row.lane[v]);
              }
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
        *reinterpret_cast<Pack<T, V>*>(out + pair * args.channels + channel) = result;
      }
    }
  }
}

template <typename C>
__device__ __forceinline__ C sum_lanes(C number, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) {
    number += __shfl_xor_sync(0xffffffffu, number, offset);
  }
  return number;
}

template <typename C>
struct Gradients {
  C *value, *locations, *weights;
};

// The gradients of one point's location and attention, from its four dot products, already summed over the channels of
// this lane; the first lane of the pair writes. `add` joins the chunks of a head with more channels than lanes.
template <typename T, typename C>
__device__ __forceinline__ void point_grads(
    const DeformAttnArgs<T, C>& args, const Gradients<C>& grads, int lanes, int64_t pair, int64_t point, bool writes, bool add,
    const C (&dots)[4], const Corner<C>& corner) {
  C weight = C(0), along_x = C(0), along_y = C(0);
  if (pair >= 0) {
    const Place<C> place = place_of(args, pair, point);
    const C dx = place.x.fraction, dy = place.y.fraction;
    const C a = args.weights[pair * args.levels * args.points + point];
    weight = corner.weight[0] * dots[0] + corner.weight[1] * dots[1] + corner.weight[2] * dots[2] + corner.weight[3] * dots[3];
    along_x = a * C(place.width) * ((dots[1] - dots[0]) * (C(1) - dy) + (dots[3] - dots[2]) * dy);
    along_y = a * C(place.height) * ((dots[2] - dots[0]) * (C(1) - dx) + (dots[3] - dots[1]) * dx);
    if (!(place.x.inside && place.y.inside)) {
      weight = along_x = along_y = C(0);
    }
  }
  weight = sum_lanes(weight, lanes);
  along_x = sum_lanes(along_x, lanes);
  along_y = sum_lanes(along_y, lanes);
  if (writes) {
    const int64_t to = pair * args.levels * args.points + point;
    if (grads.weights != nullptr) {
      grads.weights[to] = weight + (add ? grads.weights[to] : C(0));
    }
    if (grads.locations != nullptr) {
      grads.locations[2 * to] = along_x + (add ? grads.locations[2 * to] : C(0));
      grads.locations[2 * to + 1] = along_y + (add ? grads.locations[2 * to + 1] : C(0));
    }
  }
}

template <typename T, typename C, int V>
__global__ void __launch_bounds__(kThreads) backward_kernel(
    const DeformAttnArgs<T, C> args, const Division division, const T* grad_out, const Gradients<C> grads) {
  __shared__ Corner<C> slots[kSlots];
  const int64_t points = args.levels * args.points, stride = args.heads * args.channels;
  const int64_t total = args.batch * args.queries * args.heads;
  const int lane = threadIdx.x % division.lanes, local = threadIdx.x / division.lanes;
  const bool small = grads.locations != nullptr || grads.weights != nullptr;
  for (int64_t base = int64_t{blockIdx.x} * division.pairs; base < total; base += int64_t{gridDim.x} * division.pairs) {
    const int64_t pair = base + local;
    const int64_t image = pair / args.heads / args.queries, head = pair % args.heads;
    for (int64_t chunk = 0; chunk < args.channels; chunk += division.lanes * V) {
      const int64_t channel = chunk + lane * V;
      const bool active = pair < total && channel < args.channels;
      const int64_t offset = image * args.tokens * stride + head * args.channels + channel;
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
        fill_slots(args, division, base, total, first, count, false, slots);
        __syncthreads();
        for (int i = 0; i < count; ++i) {
          const Corner<C>& corner = slots[local * division.tile + i];
          C dots[4] = {};
          const C a = active ? args.weights[pair * points + first + i] : C(0);
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            if (!active || corner.token[c] < 0) {
              continue;
            }
            const int64_t place = offset + corner.token[c] * stride;
            if (small) {
              const auto row = *reinterpret_cast<const Pack<T, V>*>(args.value + place);
#pragma unroll
              for (int v = 0; v < V; ++v) {
                dots[c] += grad[v] * widen(row.lane[v]);
              }
            }
            if (grads.value != nullptr) {
              C share[V];
#pragma unroll
              for (int v = 0; v < V; ++v) {
                share[v] = a * corner.weight[c] * grad[v];
              }
              atomic_add(grads.value + place, share);
            }
          }
          if (small) {  // the same for all threads: every lane takes part in the sum over the lanes
            const bool writes = pair < total && lane == 0;
            point_grads(args, grads, division.lanes, active ? pair : -1, first + i, writes, chunk > 0, dots, corner);
          }
        }
      }
    }
  }
}

// The widest vector that divides the channels and fits 16 bytes.
template <typename T, typename F>
cudaError_t with_width(int64_t channels, const F& launch) {
  constexpr int kMost = 16 / sizeof(T);
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
  return with_width<T>(args.channels, [&](auto width) {
    constexpr int V = decltype(width)::value;
    const Division division = divide<V>(args.channels, args.levels * args.points);
    const unsigned blocks = blocks_for(args.batch * args.queries * args.heads, division.pairs);
    forward_kernel<T, C, V><<<blocks, kThreads, 0, stream>>>(args, division, out);
    return cudaGetLastError();
  });
}

template <typename T, typename C>
cudaError_t ms_deform_attn_grad(
    const DeformAttnArgs<T, C>& args, const T* grad_out, C* grad_value, C* grad_locations, C* grad_weights, cudaStream_t stream) {
  return with_width<T>(args.channels, [&](auto width) {
    constexpr int V = decltype(width)::value;
    const Division division = divide<V>(args.channels, args.levels * args.points);
    const unsigned blocks = blocks_for(args.batch * args.queries * args.heads, division.pairs);
    const Gradients<C> grads{grad_value, grad_locations, grad_weights};
    backward_kernel<T, C, V><<<blocks, kThreads, 0, stream>>>(args, division, grad_out, grads);
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
