// tests/data/files.h -- what the data tests share: a temporary folder, files in it, and encoded
// pictures.
#pragma once
#include <gtest/gtest.h>
#include <turbojpeg.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/base/philox.h"
#include "data/dataset.h"
#include "data/image.h"

namespace qt::test {

// A new, empty folder that goes with the object.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    static int count = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("qattrain-data-" + std::to_string(getpid()) + "-" + std::to_string(count++));
    std::filesystem::create_directories(path_);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string text() const { return path_.string(); }
  // Writes bytes under a relative name, making the folders on the way; returns the full path.
  std::string write(const std::string& name, const std::string& bytes) const {
    const std::filesystem::path path = path_ / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << bytes;
    return path.string();
  }

 private:
  std::filesystem::path path_;
};

inline std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// A smooth picture with a random tint, so that JPEG keeps it well.
inline Image smooth_picture(int height, int width, uint32_t number) {
  Philox draws(7, DrawKind::test, 0, number);
  const uint32_t tint[3] = {draws.below(100), draws.below(100), draws.below(100)};
  Image image;
  image.resize(height, width);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      for (int c = 0; c < 3; ++c)
        image.at(y, x)[c] =
            uint8_t(tint[c] + uint32_t(100 * y / height) + uint32_t(50 * x / width));
  return image;
}

struct JpegOptions {
  int quality = 95, subsampling = TJSAMP_444, flags = 0;
  bool cmyk = false;  // the pixels are then taken as inverted inks C, M, Y and K = 255
};

inline std::string jpeg_of(const Image& image, const JpegOptions& options = {}) {
  std::vector<uint8_t> inks;
  for (size_t i = 0; options.cmyk && i < image.pixels.size(); ++i) {
    inks.push_back(image.pixels[i]);
    if (i % 3 == 2) inks.push_back(255);
  }
  unsigned char* bytes = nullptr;
  unsigned long count = 0;
  tjhandle handle = tjInitCompress();
  const int failed =
      tjCompress2(handle, options.cmyk ? inks.data() : image.pixels.data(), image.width, 0,
                  image.height, options.cmyk ? TJPF_CMYK : TJPF_RGB, &bytes, &count,
                  options.subsampling, options.quality, options.flags);
  EXPECT_EQ(failed, 0) << tjGetErrorStr2(handle);
  const std::string text(reinterpret_cast<char*>(bytes), count);
  tjFree(bytes);
  tjDestroy(handle);
  return text;
}

inline std::string ppm_of(const Image& image) {
  return "P6\n# made by a test\n" + std::to_string(image.width) + " " +
         std::to_string(image.height) + "\n255\n" +
         std::string(image.pixels.begin(), image.pixels.end());
}

// What the error says; "no error" where none is thrown.
template <class ErrorType>
std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const ErrorType& error) {
    return error.what();
  }
  return "no error";
}

inline void replace_all(std::string& text, const std::string& from, const std::string& to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
}

inline std::vector<uint8_t> picture_of(const Dataset& dataset, int64_t index) {
  std::vector<uint8_t> bytes(dataset.picture_bytes());
  dataset.read(index, bytes.data());
  return bytes;
}

}  // namespace qt::test
