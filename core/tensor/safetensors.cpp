// core/tensor/safetensors.cpp -- the safetensors header, read by a strict streaming parser and
// checked before use.
#include "core/tensor/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <unordered_set>

#include "core/base/text.h"

namespace qt {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr uint64_t max_header_bytes = 100'000'000;
constexpr const char* metadata_key = "__metadata__";

struct TypeName {
  DType type;
  const char* name;
};
constexpr std::array<TypeName, 6> type_names{{{DType::f32, "F32"},
                                              {DType::bf16, "BF16"},
                                              {DType::i32, "I32"},
                                              {DType::i64, "I64"},
                                              {DType::i8, "I8"},
                                              {DType::u8, "U8"}}};

const char* format_name(DType type) {
  const auto* const found = std::find_if(type_names.begin(), type_names.end(),
                                         [&](const TypeName& t) { return t.type == type; });
  QT_CHECK(found != type_names.end(), std::string("no file holds ") + name_of(type));
  return found->name;
}

struct Entry {
  std::string name;
  DType type = DType::f32;
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;
};

struct Header {
  std::vector<Entry> entries;
  Metadata metadata;
};

// Receives the JSON of a header as a stream of events, so that a hostile one costs no more memory
// than its own size. Depth 1 is the file, 2 a tensor or the metadata, 3 a tensor's shape or
// data_offsets.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderReader(const std::string& file, Header& header) : file_(file), header_(header) {}

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_float(number_float_t, const string_t& text) override { return unexpected(text); }
  bool binary(binary_t&) override { return unexpected("binary data"); }
  bool number_integer(number_integer_t value) override { return unexpected(std::to_string(value)); }

  bool number_unsigned(number_unsigned_t value) override {
    if (depth_ != 3) return unexpected(std::to_string(value));
    if (key_ == "shape") {
      if (entry_.shape.size() == Shape::max_rank) refuse("has more than 5 dimensions");
      if (value > uint64_t(INT64_MAX)) refuse("has the extent " + std::to_string(value));
      entry_.shape.push_back(int64_t(value));
      return true;
    }
    if (offsets_ == 2) refuse("has more than two data_offsets");
    (offsets_++ == 0 ? entry_.begin : entry_.end) = value;
    return true;
  }

  bool string(string_t& value) override {
    if (depth_ != 2) return unexpected("a string");
    if (in_metadata()) {
      if (!header_.metadata.emplace(key_, value).second)
        refuse("has the key " + in_quotes(key_) + " twice");
      return true;
    }
    if (key_ != "dtype") return unexpected("a string");
    const auto* found = std::find_if(type_names.begin(), type_names.end(),
                                     [&](const TypeName& t) { return value == t.name; });
    if (found != type_names.end()) {
      entry_.type = found->type;
      return true;
    }
    refuse("has the unknown dtype " + in_quotes(value) + " (F32, BF16, I32, I64, I8, U8 are read)");
  }

  bool start_object(size_t) override {
    if (depth_ >= 2) return unexpected("an object");
    ++depth_;
    return true;
  }

  bool end_object() override {
    if (--depth_ == 1 && !in_metadata()) finish_entry();
    return true;
  }

  bool start_array(size_t) override {
    if (depth_ != 2 || in_metadata() || key_ == "dtype") return unexpected("a list");
    ++depth_;
    return true;
  }

  bool end_array() override {
    --depth_;
    return true;
  }

  bool key(string_t& name) override {
    if (depth_ == 1) {
      entry_ = Entry{name, DType::f32, {}, 0, 0};
      seen_.clear();
      offsets_ = 0;
      key_.clear();
      if (!names_.insert(name).second) refuse("occurs twice");
      return true;
    }
    key_ = name;
    if (in_metadata()) return true;
    if (name != "dtype" && name != "shape" && name != "data_offsets")
      refuse("has the unknown key " + in_quotes(name));
    if (seen_.find("," + name) != std::string::npos)
      refuse("has the key " + in_quotes(name) + " twice");
    seen_ += "," + name;
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    throw CheckpointError(file_ + ": the header is not valid JSON at byte " +
                          std::to_string(8 + position));
  }

