// data/augment.cpp -- random crops and flips on uint8 pictures.
#include "data/augment.h"

#include <algorithm>
#include <cmath>

#include "core/base/philox.h"
#include "data/resize.h"

namespace qt {
namespace {

void flip_left_right(int height, int width, uint8_t* hwc) {
  for (int y = 0; y < height; ++y, hwc += size_t(width) * 3) {
    uint8_t* left = hwc;
    uint8_t* right = hwc + size_t(width - 1) * 3;
    for (; left < right; left += 3, right -= 3)
      for (int c = 0; c < 3; ++c) std::swap(left[c], right[c]);
  }
}

// torchvision's RandomResizedCrop.get_params: ten tries, then the largest centred window within the
// ratios.
Window random_window(const Image& image, const AugmentSpec& spec, Philox& draws) {
  const double area = double(image.height) * image.width;
  const double log_lo = std::log(double(spec.min_ratio)), log_hi = std::log(double(spec.max_ratio));
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double target = area * draws.uniform(spec.min_area, spec.max_area);
    const double ratio = std::exp(log_lo + (log_hi - log_lo) * draws.uniform());
    const int width = int(std::nearbyint(std::sqrt(target * ratio)));
    const int height = int(std::nearbyint(std::sqrt(target / ratio)));
    if (width < 1 || width > image.width || height < 1 || height > image.height) continue;
    const int top = int(draws.below(uint32_t(image.height - height + 1)));
    const int left = int(draws.below(uint32_t(image.width - width + 1)));
    return {top, left, height, width};
  }
  const double ratio = double(image.width) / image.height;
  int width = image.width, height = image.height;
  if (ratio < spec.min_ratio)
    height = std::max(1, std::min(height, int(std::nearbyint(width / double(spec.min_ratio)))));
  else if (ratio > spec.max_ratio)
    width = std::max(1, std::min(width, int(std::nearbyint(height * double(spec.max_ratio)))));
  return {(image.height - height) / 2, (image.width - width) / 2, height, width};
}

// Buffers live as long as their thread, so that no picture is allocated twice.
Image& scratch() {
  thread_local Image image;
  return image;
}

// The draws of a padded crop.
PictureWindow padded_window(const AugmentSpec& spec, Philox& draws) {
  const int padding = spec.crop_padding;
  const int top = int(draws.below(uint32_t(2 * padding + 1))) - padding;
  const int left = int(draws.below(uint32_t(2 * padding + 1))) - padding;
  return {.top = top, .left = left};
}

int64_t crop_padded(const Dataset& dataset, const AugmentSpec& spec, int64_t index, Philox& draws,
                    uint8_t* hwc) {
  const int height = dataset.height(), width = dataset.width();
  Image& image = scratch();
  image.resize(height, width);
  const int64_t delivered = dataset.read(index, image.pixels.data());
  const PictureWindow window = padded_window(spec, draws);
  copy_window(image, {window.top, window.left, height, width}, hwc);
  return delivered;
}

int64_t crop_random(const Dataset& dataset, int64_t index, Philox& draws, uint8_t* hwc) {
  Image& image = scratch();
  const int64_t delivered = dataset.original(index, image);
  const Image resized = resize_shorter_side(image, dataset.resize_size());
  const int room_y = resized.height - dataset.height(), room_x = resized.width - dataset.width();
  const int top = room_y > 0 ? int(draws.below(uint32_t(room_y + 1))) : room_y / 2;
  const int left = room_x > 0 ? int(draws.below(uint32_t(room_x + 1))) : room_x / 2;
  copy_window(resized, {top, left, dataset.height(), dataset.width()}, hwc);
  return delivered;
}

int64_t crop_random_resized(const Dataset& dataset, const AugmentSpec& spec, int64_t index,
                            Philox& draws, uint8_t* hwc) {
  Image& image = scratch();
  const int64_t delivered = dataset.original(index, image);
  resize_window(image, random_window(image, spec, draws), dataset.height(), dataset.width(), hwc);
  return delivered;
}

}  // namespace

AugmentSpec::Crop crop_from(const std::string& name) {
  using Crop = AugmentSpec::Crop;
  if (name == "none") return Crop::none;
  if (name == "padded") return Crop::padded;
  if (name == "random") return Crop::random;
  if (name == "random_resized") return Crop::random_resized;
  throw ConfigError("data.augmentation.crop: '" + name +
                    "' is not known; known: none, padded, random, random_resized");
}

int64_t read_augmented(const Dataset& dataset, const AugmentSpec& spec, uint64_t seed,
                       uint32_t epoch, int64_t index, uint8_t* hwc) {
  Philox draws(seed, DrawKind::augment, epoch, uint32_t(index));
  const bool flip = spec.flip && (draws.bits() >> 31) != 0;
  int64_t delivered = index;
  switch (spec.crop) {
    case AugmentSpec::Crop::none: delivered = dataset.read(index, hwc); break;
    case AugmentSpec::Crop::padded:
      delivered = crop_padded(dataset, spec, index, draws, hwc);
      break;
    case AugmentSpec::Crop::random: delivered = crop_random(dataset, index, draws, hwc); break;
    case AugmentSpec::Crop::random_resized:
      delivered = crop_random_resized(dataset, spec, index, draws, hwc);
      break;
  }
  if (flip) flip_left_right(dataset.height(), dataset.width(), hwc);
  return delivered;
}

PictureWindow read_unwindowed(const Dataset& dataset, const AugmentSpec& spec, uint64_t seed,
                              uint32_t epoch, int64_t index, uint8_t* hwc, int64_t& delivered) {
  using Crop = AugmentSpec::Crop;
  if (spec.crop != Crop::none && spec.crop != Crop::padded) {
    delivered = read_augmented(dataset, spec, seed, epoch, index, hwc);
    return {};
  }
  Philox draws(seed, DrawKind::augment, epoch, uint32_t(index));
  const bool flip = spec.flip && (draws.bits() >> 31) != 0;
  delivered = dataset.read(index, hwc);
  PictureWindow window = spec.crop == Crop::padded ? padded_window(spec, draws) : PictureWindow();
  window.flipped = flip;
  return window;
}

}  // namespace qt
