// distributed/buckets.cpp -- filling buckets from the tape's hooks, sending them in order, and the
// time that took.
#include "distributed/buckets.h"

#include <algorithm>
#include <utility>

#include "core/device/memory.h"

namespace qt {

GradientBuckets::GradientBuckets(const std::vector<NamedVar>& parameters, Communicator& ranks,
                                 const Options& options)
    : ranks_(ranks), options_(options) {
  for (auto it = parameters.rbegin(); it != parameters.rend(); ++it) {
    const int64_t limit =
        buckets_.size() <= 1 ? std::min(options.first_bytes, options.bytes) : options.bytes;
    if (buckets_.empty() || buckets_.back().elements * int64_t(sizeof(float)) >= limit)
      buckets_.emplace_back();
    Bucket& bucket = buckets_.back();
    const int64_t elements = it->var.value().elements();
    bucket.entries.push_back({*it, bucket.elements, elements});
    bucket.elements += elements;
  }
  for (Bucket& bucket : buckets_)
    for (Entry& entry : bucket.entries) {
      entry.parameter.var.set_value(Tensor());  // where its gradient is is all that is needed
      entry.parameter.var.when_ready([this, &bucket, &entry](const Var&) {
        if (!armed_) return;
        fill(bucket, entry);
        send_ready();
      });
    }
}

GradientBuckets::~GradientBuckets() {
  for (Bucket& bucket : buckets_)
    for (Entry& entry : bucket.entries) entry.parameter.var.when_ready({});
}

void GradientBuckets::arm() {
  armed_ = true;
  next_ = 0;
  for (Bucket& bucket : buckets_) {
    // New storage each step: an operation that was given up may still hold the old one.
    bucket.values = Tensor::empty({bucket.elements}, DType::f32);
    bucket.missing = bucket.entries.size();
    bucket.pending.reset();
    for (Entry& entry : bucket.entries) entry.filled = false;
  }
}

void GradientBuckets::fill(Bucket& bucket, Entry& entry) {
  QT_CHECK(!entry.filled, entry.parameter.name + ": its gradient became final twice in one step");
  const Tensor& gradient = entry.parameter.var.grad();
  float* const target = bucket.values.data<float>() + entry.offset;
  const size_t bytes = size_t(entry.elements) * sizeof(float);
  if (gradient.defined()) {
    QT_CHECK(gradient.dtype() == DType::f32 && gradient.elements() == entry.elements,
             entry.parameter.name + ": gradient " + gradient.shape().text());
    copy_bytes(target, gradient.raw(), bytes);
  } else {
    set_bytes(target, 0, bytes);
  }
  entry.filled = true;
  --bucket.missing;
}

void GradientBuckets::send_ready() {
  for (; next_ < buckets_.size() && buckets_[next_].missing == 0; ++next_)
    buckets_[next_].pending =
        ranks_.start_sum(buckets_[next_].values, options_.wire,
                         "the sum of gradients (bucket " + std::to_string(next_ + 1) + " of " +
                             std::to_string(buckets_.size()) + ")");
}

void GradientBuckets::finish() {
  QT_CHECK(armed_, "GradientBuckets: finish without arm");
  armed_ = false;
  for (Bucket& bucket : buckets_)
    for (Entry& entry : bucket.entries)
      if (!entry.filled) fill(bucket, entry);
  send_ready();
  for (Bucket& bucket : buckets_) bucket.pending->wait();
  measure();
  for (Bucket& bucket : buckets_)
    for (Entry& entry : bucket.entries) {
      const Tensor& before_sum = entry.parameter.var.grad();
      if (!before_sum.defined()) continue;
      Tensor sum = Tensor::empty(before_sum.shape(), DType::f32);
      copy_bytes(sum.raw(), std::as_const(bucket.values).data<float>() + entry.offset, sum.bytes());
      entry.parameter.var.set_grad(sum);
    }
}

// Buckets are sent in order, so that their union is found in one walk.
void GradientBuckets::measure() {
  double until = 0;
  for (const Bucket& bucket : buckets_) {
    const double begin = std::max(bucket.pending->started(), until),
                 end = bucket.pending->finished();
    if (end > begin) on_the_way_ += end - begin, until = end;
    waited_ += bucket.pending->waited();
  }
}

}  // namespace qt
