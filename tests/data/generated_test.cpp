// tests/data/generated_test.cpp -- the built-in set: a pure function of its seed, balanced, and not
// told by colour.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "tests/data/files.h"

namespace qt {
namespace {

DatasetSpec spec_of(int64_t count, uint64_t seed = 1) {
  return {
      .kind = "generated", .seed = seed, .train_images = count, .test_images = count, .threads = 2};
}

// FNV-1a.
uint64_t hash_of(const std::vector<uint8_t>& bytes) {
  uint64_t hash = 14695981039346656037u;
  for (const uint8_t byte : bytes) hash = (hash ^ byte) * 1099511628211u;
  return hash;
}

TEST(Generated, IsPinnedByTheHashOfItsPictures) {
  const auto train = make_dataset(spec_of(20), Split::train);
  std::vector<uint8_t> all;
  for (int64_t i = 0; i < 20; ++i) {
    const std::vector<uint8_t> picture = test::picture_of(*train, i);
    all.insert(all.end(), picture.begin(), picture.end());
  }
  EXPECT_EQ(hash_of(test::picture_of(*train, 0)), 14329664943582663662u);
  EXPECT_EQ(hash_of(all), 9549857732056210607u);
}

TEST(Generated, DependsOnSeedSplitAndNumberOnly) {
  DatasetSpec on_demand = spec_of(40), single = spec_of(500);
  on_demand.cache_bytes = 0;
  single.threads = 1;
  const auto a = make_dataset(spec_of(40), Split::train), b = make_dataset(on_demand, Split::train),
             c = make_dataset(single, Split::train);
  for (int64_t i : {0, 1, 17, 39}) {
    EXPECT_EQ(test::picture_of(*a, i), test::picture_of(*b, i));
    EXPECT_EQ(test::picture_of(*a, i), test::picture_of(*c, i));
  }
  EXPECT_NE(test::picture_of(*a, 0), test::picture_of(*make_dataset(spec_of(40), Split::test), 0));
  EXPECT_NE(test::picture_of(*a, 0),
            test::picture_of(*make_dataset(spec_of(40, 2), Split::train), 0));
  EXPECT_NE(test::picture_of(*a, 0), test::picture_of(*a, 10));
}

TEST(Generated, IsBalanced) {
  const auto test = make_dataset(spec_of(1003), Split::test);
  std::array<int, 10> count{};
  for (int64_t i = 0; i < test->size(); ++i) ++count[size_t(test->label(i))];
  EXPECT_EQ(*std::min_element(count.begin(), count.end()), 100);
  EXPECT_EQ(*std::max_element(count.begin(), count.end()), 101);
  EXPECT_EQ(test->classes().size(), 10u);
  EXPECT_TRUE(std::is_sorted(test->classes().begin(), test->classes().end()));
}

// A classifier that sees each picture's mean colour only must stay near chance (10 %): nearest
// class mean.
TEST(Generated, IsNotToldByColour) {
  constexpr int64_t count = 4000;
  using Colour = std::array<double, 3>;
  const auto means_of = [&](Split split) {
    const auto set = make_dataset(spec_of(count), split);
    std::vector<Colour> means;
    for (int64_t i = 0; i < count; ++i) {
      Colour mean{};
      const std::vector<uint8_t> picture = test::picture_of(*set, i);
      for (size_t k = 0; k < picture.size(); ++k) mean[k % 3] += picture[k] / 1024.0;
      means.push_back(mean);
    }
    return means;
  };
  const std::vector<Colour> train = means_of(Split::train), test = means_of(Split::test);
  std::array<Colour, 10> centre{};
  for (size_t i = 0; i < count; ++i)
    for (size_t c = 0; c < 3; ++c) centre[i % 10][c] += train[i][c] * 10 / count;
  int right = 0;
  for (size_t i = 0; i < count; ++i) {
    const auto distance = [&](const Colour& a) {
      return std::hypot(a[0] - test[i][0], a[1] - test[i][1], a[2] - test[i][2]);
    };
    const auto nearest = std::min_element(
        centre.begin(), centre.end(),
        [&](const Colour& a, const Colour& b) { return distance(a) < distance(b); });
    right += size_t(nearest - centre.begin()) == i % 10;
  }
  EXPECT_LT(right, 0.16 * count);
}

TEST(Generated, HasTheSizeAskedFor) {
  DatasetSpec spec = spec_of(10);
  spec.image_size = 48;
  EXPECT_EQ(make_dataset(spec, Split::train)->picture_bytes(), 48u * 48 * 3);
  spec.image_size = 8;
  EXPECT_EQ(test::message_of<ConfigError>([&] { make_dataset(spec, Split::train); }),
            "data.image_size 8: generated pictures have 16 to 1024 pixels a side");
  EXPECT_EQ(test::message_of<ConfigError>([&] { make_dataset(spec_of(0), Split::test); }),
            "data.test_images 0: at least 1 and below 2^32");
}

}  // namespace
}  // namespace qt
