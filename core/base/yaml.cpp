// core/base/yaml.cpp -- builds the tree from yaml-cpp's events, refusing what yaml-cpp lets
// through.
#include "core/base/yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <sstream>
#include <string_view>
#include <utility>

#include "core/base/text.h"

namespace qt::yaml {
namespace {

// Ends parsing; the problem has been recorded.
struct Stop {};

// yaml-cpp's words for what most often goes wrong, in terms of what the writer sees.
std::string plain_words(const std::string& message) {
  static const std::map<std::string, std::string> table{
      {"end of map not found", "wrong indentation, or something left behind a value"},
      {"end of sequence not found", "wrong indentation, or something left behind a list"},
      {"end of map flow not found", "a '{' without its '}', or a ',' missing"},
      {"end of sequence flow not found", "a '[' without its ']', or a ',' missing"},
      {"illegal map value",
       "a ':' where no key can stand; check the indentation or quote the text"},
      {"illegal EOF in scalar", "a quoted text that does not end"},
      {"illegal flow end", "a closing bracket without its opening one"},
      {"unknown token", "a text that starts with this character must be quoted"},
  };
  const auto it = table.find(message);
  return it != table.end() ? it->second : "not YAML: " + message;
}

bool is_blank(char c) { return c == ' ' || c == '\n'; }

// Bad bytes and tabs, which are better reported before yaml-cpp stumbles over them.
bool check_bytes(const std::shared_ptr<const Source>& source, std::vector<Problem>& problems) {
  const std::string& text = source->text;
  const auto refuse = [&](size_t at, const std::string& message) {
    add_problem(problems, Place{source, at, 1}, message);
    return false;
  };
  if (text.size() > kMaxBytes)
    return refuse(0, "the file has " + std::to_string(text.size()) + " bytes, want at most " +
                         std::to_string(kMaxBytes));
  bool comment = false;
  for (size_t i = source->start; i < text.size();) {
    const char c = text[i];
    const size_t length = utf8_length(text, i);
    if (length == 0) return refuse(i, "invalid UTF-8");
    if (c == '\n') comment = false;
    if (c == '#' && (i == 0 || is_blank(text[i - 1]))) comment = true;
    if (c == '\t' && !comment) return refuse(i, "a tab; use spaces");
    if (uint8_t(c) < 0x20 && c != '\n' && c != '\t') return refuse(i, "a control character");
    i += length;
  }
  return true;
}

// The end of the quoted scalar that starts at begin, behind its closing quote; npos where that is
// missing.
size_t quoted_end(const std::string& text, size_t begin) {
  const char quote = text[begin];
  for (size_t i = begin + 1; i < text.size(); ++i) {
    if (quote == '"' && text[i] == '\\') {
      ++i;
    } else if (text[i] == quote) {
      if (quote == '"' || i + 1 >= text.size() || text[i + 1] != quote) return i + 1;
      ++i;
    }
  }
  return std::string::npos;
}

class TreeBuilder final : public YAML::EventHandler {
 public:
  TreeBuilder(const std::shared_ptr<const Source>& source, std::vector<Problem>& problems)
      : source_(source), problems_(problems) {}

