// core/base/config.h -- config keys: one declaration gives parser, default, check, help, JSON
// Schema, dump and docs.
//
//   struct WeightConfig : Section {
//     using Section::Section;
//     Key<int> bits{this, "bits", 8, range(2, 8), "width of a code"};
//     Key<std::string> kind{this, "kind", "lsq", any(), "quantizer"};
//   };
//   struct LayerConfig : Section {
//     using Section::Section;
//     WeightConfig weights{this, "weights", "how weights are quantized"};
//   };
//   struct Config : Section {
//     LayerConfig quant{this, "quant", "quantization"};
//     SectionMap<LayerConfig> overrides{this, "overrides", "by layer name"};
//   };
//
//   Config config;
//   load_config(config, "configs/x.yaml", {"quant.weights.bits=4"});  // ConfigError: all mistakes
//   const int bits = config.quant.weights.bits;
#pragma once
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <limits>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "core/base/error.h"

namespace qt {

// ---- values, types and checks, free of templates so that config*.cpp holds the work ----

using ConfigScalar = std::variant<bool, int64_t, double, std::string>;
// A plain key holds exactly one scalar, an optional key none (null) or one, a list any number.
using ConfigValue = std::vector<ConfigScalar>;

enum class ScalarKind { boolean, integer, number, text };
struct ValueType {
  ScalarKind kind = ScalarKind::text;
  bool list = false;
  bool optional = false;
  bool narrow = false;  // int rather than int64_t, float rather than double
};

// What a key allows beyond its type; for a list it holds for each element.
struct Check {
  std::optional<double> least, most;
  bool above_least = false;  // least itself is refused
  bool below_most = false;   // most itself is refused
  std::function<std::vector<std::string>()>
      names;  // called when a config is read, not when a key is declared
  size_t min_count = 0, max_count = std::numeric_limits<size_t>::max();  // of a list

  // The same check for a list of lo to hi elements.
  Check count(size_t lo, size_t hi) const {
    Check check = *this;
    check.min_count = lo, check.max_count = hi;
    return check;
  }
};

Check range(double lo, double hi);      // lo <= x <= hi
Check half_open(double lo, double hi);  // lo <= x < hi
Check at_least(double lo);              // x >= lo
Check greater_than(double lo);          // x > lo
Check one_of_names(std::function<std::vector<std::string>()> names);
template <class... Names>
Check one_of(Names... names) {
  return one_of_names([list = std::vector<std::string>{names...}] { return list; });
}
template <class T = void>
Check any() {
  return {};
}

// ---- the tree of declarations ----

class Section;

// A key, a section, or a map of sections. Known by address, so neither copied nor moved.
class ConfigEntry {
 public:
  virtual ~ConfigEntry() = default;
  ConfigEntry(const ConfigEntry&) = delete;
  ConfigEntry& operator=(const ConfigEntry&) = delete;

  const std::string& name() const { return name_; }
  const std::string& help() const { return help_; }
  std::string path()
      const;  // "quant.weights.bits"; names with dots are quoted: overrides."layer4.*".bits

 protected:
  ConfigEntry() = default;
  ConfigEntry(Section* owner, std::string name, std::string help);

 private:
  friend class SectionMapBase;
  const ConfigEntry* parent_ = nullptr;
  std::string name_, help_;
};

// Collects what Section::check finds wrong.
class ConfigProblems {
 public:
  virtual ~ConfigProblems() = default;
  // The message follows "file:line:column: error: path: " of where the entry was set.
  virtual void add(const ConfigEntry& entry, const std::string& message) = 0;
};

class Section : public ConfigEntry {
 public:
  Section() = default;  // the root, or an element of a SectionMap
  Section(Section* parent, std::string name, std::string help)
      : ConfigEntry(parent, std::move(name), std::move(help)) {}

  // Rules that span several keys; called after every key has been read and found good by itself.
  virtual void check(ConfigProblems&) const {}

  const std::vector<ConfigEntry*>& entries() const { return entries_; }  // in order of declaration
  bool is_set() const;                                                   // whether any key below is

