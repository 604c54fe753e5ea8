// core/base/text.h -- whether bytes are text that people, JSON and terminals can read.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

namespace qt {

// Length of the well-formed UTF-8 sequence at text[i], 0 where there is none (RFC 3629).
size_t utf8_length(std::string_view text, size_t i);

// text with '?' for each byte that is not of a well-formed UTF-8 sequence or is a control character
// (a line break too): what it equals is one line of text.
std::string one_line(std::string_view text);

// 'text' on one line, cut where it is long: a name that a file gives, for a message.
std::string in_quotes(std::string_view text);

}  // namespace qt
