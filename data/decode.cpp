// data/decode.cpp -- JPEG (libjpeg-turbo), PNG (libspng) and PPM files to RGB.
#include "data/decode.h"

#include <spng.h>
#include <sys/stat.h>
#include <turbojpeg.h>

#include <array>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string_view>

#include "core/base/error.h"

namespace qt {
namespace {

using Bytes = std::vector<uint8_t>;

[[noreturn]] void refuse(const std::string& file, std::string cause) {
  for (char& c : cause)
    if (c == '\n' || c == '\r') c = ' ';
  throw DataError("'" + file + "': " + cause);
}

void check_extents(const std::string& file, int64_t height, int64_t width, int64_t max_pixels) {
  const std::string claim = std::to_string(width) + " x " + std::to_string(height) + " pixels";
  if (height < 1 || width < 1) refuse(file, "the header claims " + claim);
  if (height > max_pixels / width)
    refuse(file, "the header claims " + claim + "; allowed: " + std::to_string(max_pixels));
}

enum class Format { jpeg, png, pnm };

// What people have and this program does not read, by the bytes that tell it.
struct Signature {
  size_t offset;
  std::string_view bytes;
  const char* name;
};
constexpr std::array<Signature, 6> other_formats = {{{0, "BM", "BMP"},
                                                     {8, "WEBP", "WebP"},
                                                     {0, "GIF8", "GIF"},
                                                     {0, {"II*\0", 4}, "TIFF"},
                                                     {0, {"MM\0*", 4}, "TIFF"},
                                                     {4, "ftyp", "HEIC or AVIF"}}};

Format format_of(const Bytes& bytes, const std::string& file) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.starts_with("\xff\xd8\xff")) return Format::jpeg;
  if (text.starts_with("\x89PNG\r\n\x1a\n")) return Format::png;
  if (text.starts_with("P5") || text.starts_with("P6")) return Format::pnm;
  for (const Signature& other : other_formats)
    if (text.size() > other.offset && text.substr(other.offset).starts_with(other.bytes))
      refuse(file, std::string(other.name) + " is not supported; supported: JPEG, PNG, PPM");
  char start[32] = "";
  for (size_t i = 0; i < bytes.size() && i < 4; ++i)
    snprintf(start + strlen(start), sizeof start - strlen(start), " %02x", unsigned(bytes[i]));
  refuse(file, std::string("not a JPEG, PNG or PPM picture (it starts with bytes") + start + ")");
}

// --- JPEG ---

struct CloseJpeg {
  void operator()(void* handle) const { tjDestroy(handle); }
};
using JpegHandle = std::unique_ptr<void, CloseJpeg>;

// One decompressor per thread.
JpegHandle& jpeg_handle() {
  thread_local JpegHandle handle;
  if (!handle) handle.reset(tjInitDecompress());
  QT_CHECK(handle, "libjpeg-turbo gave no decompressor");
  return handle;
}

// A decompressor of 2.1.5 that has failed in a header reads the next file from the middle of that
// header: it goes.
[[noreturn]] void refuse_jpeg(const std::string& file) {
  const std::string cause = tjGetErrorStr2(jpeg_handle().get());
  jpeg_handle().reset();
  refuse(file, "broken JPEG: " + cause);
}

struct JpegHeader {
  int height = 0, width = 0, subsampling = 0, colours = 0;
};

JpegHeader jpeg_header(const Bytes& bytes, const std::string& file, int64_t max_pixels) {
  JpegHeader h;
  if (tjDecompressHeader3(jpeg_handle().get(), bytes.data(), bytes.size(), &h.width, &h.height,
                          &h.subsampling, &h.colours) != 0)
    refuse_jpeg(file);
  check_extents(file, h.height, h.width, max_pixels);
  return h;
}

// Pillow takes every CMYK JPEG as Adobe's inverted kind; with inverted inks r = k - k * (255 - c) /
// 255, rounded.
void cmyk_to_rgb(const Bytes& cmyk, uint8_t* rgb) {
  for (size_t i = 0; i < cmyk.size(); i += 4) {
    const int k = cmyk[i + 3];
    for (size_t c = 0; c < 3; ++c) {
      const int product = k * (255 - cmyk[i + c]) + 128;
      *rgb++ = uint8_t(k - ((product + (product >> 8)) >> 8));
    }
  }
}

void decode_jpeg(const Bytes& bytes, const std::string& file, int64_t max_pixels, Image& image) {
  const JpegHeader h = jpeg_header(bytes, file, max_pixels);
  const bool cmyk = h.colours == TJCS_CMYK || h.colours == TJCS_YCCK;
  image.resize(h.height, h.width);
  Bytes inks(cmyk ? size_t(h.height) * size_t(h.width) * 4 : 0);
  // Stopping at 500 scans bounds the time that a small progressive file can take.
  const int flags = TJFLAG_STOPONWARNING | TJFLAG_LIMITSCANS;
  if (tjDecompress2(jpeg_handle().get(), bytes.data(), bytes.size(),
                    cmyk ? inks.data() : image.pixels.data(), h.width, 0, h.height,
                    cmyk ? TJPF_CMYK : TJPF_RGB, flags) != 0)
    refuse_jpeg(file);
  if (cmyk) cmyk_to_rgb(inks, image.pixels.data());
}

