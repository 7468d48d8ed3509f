// Bilinear resampling of rows, and its transpose, as sparse linear maps that are applied to many rows.
#pragma once
#include "simd.h"

namespace pentamask {
namespace PENTAMASK_ISA {

// Samples along one axis of the output, padded with outside samples to whole groups.
template <typename T>
struct Axis {
  int64_t count, padded;
  int32_t *low, *high;
  bool* inside;
  T *low_weight, *high_weight;

  Axis(Scratch& scratch, int64_t count) : count(count), padded(round_up(count, kGroup)) {
    low = scratch.take<int32_t>(padded);
    high = scratch.take<int32_t>(padded);
    inside = scratch.take<bool>(padded);
    low_weight = scratch.take<T>(padded);
    high_weight = scratch.take<T>(padded);
  }

  // One RoIAlign sample in the middle of each of `count` bins between `from` and `to`, in pixels of the map.
  void set_crop(T from, T to, int32_t size) {
    const T first = from - T(0.5), step = (to - from) / T(count);
    for (int32_t i = 0; i < static_cast<int32_t>(padded); ++i) {
      put(i, roi_align_sample(first + (T(i) + T(0.5)) * step, size));
    }
  }

  void set_resize(int32_t size) {
    const T ratio = T(size) / T(count);
    for (int32_t i = 0; i < static_cast<int32_t>(padded); ++i) {
      put(i, resize_sample(i, size, ratio));
    }
  }

 private:
  inline void put(int32_t i, const AxisSample<T>& sample) {
    low[i] = sample.low;
    high[i] = sample.high;
    inside[i] = sample.inside & (i < count);
    low_weight[i] = T(1) - sample.fraction;
    high_weight[i] = sample.fraction;
  }
};

// to[o] = the sum over o's taps of weight * from[index]. W outputs make a block, whose n-th taps make an entry: the numbers
// that an entry looks at lie in a window of `from`, in vectors that are loaded whole and shuffled.
template <typename T>
class Taps {
 public:
  static constexpr int W = kWidth<T>;

  // `inputs`: length of the rows to read, of which `readable` numbers may be loaded. `outputs` and `entries`: at most.
  Taps(Scratch& scratch, int64_t inputs, int64_t readable, int64_t outputs, int64_t entries)
      : inputs_(inputs), readable_(readable) {
    first_ = scratch.take<int32_t>(outputs / W + 2);
    count_ = scratch.take<int32_t>(outputs);
    base_ = scratch.take<int32_t>(entries);
    pairs_ = scratch.take<int32_t>(entries);
    offset_ = scratch.take<Lane<T>>(entries * W);
    weight_ = scratch.take<T>(entries * W);
    copy_ = scratch.take<T>(inputs + 4 * W);  // the zeros behind the row stay
  }

  // Every output has two taps, or none where it lies outside.
  void set(const Axis<T>& axis) {
    blocks_ = axis.padded / W;
    for (int64_t block = 0; block <= blocks_; ++block) {
      first_[block] = static_cast<int32_t>(2 * block);
    }
    for (int64_t i = 0; i < axis.padded; ++i) {
      const int64_t at = (i / W * 2) * W + i % W;
      offset_[at] = axis.inside[i] ? axis.low[i] : -1;
      offset_[at + W] = axis.inside[i] ? axis.high[i] : -1;
      weight_[at] = axis.low_weight[i];
      weight_[at + W] = axis.high_weight[i];
    }
    find_windows();
  }

  // The transpose: what each of the pixels [first, first + outputs) gets from the samples. Returns `first`.
  int64_t set_transposed(const Axis<T>& axis, int64_t* outputs) {
    int64_t begin = INT32_MAX, end = 0;
    for (int64_t i = 0; i < axis.count; ++i) {
      begin = axis.inside[i] && axis.low[i] < begin ? axis.low[i] : begin;
      end = axis.inside[i] && axis.high[i] >= end ? axis.high[i] + 1 : end;
    }
    begin = begin < end ? begin : end;
    *outputs = end - begin;
    count_taps(axis, begin, end - begin);
    fill(offset_, first_[blocks_] * W, Lane<T>(-1));
    fill(weight_, first_[blocks_] * W, T(0));
    fill(count_, end - begin, 0);
    for (int64_t i = 0; i < axis.count; ++i) {
      const bool one_pixel = axis.high[i] == axis.low[i];
      if (axis.inside[i]) {
        place(axis.low[i] - begin, i, axis.low_weight[i] + (one_pixel ? axis.high_weight[i] : T(0)));
      }
      if (axis.inside[i] && !one_pixel) {
        place(axis.high[i] - begin, i, axis.high_weight[i]);
      }
    }
    find_windows();
    return begin;
  }

  // Asks for what apply() will read of a row.
  void prefetch(const T* from) const {
    for (int64_t i = begin_; i < end_; i += static_cast<int64_t>(64 / sizeof(T))) {
      __builtin_prefetch(from + i);
    }
  }

