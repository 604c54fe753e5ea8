// tests/data/resize_test.cpp -- resizing against bytes made by Pillow
// (scripts/make_golden_resize.py).
#include "data/resize.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/data/files.h"
#include "tests/support/places.h"

namespace qt {
namespace {

Image golden_input(int height, int width) {
  uint32_t state = uint32_t(height) * 65536u + uint32_t(width);
  Image image;
  image.resize(height, width);
  for (int y = 0; y < height; ++y)
    for (int i = 0; i < width * 3; ++i) {
      state = state * 1664525u + 1013904223u;
      image.pixels[size_t(y * width * 3 + i)] =
          y % 3 == 0 ? (state >> 31 ? 255 : 0) : uint8_t(state >> 24);
    }
  return image;
}

TEST(Resize, EqualsPillowByteForByte) {
  const std::string golden = test::read_bytes(source_folder() + "/tests/golden/resize.bin");
  ASSERT_FALSE(golden.empty());
  int records = 0;
  for (size_t at = 0; at < golden.size(); ++records) {
    uint16_t n[8];
    ASSERT_LE(at + sizeof n, golden.size());
    memcpy(n, golden.data() + at, sizeof n);
    at += sizeof n;
    const Image input = golden_input(n[0], n[1]);
    const size_t count = size_t(n[6]) * n[7] * 3;
    std::string output(count, '\0');
    resize_window(input, {n[2], n[3], n[4], n[5]}, n[6], n[7],
                  reinterpret_cast<uint8_t*>(output.data()));
    EXPECT_TRUE(output == golden.substr(at, count)) << "record " << records;
    at += count;
  }
  EXPECT_EQ(records, 9);
}

TEST(Resize, ShorterSideKeepsTheRatioAndRoundsDown) {
  const Image tall = resize_shorter_side(golden_input(75, 50), 33),
              wide = resize_shorter_side(golden_input(50, 77), 32);
  EXPECT_EQ(tall.width, 33);
  EXPECT_EQ(tall.height, 49);  // 49.5
  EXPECT_EQ(wide.height, 32);
  EXPECT_EQ(wide.width, 49);  // 49.28
}

TEST(Resize, CentreCropTakesTheMiddleAndPadsWhatIsMissing) {
  const Image image = golden_input(5, 9);
  std::vector<uint8_t> out(3 * 4 * 3);
  centre_crop(image, 3, 4, out.data());  // offsets 1 and 2.5, which torchvision rounds to 2
  EXPECT_EQ(0, memcmp(out.data(), image.at(1, 2), 12));
  EXPECT_EQ(0, memcmp(out.data() + 24, image.at(3, 2), 12));
  std::vector<uint8_t> narrow(5 * 6 * 3);
  centre_crop(image, 5, 6, narrow.data());  // offset 1.5, which it rounds to 2 as well
  EXPECT_EQ(0, memcmp(narrow.data(), image.at(0, 2), 18));
  std::vector<uint8_t> padded(7 * 9 * 3, 1);
  centre_crop(image, 7, 9, padded.data());
  EXPECT_EQ(padded[0], 0);
  EXPECT_EQ(0, memcmp(padded.data() + 27, image.pixels.data(), 5 * 27));
  EXPECT_EQ(padded.back(), 0);
}

}  // namespace
}  // namespace qt
