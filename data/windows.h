// data/windows.h -- crops and flips that are left for later: numbers beside whole pictures.
#pragma once
#include "core/tensor/tensor.h"

namespace qt {

// shown = pictures seen through windows: the picture moved by (top, left), zeros where it has no
// pixels, mirrored left to right where the third number is not 0. pictures, shown: u8 [n, height,
// width, channels], windows: i32 [n, 3] = top, left, flipped; all where current_stream() works.
void show_windows(const uint8_t* pictures, const int32_t* windows, Tensor& shown);

}  // namespace qt
