// A baseline for the benchmarks, written as deformable attention's kernels were in 2020: one thread per output channel,
// which computes its samples' coordinates anew and reads one number at a time; float32 only.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

namespace {

using at::Tensor;

struct Sizes {
  int64_t tokens, heads, channels, levels, points, queries;
};

struct Sample {
  bool inside;
  int64_t pixel[4];  // offset of the corner's number, -1 outside
  float weight[4], dx, dy;
};

__device__ Sample locate(
    const Sizes& s, const int64_t* shapes, const int64_t* starts, const float* location, int64_t image, int64_t head, int64_t level,
    int64_t channel) {
  const int64_t height = shapes[2 * level], width = shapes[2 * level + 1];
  const float x = location[0] * width - 0.5f, y = location[1] * height - 0.5f;
  Sample sample{x > -1 && y > -1 && x < width && y < height};
  if (!sample.inside) {
    return sample;
  }
  const int64_t left = floorf(x), top = floorf(y);
  sample.dx = x - left;
  sample.dy = y - top;
  for (int corner = 0; corner < 4; ++corner) {
    const int64_t column = left + corner % 2, row = top + corner / 2;
    const bool exists = column >= 0 && column < width && row >= 0 && row < height;
    const int64_t token = image * s.tokens + starts[level] + row * width + column;
    sample.pixel[corner] = exists ? (token * s.heads + head) * s.channels + channel : -1;
    sample.weight[corner] = (corner % 2 ? sample.dx : 1 - sample.dx) * (corner / 2 ? sample.dy : 1 - sample.dy);
  }
  return sample;
}

__global__ void forward_kernel(
    Sizes s, int64_t count, const float* value, const int64_t* shapes, const int64_t* starts, const float* locations,
    const float* weights, float* out) {
  const int64_t index = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (index >= count) {
    return;
  }
  const int64_t channel = index % s.channels, pair = index / s.channels, head = pair % s.heads;
  const int64_t image = pair / s.heads / s.queries;
  float sum = 0;
  for (int64_t level = 0; level < s.levels; ++level) {
    for (int64_t point = 0; point < s.points; ++point) {
      const int64_t at = (pair * s.levels + level) * s.points + point;
      const Sample sample = locate(s, shapes, starts, locations + 2 * at, image, head, level, channel);
      for (int corner = 0; sample.inside && corner < 4; ++corner) {
        sum += sample.pixel[corner] < 0 ? 0 : weights[at] * sample.weight[corner] * value[sample.pixel[corner]];
      }
    }
  }
  out[index] = sum;
}

// One block a (query, head) pair, one thread a channel; blockDim.x is a power of two.
__global__ void backward_kernel(
    Sizes s, const float* grad_out, const float* value, const int64_t* shapes, const int64_t* starts, const float* locations,
    const float* weights, float* grad_value, float* grad_locations, float* grad_weights) {
  extern __shared__ float sums[];
  const int64_t pair = blockIdx.x, channel = threadIdx.x, head = pair % s.heads, image = pair / s.heads / s.queries;
  const float grad = channel < s.channels ? grad_out[pair * s.channels + channel] : 0;
  for (int64_t level = 0; level < s.levels; ++level) {
    for (int64_t point = 0; point < s.points; ++point) {
      const int64_t at = (pair * s.levels + level) * s.points + point;
      const Sample sample = locate(s, shapes, starts, locations + 2 * at, image, head, level, channel);
      float corner_value[4] = {}, total = 0;
      for (int corner = 0; sample.inside && channel < s.channels && corner < 4; ++corner) {
        if (sample.pixel[corner] >= 0) {
          corner_value[corner] = value[sample.pixel[corner]];
          total += sample.weight[corner] * corner_value[corner];
          atomicAdd(grad_value + sample.pixel[corner], weights[at] * sample.weight[corner] * grad);
        }
      }
      const float along_x = (corner_value[1] - corner_value[0]) * (1 - sample.dy) + (corner_value[3] - corner_value[2]) * sample.dy;
      const float along_y = (corner_value[2] - corner_value[0]) * (1 - sample.dx) + (corner_value[3] - corner_value[1]) * sample.dx;
      const float scale = sample.inside ? grad * weights[at] : 0;
      sums[channel] = grad * total;
      sums[blockDim.x + channel] = sample.inside ? scale * along_x * shapes[2 * level + 1] : 0;
      sums[2 * blockDim.x + channel] = sample.inside ? scale * along_y * shapes[2 * level] : 0;
      for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        for (int part = 0; channel < half && part < 3; ++part) {
          sums[part * blockDim.x + channel] += sums[part * blockDim.x + channel + half];
        }
      }
      if (channel == 0) {
        grad_weights[at] = sums[0];
        grad_locations[2 * at] = sums[blockDim.x];
        grad_locations[2 * at + 1] = sums[2 * blockDim.x];
      }
      __syncthreads();
    }
  }
}

Sizes sizes_of(const Tensor& value, const Tensor& locations) {
  return {value.size(1), value.size(2), value.size(3), locations.size(3), locations.size(4), locations.size(1)};
}

Tensor forward(const Tensor& value, const Tensor& shapes, const Tensor& starts, const Tensor& locations, const Tensor& weights) {
  const Sizes s = sizes_of(value, locations);
  Tensor out = at::empty({value.size(0), s.queries, s.heads * s.channels}, value.options());
  constexpr int kThreads = 1024;
  forward_kernel<<<(out.numel() + kThreads - 1) / kThreads, kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
      s, out.numel(), value.const_data_ptr<float>(), shapes.const_data_ptr<int64_t>(), starts.const_data_ptr<int64_t>(),
      locations.const_data_ptr<float>(), weights.const_data_ptr<float>(), out.mutable_data_ptr<float>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

std::tuple<Tensor, Tensor, Tensor> backward(
    const Tensor& grad_out, const Tensor& value, const Tensor& shapes, const Tensor& starts, const Tensor& locations,
    const Tensor& weights) {
  const Sizes s = sizes_of(value, locations);
  Tensor grad_value = at::zeros_like(value), grad_locations = at::zeros_like(locations), grad_weights = at::zeros_like(weights);
  int threads = 1;
  while (threads < s.channels) {
    threads *= 2;
  }
  backward_kernel<<<value.size(0) * s.queries * s.heads, threads, 3 * threads * sizeof(float), c10::cuda::getCurrentCUDAStream()>>>(
      s, grad_out.const_data_ptr<float>(), value.const_data_ptr<float>(), shapes.const_data_ptr<int64_t>(),
      starts.const_data_ptr<int64_t>(), locations.const_data_ptr<float>(), weights.const_data_ptr<float>(),
      grad_value.mutable_data_ptr<float>(), grad_locations.mutable_data_ptr<float>(), grad_weights.mutable_data_ptr<float>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {grad_value, grad_locations, grad_weights};
}

}  // namespace

TORCH_LIBRARY(pentamask_benchmarks, m) {
  m.def("forward(Tensor value, Tensor shapes, Tensor starts, Tensor locations, Tensor weights) -> Tensor");
  m.def(
      "backward(Tensor grad_out, Tensor value, Tensor shapes, Tensor starts, Tensor locations, Tensor weights) -> (Tensor, "
      "Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(pentamask_benchmarks, CUDA, m) {
  m.impl("forward", forward);
  m.impl("backward", backward);
}
