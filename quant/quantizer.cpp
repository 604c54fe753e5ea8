// quant/quantizer.cpp -- code ranges and making a quantizer by name.
#include "quant/quantizer.h"

#include <algorithm>

#include "core/device/stream.h"

namespace qt {

Tensor floor_of_step(const Tensor& values) {
  const UseStream host(Stream{});
  const float* first = values.data<float>();
  return Tensor::full({1}, *std::min_element(first, first + values.elements()) / 1000);
}

int QuantSpec::hi() const {
  if (is_signed) return (1 << (bits - 1)) - 1;
  return bits == 8 && !unsigned_full ? 127 : (1 << bits) - 1;
}

int QuantSpec::lo() const {
  if (!is_signed) return 0;
  return narrow ? -hi() : -hi() - 1;
}

std::unique_ptr<Quantizer> make_quantizer(const QuantSpec& spec, int64_t channels) {
  if (spec.bits < 2 || spec.bits > 8)
    throw ConfigError("a quantizer of " + std::to_string(spec.bits) + " bits; allowed: 2 to 8");
  return QuantizerRegistry::make("quantizer", spec.kind, spec, channels);
}

}  // namespace qt
