// core/base/config.cpp -- the tree of declared keys, and reading files, `base:` and overrides into
// it.
#include "core/base/config.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <system_error>
#include <unordered_map>

#include "core/base/config_value.h"
#include "core/base/yaml.h"

namespace qt {

ConfigEntry::ConfigEntry(Section* owner, std::string name, std::string help)
    : parent_(owner), name_(std::move(name)), help_(std::move(help)) {
  for (const ConfigEntry* entry : owner->entries_)
    if (entry->name_ == name_) throw InternalError("config key '" + path() + "' is declared twice");
  owner->entries_.push_back(this);
}

static std::string quoted_segment(const std::string& name) {
  if (!name.empty() && name.find_first_of(".\"= \\") == std::string::npos) return name;
  std::string out = "\"";
  for (const char c : name) out += c == '"' || c == '\\' ? std::string{'\\', c} : std::string{c};
  return out + "\"";
}

std::string ConfigEntry::path() const {
  if (!parent_) return name_;
  const std::string above = parent_->path();
  return (above.empty() ? "" : above + ".") + quoted_segment(name_);
}

bool Section::is_set() const {
  return std::any_of(entries_.begin(), entries_.end(), [](const ConfigEntry* entry) {
    if (const auto* key = dynamic_cast<const KeyBase*>(entry)) return key->is_set();
    if (const auto* map = dynamic_cast<const SectionMapBase*>(entry))
      return !map->elements().empty();
    return static_cast<const Section*>(entry)->is_set();
  });
}

void KeyBase::assign(const ConfigValue& value, const std::string& origin) {
  store(value);
  origin_ = origin;
}

void SectionMapBase::adopt(Section& element, const std::string& key) const {
  element.parent_ = this;
  element.name_ = key;
}

namespace {

using yaml::NodeKind;
using yaml::NodePtr;
using yaml::Place;
using yaml::Problem;
using yaml::Source;

void reset(Section& section) {
  for (ConfigEntry* entry : section.entries()) {
    if (auto* key = dynamic_cast<KeyBase*>(entry)) key->assign(key->default_value(), "");
    if (auto* map = dynamic_cast<SectionMapBase*>(entry)) map->clear();
    if (auto* child = dynamic_cast<Section*>(entry)) reset(*child);
  }
}

// Where in the tree a key of this name exists, for one given at the wrong level.
std::string elsewhere(const Section& section, const std::string& name) {
  for (const ConfigEntry* entry : section.entries()) {
    if (entry->name() == name) return entry->path();
    if (const auto* child = dynamic_cast<const Section*>(entry)) {
      const std::string found = elsewhere(*child, name);
      if (!found.empty()) return found;
    }
  }
  return "";
}

class Reader final : public ConfigProblems {
 public:
  Reader(Section& root, std::vector<Problem>& problems) : root_(root), problems_(problems) {}

  void read(Section& section, const yaml::Node& node) {
    if (node.kind == NodeKind::null) return;  // `quant:` with every key below it commented out
    if (node.kind != NodeKind::map) {
      const std::string came =
          node.kind == NodeKind::list ? "a list" : "'" + node.text.substr(0, 60) + "'";
      const std::string path = section.path().empty() ? "" : section.path() + ": ";
      yaml::add_problem(problems_, node.place, path + "got " + came + ", want a mapping", "",
                        known(section));
      return;
    }
    for (const yaml::Member& member : node.members) {
      const auto& entries = section.entries();
      const auto it = std::find_if(entries.begin(), entries.end(),
                                   [&](const ConfigEntry* e) { return e->name() == member.key; });
      if (it == entries.end())
        unknown(section, member);
      else
        read_entry(**it, member);
    }
  }

  // The rules of each section, once every key is good.
  void check(const Section& section) {
    section.check(*this);
    for (const ConfigEntry* entry : section.entries()) {
      if (const auto* child = dynamic_cast<const Section*>(entry)) check(*child);
      if (const auto* map = dynamic_cast<const SectionMapBase*>(entry))
        for (const auto& element : map->elements()) check(*element.second);
    }
  }

  void add(const ConfigEntry& entry, const std::string& message) override {
    const auto it = places_.find(&entry);
    const std::string path = entry.path();
    yaml::add_problem(problems_, it == places_.end() ? Place{} : it->second,
                      (path.empty() ? "" : path + ": ") + message);
  }

 private:
  void read_entry(ConfigEntry& entry, const yaml::Member& member) {
    const yaml::Node& node = *member.value;
    places_[&entry] = node.kind == NodeKind::scalar ? node.place : member.key_place;
    if (auto* child = dynamic_cast<Section*>(&entry)) return read(*child, node);
    if (auto* map = dynamic_cast<SectionMapBase*>(&entry)) return read_map(*map, node);
    auto& key = static_cast<KeyBase&>(entry);
    const auto value =
        read_value(node, member.key_place, key.type(), key.check(), key.path(), problems_);
    if (value) key.assign(*value, member.key_place.name());
  }

