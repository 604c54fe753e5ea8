// train/stored_run.h -- RUN of `eval` and `inspect`: a run folder, a checkpoint folder or a
// model.qat, brought back to life.
#pragma once
#include <memory>
#include <optional>
#include <string>

#include "deploy/program.h"
#include "train/experiment.h"

namespace qt {

struct StoredRun {
  std::string what;                        // "integer program runs/x/export/model.qat": for people
  std::unique_ptr<Experiment> experiment;  // null for a model.qat without config
  std::shared_ptr<const Dataset> test_set;
  std::unique_ptr<Model> model;  // null for a model.qat
  ForwardMode mode =
      ForwardMode::float32;        // of the model: float32 after float training, else train.forward
  std::optional<Program> program;  // none for float training and networks without one
};

struct StoredRunRequest {
  std::string path;
  std::string config = {};  // in place of the run folder's config.yaml
  std::vector<ConfigOverride> overrides = {};
  bool needs_data =
      true;  // false: a data set is read only where the network cannot be built without
};

// CheckpointError for a path that is none of the three and for a network of other classes or
// quantizers, ConfigError where no config names the data, DataError for a model.qat of another
// number or another order of classes or another size. Pictures of files are prepared as a model.qat
// says, unless the overrides say otherwise.
StoredRun open_run(const StoredRunRequest& request);

}  // namespace qt
