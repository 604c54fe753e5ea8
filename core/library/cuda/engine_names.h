// core/library/cuda/engine_names.h -- engines of convolutions by name: what is logged, and stored
// in checkpoints.
#pragma once
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>

#include "core/library/cuda/convolutions.h"

namespace qt {

// In the place of a number of Convolutions::engines: matrix products; of what accumulates, that no
// engine does and the sum is a pass of its own.
constexpr size_t as_products = ~size_t{0};
constexpr const char* added_apart = "a pass of its own";

// Products and, where there is cuDNN, its engines.
struct EngineNames {
  const MatrixProducts& products;
  Convolutions* convolutions;

  std::string of(const ConvolutionRequest& request, size_t engine) const {
    return engine == as_products
               ? name_without_engine(request)
               : convolutions->name() + " " + convolutions->engines(request).at(engine);
  }
  // Nothing where no engine for the request has this name.
  std::optional<size_t> find(const ConvolutionRequest& request, const std::string& name) const {
    if (name == name_without_engine(request)) return as_products;
    const size_t count = convolutions ? convolutions->engines(request).size() : 0;
    for (size_t i = 0; i < count; ++i)
      if (of(request, i) == name) return i;
    return {};
  }
  std::string name_without_engine(const ConvolutionRequest& request) const {
    return request.accumulate ? added_apart : products.name();
  }
};

// "gradient of data 64x32x32x16 -> 16 3x3 stride 1 padding 1 in bf16": what a choice is kept under.
inline std::string text_of(const ConvolutionRequest& request) {
  const char* const pass = request.pass == ConvolutionPass::forward ? "convolution "
                           : request.pass == ConvolutionPass::backward_weights
                               ? "gradient of weights "
                           : request.accumulate ? "gradient of data, added, "
                                                : "gradient of data ";
  if (request.type == ProductType::i8) return "convolution of codes " + request.shape.text();
  return pass + request.shape.text() + " in " + name_of(request.type);
}

// What was chosen, and what an earlier run had chosen.
class ChosenEngines {
 public:
  // The engine chosen before, or choose()'s, kept; as_products where that says nothing. One thread
  // at a time.
  template <class Choose>
  size_t of(const ConvolutionRequest& request, Choose choose) {
    const std::lock_guard lock(mutex_);
    const auto found = chosen_.find(request);
    if (found != chosen_.end()) return found->second;
    const std::optional<size_t> engine = choose();
    return engine ? chosen_[request] = *engine : as_products;
  }
  // For choose() of the above: the earlier run's name of it; nullptr where that run did not meet
  // it.
  const std::string* earlier(const ConvolutionRequest& request) const {
    const auto found = earlier_.find(text_of(request));
    return found == earlier_.end() ? nullptr : &found->second;
  }
  // Likewise: products are taken because nothing could be tried, which says nothing about others.
  void note_untried(const ConvolutionRequest& request) { untried_.insert(request); }
  // Likewise: the engine that the same layer has with another number of images; nothing where it
  // was not met.
  std::optional<std::string> of_other_batch(const ConvolutionRequest& request,
                                            const EngineNames& names) const {
    for (const auto& [met, engine] : chosen_) {
      if (untried_.count(met)) continue;
      ConvolutionRequest same = met;
      same.shape.n = request.shape.n;
      if (same.key() == request.key()) return names.of(met, engine);
    }
    return {};
  }
  // As Library's engine_choices and take_engines.
  EngineChoices choices(const EngineNames& names) const {
    const std::lock_guard lock(mutex_);
    EngineChoices all = earlier_;
    for (const auto& [request, engine] : chosen_) all[text_of(request)] = names.of(request, engine);
    return all;
  }
  void take(const EngineChoices& choices) {
    const std::lock_guard lock(mutex_);
    earlier_ = choices;
  }

 private:
  mutable std::mutex mutex_;
  std::map<ConvolutionRequest, size_t> chosen_;  // a number of Convolutions::engines
  std::set<ConvolutionRequest> untried_;
  EngineChoices earlier_;
};

}  // namespace qt
