// CenterMask's spatial attention: one block an RoI, whose numbers stay in the L2 cache between the reduction over the
// channels and the product. Nothing is added atomically, so the results do not vary.
#include "device.cuh"
#include "launch.h"

namespace pentamask::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
// Blocks at a time on a multiprocessor, which limits the registers; older ones have room for two.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int kBlocks = 2;
#else
constexpr int kBlocks = 3;
#endif
constexpr int64_t kSharedNumbers = 5120;  // maps that fit are kept in shared memory, larger ones in the scratch buffer

// How a block reads an RoI: `span` threads side by side along the pixels, `groups` of them along the channels; with
// channels-last a warp a pixel.
struct Layout {
  int32_t pixels, channels, pixel_stride, channel_stride;
  int span, groups;
};

__host__ __device__ inline int span_of(int64_t pixels) {
  return pixels >= kThreads / 2 ? kThreads : static_cast<int>((pixels + 31) / 32 * 32);
}

template <typename T>
__device__ __forceinline__ Layout layout_of(const SpatialAttentionArgs<T>& args) {
  const int32_t pixels = static_cast<int32_t>(args.height * args.width), channels = static_cast<int32_t>(args.channels);
  const int span = span_of(pixels);
  return {pixels, channels, args.channels_last ? channels : 1, args.channels_last ? 1 : pixels, span, kThreads / span};
}

// Calls at_pixel(pixel)(channel, place) for every number of an RoI. What at_pixel gives holds what all channels share.
template <typename AtPixel>
__device__ __forceinline__ void for_each_number(const Layout& at, const AtPixel& at_pixel) {
  const bool by_warp = at.channel_stride == 1;
  const int across = by_warp ? 32 : at.span, groups = by_warp ? kWarps : at.groups;
  const int column = threadIdx.x % across, group = threadIdx.x / across;
  const int32_t first_pixel = by_warp ? group : column, pixel_step = by_warp ? groups : across;
  const int32_t first_channel = by_warp ? column : group, channel_step = by_warp ? across : groups;
  for (int32_t pixel = first_pixel; group < groups && pixel < at.pixels; pixel += pixel_step) {
    const auto at_channel = at_pixel(pixel);
    for (int32_t channel = first_channel; channel < at.channels; channel += channel_step) {
      at_channel(channel, channel * at.channel_stride + pixel * at.pixel_stride);
    }
  }
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
    const T* input, const T* grad, const Layout& at, int32_t pixel, int32_t first, int32_t last, int32_t step) {
  Reduced<C> result{C(0), C(0), C(0), -1};
  for (int32_t c = first; c < last; c += step) {
    const int32_t place = c * at.channel_stride + pixel * at.pixel_stride;
    const C x = widen(input[place]);
    result.sum += x;
    if (grad != nullptr) {
      result.product += x * widen(grad[place]);
    } else if (result.index < 0 || (!(x <= result.most) && result.most == result.most)) {
      result.most = x;
      result.index = c;
    }
  }
  return result;
}

// Where part `part` of `parts` begins.
__device__ __forceinline__ int32_t share_of(int32_t total, int part, int parts) {
  return static_cast<int32_t>(int64_t{total} * part / parts);
}

