// tests/emulation/emulated_gpu.h -- the fixture of tests of the emulated GPU itself, and its
// orders.
#pragma once
#include <gtest/gtest.h>

#include <string>

#include "tests/emulation/emulator.h"
#include "tests/emulation/runtime.h"
#include "tests/gpu/on_gpu.h"

namespace qt {

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

}  // namespace qt
