// CenterMask's spatial attention: one block an RoI, whose numbers stay in the L2 cache between the reduction over the
// channels and the product. Nothing is added atomically, so the results do not vary.
#include "device.cuh"
#include "launch.h"

namespace pentamask::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int64_t kSharedNumbers = 5120;  // maps that fit are kept in shared memory, larger ones in the scratch buffer

// How a block reads an RoI: `span` threads side by side along the pixels, `groups` of them along the channels; with
// channels-last a warp a pixel.
struct Layout {
  int64_t pixels, channels, pixel_stride, channel_stride;
  int span, groups;
};

__host__ __device__ inline int span_of(int64_t pixels) {
  return pixels >= kThreads / 2 ? kThreads : static_cast<int>((pixels + 31) / 32 * 32);
}

template <typename T>
__device__ __forceinline__ Layout layout_of(const SpatialAttentionArgs<T>& args) {
  const int64_t pixels = args.height * args.width;
  const int span = span_of(pixels);
  return {pixels, args.channels, args.channels_last ? args.channels : 1, args.channels_last ? 1 : pixels, span, kThreads / span};
}

// What one pixel is reduced to. The forward pass uses sum, most and index; the backward pass sum and product.
template <typename C>
struct Reduced {
  C sum, most, product;
  int32_t index;

  __device__ __forceinline__ void join(const Reduced& later) {
    sum += later.sum;
    product += later.product;
    // The lowest channel of the largest; NaN counts as largest. An index of -1 has seen nothing.
    const bool larger = !(later.most <= most) && most == most;
    const bool same = (later.most == most || (most != most && later.most != later.most)) && later.index < index;
    if (later.index >= 0 && (index < 0 || larger || same)) {
      most = later.most;
      index = later.index;
    }
  }
};

template <typename T, typename C>
__device__ __forceinline__ Reduced<C> reduce_range(
    const T* input, const T* grad, const Layout& at, int64_t pixel, int64_t first, int64_t last, int64_t step) {
  Reduced<C> result{C(0), C(0), C(0), -1};
  for (int64_t c = first; c < last; c += step) {
    const int64_t place = c * at.channel_stride + pixel * at.pixel_stride;
    const C x = widen(input[place]);
    result.sum += x;
    if (grad != nullptr) {
      result.product += x * widen(grad[place]);
    } else if (result.index < 0 || (!(x <= result.most) && result.most == result.most)) {
      result.most = x;
      result.index = static_cast<int32_t>(c);
    }
  }
  return result;
}

// Calls finish(pixel, reduced) once a pixel. `partial`: kThreads places in shared memory.
template <typename T, typename C, typename Finish>
__device__ __forceinline__ void reduce_channels(
    const T* input, const T* grad, const Layout& at, Reduced<C>* partial, const Finish& finish) {
  if (at.channel_stride == 1) {
    for (int64_t pixel = threadIdx.x / 32; pixel < at.pixels; pixel += kWarps) {
      Reduced<C> result = reduce_range<T, C>(input, grad, at, pixel, threadIdx.x % 32, at.channels, 32);
      for (int offset = 16; offset > 0; offset /= 2) {
        Reduced<C> other;
        other.sum = __shfl_down_sync(0xffffffffu, result.sum, offset);
        other.most = __shfl_down_sync(0xffffffffu, result.most, offset);
        other.product = __shfl_down_sync(0xffffffffu, result.product, offset);
        other.index = __shfl_down_sync(0xffffffffu, result.index, offset);
        result.join(other);
      }
      if (threadIdx.x % 32 == 0) {
        finish(pixel, result);
      }
    }
    return;
  }
  const int column = threadIdx.x % at.span, group = threadIdx.x / at.span;
  for (int64_t base = 0; base < at.pixels; base += at.span) {
    const int64_t pixel = base + column;
    const bool active = pixel < at.pixels && group < at.groups;
    if (active) {
      partial[threadIdx.x] = reduce_range<T, C>(
          input, grad, at, pixel, at.channels * group / at.groups, at.channels * (group + 1) / at.groups, 1);
    }
    __syncthreads();
    if (active && group == 0) {
      Reduced<C> result = partial[column];
      for (int g = 1; g < at.groups; ++g) {
        result.join(partial[g * at.span + column]);
      }
      finish(pixel, result);
    }
    __syncthreads();
  }
}

