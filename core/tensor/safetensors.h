// core/tensor/safetensors.h -- named tensors in one file, in the format of huggingface/safetensors.
//
// u64le N (at most 100,000,000), N bytes of JSON, data. The header keeps the order of the list; the
// data lies by falling element size, so that every tensor is aligned; the same list gives the same
// bytes. Element types: F32, BF16, I32, I64, I8, U8. A tensor's scale is not stored: quantizer
// steps are tensors of their own.
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/files.h"
#include "core/tensor/tensor.h"

namespace qt {

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;
using Metadata = std::map<std::string, std::string>;

struct SafetensorsFile {
  NamedTensors tensors;  // in the order of the header
  Metadata metadata;
  const Tensor* find(const std::string& name) const;  // null where there is none
};

// Atomic and synced. CheckpointError for an undefined tensor, a name that is taken twice, not UTF-8
// or "__metadata__", and for everything that the file system refuses.
files::Stamp write_safetensors(const std::string& path, const NamedTensors& tensors,
                               const Metadata& metadata = {});

// CheckpointError, naming the file, the tensor and the cause, for anything but a well-formed file:
// truncated, trailing bytes, holes, overlaps, sizes that do not fit shape and type, unknown types
// or keys, duplicate keys, more than five dimensions. Memory is bounded by a small multiple of the
// file's size, whatever the header claims.
SafetensorsFile read_safetensors(const std::string& path);
SafetensorsFile parse_safetensors(std::string_view bytes,
                                  const std::string& name);  // the same, from memory

}  // namespace qt
