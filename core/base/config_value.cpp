// core/base/config_value.cpp -- strict reading, checking and printing of single config values.
#include "core/base/config_value.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>

namespace qt {
namespace {

std::string bounds_text(const Check& check) {
  const auto number = [](double x) { return fmt::format("{}", x); };
  if (check.least && check.most)
    return " in " + std::string(check.above_least ? "(" : "[") + number(*check.least) + ", " +
           number(*check.most) + (check.below_most ? ")" : "]");
  if (check.least)
    return (check.above_least ? " greater than " : " of at least ") + number(*check.least);
  if (check.most) return (check.below_most ? " less than " : " of at most ") + number(*check.most);
  return "";
}

std::string count_text(const Check& check) {
  const bool bounded = check.max_count != std::numeric_limits<size_t>::max();
  if (bounded && check.min_count == check.max_count) return fmt::format("{} ", check.min_count);
  if (bounded) return fmt::format("{} to {} ", check.min_count, check.max_count);
  return check.min_count ? fmt::format("at least {} ", check.min_count) : "";
}

std::string scalar_allowed(const ValueType& type, const Check& check) {
  if (check.names) return "one of: " + join(check.names());
  switch (type.kind) {
    case ScalarKind::boolean: return "true or false";
    case ScalarKind::integer: return "an integer" + bounds_text(check);
    case ScalarKind::number: return "a number" + bounds_text(check);
    case ScalarKind::text: return "text";
  }
  return "";
}

bool within(const Check& check, const ConfigScalar& scalar) {
  if (check.names) {
    const auto names = check.names();
    return std::find(names.begin(), names.end(), std::get<std::string>(scalar)) != names.end();
  }
  if (!check.least && !check.most) return true;
  const double x = std::holds_alternative<int64_t>(scalar) ? double(std::get<int64_t>(scalar))
                                                           : std::get<double>(scalar);
  if (check.least && (check.above_least ? !(x > *check.least) : !(x >= *check.least))) return false;
  return !(check.most && (check.below_most ? !(x < *check.most) : !(x <= *check.most)));
}

// What a failed check wants: "a value in [2, 8]" where the type was right.
std::string value_allowed(const ValueType& type, const Check& check) {
  return check.names ? scalar_allowed(type, check) : "a value" + bounds_text(check);
}

// A scalar or the reason why not; hint is said behind what is wanted.
struct Reading {
  std::optional<ConfigScalar> scalar;
  std::string hint;
  std::string reason;  // replaces "got ..., want ..."
};

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

std::string lower(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c;
  return text;
}

// Why digits (without sign) that are a number to other readers are none here; "" where nothing is
// known.
std::string hint_for(const std::string& digits) {
  const bool zero = digits.size() > 1 && digits[0] == '0';
  if (zero &&
      std::all_of(digits.begin(), digits.end(), [](char c) { return is_digit(c) || c == '_'; }))
    return "without leading zeros (YAML 1.1 reads them as octal)";
  if (zero && (digits[1] == 'x' || digits[1] == 'o' || digits[1] == 'b')) return "in decimal";
  const std::string word = lower(digits[0] == '.' ? digits.substr(1) : digits);
  return word == "nan" || word == "inf" || word == "infinity" ? "that is finite" : "";
}

// text without its sign; "" where nothing but a sign is there.
std::string unsigned_part(const std::string& text) {
  return text.substr(!text.empty() && (text[0] == '+' || text[0] == '-'));
}

Reading read_integer(const std::string& text, const ValueType& type) {
  const std::string digits = unsigned_part(text);
  if (digits.empty()) return {};
  const std::string hint = hint_for(digits);
  if (!hint.empty() || !std::all_of(digits.begin(), digits.end(), is_digit)) return {{}, hint, ""};
  int64_t value = 0;
  const auto result =
      std::from_chars(text.data() + (text[0] == '+'), text.data() + text.size(), value);
  const bool fits = !type.narrow || (value >= INT32_MIN && value <= INT32_MAX);
  if (result.ec != std::errc{} || !fits)
    return {{}, type.narrow ? "that fits 32 bits" : "that fits 64 bits", ""};
  return {ConfigScalar(value), "", ""};
}

Reading read_number(const std::string& text, const ValueType& type) {
  const std::string digits = unsigned_part(text);
  if (digits.empty()) return {};
  const std::string hint = hint_for(digits);
  if (!hint.empty() || !(is_digit(digits[0]) || digits[0] == '.')) return {{}, hint, ""};
  double value = 0;
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data() + (text[0] == '+'), end, value);
  if (result.ec == std::errc::invalid_argument || result.ptr != end) return {};
  if (type.narrow) value = double(float(value));
  if (result.ec != std::errc{} || !std::isfinite(value))
    return {{}, type.narrow ? "that fits a float" : "that fits a double", ""};
  return {ConfigScalar(value), "", ""};
}

Reading read_boolean(const std::string& text) {
  if (text == "true" || text == "false") return {ConfigScalar(text == "true"), "", ""};
  return {};
}

Reading read_text(const std::string& text) {
  std::string expanded, error;
  if (!expand_environment(text, expanded, error)) return {{}, "", error};
  return {ConfigScalar(expanded), "", ""};
}

Reading read_scalar(const yaml::Node& node, const ValueType& type) {
  if (type.kind == ScalarKind::text) return read_text(node.text);
  if (node.quoted) return {{}, "without quotes", ""};
  switch (type.kind) {
    case ScalarKind::boolean: return read_boolean(node.text);
    case ScalarKind::integer: return read_integer(node.text, type);
    default: return read_number(node.text, type);
  }
}

std::string came(const yaml::Node& node) {
  switch (node.kind) {
    case yaml::NodeKind::null: return "nothing (null)";
    case yaml::NodeKind::list: return "a list";
    case yaml::NodeKind::map: return "a mapping";
    case yaml::NodeKind::scalar: break;
  }
  constexpr size_t kLongest = 60;
  if (node.text.size() <= kLongest) return fmt::format("'{}'", node.text);
  size_t cut = kLongest;
  while (cut > 0 && (node.text[cut] & 0xC0) == 0x80) --cut;
  return fmt::format("'{}...'", node.text.substr(0, cut));
}

// A node standing for one scalar: alone, or an element of a list.
std::optional<ConfigScalar> read_one(const yaml::Node& node, const yaml::Place& place,
                                     const ValueType& type, const Check& check,
                                     const std::string& path,
                                     std::vector<yaml::Problem>& problems) {
  const std::string or_null = type.optional && !type.list ? " or null" : "";
  if (node.kind != yaml::NodeKind::scalar) {
    yaml::add_problem(
        problems, place,
        path + ": got " + came(node) + ", want " + scalar_allowed(type, check) + or_null);
    return {};
  }
  const Reading reading = read_scalar(node, type);
  if (reading.scalar && within(check, *reading.scalar)) return reading.scalar;
  yaml::Problem problem{place, path + ": ", "", ""};
  if (!reading.reason.empty()) {
    problem.message += reading.reason;
  } else {
    problem.message += "got " + came(node) + ", want " +
                       (reading.scalar ? value_allowed(type, check) : scalar_allowed(type, check)) +
                       or_null + (reading.hint.empty() ? "" : ", " + reading.hint);
    if (check.names) {
      const std::string near = nearest(node.text, check.names());
      if (!near.empty()) problem.suggestion = "did you mean '" + near + "'?";
    }
  }
  problems.push_back(problem);
  return {};
}

// Whether YAML readers take text for text without quotes.
bool plain_safe(const std::string& text) {
  static const std::array<std::string, 10> words{"null", "true", "false", "yes", "no",
                                                 "on",   "off",  "none",  "y",   "n"};
  const auto starts = [](char c) { return is_letter(c) || c == '/'; };
  const auto goes_on = [&](char c) {
    return starts(c) || is_digit(c) || c == '.' || c == '+' || c == '-';
  };
  return !text.empty() && text.size() < 200 && starts(text[0]) &&
         std::all_of(text.begin(), text.end(), goes_on) &&
         std::find(words.begin(), words.end(), lower(text)) == words.end();
}

std::string print_scalar(const ConfigScalar& scalar, const ValueType& type) {
  if (const bool* flag = std::get_if<bool>(&scalar)) return *flag ? "true" : "false";
  if (const int64_t* integer = std::get_if<int64_t>(&scalar)) return std::to_string(*integer);
  if (const double* number = std::get_if<double>(&scalar))
    return type.narrow ? fmt::format("{}", float(*number)) : fmt::format("{}", *number);
  std::string escaped;  // `${` would be read as an environment variable
  const std::string& text = std::get<std::string>(scalar);
  for (size_t i = 0; i < text.size(); ++i) {
    if (text.compare(i, 2, "${") == 0) escaped += '$';
    escaped += text[i];
  }
  // "none" in quotes would be safe, but is how a kind that does nothing is commonly written.
  return escaped == "none" && !type.optional ? escaped : print_text(escaped);
}

}  // namespace

