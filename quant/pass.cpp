// quant/pass.cpp -- names of forward modes, and the search for constants that are not finite.
#include "quant/pass.h"

#include <cmath>

namespace qt {

ForwardMode forward_mode(const std::string& name) {
  for (const ForwardMode mode :
       {ForwardMode::float32, ForwardMode::int8, ForwardMode::exact_float, ForwardMode::fake_quant})
    if (name == name_of(mode)) return mode;
  throw ConfigError("unknown forward mode '" + name +
                    "'; known: float, int8, exact_float, fake_quant");
}

const char* name_of(ForwardMode mode) {
  switch (mode) {
    case ForwardMode::float32: return "float";
    case ForwardMode::int8: return "int8";
    case ForwardMode::exact_float: return "exact_float";
    default: return "fake_quant";
  }
}

std::string Health::first_bad() {
  std::string bad;
  for (const auto& [name, constants] : watched_) {
    const float* values = constants.data<float>();
    for (int64_t i = 0; bad.empty() && i < constants.elements(); ++i)
      if (!std::isfinite(values[i])) bad = name;
  }
  watched_.clear();
  return bad;
}

}  // namespace qt
