// core/library/avx2/vector.h -- one AVX2 register as eight floats, eight int32 or sixteen
// int16, with the few operations that the transforms and products need.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "core/tensor/dtype.h"

namespace qt::avx2 {

// +, - and * work lane by lane (GCC's vector extension). Integer sums wrap, hence unsigned.
using F32x8 = float __attribute__((vector_size(32)));
using U32x8 = uint32_t __attribute__((vector_size(32)));
using I16x16 = int16_t __attribute__((vector_size(32)));

#define QT_INLINE inline __attribute__((always_inline))

// ---- float ----
QT_INLINE F32x8 all_lanes(float value) { return _mm256_set1_ps(value); }
QT_INLINE F32x8 load_floats(const float* p) { return _mm256_loadu_ps(p); }
QT_INLINE F32x8 load_floats(const uint8_t* p) {
  return _mm256_cvtepi32_ps(
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
QT_INLINE F32x8 load_floats(const int8_t* p) {
  return _mm256_cvtepi32_ps(
      _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
QT_INLINE F32x8 load_floats(const BFloat16* p) {
  const __m256i halves =
      _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return F32x8(_mm256_slli_epi32(halves, 16));
}
QT_INLINE void store(float* p, F32x8 v) { _mm256_storeu_ps(p, v); }
// a * b + c, rounded once.
QT_INLINE F32x8 fused(F32x8 a, F32x8 b, F32x8 c) { return _mm256_fmadd_ps(a, b, c); }
QT_INLINE F32x8 fused(float a, F32x8 b, F32x8 c) { return fused(all_lanes(a), b, c); }

// ---- integers ----
QT_INLINE I16x16 load_shorts(const uint8_t* p) {
  return I16x16(_mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
QT_INLINE I16x16 load_shorts(const int8_t* p) {
  return I16x16(_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
QT_INLINE I16x16 load_shorts(const int16_t* p) {
  return I16x16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
QT_INLINE U32x8 load_words(const int32_t* p) {
  return U32x8(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
// Sixteen int16 as floats.
QT_INLINE void store_floats(float* p, I16x16 v) {
  const auto half = [](__m128i lanes) { return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(lanes)); };
  _mm256_storeu_ps(p, half(_mm256_castsi256_si128(__m256i(v))));
  _mm256_storeu_ps(p + 8, half(_mm256_extracti128_si256(__m256i(v), 1)));
}
QT_INLINE void store(int16_t* p, I16x16 v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), __m256i(v));
}
QT_INLINE void store(int32_t* p, U32x8 v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), __m256i(v));
}
// Lane i: a[2i] * b[2i] + a[2i + 1] * b[2i + 1].
QT_INLINE U32x8 multiply_pairs(I16x16 a, I16x16 b) {
  return U32x8(_mm256_madd_epi16(__m256i(a), __m256i(b)));
}
// The two int16 at p in all pairs of lanes.
QT_INLINE I16x16 all_pairs(const int16_t* p) {
  int32_t pair;
  memcpy(&pair, p, sizeof pair);
  return I16x16(_mm256_set1_epi32(pair));
}
// Signed lanes divided by 4 (exact where they are multiples of it).
QT_INLINE U32x8 quarter(U32x8 v) { return U32x8(_mm256_srai_epi32(__m256i(v), 2)); }

// Eight registers of eight 32-bit lanes, transposed in place.
QT_INLINE void transpose(F32x8 (&r)[8]) {
  F32x8 pair[8], quad[8];
  for (int i = 0; i < 4; ++i) {
    pair[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    pair[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    quad[i] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44);
    quad[i + 1] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0xee);
    quad[i + 2] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
    quad[i + 3] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x20);
    r[i + 4] = _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x31);
  }
}

}  // namespace qt::avx2
