// CenterMask's spatial attention, one RoI at a time: its C * H * W numbers stay in the cache between the reduction over the
// channels and the product, so memory is read once.
#pragma once
#include "simd.h"

namespace pentamask {
namespace PENTAMASK_ISA {

// Maps of one RoI. `mean`, `peak` and `slope` have a border of kernel / 2 zeros, which stay, for the convolution; what it gives,
// `conv`, has rows as long as theirs, with anything behind the first `width`.
template <typename T>
struct AttentionMaps {
  static constexpr int W = kWidth<T>;
  int64_t height, width, kernel, border, pitch, pixels;
  T *mean, *peak, *slope, *conv, *gate, *sum, *most, *grad_mean, *grad_peak;
  int32_t* index;

  AttentionMaps(const SpatialAttentionArgs<T>& args, Scratch& scratch)
      : height(args.height), width(args.width), kernel(args.kernel), border(args.kernel / 2),
        pitch(args.width + 2 * border), pixels(args.height * args.width) {
    const int64_t padded = (height + 2 * border) * pitch + kernel + W;  // whole vectors, at any tap
    mean = scratch.take<T>(padded);
    peak = scratch.take<T>(padded);
    slope = scratch.take<T>(padded);
    conv = scratch.take<T>(padded);
    gate = scratch.take<T>(pixels);
    sum = scratch.take<T>(pixels);
    most = scratch.take<T>(pixels);
    grad_mean = scratch.take<T>(pixels);
    grad_peak = scratch.take<T>(pixels);
    index = scratch.take<int32_t>(pixels);
  }

  void pad(const T* from, T scale, T* to) const {
    for (int64_t row = 0; row < height; ++row) {
      T* target = to + (row + border) * pitch + border;
      for (int64_t i = 0; i < width; ++i) {
        target[i] = from[row * width + i] * scale;
      }
    }
  }

  // to [pixels] = conv, without what lies behind the rows.
  void crop_conv(T scale, T* to) const {
    for (int64_t row = 0; row < height; ++row) {
      for (int64_t i = 0; i < width; ++i) {
        to[row * width + i] = conv[row * pitch + i] * scale;
      }
    }
  }

  // conv[p] (+)= sum over the taps of weight[tap] * from[p + tap], or weight[tap] * from[p - tap] for the transpose.
  void convolve(const T* from, const T* weight, bool transpose, bool add) const {
    const int64_t taps = kernel * kernel;
    for (int64_t p = 0; p < height * pitch; p += W) {
      Vector<T, W> total = add ? load<T, W>(conv + p) : Vector<T, W>{};
      for (int64_t row = 0, tap = 0; row < kernel; ++row) {
        for (int64_t column = 0; column < kernel; ++column, ++tap) {
          total += weight[transpose ? taps - 1 - tap : tap] * load<T, W>(from + p + row * pitch + column);
        }
      }
      store<T, W>(conv + p, total);
    }
  }

