// core/base/json_fields.h -- the values of one JSON object of a file, with errors that name the
// key.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

namespace qt {

// Every error is a CheckpointError: "<where> has 'padding' 1.5, wanted an integer". `where` names
// the file, and what of it the object is.
class JsonFields {
 public:
  using Json = nlohmann::ordered_json;

  // Requires: json outlives the object, and is one ("discarded" is refused as well).
  JsonFields(const Json& json, const std::string& where);
  [[noreturn]] void refuse(const std::string& cause) const;  // "<where> <cause>"

  bool has(const std::string& key) const { return json_.contains(key); }
  const Json& get(const std::string& key);
  int64_t integer(const std::string& key, int64_t least = INT64_MIN, int64_t most = INT64_MAX);
  double number(const std::string& key);
  bool boolean(const std::string& key);
  std::string text(const std::string& key);
  std::vector<int64_t> integers(const std::string& key, size_t most);  // at most so many
  std::array<double, 3> three_numbers(const std::string& key);
  std::vector<std::string> texts(const std::string& key);
  std::map<std::string, std::string> texts_by_name(const std::string& key);
  // Refuses keys that were not asked for.
  void no_others() const;

 private:
  [[noreturn]] void unexpected(const std::string& key, const std::string& wanted) const;

  const Json& json_;
  std::string where_;
  std::set<std::string> asked_;
};

}  // namespace qt
