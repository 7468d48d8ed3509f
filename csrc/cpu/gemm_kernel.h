// Rows times a matrix that was packed beforehand: what 1 x 1 convolutions, linear layers and Winograd's convolution are made of.
#pragma once
#include "simd.h"

namespace pentamask {
namespace PENTAMASK_ISA {

using cpu::kBlock;
using cpu::PackedMatrix;
using cpu::RowsOut;

// Registers: ROWS x BLOCKS blocks of sums, one row of the matrix, one number of the input.
constexpr int kRows = PENTAMASK_VECTOR_BYTES >= 32 ? 6 : 2;
template <typename T>
constexpr int kVectors = kBlock / kWidth<T>;  // in a block
// So many rows, and so much of their depth, stay in the cache while all columns pass by.
constexpr int64_t kRowsAtATime = 192, kDepthAtATime = 512;
template <typename T>
constexpr int kBlocks = kVectors<T> >= 4 ? 1 : PENTAMASK_VECTOR_BYTES == 64 ? 4 / kVectors<T> : 1;

template <typename T>
PENTAMASK_INLINE void finish_block(
    Vector<T, kWidth<T>>* sums, const RowsOut<T>& out, int64_t row, int64_t column, int64_t columns) {
  constexpr int W = kWidth<T>;
  T* to = out.data + row * out.stride + column;
  const T* residual = out.residual == nullptr ? nullptr : out.residual + row * out.stride + column;
  if (columns - column >= kBlock) {
    for (int v = 0; v < kVectors<T>; ++v) {
      Vector<T, W> sum = sums[v];
      if (out.bias != nullptr) {
        sum += load<T, W>(out.bias + column + v * W);
      }
      if (residual != nullptr) {
        sum += load<T, W>(residual + v * W);
      }
      if (out.relu) {
        sum = sum < T(0) ? Vector<T, W>{} : sum;
      }
      store<T, W>(to + v * W, sum);
    }
    return;
  }
  for (int64_t i = 0; i < columns - column; ++i) {
    T sum = sums[i / W][i % W];
    sum += out.bias == nullptr ? T(0) : out.bias[column + i];
    sum += residual == nullptr ? T(0) : residual[i];
    to[i] = out.relu && sum < T(0) ? T(0) : sum;
  }
}

// `rows` and `matrix` are what is multiplied now: the depth from `first` to `last`.
template <typename T, int ROWS, int BLOCKS>
PENTAMASK_INLINE void multiply_tile(
    const T* rows, int64_t stride, const PackedMatrix<T>& matrix, int64_t first, int64_t last, int64_t block, const RowsOut<T>& out,
    int64_t row) {
  constexpr int W = kWidth<T>, V = kVectors<T>;
  Vector<T, W> sums[ROWS][BLOCKS * V] = {};
  const T* weights = matrix.data + block * matrix.depth * kBlock;
  for (int64_t k = first; k < last; ++k) {
    Vector<T, W> weight[BLOCKS * V];
#pragma GCC unroll 8
    for (int v = 0; v < BLOCKS * V; ++v) {
      weight[v] = load<T, W>(weights + (v / V * matrix.depth + k) * kBlock + v % V * W);
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const T number = rows[r * stride + k];
#pragma GCC unroll 8
      for (int v = 0; v < BLOCKS * V; ++v) {
        sums[r][v] += number * weight[v];
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 8
    for (int b = 0; b < BLOCKS; ++b) {
      finish_block<T>(sums[r] + b * V, out, row + r, (block + b) * kBlock, matrix.columns);
    }
  }
}

template <typename T, int BLOCKS>
void multiply_columns(
    const T* rows, int64_t stride, const PackedMatrix<T>& matrix, int64_t first, int64_t last, int64_t block, const RowsOut<T>& out,
    int64_t begin, int64_t end) {
  int64_t row = begin;
  for (; row + kRows <= end; row += kRows) {
    multiply_tile<T, kRows, BLOCKS>(rows + row * stride, stride, matrix, first, last, block, out, row);
  }
  for (; row < end; ++row) {
    multiply_tile<T, 1, BLOCKS>(rows + row * stride, stride, matrix, first, last, block, out, row);
  }
}

// Rows [begin, end) of the input, `stride` apart.
template <typename T>
void packed_linear(
    const T* rows, int64_t stride, const PackedMatrix<T>& matrix, const RowsOut<T>& out, int64_t begin, int64_t end) {
  const int64_t blocks = (matrix.columns + kBlock - 1) / kBlock;
  for (int64_t row = begin; row < end; row += kRowsAtATime) {
    const int64_t row_end = row + kRowsAtATime < end ? row + kRowsAtATime : end;
    int64_t first = 0;
    do {  // once for a matrix without depth
      const int64_t last = first + kDepthAtATime < matrix.depth ? first + kDepthAtATime : matrix.depth;
      // What came of the depth before is added like a residual.
      const RowsOut<T> part{
          out.data, out.stride, first == 0 ? out.bias : nullptr, first == 0 ? out.residual : out.data,
          out.relu && last == matrix.depth};
      int64_t block = 0;
      for (; block + kBlocks<T> <= blocks; block += kBlocks<T>) {
        multiply_columns<T, kBlocks<T>>(rows, stride, matrix, first, last, block, part, row, row_end);
      }
      for (; block < blocks; ++block) {
        multiply_columns<T, 1>(rows, stride, matrix, first, last, block, part, row, row_end);
      }
      first = last;
    } while (first < matrix.depth);
  }
}

}  // namespace PENTAMASK_ISA
}  // namespace pentamask