 private:
  bool in_metadata() const { return entry_.name == metadata_key; }

  [[noreturn]] void refuse(const std::string& cause) const {
    throw CheckpointError(file_ + ": tensor " + in_quotes(entry_.name) + " " + cause);
  }

  bool unexpected(const std::string& what) const {
    if (depth_ == 0) throw CheckpointError(file_ + ": the header is not a JSON object");
    refuse("has " + what + (key_.empty() ? " as its description" : " as its " + in_quotes(key_)));
  }

  void finish_entry() {
    for (const char* wanted : {"dtype", "shape", "data_offsets"})
      if (seen_.find(std::string(",") + wanted) == std::string::npos)
        refuse(std::string("has no ") + wanted);
    if (offsets_ != 2) refuse("has fewer than two data_offsets");
    header_.entries.push_back(entry_);
  }

  const std::string& file_;
  Header& header_;
  Entry entry_;
  std::string key_, seen_;
  std::unordered_set<std::string> names_;
  int depth_ = 0, offsets_ = 0;
};

[[noreturn]] void refuse(const std::string& file, const Entry& entry, const std::string& cause) {
  throw CheckpointError(file + ": tensor " + in_quotes(entry.name) + " " + cause);
}

// Bytes that shape and type ask for; refused where they do not fit 63 bits.
uint64_t bytes_of(const std::string& file, const Entry& entry) {
  int64_t bytes = int64_t(size_of(entry.type));
  bool empty = false;
  for (const int64_t extent : entry.shape) empty |= extent == 0;
  // Without the factor zero: an empty tensor must not hide extents that overflow elsewhere.
  for (const int64_t extent : entry.shape)
    if (extent && __builtin_mul_overflow(bytes, extent, &bytes))
      refuse(file, entry, "is too large: its size overflows 64 bits");
  return empty ? 0 : uint64_t(bytes);
}

// Sizes fit, and the data is covered without holes or overlaps from its first byte to its last.
void check_layout(const std::string& file, const Header& header, uint64_t data_bytes) {
  std::vector<const Entry*> by_offset;
  for (const Entry& entry : header.entries) {
    if (entry.begin > entry.end || entry.end > data_bytes)
      refuse(file, entry,
             "lies at bytes " + std::to_string(entry.begin) + " to " + std::to_string(entry.end) +
                 " of " + std::to_string(data_bytes) +
                 " bytes of data: the file is truncated or the header wrong");
    const uint64_t wanted = bytes_of(file, entry);
    if (entry.end - entry.begin != wanted)
      refuse(file, entry,
             "has " + std::to_string(entry.end - entry.begin) +
                 " bytes; its shape and type ask for " + std::to_string(wanted));
    by_offset.push_back(&entry);
  }
  std::sort(by_offset.begin(), by_offset.end(), [](const Entry* a, const Entry* b) {
    return a->begin != b->begin ? a->begin < b->begin : a->end < b->end;
  });
  uint64_t at = 0;
  for (const Entry* entry : by_offset) {
    if (entry->begin != at)
      refuse(file, *entry,
             "starts at byte " + std::to_string(entry->begin) +
                 " of the data, the one before ends at " + std::to_string(at));
    at = entry->end;
  }
  if (at != data_bytes)
    throw CheckpointError(file + ": " + std::to_string(data_bytes - at) +
                          " bytes after the last tensor belong to none");
}

using ReadAt = std::function<void(uint64_t offset, void* to, size_t count)>;

