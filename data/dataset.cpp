// data/dataset.cpp -- the registry's front door and what data sets share.
#include "data/dataset.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <system_error>

namespace qt {

void check_data_path(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::not_found)
    throw DataError("data.path '" + path + "' does not exist" +
                    (path.starts_with('/')
                         ? ""
                         : ", seen from " + std::filesystem::current_path(error).string()));
  if (error) throw DataError("data.path '" + path + "' cannot be looked at: " + error.message());
  if (!std::filesystem::is_directory(status))
    throw DataError("data.path '" + path + "' is not a folder");
}

const char* name_of(Split split) { return split == Split::train ? "train" : "test"; }

OnError on_error_from(const std::string& name) {
  if (name == "stop") return OnError::stop;
  if (name == "skip") return OnError::skip;
  throw ConfigError("data.on_error: '" + name + "' is not known; known: stop, skip");
}

void check_alike(const Dataset& train, const Dataset& test, const std::string& path) {
  if (train.classes() != test.classes())
    throw DataError("the training and the test pictures of '" + path + "' have different classes");
  const auto extents = [](const Dataset& set) {
    return std::to_string(set.height()) + "x" + std::to_string(set.width());
  };
  if (extents(train) != extents(test))
    throw DataError("the training pictures of '" + path + "' are " + extents(train) +
                    ", its test pictures " + extents(test) +
                    ": set data.image_size, for example to " + std::to_string(train.height()));
}

void Dataset::set_extents(int height, int width, int resize_size) {
  height_ = height, width_ = width;
  resize_size_ = resize_size > 0 ? resize_size : std::min(height, width);
}

int64_t Dataset::original(int64_t index, Image& image) const {
  image.resize(height(), width());
  return read(index, image.pixels.data());
}

std::shared_ptr<const Dataset> make_dataset(const DatasetSpec& spec, Split split) {
  return DatasetRegistry::make("data set (data.kind)", spec.kind, spec, split);
}

std::vector<std::string> dataset_kinds() { return DatasetRegistry::names(); }

int64_t MemoryDataset::read(int64_t index, uint8_t* hwc) const {
  memcpy(hwc, pixels_.data() + size_t(index) * picture_bytes(), picture_bytes());
  return index;
}

}  // namespace qt
