// tests/core/base/philox_test.cpp -- Philox against published answers; its draws against their
// distributions.
#include "core/base/philox.h"

#include <gtest/gtest.h>

#include <set>

namespace qt {
namespace {

using Block = std::array<uint32_t, 4>;

// kat_vectors of Random123 (Salmon et al.), philox4x32 10 rounds.
TEST(Philox, GivesThePublishedAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, 0), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({~0u, ~0u, ~0u, ~0u}, ~uint64_t{0}),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, DrawsTheBlocksOfItsCounterInOrder) {
  Philox draws(7, DrawKind::test, 3, 5);
  for (uint32_t block = 0; block < 3; ++block) {
    const Block want = philox4x32({block, 5, 3, uint32_t(DrawKind::test)}, 7);
    for (const uint32_t word : want) EXPECT_EQ(draws.bits(), word);
  }
}

TEST(Philox, DiffersWithSeedKindMajorAndMinor) {
  std::set<uint32_t> first;
  for (uint64_t seed : {uint64_t{1}, uint64_t{2}, uint64_t{1} << 40})
    for (DrawKind kind : {DrawKind::shuffle, DrawKind::augment})
      for (uint32_t major : {0u, 1u})
        for (uint32_t minor : {0u, 1u}) first.insert(Philox(seed, kind, major, minor).bits());
  EXPECT_EQ(first.size(), 24u);
}

TEST(Philox, UniformStaysBelowOneWithMeanOneHalf) {
  Philox draws(1, DrawKind::test);
  double sum = 0;
  for (int i = 0; i < 100'000; ++i) {
    const float u = draws.uniform();
    ASSERT_GE(u, 0.0f);
    ASSERT_LT(u, 1.0f);
    sum += u;
  }
  EXPECT_NEAR(sum / 100'000, 0.5, 0.005);
}

TEST(Philox, BelowReachesEveryValueEvenly) {
  Philox draws(2, DrawKind::test);
  std::array<int, 7> count{};
  for (int i = 0; i < 70'000; ++i) ++count.at(draws.below(7));
  for (const int c : count) EXPECT_NEAR(c, 10'000, 500);
  EXPECT_EQ(draws.below(1), 0u);
}

TEST(Philox, NormalHasMeanZeroVarianceOneKurtosisThree) {
  Philox draws(3, DrawKind::test);
  double sum = 0, square = 0, fourth = 0;
  constexpr int n = 200'000;
  for (int i = 0; i < n; ++i) {
    const double x = draws.normal();
    ASSERT_TRUE(std::isfinite(x));
    sum += x, square += x * x, fourth += x * x * x * x;
  }
  EXPECT_NEAR(sum / n, 0, 0.01);
  EXPECT_NEAR(square / n, 1, 0.02);
  EXPECT_NEAR(fourth / n, 3, 0.15);
}

}  // namespace
}  // namespace qt
