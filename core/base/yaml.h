// core/base/yaml.h -- a strict reader of one YAML document, and error messages that point into its
// text.
//
// yaml-cpp 0.7 accepts duplicate keys, unterminated quotes, further documents, invalid UTF-8 and
// anchors that contain themselves. Here each of these is a problem with a place; so are tags, `<<`,
// tabs and non-text keys.
#pragma once
#include <memory>
#include <string>
#include <vector>

namespace qt::yaml {

constexpr size_t kMaxBytes = 1 << 20;
constexpr int kMaxDepth = 32;
constexpr int kMaxNodes =
    10'000;  // after aliases are expanded, so that an alias bomb is refused early

// Where text came from: a file, or one argument of the command line.
struct Source {
  std::string name;       // "configs/a.yaml" or "command line, argument 3"
  std::string text;       // without byte order mark and carriage returns
  size_t start = 0;       // the document starts at this byte (behind the '=' of an argument)
  bool has_lines = true;  // print "name:line:column" rather than the name alone
  int order = 0;          // problems are listed in this order of sources
};

struct Place {
  std::shared_ptr<const Source> source;
  size_t begin = 0, width = 1;  // bytes of source->text

  // "configs/a.yaml:23:5", counted from 1, columns in code points; "command line, argument 3"
  std::string name() const;
};

struct Problem {
  Place place;
  std::string message;
  std::string suggestion;  // behind the caret
  std::string note;        // a line below
};

// Appends a problem.
void add_problem(std::vector<Problem>& problems, const Place& place, const std::string& message,
                 const std::string& suggestion = "", const std::string& note = "");

struct Node;
using NodePtr = std::shared_ptr<const Node>;

struct Member {
  std::string key;
  Place key_place;
  NodePtr value;
};

enum class NodeKind { null, scalar, list, map };
struct Node {
  NodeKind kind = NodeKind::null;
  Place place;
  std::string text;               // of a scalar
  bool quoted = false;            // a quoted or block scalar is text whatever it looks like
  std::vector<NodePtr> elements;  // of a list
  std::vector<Member> members;    // of a map, in file order
  int nodes = 1, height = 1;      // of the tree below, this node included
};

// The document, or null where it cannot be read further; what is wrong is added to problems, in
// both cases. Duplicate keys and `<<` are left out of the tree. An empty document is a problem.
NodePtr parse(const std::shared_ptr<const Source>& source, std::vector<Problem>& problems);

// Two maps are joined key by key, recursively, in the order of lower; otherwise upper wins.
NodePtr merge(const NodePtr& lower, const NodePtr& upper);

// "place: error: message", the line, a caret under width bytes, the suggestion and the note; no
// newline at the end.
std::string format(const Problem& problem);
// All problems, sorted by place.
std::string format(std::vector<Problem> problems);

}  // namespace qt::yaml
