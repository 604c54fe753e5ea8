// deploy/compare.cpp -- element by element comparison of two runs.
#include "deploy/compare.h"

#include <bit>
#include <map>

namespace qt {
namespace {

void note(CodeDifference& difference, const std::string& layer, int64_t element, double a,
          double b) {
  if (difference.equal)
    difference = {false, layer, element, a, b, difference.differing, difference.compared};
  if (element >= 0) ++difference.differing;
}

template <class T, class Same>
void compare_elements(CodeDifference& difference, const std::string& layer, const Tensor& a,
                      const Tensor& b, Same same) {
  if (!a.defined() || !b.defined() || a.shape() != b.shape())
    return note(difference, layer, -1, 0, 0);
  const T* left = a.data<T>();
  const T* right = b.data<T>();
  difference.compared += a.elements();
  for (int64_t i = 0; i < a.elements(); ++i)
    if (!same(left[i], right[i])) note(difference, layer, i, double(left[i]), double(right[i]));
}

}  // namespace

CodeDifference compare_codes(const EngineResult& a, const EngineResult& b) {
  CodeDifference difference;
  std::map<std::string, const Tensor*> by_name;
  for (const auto& [name, codes] : b.codes) by_name[name] = &codes;
  for (const auto& [name, codes] : a.codes) {
    const auto other = by_name.find(name);
    if (other == by_name.end()) {
      note(difference, name, -1, 0, 0);
      continue;
    }
    compare_elements<int8_t>(difference, name, codes, *other->second,
                             [](int8_t x, int8_t y) { return x == y; });
    by_name.erase(other);
  }
  for (const auto& [name, codes] : by_name) note(difference, name, -1, 0, 0);
  if (a.codes.empty() && b.codes.empty()) note(difference, "(no codes were kept)", -1, 0, 0);
  compare_elements<float>(difference, "logits", a.logits, b.logits, [](float x, float y) {
    return std::bit_cast<uint32_t>(x) == std::bit_cast<uint32_t>(y);
  });
  return difference;
}

std::string CodeDifference::text() const {
  if (equal) return std::to_string(compared) + " elements, all equal";
  if (element < 0) return layer + " is missing in one run or has another shape";
  return layer + " differs first at element " + std::to_string(element) + " (" + std::to_string(a) +
         " and " + std::to_string(b) + "); " + std::to_string(differing) + " of " +
         std::to_string(compared) + " elements differ";
}

}  // namespace qt