// One output of the convolution of `map` with kernel x kernel taps, zero outside; or of its transpose.
template <typename T, typename C>
__device__ __forceinline__ C convolve(
    const SpatialAttentionArgs<T>& args, const C* map, const T* weight, int64_t pixel, bool transpose) {
  const int row = static_cast<int>(pixel / args.width), column = static_cast<int>(pixel % args.width);
  const int kernel = static_cast<int>(args.kernel), taps = kernel * kernel;
  C sum = C(0);
  for (int tap = 0; tap < taps; ++tap) {
    const int y = row + tap / kernel - kernel / 2, x = column + tap % kernel - kernel / 2;
    if (y >= 0 && y < args.height && x >= 0 && x < args.width) {
      sum += widen(weight[transpose ? taps - 1 - tap : tap]) * map[y * args.width + x];
    }
  }
  return sum;
}

template <typename T, typename C>
__device__ __forceinline__ C* maps_of(const SpatialAttentionArgs<T>& args, int64_t maps, C* shared, C* scratch) {
  const int64_t numbers = maps * args.height * args.width;
  return numbers <= kSharedNumbers * int64_t{sizeof(float)} / int64_t{sizeof(C)} ? shared : scratch + blockIdx.x * numbers;
}

template <typename T, typename C>
__global__ void __launch_bounds__(kThreads) forward_kernel(
    const SpatialAttentionArgs<T> args, T* out, C* gate, int64_t* argmax, C* scratch) {
  __shared__ C shared[kSharedNumbers * sizeof(float) / sizeof(C)];
  __shared__ Reduced<C> partial[kThreads];
  const Layout at = layout_of(args);
  C* mean = maps_of(args, 3, shared, scratch);
  C *most = mean + at.pixels, *gates = most + at.pixels;
  for (int64_t n = blockIdx.x; n < args.batch; n += gridDim.x) {
    const int64_t start = n * at.channels * at.pixels;
    reduce_channels<T, C>(args.input + start, nullptr, at, partial, [&](int64_t pixel, const Reduced<C>& reduced) {
      mean[pixel] = reduced.sum / C(at.channels);
      most[pixel] = reduced.most;
      if (argmax != nullptr) {
        argmax[n * at.pixels + pixel] = reduced.index;
      }
    });
    __syncthreads();
    for (int64_t pixel = threadIdx.x; pixel < at.pixels; pixel += kThreads) {
      const C sum = convolve(args, mean, args.weight, pixel, false) +
          convolve(args, most, args.weight + args.kernel * args.kernel, pixel, false);
      gates[pixel] = C(1) / (C(1) + exp(-sum));
      gate[n * at.pixels + pixel] = gates[pixel];
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < at.channels * at.pixels; i += kThreads) {
      const int64_t pixel = args.channels_last ? i / at.channels : i % at.pixels;
      narrow(widen(args.input[start + i]) * gates[pixel], out[start + i]);
    }
    __syncthreads();
  }
}

// One gradient of the taps a RoI: a warp a tap, over the pixels.
template <typename T, typename C>
__device__ __forceinline__ void write_tap_grads(
    const SpatialAttentionArgs<T>& args, const C* slope, const C* mean, const C* most, C* grad_weights) {
  const int kernel = static_cast<int>(args.kernel), taps = kernel * kernel;
  for (int tap = threadIdx.x / 32; tap < 2 * taps; tap += kWarps) {
    const C* map = tap < taps ? mean : most;
    const int dy = tap % taps / kernel - kernel / 2, dx = tap % taps % kernel - kernel / 2;
    C sum = C(0);
    for (int64_t pixel = threadIdx.x % 32; pixel < args.height * args.width; pixel += 32) {
      const int64_t y = pixel / args.width + dy, x = pixel % args.width + dx;
      if (y >= 0 && y < args.height && x >= 0 && x < args.width) {
        sum += slope[pixel] * map[y * args.width + x];
      }
    }
    for (int offset = 16; offset > 0; offset /= 2) {
      sum += __shfl_down_sync(0xffffffffu, sum, offset);
    }
    if (threadIdx.x % 32 == 0) {
      grad_weights[tap] = sum;
    }
  }
}

