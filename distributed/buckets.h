// distributed/buckets.h -- gradients summed over ranks while backward goes on.
#pragma once
#include <string>
#include <vector>

#include "core/autograd/tape.h"
#include "core/comm/communicator.h"

namespace qt {

struct NamedVar {
  std::string name;
  Var var;  // f32; wants a gradient
};

// Parameters are cut into buckets from the last to the first, about the order in which backward
// finishes them. A bucket is sent as soon as all its gradients are final and the buckets before it
// are on their way, so the order is the same on all ranks. Each rank's gradients are its share of
// the global batch's mean: the sum is the gradient.
class GradientBuckets {
 public:
  struct Options {
    int64_t bytes = int64_t{25} << 20;
    // The first bucket is smaller, so that sending begins early (as PyTorch's is; Li et al., VLDB
    // 2020).
    int64_t first_bytes = int64_t{1} << 20;
    Wire wire = Wire::f32;
  };
  GradientBuckets(const std::vector<NamedVar>& parameters, Communicator& ranks,
                  const Options& options);
  ~GradientBuckets();
  GradientBuckets(const GradientBuckets&) = delete;
  GradientBuckets& operator=(const GradientBuckets&) = delete;

  // Before the last backward pass of a step: from now on gradients that become final are sent.
  void arm();
  // After it: sends what is left (a parameter without gradient counts as zero), waits, and puts the
  // sums in the gradients' place.
  void finish();

  // Since construction: seconds with a bucket on its way, and those that the work after backward
  // stood still for them.
  double seconds_on_the_way() const { return on_the_way_; }
  double seconds_waited() const { return waited_; }
  size_t buckets() const { return buckets_.size(); }

 private:
  struct Entry {
    NamedVar parameter;
    int64_t offset = 0, elements = 0;
    bool filled = false;
  };
  struct Bucket {
    std::vector<Entry> entries;
    Tensor values;  // of this step; f32, one gradient after the other
    int64_t elements = 0;
    size_t missing = 0;
    std::unique_ptr<Pending> pending;
  };
  void fill(Bucket& bucket, Entry& entry);
  void send_ready();
  void measure();

  Communicator& ranks_;
  Options options_;
  std::vector<Bucket> buckets_;
  bool armed_ = false;
  size_t next_ = 0;  // to be sent
  double on_the_way_ = 0, waited_ = 0;
};

}  // namespace qt
