// core/library/onednn_plans.h -- oneDNN's convolutions, created once per shape and kept: creation
// costs milliseconds.
#pragma once
#include <cstddef>
#include <dnnl.hpp>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "core/library/library.h"

namespace qt {

enum class ConvolutionKind { forward, backward_data, backward_weights };

// What a plan is made for: the convolution and the element types oneDNN reads. images: x and y (or
// their gradients), except that an integer forward pass writes f32; weights: w as the caller holds
// it. Gradients come out as f32.
struct PlanKey {
  Conv2dShape shape;
  ConvolutionKind kind = ConvolutionKind::forward;
  dnnl::memory::data_type images = dnnl::memory::data_type::f32;
  dnnl::memory::data_type weights = dnnl::memory::data_type::f32;
  bool operator==(const PlanKey&) const = default;
};

struct PlanKeyHash {
  size_t operator()(const PlanKey& key) const;
};

// A primitive and how the caller's dense tensors reach it: images as they are (NHWC), weights
// through a reorder to the primitive's own blocked layout (for backward_weights: from it).
class ConvolutionPlan {
 public:
  // weights: whether the primitive's weights are reordered from KRSC as it is, or from KCRS after a
  // transposition of our own (bytes only), for layouts to which oneDNN has no reorder from KRSC: it
  // then throws dnnl::error.
  enum class WeightSource { krsc, kcrs };
  explicit ConvolutionPlan(const PlanKey& key, WeightSource weights = WeightSource::krsc);
  const std::string& kernel() const { return kernel_; }

  // forward: (x, w) -> y; backward_data: (dy, w) -> dx; backward_weights: (x, dy) -> dw. The result
  // is written to `to`. Element types are those of the key. Returns when finished.
  void run(const Tensor& first, const Tensor& second, Tensor& to) const;

 private:
  void create_forward(const PlanKey& key);
  void create_backward_data(const PlanKey& key);
  void create_backward_weights(const PlanKey& key);
  void adopt_weights(const PlanKey& key, const dnnl::memory::desc& blocked);
  Tensor blocked_weights(const Tensor& w) const;

  ConvolutionKind kind_;
  WeightSource weight_source_;
  dnnl::primitive primitive_, reorder_;
  dnnl::memory::desc x_, y_, w_blocked_, w_plain_;
  dnnl::memory::desc scratch_, reorder_scratch_;
  bool reorders_ = false;
  Conv2dShape shape_;
  std::string kernel_;
};

// Thread safe; plans live as long as the collection.
class ConvolutionPlans {
 public:
  const ConvolutionPlan& get(const PlanKey& key);

 private:
  std::mutex mutex_;
  std::unordered_map<PlanKey, std::unique_ptr<ConvolutionPlan>, PlanKeyHash> plans_;
};

// Runs f; what oneDNN throws becomes OutOfMemory or InternalError that names what was being done.
template <class F>
auto name_onednn_errors(const std::string& what, F f) {
  try {
    return f();
  } catch (const dnnl::error& error) {
    if (error.status == dnnl_out_of_memory)
      throw OutOfMemory("oneDNN is out of memory for " + what);
    throw InternalError("oneDNN failed for " + what + ": " + error.message + " (status " +
                        std::to_string(int(error.status)) + ")");
  }
}

}  // namespace qt