// Calls finish(pixel, reduced) once a pixel. `partial`: kThreads places in shared memory.
template <typename T, typename C, typename Finish>
__device__ __forceinline__ void reduce_channels(
    const T* input, const T* grad, const Layout& at, Reduced<C>* partial, const Finish& finish) {
  if (at.channel_stride == 1) {
    for (int32_t pixel = threadIdx.x / 32; pixel < at.pixels; pixel += kWarps) {
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
  for (int32_t base = 0; base < at.pixels; base += at.span) {
    const int32_t pixel = base + column;
    const bool active = pixel < at.pixels && group < at.groups;
    if (active) {
      partial[threadIdx.x] = reduce_range<T, C>(
          input, grad, at, pixel, share_of(at.channels, group, at.groups), share_of(at.channels, group + 1, at.groups), 1);
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
    const SpatialAttentionArgs<T>& args, const C* map, const T* weight, int32_t pixel, bool transpose) {
  const int32_t height = static_cast<int32_t>(args.height), width = static_cast<int32_t>(args.width);
  const int32_t kernel = static_cast<int32_t>(args.kernel), half = kernel / 2, row = pixel / width, column = pixel - row * width;
  const T* tap = transpose ? weight + kernel * kernel - 1 : weight;
  const int step = transpose ? -1 : 1;
  C sum = C(0);
  for (int32_t y = row - half; y < row - half + kernel; ++y) {
    for (int32_t x = column - half; x < column - half + kernel; ++x, tap += step) {
      if (y >= 0 && y < height && x >= 0 && x < width) {
        sum += widen(*tap) * map[y * width + x];
      }
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
__global__ void __launch_bounds__(kThreads, kBlocks) forward_kernel(
    const SpatialAttentionArgs<T> args, T* out, C* gate, int64_t* argmax, C* scratch) {
  __shared__ C shared[kSharedNumbers * sizeof(float) / sizeof(C)];
  __shared__ Reduced<C> partial[kThreads];
  const Layout at = layout_of(args);
  C* mean = maps_of(args, 3, shared, scratch);
  C *most = mean + at.pixels, *gates = most + at.pixels;
  for (int64_t n = blockIdx.x; n < args.batch; n += gridDim.x) {
    const int64_t start = n * args.channels * at.pixels;
    reduce_channels<T, C>(args.input + start, nullptr, at, partial, [&](int32_t pixel, const Reduced<C>& reduced) {
      mean[pixel] = reduced.sum / C(at.channels);
      most[pixel] = reduced.most;
      if (argmax != nullptr) {
        argmax[n * at.pixels + pixel] = reduced.index;
      }
    });
    __syncthreads();
    for (int32_t pixel = threadIdx.x; pixel < at.pixels; pixel += kThreads) {
      const C sum = convolve(args, mean, args.weight, pixel, false) +
          convolve(args, most, args.weight + args.kernel * args.kernel, pixel, false);
      gates[pixel] = C(1) / (C(1) + exp(-sum));
      gate[n * at.pixels + pixel] = gates[pixel];
    }
    __syncthreads();
    for_each_number(at, [&](int32_t pixel) {
      return [g = gates[pixel], from = args.input + start, to = out + start](int32_t, int32_t place) {
        narrow(widen(from[place]) * g, to[place]);
      };
    });
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
    const int32_t height = static_cast<int32_t>(args.height), width = static_cast<int32_t>(args.width);
    const int32_t dy = tap % taps / kernel - kernel / 2, dx = tap % taps % kernel - kernel / 2;
    C sum = C(0);
    for (int32_t pixel = threadIdx.x % 32; pixel < height * width; pixel += 32) {
      const int32_t row = pixel / width, y = row + dy, x = pixel - row * width + dx;
      if (y >= 0 && y < height && x >= 0 && x < width) {
        sum += slope[pixel] * map[y * width + x];
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
__global__ void __launch_bounds__(kThreads, kBlocks) backward_kernel(
    const SpatialAttentionArgs<T> args, const T* grad_out, const C* gate, const int64_t* argmax, T* grad_input, C* grad_weights,
    C* scratch) {
  __shared__ C shared[kSharedNumbers * sizeof(float) / sizeof(C)];
  __shared__ Reduced<C> partial[kThreads];
  const Layout at = layout_of(args);
  const int64_t taps = args.kernel * args.kernel;
  C* slope = maps_of(args, 5, shared, scratch);
  C *mean = slope + at.pixels, *most = mean + at.pixels, *grad_mean = most + at.pixels, *grad_most = grad_mean + at.pixels;
  for (int64_t n = blockIdx.x; n < args.batch; n += gridDim.x) {
    const int64_t start = n * args.channels * at.pixels;
    const int64_t* winner = argmax + n * at.pixels;
    const C* gates = gate + n * at.pixels;
    reduce_channels<T, C>(args.input + start, grad_out + start, at, partial, [&](int32_t pixel, const Reduced<C>& reduced) {
      const C g = gates[pixel];
      slope[pixel] = reduced.product * g * (C(1) - g);  // the gradient behind the convolution
      mean[pixel] = reduced.sum / C(at.channels);
      const int64_t peak = winner[pixel];
      const bool exists = peak >= 0 && peak < at.channels;  // checking the caller's argmax on the host would stall the stream
      const int32_t place = exists ? static_cast<int32_t>(peak) * at.channel_stride + pixel * at.pixel_stride : 0;
      most[pixel] = exists ? widen(args.input[start + place]) : C(0);
    });
    __syncthreads();
    if (grad_weights != nullptr) {
      write_tap_grads(args, slope, mean, most, grad_weights + n * 2 * taps);
    }
    if (grad_input != nullptr) {
      for (int32_t pixel = threadIdx.x; pixel < at.pixels; pixel += kThreads) {
        grad_mean[pixel] = convolve(args, slope, args.weight, pixel, true) / C(at.channels);
        grad_most[pixel] = convolve(args, slope, args.weight + taps, pixel, true);
      }
      __syncthreads();
      for_each_number(at, [&](int32_t pixel) {
        const T* from = grad_out + start;
        T* to = grad_input + start;
        return [g = gates[pixel], mean = grad_mean[pixel], most = grad_most[pixel], peak = winner[pixel], from, to](
                   int32_t channel, int32_t place) {
          narrow(widen(from[place]) * g + mean + (channel == peak ? most : C(0)), to[place]);
        };
      });
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