std::string join(const std::vector<std::string>& names) {
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "" : ", ") + name;
  return out;
}

// Optimal string alignment distance: insertion, deletion, substitution, swap of neighbours.
static size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i)
    for (size_t j = 1; j <= b.size(); ++j) {
      d[i][j] =
          std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  return d[a.size()][b.size()];
}

std::string nearest(const std::string& name, const std::vector<std::string>& names) {
  constexpr size_t kLongest = 64;
  if (name.size() > kLongest) return "";
  std::string best;
  size_t best_distance = std::clamp<size_t>(name.size() / 3, 1, 3) + 1;
  for (const std::string& candidate : names) {
    if (candidate.size() > kLongest) continue;
    const size_t distance = edit_distance(name, candidate);
    if (distance < best_distance && distance < candidate.size())
      best = candidate, best_distance = distance;
  }
  return best;
}

bool expand_environment(const std::string& text, std::string& expanded, std::string& error) {
  const auto valid = [](const std::string& name) {
    return !name.empty() && !is_digit(name[0]) && std::all_of(name.begin(), name.end(), [](char c) {
      return is_digit(c) || is_letter(c);
    });
  };
  for (size_t i = 0; i < text.size();) {
    if (text.compare(i, 3, "$${") == 0) {
      expanded += "${";
      i += 3;
    } else if (text.compare(i, 2, "${") == 0) {
      const size_t end = text.find('}', i);
      const std::string name =
          end == std::string::npos ? text.substr(i + 2) : text.substr(i + 2, end - i - 2);
      if (end == std::string::npos || !valid(name)) {
        error = "'${" + name.substr(0, 40) + "' is not ${NAME}; write $${ for a plain ${";
        return false;
      }
      const char* value = std::getenv(name.c_str());
      if (!value) {
        error = "environment variable '" + name + "' is not set";
        return false;
      }
      expanded += value;
      i = end + 1;
    } else {
      expanded += text[i++];
    }
  }
  return true;
}

