// train/training_log.h -- what a run says of itself while it trains: progress line, metrics.jsonl,
// TensorBoard, log.
#pragma once
#include <optional>
#include <string>

#include "train/evaluate.h"
#include "train/experiment.h"
#include "train/metrics.h"
#include "train/progress.h"
#include "train/state.h"
#include "train/statistics.h"

namespace qt {

struct TrainingLogOptions {
  bool writes = true;  // false: nothing is shown or written (all ranks but the first)
  std::string run_folder;
  bool resumed = false;
  bool show_progress = true;
  int64_t steps_per_epoch = 1, total_steps = 1, total_epochs = 1;
};

// One step that has just ended, for the log.
struct StepReport {
  std::string phase;
  int64_t epoch = 0, epochs = 1;  // of the phase; epoch counts from 0
  int64_t step = 0;               // within the epoch, counted from 1
  bool ends_phase = false;        // the phase's last step
  double lr = 0;
  double seconds_waited = 0;  // of this step, for pictures
  int64_t images = 0;
  // Of this step, with several ranks: seconds with gradients on the way, and those of them that
  // backward did not hide.
  std::optional<double> communicated = {}, waited_for_ranks = {};
};

class TrainingLog {
 public:
  TrainingLog(const Experiment& experiment, const TrainingLogOptions& options,
              const TrainState& at);

  // Whether step() will write the meter, which must be up to date then.
  bool is_due(const StepReport& report, int64_t steps_done) const {
    return report.ends_phase || steps_done % experiment_.log.every == 0;
  }
  // Writes the meter every log.every steps and with a phase's last one, and then clears it.
  void step(const StepReport& report, TrainState& state);
  void evaluated(const std::string& phase, const TrainState& state, const Evaluation& evaluation,
                 const std::string& what);
  // What the network is worth with quantizer steps that were just chosen.
  void calibrated(const std::string& phase, const TrainState& state, const Evaluation& evaluation,
                  const std::string& what);
  void statistics(const TrainState& state, const std::vector<LayerStatistics>& layers);
  // One line: what a step took and what memory the process needed.
  void phase_ended(const std::string& phase);
  // Around evaluations and saves, so that they do not spoil the rates. recurs: at every epoch's
  // end.
  void pause();
  void resume(bool recurs = true);
  void say(const std::string& message);
  void sync() {
    if (metrics_) metrics_->sync();
  }
  void finish() { progress_.finish(); }

 private:
  void show(const StepReport& report, const TrainState& state);
  void count(const StepReport& report, int64_t steps_done);
  double now() const;

  const Experiment& experiment_;
  TrainingLogOptions options_;
  std::optional<MetricsLog> metrics_;
  ProgressLine progress_;
  RemainingTime remaining_;
  double last_loss_ = 0, last_top1_ = 0, images_per_second_ = 0;
  bool has_last_ = false;
  // Since the last line of metrics.jsonl, without pauses.
  double since_ = 0, waited_ = 0, paused_at_ = 0, communicated_ = 0, waited_for_ranks_ = 0;
  int64_t images_ = 0;
  // Of the phase, in this process, without pauses and without the first step, which creates plans.
  struct Totals {
    int64_t steps = 0, images = 0;
    double seconds = 0, waited = 0;
  };
  Totals totals_;
  double step_began_ = 0;
  bool first_step_of_phase_ = true;
  // When the memory pool last asked the operating system.
  uint64_t system_allocations_ = 0;
  int64_t grew_at_step_ = 0;
};

}  // namespace qt
