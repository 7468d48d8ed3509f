// What a kernel is given: raw pointers to contiguous arrays, and sizes. T is the stored type, C the type that sums run in.
#pragma once
#include <cstdint>

namespace pentamask {

template <typename T, typename C = T>
struct BlendArgs {
  const T* bases;  // [batch, maps, height, width]
  const C* rois;   // [instances, 5]
  const T* attn;   // [instances, maps, attn_size, attn_size]
  int64_t batch, maps, height, width, instances, attn_size, output_size;
  C spatial_scale;
};

template <typename T>
struct SpatialAttentionArgs {
  const T* input;   // [batch, channels, height, width], or [batch, height, width, channels] if channels_last
  const T* weight;  // [2, kernel, kernel], the mean's taps first
  int64_t batch, channels, height, width, kernel;
  bool channels_last;
};

template <typename T, typename C = T>
struct DeformAttnArgs {
  const T* value;                   // [batch, tokens, heads, channels]
  const int64_t* spatial_shapes;    // [levels, 2], height first
  const int64_t* level_start_index;  // [levels]
  const C* locations;               // [batch, queries, heads, levels, points, 2], x first
  const C* weights;                 // [batch, queries, heads, levels, points]
  int64_t batch, tokens, heads, channels, levels, points, queries;
};

// A channels-last map, of which tiles of 4 x 4 pixels are worked on, image by image and row by row.
struct WinogradTiles {
  int64_t channels, height, width;
  int64_t first_tile;  // of a chunk of `tiles`
  int64_t tiles;
};

// Regions of one size on one of several channels-last maps.
template <typename T>
struct RoiAlignArgs {
  const T* const* maps;     // of each level, [batch, height, width, channels]
  const int64_t* heights;   // of each level
  const int64_t* widths;
  const double* scales;
  const T* rois;            // [regions, 5]
  const int64_t* levels;    // [regions]
  int64_t batch, channels, output_size, sampling_ratio;
  bool aligned;
};

template <typename T>
struct ResizeArgs {
  const T* masks;  // [count, height, width]
  int64_t height, width, out_height, out_width;
  T threshold;
};

}  // namespace pentamask
