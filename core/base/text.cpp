// core/base/text.cpp -- UTF-8, byte by byte.
#include "core/base/text.h"

#include <cstdint>

namespace qt {

size_t utf8_length(std::string_view text, size_t i) {
  const auto byte = [&](size_t k) { return k < text.size() ? uint8_t(text[k]) : uint8_t{0}; };
  const auto tail = [&](size_t k) { return (byte(k) & 0xC0) == 0x80; };
  const uint8_t first = byte(i), second = byte(i + 1);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return tail(i + 1) ? 2 : 0;
  if ((first & 0xF0) == 0xE0) {
    const bool overlong = first == 0xE0 && second < 0xA0,
               surrogate = first == 0xED && second > 0x9F;
    return tail(i + 1) && tail(i + 2) && !overlong && !surrogate ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const bool overlong = first == 0xF0 && second < 0x90, beyond = first == 0xF4 && second > 0x8F;
    return tail(i + 1) && tail(i + 2) && tail(i + 3) && !overlong && !beyond ? 4 : 0;
  }
  return 0;
}

std::string one_line(std::string_view text) {
  std::string line(text);
  for (size_t i = 0; i < line.size();) {
    const size_t length = utf8_length(text, i);
    const auto byte = uint8_t(text[i]);
    if (length == 0 || byte < 0x20 || byte == 0x7F) line[i] = '?';
    i += length == 0 ? 1 : length;
  }
  return line;
}

std::string in_quotes(std::string_view text) {
  constexpr size_t limit = 200;  // a hostile name can have megabytes
  const std::string line = one_line(text.substr(0, limit));
  return "'" + line + (text.size() > limit ? "..." : "") + "'";
}

}  // namespace qt
