// Registration of Winograd's convolution: chunks of tiles go through the input's transform, 36 products with the channels'
// matrices, and the output's transform, each a parallel loop.
#include <algorithm>
#include <optional>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "../checks.h"
#include "dispatch.h"

namespace pentamask::cpu {
namespace {

using at::Tensor;

constexpr int64_t kPlaces = 36, kSide = 4;
constexpr int64_t kChunkBytes = 6 << 20;  // of transformed input or output: they are read again from the cache

template <typename T>
void convolve(const Tensor& input, const Tensor& weight, const Tensor& bias, bool relu, const Tensor& out) {
  const auto& table = kernels<T>();
  const int64_t channels = input.size(1), out_channels = out.size(1), height = input.size(2), width = input.size(3);
  const int64_t total = input.size(0) * ((height + kSide - 1) / kSide) * ((width + kSide - 1) / kSide);
  const int64_t most = std::max<int64_t>(kChunkBytes / (kPlaces * std::max(channels, out_channels) * sizeof(T)), 1);
  const int64_t chunks = (total + most - 1) / most, step = (total + chunks - 1) / chunks;
  const Tensor zeros = at::zeros({channels}, input.options());
  const Tensor from = at::empty({kPlaces * step * channels}, input.options());
  const Tensor products = at::empty({kPlaces * step * out_channels}, input.options());
  T* const transformed = from.mutable_data_ptr<T>();
  T* const sums = products.mutable_data_ptr<T>();
  const int64_t per_matrix = weight.size(1) * channels * kBlock;
  for (int64_t first = 0; first < total; first += step) {
    const int64_t tiles = std::min(step, total - first);
    const WinogradTiles in{channels, height, width, first, tiles}, to{out_channels, height, width, first, tiles};
    at::parallel_for(0, tiles, grain(kPlaces * channels), [&](int64_t begin, int64_t end) {
      table.winograd_input(in, input.const_data_ptr<T>(), zeros.const_data_ptr<T>(), transformed, begin, end);
    });
    at::parallel_for(0, kPlaces, grain(tiles * channels * out_channels / 16), [&](int64_t begin, int64_t end) {
      for (int64_t place = begin; place < end; ++place) {
        const PackedMatrix<T> matrix{weight.const_data_ptr<T>() + place * per_matrix, channels, out_channels};
        const RowsOut<T> rows{sums + place * tiles * out_channels, out_channels, nullptr, nullptr, false};
        table.packed_linear(transformed + place * tiles * channels, channels, matrix, rows, 0, tiles);
      }
    });
    at::parallel_for(0, tiles, grain(kPlaces * out_channels), [&](int64_t begin, int64_t end) {
      table.winograd_output(to, sums, bias.const_data_ptr<T>(), relu, out.mutable_data_ptr<T>(), begin, end);
    });
  }
}

Tensor winograd_conv3x3(
    const Tensor& input_in, const Tensor& weight_in, int64_t out_channels, const std::optional<Tensor>& bias_in, bool relu) {
  check_winograd_conv3x3(input_in, weight_in, out_channels, bias_in);
  const Tensor input = input_in.contiguous(at::MemoryFormat::ChannelsLast), weight = weight_in.contiguous();
  const Tensor bias = bias_in ? bias_in->contiguous() : at::zeros({out_channels}, input.options());
  Tensor out = at::empty(
      {input.size(0), out_channels, input.size(2), input.size(3)}, input.options().memory_format(at::MemoryFormat::ChannelsLast));
  if (input.numel() == 0) {
    return out;
  }
  if (input.scalar_type() == at::kDouble) {
    convolve<double>(input, weight, bias, relu, out);
  } else {
    convolve<float>(input, weight, bias, relu, out);
  }
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(pentamask, CPU, m) {
  m.impl("winograd_conv3x3", winograd_conv3x3);
}

}  // namespace pentamask::cpu
