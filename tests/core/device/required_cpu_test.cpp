// tests/core/device/required_cpu_test.cpp -- what a CPU without AVX2 is told.
#include "core/device/required_cpu.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string>
#include <vector>

namespace qt {
namespace {

std::string described(const std::vector<CpuFeature>& features, size_t size = 256) {
  std::array<char, 256> text{};
  text.fill('x');
  describe_unfit_cpu(features.data(), features.size(), text.data(), size);
  return text.data();
}

TEST(RequiredCpu, NothingIsSaidWhereNothingIsMissing) {
  EXPECT_EQ(described({{"avx2", true}, {"fma", true}}), "");
  EXPECT_EQ(described({}), "");
}

TEST(RequiredCpu, WhatIsMissingIsNamedInOneLine) {
  EXPECT_EQ(described({{"avx2", false}, {"fma", true}, {"bmi2", false}}),
            "error: this CPU cannot run this build, which is for x86-64-v3 (AVX2); "
            "missing: avx2, bmi2\n");
}

TEST(RequiredCpu, ALineThatDoesNotFitIsCut) {
  EXPECT_EQ(described({{"avx2", false}}, 12), "error: this");
  EXPECT_EQ(described({{"avx2", false}}, 1), "");
}

}  // namespace
}  // namespace qt
