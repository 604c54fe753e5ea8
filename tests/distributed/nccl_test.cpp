// tests/distributed/nccl_test.cpp -- the NCCL module is found beside the program and loads the real
// library. More than its identifiers cannot be had without GPUs: sums are tested on emulated ones
// (tests/emulation/ranks_test.cpp).
#include <gtest/gtest.h>

#include <algorithm>

#include "distributed/collectives.h"

namespace qt {
namespace {

TEST(NcclModule, MakesIdentifiersWithoutAGpu) {
  CollectivesModule module{};
  try {
    module = load_nccl();
  } catch (const ConfigError& e) {
    GTEST_SKIP() << e.what();  // built where there was nccl.h and no library
  }
  ASSERT_NE(module.open, nullptr);
  const Collectives::Id first = module.make_id(), second = module.make_id();
  EXPECT_NE(first, second);
  EXPECT_TRUE(std::any_of(first.begin(), first.end(), [](char c) { return c != 0; }));
}

}  // namespace
}  // namespace qt
