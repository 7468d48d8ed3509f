// BlendMask's blender: one thread an output pixel; the softmax over the maps runs in registers. The gradient of the attention is
// gathered by the cells from the gradients of the pixels' logits, so that only that of the bases is added atomically.
#include <type_traits>

#include "device.cuh"
#include "launch.h"

namespace pentamask::cuda {
namespace {

constexpr int kThreads = 256;

// Where one output pixel reads: four pixels of the bases and four of the attention, with their shares.
template <typename C>
struct Reads {
  int32_t base[4], attn[4];  // offsets inside one map
  C base_weight[4], attn_weight[4];
  bool inside;
};

template <typename C>
__device__ __forceinline__ void spread(
    const AxisSample<C>& x, const AxisSample<C>& y, int32_t width, int32_t (&offset)[4], C (&weight)[4]) {
  offset[0] = y.low * width + x.low;
  offset[1] = y.low * width + x.high;
  offset[2] = y.high * width + x.low;
  offset[3] = y.high * width + x.high;
  weight[0] = (C(1) - y.fraction) * (C(1) - x.fraction);
  weight[1] = (C(1) - y.fraction) * x.fraction;
  weight[2] = y.fraction * (C(1) - x.fraction);
  weight[3] = y.fraction * x.fraction;
}

template <typename T, typename C>
__device__ __forceinline__ Reads<C> locate(const BlendArgs<T, C>& args, int64_t instance, int32_t row, int32_t column) {
  const C* roi = args.rois + 5 * instance;
  const C x_step = (roi[3] - roi[1]) * args.spatial_scale / C(args.output_size);
  const C y_step = (roi[4] - roi[2]) * args.spatial_scale / C(args.output_size);
  const auto x = roi_align_sample(
      roi[1] * args.spatial_scale - C(0.5) + (C(column) + C(0.5)) * x_step, static_cast<int32_t>(args.width));
  const auto y = roi_align_sample(
      roi[2] * args.spatial_scale - C(0.5) + (C(row) + C(0.5)) * y_step, static_cast<int32_t>(args.height));
  const int32_t size = static_cast<int32_t>(args.attn_size);
  const C ratio = C(args.attn_size) / C(args.output_size);
  Reads<C> reads;
  spread(x, y, static_cast<int32_t>(args.width), reads.base, reads.base_weight);
  spread(resize_sample(column, size, ratio), resize_sample(row, size, ratio), size, reads.attn, reads.attn_weight);
  reads.inside = x.inside && y.inside && roi[0] >= C(0) && roi[0] < C(args.batch);
  return reads;
}

template <typename T, typename C>
__device__ __forceinline__ C mix(const T* map, const int32_t (&offset)[4], const C (&weight)[4]) {
  return weight[0] * widen(map[offset[0]]) + weight[1] * widen(map[offset[1]]) + weight[2] * widen(map[offset[2]]) +
      weight[3] * widen(map[offset[3]]);
}

// The softmax of one output pixel: largest logit and the sum of the exponentials below it, so that the share of a map is
// exp(logit - most) / sum. K maps, whose logits and samples stay in registers; of any other number (K = 0) they are read again.
template <int K, typename T, typename C>
struct Softmax {
  const T *bases, *attn;
  const Reads<C>& reads;
  const int64_t pixels, cells;
  const int32_t maps;
  C logits[K > 0 ? K : 1], crops[K > 0 ? K : 1], most, sum, blended;

  __device__ __forceinline__ Softmax(const BlendArgs<T, C>& args, int64_t instance, const Reads<C>& reads)
      : reads(reads), pixels(args.height * args.width), cells(args.attn_size * args.attn_size),
        maps(static_cast<int32_t>(args.maps)) {
    bases = args.bases + static_cast<int64_t>(args.rois[5 * instance]) * args.maps * pixels;
    attn = args.attn + instance * args.maps * cells;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      logits[k] = mix(attn + k * cells, reads.attn, reads.attn_weight);
      crops[k] = mix(bases + k * pixels, reads.base, reads.base_weight);
    }
#pragma unroll
    for (int32_t k = 0; k < count(); ++k) {
      const C value = logit(k);
      most = k == 0 || value > most || value != value ? value : most;
    }
    sum = blended = C(0);
#pragma unroll
    for (int32_t k = 0; k < count(); ++k) {
      const C share = exp(logit(k) - most);
      sum += share;
      blended += share * crop(k);
    }
    blended /= sum;
  }

