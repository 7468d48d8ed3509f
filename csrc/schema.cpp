// Every operator's signature. Importing the module registers the operators; it holds nothing else.
#include <Python.h>
#include <torch/library.h>

TORCH_LIBRARY(pentamask, m) {
  m.def("blend(Tensor bases, Tensor rois, Tensor attn, float spatial_scale, int output_size) -> Tensor");
  m.def(
      "blend_backward(Tensor grad_out, Tensor bases, Tensor rois, Tensor attn, float spatial_scale, int output_size, "
      "bool bases_grad=True, bool attn_grad=True) -> (Tensor, Tensor)");

  m.def("spatial_attention(Tensor input, Tensor weight) -> Tensor");
  m.def(
      "_spatial_attention_forward(Tensor input, Tensor weight, bool with_argmax=True) -> (Tensor, Tensor, Tensor)");
  m.def(
      "spatial_attention_backward(Tensor grad_out, Tensor input, Tensor weight, Tensor gate, Tensor argmax, "
      "bool input_grad=True, bool weight_grad=True) -> (Tensor, Tensor)");

  m.def(
      "ms_deform_attn(Tensor value, Tensor spatial_shapes, Tensor level_start_index, Tensor sampling_locations, "
      "Tensor attention_weights) -> Tensor");
  m.def(
      "ms_deform_attn_backward(Tensor grad_out, Tensor value, Tensor spatial_shapes, Tensor level_start_index, "
      "Tensor sampling_locations, Tensor attention_weights, bool value_grad=True, bool locations_grad=True, "
      "bool weights_grad=True) -> (Tensor, Tensor, Tensor)");

  m.def(
      "packed_linear(Tensor input, Tensor weight, int out_features, Tensor? bias=None, Tensor? residual=None, bool relu=False) "
      "-> Tensor");
  m.def("winograd_conv3x3(Tensor input, Tensor weight, int out_channels, Tensor? bias=None, bool relu=False) -> Tensor");
  m.def(
      "roi_align_levels(Tensor[] maps, Tensor rois, Tensor levels, float[] scales, int output_size, int sampling_ratio, "
      "bool aligned) -> Tensor");
  m.def("resize_masks(Tensor masks, int height, int width, float threshold) -> (Tensor, Tensor)");
}

static PyModuleDef module_definition = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC PyInit__C(void) {
  return PyModule_Create(&module_definition);
}
