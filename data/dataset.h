// data/dataset.h -- what every data set offers: labelled uint8 RGB pictures of one size, read by
// index.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/base/registry.h"
#include "data/image.h"

namespace qt {

enum class Split : uint32_t { train = 0, test = 1 };
const char* name_of(Split split);

// What to do with a picture that cannot be read.
enum class OnError { stop, skip };
OnError on_error_from(const std::string& name);  // "stop" | "skip"; ConfigError otherwise

// Everything a data set may be told; each kind reads what concerns it.
struct DatasetSpec {
  std::string kind = "generated";  // see dataset_kinds()
  std::string path = {};           // folder of the files (not for generated)
  uint64_t seed = 0;               // generated: what the pictures are made from
  int image_size = 0;              // side of the pictures given out, pixels; 0: the set's own size
  int resize_size = 0;  // shorter side before the centre crop; 0: image_size * 8 / 7 (256 for 224)
  int64_t train_images = 4096, test_images = 1000;  // generated: how many
  OnError on_error = OnError::stop;
  double max_bad_fraction = 0.01;  // skip: DataError when more of the set than this is bad
  // Sets of small pictures up to this many bytes are kept in memory decoded. Not set: generated
  // ones up to 1 GiB; folders not at all, since reading a file from the system's page cache and
  // decoding it costs less than a hundredth of training on it.
  std::optional<int64_t> cache_bytes = std::nullopt;
  int64_t max_pixels = 100'000'000;  // a larger picture is refused before it is decoded
  int threads = 0;                   // for the work at start; 0: one per core
  bool warn_of_unused = true;  // what lies in a folder and belongs to no class is named in the log
  bool log_bad = true;  // on_error skip: the first bad samples are named in the log as they are met
};

struct BadSample {
  int64_t index;
  std::string cause;  // one line that names the file
};

// Requires: 0 <= index < size(). Ensures: all const methods may be called from many threads at
// once, and what they return depends on the index only. Errors in the files: DataError, one line
// with file and cause.
class Dataset {
 public:
  virtual ~Dataset() = default;

  virtual int64_t size() const = 0;
  const std::vector<std::string>& classes() const { return classes_; }
  // Extents of what read() writes: [height, width, 3].
  int height() const { return height_; }
  int width() const { return width_; }
  // Shorter side of a picture before a random or centre crop to height x width.
  int resize_size() const { return resize_size_; }
  size_t picture_bytes() const { return size_t(height_) * size_t(width_) * 3; }

  // Writes the evaluation picture (resized, centre-cropped). Returns the index delivered: another
  // one only where on_error = skip and the picture is bad; then it is the next good one, whose
  // label() holds.
  virtual int64_t read(int64_t index, uint8_t* hwc) const = 0;
  // The picture as it is in the file, at its own size; otherwise as read().
  virtual int64_t original(int64_t index, Image& image) const;

  virtual int64_t label(int64_t index) const = 0;     // 0 .. classes().size() - 1
  virtual std::string name(int64_t index) const = 0;  // file, record or number: for messages
  virtual std::vector<BadSample> bad_samples() const { return {}; }  // found so far, by index

 protected:
  void set_extents(int height, int width, int resize_size = 0);
  std::vector<std::string> classes_;

 private:
  int height_ = 0, width_ = 0, resize_size_ = 0;
};

using DatasetRegistry = Registry<Dataset, const DatasetSpec&, Split>;

// DataError unless the two splits of data.path have the same classes and extents.
void check_alike(const Dataset& train, const Dataset& test, const std::string& path);

// ---- for data sets that are files ----

// DataError unless data.path is a folder that can be looked at.
void check_data_path(const std::string& path);

// The set named spec.kind. ConfigError for an unknown kind or a key that cannot be, DataError for
// the files.
std::shared_ptr<const Dataset> make_dataset(const DatasetSpec& spec, Split split);
std::vector<std::string> dataset_kinds();

// A set whose pictures all lie in memory.
class MemoryDataset : public Dataset {
 public:
  int64_t size() const override { return int64_t(labels_.size()); }
  int64_t read(int64_t index, uint8_t* hwc) const override;
  int64_t label(int64_t index) const override { return labels_[size_t(index)]; }

 protected:
  std::vector<uint8_t> pixels_;  // [size, height, width, 3]
  std::vector<int32_t> labels_;
};

}  // namespace qt