// --- PNG ---

struct ClosePng {
  void operator()(spng_ctx* context) const { spng_ctx_free(context); }
};
using PngContext = std::unique_ptr<spng_ctx, ClosePng>;

void check_png(int error, const std::string& file) {
  if (error) refuse(file, std::string("broken PNG: ") + spng_strerror(error));
}

PngContext open_png(const Bytes& bytes, const std::string& file, int64_t max_pixels,
                    Extents& extents) {
  PngContext context(spng_ctx_new(0));
  QT_CHECK(context, "libspng gave no decoder");
  check_png(spng_set_chunk_limits(context.get(), size_t{16} << 20, size_t{64} << 20), file);
  check_png(spng_set_png_buffer(context.get(), bytes.data(), bytes.size()), file);
  spng_ihdr header{};
  check_png(spng_get_ihdr(context.get(), &header), file);
  check_extents(file, header.height, header.width, max_pixels);
  extents = {int(header.height), int(header.width)};
  return context;
}

void decode_png(const Bytes& bytes, const std::string& file, int64_t max_pixels, Image& image) {
  Extents extents;
  const PngContext context = open_png(bytes, file, max_pixels, extents);
  image.resize(extents.height, extents.width);
  check_png(
      spng_decode_image(context.get(), image.pixels.data(), image.pixels.size(), SPNG_FMT_RGB8, 0),
      file);
}

// --- PPM (P6, colour) and PGM (P5, grey), 8 bits ---

struct PnmHeader {
  Extents extents;
  size_t first = 0;  // offset of the pixels
  bool grey = false;
};

PnmHeader pnm_header(const Bytes& bytes, const std::string& file, int64_t max_pixels) {
  size_t at = 2;
  int64_t number[3] = {};
  for (int64_t& n : number) {
    while (at < bytes.size() && (isspace(bytes[at]) || bytes[at] == '#')) {
      if (bytes[at] == '#')
        while (at < bytes.size() && bytes[at] != '\n') ++at;
      else
        ++at;
    }
    if (at >= bytes.size() || !isdigit(bytes[at]))
      refuse(file, "broken PPM: three numbers must follow the first two bytes");
    for (; at < bytes.size() && isdigit(bytes[at]) && n < INT32_MAX / 16; ++at)
      n = n * 10 + (bytes[at] - '0');
  }
  check_extents(file, number[1], number[0], max_pixels);
  if (number[2] != 255)
    refuse(file, "PPM with a maximum of " + std::to_string(number[2]) + "; supported: 255");
  return {{int(number[1]), int(number[0])}, at + 1, bytes[1] == '5'};
}

void decode_pnm(const Bytes& bytes, const std::string& file, int64_t max_pixels, Image& image) {
  const PnmHeader h = pnm_header(bytes, file, max_pixels);
  const size_t pixels = size_t(h.extents.height) * size_t(h.extents.width),
               channels = h.grey ? 1 : 3;
  if (bytes.size() < h.first || bytes.size() - h.first < pixels * channels)
    refuse(file, "broken PPM: " + std::to_string(bytes.size()) + " bytes, " +
                     std::to_string(h.first + pixels * channels) + " are needed");
  image.resize(h.extents.height, h.extents.width);
  const uint8_t* from = bytes.data() + h.first;
  if (!h.grey)
    memcpy(image.pixels.data(), from, pixels * 3);
  else
    for (size_t i = 0; i < pixels; ++i) memset(image.pixels.data() + 3 * i, from[i], 3);
}

}  // namespace

Extents decode_extents(const Bytes& bytes, const std::string& file, int64_t max_pixels) {
  switch (format_of(bytes, file)) {
    case Format::jpeg: {
      const JpegHeader h = jpeg_header(bytes, file, max_pixels);
      return {h.height, h.width};
    }
    case Format::png: {
      Extents extents;
      open_png(bytes, file, max_pixels, extents);
      return extents;
    }
    default: return pnm_header(bytes, file, max_pixels).extents;
  }
}

void decode(const Bytes& bytes, const std::string& file, int64_t max_pixels, Image& image) {
  switch (format_of(bytes, file)) {
    case Format::jpeg: return decode_jpeg(bytes, file, max_pixels, image);
    case Format::png: return decode_png(bytes, file, max_pixels, image);
    default: return decode_pnm(bytes, file, max_pixels, image);
  }
}

void read_picture_file(const std::string& path, Bytes& bytes) {
  struct Close {
    void operator()(FILE* file) const { fclose(file); }
  };
  struct stat status {};
  // Opening a pipe would wait for its writer.
  if (stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode))
    refuse(path, "not a regular file");
  const std::unique_ptr<FILE, Close> file(fopen(path.c_str(), "rb"));
  if (!file || fstat(fileno(file.get()), &status) != 0)
    refuse(path, std::string("cannot be opened: ") + strerror(errno));
  if (status.st_size == 0) refuse(path, "the file is empty");
  if (status.st_size > (off_t{1} << 30)) refuse(path, "the file is larger than 1 GiB");
  bytes.resize(size_t(status.st_size));
  const size_t count = fread(bytes.data(), 1, bytes.size(), file.get());
  if (ferror(file.get())) refuse(path, std::string("cannot be read: ") + strerror(errno));
  bytes.resize(count);
}

}  // namespace qt