  __device__ __forceinline__ int32_t count() const {
    return K > 0 ? K : maps;
  }

  __device__ __forceinline__ C logit(int32_t k) const {
    return K > 0 ? logits[K > 0 ? k : 0] : mix(attn + k * cells, reads.attn, reads.attn_weight);
  }

  __device__ __forceinline__ C crop(int32_t k) const {
    return K > 0 ? crops[K > 0 ? k : 0] : mix(bases + k * pixels, reads.base, reads.base_weight);
  }
};

// A pixel of an instance: `chunks` blocks share an instance, so that few instances keep many processors busy.
struct Output {
  int64_t instance;
  int32_t pixel;
};

__device__ __forceinline__ Output output_of(int64_t block, int32_t chunks) {
  const int64_t instance = block / chunks;
  return {instance, static_cast<int32_t>(block - instance * chunks) * kThreads + static_cast<int32_t>(threadIdx.x)};
}

template <int K, typename T, typename C>
__global__ void __launch_bounds__(kThreads) blend_kernel(const BlendArgs<T, C> args, int32_t chunks, T* out) {
  const int32_t size = static_cast<int32_t>(args.output_size), area = size * size;
  for (int64_t block = blockIdx.x; block < args.instances * chunks; block += gridDim.x) {
    const Output at = output_of(block, chunks);
    if (at.pixel < area) {
      const Reads<C> reads = locate(args, at.instance, at.pixel / size, at.pixel % size);
      const C result = reads.inside ? Softmax<K, T, C>(args, at.instance, reads).blended : C(0);
      narrow(result, out[at.instance * area + at.pixel]);
    }
  }
}

// Adds to the gradient of the bases, and writes that of the logits [instances, maps, output_size, output_size].
template <int K, typename T, typename C>
__global__ void __launch_bounds__(kThreads) blend_grad_kernel(
    const BlendArgs<T, C> args, int32_t chunks, const T* grad_out, C* grad_bases, C* grad_logits) {
  const int32_t size = static_cast<int32_t>(args.output_size), area = size * size;
  for (int64_t block = blockIdx.x; block < args.instances * chunks; block += gridDim.x) {
    const Output at = output_of(block, chunks);
    if (at.pixel >= area) {
      continue;
    }
    C* const own = grad_logits + at.instance * args.maps * area + at.pixel;
    const Reads<C> reads = locate(args, at.instance, at.pixel / size, at.pixel % size);
    if (!reads.inside) {
      for (int64_t k = 0; grad_logits != nullptr && k < args.maps; ++k) {
        own[k * area] = C(0);
      }
      continue;
    }
    const Softmax<K, T, C> softmax(args, at.instance, reads);
    const C grad = widen(grad_out[at.instance * area + at.pixel]);
    C* const image = grad_bases + (softmax.bases - args.bases);
#pragma unroll
    for (int32_t k = 0; k < softmax.count(); ++k) {
      const C share = grad * (exp(softmax.logit(k) - softmax.most) / softmax.sum);
      if (grad_logits != nullptr) {
        own[int64_t{k} * area] = share * (softmax.crop(k) - softmax.blended);
      }
#pragma unroll
      for (int i = 0; grad_bases != nullptr && i < 4; ++i) {
        atomicAdd(image + k * softmax.pixels + reads.base[i], share * reads.base_weight[i]);
      }
    }
  }
}

// The share of input `cell` in a sample of an axis.
template <typename C>
__device__ __forceinline__ C share_of(const AxisSample<C>& sample, int32_t cell) {
  return (sample.low == cell ? C(1) - sample.fraction : C(0)) + (sample.high == cell ? sample.fraction : C(0));
}

// One thread an attention cell, which gathers from the pixels that read it: [first, last) along an axis, or a few more.
template <typename T, typename C>
__global__ void __launch_bounds__(kThreads) attn_grad_kernel(const BlendArgs<T, C> args, const C* grad_logits, C* grad_attn) {
  const int32_t size = static_cast<int32_t>(args.attn_size), out = static_cast<int32_t>(args.output_size);
  const C ratio = C(args.attn_size) / C(args.output_size), step = C(1) / ratio;
  const auto first = [&](int32_t cell) {
    const int32_t pixel = static_cast<int32_t>((C(cell) - C(0.5)) * step - C(0.5)) - 1;
    return cell == 0 || pixel < 0 ? 0 : pixel;
  };
  const auto last = [&](int32_t cell) {
    const int32_t pixel = static_cast<int32_t>((C(cell) + C(1.5)) * step - C(0.5)) + 2;
    return cell == size - 1 || pixel > out ? out : pixel;
  };
  const int64_t cells = int64_t{size} * size, total = args.instances * args.maps * cells;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < total; i += stride) {
    const int64_t map = i / cells;
    const int32_t cell = static_cast<int32_t>(i - map * cells), y = cell / size, x = cell - y * size;
    const C* logits = grad_logits + map * out * out;
    C sum = C(0);
    for (int32_t row = first(y); row < last(y); ++row) {
      C along = C(0);
      for (int32_t column = first(x); column < last(x); ++column) {
        along += share_of(resize_sample(column, size, ratio), x) * logits[int64_t{row} * out + column];
      }
      sum += share_of(resize_sample(row, size, ratio), y) * along;
    }
    grad_attn[i] = sum;
  }
}

