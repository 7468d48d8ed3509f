// BlendMask's blender. Crop and upsampling are separable: a source row is resampled horizontally once per instance, and
// every output row mixes two resampled rows.
#pragma once
#include "simd.h"

namespace pentamask {
namespace PENTAMASK_ISA {

// Samples along one axis of the output, padded with outside samples to a multiple of kGroup.
template <typename T>
struct Axis {
  static constexpr int W = kWidth<T>;
  int64_t padded;
  int32_t *low, *high;
  Lane<T>* inside;  // 0 or 1
  T *low_weight, *high_weight;
  int32_t* base;                     // per W samples: first of 2 W source numbers that hold them all; -1 where there is none
  Lane<T> *low_offset, *high_offset;  // from there

  Axis(Scratch& scratch, int64_t count) : padded((count + kGroup - 1) / kGroup * kGroup) {
    low = scratch.take<int32_t>(padded);
    high = scratch.take<int32_t>(padded);
    inside = scratch.take<Lane<T>>(padded);
    low_weight = scratch.take<T>(padded);
    high_weight = scratch.take<T>(padded);
    base = scratch.take<int32_t>(padded);
    low_offset = scratch.take<Lane<T>>(padded);
    high_offset = scratch.take<Lane<T>>(padded);
  }

  // One RoIAlign sample in the middle of each of `count` bins between `from` and `to`, in pixels of the map.
  void set_crop(T from, T to, int32_t size, int32_t count) {
    const T first = from - T(0.5), step = (to - from) / T(count);
    for (int32_t i = 0; i < static_cast<int32_t>(padded); ++i) {
      put(i, roi_align_sample(first + (T(i) + T(0.5)) * step, size), count);
    }
    find_bases(size);
  }

  void set_resize(int32_t size, int32_t count) {
    const T ratio = T(size) / T(count);
    for (int32_t i = 0; i < static_cast<int32_t>(padded); ++i) {
      put(i, resize_sample(i, size, ratio), count);
    }
    find_bases(size);
  }

  // W samples from sample i on of a source row: two loads and two shuffles where they lie close together.
  inline Vector<T, W> resample(const T* source, int64_t i) const {
    Vector<T, W> lower, upper;
    const int32_t start = base[i / W];
    if (start >= 0) {
      const Vector<T, W> a = load<T, W>(source + start), b = load<T, W>(source + start + W);
      lower = __builtin_shuffle(a, b, load<Lane<T>, W>(low_offset + i));
      upper = __builtin_shuffle(a, b, load<Lane<T>, W>(high_offset + i));
    } else {
      for (int lane = 0; lane < W; ++lane) {
        lower[lane] = source[low[i + lane]];
        upper[lane] = source[high[i + lane]];
      }
    }
    const Vector<T, W> mixed = load<T, W>(low_weight + i) * lower + load<T, W>(high_weight + i) * upper;
    return load<Lane<T>, W>(inside + i) != 0 ? mixed : Vector<T, W>{};
  }

 private:
  // Without a shuffle instruction of two registers (the baseline) single loads are faster.
  void find_bases(int32_t size) {
    for (int64_t i = 0; i < padded; i += W) {
      int32_t first = size, last = 0;
      for (int lane = 0; lane < W; ++lane) {
        first = inside[i + lane] && low[i + lane] < first ? low[i + lane] : first;
        last = inside[i + lane] && high[i + lane] > last ? high[i + lane] : last;
      }
      first = first < size - 2 * W ? first : size - 2 * W;
      base[i / W] = PENTAMASK_VECTOR_BYTES >= 32 && last - first < 2 * W ? first : -1;
      for (int lane = 0; lane < W; ++lane) {
        low_offset[i + lane] = inside[i + lane] ? low[i + lane] - first : 0;
        high_offset[i + lane] = inside[i + lane] ? high[i + lane] - first : 0;
      }
    }
  }

  inline void put(int32_t i, const AxisSample<T>& sample, int32_t count) {
    low[i] = sample.low;
    high[i] = sample.high;
    inside[i] = sample.inside & (i < count);
    low_weight[i] = T(1) - sample.fraction;
    high_weight[i] = sample.fraction;
  }
};

// The two latest rows of [maps, height, width], resampled along an axis. Neighbouring rows never share a slot.
template <typename T>
struct RowCache {
  const T* planes;
  int64_t maps, height, width, padded, rows_held[2];
  T* rows;

  RowCache(Scratch& scratch, int64_t maps, int64_t height, int64_t width, int64_t padded)
      : planes(nullptr), maps(maps), height(height), width(width), padded(padded), rows(scratch.take<T>(2 * maps * padded)) {}

  void reset(const T* from) {
    planes = from;
    rows_held[0] = rows_held[1] = -1;
  }

