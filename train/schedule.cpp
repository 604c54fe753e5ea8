// train/schedule.cpp -- cosine, step and constant learning rates.
#include "train/schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace qt {
namespace {

// Loshchilov & Hutter 2017, one cycle.
class Cosine : public Schedule {
 public:
  double factor(const SchedulePosition& at) const override {
    return at.epochs > 0 ? 0.5 * (1 + std::cos(3.14159265358979323846 * at.epoch / at.epochs)) : 1;
  }
};

class StepDown : public Schedule {
 public:
  explicit StepDown(const ScheduleConfig& config)
      : milestones_(config.milestones), gamma_(config.gamma) {}
  double factor(const SchedulePosition& at) const override {
    const auto passed = std::count_if(milestones_.begin(), milestones_.end(),
                                      [&](double m) { return m <= at.phase_epoch; });
    return std::pow(gamma_, double(passed));
  }

 private:
  std::vector<double> milestones_;
  double gamma_;
};

class Constant : public Schedule {
 public:
  double factor(const SchedulePosition&) const override { return 1; }
};

const ScheduleRegistry::Add add_cosine{
    "cosine", [](const ScheduleConfig&) { return std::make_unique<Cosine>(); }};
const ScheduleRegistry::Add add_step{
    "step", [](const ScheduleConfig& c) { return std::make_unique<StepDown>(c); }};
const ScheduleRegistry::Add add_constant{
    "constant", [](const ScheduleConfig&) { return std::make_unique<Constant>(); }};

}  // namespace

void check_schedule(const ScheduleConfig& config, double highest, const std::string& phase) {
  const std::string& kind = config.kind;
  if (kind != "constant" && config.min_lr > highest)
    throw ConfigError(fmt::format(
        "{}.schedule.min_lr: the lowest learning rate {} is above the highest, {}.lr = {}", phase,
        config.min_lr.get(), phase, highest));
  if (kind == "step" && config.milestones->empty())
    throw ConfigError(phase +
                      ".schedule.kind: step lowers the learning rate at schedule.milestones, "
                      "which has none; for one that stays: constant");
}

LearningRate::LearningRate(const ScheduleConfig& config, double highest, int64_t steps_per_epoch,
                           int64_t steps)
    : schedule_(ScheduleRegistry::make("schedule", config.kind, config)),
      highest_(highest),
      lowest_(std::min(config.min_lr.get(), highest)),
      steps_per_epoch_(std::max<int64_t>(steps_per_epoch, 1)),
      steps_(steps),
      warmup_(std::min(std::llround(config.warmup_epochs * double(steps_per_epoch)),
                       static_cast<long long>(steps))) {}

double LearningRate::at(int64_t step) const {
  if (step < warmup_) return highest_ * double(step + 1) / double(warmup_);
  const double per_epoch = double(steps_per_epoch_);
  const double factor = schedule_->factor({.epoch = double(step - warmup_) / per_epoch,
                                           .epochs = double(steps_ - warmup_) / per_epoch,
                                           .phase_epoch = double(step) / per_epoch});
  return lowest_ + (highest_ - lowest_) * factor;
}

}  // namespace qt
