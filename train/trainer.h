// train/trainer.h -- a run: float training, calibration, quantization-aware training, and where it
// stands.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/comm/communicator.h"
#include "deploy/build_program.h"
#include "distributed/buckets.h"
#include "train/agreement.h"
#include "train/checkpoint.h"
#include "train/device.h"
#include "train/evaluate.h"
#include "train/experiment.h"
#include "train/replica.h"
#include "train/run_folder.h"
#include "train/signals.h"
#include "train/simulation.h"
#include "train/state.h"
#include "train/training_log.h"
#include "train/training_steps.h"

namespace qt {

// What the command line adds to a config.
struct TrainerOptions {
  std::optional<int64_t> limit_train_batches = {};  // an epoch has at most so many steps
  std::optional<int64_t> overfit_batches =
      {};  // every epoch is the first so many batches, in file order, not augmented
  bool show_progress = true;
  Communicator* ranks = nullptr;  // null: one process
  std::optional<Simulation> simulation = {};
  std::shared_ptr<const Device> device = {};  // null: the one that the config names
  int64_t* steps_done = nullptr;              // kept up to date, for whoever reports a failure
};

struct Phase {
  std::string name;  // "float", "qat"
  const PhaseConfig* config;
  ForwardMode mode;
  bool quantized() const { return mode != ForwardMode::float32; }
};
// Those with epochs.
std::vector<Phase> plan(const Experiment& experiment);

class Trainer {
 public:
  enum class Outcome { done, stopped };

  Trainer(const Experiment& experiment, const TrainerOptions& options);

  // From here on the run has a folder (rank 0 alone: null on the others). Continues the given
  // checkpoint, the same on all ranks, or starts with train.init_from.
  void open(const RunFolder* folder, const std::optional<LoadedCheckpoint>& from);
  Outcome run(const StopRequests& requests);

  const std::string& stop_reason() const { return stop_reason_; }  // "" where nobody asked
  int64_t steps_done() const { return state_.at.steps_done; }
  bool is_complete() const { return state_.at.phase == int64_t(plan_.size()); }
  const std::optional<Evaluation>& last_evaluation() const { return last_evaluation_; }
  const std::optional<double>& best_top1() const { return state_.best_top1; }
  const std::string& device() const { return device_->name(); }
  const std::string& library() const { return state_.run.library; }
  // Whether the next step is one that a GPU recorded.
  bool replays() const { return steps_ && steps_->replays(); }
  std::string what_was_evaluated() const;  // "integer-program", "float", "simulated"
  std::string summary() const;             // for --dry-run and the log

 private:
  const Phase& phase() const { return plan_.at(size_t(state_.at.phase)); }
  bool last_phase() const { return state_.at.phase + 1 == int64_t(plan_.size()); }
  int64_t total_epochs() const;
  RunFacts facts() const;
  void check_device() const;
  void check_precisions_of_cpu() const;
  LoaderSpec loader_spec() const;
  Communicator* synchronized() const;  // Pass::synchronize
  // PeerError where a rank is lost.
  void note(const char* activity) const {
    ranks_.note(state_.at.steps_done + 1, activity);
    ranks_.check();
  }

  // The loop: trainer.cpp.
  Outcome run_phases();
  std::string epoch();
  Outcome stop_here(const std::string& reason);
  std::string reason_to_stop_evaluation() const;
  std::string train_step();
  void read_steps();
  void leave_out(const std::string& what, int64_t step);
  std::string end_epoch();
  bool is_due_for_saving() const;
  void advance();
  bool statistics_are_frozen(int64_t step) const;
  void freeze_statistics();
  using Stop = std::function<std::string()>;  // EvaluateOptions::stop
  std::string reestimate(const Stop& stop = {});
  std::string evaluate_calibration();
  std::string evaluate_epoch();
  Evaluation evaluate_and_export(const Stop& stop = {});
  std::optional<Program> program_to_evaluate();
  Evaluation evaluate_on_tests(const std::optional<Program>& program, const Stop& stop);
  bool is_best(const Evaluation& result) const;
  void check_finite(const Evaluation& result);
  void collect_statistics();
  [[noreturn]] void diverged(const std::string& what, int64_t step);
  LogitsOf on_device(const LogitsOf& logits_of) const;

  // Beginning, saving, continuing, ending: trainer_state.cpp.
  void open_log();
  void restore(const LoadedCheckpoint& from);
  void check_steps(const std::string& what) const;
  void leave_behind(const LoadedCheckpoint& from) const;
  void check_position(const std::string& folder) const;
  void begin_phase(const NamedTensors* optimizer_state);
  void calibrate_now();
  void make_buckets();
  void average_statistics();
  void save(std::optional<double> score);
  bool has_program() const { return qt::has_program(*model_); }
  bool skips() const { return experiment_.train.on_nan == "skip"; }
  Program integer_program();
  void save_program_files(const Program& program, bool best);
  void listing_bad_samples(const std::function<void()>& work) const;
  void write_bad_samples();
  void finish();

  const Experiment& experiment_;
  TrainerOptions options_;
  Communicator& ranks_;
  std::shared_ptr<const Device> device_;  // outlives the tensors below
  std::vector<Phase> plan_;
  std::shared_ptr<const Dataset> train_set_, test_set_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Model> twin_;  // of model_ in the host's memory, where model_ is on a GPU
  std::vector<NamedParameter> parameters_;
  std::vector<BatchNormState*> norms_;
  std::unique_ptr<Loader> loader_;
  int64_t steps_per_epoch_ = 0;
  int64_t phase_began_at_ = 0;  // steps over all phases
  Precision backward_ = Precision::f32;

  const RunFolder* folder_ = nullptr;
  std::unique_ptr<CheckpointStore> store_;
  std::unique_ptr<TrainingLog> log_;

  TrainState state_;
  std::unique_ptr<Optimizer> optimizer_;
  std::optional<LearningRate> learning_rate_;
  std::unique_ptr<TrainingSteps> steps_;      // of this phase
  std::unique_ptr<GradientBuckets> buckets_;  // with several ranks: the gradients' way
  const StopRequests* requests_ = nullptr;
  std::string stop_reason_;             // of all ranks, where the run was stopped
  bool has_trained_ = false;            // a step, in this process
  bool calibration_is_new_ = false;     // no step was trained with it, nor was it evaluated
  std::optional<int64_t> saved_after_;  // steps of the checkpoint that was saved or loaded last
  std::optional<Evaluation> last_evaluation_;
  bool was_complete_ = false;  // when it was continued: nothing is left to train, nor to write
};

}  // namespace qt
