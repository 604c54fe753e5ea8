// core/library/avx2/pictures.h -- pixels of a batch of pictures, and the zeros around them.
#pragma once
#include <cstdint>

namespace qt::avx2 {

// A batch of pictures [n, h, w, c], seen beyond its edges: pixels outside are `zeros`, at least c
// of them.
template <class T>
struct Pictures {
  const T* first;
  int64_t height, width, channels;
  const T* zeros;
  const T* pixel(int64_t n, int64_t h, int64_t w) const {
    if (h < 0 || h >= height || w < 0 || w >= width) return zeros;
    return first + ((n * height + h) * width + w) * channels;
  }
};

}  // namespace qt::avx2