template <typename T, typename C>
__global__ void __launch_bounds__(kThreads) backward_kernel(
    const SpatialAttentionArgs<T> args, const T* grad_out, const C* gate, const int64_t* argmax, T* grad_input, C* grad_weights,
    C* scratch) {
  __shared__ C shared[kSharedNumbers * sizeof(float) / sizeof(C)];
  __shared__ Reduced<C> partial[kThreads];
  const Layout at = layout_of(args);
  const int64_t taps = args.kernel * args.kernel;
  C* slope = maps_of(args, 5, shared, scratch);
  C *mean = slope + at.pixels, *most = mean + at.pixels, *grad_mean = most + at.pixels, *grad_most = grad_mean + at.pixels;
  for (int64_t n = blockIdx.x; n < args.batch; n += gridDim.x) {
    const int64_t start = n * at.channels * at.pixels;
    const int64_t* winner = argmax + n * at.pixels;
    const C* gates = gate + n * at.pixels;
    reduce_channels<T, C>(args.input + start, grad_out + start, at, partial, [&](int64_t pixel, const Reduced<C>& reduced) {
      const C g = gates[pixel];
      slope[pixel] = reduced.product * g * (C(1) - g);  // the gradient behind the convolution
      mean[pixel] = reduced.sum / C(at.channels);
      const int64_t peak = winner[pixel];
      const bool exists = peak >= 0 && peak < at.channels;  // checking the caller's argmax on the host would stall the stream
      most[pixel] = exists ? widen(args.input[start + peak * at.channel_stride + pixel * at.pixel_stride]) : C(0);
    });
    __syncthreads();
    if (grad_weights != nullptr) {
      write_tap_grads(args, slope, mean, most, grad_weights + n * 2 * taps);
    }
    if (grad_input != nullptr) {
      for (int64_t pixel = threadIdx.x; pixel < at.pixels; pixel += kThreads) {
        grad_mean[pixel] = convolve(args, slope, args.weight, pixel, true) / C(at.channels);
        grad_most[pixel] = convolve(args, slope, args.weight + taps, pixel, true);
      }
      __syncthreads();
      for (int64_t i = threadIdx.x; i < at.channels * at.pixels; i += kThreads) {
        const int64_t pixel = args.channels_last ? i / at.channels : i % at.pixels;
        const int64_t channel = args.channels_last ? i % at.channels : i / at.pixels;
        const C peak = channel == winner[pixel] ? grad_most[pixel] : C(0);
        narrow(widen(grad_out[start + i]) * gates[pixel] + grad_mean[pixel] + peak, grad_input[start + i]);
      }
    }
    __syncthreads();
  }
}

// Blocks: as many as can be resident on any GPU, so that the scratch of large maps stays small.
unsigned blocks_of(int64_t batch) {
  return static_cast<unsigned>(batch < 1024 ? batch : 1024);
}

}  // namespace

template <typename T>
int64_t spatial_attention_scratch(const SpatialAttentionArgs<T>& args) {
  const int64_t numbers = 5 * args.height * args.width;
  return numbers * 2 <= kSharedNumbers ? 0 : numbers * blocks_of(args.batch);
}

template <typename T, typename C>
cudaError_t spatial_attention(
    const SpatialAttentionArgs<T>& args, T* out, C* gate, int64_t* argmax, C* scratch, cudaStream_t stream) {
  forward_kernel<T, C><<<blocks_of(args.batch), kThreads, 0, stream>>>(args, out, gate, argmax, scratch);
  return cudaGetLastError();
}

template <typename T, typename C>
cudaError_t spatial_attention_grad(
    const SpatialAttentionArgs<T>& args, const T* grad_out, const C* gate, const int64_t* argmax, T* grad_input, C* grad_weights,
    C* scratch, cudaStream_t stream) {
  backward_kernel<T, C><<<blocks_of(args.batch), kThreads, 0, stream>>>(
      args, grad_out, gate, argmax, grad_input, grad_weights, scratch);
  return cudaGetLastError();
}

#define PENTAMASK_INSTANTIATE(T, C)                                                                                  \
  template int64_t spatial_attention_scratch(const SpatialAttentionArgs<T>&);                                       \
  template cudaError_t spatial_attention(const SpatialAttentionArgs<T>&, T*, C*, int64_t*, C*, cudaStream_t);        \
  template cudaError_t spatial_attention_grad(                                                                      \
      const SpatialAttentionArgs<T>&, const T*, const C*, const int64_t*, T*, C*, C*, cudaStream_t)

PENTAMASK_INSTANTIATE(float, float);
PENTAMASK_INSTANTIATE(double, double);
PENTAMASK_INSTANTIATE(__half, float);
PENTAMASK_INSTANTIATE(__nv_bfloat16, float);

}  // namespace pentamask::cuda
