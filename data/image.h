// data/image.h -- one decoded picture: uint8 RGB, row-major, height x width x 3.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace qt {

struct Image {
  int height = 0, width = 0;
  std::vector<uint8_t> pixels;

  void resize(int new_height, int new_width) {
    height = new_height, width = new_width;
    pixels.resize(size_t(height) * size_t(width) * 3);
  }
  const uint8_t* at(int row, int column) const {
    return pixels.data() + (size_t(row) * size_t(width) + size_t(column)) * 3;
  }
  uint8_t* at(int row, int column) {
    return pixels.data() + (size_t(row) * size_t(width) + size_t(column)) * 3;
  }
};

}  // namespace qt
