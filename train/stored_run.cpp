// train/stored_run.cpp -- finding config, weights and data of what a run left behind.
#include "train/stored_run.h"

#include <algorithm>
#include <filesystem>

#include "core/base/files.h"
#include "core/base/log.h"
#include "deploy/build_program.h"
#include "deploy/model_file.h"
#include "train/checkpoint.h"
#include "train/network.h"

namespace qt {
namespace {

namespace fs = std::filesystem;

struct Place {
  std::string run;         // the run folder, "" where unknown
  std::string checkpoint;  // a checkpoint folder, "" for a model file
  std::string file;        // model.qat
};

// DataError unless the program was made for such pictures and so many classes.
void check_fit(const Program& program, const Dataset& set, const std::string& what) {
  const Preprocessing& wanted = program.preprocessing;
  const int64_t classes = int64_t(set.classes().size());
  if (classes != program.classes())
    throw DataError("the " + what + " tells " + std::to_string(program.classes()) +
                    " classes apart, the data set has " + std::to_string(classes));
  if (set.height() != wanted.height || set.width() != wanted.width)
    throw DataError("the " + what + " takes pictures of " + std::to_string(wanted.height) + "x" +
                    std::to_string(wanted.width) + ", the data set gives " +
                    std::to_string(set.height()) + "x" + std::to_string(set.width()) +
                    ": set data.image_size");
  const auto [ours, theirs] =
      std::mismatch(program.class_names.begin(), program.class_names.end(), set.classes().begin());
  if (ours != program.class_names.end())
    log::warn("class " + std::to_string(ours - program.class_names.begin()) + " is '" + *ours +
              "' in the " + what + " and '" + *theirs + "' in the data set");
}

Place find(const std::string& given) {
  if (!files::exists(given))
    throw CheckpointError("there is no '" + given +
                          "'; allowed: a run folder, a checkpoint folder or a model.qat");
  fs::path path = fs::absolute(given).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  if (!files::is_folder(path.string())) {
    const fs::path run = path.parent_path().parent_path();
    return {files::exists((run / "config.yaml").string()) ? run.string() : "", "", path.string()};
  }
  if (files::exists((path / "MANIFEST.json").string()))
    return {path.parent_path().parent_path().string(), path.string(), ""};
  if (files::is_folder((path / "checkpoints").string())) {
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
  if (config.empty()) {
    config = place.run + "/config.yaml";
    if (place.run.empty() || !files::exists(config))
      throw ConfigError("no config names network and data for '" + request.path +
                        "'; give --config FILE");
  }
  run.experiment = std::make_unique<Experiment>();
  load_config(*run.experiment, config, request.overrides);
  run.test_set = make_dataset(dataset_spec(*run.experiment), Split::test);
  if (!place.file.empty()) {
    check_fit(*run.program, *run.test_set, run.what);
    return run;
  }
  run.model = build_model(*run.experiment, *run.test_set);
  load_state(*run.model, load_checkpoint(place.checkpoint).content.tensors("model.safetensors"),
             true);
  run.what = "network of " + place.checkpoint;
  if (!is_quantized(*run.model, run.what)) return run;
  run.mode = forward_mode(run.experiment->train.forward);
  if (!has_program(*run.model)) return run;
  run.program = build_program(
      *run.model,
      {.class_names = run.test_set->classes(), .resize = run.test_set->resize_size(), .notes = {}});
  run.what = "integer program of " + place.checkpoint;
  return run;
}

}  // namespace qt
