// quant/kept.h -- what backward needs of a value that its batch standardized, in 16 bits.
#pragma once
#include <cstdint>
#include <cstring>

#include "core/kernel/operands.h"

namespace qt {

// A number of IEEE half precision whose last bit is a flag: x = (y - mean) * rstd, cut to ten
// significant bits and read as the middle of what they stand for, and whether the activation passes
// its gradient. That is as forward saw it: no rounding of x moves a value over a bound. Magnitudes
// below 2^-14 become that one, NaN too (whose channel's constants are NaN); none is above 65504 in
// a batch of less than 4 * 10^9, as |x| <= sqrt(n - 1).
//
// A functor makes one as a float (`kept`), and gets it as a float: nothing is lost on the way, and
// each of the functions here is one to four instructions.
struct Kept {
  uint16_t bits;
};
constexpr int64_t most_rows_kept = int64_t{1} << 31;

namespace kept_bits {
constexpr uint32_t flag = 0x2000, sign = 0x80000000, bias = 0x38000000;
constexpr float least = 0x1.008p-14f;  // so that the next smaller one is normal too
QT_HD inline uint32_t of(float v) {
  uint32_t u;
  memcpy(&u, &v, 4);
  return u;
}
QT_HD inline float number(uint32_t u) {
  float v;
  memcpy(&v, &u, 4);
  return v;
}
}  // namespace kept_bits

QT_HD inline float kept(float x, bool passes) {
  using namespace kept_bits;
  const float absolute = x < 0 ? -x : x, magnitude = absolute > least ? absolute : least;
  return number((of(magnitude) & ~(2 * flag - 1)) | (of(x) & sign) | (passes ? flag : 0u));
}
QT_HD inline bool passed(float kept) { return (kept_bits::of(kept) & kept_bits::flag) != 0; }
QT_HD inline float standardized(float kept) {
  return kept_bits::number(kept_bits::of(kept) | kept_bits::flag);
}
// The next number in memory, so that x times slope moves against `excess`; the same flag.
QT_HD inline float next_kept(float kept, float excess, float slope) {
  using namespace kept_bits;
  const uint32_t grows = (of(kept) ^ of(excess) ^ of(slope)) & sign;
  return number(of(kept) - 2 * flag + (grows >> 16));
}

QT_HD inline float loaded(Kept k) {
#if defined(__CUDA_ARCH__)
  float v;
  asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(k.bits));
  return v;
#else
  const uint32_t b = k.bits;
  return kept_bits::number(((b & 0x8000u) << 16) | (((b & 0x7fffu) << 13) + kept_bits::bias));
#endif
}

template <>
struct DTypeOf<Kept> {
  static constexpr DType value = DType::u16;
};

namespace kernel {
template <>
struct Store<Kept> {
  static QT_HD Kept from(float v) {
    Kept k;
#if defined(__CUDA_ARCH__)
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(k.bits) : "f"(v));
#else
    const uint32_t u = kept_bits::of(v);
    k.bits = uint16_t(((u >> 16) & 0x8000u) | (((u & 0x7fffffffu) - kept_bits::bias) >> 13));
#endif
    return k;
  }
};
}  // namespace kernel

}  // namespace qt
