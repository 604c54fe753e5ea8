// train/stored_run.cpp -- finding config, weights and data of what a run left behind.
#include "train/stored_run.h"

#include <filesystem>

#include "core/base/files.h"
#include "deploy/build_program.h"
#include "deploy/model_file.h"
#include "train/checkpoint.h"
#include "train/network.h"

namespace qt {
namespace {

namespace fs = std::filesystem;

// Whether every quantizer has a step: false after float training.
bool is_quantized(Model& model) {
  bool ready = true, any = false;
  Visitor visitor;
  visitor.quantizer = [&](const std::string&, Quantizer& quantizer) {
    if (quantizer.step()) any = true, ready &= quantizer.ready();
  };
  model.visit(visitor);
  return any && ready;
}

bool has_program(const Experiment& experiment) {
  return experiment.quant.residual != "none" && experiment.quant.weights.kind != "none" &&
         experiment.quant.activations.kind != "none";
}

struct Place {
  std::string run;         // the run folder, "" where unknown
  std::string checkpoint;  // a checkpoint folder, "" for a model file
  std::string file;        // model.qat
};

Place find(const std::string& given) {
  if (!files::exists(given))
    throw CheckpointError("there is no '" + given +
                          "'; allowed: a run folder, a checkpoint folder or a model.qat");
  fs::path path = fs::absolute(given).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  if (!fs::is_directory(path)) {
    const fs::path run = path.parent_path().parent_path();
    return {files::exists((run / "config.yaml").string()) ? run.string() : "", "", path.string()};
  }
  if (files::exists((path / "MANIFEST.json").string()))
    return {path.parent_path().parent_path().string(), path.string(), ""};
  if (fs::is_directory(path / "checkpoints")) {
    const auto newest = CheckpointStore((path / "checkpoints").string(), 1, 0).load_newest();
    if (!newest)
      throw CheckpointError("there is no checkpoint in " + (path / "checkpoints").string());
    return {path.string(), newest->folder, ""};
  }
  throw CheckpointError("'" + given +
                        "' is neither a run folder, a checkpoint folder nor a model.qat");
}

}  // namespace

StoredRun open_run(const StoredRunRequest& request) {
  const Place place = find(request.path);
  StoredRun run;
  if (!place.file.empty()) {
    run.program = load_program(place.file);
    run.what = "integer program " + place.file;
    if (!request.needs_data) return run;
  }
  std::string config = request.config;
  if (config.empty() && !place.run.empty()) config = place.run + "/config.yaml";
  if (config.empty() || !files::exists(config))
    throw ConfigError("no config names the data for '" + request.path + "'; give --config FILE");
  run.experiment = std::make_unique<Experiment>();
  load_config(*run.experiment, config, request.overrides);
  run.test_set = make_dataset(dataset_spec(*run.experiment), Split::test);
  if (!place.file.empty()) return run;
  run.model = build_model(*run.experiment, *run.test_set);
  load_state(*run.model, load_checkpoint(place.checkpoint).content.tensors("model.safetensors"),
             true);
  run.what = "network of " + place.checkpoint;
  if (!is_quantized(*run.model)) return run;
  run.mode = forward_mode(run.experiment->train.forward);
  if (!has_program(*run.experiment)) return run;
  run.program = build_program(
      *run.model,
      {.class_names = run.test_set->classes(), .resize = run.test_set->resize_size(), .notes = {}});
  run.what = "integer program of " + place.checkpoint;
  return run;
}

}  // namespace qt
