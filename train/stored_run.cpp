// train/stored_run.cpp -- finding config, weights and data of what a run left behind.
#include "train/stored_run.h"

#include <algorithm>
#include <array>
#include <climits>
#include <filesystem>

#include "core/base/files.h"
#include "core/base/log.h"
#include "core/base/text.h"
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

// Sets a key of the config to what the program says, unless the command line does.
template <class T>
void take(Key<T>& key, int64_t value) {
  if (!key.origin().starts_with("command line") && value <= INT_MAX)
    key.set(T(value), "the integer program");
}

// Pictures of files are prepared as the program was made for.
void prepare_as(const Preprocessing& wanted, DataConfig& data) {
  if (data.kind != "imagefolder" || wanted.height != wanted.width) return;
  take(data.image_size, wanted.height);
  take(data.resize_size, wanted.resize);
}

// The same names in another order: what is called wrong would be right.
bool is_reordered(std::vector<std::string> a, std::vector<std::string> b) {
  if (a == b) return false;
  std::sort(a.begin(), a.end());
  std::sort(b.begin(), b.end());
  return a == b;
}

void check_classes(const Program& program, const Dataset& set, const std::string& what) {
  const int64_t classes = int64_t(set.classes().size());
  if (classes != program.classes())
    throw DataError("the " + what + " tells " + std::to_string(program.classes()) +
                    " classes apart, the data set has " + std::to_string(classes));
  const std::vector<std::string>& ours = program.class_names;
  if (ours.empty() || ours == set.classes()) return;
  size_t first = 0, differing = 0;
  for (size_t i = ours.size(); i-- > 0;)
    if (ours[i] != set.classes()[i]) first = i, ++differing;
  const std::string example = "class " + std::to_string(first) + " is " + in_quotes(ours[first]) +
                              " in the " + what + " and " + in_quotes(set.classes()[first]) +
                              " in the data set";
  if (is_reordered(ours, set.classes()))
    throw DataError(example + ": the classes are numbered in another order");
  log::warn(example + (differing > 1 ? "; " + std::to_string(differing) + " names differ" : ""));
}

// DataError unless the program was made for such pictures and classes; a warning where they are
// prepared in another way.
void check_fit(const Program& program, const Dataset& set, const DataConfig& data,
               const std::string& what) {
  const Preprocessing& wanted = program.preprocessing;
  check_classes(program, set, what);
  if (set.height() != wanted.height || set.width() != wanted.width)
    throw DataError("the " + what + " takes pictures of " + std::to_string(wanted.height) + "x" +
                    std::to_string(wanted.width) + ", the data set gives " +
                    std::to_string(set.height()) + "x" + std::to_string(set.width()) +
                    ": set data.image_size");
  if (wanted.resize != 0 && set.resize_size() != wanted.resize)
    log::warn("the " + what + " was made for pictures whose shorter side becomes " +
              std::to_string(wanted.resize) + " before they are cropped; here it becomes " +
              std::to_string(set.resize_size()));
  const auto differs = [](const Key<std::vector<double>>& asked,
                          const std::array<double, 3>& used) {
    return asked.origin().starts_with("command line") &&
           !std::equal(used.begin(), used.end(), asked->begin());
  };
  if (differs(data.mean, wanted.mean) || differs(data.std, wanted.std))
    log::warn("data.mean and data.std are in the " + what + ", which keeps its own");
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
  if (run.program) prepare_as(run.program->preprocessing, run.experiment->data);
  run.test_set = make_dataset(dataset_spec(*run.experiment), Split::test);
  if (run.program) {
    check_fit(*run.program, *run.test_set, run.experiment->data, run.what);
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