  void read_map(SectionMapBase& map, const yaml::Node& node) {
    if (node.kind == NodeKind::null) return;
    if (node.kind != NodeKind::map) {
      yaml::add_problem(problems_, node.place,
                        map.path() + ": want a mapping from patterns to sections");
      return;
    }
    for (const yaml::Member& member : node.members) {
      Section& element = map.append(member.key);
      places_[&element] = member.key_place;
      read(element, *member.value);
    }
  }

  std::vector<std::string> names(const Section& section) const {
    std::vector<std::string> list;
    for (const ConfigEntry* entry : section.entries()) list.push_back(entry->name());
    if (&section == &root_) list.push_back("base");
    return list;
  }
  std::string known(const Section& section) const {
    return "known keys here: " + join(names(section));
  }

  void unknown(const Section& section, const yaml::Member& member) {
    const std::string above = section.path();
    const std::string path = (above.empty() ? "" : above + ".") + quoted_segment(member.key);
    std::string suggestion = nearest(member.key, names(section));
    if (suggestion.empty()) suggestion = elsewhere(root_, member.key);
    if (!suggestion.empty()) suggestion = "did you mean '" + suggestion + "'?";
    yaml::add_problem(problems_, member.key_place, "unknown key '" + path + "'", suggestion,
                      known(section));
  }