 private:
  friend class ConfigEntry;
  std::vector<ConfigEntry*> entries_;
};

class KeyBase : public ConfigEntry {
 public:
  const ValueType& type() const { return type_; }
  const Check& check() const { return check_; }
  bool is_set() const { return !origin_.empty(); }  // by a file, an override, or set()
  const std::string& origin() const {
    return origin_;
  }  // "file:line:column", "command line, argument 3"
  virtual ConfigValue value() const = 0;
  virtual ConfigValue default_value() const = 0;
  // Takes a value already checked; an empty origin marks the key as not set.
  void assign(const ConfigValue& value, const std::string& origin);

 protected:
  KeyBase(Section* owner, std::string name, ValueType type, Check check, std::string help)
      : ConfigEntry(owner, std::move(name), std::move(help)),
        type_(type),
        check_(std::move(check)) {}
  virtual void store(const ConfigValue& value) = 0;

 private:
  ValueType type_;
  Check check_;
  std::string origin_;
};

// ConfigError unless value passes the key's check.
void check_value(const KeyBase& key, const ConfigValue& value);

// ---- from T to ConfigValue and back ----

template <class T>
struct KeyTraits;
template <class T, class Stored, ScalarKind kind_value, bool narrow_value>
struct ScalarTraits {
  static ValueType type() { return {kind_value, false, false, narrow_value}; }
  static ConfigValue to(const T& value) { return {ConfigScalar(Stored(value))}; }
  static T from(const ConfigValue& value) { return T(std::get<Stored>(value.at(0))); }
};
template <>
struct KeyTraits<bool> : ScalarTraits<bool, bool, ScalarKind::boolean, false> {};
template <>
struct KeyTraits<int> : ScalarTraits<int, int64_t, ScalarKind::integer, true> {};
template <>
struct KeyTraits<int64_t> : ScalarTraits<int64_t, int64_t, ScalarKind::integer, false> {};
template <>
struct KeyTraits<float> : ScalarTraits<float, double, ScalarKind::number, true> {};
template <>
struct KeyTraits<double> : ScalarTraits<double, double, ScalarKind::number, false> {};
template <>
struct KeyTraits<std::string> : ScalarTraits<std::string, std::string, ScalarKind::text, false> {};
template <class T>
struct KeyTraits<std::optional<T>> {
  static ValueType type() {
    ValueType type = KeyTraits<T>::type();
    type.optional = true;
    return type;
  }
  static ConfigValue to(const std::optional<T>& v) {
    return v ? KeyTraits<T>::to(*v) : ConfigValue{};
  }
  static std::optional<T> from(const ConfigValue& v) {
    return v.empty() ? std::nullopt : std::optional<T>(KeyTraits<T>::from(v));
  }
};
template <class T>
struct KeyTraits<std::vector<T>> {
  static ValueType type() {
    ValueType type = KeyTraits<T>::type();
    type.list = true;
    return type;
  }
  static ConfigValue to(const std::vector<T>& list) {
    ConfigValue value;
    for (const T& element : list) value.push_back(KeyTraits<T>::to(element).at(0));
    return value;
  }
  static std::vector<T> from(const ConfigValue& value) {
    std::vector<T> list;
    for (const ConfigScalar& scalar : value) list.push_back(KeyTraits<T>::from({scalar}));
    return list;
  }
};

// T: bool, int, int64_t, float, double, std::string, std::vector of these, std::optional of these
// (YAML null or none).
template <class T>
class Key final : public KeyBase {
 public:
  Key(Section* owner, std::string name, T value, Check check, std::string help)
      : KeyBase(owner, std::move(name), KeyTraits<T>::type(), std::move(check), std::move(help)),
        value_(value),
        default_(std::move(value)) {}

  const T& get() const { return value_; }
  operator const T&() const { return value_; }
  const T* operator->() const { return &value_; }
  template <class U>
  friend bool operator==(const Key& key, const U& other) {
    return key.value_ == other;
  }

