#include "dispatch.h"

#include <cstdlib>
#include <cstring>

#include <c10/util/Exception.h>

namespace pentamask {

namespace baseline {
extern const cpu::Kernels<float> kernels_float;
extern const cpu::Kernels<double> kernels_double;
}  // namespace baseline
#if defined(__x86_64__)
namespace avx2 {
extern const cpu::Kernels<float> kernels_float;
extern const cpu::Kernels<double> kernels_double;
}  // namespace avx2
namespace avx512 {
extern const cpu::Kernels<float> kernels_float;
extern const cpu::Kernels<double> kernels_double;
}  // namespace avx512
#endif

namespace cpu {
namespace {

enum Level { kBaseline, kAvx2, kAvx512 };
constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

Level supported_level() {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    return kBaseline;
  }
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  return wide ? kAvx512 : kAvx2;
#else
  return kBaseline;
#endif
}

Level chosen_level() {
  const Level best = supported_level();
  const char* asked = std::getenv("PENTAMASK_CPU_CAPABILITY");
  if (asked == nullptr || *asked == '\0') {
    return best;
  }
  for (const Level level : {kBaseline, kAvx2, kAvx512}) {
    if (std::strcmp(asked, kNames[level]) == 0) {
      TORCH_CHECK_VALUE(level <= best, "PENTAMASK_CPU_CAPABILITY=", asked, ": this processor has only ", kNames[best]);
      return level;
    }
  }
  TORCH_CHECK_VALUE(false, "PENTAMASK_CPU_CAPABILITY=", asked, ": expected baseline, avx2 or avx512");
}

template <typename T>
const Kernels<T>& pick(const Kernels<T>& baseline, const Kernels<T>& avx2, const Kernels<T>& avx512) {
  static const Level level = chosen_level();
  return level == kAvx512 ? avx512 : level == kAvx2 ? avx2 : baseline;
}

}  // namespace

#if !defined(__x86_64__)
namespace avx2 = baseline;
namespace avx512 = baseline;
#endif

template <>
const Kernels<float>& kernels<float>() {
  return pick(baseline::kernels_float, avx2::kernels_float, avx512::kernels_float);
}

template <>
const Kernels<double>& kernels<double>() {
  return pick(baseline::kernels_double, avx2::kernels_double, avx512::kernels_double);
}

}  // namespace cpu
}  // namespace pentamask
