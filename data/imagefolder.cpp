// data/imagefolder.cpp -- pictures in one folder per class: PATH/train/<class>/*.jpg and PATH/test
// (or val)/<class>/*.
#include <algorithm>
#include <cctype>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <mutex>
#include <sstream>

#include "core/base/files.h"
#include "core/base/log.h"
#include "core/base/text.h"
#include "data/dataset.h"
#include "data/decode.h"
#include "data/parallel.h"
#include "data/resize.h"

namespace qt {
namespace {

namespace fs = std::filesystem;

constexpr int64_t small_side = 128;  // sets of one size up to this are decoded once, at start
constexpr size_t probes = 64;        // pictures looked at to find the size
constexpr size_t logged = 10;        // bad samples named in the log

// In any case.
bool has_extension(const fs::path& path, std::initializer_list<const char*> known) {
  std::string extension = path.extension().string();
  for (char& c : extension) c = char(tolower(static_cast<unsigned char>(c)));
  return std::find(known.begin(), known.end(), extension) != known.end();
}

// Pictures people have and this program does not read: refused at the start, not overlooked.
bool is_doubtful(const fs::path& path) {
  return has_extension(path, {".bmp", ".webp", ".gif", ".tif", ".tiff", ".heic", ".avif"});
}

// By extension; the format is then told by content.
bool is_picture(const fs::path& path) {
  return has_extension(path, {".jpg", ".jpeg", ".png", ".ppm", ".pgm"}) || is_doubtful(path);
}

std::vector<std::string> sorted_names(const fs::path& folder, bool folders) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; it != end && !error; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.starts_with('.')) continue;
    std::error_code ignored;
    if (folders ? it->is_directory(ignored) : !it->is_directory(ignored) && is_picture(it->path()))
      names.push_back(name);
  }
  if (error) throw DataError("folder '" + folder.string() + "' cannot be read: " + error.message());
  std::sort(names.begin(), names.end());
  return names;
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < names.size() && i < 8; ++i) text += (i ? ", " : "") + names[i];
  if (names.size() > 8) text += ", ... (" + std::to_string(names.size()) + ")";
  return names.empty() ? "none" : text;
}

std::string number(double value) {
  std::ostringstream text;
  text << value;
  return text.str();
}

void check_root(const fs::path& root) {
  const std::string wanted =
      "imagefolder needs train/<class>/*.jpg and test/<class>/*.jpg (or val/) in it";
  if (root.empty()) throw DataError("data.path is empty; it names a folder, and " + wanted);
  check_data_path(root.string());
  if (!files::is_folder((root / "train").string()))
    throw DataError("data.path '" + root.string() + "' has no sub-folder train; " + wanted +
                    "; folders found: " + joined(sorted_names(root, true)));
}

fs::path split_folder(const fs::path& root, Split split) {
  if (split == Split::train) return root / "train";
  for (const char* name : {"test", "val"})
    if (files::is_folder((root / name).string())) return root / name;
  throw DataError(
      "data.path '" + root.string() +
      "' has no sub-folder test or val; folders found: " + joined(sorted_names(root, true)));
}

class ImageFolder : public Dataset {
 public:
  ImageFolder(const DatasetSpec& spec, Split split) : spec_(spec) {
    const fs::path root(spec.path);
    check_root(root);
    if (spec.image_size < 0 || spec.resize_size < 0 || spec.image_size > 4096 ||
        spec.resize_size > 8192)
      throw ConfigError("data.image_size " + std::to_string(spec.image_size) +
                        ", data.resize_size " + std::to_string(spec.resize_size) +
                        "; allowed: 0 to 4096 and 0 to 8192");
    folder_ = split_folder(root, split).string();
    list_classes(root / "train");
    list_files();
    check_doubtful();
    const bool small = choose_extents();
    if (small && size() <= spec.cache_bytes.value_or(0) / int64_t(picture_bytes())) decode_all();
  }

  int64_t size() const override { return int64_t(files_.size()); }
  int64_t label(int64_t index) const override { return files_[size_t(index)].label; }
  std::string name(int64_t index) const override {
    const File& file = files_[size_t(index)];
    return folder_ + "/" + classes_[size_t(file.label)] + "/" + file.name;
  }

