// Included once per instruction set: everything lies in that set's namespace and nothing comes from the standard library's
// templates, because the linker merges inline functions of one name and could keep the copy that an older processor lacks.
#pragma once
#include <cstdint>

#include "../bilinear.h"
#include "dispatch.h"

#define PENTAMASK_METHOD inline __attribute__((always_inline))  // as PENTAMASK_INLINE, of a class

namespace pentamask {
namespace PENTAMASK_ISA {

using cpu::kGroup;
using cpu::HeadRows;
using cpu::Levels;
using cpu::round_up;

// W lanes of T. The compiler's vector type, loadable from any address; W = 1 is the plain number.
template <typename T, int W>
struct VectorOf {
  typedef T type __attribute__((vector_size(W * sizeof(T))));
};
template <typename T>
struct VectorOf<T, 1> {
  typedef T type;
};
template <typename T, int W>
using Vector = typename VectorOf<T, W>::type;

template <typename T>
constexpr int kWidth = PENTAMASK_VECTOR_BYTES / sizeof(T);

template <typename T, int W>
PENTAMASK_INLINE Vector<T, W> load(const T* from) {
  Vector<T, W> to;
  __builtin_memcpy(&to, from, sizeof(to));
  return to;
}

template <typename T, int W>
PENTAMASK_INLINE void store(T* to, Vector<T, W> from) {
  __builtin_memcpy(to, &from, sizeof(from));
}

// The signed integer as wide as T, so that comparisons of T and of integers mask each other.
template <typename T>
struct LaneOf {
  typedef int32_t type;
};
template <>
struct LaneOf<double> {
  typedef int64_t type;
};
template <typename T>
using Lane = typename LaneOf<T>::type;

// Whether shuffle() by numbers that the compiler does not know is quicker than loading them one by one.
#if defined(__clang__)
constexpr bool kFastShuffle = false;
#else
constexpr bool kFastShuffle = PENTAMASK_VECTOR_BYTES >= 32;
#endif

// Lane i is lane lanes[i], modulo 2 W, of a followed by b.
template <typename T, int W>
PENTAMASK_INLINE Vector<T, W> shuffle(Vector<T, W> a, Vector<T, W> b, Vector<Lane<T>, W> lanes) {
#if defined(__clang__)
  Vector<T, W> shuffled{};
  for (int i = 0; i < W; ++i) {
    const Lane<T> lane = lanes[i] & (2 * W - 1);
    shuffled[i] = lane < W ? a[lane] : b[lane - W];
  }
  return shuffled;
#else
  return __builtin_shuffle(a, b, lanes);
#endif
}

// Lanes 0, 2, 4, ... of a followed by b, and lanes 1, 3, 5, ...
template <typename T, int W>
PENTAMASK_INLINE Vector<T, W> even_lanes(Vector<T, W> a, Vector<T, W> b) {
  Vector<Lane<T>, W> lanes;
  for (int i = 0; i < W; ++i) {
    lanes[i] = 2 * i;
  }
  return shuffle<T, W>(a, b, lanes);
}

template <typename T, int W>
PENTAMASK_INLINE Vector<T, W> odd_lanes(Vector<T, W> a, Vector<T, W> b) {
  Vector<Lane<T>, W> lanes;
  for (int i = 0; i < W; ++i) {
    lanes[i] = 2 * i + 1;
  }
  return shuffle<T, W>(a, b, lanes);
}

// Hands out aligned pieces of memory. Begun at address 0 it has none, and counts what the same calls would take.
struct Scratch {
  uintptr_t next = 0;

  template <typename U>
  U* take(int64_t count) {
    next = (next + 63) / 64 * 64;
    U* piece = reinterpret_cast<U*>(next);
    next += count * sizeof(U);
    return piece;
  }
};

// The memory that a `Workspace` takes, zeroed. Its constructor, (args, Scratch&), must take memory and not touch it: it runs
// once to count, and once more where the kernel makes the real one.
template <typename Workspace>
class Memory {
 public:
  template <typename Args>
  explicit Memory(const Args& args) {
    Scratch counter;
    const Workspace counted(args, counter);
    const uintptr_t bytes = counter.next + 63;  // for the address to begin at
    begin_ = ::operator new(bytes);
    __builtin_memset(begin_, 0, bytes);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() {
    ::operator delete(begin_);
  }

  Scratch scratch() const {
    return {reinterpret_cast<uintptr_t>(begin_)};
  }

 private:
  void* begin_;
};

template <typename T>
PENTAMASK_INLINE void fill(T* to, int64_t count, T number) {
  for (int64_t i = 0; i < count; ++i) {
    to[i] = number;
  }
}

template <int W>
PENTAMASK_INLINE Vector<double, W> exponential(Vector<double, W> x) {
  for (int i = 0; i < W; ++i) {
    x[i] = __builtin_exp(x[i]);
  }
  return x;
}

// exp(x) for x <= 0: 2^n * p(r), |r| <= ln(2) / 2, p the Taylor polynomial of degree 6, whose error is float's rounding.
// Below -87, where the result is next to 0, it stays what it is there; NaN stays NaN.
template <int W>
PENTAMASK_INLINE Vector<float, W> exponential(Vector<float, W> x) {
  typedef Vector<float, W> V;
  typedef Vector<int32_t, W> I;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves no place for a fraction
  x = x < -87.0f ? V{} - 87.0f : x;
  const V n = (x * 1.44269504f + kRound) - kRound;
  const V r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln(2) in two parts, the first exact times n
  V p = r * (1.0f / 720.0f) + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const I power = (__builtin_convertvector(n, I) + 127) << 23;
  return p * reinterpret_cast<V>(power);
}

template <typename T, int W>
PENTAMASK_INLINE Vector<T, W> sigmoid(Vector<T, W> x) {
  const Vector<T, W> e = exponential<W>(x > 0 ? -x : x);
  return (x > 0 ? Vector<T, W>{} + T(1) : e) / (T(1) + e);
}

}  // namespace PENTAMASK_ISA
}  // namespace pentamask
