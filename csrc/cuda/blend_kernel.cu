// BlendMask's blender: one thread an output pixel; the softmax over the maps runs in registers.
#include "device.cuh"
#include "launch.h"

namespace pentamask::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSharedNumbers = 8192;

// Where one output pixel reads: four pixels of the bases and four of the attention, with their shares.
template <typename C>
struct Reads {
  int64_t base[4], attn[4];  // offsets inside one map
  C base_weight[4], attn_weight[4];
  bool inside;
};

template <typename C>
__device__ __forceinline__ void spread(
    const AxisSample<C>& x, const AxisSample<C>& y, int64_t width, int64_t (&offset)[4], C (&weight)[4]) {
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
  spread(x, y, args.width, reads.base, reads.base_weight);
  spread(resize_sample(column, size, ratio), resize_sample(row, size, ratio), args.attn_size, reads.attn, reads.attn_weight);
  reads.inside = x.inside && y.inside && roi[0] >= C(0) && roi[0] < C(args.batch);
  return reads;
}

template <typename T, typename C>
__device__ __forceinline__ C mix(const T* map, const int64_t (&offset)[4], const C (&weight)[4]) {
  return weight[0] * widen(map[offset[0]]) + weight[1] * widen(map[offset[1]]) + weight[2] * widen(map[offset[2]]) +
      weight[3] * widen(map[offset[3]]);
}

// One output pixel: largest logit and the sum of the exponentials below it, so that softmax = exp(logit - most) / sum.
template <typename T, typename C>
struct Softmax {
  C most, sum, blended;

  __device__ __forceinline__ Softmax(const BlendArgs<T, C>& args, const T* bases, const T* attn, const Reads<C>& reads) {
    const int64_t pixels = args.height * args.width, cells = args.attn_size * args.attn_size;
    for (int64_t k = 0; k < args.maps; ++k) {
      const C logit = mix(attn + k * cells, reads.attn, reads.attn_weight);
      most = k == 0 || logit > most || logit != logit ? logit : most;
    }
    sum = blended = C(0);
    for (int64_t k = 0; k < args.maps; ++k) {
      const C share = exp(mix(attn + k * cells, reads.attn, reads.attn_weight) - most);
      sum += share;
      blended += share * mix(bases + k * pixels, reads.base, reads.base_weight);
    }
    blended /= sum;
  }
};

template <typename T, typename C>
__global__ void __launch_bounds__(kThreads) blend_kernel(const BlendArgs<T, C> args, T* out) {
  const int64_t area = args.output_size * args.output_size, maps = args.maps;
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < args.instances * area; i += step) {
    const int64_t n = i / area;
    const int32_t pixel = static_cast<int32_t>(i % area), size = static_cast<int32_t>(args.output_size);
    const Reads<C> reads = locate(args, n, pixel / size, pixel % size);
    C result = C(0);
    if (reads.inside) {
      const T* bases = args.bases + static_cast<int64_t>(args.rois[5 * n]) * maps * args.height * args.width;
      const T* attn = args.attn + n * maps * args.attn_size * args.attn_size;
      result = Softmax<T, C>(args, bases, attn, reads).blended;
    }
    narrow(result, out[i]);
  }
}

// One block an instance. The gradient of its attention is summed in shared memory where it fits, else in place.
template <typename T, typename C>
__global__ void __launch_bounds__(kThreads) blend_grad_kernel(
    const BlendArgs<T, C> args, const T* grad_out, C* grad_bases, C* grad_attn) {
  __shared__ C shared[kSharedNumbers * 4 / sizeof(C)];
  const int64_t area = args.output_size * args.output_size, pixels = args.height * args.width;
  const int64_t cells = args.attn_size * args.attn_size, numbers = args.maps * cells;
  const bool fits = numbers * sizeof(C) <= sizeof(shared);
  const int32_t size = static_cast<int32_t>(args.output_size);
  for (int64_t n = blockIdx.x; n < args.instances; n += gridDim.x) {
    C* attn_sum = fits ? shared : grad_attn + n * numbers;
    for (int64_t i = threadIdx.x; fits && i < numbers; i += blockDim.x) {
      shared[i] = C(0);
    }
    __syncthreads();
    for (int32_t pixel = threadIdx.x; pixel < area; pixel += blockDim.x) {
      const Reads<C> reads = locate(args, n, pixel / size, pixel % size);
      if (!reads.inside) {
        continue;
      }
      const int64_t first_map = static_cast<int64_t>(args.rois[5 * n]) * args.maps;
      const T *bases = args.bases + first_map * pixels, *attn = args.attn + n * numbers;
      const Softmax<T, C> softmax(args, bases, attn, reads);
      const C grad = widen(grad_out[n * area + pixel]);
      for (int64_t k = 0; k < args.maps; ++k) {
        const C share = exp(mix(attn + k * cells, reads.attn, reads.attn_weight) - softmax.most) / softmax.sum;
        const C crop = mix(bases + k * pixels, reads.base, reads.base_weight);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (grad_bases != nullptr) {
            atomicAdd(grad_bases + (first_map + k) * pixels + reads.base[i], grad * share * reads.base_weight[i]);
          }
          if (grad_attn != nullptr) {
            atomicAdd(attn_sum + k * cells + reads.attn[i], grad * share * (crop - softmax.blended) * reads.attn_weight[i]);
          }
        }
      }
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; fits && grad_attn != nullptr && i < numbers; i += blockDim.x) {
      grad_attn[n * numbers + i] = shared[i];
    }
    __syncthreads();
  }
}

}  // namespace

template <typename T, typename C>
cudaError_t blend(const BlendArgs<T, C>& args, T* out, cudaStream_t stream) {
  const int64_t pixels = args.instances * args.output_size * args.output_size;
  blend_kernel<<<blocks_for(pixels, kThreads), kThreads, 0, stream>>>(args, out);
  return cudaGetLastError();
}

template <typename T, typename C>
cudaError_t blend_grad(const BlendArgs<T, C>& args, const T* grad_out, C* grad_bases, C* grad_attn, cudaStream_t stream) {
  blend_grad_kernel<<<blocks_for(args.instances, 1), kThreads, 0, stream>>>(args, grad_out, grad_bases, grad_attn);
  return cudaGetLastError();
}

#define PENTAMASK_INSTANTIATE(T, C)                                              \
  template cudaError_t blend(const BlendArgs<T, C>&, T*, cudaStream_t);          \
  template cudaError_t blend_grad(const BlendArgs<T, C>&, const T*, C*, C*, cudaStream_t)

PENTAMASK_INSTANTIATE(float, float);
PENTAMASK_INSTANTIATE(double, double);
PENTAMASK_INSTANTIATE(__half, float);
PENTAMASK_INSTANTIATE(__nv_bfloat16, float);

}  // namespace pentamask::cuda
