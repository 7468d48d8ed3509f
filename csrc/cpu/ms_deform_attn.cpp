// Registration of deformable attention's CPU kernels, and their parallel loops.
#include <algorithm>
#include <memory>
#include <new>
#include <vector>

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

// The inputs in the type that sums run in, contiguous; 16 bit inputs are widened once.
struct DeformAttnInputs {
  Tensor value, shapes, starts, locations, weights;

  DeformAttnInputs(
      const Tensor& value_in, const Tensor& spatial_shapes, const Tensor& level_start_index, const Tensor& sampling_locations,
      const Tensor& attention_weights) {
    check_ms_deform_attn(value_in, spatial_shapes, level_start_index, sampling_locations, attention_weights);
    const auto type = compute_type(value_in.scalar_type());
    value = value_in.to(type).contiguous();
    shapes = spatial_shapes.contiguous();
    starts = level_start_index.contiguous();
    locations = sampling_locations.to(type).contiguous();
    weights = attention_weights.to(type).contiguous();
    check_levels(shapes.const_data_ptr<int64_t>(), starts.const_data_ptr<int64_t>());
  }

  void check_levels(const int64_t* shape, const int64_t* start) const {
    const int64_t tokens = value.size(1);
    for (int64_t level = 0; level < shapes.size(0); ++level) {
      const int64_t height = shape[2 * level], width = shape[2 * level + 1];
      TORCH_CHECK_VALUE(
          level_fits(height, width, start[level], tokens), "ms_deform_attn: level ", level, " of `spatial_shapes` (", height, " x ", width, " from token ", start[level],
          ") does not fit into the ", tokens, " tokens of `value`");
    }
  }

  template <typename T>
  DeformAttnArgs<T> args() const {
    return {value.const_data_ptr<T>(), shapes.const_data_ptr<int64_t>(), starts.const_data_ptr<int64_t>(),
            locations.const_data_ptr<T>(), weights.const_data_ptr<T>(), value.size(0), value.size(1), value.size(2),
            value.size(3), shapes.size(0), locations.size(4), locations.size(1)};
  }
};

// The level of every point, padded for a group that starts at the last one.
template <typename T>
struct PointLevelTable {
  using Index = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
  std::vector<T> width, height;
  std::vector<Index> columns, rows, start;

  explicit PointLevelTable(const DeformAttnArgs<T>& args) {
    const int64_t points = args.levels * args.points;
    for (int64_t point = 0; point < points + kGroup; ++point) {
      const int64_t level = point < points ? point / args.points : -1;
      rows.push_back(level < 0 ? 0 : static_cast<Index>(args.spatial_shapes[2 * level]));
      columns.push_back(level < 0 ? 0 : static_cast<Index>(args.spatial_shapes[2 * level + 1]));
      start.push_back(level < 0 ? 0 : static_cast<Index>(args.level_start_index[level]));
      height.push_back(rows.back());
      width.push_back(columns.back());
    }
  }

  Levels<T> view() const {
    return {width.data(), height.data(), columns.data(), rows.data(), start.data()};
  }
};

// Copies of heads, one after the other in memory: [slots, tokens, channels]. In `value` a head's rows are heads * channels
// apart, so that they meet in few sets of the cache; many samples pay for putting them side by side.
template <typename T>
class PackedHeads {
 public:
  PackedHeads(const DeformAttnArgs<T>& args, int64_t slots, bool with_grad)
      : args_(args), size_(args.tokens * args.channels), value_(allocate(slots)), grad_(with_grad ? allocate(slots) : nullptr) {}

  // Whether each row is read often enough to pay for its copy.
  static bool worth(const DeformAttnArgs<T>& args) {
    return args.heads > 1 && args.queries * args.levels * args.points >= 4 * args.tokens;
  }

  T* value(int64_t slot) const {
    return value_.get() + slot * size_;
  }

  T* grad(int64_t slot) const {
    return grad_ ? grad_.get() + kSkew + slot * size_ : nullptr;
  }