  // From code, e.g. for a command line option; ConfigError unless the check holds.
  void set(const T& value, const std::string& origin = "set by the program") {
    check_value(*this, KeyTraits<T>::to(value));
    assign(KeyTraits<T>::to(value), origin);
  }

  ConfigValue value() const override { return KeyTraits<T>::to(value_); }
  ConfigValue default_value() const override { return KeyTraits<T>::to(default_); }

 private:
  void store(const ConfigValue& value) override { value_ = KeyTraits<T>::from(value); }
  T value_, default_;
};

class SectionMapBase : public ConfigEntry {
 public:
  virtual Section& append(const std::string& key) = 0;
  virtual void clear() = 0;
  virtual std::vector<std::pair<std::string, const Section*>> elements() const = 0;
  virtual std::unique_ptr<Section> make_element() const = 0;

 protected:
  using ConfigEntry::ConfigEntry;
  void adopt(Section& element, const std::string& key) const;
};

// A mapping from any text (a layer name pattern) to sections, in the order of the file:
//   for (const auto& [pattern, section] : config.overrides) ...
// A key of an element overrides only where its is_set() holds.
template <class T>
class SectionMap final : public SectionMapBase {
 public:
  struct Element {
    explicit Element(std::string key) : pattern(std::move(key)) {}
    std::string pattern;
    T section;
  };

  SectionMap(Section* owner, std::string name, std::string help)
      : SectionMapBase(owner, std::move(name), std::move(help)) {}

  auto begin() const { return elements_.begin(); }
  auto end() const { return elements_.end(); }
  size_t size() const { return elements_.size(); }
  bool empty() const { return elements_.empty(); }

  Section& append(const std::string& key) override {
    Element& element = elements_.emplace_back(key);
    adopt(element.section, key);
    return element.section;
  }
  void clear() override { elements_.clear(); }
  std::vector<std::pair<std::string, const Section*>> elements() const override {
    std::vector<std::pair<std::string, const Section*>> list;
    for (const Element& element : elements_) list.emplace_back(element.pattern, &element.section);
    return list;
  }
  std::unique_ptr<Section> make_element() const override { return std::make_unique<T>(); }

 private:
  std::list<Element> elements_;
};

// ---- reading ----

// "quant.weights.bits=4"; the value is YAML. A name with dots is quoted:
// quant.overrides."layer4.*"={...}
struct ConfigOverride {
  std::string text;
  int argument = 0;  // its position on the command line, for messages
};

// Resets root to its defaults, reads the file (and what its `base:` names, relative to the file),
// then the overrides; an empty path means overrides only. `${NAME}` in text values is the
// environment variable, `$${` a plain `${`. Throws one ConfigError with every mistake, each
// "file:line:column: error: ..." with the line, a caret, a suggestion. Limits: 1 MiB a file, depth
// 32, 10,000 nodes. Refused: duplicate keys, a second document, `<<`, tags, 010, tabs. Returns the
// file's text: a pipe can be read only once.
std::string load_config(Section& root, const std::string& path,
                        const std::vector<ConfigOverride>& overrides = {});
// Numbers the arguments 1, 2, ...
void load_config(Section& root, const std::string& path, const std::vector<std::string>& overrides);
void load_config(Section& root, const std::string& path,
                 std::initializer_list<const char*> overrides);
// The same from text; name stands for the file in messages.
void load_config_text(Section& root, const std::string& text, const std::string& name,
                      const std::vector<ConfigOverride>& overrides = {});

// ---- writing ----

enum class DumpStyle { full, minimal };  // minimal: only keys that differ from their defaults
std::string dump(const Section& root,
                 DumpStyle style = DumpStyle::full);  // YAML that load_config reads back
// Every key's path and its value as YAML; of the elements of maps the keys that are set.
std::map<std::string, std::string> values_of(const Section& root);
std::string json_schema(const Section& root, const std::string& title);  // draft-07
std::string explain(const Section& root,
                    const std::string& key_path);    // ConfigError for an unknown key
std::string describe_markdown(const Section& root);  // a table of all keys

}  // namespace qt
