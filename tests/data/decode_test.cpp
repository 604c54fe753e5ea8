// tests/data/decode_test.cpp -- JPEG, PNG and PPM decoding, and what is refused.
#include "data/decode.h"

#include <gtest/gtest.h>
#include <spng.h>

#include <cstdlib>
#include <memory>

#include "tests/data/files.h"

namespace qt {
namespace {

using test::jpeg_of;
using test::message_of;
using test::smooth_picture;

constexpr int64_t plenty = 100'000'000;

std::vector<uint8_t> bytes_of(const std::string& text) { return {text.begin(), text.end()}; }

Image decoded(const std::string& text) {
  Image image;
  decode(bytes_of(text), "f", plenty, image);
  return image;
}

std::string refusal(const std::string& text, int64_t max_pixels = plenty) {
  return message_of<DataError>([&] {
    Image image;
    decode(bytes_of(text), "f", max_pixels, image);
  });
}

int largest_difference(const Image& a, const Image& b) {
  EXPECT_EQ(a.height, b.height);
  EXPECT_EQ(a.width, b.width);
  int largest = 0;
  for (size_t i = 0; i < std::min(a.pixels.size(), b.pixels.size()); ++i)
    largest = std::max(largest, std::abs(int(a.pixels[i]) - int(b.pixels[i])));
  return largest;
}

std::string png_of(const std::vector<uint8_t>& pixels, int height, int width,
                   spng_color_type type) {
  spng_ctx* context = spng_ctx_new(SPNG_CTX_ENCODER);
  spng_set_option(context, SPNG_ENCODE_TO_BUFFER, 1);
  spng_ihdr header{uint32_t(width), uint32_t(height), 8, uint8_t(type), 0, 0, 0};
  spng_set_ihdr(context, &header);
  EXPECT_EQ(
      spng_encode_image(context, pixels.data(), pixels.size(), SPNG_FMT_PNG, SPNG_ENCODE_FINALIZE),
      0);
  size_t count = 0;
  int error = 0;
  void* bytes = spng_get_png_buffer(context, &count, &error);
  const std::string text(static_cast<char*>(bytes), count);
  free(bytes);
  spng_ctx_free(context);
  return text;
}

Image noise_picture(int height, int width) {
  Philox draws(9, DrawKind::test);
  Image image;
  image.resize(height, width);
  for (uint8_t& byte : image.pixels) byte = uint8_t(draws.bits());
  return image;
}

TEST(Decode, ReadsColourGreyAndProgressiveJpeg) {
  const Image image = smooth_picture(40, 56, 1);
  EXPECT_LE(largest_difference(decoded(jpeg_of(image)), image), 4);
  EXPECT_LE(largest_difference(decoded(jpeg_of(image, {.flags = TJFLAG_PROGRESSIVE})), image), 4);
  const Image grey = decoded(jpeg_of(image, {.subsampling = TJSAMP_GRAY}));
  ASSERT_EQ(grey.pixels.size(), image.pixels.size());
  for (size_t i = 0; i < grey.pixels.size(); i += 3) {
    ASSERT_EQ(grey.pixels[i], grey.pixels[i + 1]);
    ASSERT_EQ(grey.pixels[i], grey.pixels[i + 2]);
    ASSERT_NEAR(grey.pixels[i],
                0.299 * image.pixels[i] + 0.587 * image.pixels[i + 1] + 0.114 * image.pixels[i + 2],
                4);
  }
}

TEST(Decode, ConvertsCmykJpegAsPillowDoes) {
  const Image image =
      smooth_picture(32, 48, 2);  // inverted inks with no black are the colours themselves
  EXPECT_LE(largest_difference(decoded(jpeg_of(image, {.cmyk = true})), image), 5);
}

// Of every pair of an ink and a black: r = k - k * (255 - c) / 255 in whole numbers, rounded to
// nearest.
TEST(Decode, RoundsInksAsPillowDoes) {
  std::vector<uint8_t> inks;
  for (int k = 0; k < 256; ++k)
    for (int c = 0; c < 256; ++c)
      inks.insert(inks.end(), {uint8_t(c), uint8_t(255 - c), uint8_t(c / 2), uint8_t(k)});
  const std::unique_ptr<void, int (*)(void*)> compressor(tjInitCompress(), tjDestroy),
      decompressor(tjInitDecompress(), tjDestroy);
  unsigned char* bytes = nullptr;
  unsigned long count = 0;
  ASSERT_EQ(tjCompress2(compressor.get(), inks.data(), 256, 0, 256, TJPF_CMYK, &bytes, &count,
                        TJSAMP_444, 100, 0),
            0);
  const std::string jpeg(reinterpret_cast<char*>(bytes), count);
  tjFree(bytes);
  // What is in the file, which is not to the last bit what went into it.
  ASSERT_EQ(tjDecompress2(decompressor.get(), reinterpret_cast<const uint8_t*>(jpeg.data()),
                          jpeg.size(), inks.data(), 256, 0, 256, TJPF_CMYK, 0),
            0);
  const Image image = decoded(jpeg);
  ASSERT_EQ(image.pixels.size(), inks.size() / 4 * 3);
  int wrong = 0;
  for (size_t i = 0; i < inks.size() / 4; ++i)
    for (size_t c = 0; c < 3; ++c) {
      const int k = inks[i * 4 + 3], taken = k * (255 - inks[i * 4 + c]);
      wrong += image.pixels[i * 3 + c] != k - (2 * taken + 255) / 510;
    }
  EXPECT_EQ(wrong, 0);
}

// A grey progressive JPEG of one scan, which gives the means of blocks, `scans` times over.
std::string jpeg_of_scans(int scans) {
  const Image image = smooth_picture(32, 32, 5);
  std::vector<uint8_t> grey;
  for (size_t i = 0; i < image.pixels.size(); i += 3) grey.push_back(image.pixels[i]);
  unsigned char* bytes = nullptr;
  unsigned long count = 0;
  const std::unique_ptr<void, int (*)(void*)> compressor(tjInitCompress(), tjDestroy);
  EXPECT_EQ(tjCompress2(compressor.get(), grey.data(), 32, 0, 32, TJPF_GRAY, &bytes, &count,
                        TJSAMP_GRAY, 95, TJFLAG_PROGRESSIVE),
            0);
  const std::string whole(reinterpret_cast<char*>(bytes), count);
  tjFree(bytes);
  const size_t begin = whole.find("\xff\xda");
  size_t end = begin + 2;
  while (whole[end] != '\xff' || whole[end + 1] == '\0') ++end;
  std::string scan = whole.substr(begin, end - begin);
  // FF DA, length, components, (component, table), Ss, Se, Ah Al: a first pass of all bits, which
  // may be repeated.
  scan[9] = 0;
  std::string text = whole.substr(0, begin);
  for (int i = 0; i < scans; ++i) text += scan;
  return text + "\xff\xd9";
}

TEST(Decode, RefusesAJpegOfMoreScansThanItsSizeIsWorth) {
  EXPECT_EQ(decoded(jpeg_of_scans(1)).pixels, decoded(jpeg_of_scans(400)).pixels);
  const std::string refused = refusal(jpeg_of_scans(600));
  EXPECT_NE(refused.find("scans"), std::string::npos) << refused;
}

TEST(Decode, ReadsPngInColourWithAlphaAndInGrey) {
  const Image image = smooth_picture(9, 7, 3);
  EXPECT_EQ(decoded(png_of(image.pixels, 9, 7, SPNG_COLOR_TYPE_TRUECOLOR)).pixels, image.pixels);
  std::vector<uint8_t> with_alpha, grey, grey_as_colour;
  for (size_t i = 0; i < image.pixels.size(); i += 3) {
    with_alpha.insert(with_alpha.end(),
                      {image.pixels[i], image.pixels[i + 1], image.pixels[i + 2], uint8_t(i)});
    grey.push_back(image.pixels[i]);
    grey_as_colour.insert(grey_as_colour.end(), 3, image.pixels[i]);
  }
  EXPECT_EQ(decoded(png_of(with_alpha, 9, 7, SPNG_COLOR_TYPE_TRUECOLOR_ALPHA)).pixels,
            image.pixels);
  EXPECT_EQ(decoded(png_of(grey, 9, 7, SPNG_COLOR_TYPE_GRAYSCALE)).pixels, grey_as_colour);
}

TEST(Decode, ReadsPpmAndPgm) {
  const Image image = smooth_picture(5, 6, 4);
  EXPECT_EQ(decoded(test::ppm_of(image)).pixels, image.pixels);
  EXPECT_EQ(decoded("P5 2 1 255\n\x10\x20").pixels, (std::vector<uint8_t>{16, 16, 16, 32, 32, 32}));
}

TEST(Decode, RefusesEveryTruncationOfAJpeg) {
  const std::string whole = jpeg_of(smooth_picture(24, 24, 5), {.subsampling = TJSAMP_420});
  for (size_t kept = 1; kept + 2 < whole.size(); kept += 1 + kept / 16)
    EXPECT_TRUE(refusal(whole.substr(0, kept)).starts_with("'f': "))
        << kept << " of " << whole.size() << " bytes";
  EXPECT_EQ(refusal(whole), "no error");
}

TEST(Decode, RefusesEveryTruncationOfAPng) {
  const std::string whole = png_of(noise_picture(8, 8).pixels, 8, 8, SPNG_COLOR_TYPE_TRUECOLOR);
  // libspng stops reading once it has the last pixel: zlib's and the chunk's checksums and the end
  // chunk may be missing.
  const size_t needed = whole.size() - 12 - 4 - 4;
  for (size_t kept = 1; kept < needed; ++kept)
    EXPECT_TRUE(refusal(whole.substr(0, kept)).starts_with("'f': "))
        << kept << " of " << whole.size() << " bytes";
  EXPECT_EQ(refusal(whole), "no error");
}

TEST(Decode, RefusesDamageInOneLineWithFileAndCause) {
  std::string png = png_of(smooth_picture(8, 8, 6).pixels, 8, 8, SPNG_COLOR_TYPE_TRUECOLOR);
  png[png.size() / 2] = char(png[png.size() / 2] ^ 0x40);
  EXPECT_TRUE(refusal(png).starts_with("'f': broken PNG: ")) << refusal(png);
  EXPECT_EQ(refusal("hello"),
            "'f': not a JPEG, PNG or PPM picture (it starts with bytes 68 65 6c 6c)");
  EXPECT_EQ(refusal("BM1234"), "'f': BMP is not supported; supported: JPEG, PNG, PPM");
  EXPECT_EQ(refusal("RIFF0000WEBPVP8 "), "'f': WebP is not supported; supported: JPEG, PNG, PPM");
  EXPECT_EQ(refusal("P6 2 2 255\nabc"), "'f': broken PPM: 14 bytes, 23 are needed");
  EXPECT_EQ(refusal("P6 2"), "'f': broken PPM: three numbers must follow the first two bytes");
  EXPECT_EQ(refusal("P6 2 2 65535\n"), "'f': PPM with a maximum of 65535; supported: 255");
}

// A file of a few hundred bytes whose header claims many pixels must not make us allocate them.
TEST(Decode, RefusesAHugeClaimBeforeDecoding) {
  std::string jpeg = jpeg_of(smooth_picture(16, 16, 7));
  const size_t frame = jpeg.find("\xff\xc0");
  ASSERT_NE(frame, std::string::npos);
  jpeg.replace(frame + 5, 4, "\xff\xdc\xff\xdc");
  EXPECT_EQ(refusal(jpeg), "'f': the header claims 65500 x 65500 pixels; allowed: 100000000");
  EXPECT_EQ(refusal("P6 100000 100000 255\n"),
            "'f': the header claims 100000 x 100000 pixels; allowed: 100000000");
  const std::string png = png_of(smooth_picture(8, 9, 6).pixels, 8, 9, SPNG_COLOR_TYPE_TRUECOLOR);
  EXPECT_EQ(refusal(png, 71), "'f': the header claims 9 x 8 pixels; allowed: 71");
  EXPECT_EQ(refusal(png, 72), "no error");
  EXPECT_EQ(refusal("P6 0 5 255\n"), "'f': the header claims 0 x 5 pixels");
}

// Damage anywhere ends in a picture or in a DataError, never in a crash (run under ASan as well).
TEST(Decode, SurvivesFlippedBytes) {
  const std::string originals[] = {
      jpeg_of(smooth_picture(24, 24, 8)),
      jpeg_of(smooth_picture(24, 24, 8), {.flags = TJFLAG_PROGRESSIVE}),
      png_of(smooth_picture(8, 8, 8).pixels, 8, 8, SPNG_COLOR_TYPE_TRUECOLOR),
      test::ppm_of(smooth_picture(4, 4, 8))};
  Philox draws(3, DrawKind::test);
  int refused = 0;
  for (const std::string& original : originals)
    for (int trial = 0; trial < 300; ++trial) {
      std::string text = original;
      text[draws.below(uint32_t(text.size()))] = char(draws.bits());
      refused += refusal(text, 1'000'000) != "no error";
    }
  EXPECT_GT(refused, 200);
}

}  // namespace
}  // namespace qt