  NodePtr root() const { return root_; }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (documents_++ == 0) return;
    stop(place(mark, 1), "a second document; a config holds one");
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    auto node = std::make_shared<Node>();
    node->place = place(mark, 1);
    // yaml-cpp marks a missing value at the token behind it; the key in front is the better place.
    if (!open_.empty() && open_.back().has_key) node->place = open_.back().key_place;
    finish(std::move(node), anchor);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto it = anchors_.find(anchor);
    if (it == anchors_.end()) stop(place(mark, 1), "an alias inside the very node it names");
    add(it->second);
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    auto node = std::make_shared<Node>();
    node->kind = NodeKind::scalar;
    node->text = value;
    node->quoted = tag == "!";
    node->place = place(mark, 1);
    refuse_tag(node->place, tag);
    const std::string& text = source_->text;
    size_t begin = node->place.begin;
    while (begin < text.size() && (text[begin] == '&' || text[begin] == '!'))
      begin = skip_property(begin);
    node->place.begin = begin;
    if (node->quoted && begin < text.size() && (text[begin] == '"' || text[begin] == '\'')) {
      const size_t end = quoted_end(text, begin);
      if (end == std::string::npos) stop(node->place, "a quoted text that does not end");
      node->place.width = end - begin;
    } else if (text.compare(begin, value.size(), value) == 0) {
      node->place.width = std::max<size_t>(1, value.size());
    }
    finish(std::move(node), anchor);
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    start(NodeKind::list, mark, tag, anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    start(NodeKind::map, mark, tag, anchor);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Open {
    std::shared_ptr<Node> node;
    YAML::anchor_t anchor = 0;
    bool has_key = false;    // a map's next node is a value
    bool merge_key = false;  // which belongs to `<<`
    std::string key;
    Place key_place;
    std::map<std::string, Place> seen;
  };

  Place place(const YAML::Mark& mark, size_t width) const {
    const size_t begin = source_->start + size_t(std::max(0, mark.pos));
    return {source_, std::min(begin, source_->text.size()), width};
  }

  [[noreturn]] void stop(const Place& place, const std::string& message) {
    add_problem(problems_, place, message);
    throw Stop{};
  }

  void refuse_tag(const Place& place, const std::string& tag) {
    if (!tag.empty() && tag != "?" && tag != "!")
      stop(place, "the tag '" + tag + "'; tags are not read");
  }

  size_t skip_property(size_t i) const {
    const std::string& text = source_->text;
    while (i < text.size() && !is_blank(text[i])) ++i;
    while (i < text.size() && is_blank(text[i])) ++i;
    return i;
  }

  void start(NodeKind kind, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    auto node = std::make_shared<Node>();
    node->kind = kind;
    node->place = place(mark, 1);
    refuse_tag(node->place, tag);
    if (open_.size() + 1 >= size_t(kMaxDepth))
      stop(node->place, "nested deeper than " + std::to_string(kMaxDepth) + " levels");
    count(1, node->place);
    Open open;
    open.node = std::move(node);
    open.anchor = anchor;
    open_.push_back(std::move(open));
  }

  void close() {
    const Open open = std::move(open_.back());
    open_.pop_back();
    if (open.anchor) anchors_[open.anchor] = open.node;
    add(open.node);
  }

  void finish(std::shared_ptr<Node> node, YAML::anchor_t anchor) {
    count(1, node->place);
    if (anchor) anchors_[anchor] = node;
    add(std::move(node));
  }

  // Bounds the nodes seen so far; aliased ones are counted by add.
  void count(int nodes, const Place& place) {
    total_ += nodes;
    if (total_ > kMaxNodes)
      stop(place, "more than " + std::to_string(kMaxNodes) + " nodes, aliases counted in full");
  }

  void add(const NodePtr& node) {
    if (open_.empty()) {
      root_ = node;
      return;
    }
    Open& parent = open_.back();
    if (parent.node->kind == NodeKind::map && !parent.has_key) return take_key(parent, *node);
    parent.node->nodes += node->nodes;
    parent.node->height = std::max(parent.node->height, node->height + 1);
    if (parent.node->nodes > kMaxNodes)
      stop(node->place,
           "more than " + std::to_string(kMaxNodes) + " nodes, aliases counted in full");
    if (int(open_.size()) + node->height > kMaxDepth)
      stop(node->place, "nested deeper than " + std::to_string(kMaxDepth) + " levels");
    if (parent.node->kind == NodeKind::list) {
      parent.node->elements.push_back(node);
      return;
    }
    parent.has_key = false;
    if (parent.seen.emplace(parent.key, parent.key_place).second && !parent.merge_key)
      parent.node->members.push_back({parent.key, parent.key_place, node});
  }

  void take_key(Open& parent, const Node& node) {
    if (node.kind != NodeKind::scalar) stop(node.place, "a key that is not text");
    parent.has_key = true;
    parent.key = node.text;
    parent.key_place = node.place;
    parent.merge_key = node.text == "<<" && !node.quoted;
    if (parent.merge_key)
      add_problem(problems_, node.place,
                  "the merge key '<<' is not read; inherit with `base: other.yaml`");
    const auto first = parent.seen.find(node.text);
    if (first != parent.seen.end())
      add_problem(problems_, node.place, "duplicate key '" + node.text + "'",
                  "first given at " + first->second.name());
  }

  std::shared_ptr<const Source> source_;
  std::vector<Problem>& problems_;
  std::vector<Open> open_;
  std::map<YAML::anchor_t, NodePtr> anchors_;
  NodePtr root_;
  int documents_ = 0, total_ = 0;
};

size_t line_begin(const std::string& text, size_t at) {
  const size_t newline = at == 0 ? std::string::npos : text.rfind('\n', at - 1);
  return newline == std::string::npos ? 0 : newline + 1;
}

size_t code_points(std::string_view text) {
  return size_t(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

}  // namespace

std::string Place::name() const {
  if (!source) return "config";
  if (!source->has_lines) return source->name;
  const std::string& text = source->text;
  const size_t at = std::min(begin, text.size()), first = line_begin(text, at);
  const auto line = 1 + std::count(text.begin(), text.begin() + ptrdiff_t(at), '\n');
  const size_t column = 1 + code_points(std::string_view(text).substr(first, at - first));
  return source->name + ":" + std::to_string(line) + ":" + std::to_string(column);
}

void add_problem(std::vector<Problem>& problems, const Place& place, const std::string& message,
                 const std::string& suggestion, const std::string& note) {
  Problem problem;
  problem.place = place;
  problem.message = message;
  problem.suggestion = suggestion;
  problem.note = note;
  problems.push_back(std::move(problem));
}

NodePtr parse(const std::shared_ptr<const Source>& source, std::vector<Problem>& problems) {
  if (!check_bytes(source, problems)) return nullptr;
  TreeBuilder builder(source, problems);
  try {
    std::istringstream in(source->text.substr(source->start));
    YAML::Parser parser(in);
    while (parser.HandleNextDocument(builder)) continue;
  } catch (const Stop&) {
    return nullptr;
  } catch (const YAML::Exception& e) {
    const size_t at = source->start + size_t(std::max(0, e.mark.pos));
    add_problem(problems, Place{source, std::min(at, source->text.size()), 1}, plain_words(e.msg));
    return nullptr;
  }
  if (!builder.root()) {
    add_problem(problems, Place{source, source->start, 1},
                "nothing but blanks and comments; want `key: value` lines");
    return nullptr;
  }
  return builder.root();
}

NodePtr merge(const NodePtr& lower, const NodePtr& upper) {
  if (!lower) return upper;
  if (!upper) return lower;
  if (lower->kind == NodeKind::map && upper->kind == NodeKind::null) return lower;
  if (lower->kind != NodeKind::map || upper->kind != NodeKind::map) return upper;
  auto joined = std::make_shared<Node>(*lower);
  joined->place = upper->place;
  for (const Member& member : upper->members) {
    const auto same = std::find_if(joined->members.begin(), joined->members.end(),
                                   [&](const Member& m) { return m.key == member.key; });
    if (same == joined->members.end())
      joined->members.push_back(member);
    else
      *same = {member.key, member.key_place, merge(same->value, member.value)};
  }
  return joined;
}

std::string format(const Problem& problem) {
  std::string out = problem.place.name() + ": error: " + problem.message;
  const std::string with_suggestion = problem.suggestion.empty() ? "" : " " + problem.suggestion;
  const std::string note = problem.note.empty() ? "" : "\n   " + problem.note;
  constexpr size_t kLongestLine = 200;
  if (!problem.place.source)
    return out + (problem.suggestion.empty() ? "" : ";" + with_suggestion) + note;
  const std::string& text = problem.place.source->text;
  const size_t at = std::min(problem.place.begin, text.size()), first = line_begin(text, at);
  const size_t end = std::min(text.find('\n', at), text.size());
  if (end == first || end - first > kLongestLine)
    return out + (problem.suggestion.empty() ? "" : ";" + with_suggestion) + note;
  std::string line;
  for (size_t i = first; i < end;) {
    const size_t length = utf8_length(text, i);
    const bool shown = length > 0 && uint8_t(text[i]) >= 0x20;
    line += shown ? text.substr(i, length) : "?";
    i += std::max<size_t>(1, length);
  }
  std::string number;
  if (problem.place.source->has_lines)
    number = std::to_string(1 + std::count(text.begin(), text.begin() + ptrdiff_t(at), '\n'));
  number.insert(0, number.size() < 5 ? 5 - number.size() : 0, ' ');
  const std::string_view view(text);
  const size_t indent = code_points(view.substr(first, at - first));
  const size_t carets = code_points(view.substr(at, std::min(problem.place.width, end - at)));
  out += "\n" + number + " | " + line + "\n" + std::string(number.size(), ' ') + " | " +
         std::string(indent, ' ') + std::string(std::max<size_t>(1, carets), '^') + with_suggestion;
  return out + note;
}

std::string format(std::vector<Problem> problems) {
  const auto order = [](const Problem& p) {
    return std::pair(p.place.source ? p.place.source->order : -1, p.place.begin);
  };
  std::stable_sort(problems.begin(), problems.end(),
                   [&](const Problem& a, const Problem& b) { return order(a) < order(b); });
  constexpr size_t kMostListed = 50;
  std::string out;
  for (size_t i = 0; i < std::min(problems.size(), kMostListed); ++i)
    out.append(i ? "\n" : "").append(format(problems[i]));
  if (problems.size() > kMostListed)
    out += "\nand " + std::to_string(problems.size() - kMostListed) + " more errors";
  return out;
}

}  // namespace qt::yaml
