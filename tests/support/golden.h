// tests/support/golden.h -- tensors of the golden files in tests/golden.
#pragma once
#include <stdexcept>
#include <string>

#include "core/tensor/safetensors.h"
#include "tests/support/places.h"

namespace qt {

class Golden {
 public:
  explicit Golden(const std::string& name)
      : file_(read_safetensors(source_folder() + "/tests/golden/" + name)) {}
  // Throws where the file has no such tensor.
  const Tensor& operator[](const std::string& name) const {
    const Tensor* t = file_.find(name);
    if (!t) throw std::runtime_error("the golden file has no tensor " + name);
    return *t;
  }
  bool has(const std::string& name) const { return file_.find(name); }
  const NamedTensors& tensors() const { return file_.tensors; }

 private:
  SafetensorsFile file_;
};

}  // namespace qt
