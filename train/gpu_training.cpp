// train/gpu_training.cpp -- the step itself, when it is recorded, and what the host reads of it.
#include "train/gpu_training.h"

#include "core/device/memory.h"
#include "core/ops/ops.h"
#include "core/tensor/transfer.h"
#include "train/network.h"

namespace qt {
namespace {

constexpr int64_t columns = 1024;  // forward passes between two reads, at most

BatchShare share_of(const GpuBatch& batch) {
  return {batch.labels.elements(), batch.global_samples};
}

}  // namespace

GpuTraining::GpuTraining(Model& model, Optimizer& optimizer, Loader& loader,
                         const StepOptions& options)
    : model_(model),
      optimizer_(optimizer),
      options_(options),
      parameters_(parameters_of(model)),
      norms_(norms_of(model)),
      stream_(current_stream()),
      input_(loader, model.spec().classes),
      state_(model, optimizer),
      batches_(size_t(options.accumulate)),
      losses_(Tensor::zeros({columns}, DType::f32)),
      hits_(Tensor::zeros({columns}, DType::f32)),
      verdicts_(Tensor::zeros({columns}, DType::f32)),
      lifted_(Tensor::zeros({columns}, DType::f32)),
      position_(Tensor::zeros({1}, DType::i32)) {
  QT_CHECK(stream_.on_gpu, "GpuTraining is for a GPU's stream");
  QT_CHECK(options.accumulate <= columns, "more forward passes in a step than can be noted");
  if (!options.ranks) return;
  cannot_record_ = "the host starts the sums over ranks, and may have to give them up";
  options_.say("steps are launched kernel by kernel, not recorded as a CUDA graph: " +
               cannot_record_);
}

bool GpuTraining::is_full() const {
  return int64_t(images_.size()) + options_.accumulate > columns;
}

std::vector<bool> GpuTraining::frozen() const {
  std::vector<bool> list;
  for (const BatchNormState* norm : norms_) list.push_back(norm->frozen);
  return list;
}

std::vector<Shape> GpuTraining::extents() const {
  std::vector<Shape> list;
  for (const GpuBatch& batch : batches_) list.push_back(batch.images.shape());
  return list;
}

void GpuTraining::take_batches() {
  for (GpuBatch& batch : batches_) {
    QT_CHECK(input_.next(batch), "the loader ended within an epoch");
    // The buffers are two; with more passes in a step the next copy must not wait for the step.
    if (&batch != &batches_.back()) input_.prefetch();
  }
}

StepEnd GpuTraining::step(double lr, const std::function<std::string()>& stop) {
  QT_CHECK(!is_full(), "GpuTraining: read() comes before the next step");
  options_.note("reading pictures");
  take_batches();
  state_.begin();
  optimizer_.set_rate(lr);
  if (options_.ranks) return body_of_ranks(stop);
  // A graph holds for the pictures' extents and the statistics it was recorded with.
  if (frozen() != frozen_ || extents() != extents_) {
    graph_.reset();
    steps_like_this_ = 0;
    frozen_ = frozen();
    extents_ = extents();
  }
  if (options_.record && cannot_record_.empty() && !graph_ &&
      steps_like_this_ >= options_.eager_steps)
    record();
  if (!replay()) body();
  ++steps_like_this_;
  StepEnd end;
  for (const GpuBatch& batch : batches_) {
    images_.push_back(batch.labels.elements());
    end.images += images_.back();
  }
  input_.prefetch();
  return end;
}

// Whether the step is enqueued now: by the graph, where there is one. A first launch takes the
// memory that the step works in, and so does one after that memory was given back; it may find
// none, then nothing has run.
bool GpuTraining::replay() {
  if (!graph_) return false;
  const auto launch = [&] {
    try {
      graph_->launch(stream_);
    } catch (const OutOfMemory&) {  // others may keep it without need
      release_cached_gpu_memory();
      graph_->launch(stream_);
    }
  };
  try {
    launch();
    has_replayed_ = true;
  } catch (const Error& error) {
    if (has_replayed_ && !dynamic_cast<const OutOfMemory*>(&error)) throw;
    graph_.reset();
    release_cached_gpu_memory();
    cannot_record_ = error.what();
    options_.say("the recorded step cannot be launched, and steps are launched kernel by kernel: " +
                 cannot_record_);
  }
  return graph_.has_value();
}

// What cannot be recorded leaves no trace: nothing has run, and all tensors are put back.
void GpuTraining::record() {
  has_replayed_ = false;
  try {
    // The graph works in memory of its own. What steps before worked in would stay the pool's, and
    // be held twice.
    release_cached_gpu_memory();
    graph_.emplace(stream_, [&] {
      try {
        body();
      } catch (...) {
        // Within the recording, which the memory belongs to.
        Tape::current().forget();
        for (const NamedParameter& p : parameters_) p.parameter->var.clear_grad();
        static_cast<void>(optimizer_.take_lifted());
        state_.put_back();
        throw;
      }
    });
    options_.say("the step is recorded as a CUDA graph");
  } catch (const Error& error) {
    cannot_record_ = error.what();
    options_.say("the step cannot be recorded as a CUDA graph and is launched kernel by kernel: " +
                 cannot_record_);
  }
}

// One step, all of it enqueued on the stream: this is what is recorded.
void GpuTraining::body() {
  std::vector<CheckedTensor> watched;
  for (const GpuBatch& batch : batches_) {
    if (&batch != &batches_.front()) advance(position_);
    backward(forward(batch, watched), batch);
  }
  update(watched);
}

// A step whose gradients and running statistics become those of all ranks in the middle. What one
// rank finds not finite before is left out by all; the sums are the same everywhere, and so is what
// each finds in them.
StepEnd GpuTraining::body_of_ranks(const std::function<std::string()>& stop) {
  std::vector<CheckedTensor> watched;
  StatisticsAverage average(norms_, *options_.ranks);
  for (const GpuBatch& batch : batches_) {
    if (&batch != &batches_.front()) advance(position_);
    options_.note("forward");
    const Var loss = forward(batch, watched);
    options_.note("backward");
    if (&batch == &batches_.back()) {
      if (!options_.synchronize) average.start();
      options_.buckets->arm();
    }
    backward(loss, batch);
    images_.push_back(batch.labels.elements());
  }
  input_.prefetch();
  options_.buckets->finish();
  average.finish();
  StepEnd mine = of_this_rank(watched);
  mine.stop = stop();
  const StepEnd end = ends_.emplace_back(agreed(*options_.ranks, mine));
  options_.note("update");
  if (end.bad.empty()) {
    watched.clear();
    update(watched);
    return end;
  }
  for (const NamedParameter& p : parameters_) p.parameter->var.clear_grad();
  state_.put_back();
  advance(position_);
  return end;
}

// Read from the GPU, which has nothing to do any more that another rank could keep waiting.
StepEnd GpuTraining::of_this_rank(const std::vector<CheckedTensor>& watched) const {
  const auto losses = on_host(losses_).to_vector<float>(), hits = on_host(hits_).to_vector<float>();
  const auto bad = int64_t(on_host(first_bad(watched)).to_vector<float>()[0]);
  StepEnd end;
  for (size_t i = images_.size() - batches_.size(); i < images_.size(); ++i) {
    end.loss += double(losses[i]) * double(images_[i]);
    end.correct += int64_t(hits[i]);
    end.images += images_[i];
  }
  if (bad > 0) end.bad = watched.at(size_t(bad) - 1).name;
  return end;
}

// watched: what must be finite for the step to count; more is added.
void GpuTraining::update(std::vector<CheckedTensor>& watched) {
  watch_gradients(watched);
  optimizer_.update();
  watch_parameters(watched);
  const Tensor bad = first_bad(watched);
  note_at(verdicts_, position_, bad);
  if (const Tensor lifted = optimizer_.take_lifted(); lifted.defined())
    note_at(lifted_, position_, lifted);
  advance(position_);
  state_.settle(bad);
  watched_names_.clear();
  for (const CheckedTensor& w : watched) watched_names_.push_back(w.name);
}

Var GpuTraining::forward(const GpuBatch& batch, std::vector<CheckedTensor>& watched) {
  Health health;
  const Pass pass = training_pass(options_, share_of(batch), health);
  const Var logits = model_.forward(batch.images, pass);
  const Var loss = softmax_cross_entropy(logits, batch.labels, options_.label_smoothing);
  for (auto& [name, constants] : health.take()) watched.push_back({name, constants});
  watched.push_back({"loss", loss.value()});
  note_at(losses_, position_, loss.value());
  note_at(hits_, position_, hits(logits.value(), batch.labels));
  return loss;
}

void GpuTraining::backward(const Var& loss, const GpuBatch& batch) const {
  Tape::current().backward(loss, loss_gradient(options_, share_of(batch)));
}

void GpuTraining::watch_gradients(std::vector<CheckedTensor>& watched) const {
  for (const auto& [name, parameter] : parameters_) {
    const Var& var = parameter->var;
    if (var.wants_grad() && var.grad().defined())
      watched.push_back({"the gradient of " + name, var.grad()});
  }
}

// As first_bad_parameter.
void GpuTraining::watch_parameters(std::vector<CheckedTensor>& watched) const {
  for (const auto& [name, parameter] : parameters_) {
    const bool is_step = parameter->kind == Parameter::Kind::step;
    if (parameter->kind == Parameter::Kind::weight || !parameter->var.value().defined()) continue;
    if (is_step && options_.mode == ForwardMode::float32) continue;
    watched.push_back({name, parameter->var.value(), is_step});
  }
}

std::vector<StepResult> GpuTraining::read() {
  std::vector<StepResult> results;
  if (images_.empty()) return results;
  const auto losses = on_host(losses_).to_vector<float>(), hits = on_host(hits_).to_vector<float>(),
             verdicts = on_host(verdicts_).to_vector<float>(),
             lifted = on_host(lifted_).to_vector<float>();
  const size_t passes = size_t(options_.accumulate);
  for (size_t i = 0; i < images_.size(); ++i) {
    if (i % passes == 0) results.emplace_back();
    StepResult& result = results.back();
    if (!options_.ranks)
      result.parts.push_back(
          {double(losses[i]) * double(images_[i]), int64_t(hits[i]), images_[i]});
    if ((i + 1) % passes != 0) continue;
    if (options_.ranks) {
      const StepEnd& end = ends_.at(i / passes);
      result.parts.push_back({end.loss, end.correct, end.images});
      result.bad = end.bad;
    }
    if (!result.bad.empty()) continue;
    if (verdicts[i] > 0) result.bad = watched_names_.at(size_t(verdicts[i]) - 1);
    result.lifted = int64_t(lifted[i]);
  }
  images_.clear();
  ends_.clear();
  set_bytes(position_.raw(), 0, position_.bytes());
  return results;
}

}  // namespace qt
