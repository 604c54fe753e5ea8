// core/base/registry.h -- things a config can name: quantizers, models, optimizers, schedules, data
// sets.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/base/error.h"

namespace qt {

// A registered thing is made from Args by its name. Registrations run before main, one line in the
// file that defines the thing:  static const Registry<Model, const ModelSpec&>::Add add{"resnet18",
// make_resnet18};
template <class Thing, class... Args>
class Registry {
 public:
  using Make = std::function<std::unique_ptr<Thing>(Args...)>;

  struct Add {
    Add(const std::string& name, Make make) {
      if (!table().emplace(name, std::move(make)).second)
        throw InternalError("'" + name + "' is registered twice");
    }
  };

  // ConfigError listing the known names where name is unknown; what says what was sought
  // ("quantizer").
  static std::unique_ptr<Thing> make(const std::string& what, const std::string& name,
                                     Args... args) {
    const auto it = table().find(name);
    if (it != table().end()) return it->second(std::forward<Args>(args)...);
    std::string known;
    for (const auto& entry : table()) known += (known.empty() ? "" : ", ") + entry.first;
    throw ConfigError("unknown " + what + " '" + name + "'; known: " + known);
  }

  static std::vector<std::string> names() {
    std::vector<std::string> list;
    for (const auto& entry : table()) list.push_back(entry.first);
    return list;
  }

 private:
  static std::map<std::string, Make>& table() {
    static std::map<std::string, Make> table;
    return table;
  }
};

}  // namespace qt
