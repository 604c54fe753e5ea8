// train/trainer.cpp -- the training loop.
#include "train/trainer.h"

#include <cmath>

#include "core/base/log.h"
#include "train/network.h"

namespace qt {

Trainer::Outcome Trainer::run(const StopRequests& requests) {
  Outcome outcome = Outcome::done;
  requests_ = &requests;
  listing_bad_samples([&] { outcome = run_phases(); });
  return outcome;
}

Trainer::Outcome Trainer::run_phases() {
  while (!is_complete())
    if (const std::string reason = epoch(); !reason.empty()) return stop_here(reason);
  finish();
  return Outcome::done;
}

// Like whatever it calls that may be asked to stop: why it did before its end, "" where it did not.
std::string Trainer::epoch() {
  if (const std::string reason = evaluate_calibration(); !reason.empty()) return reason;
  steps_->start_epoch(int(state_.at.epochs_done), state_.at.step * experiment_.train.accumulate);
  while (state_.at.step < steps_per_epoch_) {
    if (const std::string reason = train_step(); !reason.empty()) return reason;
    if (is_due_for_saving() && state_.at.step < steps_per_epoch_) save({});
  }
  return end_epoch();
}

// What a checkpoint holds already is not saved again: it may be from before a calibration, and then
// leaves the choice of codes open.
Trainer::Outcome Trainer::stop_here(const std::string& reason) {
  stop_reason_ = reason;
  if (saved_after_ != state_.at.steps_done) save({});
  log_->say("stopped by " + stop_reason_ + " after step " + std::to_string(state_.at.steps_done) +
            "; --resume=auto continues");
  return Outcome::stopped;
}

// The same on all ranks. The time that is allowed does not end the evaluation with which a process
// begins: a run that is continued again and again must get on.
std::string Trainer::reason_to_stop_evaluation() const {
  return agreed_reason(ranks_, has_trained_ ? requests_->reason() : requests_->signal());
}

std::string Trainer::train_step() {
  const double lr = learning_rate_->at(state_.at.epoch * steps_per_epoch_ + state_.at.step);
  const double waited_before = loader_->seconds_waited();
  const double sent_before = buckets_ ? buckets_->seconds_on_the_way() : 0;
  const double exposed_before = buckets_ ? buckets_->seconds_waited() : 0;
  note("reading pictures");
  if (meet(options_.simulation, ranks_, Simulation::Place::step, state_.at.steps_done + 1)) {
    const auto section = device_->enter();
    flip_a_bit(*parameters_.front().parameter);
  }
  freeze_statistics();
  const StepEnd end = [&] {
    const auto section = device_->enter();
    return steps_->step(lr, [this] { return requests_->reason(); });
  }();

  has_trained_ = true, calibration_is_new_ = false;
  ++state_.at.step, ++state_.at.steps_done;
  StepReport report{.phase = phase().name,
                    .epoch = state_.at.epoch,
                    .epochs = phase().config->epochs,
                    .step = state_.at.step,
                    .ends_phase = state_.at.step == steps_per_epoch_ &&
                                  state_.at.epoch + 1 == phase().config->epochs,
                    .lr = lr,
                    .seconds_waited = loader_->seconds_waited() - waited_before,
                    .images = end.images};
  if (buckets_) {
    report.communicated = buckets_->seconds_on_the_way() - sent_before;
    report.waited_for_ranks = buckets_->seconds_waited() - exposed_before;
  }
  const bool due = log_->is_due(report, state_.at.steps_done);
  if (due || steps_->is_full()) read_steps();
  if (options_.steps_done) *options_.steps_done = state_.at.steps_done;
  const auto write = [&] { log_->step(report, state_); };
  if (due)
    by_writer(ranks_, "a line of the log", write);
  else
    write();
  return ranks_.alone() ? requests_->reason() : end.stop;
}

// What the steps since the last call gave: the meter, or the end.
void Trainer::read_steps() {
  const auto section = device_->enter();
  const std::vector<StepResult> results = steps_->read();
  int64_t step = state_.at.steps_done - int64_t(results.size());
  for (const StepResult& result : results) {
    ++step;
    if (!result.bad.empty()) {
      leave_out(result.bad, step);
      continue;
    }
    for (const StepResult::Part& part : result.parts)
      state_.meter.add(part.loss, part.correct, part.images);
    state_.projections += result.lifted;
  }
}

// A step that must change nothing, or the end.
void Trainer::leave_out(const std::string& what, int64_t step) {
  if (!skips()) diverged(what, step);
  ++state_.skipped;
  log_->say("step " + std::to_string(step) + " (" + phase().name + "): " + what +
            " is not finite; the step is left out, " + std::to_string(state_.skipped) + " so far");
}

bool Trainer::is_due_for_saving() const {
  const int every = experiment_.checkpoint.every_steps;
  return every > 0 && state_.at.steps_done % every == 0;
}

// Where its evaluation is stopped the epoch has not ended: a run that is continued begins with it.
std::string Trainer::end_epoch() {
  read_steps();
  const int64_t epoch = state_.at.epoch + 1;
  const bool phase_ends = epoch == phase().config->epochs;
  const auto due = [&](int every) { return phase_ends || (every > 0 && epoch % every == 0); };
  std::optional<double> score;
  if (phase_ends) log_->phase_ended(phase().name);
  log_->pause();
  note("comparing ranks");
  if (!ranks_.alone()) {
    const auto section = device_->enter();
    check_same(ranks_, saved_state(*model_), state_.at.steps_done);
  }
  if (due(experiment_.eval.every_epochs)) {
    if (const std::string reason = evaluate_epoch(); !reason.empty()) return reason;
    if (last_phase() && std::isfinite(last_evaluation_->loss)) score = last_evaluation_->top1;
  }
  note("layer statistics");  // of the network that was evaluated
  if (phase().quantized() && experiment_.log.histograms_every > 0 &&
      due(experiment_.log.histograms_every))
    by_writer(ranks_, "layer statistics", [&] { collect_statistics(); });
  const bool saves = due(experiment_.checkpoint.every_epochs) || is_due_for_saving();
  advance();
  // Before the next phase begins: what its calibration may meet costs nothing that was trained.
  if (saves)
    save(score);
  else
    write_bad_samples();
  if (phase_ends && !is_complete()) begin_phase(nullptr);
  log_->resume();
  return "";
}

void Trainer::advance() {
  const bool phase_ends = state_.at.epoch + 1 == phase().config->epochs;
  state_.at.step = 0;
  ++state_.at.epochs_done;
  ++state_.at.epoch;
  if (!phase_ends) return;
  state_.at.epoch = 0;
  ++state_.at.phase;
  state_.at.calibrated = false;
  if (!is_complete()) phase_began_at_ = state_.at.steps_done;
}

void Trainer::diverged(const std::string& what, int64_t step) {
  Tape::current().forget();
  throw DivergenceError("step " + std::to_string(step) + " (" + phase().name + ", epoch " +
                        std::to_string(state_.at.epoch + 1) + "): " + what +
                        " is not finite; the last checkpoint is untouched. A lower train." +
                        phase().name + ".lr or more schedule.warmup_epochs may help");
}

// A function of the position alone, so that a resumed run does the same. step: of the epoch.
bool Trainer::statistics_are_frozen(int64_t step) const {
  const double share = double(state_.at.epoch * steps_per_epoch_ + step) /
                       double(phase().config->epochs * steps_per_epoch_);
  return phase().quantized() && experiment_.quant.bn.freeze_at < 1 &&
         share >= experiment_.quant.bn.freeze_at;
}

// With re-estimation frozen statistics are those of the weights that they are frozen with, whenever
// the run was evaluated before.
void Trainer::freeze_statistics() {
  const int64_t step = state_.at.step;
  const bool frozen = statistics_are_frozen(step);
  const bool first = state_.at.epoch == 0 && step == 0;
  if (frozen && (first || !statistics_are_frozen(step - 1))) reestimate();
  for (BatchNormState* norm : norms_) norm->frozen = frozen;
}

std::string Trainer::reestimate(const Stop& stop) {
  const int batches = experiment_.quant.bn.reestimate_batches;
  if (batches == 0) return "";
  const auto section = device_->enter();
  Loader loader(train_set_, loader_spec());
  const std::string stopped_by = reestimate_statistics(*model_, loader,
                                                       {.mode = phase().mode,
                                                        .epoch = int(state_.at.epochs_done),
                                                        .batches = batches,
                                                        .synchronize = synchronized(),
                                                        .stop = stop});
  average_statistics();
  return stopped_by;
}

std::string Trainer::evaluate_epoch() {
  note("evaluation");
  meet(options_.simulation, ranks_, Simulation::Place::eval);
  const Stop stop = [this] { return reason_to_stop_evaluation(); };
  if (phase().quantized() && !statistics_are_frozen(state_.at.step))
    if (const std::string reason = reestimate(stop); !reason.empty()) return reason;
  const Evaluation result = evaluate_and_export(stop);
  if (!result.stopped_by.empty()) return result.stopped_by;
  last_evaluation_ = result;
  by_writer(ranks_, "the log of an evaluation", [&] {
    log_->evaluated(phase().name, state_, *last_evaluation_, what_was_evaluated());
  });
  if (is_best(*last_evaluation_)) state_.best_top1 = last_evaluation_->top1;
  return "";
}

// What the network is worth before quantization-aware training, with steps that were just chosen:
// post-training quantization.
std::string Trainer::evaluate_calibration() {
  if (!calibration_is_new_ || !experiment_.eval.after_calibration) return "";
  log_->pause();
  note("evaluation after calibration");
  const Evaluation result =
      evaluate_on_tests(program_to_evaluate(), [this] { return reason_to_stop_evaluation(); });
  if (!result.stopped_by.empty()) return result.stopped_by;
  calibration_is_new_ = false;
  by_writer(ranks_, "the log of an evaluation",
            [&] { log_->calibrated(phase().name, state_, result, what_was_evaluated()); });
  log_->resume(/*recurs=*/false);
  return "";
}

bool Trainer::is_best(const Evaluation& result) const {
  return last_phase() && std::isfinite(result.loss) &&
         (!state_.best_top1 || result.top1 > *state_.best_top1);
}

// Logits that are not finite end the run as a loss in training does. Where such steps are left out
// the next ones may mend it, if there are any.
void Trainer::check_finite(const Evaluation& result) {
  if (std::isfinite(result.loss)) return;
  if (was_complete_)
    throw DivergenceError("the loss over the test pictures is not finite: the run has diverged");
  const bool last = last_phase() && state_.at.epoch + 1 == phase().config->epochs;
  if (!skips() || last) diverged("the loss over the test pictures", state_.at.steps_done);
  log_->say("step " + std::to_string(state_.at.steps_done) + " (" + phase().name +
            "): the loss over the test pictures is not finite");
}

// In the QAT phase it is the integer program that is evaluated, and kept.
Evaluation Trainer::evaluate_and_export(const Stop& stop) {
  std::optional<Program> program = program_to_evaluate();
  const Evaluation result = evaluate_on_tests(program, stop);
  if (!result.stopped_by.empty()) return result;
  check_finite(result);
  if (!program) return result;
  program->notes["top1"] = std::to_string(result.top1);
  by_writer(ranks_, "saving the integer program", [&] {
    if (!was_complete_ || !files::exists(folder_->file("export/model.qat")))
      save_program_files(*program, !was_complete_ && is_best(result));
  });
  return result;
}

// Nothing where the network itself is evaluated.
std::optional<Program> Trainer::program_to_evaluate() {
  if (!phase().quantized() || !has_program()) return {};
  return integer_program();
}

Evaluation Trainer::evaluate_on_tests(const std::optional<Program>& program, const Stop& stop) {
  LogitsOf logits_of;
  {
    const auto section = device_->enter();
    const bool floats = phase().mode == ForwardMode::exact_float;
    logits_of =
        program ? logits_of_program(*program, floats ? CodePath::exact_float : CodePath::integer)
                : logits_of_model(*model_, phase().mode);
  }
  return evaluate(test_set_, on_device(logits_of),
                  {.loader = eval_loader_spec(experiment_),
                   .stop = stop,
                   .fill_batches = device_->on_gpu(),
                   .ranks = ranks_.alone() ? nullptr : &ranks_});
}

LogitsOf Trainer::on_device(const LogitsOf& logits_of) const {
  return [device = device_, logits_of](const Tensor& images) {
    const auto section = device->enter();
    return logits_of(images);
  };
}

void Trainer::collect_statistics() {
  const Tensor images = pictures_over(*test_set_, std::min<int64_t>(eval_batch(experiment_), 32));
  const auto section = device_->enter();
  log_->statistics(state_, layer_statistics(*model_, images, phase().mode));
}

}  // namespace qt
