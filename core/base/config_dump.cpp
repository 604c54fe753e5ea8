// core/base/config_dump.cpp -- what the declared keys print: YAML, JSON Schema, explanations and
// the docs table.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>

#include "core/base/config.h"
#include "core/base/config_value.h"

namespace qt {
namespace {

using nlohmann::ordered_json;

// What to print of a key: all of them, those that differ from the default, or (inside a map, where
// setting a key to its default means something) those that are set.
enum class Choice { all, changed, set };

bool chosen(const KeyBase& key, Choice choice) {
  if (choice == Choice::all) return true;
  return choice == Choice::set ? key.is_set() : key.value() != key.default_value();
}

std::string dump_section(const Section& section, Choice choice, int depth) {
  const std::string indent(size_t(depth) * 2, ' ');
  std::string out;
  // A nested block, or {} on the line where there is nothing in it and it must be named all the
  // same.
  const auto nested = [&](const std::string& name, const std::string& body, bool keep) {
    if (!body.empty())
      out += indent + name + ":\n" + body;
    else if (keep)
      out += indent + name + ": {}\n";
  };
  for (const ConfigEntry* entry : section.entries()) {
    if (const auto* key = dynamic_cast<const KeyBase*>(entry)) {
      if (chosen(*key, choice))
        out += indent + key->name() + ": " + print_value(key->value(), key->type()) + "\n";
    } else if (const auto* map = dynamic_cast<const SectionMapBase*>(entry)) {
      const auto elements = map->elements();
      if (elements.empty() && choice != Choice::all) continue;
      if (elements.empty())
        out += indent + map->name() + ": {}\n";
      else
        out += indent + map->name() + ":\n";
      for (const auto& [pattern, element] : elements) {
        const std::string body = dump_section(*element, Choice::set, depth + 2);
        out += indent + "  " + print_text(pattern) + (body.empty() ? ": {}\n" : ":\n" + body);
      }
    } else {
      nested(entry->name(), dump_section(static_cast<const Section&>(*entry), choice, depth + 1),
             choice == Choice::all);
    }
  }
  return out;
}

ordered_json scalar_schema(const ValueType& type, const Check& check) {
  ordered_json schema;
  static const char* const names[] = {"boolean", "integer", "number", "string"};
  schema["type"] = names[size_t(type.kind)];
  if (check.names) schema["enum"] = check.names();
  const auto bound = [&](const char* key, double x) {
    if (type.kind == ScalarKind::integer)
      schema[key] = int64_t(x);
    else
      schema[key] = x;
  };
  if (check.least) bound(check.above_least ? "exclusiveMinimum" : "minimum", *check.least);
  if (check.most) bound(check.below_most ? "exclusiveMaximum" : "maximum", *check.most);
  return schema;
}

ordered_json value_json(const ConfigValue& value, const ValueType& type) {
  const auto one = [&](const ConfigScalar& scalar) {
    const double* number = std::get_if<double>(&scalar);
    // The shortest text that names the float, not the double behind it.
    if (number && type.narrow) return ordered_json(std::stod(fmt::format("{}", float(*number))));
    return std::visit([](const auto& x) { return ordered_json(x); }, scalar);
  };
  if (!type.list) return value.empty() ? ordered_json() : one(value[0]);
  ordered_json list = ordered_json::array();
  for (const ConfigScalar& scalar : value) list.push_back(one(scalar));
  return list;
}

// What a key stands for that is not set: its default or, in an element of a map, nothing.
enum class Unset { is_default, is_nothing };

ordered_json key_schema(const KeyBase& key, Unset unset) {
  const ValueType& type = key.type();
  const Check& check = key.check();
  ordered_json schema = scalar_schema(type, check);
  if (type.list) {
    ordered_json list;
    list["type"] = "array";
    list["items"] = schema;
    if (check.min_count) list["minItems"] = check.min_count;
    if (check.max_count != std::numeric_limits<size_t>::max()) list["maxItems"] = check.max_count;
    schema = list;
  } else if (type.optional) {
    ordered_json either;
    either["anyOf"] = {schema, ordered_json{{"enum", {nullptr, "none"}}}};
    schema = either;
  }
  schema["description"] = key.help();
  if (unset == Unset::is_default) schema["default"] = value_json(key.default_value(), type);
  return schema;
}

ordered_json section_schema(const Section& section, Unset unset) {
  ordered_json schema;
  schema["type"] = "object";
  if (!section.help().empty()) schema["description"] = section.help();
  schema["additionalProperties"] = false;
  schema["properties"] = ordered_json::object();
  for (const ConfigEntry* entry : section.entries()) {
    ordered_json& property = schema["properties"][entry->name()];
    if (const auto* key = dynamic_cast<const KeyBase*>(entry)) {
      property = key_schema(*key, unset);
    } else if (const auto* map = dynamic_cast<const SectionMapBase*>(entry)) {
      property["type"] = "object";
      property["description"] = map->help();
      property["additionalProperties"] = section_schema(*map->make_element(), Unset::is_nothing);
    } else {
      property = section_schema(static_cast<const Section&>(*entry), unset);
    }
  }
  return schema;
}

std::string default_text(const KeyBase& key, Unset unset) {
  return unset == Unset::is_nothing ? "not set" : print_value(key.default_value(), key.type());
}

// '|' would end a cell.
std::string cell(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '|' ? "\\|" : c == '\n' ? " " : std::string{c};
  return out;
}

void table_rows(const Section& section, const std::string& above, Unset unset, std::string& out) {
  for (const ConfigEntry* entry : section.entries()) {
    const std::string path = above + entry->name();
    if (const auto* key = dynamic_cast<const KeyBase*>(entry)) {
      const std::string usual = cell(default_text(*key, unset));
      out += fmt::format("| `{}` | {} | {} | {} |\n", path,
                         cell(describe_allowed(key->type(), key->check())),
                         unset == Unset::is_nothing ? usual : "`" + usual + "`", cell(key->help()));
    } else if (const auto* map = dynamic_cast<const SectionMapBase*>(entry)) {
      out += fmt::format("| `{}` | a mapping | `{{}}` | {} |\n", path, cell(map->help()));
      // An element repeats sections that stand in the table already; its own keys are listed under
      // the pattern.
      table_rows(*map->make_element(), path + ".PATTERN.", Unset::is_nothing, out);
    } else {
      const auto& child = static_cast<const Section&>(*entry);
      out += fmt::format("| **`{}`** | | | {} |\n", path, cell(child.help()));
      table_rows(child, path + ".", unset, out);
    }
  }
}

std::vector<std::string> child_names(const Section& section) {
  std::vector<std::string> names;
  for (const ConfigEntry* entry : section.entries()) names.push_back(entry->name());
  return names;
}

std::string explain_section(const Section& section, const std::string& path) {
  std::string out = (path.empty() ? "all keys" : path) +
                    (section.help().empty() ? "" : ": " + section.help()) + "\n";
  for (const ConfigEntry* entry : section.entries())
    out += "  " + entry->name() + ": " + entry->help() + "\n";
  return out;
}

std::string explain_key(const KeyBase& key, const std::string& path, Unset unset) {
  std::string out = path + ": " + key.help() + "\n";
  out += "  type:    " + describe_type(key.type()) + "\n";
  out += "  allowed: " + describe_allowed(key.type(), key.check()) + "\n";
  out += "  default: " + default_text(key, unset) + "\n";
  if (key.is_set())
    out += "  now:     " + print_value(key.value(), key.type()) + ", from " + key.origin() + "\n";
  return out;
}

// The names of a.b."c.d".
std::vector<std::string> split_path(const std::string& path) {
  std::vector<std::string> names;
  std::string name;
  bool quoted = false;
  for (const char c : path) {
    if (c == '"') {
      quoted = !quoted;
    } else if (c == '.' && !quoted) {
      names.push_back(name);
      name.clear();
    } else {
      name += c;
    }
  }
  if (!path.empty()) names.push_back(name);
  return names;
}

}  // namespace

std::string dump(const Section& root, DumpStyle style) {
  const std::string out =
      dump_section(root, style == DumpStyle::full ? Choice::all : Choice::changed, 0);
  return out.empty() ? "{}\n" : out;
}

std::string json_schema(const Section& root, const std::string& title) {
  ordered_json schema;
  schema["$schema"] = "http://json-schema.org/draft-07/schema#";
  schema["title"] = title;
  schema.update(section_schema(root, Unset::is_default));
  schema["properties"]["base"] = {
      {"type", "string"},
      {"description", "a config this one inherits from, relative to this file"}};
  return schema.dump(2) + "\n";
}

std::string explain(const Section& root, const std::string& key_path) {
  const Section* section = &root;
  std::unique_ptr<Section> element;  // stands for any element of a map
  std::string path;
  const auto names = split_path(key_path);
  for (size_t i = 0; i < names.size(); ++i) {
    const auto& entries = section->entries();
    const auto it = std::find_if(entries.begin(), entries.end(),
                                 [&](const ConfigEntry* e) { return e->name() == names[i]; });
    if (it == entries.end()) {
      const std::string near = nearest(names[i], child_names(*section));
      throw ConfigError("unknown key '" + path + names[i] + "'" +
                        (near.empty() ? "" : "; did you mean '" + near + "'?") +
                        "; known keys here: " + join(child_names(*section)));
    }
    const bool last = i + 1 == names.size();
    if (const auto* key = dynamic_cast<const KeyBase*>(*it)) {
      if (last)
        return explain_key(*key, path + names[i], element ? Unset::is_nothing : Unset::is_default);
      throw ConfigError("'" + path + names[i] + "' is a key and has none below it");
    }
    path += names[i];
    if (const auto* map = dynamic_cast<const SectionMapBase*>(*it)) {
      auto made = map->make_element();
      section = made.get();
      element = std::move(made);
      if (!last) path += "." + names[++i];
      if (i + 1 >= names.size())
        return map->help().empty() ? explain_section(*section, path)
                                   : path + ": " + map->help() + "\n" +
                                         explain_section(*section, "keys of an element");
    } else {
      section = static_cast<const Section*>(*it);
      if (last) return explain_section(*section, path);
    }
    path += ".";
  }
  return explain_section(root, "");
}

std::map<std::string, std::string> values_of(const Section& root) {
  std::map<std::string, std::string> values;
  const std::function<void(const Section&, Choice)> add = [&](const Section& section,
                                                              Choice choice) {
    for (const ConfigEntry* entry : section.entries()) {
      if (const auto* key = dynamic_cast<const KeyBase*>(entry)) {
        if (chosen(*key, choice)) values[key->path()] = print_value(key->value(), key->type());
      } else if (const auto* map = dynamic_cast<const SectionMapBase*>(entry)) {
        for (const auto& [pattern, element] : map->elements()) add(*element, Choice::set);
      } else {
        add(static_cast<const Section&>(*entry), choice);
      }
    }
  };
  add(root, Choice::all);
  return values;
}

std::string describe_markdown(const Section& root) {
  std::string out = "| key | allowed | default | meaning |\n|---|---|---|---|\n";
  table_rows(root, "", Unset::is_default, out);
  return out;
}

}  // namespace qt