  const Section& root_;
  std::vector<Problem>& problems_;
  std::unordered_map<const ConfigEntry*, Place> places_;
};

std::shared_ptr<Source> make_source(const std::string& name, const std::string& text, int order) {
  auto source = std::make_shared<Source>();
  source->name = name;
  source->order = order;
  const size_t skip = text.compare(0, 3, "\xEF\xBB\xBF") == 0 ? 3 : 0;
  for (size_t i = skip; i < text.size(); ++i)
    if (!(text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n')) source->text += text[i];
  return source;
}

// A problem of a file as a whole, told where its name was given.
Problem file_problem(const std::string& path, const std::string& message, const Place& asked_from) {
  if (asked_from.source) return {asked_from, "base '" + path + "': " + message, "", ""};
  auto source = std::make_shared<Source>();
  source->name = path;
  source->has_lines = false;
  return {{source, 0, 1}, message, "", ""};
}

std::optional<std::string> read_file(const std::string& path, std::string& error) {
  std::error_code code;
  const auto status = std::filesystem::status(path, code);
  if (!std::filesystem::exists(status)) {
    error = "no such file";
    return {};
  }
  if (std::filesystem::is_directory(status)) {
    error = "a folder, want a YAML file";
    return {};
  }
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    error = std::string("cannot be opened: ") + std::strerror(errno);
    return {};
  }
  // One byte beyond the limit is enough to know that it is exceeded, and a pipe without end is not
  // drained.
  std::string text(yaml::kMaxBytes + 1, '\0');
  in.read(text.data(), std::streamsize(text.size()));
  text.resize(size_t(in.gcount()));
  if (in.bad()) error = "cannot be read";
  if (text.size() > yaml::kMaxBytes) error = "larger than 1 MiB, which no config is";
  if (text.empty() && error.empty()) error = "the file is empty; want `key: value` lines";
  return error.empty() ? std::optional(text) : std::nullopt;
}

class Loader {
 public:
  explicit Loader(std::vector<Problem>& problems) : problems_(problems) {}

  NodePtr load(const std::string& path, const Place& asked_from) {
    std::error_code code;
    const std::string canonical = std::filesystem::weakly_canonical(path, code).string();
    if (std::find(chain_.begin(), chain_.end(), canonical) != chain_.end())
      return fail(file_problem(path, "inherits from itself", asked_from));
    constexpr size_t kLongestChain = 16;
    if (chain_.size() >= kLongestChain)
      return fail(file_problem(path, "more than 16 files inherit from one another", asked_from));
    std::string error;
    const auto text = read_file(path, error);
    if (!text) return fail(file_problem(path, error, asked_from));
    if (chain_.empty()) text_ = *text;
    chain_.push_back(canonical);
    const NodePtr tree = resolve(make_source(path, *text, int(chain_.size())));
    chain_.pop_back();
    if (tree && tree->kind == NodeKind::null)
      return fail(file_problem(path, "the file says nothing; want `key: value` lines", asked_from));
    return tree;
  }

  // Of the file loaded first.
  const std::string& text() const { return text_; }

  // The tree of source, on top of what its `base:` names.
  NodePtr resolve(const std::shared_ptr<const Source>& source) {
    const NodePtr tree = yaml::parse(source, problems_);
    if (!tree || tree->kind != NodeKind::map) return tree;
    const auto is_base = [](const yaml::Member& member) { return member.key == "base"; };
    const auto base = std::find_if(tree->members.begin(), tree->members.end(), is_base);
    if (base == tree->members.end()) return tree;
    auto own = std::make_shared<yaml::Node>(*tree);
    own->members.erase(std::find_if(own->members.begin(), own->members.end(), is_base));
    const NodePtr lower = load_base(*base, std::filesystem::path(source->name).parent_path());
    return yaml::merge(lower, own);
  }

 private:
  NodePtr load_base(const yaml::Member& member, const std::filesystem::path& folder) {
    const auto path = read_value(*member.value, member.key_place, {}, {}, "base", problems_);
    if (!path) return nullptr;
    return load((folder / std::get<std::string>(path->at(0))).string(), member.value->place);
  }

  NodePtr fail(const Problem& problem) {
    problems_.push_back(problem);
    return nullptr;
  }

  std::vector<Problem>& problems_;
  std::vector<std::string> chain_;
  std::string text_;
};

// The names of `a.b."c.d"=`, up to the '='; empty where the argument has no such form.
std::vector<yaml::Member> override_path(const std::shared_ptr<Source>& source) {
  const std::string& text = source->text;
  std::vector<yaml::Member> names;
  for (size_t i = 0; i < text.size();) {
    yaml::Member name{"", {source, i, 1}, nullptr};
    if (text[i] == '"') {
      for (++i; i < text.size() && text[i] != '"'; ++i) {
        if (text[i] == '\\' && i + 1 < text.size()) ++i;
        name.key += text[i];
      }
      if (i++ >= text.size()) return {};
    } else {
      while (i < text.size() && text[i] != '.' && text[i] != '=') name.key += text[i++];
      if (name.key.empty()) return {};
    }
    name.key_place.width = i - name.key_place.begin;
    names.push_back(name);
    if (i < text.size() && text[i] == '=') {
      source->start = i + 1;
      return names;
    }
    if (i >= text.size() || text[i++] != '.') return {};
  }
  return {};
}

NodePtr read_override(const ConfigOverride& argument, std::vector<Problem>& problems) {
  constexpr int kAfterFiles = 1000;
  auto source = make_source("command line, argument " + std::to_string(argument.argument),
                            argument.text, kAfterFiles + argument.argument);
  source->has_lines = false;
  const std::vector<yaml::Member> names = override_path(source);
  if (names.empty() || names.size() >= size_t(yaml::kMaxDepth)) {
    yaml::add_problem(problems, Place{source, 0, source->text.size()},
                      "'" + argument.text + "' is not key.path=value");
    return nullptr;
  }
  if (names.front().key == "base") {
    yaml::add_problem(problems, names.front().key_place, "'base' can be given in a file only");
    return nullptr;
  }
  NodePtr tree;
  if (source->text.find_first_not_of(' ', source->start) == std::string::npos) {
    auto null = std::make_shared<yaml::Node>();
    null->place = names.back().key_place;
    tree = null;
  } else {
    tree = yaml::parse(source, problems);
  }
  for (auto name = names.rbegin(); tree && name != names.rend(); ++name) {
    auto above = std::make_shared<yaml::Node>();
    above->kind = NodeKind::map;
    above->place = name->key_place;
    above->members.push_back({name->key, name->key_place, tree});
    tree = above;
  }
  return tree;
}

void throw_problems(const std::vector<Problem>& problems) {
  if (!problems.empty()) throw ConfigError(yaml::format(problems));
}

void finish(Section& root, NodePtr tree, const std::vector<ConfigOverride>& overrides,
            std::vector<Problem>& problems) {
  for (const ConfigOverride& argument : overrides)
    tree = yaml::merge(tree, read_override(argument, problems));
  reset(root);
  Reader reader(root, problems);
  if (tree) reader.read(root, *tree);
  throw_problems(problems);
  reader.check(root);
  throw_problems(problems);
}

std::vector<ConfigOverride> numbered(const std::vector<std::string>& texts) {
  std::vector<ConfigOverride> overrides;
  for (const std::string& text : texts) overrides.push_back({text, int(overrides.size()) + 1});
  return overrides;
}

}  // namespace

std::string load_config(Section& root, const std::string& path,
                        const std::vector<ConfigOverride>& overrides) {
  std::vector<Problem> problems;
  Loader loader(problems);
  NodePtr tree;
  if (!path.empty()) tree = loader.load(path, {});
  finish(root, tree, overrides, problems);
  return loader.text();
}

void load_config(Section& root, const std::string& path,
                 const std::vector<std::string>& overrides) {
  load_config(root, path, numbered(overrides));
}

void load_config(Section& root, const std::string& path,
                 std::initializer_list<const char*> overrides) {
  load_config(root, path, numbered({overrides.begin(), overrides.end()}));
}

void load_config_text(Section& root, const std::string& text, const std::string& name,
                      const std::vector<ConfigOverride>& overrides) {
  std::vector<Problem> problems;
  const NodePtr tree = Loader(problems).resolve(make_source(name, text, 1));
  finish(root, tree, overrides, problems);
}

}  // namespace qt
