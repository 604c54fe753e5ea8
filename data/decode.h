// data/decode.h -- JPEG, PNG and PPM files to RGB, told apart by content; hostile files are
// refused, not trusted.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "data/image.h"

namespace qt {

struct Extents {
  int height = 0, width = 0;
  bool operator==(const Extents&) const = default;
};

// The extents that the header claims. `file` is the name for messages. DataError where `bytes` is
// none of the three formats, the header is broken, or height * width exceeds max_pixels.
Extents decode_extents(const std::vector<uint8_t>& bytes, const std::string& file,
                       int64_t max_pixels);

// The picture as 8-bit RGB: grey is repeated, CMYK converted as Pillow does, alpha dropped,
// palettes looked up. DataError (one line, with file and cause) also where the data ends early or
// is damaged, which for JPEG includes everything libjpeg-turbo warns about: it fills the missing
// rest with grey and goes on. Nothing is allocated before the size is checked. Any number of
// threads.
void decode(const std::vector<uint8_t>& bytes, const std::string& file, int64_t max_pixels,
            Image& image);

// The whole file; DataError where it cannot be read, is empty or larger than 1 GiB.
void read_picture_file(const std::string& path, std::vector<uint8_t>& bytes);

}  // namespace qt
