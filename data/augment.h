// data/augment.h -- random crops and flips on uint8 pictures, a pure function of (seed, epoch,
// sample).
#pragma once
#include <cstdint>
#include <string>

#include "data/dataset.h"

namespace qt {

struct AugmentSpec {
  enum class Crop {
    none,    // the evaluation picture
    padded,  // crop_padding zeros on each side, then a random window (torchvision RandomCrop(size,
             // padding))
    random,  // shorter side to the set's resize_size, then a random window
    random_resized,  // a random window of the original, resized (torchvision RandomResizedCrop,
                     // bilinear)
  };
  Crop crop = Crop::none;
  int crop_padding = 4;  // pixels; zeros are laid around before normalization, as torchvision does
  bool flip = false;     // left-right, every second picture
  float min_area = 0.08f, max_area = 1.0f;           // random_resized: share of the original's area
  float min_ratio = 3.0f / 4, max_ratio = 4.0f / 3;  // random_resized: width / height
};

AugmentSpec::Crop crop_from(
    const std::string& name);  // "none" | "padded" | "random" | "random_resized"

// Writes sample `index` of `dataset`, augmented for `epoch`, to hwc; returns the index delivered
// (Dataset::read). The draws are those of Philox(seed, augment, epoch, index) and nothing else. Any
// number of threads.
int64_t read_augmented(const Dataset& dataset, const AugmentSpec& spec, uint64_t seed,
                       uint32_t epoch, int64_t index, uint8_t* hwc);

// Where a window of the evaluation picture stands, and whether it is mirrored (data/windows.h).
struct PictureWindow {
  int32_t top = 0, left = 0, flipped = 0;
};
// As read_augmented, but where the crop is a window of the evaluation picture (none, padded) that
// picture is written as it is, and what would have been done to it is returned.
PictureWindow read_unwindowed(const Dataset& dataset, const AugmentSpec& spec, uint64_t seed,
                              uint32_t epoch, int64_t index, uint8_t* hwc, int64_t& delivered);

}  // namespace qt