SafetensorsFile read_all_tensors(const std::string& file, uint64_t size, const ReadAt& read_at) {
  if (size < 8)
    throw CheckpointError(file + ": " + std::to_string(size) +
                          " bytes are too few for a safetensors file");
  uint64_t length = 0;
  read_at(0, &length, 8);
  if (length > max_header_bytes)
    throw CheckpointError(file + ": the header claims " + std::to_string(length) +
                          " bytes, at most 100000000 are allowed: not a safetensors file?");
  if (length > size - 8)
    throw CheckpointError(file + ": the header claims " + std::to_string(length) +
                          " bytes, the file has " + std::to_string(size - 8) + ": truncated");
  std::string text(size_t(length), '\0');
  read_at(8, text.data(), text.size());
  if (text.empty() || text[0] != '{')
    throw CheckpointError(file + ": the header does not start with '{': not a safetensors file");
  Header header;
  HeaderReader reader(file, header);
  nlohmann::json::sax_parse(text, &reader);
  check_layout(file, header, size - 8 - length);

  SafetensorsFile result;
  result.metadata = std::move(header.metadata);
  for (const Entry& entry : header.entries) {
    Tensor tensor = Tensor::empty(Shape(entry.shape), entry.type);
    if (tensor.bytes()) read_at(8 + length + entry.begin, tensor.raw(), tensor.bytes());
    result.tensors.emplace_back(entry.name, std::move(tensor));
  }
  return result;
}

std::vector<const Tensor*> by_falling_element_size(const NamedTensors& tensors) {
  std::vector<const Tensor*> order;
  for (const auto& [name, tensor] : tensors) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(), [](const Tensor* a, const Tensor* b) {
    return size_of(a->dtype()) > size_of(b->dtype());
  });
  return order;
}

std::string header_text(const std::string& path, const NamedTensors& tensors,
                        const std::vector<const Tensor*>& order, const Metadata& metadata) {
  std::unordered_map<const Tensor*, uint64_t> begin;
  uint64_t at = 0;
  for (const Tensor* tensor : order) {
    begin[tensor] = at;
    at += tensor->bytes();
  }
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[metadata_key] = metadata;
  std::string text;
  try {
    text = header.dump();
    text.pop_back();
    for (const auto& [name, tensor] : tensors) {
      // Put together here: ordered_json looks for each key along the whole list.
      if (text.size() > 1) text += ',';
      text += nlohmann::json(name).dump() + ":{\"dtype\":\"" + format_name(tensor.dtype()) +
              "\",\"shape\":" + nlohmann::json(tensor.shape().vector()).dump() +
              ",\"data_offsets\":[" + std::to_string(begin[&tensor]) + "," +
              std::to_string(begin[&tensor] + tensor.bytes()) + "]}";
    }
  } catch (const nlohmann::json::exception&) {
    throw CheckpointError("cannot write " + path + ": a tensor name or the metadata is not UTF-8");
  }
  text += '}';
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data starts aligned
  if (text.size() > max_header_bytes)
    throw CheckpointError("cannot write " + path + ": the header would have " +
                          std::to_string(text.size()) + " bytes, at most 100000000 are allowed");
  return text;
}

}  // namespace

const Tensor* SafetensorsFile::find(const std::string& name) const {
  for (const auto& [key, tensor] : tensors)
    if (key == name) return &tensor;
  return nullptr;
}

files::Stamp write_safetensors(const std::string& path, const NamedTensors& tensors,
                               const Metadata& metadata) {
  std::unordered_set<std::string> names;
  for (const auto& [name, tensor] : tensors) {
    if (!tensor.defined())
      throw CheckpointError("cannot write " + path + ": tensor " + in_quotes(name) +
                            " is undefined");
    if (name == metadata_key || !names.insert(name).second)
      throw CheckpointError("cannot write " + path + ": the tensor name " + in_quotes(name) +
                            (name == metadata_key ? " is reserved" : " occurs twice"));
  }
  const auto order = by_falling_element_size(tensors);
  const std::string header = header_text(path, tensors, order, metadata);
  const uint64_t length = header.size();
  files::OutputFile file(path);
  file.write(&length, 8);
  file.write(header);
  for (const Tensor* tensor : order) file.write(tensor->raw(), tensor->bytes());
  return file.commit();
}

SafetensorsFile read_safetensors(const std::string& path) {
  const files::InputFile file(path);
  return read_all_tensors(path, file.size(), [&](uint64_t offset, void* to, size_t count) {
    file.read(offset, to, count);
  });
}

SafetensorsFile parse_safetensors(std::string_view bytes, const std::string& name) {
  return read_all_tensors(name, bytes.size(), [&](uint64_t offset, void* to, size_t count) {
    memcpy(to, bytes.data() + offset, count);
  });
}

}  // namespace qt
