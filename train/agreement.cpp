// train/agreement.cpp -- gathering and comparing what ranks have been started with.
#include "train/agreement.h"

#include <array>

#include "core/base/files.h"
#include "core/base/json_fields.h"
#include "train/version.h"

namespace qt {
namespace {

using Json = JsonFields::Json;

constexpr std::array own_keys = {"data.path",     "data.workers",
                                 "data.prefetch", "data.cache_megabytes",
                                 "train.threads", "device"};

// Names without their folders, which may be another one on each machine.
std::string digest(const Dataset& set) {
  std::string list;
  for (int64_t i = 0; i < set.size(); ++i) {
    const std::string name = set.name(i);
    list += name.substr(name.rfind('/') + 1) + "\n" + std::to_string(set.label(i)) + "\n";
  }
  std::string classes;
  for (const std::string& name : set.classes()) classes += name + "\n";
  return std::to_string(set.size()) + " pictures of " + std::to_string(set.classes().size()) +
         " classes, hash of names and labels " + files::hash_of(classes + list).substr(0, 8);
}

}  // namespace

RunFacts facts_of(const Experiment& experiment, const Dataset& train, const Dataset& test) {
  RunFacts facts = values_of(experiment);
  for (const char* key : own_keys) facts.erase(key);
  facts["program"] = std::string(version_number) + " (" + version_commit + ")";
  facts["training set"] = digest(train);
  facts["test set"] = digest(test);
  return facts;
}

void check_agreement(Communicator& ranks, const RunFacts& facts) {
  const std::string mine = Json(facts).dump(-1, ' ', false, Json::error_handler_t::replace);
  const std::vector<std::string> all = gathered(ranks, mine, "what ranks were started with");
  const auto parsed = [](const std::string& text) { return Json::parse(text).get<RunFacts>(); };
  const RunFacts first = parsed(all.at(0));
  for (size_t rank = 1; rank < all.size(); ++rank) {
    if (all[rank] == all[0]) continue;
    RunFacts theirs = parsed(all[rank]);
    for (const auto& [name, value] : first) theirs.try_emplace(name, "not set");
    for (const auto& [name, value] : theirs) {
      const auto ours = first.find(name);
      const std::string wanted = ours == first.end() ? "not set" : ours->second;
      if (wanted != value)
        throw ConfigError("all ranks must be started alike, but " + name + " is " + wanted +
                          " on rank 0 and " + value + " on rank " + std::to_string(rank));
    }
  }
}

}  // namespace qt