  const T* get(int64_t row, const Axis<T>& axis) {
    T* slot = rows + (row & 1) * maps * padded;
    if (rows_held[row & 1] != row) {
      rows_held[row & 1] = row;
      for (int64_t k = 0; k < maps; ++k) {
        const T* source = planes + (k * height + row) * width;
        for (int64_t i = 0; i < padded; i += kWidth<T>) {
          store<T, kWidth<T>>(slot + k * padded + i, axis.resample(source, i));
        }
      }
    }
    return slot;
  }
};

// Everything that one instance's rows are made from.
template <typename T>
struct Blender {
  const BlendArgs<T>& args;
  int64_t padded;
  Axis<T> x, y, resize;
  RowCache<T> crops, logits;
  T* probabilities;
  int64_t image = -1;

  Blender(const BlendArgs<T>& args, Scratch& scratch)
      : args(args),
        padded((args.output_size + kGroup - 1) / kGroup * kGroup),
        x(scratch, args.output_size),
        y(scratch, args.output_size),
        resize(scratch, args.output_size),
        crops(scratch, args.maps, args.height, args.width, padded),
        logits(scratch, args.maps, args.attn_size, args.attn_size, padded),
        probabilities(scratch.take<T>(args.maps * padded)) {
    resize.set_resize(static_cast<int32_t>(args.attn_size), static_cast<int32_t>(args.output_size));
  }

  void set_rows(int64_t instance) {
    const T* roi = args.rois + 5 * instance;
    image = static_cast<int64_t>(roi[0]);
    const int32_t count = static_cast<int32_t>(args.output_size);
    y.set_crop(roi[2] * args.spatial_scale, roi[4] * args.spatial_scale, static_cast<int32_t>(args.height), count);
  }

  void set(int64_t instance) {
    set_rows(instance);
    const T* roi = args.rois + 5 * instance;
    const int32_t count = static_cast<int32_t>(args.output_size);
    x.set_crop(roi[1] * args.spatial_scale, roi[3] * args.spatial_scale, static_cast<int32_t>(args.width), count);
    crops.reset(args.bases + image * args.maps * args.height * args.width);
    logits.reset(args.attn + instance * args.maps * args.attn_size * args.attn_size);
  }

  // probabilities [maps, padded]: softmax over the maps of output row j of the upsampled attention.
  void attend(int64_t j) {
    constexpr int W = kWidth<T>;
    typedef Vector<T, W> V;
    const T* upper = logits.get(resize.low[j], resize);
    const T* lower = logits.get(resize.high[j], resize);
    const T upper_weight = resize.low_weight[j], lower_weight = resize.high_weight[j];
    for (int64_t i = 0; i < padded; i += W) {
      V most, sum{};
      for (int64_t k = 0; k < args.maps; ++k) {
        const int64_t at = k * padded + i;
        const V logit = upper_weight * load<T, W>(upper + at) + lower_weight * load<T, W>(lower + at);
        store<T, W>(probabilities + at, logit);
        most = k == 0 ? logit : ((logit > most) | (logit != logit)) ? logit : most;
      }
      for (int64_t k = 0; k < args.maps; ++k) {
        const V share = exponential<W>(load<T, W>(probabilities + k * padded + i) - most);
        store<T, W>(probabilities + k * padded + i, share);
        sum += share;
      }
      sum = T(1) / sum;
      for (int64_t k = 0; k < args.maps; ++k) {
        T* share = probabilities + k * padded + i;
        store<T, W>(share, load<T, W>(share) * sum);
      }
    }
  }

