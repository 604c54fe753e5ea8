// train/cpu_training.h -- training steps on a CPU, one at a time.
#pragma once
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "data/loader.h"
#include "train/optimizer.h"
#include "train/step_state.h"
#include "train/training_steps.h"

namespace qt {

class CpuTraining : public TrainingSteps {
 public:
  CpuTraining(Model& model, Optimizer& optimizer, Loader& loader, const StepOptions& options);

  void start_epoch(int epoch, int64_t first_batch) override {
    loader_.start_epoch(epoch, first_batch);
  }
  StepEnd step(double lr, const std::function<std::string()>& stop) override;
  bool is_full() const override { return !results_.empty(); }
  std::vector<StepResult> read() override { return std::exchange(results_, {}); }

 private:
  StepEnd run_batches(StepResult& result);
  std::string first_not_finite(double loss);
  void update(double lr, StepResult& result);
  void take_back();

  Model& model_;
  Optimizer& optimizer_;
  Loader& loader_;
  StepOptions options_;
  std::vector<NamedParameter> parameters_;
  std::vector<BatchNormState*> norms_;
  Health health_;
  std::optional<StepState> before_;  // what a step must leave as it was, where it takes back
  std::vector<StepResult> results_;
};

}  // namespace qt