std::optional<ConfigValue> read_value(const yaml::Node& node, const yaml::Place& key_place,
                                      const ValueType& type, const Check& check,
                                      const std::string& path,
                                      std::vector<yaml::Problem>& problems) {
  const yaml::Place& place = node.kind == yaml::NodeKind::null ? key_place : node.place;
  if (type.optional && (node.kind == yaml::NodeKind::null || (node.kind == yaml::NodeKind::scalar &&
                                                              node.text == "none" && !node.quoted)))
    return ConfigValue{};
  if (!type.list) {
    const auto scalar = read_one(node, place, type, check, path, problems);
    return scalar ? std::optional<ConfigValue>({*scalar}) : std::nullopt;
  }
  if (node.kind != yaml::NodeKind::list || node.elements.size() < check.min_count ||
      node.elements.size() > check.max_count) {
    const std::string got = node.kind == yaml::NodeKind::list
                                ? fmt::format("{} elements", node.elements.size())
                                : came(node);
    yaml::add_problem(problems, place,
                      path + ": got " + got + ", want " + describe_allowed(type, check));
    return {};
  }
  ConfigValue value;
  bool good = true;
  for (size_t i = 0; i < node.elements.size(); ++i) {
    const yaml::Node& element = *node.elements[i];
    const auto scalar =
        read_one(element, element.place, type, check, fmt::format("{}[{}]", path, i), problems);
    good = good && scalar;
    if (scalar) value.push_back(*scalar);
  }
  return good ? std::optional<ConfigValue>(value) : std::nullopt;
}

std::string describe_type(const ValueType& type) {
  static const std::array<std::string, 4> one{"true or false", "integer", "number", "text"};
  static const std::array<std::string, 4> many{"true or false", "integers", "numbers", "texts"};
  return (type.list ? "list of " + many[size_t(type.kind)] : one[size_t(type.kind)]) +
         (type.optional ? " or null" : "");
}

std::string describe_allowed(const ValueType& type, const Check& check) {
  if (!type.list) return scalar_allowed(type, check) + (type.optional ? " or null" : "");
  static const std::array<std::string, 4> many{"true or false", "integers", "numbers", "texts"};
  const std::string elements = check.names ? "names, each " + scalar_allowed(type, check)
                                           : many[size_t(type.kind)] + bounds_text(check);
  return "a list of " + count_text(check) + elements;
}

std::string print_text(const std::string& text) {
  if (plain_safe(text)) return text;
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (c == '\n')
      out += "\\n";
    else if (c == '\t')
      out += "\\t";
    else if (uint8_t(c) < 0x20 || c == 0x7F)
      out += fmt::format("\\x{:02x}", int(c));
    else
      out += c;
  }
  return out + "\"";
}

std::string print_value(const ConfigValue& value, const ValueType& type) {
  if (!type.list) return value.empty() ? "null" : print_scalar(value[0], type);
  std::string out;
  for (const ConfigScalar& scalar : value)
    out += (out.empty() ? "" : ", ") + print_scalar(scalar, type);
  return "[" + out + "]";
}

void check_value(const KeyBase& key, const ConfigValue& value) {
  const ValueType& type = key.type();
  const Check& check = key.check();
  const bool counted =
      !type.list || (value.size() >= check.min_count && value.size() <= check.max_count);
  const bool finite = std::all_of(value.begin(), value.end(), [](const ConfigScalar& scalar) {
    const double* number = std::get_if<double>(&scalar);
    return !number || std::isfinite(*number);
  });
  if (counted && finite && std::all_of(value.begin(), value.end(), [&](const ConfigScalar& s) {
        return within(check, s);
      }))
    return;
  throw ConfigError(key.path() + ": got '" + print_value(value, type) + "', want " +
                    describe_allowed(type, check));
}

Check range(double lo, double hi) {
  Check check;
  check.least = lo, check.most = hi;
  return check;
}
Check half_open(double lo, double hi) {
  Check check = range(lo, hi);
  check.below_most = true;
  return check;
}
Check at_least(double lo) {
  Check check;
  check.least = lo;
  return check;
}
Check greater_than(double lo) {
  Check check = at_least(lo);
  check.above_least = true;
  return check;
}
Check one_of_names(std::function<std::vector<std::string>()> names) {
  Check check;
  check.names = std::move(names);
  return check;
}

}  // namespace qt
