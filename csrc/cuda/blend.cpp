// Registration of the blender's CUDA kernels.
#include <ATen/Context.h>
#include <torch/library.h>

#include "dispatch.h"

namespace pentamask::cuda {
namespace {

using at::Tensor;

struct BlendInputs {
  Tensor bases, rois, attn;

  BlendInputs(const Tensor& bases_in, const Tensor& rois_in, const Tensor& attn_in)
      : bases(bases_in.contiguous()),
        rois(rois_in.to(compute_type(bases_in.scalar_type())).contiguous()),
        attn(attn_in.contiguous()) {}

  // The kernels count the pixels of a map in 32 bit.
  void check(int64_t output_size) const {
    TORCH_CHECK_VALUE(
        bases.size(2) * bases.size(3) <= INT32_MAX && output_size <= 32767 && attn.size(2) <= 32767,
        "blend: on a GPU maps have less than 2^31 pixels, got ", bases.sizes(), ", ", attn.sizes(), " and `output_size` ", output_size);
  }

  template <typename T, typename C>
  BlendArgs<T, C> args(double spatial_scale, int64_t output_size) const {
    return {read<T>(bases), read<C>(rois), read<T>(attn), bases.size(0), bases.size(1), bases.size(2), bases.size(3),
            rois.size(0), attn.size(2), output_size, static_cast<C>(spatial_scale)};
  }
};

Tensor forward(const Tensor& bases, const Tensor& rois, const Tensor& attn, double spatial_scale, int64_t output_size) {
  check_blend(bases, rois, attn, spatial_scale, output_size);
  const c10::cuda::CUDAGuard guard(bases.device());
  const BlendInputs inputs(bases, rois, attn);
  inputs.check(output_size);
  Tensor out = at::empty({rois.size(0), output_size, output_size}, bases.options());
  if (out.numel() > 0) {
    dispatch(bases.scalar_type(), [&](auto types) {
      using T = typename decltype(types)::T;
      using C = typename decltype(types)::C;
      return blend<T, C>(inputs.args<T, C>(spatial_scale, output_size), write<T>(out), c10::cuda::getCurrentCUDAStream());
    });
  }
  return out;
}

std::tuple<Tensor, Tensor> backward(
    const Tensor& grad_out, const Tensor& bases, const Tensor& rois, const Tensor& attn, double spatial_scale, int64_t output_size,
    bool bases_grad, bool attn_grad) {
  check_blend(bases, rois, attn, spatial_scale, output_size);
  check_grad_out(grad_out, {rois.size(0), output_size, output_size}, bases, "blend_backward", "bases");
  if (bases_grad) {
    at::globalContext().alertNotDeterministic("pentamask::blend_backward (CUDA)");
  }
  const c10::cuda::CUDAGuard guard(bases.device());
  const BlendInputs inputs(bases, rois, attn);
  inputs.check(output_size);
  const Tensor grad = grad_out.to(bases.scalar_type()).contiguous();
  const auto options = bases.options().dtype(compute_type(bases.scalar_type()));
  Tensor grad_bases = at::zeros(bases_grad ? bases.sizes() : at::IntArrayRef{0}, options);
  Tensor grad_attn = at::empty(attn_grad ? attn.sizes() : at::IntArrayRef{0}, options);
  const Tensor grad_logits = at::empty({attn_grad ? rois.size(0) : 0, bases.size(1), output_size, output_size}, options);
  if (grad.numel() > 0) {
    dispatch(bases.scalar_type(), [&](auto types) {
      using T = typename decltype(types)::T;
      using C = typename decltype(types)::C;
      return blend_grad<T, C>(
          inputs.args<T, C>(spatial_scale, output_size), read<T>(grad), write<C>(grad_bases, bases_grad),
          write<C>(grad_attn, attn_grad), write<C>(grad_logits, attn_grad), c10::cuda::getCurrentCUDAStream());
    });
  }
  return {grad_bases.to(bases.scalar_type()), grad_attn.to(bases.scalar_type())};
}

}  // namespace

TORCH_LIBRARY_IMPL(pentamask, CUDA, m) {
  m.impl("blend", forward);
  m.impl("blend_backward", backward);
}

}  // namespace pentamask::cuda