  int64_t read(int64_t index, uint8_t* hwc) const override {
    return next_good(index, [&](int64_t i) {
      if (!pixels_.empty()) {
        const uint8_t* from = pixels_.data() + size_t(i) * picture_bytes();
        std::copy(from, from + picture_bytes(), hwc);
      } else {
        decode_for_evaluation(i, hwc);
      }
    });
  }

  int64_t original(int64_t index, Image& image) const override {
    if (!pixels_.empty()) return Dataset::original(index, image);
    return next_good(index, [&](int64_t i) { decode_file(i, image); });
  }

  std::vector<BadSample> bad_samples() const override {
    const std::lock_guard lock(mutex_);
    std::vector<BadSample> list;
    for (const auto& [index, cause] : bad_) list.push_back({index, cause});
    return list;
  }

 private:
  struct File {
    std::string name;
    int32_t label;
  };

  // The training set's classes number the labels of both splits.
  void list_classes(const fs::path& train) {
    classes_ = sorted_names(train, true);
    if (classes_.empty()) throw DataError("folder '" + train.string() + "' holds no class folder");
    if (classes_.size() == 1)
      throw DataError("folder '" + train.string() + "' holds one class folder only, '" +
                      classes_[0] + "'; a network tells at least two apart");
    for (const std::string& name : classes_)
      if (one_line(name) != name)
        throw DataError("class folder '" + train.string() + "/" + one_line(name) +
                        "': the name of a class must be UTF-8 without control characters");
  }

  void list_files() {
    warn_of_unused(folder_, sorted_names(folder_, false), "lie outside of class folders");
    for (const std::string& name : sorted_names(folder_, true)) {
      const auto it = std::lower_bound(classes_.begin(), classes_.end(), name);
      if (it == classes_.end() || *it != name)
        throw DataError("class folder '" + folder_ + "/" + name +
                        "' is no class of the training set; its classes: " + joined(classes_));
      const std::string folder = folder_ + "/" + name;
      const std::vector<std::string> files = sorted_names(folder, false);
      warn_of_unused(folder, sorted_names(folder, true), "are folders in a class folder");
      if (files.empty())
        throw DataError("class folder '" + folder +
                        "' holds no picture (.jpg, .jpeg, .png, .ppm, .pgm)");
      for (const std::string& file : files)
        files_.push_back({file, int32_t(it - classes_.begin())});
    }
    if (files_.empty()) throw DataError("folder '" + folder_ + "' holds no class folder");
  }

  void warn_of_unused(const std::string& folder, const std::vector<std::string>& names,
                      const std::string& why) const {
    if (spec_.warn_of_unused && !names.empty())
      log::warn("not used, because they " + why + ": " + joined(names) + " in '" + folder + "'");
  }

  void check_doubtful() const {
    std::vector<uint8_t> bytes;
    for (size_t i = 0; i < files_.size(); ++i) {
      if (!is_doubtful(files_[i].name)) continue;
      try {
        const std::string path = name(int64_t(i));
        read_picture_file(path, bytes);
        decode_extents(bytes, path, spec_.max_pixels);
      } catch (const DataError& error) {
        note_bad(int64_t(i), error);
      }
    }
  }

  // Sets the extents from the config or, where it leaves them open, from the pictures. True for a
  // small set of one size.
  bool choose_extents() {
    std::vector<uint8_t> bytes;
    Extents first;
    std::string failure;
    bool uniform = true;
    const size_t step = std::max<size_t>(1, files_.size() / probes);
    for (size_t i = 0; i < files_.size(); i += step) {
      try {
        const std::string path = name(int64_t(i));
        read_picture_file(path, bytes);
        const Extents extents = decode_extents(bytes, path, spec_.max_pixels);
        if (first.height == 0) first = extents;
        uniform = uniform && extents == first;
      } catch (const DataError& error) {
        // Met again, and treated as the policy says, when the sample is read.
        if (failure.empty()) failure = error.what();
      }
    }
    if (first.height == 0) throw DataError(failure);
    const bool small = uniform && first.height <= small_side && first.width <= small_side;
    if (spec_.image_size == 0 && !uniform)
      throw DataError("the pictures of '" + folder_ +
                      "' differ in size: set data.image_size, for example to 224");
    const int side = spec_.image_size;
    if (side == 0 || (uniform && first.height == side && first.width == side)) {
      set_extents(first.height, first.width, spec_.resize_size);
      return small;
    }
    set_extents(side, side, spec_.resize_size ? spec_.resize_size : side * 8 / 7);
    return false;
  }

