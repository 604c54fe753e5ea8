// train/state.cpp -- state.json, written and read.
#include "train/state.h"

#include <algorithm>
#include <climits>

#include "core/base/json_fields.h"

namespace qt {
namespace {

using Json = JsonFields::Json;

constexpr int format_version = 1;
constexpr int64_t most_threads = 4096, most_ranks = 1 << 20;

// "" where nothing that matters differs; where it is not known what does, so is it.
std::string changes_of_config(const RunIdentity& checkpoint, const RunIdentity& run) {
  if (checkpoint.config.empty() || run.config.empty())
    return checkpoint.config_hash == run.config_hash ? "" : " (its values are not known)";
  constexpr size_t most_shown = 6;
  std::vector<std::string> changes;
  const auto note = [&](const std::string& key, const std::string& theirs,
                        const std::string& ours) {
    changes.push_back(key + " was " + theirs + ", is " + ours);
  };
  const std::string nothing = "not set";
  for (const auto& [key, value] : checkpoint.config) {
    const auto ours = run.config.find(key);
    if (ours == run.config.end())
      note(key, value, nothing);
    else if (ours->second != value)
      note(key, value, ours->second);
  }
  for (const auto& [key, value] : run.config)
    if (!checkpoint.config.count(key)) note(key, nothing, value);
  std::string text;
  for (size_t i = 0; i < std::min(changes.size(), most_shown); ++i)
    text += (i ? "; " : " (") + changes[i];
  if (changes.size() > most_shown)
    text += "; and " + std::to_string(changes.size() - most_shown) + " more";
  return text.empty() ? "" : text + ")";
}

}  // namespace

std::string to_json(const TrainState& state) {
  const Position& at = state.at;
  Json j;
  j["format"] = format_version;
  j["program_version"] = state.run.program_version;
  j["config_hash"] = state.run.config_hash;
  j["config"] = state.run.config;
  j["seed"] = state.run.seed;
  j["threads"] = state.threads;
  j["world"] = state.run.world;
  j["library"] = state.run.library;
  j["isa"] = state.run.isa;
  j["backward"] = state.run.backward;
  j["saved"] = state.run.saved;
  j["steps_per_epoch"] = state.run.steps_per_epoch;
  j["training_pictures"] = state.run.training_pictures;
  j["engines"] = state.engines;
  j["codes"] = state.codes;
  j["phases"] = state.run.phases;
  j["phase"] = at.phase;
  j["epoch"] = at.epoch;
  j["step"] = at.step;
  j["epochs_done"] = at.epochs_done;
  j["steps_done"] = at.steps_done;
  j["calibrated"] = at.calibrated;
  j["meter"] = {
      {"loss", state.meter.loss}, {"correct", state.meter.correct}, {"images", state.meter.images}};
  j["best_top1"] = state.best_top1 ? Json(*state.best_top1) : Json(nullptr);
  j["projections"] = state.projections;
  j["skipped"] = state.skipped;
  return j.dump(2) + "\n";
}

TrainState state_from_json(const std::string& text, const std::string& where) {
  const Json j = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  JsonFields fields(j, where + "/state.json");
  const auto count = [&](const char* key, int64_t most = INT64_MAX) {
    return fields.integer(key, 0, most);
  };
  if (const int64_t format = count("format"); format != format_version)
    fields.refuse("has format " + std::to_string(format) + "; this program reads " +
                  std::to_string(format_version));
  TrainState state;
  state.run.program_version = fields.text("program_version");
  state.run.config_hash = fields.text("config_hash");
  state.run.seed = count("seed");
  state.threads = int(count("threads", most_threads));
  state.run.world = fields.has("world") ? int(count("world", most_ranks)) : 1;
  state.run.library = fields.text("library");
  if (fields.has("config")) state.run.config = fields.texts_by_name("config");
  if (fields.has("isa")) state.run.isa = fields.text("isa");
  if (fields.has("backward")) state.run.backward = fields.text("backward");
  if (fields.has("saved")) state.run.saved = fields.text("saved");
  if (fields.has("steps_per_epoch")) state.run.steps_per_epoch = count("steps_per_epoch");
  if (fields.has("training_pictures")) state.run.training_pictures = count("training_pictures");
  if (fields.has("engines")) state.engines = fields.texts_by_name("engines");
  if (fields.has("codes")) state.codes = fields.texts_by_name("codes");
  if (fields.has("phases")) state.run.phases = fields.texts("phases");
  state.at = {.phase = count("phase"),
              .epoch = count("epoch"),
              .step = count("step"),
              .epochs_done = count("epochs_done", INT_MAX),
              .steps_done = count("steps_done"),
              .calibrated = fields.boolean("calibrated")};
  JsonFields meter(fields.get("meter"), where + "/state.json: 'meter'");
  state.meter = {.loss = meter.number("loss"),
                 .correct = meter.integer("correct", 0),
                 .images = meter.integer("images", 0)};
  if (!fields.get("best_top1").is_null()) state.best_top1 = fields.number("best_top1");
  state.projections = count("projections");
  if (fields.has("skipped")) state.skipped = count("skipped");
  return state;
}

std::vector<std::string> differences(const RunIdentity& checkpoint, const RunIdentity& run) {
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
  const std::string config = changes_of_config(checkpoint, run);
  if (!config.empty())
    list.push_back("the checkpoint's config is another one" + config + ": " + course);
  compare("program version", checkpoint.program_version, run.program_version, bits);
  compare("library", checkpoint.library, run.library, bits);
  compare("instruction set", checkpoint.isa, run.isa, bits);
  compare("precision of backward convolutions", checkpoint.backward, run.backward, bits);
  compare("train.saved", checkpoint.saved, run.saved, bits);
  compare("number of training pictures", number(checkpoint.training_pictures),
          number(run.training_pictures), course);
  compare("number of steps an epoch", number(checkpoint.steps_per_epoch),
          number(run.steps_per_epoch), course);
  return list;
}

}  // namespace qt
