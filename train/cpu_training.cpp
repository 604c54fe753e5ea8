// train/cpu_training.cpp -- forward, backward, what ranks agree on, and the update.
#include "train/cpu_training.h"

#include <cmath>

#include "core/ops/ops.h"
#include "deploy/engine.h"
#include "train/network.h"

namespace qt {

CpuTraining::CpuTraining(Model& model, Optimizer& optimizer, Loader& loader,
                         const StepOptions& options)
    : model_(model),
      optimizer_(optimizer),
      loader_(loader),
      options_(options),
      parameters_(parameters_of(model)),
      norms_(norms_of(model)) {
  if (options.takes_back) before_.emplace(model, optimizer);
}

StepEnd CpuTraining::step(double lr, const std::function<std::string()>& stop) {
  QT_CHECK(!is_full(), "CpuTraining: read() comes before the next step");
  if (before_) before_->begin();
  StepResult& result = results_.emplace_back();
  StepEnd end = run_batches(result);
  if (options_.ranks) {
    end.stop = stop();
    end = agreed(*options_.ranks, end);
    result.parts = {{end.loss, end.correct, end.images}};
  }
  result.bad = end.bad;
  if (result.bad.empty()) update(lr, result);
  if (!result.bad.empty()) take_back();
  return end;
}

// Forward and backward; afterwards gradients and running statistics are those of all ranks.
StepEnd CpuTraining::run_batches(StepResult& result) {
  std::optional<StatisticsAverage> average;
  if (options_.ranks && !options_.synchronize) average.emplace(norms_, *options_.ranks);
  StepEnd end;
  for (int micro = 0; micro < options_.accumulate; ++micro) {
    Batch batch;
    options_.note("reading pictures");
    QT_CHECK(loader_.next(batch), "the loader ended within an epoch");
    const int64_t n = batch.labels.elements();
    const BatchShare share{n, batch.global_samples};
    options_.note("forward");
    const Var logits = model_.forward(batch.images, training_pass(options_, share, health_));
    const Var loss = softmax_cross_entropy(logits, batch.labels, options_.label_smoothing);
    const double value = loss.value().data<float>()[0];
    const std::string bad = first_not_finite(value);  // asked each time: it forgets what it watched
    if (end.bad.empty()) end.bad = bad;
    // Alone there is nobody to agree with; with others all of them end the step first.
    if (!options_.ranks && !end.bad.empty()) {
      // The next step has batches of its own.
      while (++micro < options_.accumulate) loader_.next(batch);
      return end;
    }
    options_.note("backward");
    if (micro + 1 == options_.accumulate) {
      if (average) average->start();
      if (options_.buckets) options_.buckets->arm();
    }
    Tape::current().backward(loss, loss_gradient(options_, share));
    const int64_t correct = count_top(logits.value(), batch.labels, 1);
    result.parts.push_back({value * double(n), correct, n});
    end.loss += value * double(n), end.correct += correct, end.images += n;
  }
  if (options_.buckets) options_.buckets->finish();
  if (average) average->finish();
  return end;
}

std::string CpuTraining::first_not_finite(double loss) {
  const std::string constant = health_.first_bad();
  if (!constant.empty()) return constant;
  return std::isfinite(loss) ? "" : "loss";
}

void CpuTraining::update(double lr, StepResult& result) {
  options_.note("update");
  if (const std::string bad = first_bad_gradient(parameters_); !bad.empty()) {
    result.bad = "the gradient of " + bad;
    return;
  }
  optimizer_.step(lr);
  const Tensor lifted = optimizer_.take_lifted();
  result.bad = first_bad_parameter(parameters_, options_.mode != ForwardMode::float32);
  if (lifted.defined()) result.lifted = int64_t(lifted.to_vector<float>()[0]);
}

void CpuTraining::take_back() {
  Tape::current().forget();
  if (!before_) return;
  before_->put_back();
  for (const NamedParameter& p : parameters_) p.parameter->var.clear_grad();
}

}  // namespace qt
