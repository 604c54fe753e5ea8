// train/state.cpp -- state.json, written and read.
#include "train/state.h"

#include <nlohmann/json.hpp>

#include "core/base/error.h"

namespace qt {
namespace {

constexpr int format_version = 1;

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
  j["engines"] = state.engines;
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
  try {
    const nlohmann::json j = nlohmann::json::parse(text);
    if (j.at("format") != format_version)
      throw CheckpointError(where + "/state.json has format " + j.at("format").dump() +
                            "; this program reads " + std::to_string(format_version));
    TrainState state;
    j.at("program_version").get_to(state.program_version);
    j.at("config_hash").get_to(state.config_hash);
    j.at("seed").get_to(state.seed);
    j.at("threads").get_to(state.threads);
    state.world = j.value("world", 1);
    j.at("library").get_to(state.library);
    state.engines = j.value("engines", std::map<std::string, std::string>{});
    j.at("phase").get_to(state.at.phase);
    j.at("epoch").get_to(state.at.epoch);
    j.at("step").get_to(state.at.step);
    j.at("epochs_done").get_to(state.at.epochs_done);
    j.at("steps_done").get_to(state.at.steps_done);
    j.at("calibrated").get_to(state.at.calibrated);
    j.at("meter").at("loss").get_to(state.meter.loss);
    j.at("meter").at("correct").get_to(state.meter.correct);
    j.at("meter").at("images").get_to(state.meter.images);
    if (!j.at("best_top1").is_null()) state.best_top1 = j.at("best_top1").get<double>();
    j.at("projections").get_to(state.projections);
    state.skipped = j.value("skipped", int64_t{0});
    return state;
  } catch (const nlohmann::json::exception& e) {
    throw CheckpointError(where + "/state.json cannot be read: " + e.what());
  }
}

}  // namespace qt
