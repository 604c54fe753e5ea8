// tests/gpu/on_gpu.h -- the fixture of tests that are written once and run on whatever GPU their
// program has: a real one (tests/gpu/real_gpu_cuda.cpp), where they are skipped if there is none,
// or the emulated one (tests/emulation/as_gpu.cpp).
#pragma once
#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "core/device/gpu.h"
#include "core/tensor/transfer.h"

namespace qt {

namespace gpu_under_test {

// "" where tests can run, else why not.
std::string missing();
bool is_emulated();
// A test may repeat itself in so many orders of threads and of work among streams; 1 on a real GPU.
int orders();
// A GPU with nothing on it that works in the given order.
void start(int order);
std::string name_of_order(int order);
// What is left on the GPU that nobody owns any more: "" or a list.
std::string leaks();
// Bytes of its memory that the driver has given out, where that is known; 0 elsewhere.
size_t bytes_in_use();

}  // namespace gpu_under_test

// What this test program is compiled with.
enum class Build { plain, address, thread };
#if defined(__SANITIZE_THREAD__)
constexpr Build build = Build::thread;
#elif defined(__SANITIZE_ADDRESS__)
constexpr Build build = Build::address;
#else
constexpr Build build = Build::plain;
#endif

// In whose memory nothing may be left afterwards.
class OnGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = gpu_under_test::missing(); !why.empty())
      GTEST_SKIP() << why << ": nothing of this test has run";
    gpu_under_test::start(0);
  }
  void TearDown() override {
    if (IsSkipped()) return;
    release_cached_gpu_memory();
    EXPECT_EQ(gpu_under_test::leaks(), "");
    EXPECT_EQ(gpu_memory_stats().in_use, 0u);
  }
  // Calls body() in each order.
  template <class Body>
  static void in_all_orders(Body body) {
    for (int order = 0; order < gpu_under_test::orders(); ++order) {
      SCOPED_TRACE(gpu_under_test::name_of_order(order));
      gpu_under_test::start(order);
      body();
      if (HasFailure()) return;  // one report is enough
    }
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
