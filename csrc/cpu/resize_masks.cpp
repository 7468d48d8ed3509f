// Registration of the resizing of masks with a threshold, and its parallel loop.
#include <tuple>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "../checks.h"
#include "dispatch.h"

namespace pentamask::cpu {
namespace {

using at::Tensor;

template <typename T>
void resize(const Tensor& masks, double threshold, const Tensor& inside, const Tensor& sums) {
  const ResizeArgs<T> args{
      masks.const_data_ptr<T>(), masks.size(1), masks.size(2), inside.size(1), inside.size(2), static_cast<T>(threshold)};
  at::parallel_for(0, masks.size(0), grain(args.out_height * args.out_width), [&](int64_t begin, int64_t end) {
    kernels<T>().resize_masks(args, inside.mutable_data_ptr<bool>(), sums.mutable_data_ptr<T>(), begin, end);
  });
}

std::tuple<Tensor, Tensor> resize_masks(const Tensor& masks_in, int64_t height, int64_t width, double threshold) {
  check_resize_masks(masks_in, height, width);
  const Tensor masks = masks_in.contiguous();
  Tensor inside = at::empty({masks.size(0), height, width}, masks.options().dtype(at::kBool));
  Tensor sums = at::empty({masks.size(0), 2}, masks.options());
  if (masks.scalar_type() == at::kDouble) {
    resize<double>(masks, threshold, inside, sums);
  } else {
    resize<float>(masks, threshold, inside, sums);
  }
  return {inside, sums};
}

}  // namespace

TORCH_LIBRARY_IMPL(pentamask, CPU, m) {
  m.impl("resize_masks", resize_masks);
}

}  // namespace pentamask::cpu
