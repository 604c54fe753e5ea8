// tests/data/augment_test.cpp -- crops and flips: where pixels go, and what the draws depend on.
#include "data/augment.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/data/files.h"

namespace qt {
namespace {

using Crop = AugmentSpec::Crop;

// Pictures whose pixels tell where they come from: red = row + 1, green = column + 1, blue =
// number.
class Coordinates : public Dataset {
 public:
  Coordinates(int height, int width, int out_height, int out_width, int resize_size = 0)
      : full_height_(height), full_width_(width) {
    set_extents(out_height, out_width, resize_size);
    classes_ = {"only"};
  }
  int64_t size() const override { return 1000; }
  int64_t label(int64_t) const override { return 0; }
  std::string name(int64_t index) const override { return std::to_string(index); }
  int64_t read(int64_t index, uint8_t* hwc) const override {
    fill(index, height(), width(), hwc);
    return index;
  }
  int64_t original(int64_t index, Image& image) const override {
    image.resize(full_height_, full_width_);
    fill(index, full_height_, full_width_, image.pixels.data());
    return index;
  }

 private:
  static void fill(int64_t index, int height, int width, uint8_t* hwc) {
    for (int y = 0; y < height; ++y)
      for (int x = 0; x < width; ++x)
        *hwc++ = uint8_t(y + 1), *hwc++ = uint8_t(x + 1), *hwc++ = uint8_t(index);
  }
  int full_height_, full_width_;
};

std::vector<uint8_t> augmented(const Dataset& set, const AugmentSpec& spec, int64_t index,
                               uint32_t epoch = 0, uint64_t seed = 5) {
  std::vector<uint8_t> out(set.picture_bytes());
  EXPECT_EQ(read_augmented(set, spec, seed, epoch, index, out.data()), index);
  return out;
}

TEST(Augment, WithoutCropAndFlipGivesTheEvaluationPicture) {
  const Coordinates set(8, 6, 8, 6);
  std::vector<uint8_t> plain(set.picture_bytes());
  set.read(3, plain.data());
  EXPECT_EQ(augmented(set, {}, 3), plain);
}

TEST(Augment, FlipsHalfOfThePicturesLeftToRight) {
  const Coordinates set(4, 5, 4, 5);
  int flipped = 0;
  for (int64_t i = 0; i < 1000; ++i) {
    const std::vector<uint8_t> picture = augmented(set, {.flip = true}, i);
    const bool flip = picture[1] == 5;
    flipped += flip;
    for (int y = 0; y < 4; ++y)
      for (int x = 0; x < 5; ++x) {
        const uint8_t* pixel = picture.data() + (y * 5 + x) * 3;
        ASSERT_EQ(pixel[0], y + 1);
        ASSERT_EQ(pixel[1], flip ? 5 - x : x + 1);
        ASSERT_EQ(pixel[2], uint8_t(i));
      }
  }
  EXPECT_NEAR(flipped, 500, 60);  // four standard deviations
}

TEST(Augment, PaddedCropShiftsByEveryOffsetAndFillsWithZeros) {
  const Coordinates set(9, 7, 9, 7);
  std::map<std::pair<int, int>, int> seen;
  for (int64_t i = 1; i < 1000; ++i) {
    const std::vector<uint8_t> picture =
        augmented(set, {.crop = Crop::padded, .crop_padding = 2}, i);
    const uint8_t* middle = picture.data() + (4 * 7 + 3) * 3;
    const int down = middle[0] - 5, right = middle[1] - 4;
    ++seen[{down, right}];
    for (int y = 0; y < 9; ++y)
      for (int x = 0; x < 7; ++x) {
        const int from_y = y + down, from_x = x + right;
        const bool inside = from_y >= 0 && from_y < 9 && from_x >= 0 && from_x < 7;
        const uint8_t* pixel = picture.data() + (y * 7 + x) * 3;
        ASSERT_EQ(pixel[0], inside ? from_y + 1 : 0);
        ASSERT_EQ(pixel[1], inside ? from_x + 1 : 0);
        ASSERT_EQ(pixel[2], inside ? uint8_t(i) : 0);
      }
  }
  EXPECT_EQ(seen.size(), 25u);
  for (const auto& [offset, count] : seen) {
    EXPECT_LE(std::abs(offset.first), 2);
    EXPECT_LE(std::abs(offset.second), 2);
    EXPECT_NEAR(count, 40, 26);
  }
}

TEST(Augment, RandomCropTakesWindowsOfTheResizedPicture) {
  const Coordinates set(12, 20, 8, 8, 12);  // the shorter side is at its size already
  std::set<std::pair<int, int>> corners;
  for (int64_t i = 0; i < 1000; ++i) {
    const std::vector<uint8_t> picture = augmented(set, {.crop = Crop::random}, i);
    corners.insert({picture[0], picture[1]});
    ASSERT_EQ(picture[(7 * 8 + 7) * 3], picture[0] + 7);
    ASSERT_EQ(picture[(7 * 8 + 7) * 3 + 1], picture[1] + 7);
  }
  EXPECT_EQ(corners.size(), 5u * 13u);
}

TEST(Augment, RandomResizedCropStaysWithinItsBounds) {
  const Coordinates set(100, 150, 50, 50);
  const AugmentSpec spec{.crop = Crop::random_resized, .min_area = 0.2f, .max_area = 0.6f};
  double area_sum = 0;
  for (int64_t i = 0; i < 500; ++i) {
    const std::vector<uint8_t> picture = augmented(set, spec, i);
    // From the first to the last row of the output the source advances by 49/50 of the window.
    const double height = (picture[49 * 50 * 3] - picture[0]) * 50 / 49.0;
    const double width = (picture[49 * 3 + 1] - picture[1]) * 50 / 49.0;
    ASSERT_GT(height * width, 0.2 * 15000 * 0.9);
    ASSERT_LT(height * width, 0.6 * 15000 * 1.1);
    ASSERT_GT(width / height, 0.75 * 0.93);
    ASSERT_LT(width / height, 1.34 * 1.07);
    area_sum += height * width / 15000;
  }
  EXPECT_NEAR(area_sum / 500, 0.4, 0.03);
}

// No window of the whole area has a ratio in 3/4 .. 4/3: the largest one in the middle is taken.
TEST(Augment, RandomResizedCropOfAStripTakesTheMiddle) {
  const AugmentSpec spec{.crop = Crop::random_resized, .min_area = 1, .max_area = 1};
  const std::vector<uint8_t> tall = augmented(Coordinates(40, 6, 8, 6), spec, 3),
                             wide = augmented(Coordinates(6, 40, 6, 8), spec, 3);
  for (int y = 0; y < 8; ++y)
    for (int x = 0; x < 6; ++x) {
      const uint8_t* from_tall = tall.data() + (y * 6 + x) * 3;
      EXPECT_EQ(from_tall[0], 17 + y);  // 6 / (3/4) = 8 rows of 40
      EXPECT_EQ(from_tall[1], 1 + x);
      const uint8_t* from_wide = wide.data() + (x * 8 + y) * 3;
      EXPECT_EQ(from_wide[0], 1 + x);
      EXPECT_EQ(from_wide[1], 17 + y);
    }
}

TEST(Augment, DependsOnSeedEpochAndSample) {
  const Coordinates set(32, 32, 32, 32);
  const AugmentSpec spec{.crop = Crop::padded, .flip = true};
  const auto all = [&](uint32_t epoch, uint64_t seed) {
    std::vector<std::vector<uint8_t>> pictures;
    for (int64_t i = 0; i < 10; ++i) pictures.push_back(augmented(set, spec, i, epoch, seed));
    return pictures;
  };
  EXPECT_EQ(all(0, 5), all(0, 5));
  EXPECT_NE(all(0, 5), all(1, 5));
  EXPECT_NE(all(0, 5), all(0, 6));
}

TEST(Augment, KnowsItsNames) {
  EXPECT_EQ(crop_from("padded"), Crop::padded);
  EXPECT_EQ(
      test::message_of<ConfigError>([] { crop_from("pad"); }),
      "data.augmentation.crop: 'pad' is not known; known: none, padded, random, random_resized");
  EXPECT_EQ(test::message_of<ConfigError>([] { on_error_from("ignore"); }),
            "data.on_error: 'ignore' is not known; known: stop, skip");
}

}  // namespace
}  // namespace qt