// The released models have four bases.
template <typename F>
cudaError_t with_maps(int64_t maps, const F& launch) {
  return maps == 4 ? launch(std::integral_constant<int, 4>()) : launch(std::integral_constant<int, 0>());
}

}  // namespace

template <typename T, typename C>
cudaError_t blend(const BlendArgs<T, C>& args, T* out, cudaStream_t stream) {
  const int32_t chunks = static_cast<int32_t>(blocks_for(args.output_size * args.output_size, kThreads));
  return with_maps(args.maps, [&](auto maps) {
    constexpr int K = decltype(maps)::value;
    blend_kernel<K, T, C><<<blocks_for(args.instances * chunks, 1), kThreads, 0, stream>>>(args, chunks, out);
    return cudaGetLastError();
  });
}

template <typename T, typename C>
cudaError_t blend_grad(
    const BlendArgs<T, C>& args, const T* grad_out, C* grad_bases, C* grad_attn, C* grad_logits, cudaStream_t stream) {
  const int32_t chunks = static_cast<int32_t>(blocks_for(args.output_size * args.output_size, kThreads));
  const cudaError_t error = with_maps(args.maps, [&](auto maps) {
    constexpr int K = decltype(maps)::value;
    const unsigned blocks = blocks_for(args.instances * chunks, 1);
    blend_grad_kernel<K, T, C><<<blocks, kThreads, 0, stream>>>(args, chunks, grad_out, grad_bases, grad_logits);
    return cudaGetLastError();
  });
  if (error != cudaSuccess || grad_attn == nullptr) {
    return error;
  }
  const int64_t numbers = args.instances * args.maps * args.attn_size * args.attn_size;
  attn_grad_kernel<T, C><<<blocks_for(numbers, kThreads), kThreads, 0, stream>>>(args, grad_logits, grad_attn);
  return cudaGetLastError();
}

#define PENTAMASK_INSTANTIATE(T, C)                                              \
  template cudaError_t blend(const BlendArgs<T, C>&, T*, cudaStream_t);          \
  template cudaError_t blend_grad(const BlendArgs<T, C>&, const T*, C*, C*, C*, cudaStream_t)

PENTAMASK_INSTANTIATE(float, float);
PENTAMASK_INSTANTIATE(double, double);
PENTAMASK_INSTANTIATE(__half, float);
PENTAMASK_INSTANTIATE(__nv_bfloat16, float);

}  // namespace pentamask::cuda
