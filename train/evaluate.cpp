// train/evaluate.cpp -- walking the test pictures, and batch normalization's statistics measured
// anew.
#include "train/evaluate.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/tensor/transfer.h"
#include "deploy/engine.h"
#include "train/network.h"

namespace qt {
namespace {

// Summed over the rows, in double.
double cross_entropy(const Tensor& logits, const Tensor& labels) {
  const int64_t classes = logits.dim(-1);
  double total = 0;
  for (int64_t row = 0; row < labels.elements(); ++row) {
    const float* at = logits.data<float>() + row * classes;
    const double most = *std::max_element(at, at + classes);
    double sum = 0;
    for (int64_t k = 0; k < classes; ++k) sum += std::exp(double(at[k]) - most);
    total += std::log(sum) + most - double(at[labels.data<int64_t>()[row]]);
  }
  return total;
}

// The first n rows.
Tensor head(const Tensor& x, int64_t n) {
  std::vector<int64_t> extents = x.shape().vector();
  if (extents.at(0) <= n) return x;
  extents[0] = n;
  Tensor part = Tensor::empty(Shape(extents), x.dtype());
  std::memcpy(part.raw(), x.raw(), part.bytes());
  return part;
}

// x and rows of zeros behind it, `rows` in all.
Tensor filled_up(const Tensor& x, int64_t rows) {
  std::vector<int64_t> extents = x.shape().vector();
  if (extents.at(0) == rows) return x;
  extents[0] = rows;
  Tensor whole = Tensor::zeros(Shape(extents), x.dtype());
  std::memcpy(whole.raw(), x.raw(), x.bytes());
  return whole;
}

// Rates, in which the first batch, whose plans are created and memory touched, counts only where it
// is the only one.
class Stopwatch {
 public:
  void network_begins() { network_began_ = Clock::now(); }
  void network_ends(int64_t images) {
    const auto ended = Clock::now();
    if (++batches_ == 2) network_ = {}, images_ = 0, began_ = first_ended_;
    network_ += ended - network_began_;
    images_ += images;
    if (batches_ == 1) first_ended_ = ended;
  }
  void report(Evaluation& evaluation) const {
    const auto rate = [&](Clock::duration time) {
      const double seconds = std::chrono::duration<double>(time).count();
      return seconds > 0 ? double(images_) / seconds : 0;
    };
    evaluation.network_rate = rate(network_);
    evaluation.rate = rate(Clock::now() - began_);
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point began_ = Clock::now(), network_began_, first_ended_;
  Clock::duration network_{};
  int64_t images_ = 0, batches_ = 0;
};

}  // namespace

NamedTensors Predictions::tensors() const {
  const int64_t n = int64_t(labels.size());
  const int64_t classes = n ? int64_t(logits.size()) / n : 0;
  return {{"logits", Tensor::of(Shape{n, classes}, logits)},
          {"labels", Tensor::of(Shape{n}, labels)}};
}

Evaluation evaluate(const std::shared_ptr<const Dataset>& dataset, const LogitsOf& logits_of,
                    const EvaluateOptions& options) {
  const Tape::Pause pause;
  LoaderSpec spec = options.loader;
  if (options.ranks) {
    spec.rank = options.ranks->rank(), spec.world = options.ranks->world();
    spec.batch = std::max<int64_t>(spec.batch, spec.world);
  }
  Loader loader(dataset, spec);
  const int64_t limit = std::min(options.limit.value_or(dataset->size()), dataset->size());
  Evaluation result;
  int64_t correct = 0, among_five = 0, most = 0;
  Stopwatch watch;
  loader.start_epoch(0);
  for (Batch batch; result.images < limit && loader.next(batch);) {
    if (options.stop) result.stopped_by = options.stop();
    if (!result.stopped_by.empty()) return result;
    const int64_t n = std::min(batch.labels.elements(), limit - result.images);
    if (n == 0) continue;  // another rank has all of a last, small batch
    if (options.ranks) options.ranks->check();
    most = std::max(most, n);
    const Tensor labels = head(batch.labels, n), pictures = head(batch.images, n);
    const Tensor images = options.fill_batches ? filled_up(pictures, most) : pictures;
    watch.network_begins();
    const Tensor logits = head(logits_of(images), n);
    watch.network_ends(n);
    QT_CHECK(logits.dim(-1) == int64_t(dataset->classes().size()),
             "logits " + logits.shape().text() + " for a data set of " +
                 std::to_string(dataset->classes().size()) + " classes");
    result.images += n;
    result.loss += cross_entropy(logits, labels);
    correct += count_top(logits, labels, 1);
    among_five += count_top(logits, labels, 5);
    if (options.predictions) {
      const auto rows = logits.to_vector<float>();
      const auto truth = labels.to_vector<int64_t>();
      options.predictions->logits.insert(options.predictions->logits.end(), rows.begin(),
                                         rows.end());
      options.predictions->labels.insert(options.predictions->labels.end(), truth.begin(),
                                         truth.end());
    }
  }
  watch.report(result);
  if (options.ranks) {
    const std::vector<double> totals = summed(
        *options.ranks, {result.loss, double(correct), double(among_five), double(result.images)},
        "evaluation");
    result.loss = totals[0], correct = int64_t(totals[1]), among_five = int64_t(totals[2]);
    result.images = int64_t(totals[3]);
  }
  if (result.images) result.loss /= double(result.images);
  if (result.images) result.top1 = 100.0 * double(correct) / double(result.images);
  if (result.images && dataset->classes().size() > 10)
    result.top5 = 100.0 * double(among_five) / double(result.images);
  return result;
}

LogitsOf logits_of_model(Model& model, ForwardMode mode) {
  return [&model, mode](const Tensor& images) {
    return on_host(model.forward(here(images), {.mode = mode}).value());
  };
}

LogitsOf logits_of_program(const Program& program, CodePath path) {
  const auto placed = std::make_shared<const Program>(program_here(program));
  return [placed, path](const Tensor& images) {
    return on_host(run_logits(*placed, here(images), path));
  };
}

std::string reestimate_statistics(Model& model, Loader& loader, const ReestimateOptions& options) {
  const Tape::Pause pause;
  const auto norms = norms_of(model);
  std::vector<float> momenta;
  for (const BatchNormState* norm : norms) momenta.push_back(norm->momentum);
  const Pass pass{.mode = options.mode,
                  .training = true,
                  .steps_follow = false,
                  .synchronize = options.synchronize};
  loader.start_epoch(options.epoch);
  std::string stopped_by;
  Batch batch;
  for (int i = 0; i < options.batches && loader.next(batch); ++i) {
    if (options.stop) stopped_by = options.stop();
    if (!stopped_by.empty()) break;
    for (BatchNormState* norm : norms) norm->momentum = 1.0f / float(i + 1);
    model.forward(here(batch.images), pass);
  }
  for (size_t i = 0; i < norms.size(); ++i) norms[i]->momentum = momenta[i];
  return stopped_by;
}

}  // namespace qt