  // Writes whole blocks.
  void apply(const T* from, T* to) const {
    typedef Vector<T, W> V;
    if (copies_) {
      __builtin_memcpy(copy_, from, inputs_ * sizeof(T));
      from = copy_;
    }
    for (int64_t block = 0; block < blocks_; ++block) {
      V sum{};
      for (int32_t entry = first_[block]; entry < first_[block + 1]; ++entry) {
        const auto offset = load<Lane<T>, W>(offset_ + entry * W);
        const V product = load<T, W>(weight_ + entry * W) * pick(from + base_[entry], offset, pairs_[entry]);
        sum += offset >= 0 ? product : V{};
      }
      store<T, W>(to + block * W, sum);
    }
  }

 private:
  void count_taps(const Axis<T>& axis, int64_t begin, int64_t outputs) {
    fill(count_, outputs, 0);
    for (int64_t i = 0; i < axis.count; ++i) {
      if (axis.inside[i]) {
        ++count_[axis.low[i] - begin];
        count_[axis.high[i] - begin] += axis.high[i] != axis.low[i];
      }
    }
    blocks_ = (outputs + W - 1) / W;
    first_[0] = 0;
    for (int64_t block = 0; block < blocks_; ++block) {
      int32_t most = 0;
      for (int64_t o = block * W; o < outputs && o < (block + 1) * W; ++o) {
        most = count_[o] > most ? count_[o] : most;
      }
      first_[block + 1] = first_[block] + most;
    }
  }

  void place(int64_t output, int64_t input, T weight) {
    const int64_t at = (first_[output / W] + count_[output]++) * W + output % W;
    offset_[at] = input;
    weight_[at] = weight;
  }

  // Turns indices into offsets from their entry's window. Where a window does not fit, rows are copied to one that is padded.
  void find_windows() {
    copies_ = false;
    begin_ = inputs_;
    end_ = 0;
    for (int32_t entry = 0; entry < first_[blocks_]; ++entry) {
      Lane<T>* offset = offset_ + entry * W;
      int64_t begin = inputs_, end = 0;
      for (int lane = 0; lane < W; ++lane) {
        begin = offset[lane] >= 0 && offset[lane] < begin ? offset[lane] : begin;
        end = offset[lane] >= end ? offset[lane] + 1 : end;
      }
      begin = begin < end ? begin : end;
      begin_ = begin < begin_ ? begin : begin_;
      end_ = end > end_ ? end : end_;
      const int64_t pairs = (end - begin + 2 * W - 1) / (2 * W), last = readable_ - pairs * 2 * W;
      copies_ = copies_ || last < 0;
      begin = last >= 0 && last < begin ? last : begin;
      base_[entry] = static_cast<int32_t>(begin);
      pairs_[entry] = static_cast<int32_t>(pairs);
      for (int lane = 0; lane < W; ++lane) {
        offset[lane] = offset[lane] >= 0 ? offset[lane] - begin : -1;
      }
    }
  }

  // from[offset], anything where the offset is negative.
  PENTAMASK_INLINE Vector<T, W> pick(const T* from, Vector<Lane<T>, W> offset, int32_t pairs) {
    Vector<T, W> picked{};
    if constexpr (!kFastShuffle) {
      for (int lane = 0; lane < W; ++lane) {
        picked[lane] = from[offset[lane] < 0 ? 0 : offset[lane]];
      }
      return picked;
    }
    for (int32_t pair = 0; pair < pairs; ++pair) {
      const Vector<T, W> a = load<T, W>(from + 2 * W * pair), b = load<T, W>(from + 2 * W * pair + W);
      const Vector<T, W> shuffled = shuffle<T, W>(a, b, offset);
      picked = pair == 0 ? shuffled : offset >= 2 * W * pair ? shuffled : picked;
    }
    return picked;
  }

  int64_t inputs_, readable_, begin_ = 0, end_ = 0, blocks_ = 0;
  bool copies_ = false;
  int32_t *first_, *count_, *base_, *pairs_;
  Lane<T>* offset_;
  T *weight_, *copy_;
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

  void prefetch(int64_t row, const Taps<T>& taps) const {
    for (int64_t k = 0; k < maps && rows_held[row & 1] != row; ++k) {
      taps.prefetch(planes + (k * height + row) * width);
    }
  }

  const T* get(int64_t row, const Taps<T>& taps) {
    T* slot = rows + (row & 1) * maps * padded;
    if (rows_held[row & 1] != row) {
      rows_held[row & 1] = row;
      for (int64_t k = 0; k < maps; ++k) {
        taps.apply(planes + (k * height + row) * width, slot + k * padded);
      }
    }
    return slot;
  }
};

}  // namespace PENTAMASK_ISA
}  // namespace pentamask
