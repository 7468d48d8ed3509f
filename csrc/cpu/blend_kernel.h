// BlendMask's blender. Crop and upsampling are separable: a source row is resampled horizontally once per instance, and
// every output row mixes two resampled rows. K: the number of maps, 0 for any.
#pragma once
#include "resample.h"

namespace pentamask {
namespace PENTAMASK_ISA {

// One output row: the resampled rows above and below it, and their weights.
template <typename T>
struct MixedRow {
  const T *upper, *lower;
  T upper_weight, lower_weight;

  PENTAMASK_METHOD Vector<T, kWidth<T>> at(int64_t i) const {
    constexpr int W = kWidth<T>;
    return upper_weight * load<T, W>(upper + i) + lower_weight * load<T, W>(lower + i);
  }
};

// Everything that one instance's rows are made from.
template <typename T, int K>
struct Blender {
  static constexpr int W = kWidth<T>;
  typedef Vector<T, W> V;

  const BlendArgs<T>& args;
  const int64_t padded;
  Axis<T> x, y, resize;
  Taps<T> crop_taps, resize_taps;
  RowCache<T> crops, logits;
  V* shares;  // for any number of maps; four stay in registers
  int64_t image = -1;

  Blender(const BlendArgs<T>& args, Scratch& scratch)
      : args(args),
        padded(round_up(args.output_size, kGroup)),
        x(scratch, args.output_size),
        y(scratch, args.output_size),
        resize(scratch, args.output_size),
        crop_taps(scratch, args.width, args.width, padded, 2 * padded / W),
        resize_taps(scratch, args.attn_size, args.attn_size, padded, 2 * padded / W),
        crops(scratch, maps(), args.height, args.width, padded),
        logits(scratch, maps(), args.attn_size, args.attn_size, padded),
        shares(scratch.take<V>(maps())) {}

  // What is the same for all instances.
  void start() {
    resize.set_resize(static_cast<int32_t>(args.attn_size));
    resize_taps.set(resize);
  }

  void set_rows(int64_t instance) {
    const T* roi = args.rois + 5 * instance;
    image = static_cast<int64_t>(roi[0]);
    y.set_crop(roi[2] * args.spatial_scale, roi[4] * args.spatial_scale, static_cast<int32_t>(args.height));
  }

  void set_columns(int64_t instance) {
    const T* roi = args.rois + 5 * instance;
    x.set_crop(roi[1] * args.spatial_scale, roi[3] * args.spatial_scale, static_cast<int32_t>(args.width));
    logits.reset(args.attn + instance * maps() * args.attn_size * args.attn_size);
  }

  void set(int64_t instance) {
    set_rows(instance);
    set_columns(instance);
    crop_taps.set(x);
    crops.reset(args.bases + image * maps() * args.height * args.width);
  }

  PENTAMASK_METHOD int64_t maps() const {
    return K > 0 ? K : args.maps;
  }

  MixedRow<T> logit_row(int64_t j) {
    const T* upper = logits.get(resize.low[j], resize_taps);
    return {upper, logits.get(resize.high[j], resize_taps), resize.low_weight[j], resize.high_weight[j]};
  }

  MixedRow<T> crop_row(int64_t j) {
    if (j + 2 < args.output_size) {
      crops.prefetch(y.high[j + 2], crop_taps);
    }
    const T* upper = crops.get(y.low[j], crop_taps);
    return {upper, crops.get(y.high[j], crop_taps), y.low_weight[j], y.high_weight[j]};
  }

  // The softmax over the maps at columns [i, i + W): share[k] before the division by their sum. Returns 1 / sum.
  PENTAMASK_METHOD V attend(const MixedRow<T>& logit, int64_t i, V* share) const {
    V most = share[0] = logit.at(i);
    for (int64_t k = 1; k < maps(); ++k) {
      share[k] = logit.at(k * padded + i);
      most = share[k] > most ? share[k] : most;  // a NaN is in the sum anyway
    }
    V sum{};
    for (int64_t k = 0; k < maps(); ++k) {
      share[k] = exponential<W>(share[k] - most);
      sum += share[k];
    }
    return T(1) / sum;
  }

  // The output at columns [i, i + W), from what attend() gave.
  PENTAMASK_METHOD V mix(const MixedRow<T>& crop, int64_t i, const V* share, V scale) const {
    V sum{};
    for (int64_t k = 0; k < maps(); ++k) {
      sum += share[k] * crop.at(k * padded + i);
    }
    return sum * scale;
  }
};

template <typename T, int K>
struct BlendSpace {
  Blender<T, K> blender;
  T* blended;