  void decode_file(int64_t index, Image& image) const {
    thread_local std::vector<uint8_t> bytes;
    const std::string path = name(index);
    read_picture_file(path, bytes);
    decode(bytes, path, spec_.max_pixels, image);
    check_extents(path, image);
    check_resized(path, image);
  }

  // Without data.image_size pictures are taken as they are. Only some were looked at to find the
  // size.
  void check_extents(const std::string& path, const Image& image) const {
    if (spec_.image_size != 0 || (image.height == height() && image.width == width())) return;
    throw DataError("'" + path + "': " + std::to_string(image.width) + " x " +
                    std::to_string(image.height) + " pixels in a set of " +
                    std::to_string(width()) + " x " + std::to_string(height()) +
                    ": set data.image_size, for example to " + std::to_string(height()));
  }

  // The shorter side of a strip may be one pixel: resized it would take any amount of memory.
  void check_resized(const std::string& path, const Image& image) const {
    const int64_t shorter = std::min(image.height, image.width),
                  longer = std::max(image.height, image.width), side = resize_size();
    if (longer * side / shorter > spec_.max_pixels / side)
      throw DataError(
          "'" + path + "': " + std::to_string(image.width) + " x " + std::to_string(image.height) +
          " pixels is too long a strip: with a shorter side of " + std::to_string(side) +
          " it would have more than " + std::to_string(spec_.max_pixels) + " pixels");
  }

  void decode_for_evaluation(int64_t index, uint8_t* hwc) const {
    thread_local Image image;
    decode_file(index, image);
    if (image.height == height() && image.width == width() &&
        resize_size() == std::min(height(), width()))
      std::copy(image.pixels.begin(), image.pixels.end(), hwc);
    else
      centre_crop(resize_shorter_side(image, resize_size()), height(), width(), hwc);
  }

  void decode_all() {
    std::vector<uint8_t> pixels(size_t(size()) * picture_bytes());
    for_each_part(size(), 64, spec_.threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) try {
          decode_for_evaluation(i, pixels.data() + size_t(i) * picture_bytes());
        } catch (const DataError& error) {
          note_bad(i, error);
        }
    });
    pixels_ = std::move(pixels);
  }

  // Calls get(i) for i = index, index + 1, ... (around the end) until it succeeds; returns that i.
  template <class Get>
  int64_t next_good(int64_t index, Get get) const {
    for (int64_t tried = 0; tried < size(); ++tried, index = (index + 1) % size()) {
      if (known_bad(index)) continue;
      try {
        get(index);
        return index;
      } catch (const DataError& error) {
        note_bad(index, error);
      }
    }
    throw DataError("no picture of '" + folder_ + "' can be read");
  }

  bool known_bad(int64_t index) const {
    if (spec_.on_error == OnError::stop) return false;
    const std::lock_guard lock(mutex_);
    return bad_.contains(index);
  }

  // With stop: passes the error on. With skip: counts and lists it, and ends the run when there are
  // too many.
  void note_bad(int64_t index, const DataError& error) const {
    if (spec_.on_error == OnError::stop) throw error;
    const std::lock_guard lock(mutex_);
    if (!bad_.emplace(index, error.what()).second) return;
    if (spec_.log_bad && bad_.size() <= logged)
      log::warn(std::string("bad sample skipped: ") + error.what());
    if (spec_.log_bad && bad_.size() == logged)
      log::warn("further bad samples are counted and listed, but not logged");
    if (double(bad_.size()) > spec_.max_bad_fraction * double(size()))
      throw DataError("more of the " + std::to_string(size()) + " pictures of '" + folder_ +
                      "' are bad than data.max_bad_fraction = " + number(spec_.max_bad_fraction) +
                      " allows; one of them: " + error.what());
  }

  DatasetSpec spec_;
  std::string folder_;
  std::vector<File> files_;
  std::vector<uint8_t>
      pixels_;  // [size, height, width, 3] of a set that is kept in memory, else empty
  mutable std::mutex mutex_;
  mutable std::map<int64_t, std::string> bad_;  // by index, under mutex_
};

const DatasetRegistry::Add add{"imagefolder", [](const DatasetSpec& spec, Split split) {
                                 return std::make_unique<ImageFolder>(spec, split);
                               }};

}  // namespace
}  // namespace qt
