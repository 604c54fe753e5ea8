// tests/emulation/emulated_gpu.h -- the fixture of tests on the emulated GPU, and comparisons of
// bits.
#pragma once
#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "core/device/gpu.h"
#include "core/tensor/transfer.h"
#include "tests/emulation/emulator.h"
#include "tests/emulation/runtime.h"

namespace qt {

// What this test program is compiled with.
enum class Build { plain, address, thread };
#if defined(__SANITIZE_THREAD__)
constexpr Build build = Build::thread;
#elif defined(__SANITIZE_ADDRESS__)
constexpr Build build = Build::address;
#else
constexpr Build build = Build::plain;
#endif

constexpr emulator::Order all_orders[] = {emulator::Order::ascending, emulator::Order::descending,
                                          emulator::Order::shuffled};

inline const char* name_of(emulator::Order order) {
  return order == emulator::Order::ascending    ? "threads ascending"
         : order == emulator::Order::descending ? "threads descending"
                                                : "threads shuffled";
}

// A fresh GPU, in whose memory nothing may be left afterwards.
class EmulatedGpu : public ::testing::Test {
 protected:
  void SetUp() override { start(0); }
  void TearDown() override {
    release_cached_gpu_memory();
    EXPECT_EQ(emulator::leaks(), "");
    EXPECT_EQ(gpu_memory_stats().in_use, 0u);
    emulator::set_order(emulator::Order::ascending);
  }
  // A fresh GPU whose work runs in the order of another seed (emulator::reset).
  static void start(unsigned seed) {
    try {
      release_cached_gpu_memory();
    } catch (const InternalError&) {  // a GPU that the test broke
    }
    emulator::reset(seed);
  }
};

// f32 in [-scale, scale] that depend on seed and position alone.
inline Tensor numbers(const Shape& shape, uint32_t seed, float scale = 1) {
  Tensor t = Tensor::empty(shape, DType::f32);
  uint32_t state = seed * 747796405u + 2891336453u;
  for (int64_t i = 0; i < t.elements(); ++i) {
    state = state * 1664525u + 1013904223u;
    t.data<float>()[i] = scale * (float(state >> 8) / float(1 << 23) - 1.0f);
  }
  return t;
}

// All bits set: NaN where the type has one.
inline Tensor unwritten(const Shape& shape, DType type = DType::f32) {
  Tensor t = Tensor::empty(shape, type);
  memset(t.raw(), 0xff, t.bytes());
  return t;
}

inline std::string difference_in_bits(const Tensor& got, const Tensor& wanted) {
  if (!(got.shape() == wanted.shape()) || got.dtype() != wanted.dtype())
    return got.shape().text() + " instead of " + wanted.shape().text();
  const size_t size = size_of(got.dtype());
  for (int64_t i = 0; i < got.elements(); ++i) {
    const char* const a = static_cast<const char*>(got.raw()) + size_t(i) * size;
    const char* const b = static_cast<const char*>(wanted.raw()) + size_t(i) * size;
    if (memcmp(a, b, size) == 0) continue;
    std::string text = "element " + std::to_string(i);
    if (got.dtype() == DType::f32)
      text += " is " + std::to_string(got.data<float>()[i]) + ", wanted " +
              std::to_string(wanted.data<float>()[i]);
    return text;
  }
  return "";
}

}  // namespace qt
