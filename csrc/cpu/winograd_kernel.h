// The two transforms around Winograd's F(4x4, 3x3): a tile of 6 x 6 pixels becomes 36 numbers, whose products with the
// weight's 36 numbers, summed over the channels, become 4 x 4 pixels of a 3 x 3 convolution. Tiles overlap by two pixels and
// begin one pixel above and left of the map.
//
// Interpolation in 0, +-2/3, +-4/3 and infinity: with the usual 0, +-1, +-2 float32 loses four times as much.
#pragma once
#include "simd.h"

namespace pentamask {
namespace PENTAMASK_ISA {

constexpr int kTile = 6, kStep = 4;  // pixels that a tile reads in each direction, and writes

// Squares of the points, exact enough in double, rounded once.
constexpr double kP = 2.0 / 3.0, kQ = 4.0 / 3.0, kPP = kP * kP, kQQ = kQ * kQ;

// to = B^T from, one column.
template <typename T, typename V>
PENTAMASK_INLINE void input_column(const V* from, int64_t from_step, V* to, int64_t to_step) {
  const V x0 = from[0], x1 = from[from_step], x2 = from[2 * from_step], x3 = from[3 * from_step], x4 = from[4 * from_step],
          x5 = from[5 * from_step];
  const V even_p = x4 - T(kQQ) * x2, odd_p = T(kP) * (x3 - T(kQQ) * x1);
  const V even_q = x4 - T(kPP) * x2, odd_q = T(kQ) * (x3 - T(kPP) * x1);
  to[0] = T(kPP * kQQ) * x0 - T(kPP + kQQ) * x2 + x4;
  to[to_step] = even_p + odd_p;
  to[2 * to_step] = even_p - odd_p;
  to[3 * to_step] = even_q + odd_q;
  to[4 * to_step] = even_q - odd_q;
  to[5 * to_step] = T(kPP * kQQ) * x1 - T(kPP + kQQ) * x3 + x5;
}

// to = A^T from, one column.
template <typename T, typename V>
PENTAMASK_INLINE void output_column(const V* from, int64_t from_step, V* to, int64_t to_step) {
  const V sum_p = from[from_step] + from[2 * from_step], difference_p = from[from_step] - from[2 * from_step];
  const V sum_q = from[3 * from_step] + from[4 * from_step], difference_q = from[3 * from_step] - from[4 * from_step];
  to[0] = from[0] + sum_p + sum_q;
  to[to_step] = T(kP) * difference_p + T(kQ) * difference_q;
  to[2 * to_step] = T(kPP) * sum_p + T(kQQ) * sum_q;
  to[3 * to_step] = T(kPP * kP) * difference_p + T(kQQ * kQ) * difference_q + from[5 * from_step];
}

// Number `tile` of the map's: its image, and the pixel where its output begins.
struct TilePlace {
  int64_t image, row, column;

  PENTAMASK_METHOD TilePlace(const WinogradTiles& args, int64_t tile) {
    const int64_t across = (args.width + kStep - 1) / kStep, down = (args.height + kStep - 1) / kStep;
    image = tile / (across * down);
    row = tile / across % down * kStep;
    column = tile % across * kStep;
  }
};

// Channel `c` and the W - 1 after it of one tile: `pixels` point to its 36 pixels' channels, results lie `step` apart.
template <typename T, int W>
PENTAMASK_INLINE void transform_input(const T* const* pixels, int64_t c, T* to, int64_t step) {
  typedef Vector<T, W> V;
  V loaded[kTile * kTile], half[kTile * kTile], done[kTile * kTile];
  for (int i = 0; i < kTile * kTile; ++i) {
    loaded[i] = load<T, W>(pixels[i] + c);
  }
  for (int i = 0; i < kTile; ++i) {
    input_column<T>(loaded + i, kTile, half + i, kTile);
  }
  for (int i = 0; i < kTile; ++i) {
    input_column<T>(half + i * kTile, 1, done + i * kTile, 1);
  }
  for (int i = 0; i < kTile * kTile; ++i) {
    store<T, W>(to + i * step + c, done[i]);
  }
}

// Tiles [begin, end) of the chunk, to [36, tiles, channels]. `zeros` has one pixel's channels.
template <typename T>
void winograd_input(const WinogradTiles& args, const T* input, const T* zeros, T* out, int64_t begin, int64_t end) {
  constexpr int W = kWidth<T>;
  const int64_t channels = args.channels, step = args.tiles * channels;
  for (int64_t tile = begin; tile < end; ++tile) {
    const TilePlace place(args, args.first_tile + tile);
    const T* pixels[kTile * kTile];
    for (int i = 0; i < kTile * kTile; ++i) {
      const int64_t y = place.row + i / kTile - 1, x = place.column + i % kTile - 1;
      const bool inside = y >= 0 && y < args.height && x >= 0 && x < args.width;
      pixels[i] = inside ? input + ((place.image * args.height + y) * args.width + x) * channels : zeros;
    }
    T* to = out + tile * channels;
    int64_t c = 0;
    for (; c + W <= channels; c += W) {
      transform_input<T, W>(pixels, c, to, step);
    }
    for (; c < channels; ++c) {
      transform_input<T, 1>(pixels, c, to, step);
    }
  }
}

// As `transform_input`, the other way: 36 numbers `step` apart become the tile's pixels within the map.
template <typename T, int W>
PENTAMASK_INLINE void transform_output(
    const T* from, int64_t step, int64_t c, const T* bias, bool relu, T* to, int64_t rows, int64_t columns, int64_t pitch,
    int64_t channels) {
  typedef Vector<T, W> V;
  V loaded[kTile * kTile], half[kStep * kTile], done[kStep * kStep];
  for (int i = 0; i < kTile * kTile; ++i) {
    loaded[i] = load<T, W>(from + i * step + c);
  }
  for (int i = 0; i < kTile; ++i) {
    output_column<T>(loaded + i, kTile, half + i, kTile);
  }
  for (int i = 0; i < kStep; ++i) {
    output_column<T>(half + i * kTile, 1, done + i * kStep, 1);
  }
  const V shift = load<T, W>(bias + c);
  for (int64_t y = 0; y < rows; ++y) {
    for (int64_t x = 0; x < columns; ++x) {
      V pixel = done[y * kStep + x] + shift;
      if (relu) {
        pixel = pixel < T(0) ? V{} : pixel;
      }
      store<T, W>(to + (y * pitch + x) * channels + c, pixel);
    }
  }
}

// Tiles [begin, end) of the chunk, from [36, tiles, channels]. `bias` has one number a channel.
template <typename T>
void winograd_output(
    const WinogradTiles& args, const T* products, const T* bias, bool relu, T* out, int64_t begin, int64_t end) {
  constexpr int W = kWidth<T>;
  const int64_t channels = args.channels, step = args.tiles * channels;
  for (int64_t tile = begin; tile < end; ++tile) {
    const TilePlace place(args, args.first_tile + tile);
    const int64_t rows = place.row + kStep < args.height ? kStep : args.height - place.row;
    const int64_t columns = place.column + kStep < args.width ? kStep : args.width - place.column;
    const T* from = products + tile * channels;
    T* to = out + ((place.image * args.height + place.row) * args.width + place.column) * channels;
    int64_t c = 0;
    for (; c + W <= channels; c += W) {
      transform_output<T, W>(from, step, c, bias, relu, to, rows, columns, args.width, channels);
    }
    for (; c < channels; ++c) {
      transform_output<T, 1>(from, step, c, bias, relu, to, rows, columns, args.width, channels);
    }
  }
}

}  // namespace PENTAMASK_ISA
}  // namespace pentamask