  // The gradient of the convolution's weight, from `slope`.
  void weight_grad(const T* from, T* to) const {
    const T* behind = slope + border * pitch + border;  // zero between the rows
    for (int64_t tap = 0; tap < kernel * kernel; ++tap) {
      const T* source = from + tap / kernel * pitch + tap % kernel;
      Vector<T, W> lanes{};
      for (int64_t p = 0; p < height * pitch; p += W) {
        lanes += load<T, W>(behind + p) * load<T, W>(source + p);
      }
      to[tap] = T(0);
      for (int lane = 0; lane < W; ++lane) {
        to[tap] += lanes[lane];
      }
    }
  }
};

// sum, most and index [pixels]: over the channels; the lowest index that attains the maximum, and NaN counts as largest.
template <typename T>
void reduce_planes(const T* input, int64_t channels, bool with_index, AttentionMaps<T>& maps) {
  const int64_t pixels = maps.pixels;
  T *__restrict sum = maps.sum, *__restrict most = maps.most;
  int32_t* __restrict index = maps.index;
  __builtin_memcpy(sum, input, pixels * sizeof(T));
  __builtin_memcpy(most, input, pixels * sizeof(T));
  fill(index, pixels, 0);
  for (int64_t c = 1; c < channels; ++c) {
    const T* __restrict plane = input + c * pixels;
    if (with_index) {
      for (int64_t i = 0; i < pixels; ++i) {
        const bool larger = !(plane[i] <= most[i]) & (most[i] == most[i]);
        sum[i] += plane[i];
        most[i] = larger ? plane[i] : most[i];
        index[i] = larger ? static_cast<int32_t>(c) : index[i];
      }
    } else {
      for (int64_t i = 0; i < pixels; ++i) {
        const bool larger = !(plane[i] <= most[i]) & (most[i] == most[i]);
        sum[i] += plane[i];
        most[i] = larger ? plane[i] : most[i];
      }
    }
  }
}

template <typename T>
void reduce_pixels(const T* input, int64_t channels, AttentionMaps<T>& maps) {
  constexpr int W = kWidth<T>;
  for (int64_t p = 0; p < maps.pixels; ++p) {
    const T* pixel = input + p * channels;
    T sums[W] = {}, sum = 0, most = pixel[0];
    int64_t c = 0, index = 0;
    for (; c + W <= channels; c += W) {
      for (int i = 0; i < W; ++i) {
        sums[i] += pixel[c + i];
      }
    }
    for (; c < channels; ++c) {
      sum += pixel[c];
    }
    for (int i = 0; i < W; ++i) {
      sum += sums[i];
    }
    for (c = 1; c < channels; ++c) {
      const bool larger = !(pixel[c] <= most) & (most == most);
      most = larger ? pixel[c] : most;
      index = larger ? c : index;
    }
    maps.sum[p] = sum;
    maps.most[p] = most;
    maps.index[p] = static_cast<int32_t>(index);
  }
}

template <typename T>
void reduce_channels(const SpatialAttentionArgs<T>& args, const T* input, bool with_index, AttentionMaps<T>& maps) {
  if (args.channels_last) {
    reduce_pixels(input, args.channels, maps);
  } else {
    reduce_planes(input, args.channels, with_index, maps);
  }
}

// out = input * gate for RoIs [begin, end). gate [batch, pixels] and argmax [batch, pixels] may be null.
template <typename T>
void spatial_attention(
    const SpatialAttentionArgs<T>& args, T* out, T* gate, int64_t* argmax, int64_t begin, int64_t end) {
  const Memory<AttentionMaps<T>> memory(args);
  Scratch scratch = memory.scratch();
  AttentionMaps<T> maps(args, scratch);
  const int64_t pixels = maps.pixels, taps = args.kernel * args.kernel;
  for (int64_t n = begin; n < end; ++n) {
    const T* input = args.input + n * args.channels * pixels;
    reduce_channels(args, input, argmax != nullptr, maps);
    maps.pad(maps.sum, T(1) / T(args.channels), maps.mean);
    maps.pad(maps.most, T(1), maps.peak);
    maps.convolve(maps.mean, args.weight, false, false);
    maps.convolve(maps.peak, args.weight + taps, false, true);
    for (int64_t p = 0; p < maps.height * maps.pitch; p += maps.W) {
      store<T, maps.W>(maps.conv + p, sigmoid<T, maps.W>(load<T, maps.W>(maps.conv + p)));
    }
    maps.crop_conv(T(1), maps.gate);
    const T* __restrict g = maps.gate;
    if (gate != nullptr) {
      __builtin_memcpy(gate + n * pixels, g, pixels * sizeof(T));
    }
    for (int64_t i = 0; argmax != nullptr && i < pixels; ++i) {
      argmax[n * pixels + i] = maps.index[i];
    }
    T* __restrict target = out + n * args.channels * pixels;
    for (int64_t c = 0; c < args.channels && !args.channels_last; ++c) {
      for (int64_t i = 0; i < pixels; ++i) {
        target[c * pixels + i] = input[c * pixels + i] * g[i];
      }
    }
    for (int64_t i = 0; i < pixels && args.channels_last; ++i) {
      for (int64_t c = 0; c < args.channels; ++c) {
        target[i * args.channels + c] = input[i * args.channels + c] * g[i];
      }
    }
  }
}

// sum [pixels] over the channels of input, and grad_gate [pixels] of grad_out * input.
template <typename T>
void reduce_grads(const SpatialAttentionArgs<T>& args, const T* input, const T* grad, AttentionMaps<T>& maps) {
  const int64_t pixels = maps.pixels, channels = args.channels;
  T *__restrict sum = maps.sum, *__restrict product = maps.most;
  fill(sum, pixels, T(0));
  fill(product, pixels, T(0));
  for (int64_t c = 0; c < channels && !args.channels_last; ++c) {
    const T *__restrict x = input + c * pixels, *__restrict g = grad + c * pixels;
    for (int64_t i = 0; i < pixels; ++i) {
      sum[i] += x[i];
      product[i] += x[i] * g[i];
    }
  }
  constexpr int W = kWidth<T>;
  for (int64_t p = 0; p < pixels && args.channels_last; ++p) {
    const T *x = input + p * channels, *g = grad + p * channels;
    T sums[W] = {}, products[W] = {};
    for (int64_t c = 0; c + W <= channels; c += W) {
      for (int i = 0; i < W; ++i) {
        sums[i] += x[c + i];
        products[i] += x[c + i] * g[c + i];
      }
    }
    for (int64_t c = channels / W * W; c < channels; ++c) {
      sums[0] += x[c];
      products[0] += x[c] * g[c];
    }
    for (int i = 0; i < W; ++i) {
      sum[p] += sums[i];
      product[p] += products[i];
    }
  }
}

// grad_input = grad_out * gate + grad_mean / C + grad_peak at the channel that attained the maximum.
template <typename T>
void write_grad_input(
    const SpatialAttentionArgs<T>& args, const T* grad, const T* gate, const int64_t* argmax, const AttentionMaps<T>& maps, T* __restrict to) {
  const int64_t pixels = maps.pixels, channels = args.channels;
  const T* __restrict mean = maps.grad_mean;
  for (int64_t c = 0; c < channels && !args.channels_last; ++c) {
    for (int64_t i = 0; i < pixels; ++i) {
      to[c * pixels + i] = grad[c * pixels + i] * gate[i] + mean[i];
    }
  }
  for (int64_t i = 0; i < pixels && args.channels_last; ++i) {
    for (int64_t c = 0; c < channels; ++c) {
      to[i * channels + c] = grad[i * channels + c] * gate[i] + mean[i];
    }
  }
  for (int64_t i = 0; i < pixels; ++i) {
    to[args.channels_last ? i * channels + argmax[i] : argmax[i] * pixels + i] += maps.grad_peak[i];
  }
}

// Gradients of RoIs [begin, end): grad_input, and grad_weight [batch, 2, kernel, kernel], one a RoI; either may be null.
template <typename T>
void spatial_attention_grad(
    const SpatialAttentionArgs<T>& args, const T* grad_out, const T* gate, const int64_t* argmax, T* grad_input, T* grad_weight,
    int64_t begin, int64_t end) {
  const Memory<AttentionMaps<T>> memory(args);
  Scratch scratch = memory.scratch();
  AttentionMaps<T> maps(args, scratch);
  const int64_t pixels = maps.pixels, channels = args.channels, taps = args.kernel * args.kernel;
  for (int64_t n = begin; n < end; ++n) {
    const T *input = args.input + n * channels * pixels, *grad = grad_out + n * channels * pixels;
    const T* g = gate + n * pixels;
    const int64_t* winner = argmax + n * pixels;
    reduce_grads(args, input, grad, maps);
    T* __restrict slope = maps.most;  // the gradient behind the convolution: the product above times the sigmoid's slope
    for (int64_t i = 0; i < pixels; ++i) {
      slope[i] *= g[i] * (T(1) - g[i]);
    }
    maps.pad(slope, T(1), maps.slope);
    if (grad_weight != nullptr) {
      maps.pad(maps.sum, T(1) / T(channels), maps.mean);
      for (int64_t i = 0; i < pixels; ++i) {
        maps.sum[i] = input[args.channels_last ? i * channels + winner[i] : winner[i] * pixels + i];
      }
      maps.pad(maps.sum, T(1), maps.peak);
      maps.weight_grad(maps.mean, grad_weight + n * 2 * taps);
      maps.weight_grad(maps.peak, grad_weight + n * 2 * taps + taps);
    }
    if (grad_input != nullptr) {
      maps.convolve(maps.slope, args.weight, true, false);
      maps.crop_conv(T(1) / T(channels), maps.grad_mean);
      maps.convolve(maps.slope, args.weight + taps, true, false);
      maps.crop_conv(T(1), maps.grad_peak);
      write_grad_input(args, grad, g, winner, maps, grad_input + n * channels * pixels);
    }
  }
}

}  // namespace PENTAMASK_ISA
}  // namespace pentamask
