// tests/quant/pass_test.cpp -- forward modes by name, and the watch for infinities.
#include "quant/pass.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace qt {
namespace {

constexpr ForwardMode modes[] = {ForwardMode::float32, ForwardMode::int8, ForwardMode::exact_float,
                                 ForwardMode::fake_quant};

TEST(ForwardMode, NamesGoBothWays) {
  for (const ForwardMode mode : modes) EXPECT_EQ(forward_mode(name_of(mode)), mode);
}

TEST(ForwardMode, UnknownNamesListTheKnownOnes) {
  try {
    forward_mode("int4");
    FAIL() << "accepted";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("'int4'"));
    EXPECT_THAT(error.what(), testing::HasSubstr("float, int8, exact_float, fake_quant"));
  }
}

TEST(Pass, OnlyExactFloatTakesTheFloatPathAndOnlyFloatIsNotQuantized) {
  for (const ForwardMode mode : modes) {
    const Pass pass{.mode = mode};
    EXPECT_EQ(pass.path() == CodePath::exact_float, mode == ForwardMode::exact_float);
    EXPECT_EQ(pass.quantized(), mode != ForwardMode::float32);
  }
}

TEST(Health, FindsInfinitiesOfEitherSign) {
  for (const float sign : {1.0f, -1.0f}) {
    Health health;
    health.watch("fc", Tensor::of<float>({3}, {0, 1, sign / 0.0f}));
    EXPECT_EQ(health.first_bad(), "fc");
  }
}

}  // namespace
}  // namespace qt