  // Heads [first, first + slots) into the slots, and their gradients to zero.
  void load(int64_t first, int64_t slots) const {
    at::parallel_for(0, slots * args_.tokens, grain(args_.channels), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T* from = args_.value + row_of(first + i / args_.tokens, i % args_.tokens);
        std::copy(from, from + args_.channels, value_.get() + i * args_.channels);
        if (grad_) {
          std::fill_n(grad(0) + i * args_.channels, args_.channels, T(0));
        }
      }
    });
  }

  void store_grad(int64_t first, int64_t slots, T* to) const {
    at::parallel_for(0, slots * args_.tokens, grain(args_.channels), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T* from = grad(0) + i * args_.channels;
        std::copy(from, from + args_.channels, to + row_of(first + i / args_.tokens, i % args_.tokens));
      }
    });
  }

 private:
  int64_t row_of(int64_t pair, int64_t token) const {
    return ((pair / args_.heads * args_.tokens + token) * args_.heads + pair % args_.heads) * args_.channels;
  }

  static constexpr int64_t kSkew = 2048 / sizeof(T);
  struct Free {
    void operator()(T* numbers) const {
      ::operator delete(numbers, std::align_val_t(4096));
    }
  };
  using Numbers = std::unique_ptr<T, Free>;

  // Rows that begin with a cache line do not straddle more of them than they fill, and a row's gradient lies apart from it
  // modulo 4096, which the processor takes for its address at first. Uninitialised: the first touch is the parallel one.
  Numbers allocate(int64_t slots) const {
    return Numbers(static_cast<T*>(::operator new((slots * size_ + kSkew) * sizeof(T), std::align_val_t(4096))));
  }

  const DeformAttnArgs<T>& args_;
  int64_t size_;
  Numbers value_, grad_;
};

// The rows of a head where they lie in `value` and in its gradient.
template <typename T>
HeadRows<T> strided_head(const DeformAttnArgs<T>& args, int64_t pair, T* grad_value, const T* zeros) {
  const int64_t image = pair / args.heads, head = pair % args.heads;
  const int64_t offset = (image * args.tokens * args.heads + head) * args.channels;
  return {image, head, args.value + offset, grad_value ? grad_value + offset : nullptr, args.heads * args.channels, zeros, nullptr};
}

template <typename T>
void run(const DeformAttnArgs<T>& args, T* out) {
  const PointLevelTable<T> table(args);
  const std::vector<T> zeros(args.channels);
  const int64_t pairs = args.batch * args.heads, work = grain(args.levels * args.points * args.channels);
  const auto attend = [&](const HeadRows<T>& head, int64_t begin, int64_t end) {
    kernels<T>().ms_deform_attn(args, table.view(), head, out, begin, end);
  };
  if (!PackedHeads<T>::worth(args)) {
    at::parallel_for(0, pairs * args.queries, work, [&](int64_t begin, int64_t end) {
      for (int64_t next; begin < end; begin = next) {
        const int64_t pair = begin / args.queries, first = pair * args.queries;
        next = std::min(end, first + args.queries);
        attend(strided_head<T>(args, pair, nullptr, zeros.data()), begin - first, next - first);
      }
    });
    return;
  }
  const PackedHeads<T> packed(args, 1, false);
  for (int64_t pair = 0; pair < pairs; ++pair) {
    packed.load(pair, 1);
    at::parallel_for(0, args.queries, work, [&](int64_t begin, int64_t end) {
      attend({pair / args.heads, pair % args.heads, packed.value(0), nullptr, args.channels, zeros.data(), nullptr}, begin, end);
    });
  }
}

// Pairs whose copies take a tenth of the memory that the call returns; one at least. With fewer pairs at a time than threads,
// these share the levels out.
template <typename T>
int64_t packed_slots(const DeformAttnArgs<T>& args, const DeformAttnGrads<T>& grads, bool with_value) {
  const int64_t head = args.tokens * args.channels, samples = args.queries * args.levels * args.points;
  const int64_t returned = (with_value ? head : 0) + (grads.locations ? 2 * samples : 0) + (grads.weights ? samples : 0);
  return std::max<int64_t>(1, args.batch * args.heads * returned / 10 / (with_value ? 2 * head : head));
}

