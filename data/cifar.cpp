// data/cifar.cpp -- CIFAR-10 and CIFAR-100 in their official binary layout.
//
// A record is one label byte (CIFAR-100: coarse label, then fine label, which is the one used) and
// 3 planes of 32 x 32 bytes (red, green, blue). Krizhevsky, "Learning Multiple Layers of Features
// from Tiny Images", 2009.
#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/base/files.h"
#include "data/dataset.h"

namespace qt {
namespace {

namespace fs = std::filesystem;

constexpr int side = 32, plane = side * side;

struct Layout {
  std::string kind, folder, names_file;
  int classes, label_bytes;
  std::vector<std::string> train_files, test_files;
  int record() const { return label_bytes + 3 * plane; }
};

const Layout cifar10{"cifar10",
                     "cifar-10-batches-bin",
                     "batches.meta.txt",
                     10,
                     1,
                     {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                      "data_batch_4.bin", "data_batch_5.bin"},
                     {"test_batch.bin"}};
const Layout cifar100{"cifar100",    "cifar-100-binary", "fine_label_names.txt", 100, 2,
                      {"train.bin"}, {"test.bin"}};

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw DataError("'" + path.string() + "' cannot be opened");
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// path itself or the official sub-folder in it, whichever holds the first file.
fs::path find_folder(const Layout& layout, const DatasetSpec& spec) {
  const std::string wanted = layout.folder + "/" + layout.train_files[0];
  if (spec.path.empty())
    throw DataError("data.path is empty; " + layout.kind + " needs the folder that holds " +
                    wanted);
  check_data_path(spec.path);
  const fs::path path(spec.path);
  for (const fs::path& folder : {path, path / layout.folder})
    if (files::exists((folder / layout.train_files[0]).string())) return folder;
  throw DataError("data.path '" + spec.path + "' holds neither " + layout.train_files[0] + " nor " +
                  wanted + ", as the binary version of " + layout.kind + " does");
}

class Cifar : public MemoryDataset {
 public:
  Cifar(const Layout& layout, const DatasetSpec& spec, Split split) {
    if (spec.image_size != 0 && spec.image_size != side)
      throw ConfigError("data.image_size " + std::to_string(spec.image_size) + ": " + layout.kind +
                        " pictures are 32x32; allowed: 32, or 0 for the set's own size");
    set_extents(side, side);
    const fs::path folder = find_folder(layout, spec);
    read_names(layout, folder / layout.names_file);
    for (const std::string& file : split == Split::train ? layout.train_files : layout.test_files)
      read_records(layout, folder / file);
  }

  std::string name(int64_t index) const override {
    size_t file = files_.size() - 1;
    while (files_[file].first > index) --file;
    return files_[file].second + " record " + std::to_string(index - files_[file].first);
  }

 private:
  void read_names(const Layout& layout, const fs::path& path) {
    std::istringstream lines(read_file(path));
    for (std::string line; std::getline(lines, line);) {
      line.erase(line.find_last_not_of(" \t\r") + 1);
      if (!line.empty()) classes_.push_back(line);
    }
    if (classes_.size() != size_t(layout.classes))
      throw DataError("'" + path.string() + "' names " + std::to_string(classes_.size()) +
                      " classes; " + layout.kind + " has " + std::to_string(layout.classes));
  }

  void read_records(const Layout& layout, const fs::path& path) {
    const std::string bytes = read_file(path);
    const size_t record = size_t(layout.record()), count = bytes.size() / record;
    if (bytes.empty() || bytes.size() % record != 0)
      throw DataError("'" + path.string() + "' has " + std::to_string(bytes.size()) +
                      " bytes, not a multiple of the " + std::to_string(record) + " bytes of a " +
                      layout.kind + " record: truncated or not " + layout.kind + " binary");
    files_.emplace_back(size(), path.string());
    const size_t first = labels_.size();
    labels_.resize(first + count);
    pixels_.resize((first + count) * picture_bytes());
    for (size_t i = 0; i < count; ++i) {
      const auto* from = reinterpret_cast<const uint8_t*>(bytes.data()) + i * record;
      const int label = from[layout.label_bytes - 1];
      if (label >= layout.classes)
        throw DataError("'" + path.string() + "' record " + std::to_string(i) + " has label " +
                        std::to_string(label) + "; allowed: 0 to " +
                        std::to_string(layout.classes - 1));
      labels_[first + i] = label;
      from += layout.label_bytes;
      uint8_t* to = pixels_.data() + (first + i) * picture_bytes();
      for (int p = 0; p < plane; ++p)
        for (int c = 0; c < 3; ++c) to[p * 3 + c] = from[c * plane + p];
    }
  }

  std::vector<std::pair<int64_t, std::string>> files_;  // first index, path
};

const DatasetRegistry::Add add10{"cifar10", [](const DatasetSpec& spec, Split split) {
                                   return std::make_unique<Cifar>(cifar10, spec, split);
                                 }};
const DatasetRegistry::Add add100{"cifar100", [](const DatasetSpec& spec, Split split) {
                                    return std::make_unique<Cifar>(cifar100, spec, split);
                                  }};

}  // namespace
}  // namespace qt
