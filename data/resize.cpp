// data/resize.cpp -- resizing byte for byte as Pillow's Image.resize(..., BILINEAR) does.
#include "data/resize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace qt {
namespace {

constexpr int fraction_bits = 32 - 8 - 2;

// The weights of one axis: output i is the sum of weight[i * taps + k] * input[first[i] + k], k <
// count[i].
struct Weights {
  int taps = 0;
  std::vector<int> first, count, weight;
};

// Pillow computes these in double and so do we; the order of operations is part of the contract.
Weights triangle_weights(int in, int out) {
  const double scale = double(in) / out, widening = std::max(scale, 1.0), support = widening;
  Weights w;
  w.taps = int(std::ceil(support)) * 2 + 1;
  w.weight.resize(size_t(out) * size_t(w.taps));
  std::vector<double> share(size_t(w.taps));
  for (int i = 0; i < out; ++i) {
    const double centre = (i + 0.5) * scale, narrowing = 1.0 / widening;
    const int lo = std::max(int(centre - support + 0.5), 0);
    const int hi = std::min(int(centre + support + 0.5), in);
    double sum = 0;
    for (int k = 0; k < hi - lo; ++k) {
      const double distance = std::fabs((k + lo - centre + 0.5) * narrowing);
      share[size_t(k)] = distance < 1.0 ? 1.0 - distance : 0.0;
      sum += share[size_t(k)];
    }
    for (int k = 0; k < hi - lo; ++k) {
      const double s = sum != 0.0 ? share[size_t(k)] / sum : share[size_t(k)];
      w.weight[size_t(i * w.taps + k)] = int(0.5 + s * (1 << fraction_bits));
    }
    w.first.push_back(lo);
    w.count.push_back(hi - lo);
  }
  return w;
}

uint8_t to_byte(int sum) { return uint8_t(std::clamp(sum >> fraction_bits, 0, 255)); }

void resize_row(const uint8_t* from, const Weights& w, uint8_t* to) {
  for (size_t i = 0; i < w.first.size(); ++i) {
    const int* weight = w.weight.data() + i * size_t(w.taps);
    const uint8_t* pixel = from + size_t(w.first[i]) * 3;
    int r = 1 << (fraction_bits - 1), g = r, b = r;
    for (int k = 0; k < w.count[i]; ++k, pixel += 3) {
      r += pixel[0] * weight[k];
      g += pixel[1] * weight[k];
      b += pixel[2] * weight[k];
    }
    *to++ = to_byte(r), *to++ = to_byte(g), *to++ = to_byte(b);
  }
}

// Row i of the output from rows of `row_bytes` bytes; sums is scratch of that length.
void resize_column(const uint8_t* from, size_t row_bytes, const Weights& w, size_t i,
                   std::vector<int>& sums, uint8_t* to) {
  std::fill(sums.begin(), sums.end(), 1 << (fraction_bits - 1));
  for (int k = 0; k < w.count[i]; ++k) {
    const int weight = w.weight[i * size_t(w.taps) + size_t(k)];
    const uint8_t* row = from + size_t(w.first[i] + k) * row_bytes;
    for (size_t x = 0; x < row_bytes; ++x) sums[x] += row[x] * weight;
  }
  for (size_t x = 0; x < row_bytes; ++x) to[x] = to_byte(sums[x]);
}

}  // namespace

void resize_window(const Image& image, const Window& window, int height, int width, uint8_t* hwc) {
  const size_t row_bytes = size_t(width) * 3;
  const bool same_height = window.height == height, same_width = window.width == width;
  std::vector<uint8_t> narrowed(same_height ? 0 : size_t(window.height) * row_bytes);
  uint8_t* rows = same_height ? hwc : narrowed.data();
  const Weights across = same_width ? Weights{} : triangle_weights(window.width, width);
  for (int y = 0; y < window.height; ++y) {
    const uint8_t* from = image.at(window.top + y, window.left);
    if (same_width)
      memcpy(rows + size_t(y) * row_bytes, from, row_bytes);
    else
      resize_row(from, across, rows + size_t(y) * row_bytes);
  }
  if (same_height) return;
  const Weights down = triangle_weights(window.height, height);
  std::vector<int> sums(row_bytes);
  for (int y = 0; y < height; ++y)
    resize_column(rows, row_bytes, down, size_t(y), sums, hwc + size_t(y) * row_bytes);
}

Image resize_shorter_side(const Image& image, int size) {
  const int shorter = std::min(image.height, image.width);
  if (shorter == size) return image;
  const int longer = int(int64_t(size) * std::max(image.height, image.width) / shorter);
  Image out;
  if (image.height <= image.width)
    out.resize(size, longer);
  else
    out.resize(longer, size);
  resize_window(image, {0, 0, image.height, image.width}, out.height, out.width, out.pixels.data());
  return out;
}

void copy_window(const Image& image, const Window& window, uint8_t* hwc) {
  const int width = window.width;
  const size_t row_bytes = size_t(width) * 3;
  const int x0 = std::clamp(-window.left, 0, width),
            x1 = std::clamp(image.width - window.left, x0, width);
  for (int y = 0; y < window.height; ++y, hwc += row_bytes) {
    const int from = window.top + y;
    if (from < 0 || from >= image.height || x0 == x1) {
      memset(hwc, 0, row_bytes);
      continue;
    }
    memset(hwc, 0, size_t(x0) * 3);
    memcpy(hwc + size_t(x0) * 3, image.at(from, window.left + x0), size_t(x1 - x0) * 3);
    memset(hwc + size_t(x1) * 3, 0, size_t(width - x1) * 3);
  }
}

void centre_crop(const Image& image, int height, int width, uint8_t* hwc) {
  // torchvision pads a smaller picture by half the difference rounded down before, and rounds a
  // larger one's offset half to even.
  const auto offset = [](int have, int want) {
    return have < want ? -((want - have) / 2) : int(std::nearbyint((have - want) / 2.0));
  };
  copy_window(image, {offset(image.height, height), offset(image.width, width), height, width},
              hwc);
}

}  // namespace qt
