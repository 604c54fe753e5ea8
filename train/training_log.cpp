// train/training_log.cpp -- one place for every number a run shows.
#include "train/training_log.h"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <utility>

#include "core/base/log.h"
#include "core/device/gpu.h"
#include "core/device/memory.h"

namespace qt {
namespace {

std::string percent(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.2f %%", value);
  return text.data();
}

// "integer-program top-1 91.20 %, top-5 99.10 %, loss 0.2512"
std::string outcome(const Evaluation& evaluation, const std::string& what) {
  std::array<char, 32> loss{};
  std::snprintf(loss.data(), loss.size(), "%.4f", std::fabs(evaluation.loss));  // -nan is nan
  return what + " top-1 " + percent(evaluation.top1) +
         (evaluation.top5 ? ", top-5 " + percent(*evaluation.top5) : "") + ", loss " + loss.data();
}

}  // namespace

double TrainingLog::now() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

TrainingLog::TrainingLog(const Experiment& experiment, const TrainingLogOptions& options,
                         const TrainState& at)
    : experiment_(experiment),
      options_(options),
      progress_(ProgressLine::on_stderr(experiment.log.progress_seconds)),
      remaining_({.first_step = at.at.steps_done,
                  .total_steps = options.total_steps,
                  .steps_per_epoch = options.steps_per_epoch}),
      since_(now()),
      step_began_(since_) {
  if (!options.writes) return;
  std::optional<MetricsEnd> resumed_from;
  if (options.resumed)
    resumed_from = {.step = at.at.steps_done,
                    .epoch = at.at.epochs_done + (at.at.step > 0),
                    .within_epoch = at.at.step > 0};
  metrics_.emplace(options.run_folder, resumed_from);
}

void TrainingLog::step(const StepReport& report, TrainState& state) {
  if (!metrics_) return;
  waited_ += report.seconds_waited;
  images_ += report.images;
  communicated_ += report.communicated.value_or(0);
  waited_for_ranks_ += report.waited_for_ranks.value_or(0);
  remaining_.step_done(state.at.steps_done, now(), report.seconds_waited);
  count(report, state.at.steps_done);
  if (is_due(report, state.at.steps_done)) {
    const double seconds = std::max(now() - since_, 1e-9);
    last_loss_ = state.meter.mean_loss(), last_top1_ = state.meter.top1(), has_last_ = true;
    images_per_second_ = double(images_) / seconds;
    NamedValues values = {{"train/loss", last_loss_},
                          {"train/top1", last_top1_},
                          {"train/lr", report.lr},
                          {"train/images_per_second", images_per_second_},
                          {"train/data_wait", waited_ / seconds},
                          {"train/step_projections", double(state.projections)},
                          {"memory/peak_bytes", double(memory_stats().peak)},
                          {"memory/peak_resident_bytes", double(peak_resident_bytes())},
                          {"memory/system_allocations", double(system_allocations_)}};
    if (experiment_.train.on_nan == "skip")
      values.emplace_back("train/skipped_steps", double(state.skipped));
    if (const size_t peak = gpu_memory_stats().peak; peak > 0) {
      values.emplace_back("memory/gpu_peak_bytes", double(peak));
      values.emplace_back("memory/gpu_reserved_bytes", double(gpu_reserved_bytes()));
    }
    if (report.communicated) {
      values.emplace_back("distributed/communication", communicated_ / seconds);
      values.emplace_back("distributed/hidden",
                          1 - waited_for_ranks_ / std::max(communicated_, 1e-9));
    }
    metrics_->write(state.at.steps_done, state.at.epochs_done + 1, values);
    state.meter = Meter();
    since_ = now(), waited_ = 0, images_ = 0, communicated_ = 0, waited_for_ranks_ = 0;
  }
  if (options_.show_progress && progress_.due()) show(report, state);
}

void TrainingLog::count(const StepReport& report, int64_t steps_done) {
  const double ended = now();
  if (!std::exchange(first_step_of_phase_, false)) {
    ++totals_.steps, totals_.images += report.images;
    totals_.seconds += ended - step_began_, totals_.waited += report.seconds_waited;
  }
  step_began_ = ended;
  const uint64_t asked = memory_stats().system_allocations;
  if (asked != system_allocations_) system_allocations_ = asked, grew_at_step_ = steps_done;
}

void TrainingLog::phase_ended(const std::string& phase) {
  if (totals_.steps > 0 && totals_.seconds > 0) {
    std::array<char, 256> text{};
    std::snprintf(
        text.data(), text.size(),
        "%s: %.1f ms a step (%.1f %% of it waiting for pictures), %.0f pictures a second; "
        "peak memory %.0f MiB; the system was last asked for memory in step %lld",
        phase.c_str(), 1e3 * totals_.seconds / double(totals_.steps),
        100 * totals_.waited / totals_.seconds, double(totals_.images) / totals_.seconds,
        double(peak_resident_bytes()) / double(1 << 20), static_cast<long long>(grew_at_step_));
    say(text.data());
  }
  totals_ = Totals();
  first_step_of_phase_ = true;
}

void TrainingLog::show(const StepReport& report, const TrainState& state) {
  ProgressValues values;
  values.label = report.phase;
  values.epoch = report.epoch + 1, values.epochs = report.epochs;
  values.step_in_epoch = report.step, values.steps_per_epoch = options_.steps_per_epoch;
  const bool meter = state.meter.images > 0 || !has_last_;
  values.values = {{"loss", meter ? state.meter.mean_loss() : last_loss_},
                   {"top1", meter ? state.meter.top1() : last_top1_},
                   {"lr", report.lr}};
  const double seconds = now() - since_;
  const double rate = images_ > 0 && seconds > 0 ? double(images_) / seconds : images_per_second_;
  if (rate > 0) values.images_per_second = rate;
  values.data_share = remaining_.data_share();
  values.memory_bytes = memory_stats().peak;
  values.seconds_left = remaining_.seconds_left();
  progress_.show(values);
}

void TrainingLog::evaluated(const std::string& phase, const TrainState& state,
                            const Evaluation& evaluation, const std::string& what) {
  if (!metrics_) return;
  NamedValues values = {{"eval/top1", evaluation.top1},
                        {"eval/loss", evaluation.loss},
                        {"eval/" + phase + "_top1", evaluation.top1}};
  if (evaluation.top5) values.emplace_back("eval/top5", *evaluation.top5);
  metrics_->write(state.at.steps_done, state.at.epochs_done + 1, values);
  say(phase + ", epoch " + std::to_string(state.at.epochs_done + 1) + "/" +
      std::to_string(options_.total_epochs) + ": " + outcome(evaluation, what));
}

void TrainingLog::calibrated(const std::string& phase, const TrainState& state,
                             const Evaluation& evaluation, const std::string& what) {
  if (!metrics_) return;
  NamedValues values = {{"eval/ptq_top1", evaluation.top1}, {"eval/ptq_loss", evaluation.loss}};
  if (evaluation.top5) values.emplace_back("eval/ptq_top5", *evaluation.top5);
  metrics_->write(state.at.steps_done, state.at.epochs_done + 1, values);
  say(phase + ", before its first step: " + outcome(evaluation, what));
}

void TrainingLog::statistics(const TrainState& state, const std::vector<LayerStatistics>& layers) {
  if (metrics_) write_statistics(*metrics_, state.at.steps_done, state.at.epochs_done + 1, layers);
}

void TrainingLog::pause() {
  paused_at_ = now();
  remaining_.pause_begins(paused_at_);
}

void TrainingLog::resume(bool recurs) {
  since_ += now() - paused_at_;
  step_began_ += now() - paused_at_;
  remaining_.pause_ends(now(), recurs);
}

void TrainingLog::say(const std::string& message) {
  if (!metrics_) return;
  progress_.clear();
  log::info(message);
}

}  // namespace qt