  BlendSpace(const BlendArgs<T>& args, Scratch& scratch) : blender(args, scratch), blended(scratch.take<T>(blender.padded)) {}
};

template <typename T, int K>
void blend_maps(const BlendArgs<T>& args, T* out, int64_t begin, int64_t end) {
  typedef Blender<T, K> B;
  const Memory<BlendSpace<T, K>> memory(args);
  Scratch scratch = memory.scratch();
  BlendSpace<T, K> space(args, scratch);
  B& blender = space.blender;
  T* blended = space.blended;
  const int64_t count = args.output_size;
  blender.start();
  for (int64_t n = begin; n < end; ++n) {
    blender.set(n);
    for (int64_t j = 0; j < count; ++j) {
      T* row = out + (n * count + j) * count;
      if (!blender.y.inside[j]) {
        fill(row, count, T(0));
        continue;
      }
      const MixedRow<T> logit = blender.logit_row(j), crop = blender.crop_row(j);
      for (int64_t i = 0; i < blender.padded; i += B::W) {
        typename B::V local[K > 0 ? K : 1], *share = K > 0 ? local : blender.shares;
        const auto scale = blender.attend(logit, i, share);
        store<T, B::W>(blended + i, blender.mix(crop, i, share, scale));
      }
      __builtin_memcpy(row, blended, count * sizeof(T));
    }
  }
}

// to[0 .. W) += weight * from
template <typename T>
PENTAMASK_INLINE void add_scaled(T* to, T weight, Vector<T, kWidth<T>> from) {
  store<T, kWidth<T>>(to, load<T, kWidth<T>>(to) + weight * from);
}

// to[0 .. count) += from
template <typename T>
PENTAMASK_INLINE void add(T* __restrict to, const T* __restrict from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    to[i] += from[i];
  }
}

// `rows`: the gradient of the horizontally resampled attention, `pitch` apart.
template <typename T, int K>
struct AttnGradSpace {
  Blender<T, K> blender;
  int64_t pitch;
  T *grad, *rows, *row_grad;
  Taps<T> transposed;

  AttnGradSpace(const BlendArgs<T>& args, Scratch& scratch)
      : blender(args, scratch),
        pitch(blender.padded + 2 * kGroup),
        grad(scratch.take<T>(blender.padded)),
        rows(scratch.take<T>(blender.maps() * args.attn_size * pitch)),
        row_grad(scratch.take<T>(round_up(args.attn_size, kGroup))),
        transposed(scratch, args.output_size, pitch, round_up(args.attn_size, kGroup), 2 * args.output_size) {}
};

// grad_attn of instances [begin, end); d softmax = p * (crop - blended), then the transpose of the upsampling.
template <typename T, int K>
void blend_maps_attn_grad(const BlendArgs<T>& args, const T* grad_out, T* grad_attn, int64_t begin, int64_t end) {
  typedef Blender<T, K> B;
  constexpr int W = B::W;
  const Memory<AttnGradSpace<T, K>> memory(args);
  Scratch scratch = memory.scratch();
  AttnGradSpace<T, K> space(args, scratch);
  B& blender = space.blender;
  Taps<T>& transposed = space.transposed;
  T *grad = space.grad, *rows = space.rows, *row_grad = space.row_grad;
  const int64_t size = args.attn_size, count = args.output_size, pitch = space.pitch;
  blender.start();
  int64_t outputs;
  const int64_t first = transposed.set_transposed(blender.resize, &outputs);
  for (int64_t n = begin; n < end; ++n) {
    blender.set(n);
    fill(rows, blender.maps() * size * pitch, T(0));
    for (int64_t j = 0; j < count; ++j) {
      if (!blender.y.inside[j]) {
        continue;  // the crop is zero there whatever the attention is
      }
      __builtin_memcpy(grad, grad_out + (n * count + j) * count, count * sizeof(T));
      const MixedRow<T> logit = blender.logit_row(j), crop = blender.crop_row(j);
      T *upper = rows + blender.resize.low[j] * pitch, *lower = rows + blender.resize.high[j] * pitch;
      for (int64_t i = 0; i < blender.padded; i += W) {
        typename B::V local[K > 0 ? K : 1], *share = K > 0 ? local : blender.shares;
        const auto scale = blender.attend(logit, i, share);
        const auto blended = blender.mix(crop, i, share, scale), scaled = load<T, W>(grad + i) * scale;
        for (int64_t k = 0; k < blender.maps(); ++k) {
          const auto slope = scaled * share[k] * (crop.at(k * blender.padded + i) - blended);
          add_scaled<T>(upper + k * size * pitch + i, logit.upper_weight, slope);
          add_scaled<T>(lower + k * size * pitch + i, logit.lower_weight, slope);
        }
      }
    }
    for (int64_t row = 0; row < blender.maps() * size; ++row) {
      transposed.apply(rows + row * pitch, row_grad);
      add(grad_attn + (n * blender.maps() * size + row) * size + first, row_grad, outputs);
    }
  }
}

// Gradients of two neighbouring rows of the bases before the horizontal transpose, written to the maps row by row.
template <typename T>
struct RowScatter {
  const BlendArgs<T>& args;
  int64_t begin = 0, end = 0;  // rows of all images; only these are written
  int64_t pitch, first = 0, outputs = 0, rows_held[2] = {-1, -1};
  Taps<T> transposed;
  T *rows, *pixels, *grad_bases = nullptr;

