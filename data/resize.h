// data/resize.h -- resizing byte for byte as Pillow's Image.resize(..., BILINEAR) does:
// antialiased, fixed point.
#pragma once
#include "data/image.h"

namespace qt {

// A rectangle of a picture; its pixels are all that a crop followed by a resize may look at.
struct Window {
  int top = 0, left = 0, height = 0, width = 0;
};

// Writes the window of `image`, resized to height x width, to hwc [height, width, 3]. All extents
// are >= 1. Pillow's ImagingResample: triangle filter widened by the scale, weights of 22
// fractional bits, rows first, each pass rounded to bytes; a pass that would not change an extent
// is left out. That is Pillow up to 12; 13 takes the columns first for some sizes and differs there
// in single bits.
void resize_window(const Image& image, const Window& window, int height, int width, uint8_t* hwc);

// torchvision's Resize(size): the shorter side becomes `size`, the longer one keeps the ratio,
// rounded down.
Image resize_shorter_side(const Image& image, int size);

// Copies the window of `image`, which may lie partly or wholly outside of it: zeros there.
void copy_window(const Image& image, const Window& window, uint8_t* hwc);

// torchvision's CenterCrop on pictures that are at least as large; smaller ones are padded with
// zeros.
void centre_crop(const Image& image, int height, int width, uint8_t* hwc);

}  // namespace qt
