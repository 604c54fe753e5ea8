// tests/core/device/cpu_test.cpp -- instruction sets have names, an order and a limit.
#include "core/device/cpu.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"

namespace qt {
namespace {

TEST(Isa, NamesAreReadBack) {
  for (const Isa isa : {Isa::sse41, Isa::avx2, Isa::avx512, Isa::avx512_vnni, Isa::avx512_bf16})
    EXPECT_EQ(isa_named(name_of(isa)), isa);
}

TEST(Isa, AnUnknownNameListsTheKnownOnes) {
  try {
    isa_named("AVX2");
    FAIL() << "names are lower case";
  } catch (const ConfigError& e) {
    EXPECT_THAT(e.what(), testing::AllOf(testing::HasSubstr("'AVX2'"),
                                         testing::HasSubstr("sse41, avx2, avx512, avx512_vnni, "
                                                            "avx512_bf16")));
  }
}

TEST(Isa, IsAtMostWhatTheCpuHasAndHoldsLowerOnes) {
  EXPECT_LE(cpu_isa(), detected_isa());
  EXPECT_TRUE(cpu_has(Isa::sse41));
  EXPECT_TRUE(detected_isa() < Isa::avx512 || __builtin_cpu_supports("avx512f"));
  EXPECT_EQ(cpu_has(Isa::avx512_bf16), cpu_isa() >= Isa::avx512_bf16);
}

}  // namespace
}  // namespace qt
