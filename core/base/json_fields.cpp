// core/base/json_fields.cpp -- checks of type and range.
#include "core/base/json_fields.h"

#include <algorithm>

#include "core/base/error.h"

namespace qt {
namespace {

using Json = JsonFields::Json;

bool is_integer(const Json& value) {
  return value.is_number_integer() &&
         !(value.is_number_unsigned() && value.get<uint64_t>() > uint64_t(INT64_MAX));
}
bool is_number(const Json& value) { return value.is_number(); }
bool is_text(const Json& value) { return value.is_string(); }

bool all_are(const Json& values, bool (*wanted)(const Json&)) {
  return std::all_of(values.begin(), values.end(), wanted);
}

}  // namespace

JsonFields::JsonFields(const Json& json, const std::string& where) : json_(json), where_(where) {
  if (!json.is_object()) refuse("is not a JSON object");
}

void JsonFields::refuse(const std::string& cause) const {
  throw CheckpointError(where_ + " " + cause);
}

void JsonFields::unexpected(const std::string& key, const std::string& wanted) const {
  constexpr size_t shown = 40;
  const std::string came =
      json_.at(key).dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, shown);
  refuse("has '" + key + "' " + came + ", wanted " + wanted);
}

const Json& JsonFields::get(const std::string& key) {
  const auto found = json_.find(key);
  if (found == json_.end()) refuse("has no '" + key + "'");
  asked_.insert(key);
  return *found;
}

int64_t JsonFields::integer(const std::string& key, int64_t least, int64_t most) {
  const Json& value = get(key);
  if (!is_integer(value) || value.get<int64_t>() < least || value.get<int64_t>() > most) {
    const bool any = least == INT64_MIN && most == INT64_MAX;
    unexpected(key,
               any ? "an integer"
                   : "an integer from " + std::to_string(least) + " to " + std::to_string(most));
  }
  return value.get<int64_t>();
}

double JsonFields::number(const std::string& key) {
  const Json& value = get(key);
  if (!value.is_number()) unexpected(key, "a number");
  return value.get<double>();
}

bool JsonFields::boolean(const std::string& key) {
  const Json& value = get(key);
  if (!value.is_boolean()) unexpected(key, "true or false");
  return value.get<bool>();
}

std::string JsonFields::text(const std::string& key) {
  const Json& value = get(key);
  if (!value.is_string()) unexpected(key, "a text");
  return value.get<std::string>();
}

std::vector<int64_t> JsonFields::integers(const std::string& key, size_t most) {
  const Json& list = get(key);
  if (!list.is_array() || list.size() > most || !all_are(list, is_integer))
    unexpected(key, "a list of at most " + std::to_string(most) + " integers");
  return list.get<std::vector<int64_t>>();
}

std::array<double, 3> JsonFields::three_numbers(const std::string& key) {
  const Json& list = get(key);
  if (!list.is_array() || list.size() != 3 || !all_are(list, is_number))
    unexpected(key, "a list of three numbers");
  return list.get<std::array<double, 3>>();
}

std::vector<std::string> JsonFields::texts(const std::string& key) {
  const Json& list = get(key);
  if (!list.is_array() || !all_are(list, is_text)) unexpected(key, "a list of texts");
  return list.get<std::vector<std::string>>();
}

std::map<std::string, std::string> JsonFields::texts_by_name(const std::string& key) {
  const Json& all = get(key);
  if (!all.is_object() || !all_are(all, is_text)) unexpected(key, "texts by name");
  return all.get<std::map<std::string, std::string>>();
}

void JsonFields::no_others() const {
  for (const auto& [key, value] : json_.items())
    if (!asked_.contains(key)) refuse("has the unknown key '" + key + "'");
}

}  // namespace qt
