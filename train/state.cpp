// train/state.cpp -- state.json, written and read.
#include "train/state.h"

#include <climits>
#include <nlohmann/json.hpp>

#include "core/base/error.h"

namespace qt {
namespace {

using Json = nlohmann::json;

constexpr int format_version = 1;
constexpr int64_t most_threads = 4096, most_ranks = 1 << 20;

// The values of one JSON object; what is missing or of another type is refused by its key.
class Fields {
 public:
  Fields(const Json& json, const std::string& where) : json_(json), where_(where) {
    if (!json.is_object()) refuse("cannot be read: it is no JSON object");
  }
  [[noreturn]] void refuse(const std::string& cause) const {
    throw CheckpointError(where_ + " " + cause);
  }
  bool has(const char* key) const { return json_.contains(key); }
  const Json& get(const char* key) const {
    const auto found = json_.find(key);
    if (found == json_.end()) refuse(std::string("cannot be read: it has no '") + key + "'");
    return *found;
  }
  int64_t count(const char* key, int64_t most = INT64_MAX) const {
    const Json& value = get(key);
    if (!value.is_number_unsigned() || value.get<uint64_t>() > uint64_t(most))
      unexpected(key, value, "an integer from 0 to " + std::to_string(most));
    return value.get<int64_t>();
  }
  double number(const char* key) const {
    const Json& value = get(key);
    if (!value.is_number()) unexpected(key, value, "a number");
    return value.get<double>();
  }
  bool boolean(const char* key) const {
    const Json& value = get(key);
    if (!value.is_boolean()) unexpected(key, value, "true or false");
    return value.get<bool>();
  }
  std::string text(const char* key) const {
    const Json& value = get(key);
    if (!value.is_string()) unexpected(key, value, "a text");
    return value.get<std::string>();
  }
  std::vector<std::string> texts(const char* key) const {
    const Json& value = get(key);
    std::vector<std::string> list;
    if (!value.is_array()) unexpected(key, value, "a list of texts");
    for (const Json& entry : value) {
      if (!entry.is_string()) unexpected(key, entry, "a text");
      list.push_back(entry.get<std::string>());
    }
    return list;
  }

  std::map<std::string, std::string> texts_by_name(const char* key) const {
    const Json& all = get(key);
    if (!all.is_object()) unexpected(key, all, "texts by name");
    std::map<std::string, std::string> map;
    for (const auto& [name, text] : all.items()) {
      if (!text.is_string()) unexpected(key, all, "texts by name");
      map[name] = text.get<std::string>();
    }
    return map;
  }

 private:
  [[noreturn]] void unexpected(const char* key, const Json& value,
                               const std::string& wanted) const {
    const std::string came =
        value.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 40);
    refuse(std::string("cannot be read: '") + key + "' is " + came + ", wanted " + wanted);
  }
  const Json& json_;
  std::string where_;
};

}  // namespace

std::string to_json(const TrainState& state) {
  const Position& at = state.at;
  nlohmann::ordered_json j;
  j["format"] = format_version;
  j["program_version"] = state.program_version;
  j["config_hash"] = state.config_hash;
  j["seed"] = state.seed;
  j["threads"] = state.threads;
  j["world"] = state.world;
  j["library"] = state.library;
  j["isa"] = state.isa;
  j["backward"] = state.backward;
  j["steps_per_epoch"] = state.steps_per_epoch;
  j["training_pictures"] = state.training_pictures;
  j["engines"] = state.engines;
  j["phases"] = state.phases;
  j["phase"] = at.phase;
  j["epoch"] = at.epoch;
  j["step"] = at.step;
  j["epochs_done"] = at.epochs_done;
  j["steps_done"] = at.steps_done;
  j["calibrated"] = at.calibrated;
  j["meter"] = {
      {"loss", state.meter.loss}, {"correct", state.meter.correct}, {"images", state.meter.images}};
  j["best_top1"] =
      state.best_top1 ? nlohmann::ordered_json(*state.best_top1) : nlohmann::ordered_json(nullptr);
  j["projections"] = state.projections;
  j["skipped"] = state.skipped;
  return j.dump(2) + "\n";
}

TrainState state_from_json(const std::string& text, const std::string& where) {
  const Json j = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  const Fields fields(j, where + "/state.json");
  if (fields.count("format") != format_version)
    fields.refuse("has format " + j["format"].dump() + "; this program reads " +
                  std::to_string(format_version));
  TrainState state;
  state.program_version = fields.text("program_version");
  state.config_hash = fields.text("config_hash");
  state.seed = fields.count("seed");
  state.threads = int(fields.count("threads", most_threads));
  state.world = fields.has("world") ? int(fields.count("world", most_ranks)) : 1;
  state.library = fields.text("library");
  if (fields.has("isa")) state.isa = fields.text("isa");
  if (fields.has("backward")) state.backward = fields.text("backward");
  if (fields.has("steps_per_epoch")) state.steps_per_epoch = fields.count("steps_per_epoch");
  if (fields.has("training_pictures")) state.training_pictures = fields.count("training_pictures");
  if (fields.has("engines")) state.engines = fields.texts_by_name("engines");
  if (fields.has("phases")) state.phases = fields.texts("phases");
  state.at = {.phase = fields.count("phase"),
              .epoch = fields.count("epoch"),
              .step = fields.count("step"),
              .epochs_done = fields.count("epochs_done", INT_MAX),
              .steps_done = fields.count("steps_done"),
              .calibrated = fields.boolean("calibrated")};
  const Fields meter(fields.get("meter"), where + "/state.json: 'meter'");
  state.meter = {.loss = meter.number("loss"),
                 .correct = meter.count("correct"),
                 .images = meter.count("images")};
  if (!fields.get("best_top1").is_null()) state.best_top1 = fields.number("best_top1");
  state.projections = fields.count("projections");
  if (fields.has("skipped")) state.skipped = fields.count("skipped");
  return state;
}

std::vector<std::string> differences(const TrainState& checkpoint, const TrainState& run) {
  const std::string bits = "the last bits may differ",
                    course = "the run goes on, but not as it would have";
  std::vector<std::string> list;
  const auto compare = [&](const std::string& what, const std::string& theirs,
                           const std::string& ours, const std::string& effect) {
    if (theirs != ours && !theirs.empty() && !ours.empty())
      list.push_back("the checkpoint's " + what + " is " + theirs + ", this run's is " + ours +
                     ": " + effect);
  };
  const auto number = [](int64_t n) { return n > 0 ? std::to_string(n) : ""; };
  compare("number of processes", number(checkpoint.world), number(run.world),
          "the order of pictures is the same, the last bits are not");
  if (checkpoint.config_hash != run.config_hash)
    list.push_back("the checkpoint's config is another one: " + course);
  compare("program version", checkpoint.program_version, run.program_version, bits);
  compare("library", checkpoint.library, run.library, bits);
  compare("instruction set", checkpoint.isa, run.isa, bits);
  compare("precision of backward convolutions", checkpoint.backward, run.backward, bits);
  compare("number of training pictures", number(checkpoint.training_pictures),
          number(run.training_pictures), course);
  compare("number of steps an epoch", number(checkpoint.steps_per_epoch),
          number(run.steps_per_epoch), course);
  return list;
}

}  // namespace qt