  RowScatter(const BlendArgs<T>& args, Scratch& scratch)
      : args(args),
        pitch(round_up(args.output_size, kGroup) + 2 * kGroup),
        transposed(scratch, args.output_size, pitch, round_up(args.width, kGroup), 2 * args.output_size),
        rows(scratch.take<T>(2 * args.maps * pitch)),
        pixels(scratch.take<T>(round_up(args.width, kGroup))) {}

  void start(T* to, int64_t first_row, int64_t last_row) {
    grad_bases = to;
    begin = first_row;
    end = last_row;
  }

  void set(const Axis<T>& x) {
    first = transposed.set_transposed(x, &outputs);
  }

  void flush(int slot) {
    const int64_t row = rows_held[slot];
    if (row >= begin && row < end) {
      const int64_t image = row / args.height, line = row % args.height;
      for (int64_t k = 0; k < args.maps; ++k) {
        transposed.apply(rows + (slot * args.maps + k) * pitch, pixels);
        add(grad_bases + ((image * args.maps + k) * args.height + line) * args.width + first, pixels, outputs);
      }
    }
    rows_held[slot] = -1;
  }

  T* get(int64_t row) {
    const int slot = static_cast<int>(row & 1);
    if (rows_held[slot] != row) {
      flush(slot);
      rows_held[slot] = row;
      fill(rows + slot * args.maps * pitch, args.maps * pitch, T(0));
    }
    return rows + slot * args.maps * pitch;
  }
};

template <typename T, int K>
struct BasesGradSpace {
  Blender<T, K> blender;
  T* grad;
  RowScatter<T> scatter;

  BasesGradSpace(const BlendArgs<T>& args, Scratch& scratch)
      : blender(args, scratch), grad(scratch.take<T>(blender.padded)), scatter(args, scratch) {}
};

// grad_bases, rows [begin, end) of all images: every row has one owner and adds its instances in order, so the sum does not
// depend on the number of threads.
template <typename T, int K>
void blend_maps_bases_grad(const BlendArgs<T>& args, const T* grad_out, T* grad_bases, int64_t begin, int64_t end) {
  typedef Blender<T, K> B;
  const Memory<BasesGradSpace<T, K>> memory(args);
  Scratch scratch = memory.scratch();
  BasesGradSpace<T, K> space(args, scratch);
  B& blender = space.blender;
  RowScatter<T>& scatter = space.scatter;
  T* grad = space.grad;
  const int64_t count = args.output_size;
  blender.start();
  scatter.start(grad_bases, begin, end);
  for (int64_t n = 0; n < args.instances; ++n) {
    bool started = false;
    blender.set_rows(n);
    const int64_t base = blender.image * args.height;
    for (int64_t j = 0; j < count; ++j) {
      const int64_t low = base + blender.y.low[j], high = base + blender.y.high[j];
      if (!blender.y.inside[j] || high < begin || low >= end) {
        continue;
      }
      if (!started) {
        blender.set_columns(n);
        scatter.set(blender.x);
        started = true;
      }
      __builtin_memcpy(grad, grad_out + (n * count + j) * count, count * sizeof(T));
      const MixedRow<T> logit = blender.logit_row(j);
      T *upper = scatter.get(low), *lower = scatter.get(high);
      for (int64_t i = 0; i < blender.padded; i += B::W) {
        typename B::V local[K > 0 ? K : 1], *share = K > 0 ? local : blender.shares;
        const auto scaled = blender.attend(logit, i, share) * load<T, B::W>(grad + i);
        for (int64_t k = 0; k < blender.maps(); ++k) {
          add_scaled<T>(upper + k * scatter.pitch + i, blender.y.low_weight[j], share[k] * scaled);
          add_scaled<T>(lower + k * scatter.pitch + i, blender.y.high_weight[j], share[k] * scaled);
        }
      }
    }
    scatter.flush(0);
    scatter.flush(1);
  }
}

// The kernels, with the released models' four maps made constant.
template <typename T>
void blend(const BlendArgs<T>& args, T* out, int64_t begin, int64_t end) {
  args.maps == 4 ? blend_maps<T, 4>(args, out, begin, end) : blend_maps<T, 0>(args, out, begin, end);
}

template <typename T>
void blend_attn_grad(const BlendArgs<T>& args, const T* grad_out, T* grad_attn, int64_t begin, int64_t end) {
  args.maps == 4 ? blend_maps_attn_grad<T, 4>(args, grad_out, grad_attn, begin, end)
                 : blend_maps_attn_grad<T, 0>(args, grad_out, grad_attn, begin, end);
}

template <typename T>
void blend_bases_grad(const BlendArgs<T>& args, const T* grad_out, T* grad_bases, int64_t begin, int64_t end) {
  args.maps == 4 ? blend_maps_bases_grad<T, 4>(args, grad_out, grad_bases, begin, end)
                 : blend_maps_bases_grad<T, 0>(args, grad_out, grad_bases, begin, end);
}

}  // namespace PENTAMASK_ISA
}  // namespace pentamask
