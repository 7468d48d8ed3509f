// The table of one instruction set's kernels; see dispatch.h.
#include "blend_kernel.h"
#include "gemm_kernel.h"
#include "ms_deform_attn_kernel.h"
#include "resize_masks_kernel.h"
#include "roi_align_kernel.h"
#include "spatial_attention_kernel.h"
#include "winograd_kernel.h"

namespace pentamask {
namespace PENTAMASK_ISA {

#define PENTAMASK_TABLE(name, T)                                                                                    \
  extern const cpu::Kernels<T> name;                                                                                \
  const cpu::Kernels<T> name = {                                                                                    \
      blend<T>,                  blend_attn_grad<T>, blend_bases_grad<T>, spatial_attention<T>,                      \
      spatial_attention_grad<T>, ms_deform_attn<T>,  ms_deform_attn_grad<T>,                      \
      packed_linear<T>,          winograd_input<T>,  winograd_output<T>,      \
      roi_align<T>,              resize_masks<T>}

PENTAMASK_TABLE(kernels_float, float);
PENTAMASK_TABLE(kernels_double, double);

}  // namespace PENTAMASK_ISA
}  // namespace pentamask