// Every level of every (image, head) pair has one owner, so no sum depends on the number of threads.
template <typename T>
void run_backward(const DeformAttnArgs<T>& args, const DeformAttnGrads<T>& grads, T* grad_value) {
  const PointLevelTable<T> table(args);
  const std::vector<T> zeros(args.channels);
  const int64_t pairs = args.batch * args.heads, threads = at::get_num_threads();
  // Levels [begin, end) of the pairs from `first` on; a thread takes neighbouring levels of a pair together.
  const auto spread = [&](int64_t count, const auto& head_of) {
    at::parallel_for(0, count * args.levels, grain(args.queries * args.points * args.channels), [&](int64_t begin, int64_t end) {
      std::vector<T> trash(args.channels);
      for (int64_t next; begin < end; begin = next) {
        const int64_t pair = begin / args.levels, first = pair * args.levels;
        next = std::min(end, first + args.levels);
        HeadRows<T> head = head_of(pair);
        head.trash = trash.data();
        kernels<T>().ms_deform_attn_grad(
            args, table.view(), head, grads, (begin - first) * args.points, (next - first) * args.points);
      }
    });
  };
  if (!PackedHeads<T>::worth(args)) {
    spread(pairs, [&](int64_t pair) { return strided_head(args, pair, grad_value, zeros.data()); });
    return;
  }
  const int64_t slots = std::min({pairs, threads, packed_slots(args, grads, grad_value != nullptr)});
  const PackedHeads<T> packed(args, slots, grad_value != nullptr);
  for (int64_t first = 0; first < pairs; first += slots) {
    const int64_t count = std::min(slots, pairs - first);
    packed.load(first, count);
    spread(count, [&](int64_t slot) {
      const int64_t pair = first + slot;
      return HeadRows<T>{pair / args.heads, pair % args.heads, packed.value(slot), packed.grad(slot), args.channels, zeros.data(), nullptr};
    });
    if (grad_value != nullptr) {
      packed.store_grad(first, count, grad_value);
    }
  }
}

Tensor ms_deform_attn(
    const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index, const Tensor& sampling_locations,
    const Tensor& attention_weights) {
  const DeformAttnInputs inputs(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  const std::vector<int64_t> sizes{value.size(0), sampling_locations.size(1), value.size(2) * value.size(3)};
  const bool nothing = sampling_locations.numel() == 0 || value.size(3) == 0;
  Tensor out = nothing ? at::zeros(sizes, inputs.value.options()) : at::empty(sizes, inputs.value.options());
  if (!nothing && out.scalar_type() == at::kDouble) {
    run(inputs.args<double>(), out.mutable_data_ptr<double>());
  } else if (!nothing) {
    run(inputs.args<float>(), out.mutable_data_ptr<float>());
  }
  return out.to(value.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor> ms_deform_attn_backward(
    const Tensor& grad_out, const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
    const Tensor& sampling_locations, const Tensor& attention_weights, bool value_grad, bool locations_grad, bool weights_grad) {
  const DeformAttnInputs inputs(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  check_grad_out(
      grad_out, {value.size(0), sampling_locations.size(1), value.size(2) * value.size(3)}, value, "ms_deform_attn_backward", "value");
  const auto options = inputs.value.options();
  const Tensor grad = grad_out.to(options.dtype()).contiguous();
  const bool nothing = sampling_locations.numel() == 0;
  const auto make = [&](bool wanted, const Tensor& like) {
    return nothing ? at::zeros(wanted ? like.sizes() : at::IntArrayRef{0}, options)
                   : at::empty(wanted ? like.sizes() : at::IntArrayRef{0}, options);
  };
  Tensor grad_value = at::empty({0}, options);
  Tensor grad_locations = make(locations_grad, sampling_locations), grad_weights = make(weights_grad, attention_weights);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const auto args = inputs.args<T>();
    if (value_grad) {  // packed heads write every row
      grad_value = !nothing && PackedHeads<T>::worth(args) ? at::empty(value.sizes(), options) : at::zeros(value.sizes(), options);
    }
    if (nothing) {
      return;
    }
    run_backward<T>(
        args,
        {grad.const_data_ptr<T>(), locations_grad ? grad_locations.mutable_data_ptr<T>() : nullptr,
         weights_grad ? grad_weights.mutable_data_ptr<T>() : nullptr},
        value_grad ? grad_value.mutable_data_ptr<T>() : nullptr);
  };
  if (options.dtype() == at::kDouble) {
    run(double{});
  } else {
    run(float{});
  }
  return {grad_value.to(value.scalar_type()), grad_locations.to(sampling_locations.scalar_type()),
          grad_weights.to(attention_weights.scalar_type())};
}

}  // namespace

TORCH_LIBRARY_IMPL(pentamask, CPU, m) {
  m.impl("ms_deform_attn", ms_deform_attn);
  m.impl("ms_deform_attn_backward", ms_deform_attn_backward);
}

}  // namespace pentamask::cpu
