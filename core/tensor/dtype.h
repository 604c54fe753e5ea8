// core/tensor/dtype.h -- the element types of tensors.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define QT_HD __host__ __device__
#else
#define QT_HD
#endif

namespace qt {

// f64 is for sums on their way from one rank to another, u16 for what only backward reads
// (quant/kept.h): no operation takes them and no file holds them.
enum class DType : uint8_t { f32, bf16, i32, i64, i8, u8, f64, u16 };

// bfloat16: the upper half of a float. Conversion from float rounds to nearest, ties to even; NaN
// stays NaN.
struct BFloat16 {
  uint16_t bits;
  BFloat16() = default;
  QT_HD explicit BFloat16(float value) {
#if defined(__CUDA_ARCH__)  // the same rounding by one instruction, but for NaN's bits
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#else
    uint32_t u;
    memcpy(&u, &value, 4);
    const uint32_t rounded = u + 0x7fffu + ((u >> 16) & 1u);
    bits = uint16_t((u & 0x7fffffffu) > 0x7f800000u ? (u >> 16) | 0x40u : rounded >> 16);
#endif
  }
  QT_HD explicit operator float() const {
    const uint32_t u = uint32_t(bits) << 16;
    float value;
    memcpy(&value, &u, 4);
    return value;
  }
};
static_assert(sizeof(BFloat16) == 2);

constexpr size_t size_of(DType type) {
  switch (type) {
    case DType::f32:
    case DType::i32: return 4;
    case DType::bf16:
    case DType::u16: return 2;
    case DType::i64:
    case DType::f64: return 8;
    default: return 1;
  }
}

constexpr const char* name_of(DType type) {
  switch (type) {
    case DType::f32: return "f32";
    case DType::bf16: return "bf16";
    case DType::i32: return "i32";
    case DType::i64: return "i64";
    case DType::i8: return "i8";
    case DType::f64: return "f64";
    case DType::u16: return "u16";
    default: return "u8";
  }
}

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct DTypeOf<BFloat16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::i64;
};
template <>
struct DTypeOf<int8_t> {
  static constexpr DType value = DType::i8;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::u8;
};

}  // namespace qt
