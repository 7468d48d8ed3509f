// Registration of RoIAlign over several levels, and its parallel loop.
#include <vector>

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
void pool(
    const std::vector<Tensor>& maps, const Tensor& rois, const Tensor& levels, const std::vector<double>& scales,
    int64_t output_size, int64_t sampling_ratio, bool aligned, const Tensor& out) {
  std::vector<const T*> data;
  std::vector<int64_t> heights, widths;
  for (const auto& map : maps) {
    data.push_back(map.const_data_ptr<T>());
    heights.push_back(map.size(2));
    widths.push_back(map.size(3));
  }
  const RoiAlignArgs<T> args{
      data.data(), heights.data(), widths.data(), scales.data(), rois.const_data_ptr<T>(), levels.const_data_ptr<int64_t>(),
      maps[0].size(0), maps[0].size(1), output_size, sampling_ratio, aligned};
  for (int64_t i = 0; i < rois.size(0); ++i) {
    const T image = args.rois[i * 5];
    TORCH_CHECK_VALUE(
        image >= 0 && image < static_cast<T>(args.batch) && args.levels[i] >= 0 && args.levels[i] < static_cast<int64_t>(maps.size()),
        "roi_align_levels: expected image and level of each of `rois` within the ", args.batch, " images and ", maps.size(),
        " `maps`, got ", image, " and ", args.levels[i]);
  }
  const int64_t work = output_size * output_size * args.channels;
  at::parallel_for(0, rois.size(0), grain(work), [&](int64_t begin, int64_t end) {
    kernels<T>().roi_align(args, out.mutable_data_ptr<T>(), begin, end);
  });
}

Tensor roi_align_levels(
    at::TensorList maps_in, const Tensor& rois_in, const Tensor& levels_in, at::ArrayRef<double> scales, int64_t output_size,
    int64_t sampling_ratio, bool aligned) {
  check_roi_align_levels(maps_in, rois_in, levels_in, scales, output_size, sampling_ratio);
  std::vector<Tensor> maps;
  for (const auto& map : maps_in) {
    maps.push_back(map.contiguous(at::MemoryFormat::ChannelsLast));
  }
  const Tensor rois = rois_in.contiguous(), levels = levels_in.contiguous();
  Tensor out = at::empty(
      {rois.size(0), maps[0].size(1), output_size, output_size}, maps[0].options().memory_format(at::MemoryFormat::ChannelsLast));
  if (maps[0].scalar_type() == at::kDouble) {
    pool<double>(maps, rois, levels, scales.vec(), output_size, sampling_ratio, aligned, out);
  } else {
    pool<float>(maps, rois, levels, scales.vec(), output_size, sampling_ratio, aligned, out);
  }
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(pentamask, CPU, m) {
  m.impl("roi_align_levels", roi_align_levels);
}

}  // namespace pentamask::cpu
