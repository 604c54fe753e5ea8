// core/base/config_value.h -- between YAML text and the values of config keys; shared by the
// config*.cpp files.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "core/base/config.h"
#include "core/base/yaml.h"

namespace qt {

// The value of node, or nothing after adding to problems; path names the key in messages.
std::optional<ConfigValue> read_value(const yaml::Node& node, const yaml::Place& key_place,
                                      const ValueType& type, const Check& check,
                                      const std::string& path,
                                      std::vector<yaml::Problem>& problems);

// `${NAME}` replaced by the environment, `$${` by `${`; false with the reason in error.
bool expand_environment(const std::string& text, std::string& expanded, std::string& error);

// "an integer in [2, 8]", "one of: lsq, none", "a list of numbers greater than 0", "text or null"
std::string describe_allowed(const ValueType& type, const Check& check);
// "integer", "list of text", "number or null"
std::string describe_type(const ValueType& type);

// As read_value reads it back: 8, 1e-05, true, "a b", [1, 2], null.
std::string print_value(const ConfigValue& value, const ValueType& type);
std::string print_text(const std::string& text);  // quoted where YAML needs it

// The nearest of names by edit distance, "" where none is near.
std::string nearest(const std::string& name, const std::vector<std::string>& names);
std::string join(const std::vector<std::string>& names);  // "a, b, c"

}  // namespace qt