  // blended [padded]: output row j, after attend(j). Samples outside the map are zero.
  void mix(int64_t j, T* blended) {
    constexpr int W = kWidth<T>;
    fill(blended, padded, T(0));
    if (!y.inside[j]) {
      return;
    }
    const T* upper = crops.get(y.low[j], x);
    const T* lower = crops.get(y.high[j], x);
    const T upper_weight = y.low_weight[j], lower_weight = y.high_weight[j];
    for (int64_t i = 0; i < padded; i += W) {
      Vector<T, W> sum{};
      for (int64_t k = 0; k < args.maps; ++k) {
        const int64_t at = k * padded + i;
        sum += load<T, W>(probabilities + at) * (upper_weight * load<T, W>(upper + at) + lower_weight * load<T, W>(lower + at));
      }
      store<T, W>(blended + i, sum);
    }
  }
};

template <typename T>
void blend(const BlendArgs<T>& args, T* out, char* buffer, int64_t begin, int64_t end) {
  Scratch scratch{buffer};
  Blender<T> blender(args, scratch);
  T* blended = scratch.take<T>(blender.padded);
  for (int64_t n = begin; n < end; ++n) {
    blender.set(n);
    for (int64_t j = 0; j < args.output_size; ++j) {
      blender.attend(j);
      blender.mix(j, blended);
      __builtin_memcpy(out + (n * args.output_size + j) * args.output_size, blended, args.output_size * sizeof(T));
    }
  }
}

// to[low] += weight * from, to[high] += weight * from: the transpose of resampling along an axis.
template <typename T>
PENTAMASK_INLINE void scatter_row(const Axis<T>& axis, const T* from, int64_t count, T* to) {
  for (int64_t i = 0; i < count; ++i) {
    if (axis.inside[i]) {
      to[axis.low[i]] += axis.low_weight[i] * from[i];
      to[axis.high[i]] += axis.high_weight[i] * from[i];
    }
  }
}

template <typename T>
PENTAMASK_INLINE void add_scaled(T* __restrict to, T weight, const T* __restrict from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    to[i] += weight * from[i];
  }
}

// grad_attn of instances [begin, end); d softmax = p * (crop - blended), then the transpose of the upsampling.
template <typename T>
void blend_attn_grad(const BlendArgs<T>& args, const T* grad_out, T* grad_attn, char* buffer, int64_t begin, int64_t end) {
  Scratch scratch{buffer};
  Blender<T> blender(args, scratch);
  const int64_t padded = blender.padded, size = args.attn_size, count = args.output_size;
  T* __restrict blended = scratch.take<T>(padded);
  T* __restrict grad = scratch.take<T>(padded);
  T* __restrict logit = scratch.take<T>(padded);
  T* rows = scratch.take<T>(args.maps * size * padded);
  for (int64_t n = begin; n < end; ++n) {
    blender.set(n);
    fill(rows, args.maps * size * padded, T(0));
    fill(grad, padded, T(0));
    for (int64_t j = 0; j < count; ++j) {
      if (!blender.y.inside[j]) {
        continue;  // the crop is zero there whatever the attention is
      }
      blender.attend(j);
      blender.mix(j, blended);
      __builtin_memcpy(grad, grad_out + (n * count + j) * count, count * sizeof(T));
      const T* upper = blender.crops.get(blender.y.low[j], blender.x);
      const T* lower = blender.crops.get(blender.y.high[j], blender.x);
      const T upper_weight = blender.y.low_weight[j], lower_weight = blender.y.high_weight[j];
      for (int64_t k = 0; k < args.maps; ++k) {
        const T* __restrict p = blender.probabilities + k * padded;
        const T *__restrict above = upper + k * padded, *__restrict below = lower + k * padded;
        for (int64_t i = 0; i < padded; ++i) {
          logit[i] = grad[i] * p[i] * (upper_weight * above[i] + lower_weight * below[i] - blended[i]);
        }
        add_scaled(rows + (k * size + blender.resize.low[j]) * padded, blender.resize.low_weight[j], logit, padded);
        add_scaled(rows + (k * size + blender.resize.high[j]) * padded, blender.resize.high_weight[j], logit, padded);
      }
    }
    for (int64_t row = 0; row < args.maps * size; ++row) {
      scatter_row(blender.resize, rows + row * padded, count, grad_attn + (n * args.maps * size + row) * size);
    }
  }
}

// Gradients of two neighbouring rows of the bases before the horizontal transpose, written to the maps row by row.
template <typename T>
struct RowScatter {
  const BlendArgs<T>& args;
  int64_t padded, begin, end, rows_held[2];  // rows of all images; only [begin, end) is written
  T *rows, *grad_bases;

  void flush(int slot, const Axis<T>& axis) {
    const int64_t row = rows_held[slot];
    if (row >= begin && row < end) {
      const int64_t image = row / args.height, line = row % args.height;
      for (int64_t k = 0; k < args.maps; ++k) {
        T* target = grad_bases + ((image * args.maps + k) * args.height + line) * args.width;
        scatter_row(axis, rows + (slot * args.maps + k) * padded, args.output_size, target);
      }
    }
    rows_held[slot] = -1;
  }

  T* get(int64_t row, const Axis<T>& axis) {
    const int slot = static_cast<int>(row & 1);
    if (rows_held[slot] != row) {
      flush(slot, axis);
      rows_held[slot] = row;
      fill(rows + slot * args.maps * padded, args.maps * padded, T(0));
    }
    return rows + slot * args.maps * padded;
  }
};

// grad_bases, rows [begin, end) of all images: every row has one owner and adds its instances in order, so the sum does not
// depend on the number of threads.
template <typename T>
void blend_bases_grad(const BlendArgs<T>& args, const T* grad_out, T* grad_bases, char* buffer, int64_t begin, int64_t end) {
  Scratch scratch{buffer};
  Blender<T> blender(args, scratch);
  const int64_t padded = blender.padded, count = args.output_size;
  T* __restrict grad = scratch.take<T>(padded);
  RowScatter<T> scatter{args, padded, begin, end, {-1, -1}, scratch.take<T>(2 * args.maps * padded), grad_bases};
  fill(grad, padded, T(0));
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
        blender.set(n);
        started = true;
      }
      blender.attend(j);
      __builtin_memcpy(grad, grad_out + (n * count + j) * count, count * sizeof(T));
      T *upper = scatter.get(low, blender.x), *lower = scatter.get(high, blender.x);
      for (int64_t k = 0; k < args.maps; ++k) {
        T* __restrict crop = blender.probabilities + k * padded;
        for (int64_t i = 0; i < padded; ++i) {
          crop[i] *= grad[i];
        }
        add_scaled(upper + k * padded, blender.y.low_weight[j], crop, padded);
        add_scaled(lower + k * padded, blender.y.high_weight[j], crop, padded);
      }
    }
    scatter.flush(0, blender.x);
    scatter.flush(1, blender.x);
  }
}

}  // namespace PENTAMASK_ISA
}  // namespace pentamask
