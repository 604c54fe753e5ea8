// train/trainer.cpp -- the training loop.
#include "train/trainer.h"

#include <cmath>

#include "core/base/log.h"
#include "core/ops/ops.h"
#include "deploy/engine.h"
#include "train/network.h"

namespace qt {

Trainer::Outcome Trainer::run(const StopRequests& requests) {
  while (state_.at.phase < int64_t(plan_.size())) {
    loader_->start_epoch(int(state_.at.epochs_done), state_.at.step * experiment_.train.accumulate);
    while (state_.at.step < steps_per_epoch_) {
      train_step();
      if (requests.stop()) {
        save({});
        log_->say("stopped by " + requests.reason() + " after step " +
                  std::to_string(state_.at.steps_done) + "; --resume=auto continues");
        return Outcome::stopped;
      }
      const int every = experiment_.checkpoint.every_steps;
      if (every > 0 && state_.at.steps_done % every == 0 && state_.at.step < steps_per_epoch_)
        save({});
    }
    end_epoch();
  }
  finish();
  return Outcome::done;
}

void Trainer::train_step() {
  const TrainConfig& config = experiment_.train;
  const double lr = learning_rate_->at(state_.at.epoch * steps_per_epoch_ + state_.at.step);
  const double waited_before = loader_->seconds_waited();
  const Pass pass{
      .mode = phase().mode, .training = true, .backward = backward_, .health = &health_};
  freeze_statistics();

  int64_t images = 0;
  for (int micro = 0; micro < config.accumulate; ++micro) {
    Batch batch;
    QT_CHECK(loader_->next(batch), "the loader ended within an epoch");
    const Var logits = model_->forward(batch.images, pass);
    const Var loss = softmax_cross_entropy(logits, batch.labels, config.label_smoothing);
    check_finite("loss", loss.value().data<float>()[0]);
    Tape::current().backward(loss,
                             Tensor::full(loss.value().shape(), 1.0f / float(config.accumulate)));
    const int64_t n = batch.labels.elements();
    state_.meter.add(loss.value().data<float>()[0], count_top1(logits.value(), batch.labels), n);
    images += n;
  }
  if (const std::string bad = first_bad_gradient(parameters_); !bad.empty())
    diverged("the gradient of " + bad);
  optimizer_->step(lr);
  if (const std::string bad =
          first_bad_parameter(parameters_, phase().mode != ForwardMode::float32);
      !bad.empty())
    diverged(bad);

  ++state_.at.step, ++state_.at.steps_done;
  if (options_.steps_done) *options_.steps_done = state_.at.steps_done;
  state_.projections = projections_before_ + optimizer_->projections();
  log_->step({.phase = phase().name,
              .epoch = state_.at.epoch,
              .epochs = phase().config->epochs,
              .step = state_.at.step,
              .lr = lr,
              .seconds_waited = loader_->seconds_waited() - waited_before,
              .images = images},
             state_);
}

void Trainer::end_epoch() {
  const int64_t epoch = state_.at.epoch + 1;
  const bool phase_ends = epoch == phase().config->epochs;
  const auto due = [&](int every) { return phase_ends || (every > 0 && epoch % every == 0); };
  std::optional<double> score;
  if (phase_ends) log_->phase_ended(phase().name);
  log_->pause();
  if (phase().mode != ForwardMode::float32 && experiment_.log.histograms_every > 0 &&
      due(experiment_.log.histograms_every))
    collect_statistics();
  if (due(experiment_.eval.every_epochs)) {
    evaluate_now();
    if (last_phase()) score = last_evaluation_->top1;
  }
  write_bad_samples();
  const bool saves = due(experiment_.checkpoint.every_epochs);
  advance();
  if (saves) save(score);
  log_->resume();
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
  if (state_.at.phase < int64_t(plan_.size())) begin_phase(nullptr);
}

void Trainer::check_finite(const std::string& name, double value) {
  const std::string constant = health_.first_bad();
  if (!constant.empty()) diverged(constant);
  if (!std::isfinite(value)) diverged(name);
}

void Trainer::diverged(const std::string& what) {
  Tape::current().forget();
  throw DivergenceError("step " + std::to_string(state_.at.steps_done + 1) + " (" + phase().name +
                        ", epoch " + std::to_string(state_.at.epoch + 1) + "): " + what +
                        " is not finite; the last checkpoint is untouched. A lower train." +
                        phase().name + ".lr or more schedule.warmup_epochs may help");
}

// A function of the position alone, so that a resumed run does the same.
void Trainer::freeze_statistics() {
  const double share = double(state_.at.epoch * steps_per_epoch_ + state_.at.step) /
                       double(phase().config->epochs * steps_per_epoch_);
  const bool frozen = phase().mode != ForwardMode::float32 && experiment_.quant.bn.freeze_at < 1 &&
                      share >= experiment_.quant.bn.freeze_at;
  for (BatchNormState* norm : norms_) norm->frozen = frozen;
}

void Trainer::evaluate_now() {
  const int batches = experiment_.quant.bn.reestimate_batches;
  if (phase().mode != ForwardMode::float32 && batches > 0) {
    Loader loader(train_set_, loader_spec());
    reestimate_statistics(*model_, loader, int(state_.at.epochs_done), batches, phase().mode);
  }
  last_evaluation_ = evaluation();
  log_->evaluated(phase().name, state_, *last_evaluation_, what_was_evaluated());
  if (last_phase() && (!state_.best_top1 || last_evaluation_->top1 > *state_.best_top1))
    state_.best_top1 = last_evaluation_->top1;
}

// After QAT it is the integer program that is evaluated, and kept.
Evaluation Trainer::evaluation() {
  const EvaluateOptions options{.loader = eval_loader_spec(experiment_)};
  if (phase().mode == ForwardMode::float32 || !has_program())
    return evaluate(test_set_, logits_of_model(*model_, phase().mode), options);
  Program program = integer_program();
  const CodePath path =
      phase().mode == ForwardMode::exact_float ? CodePath::exact_float : CodePath::integer;
  const Evaluation result = evaluate(test_set_, logits_of_program(program, path), options);
  program.notes["top1"] = std::to_string(result.top1);
  const bool best = last_phase() && (!state_.best_top1 || result.top1 > *state_.best_top1);
  save_program_files(program, best);
  return result;
}

void Trainer::collect_statistics() {
  LoaderSpec spec = eval_loader_spec(experiment_);
  spec.batch = std::min<int64_t>(spec.batch, 32);
  spec.workers = 0;
  Loader loader(test_set_, spec);
  Batch batch;
  loader.start_epoch(0);
  if (loader.next(batch))
    log_->statistics(state_, layer_statistics(*model_, batch.images, phase().mode));
}

}  // namespace qt
