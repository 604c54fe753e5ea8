// train/schedule.h -- learning rates as functions of the step: warm-up, then what a registered
// schedule says.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/base/config.h"
#include "core/base/registry.h"

namespace qt {

struct ScheduleConfig;

// Where a step stands, in epochs: of `epochs` after the warm-up, and of the whole phase.
struct SchedulePosition {
  double epoch = 0, epochs = 0;  // 0 <= epoch <= epochs
  double phase_epoch = 0;
};

// Ensures: a factor in 0 .. 1.
class Schedule {
 public:
  virtual ~Schedule() = default;
  virtual double factor(const SchedulePosition& at) const = 0;
};
// Registered in the schedule's file.
using ScheduleRegistry = Registry<Schedule, const ScheduleConfig&>;

struct ScheduleConfig : Section {
  using Section::Section;
  Key<std::string> kind{this, "kind", "cosine", one_of_names(ScheduleRegistry::names),
                        "shape after the warm-up"};
  Key<double> warmup_epochs{this, "warmup_epochs", 0, range(0, 100000),
                            "linear rise, step i of w: i / w of lr; at most the phase"};
  Key<std::vector<double>> milestones{
      this, "milestones", {}, greater_than(0), "step: epochs of the phase that lower it"};
  Key<double> gamma{this, "gamma", 0.1, range(0, 1), "step: factor at each milestone"};
  Key<double> min_lr{this, "min_lr", 0, at_least(0),
                     "the learning rate where the schedule's factor is zero"};
};

// ConfigError, naming the key below `phase` ("train.qat"), where the schedule cannot be meant: its
// lowest rate is above the highest, or it has no milestones to step down at. For training, not for
// what a stored run is read for.
void check_schedule(const ScheduleConfig& config, double highest, const std::string& phase);

// The learning rate of every step of one phase.
class LearningRate {
 public:
  LearningRate(const ScheduleConfig& config, double highest, int64_t steps_per_epoch,
               int64_t steps);
  // Step 0 .. steps-1. Warm-up of w steps: highest * (step + 1) / w; then min_lr + (highest -
  // min_lr) * factor.
  double at(int64_t step) const;

 private:
  std::unique_ptr<Schedule> schedule_;
  double highest_, lowest_;
  int64_t steps_per_epoch_, steps_, warmup_;
};

}  // namespace qt
