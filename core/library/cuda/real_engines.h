// core/library/cuda/real_engines.h -- which engine convolves reals: the first deterministic one
// that cuDNN names and that runs, or matrix products. Never by timing: other engines have other
// roundings, and a run must give the same bits again.
#pragma once
#include <functional>
#include <memory>
#include <utility>

#include "core/library/cuda/engine_names.h"
#include "core/library/cuda/library.h"

namespace qt {

class RealEngines {
 public:
  RealEngines(std::shared_ptr<MatrixProducts> products, std::shared_ptr<Convolutions> convolutions,
              int64_t column_bytes)
      : products_(std::move(products)),
        convolutions_(std::move(convolutions)),
        column_bytes_(column_bytes) {}

  // f32 results from f32 (or code) operands, which are converted to request.type: forward (x, w),
  // backward_data (dy, w), backward_weights (x, dy). An engine of bf16 rounds its results to bf16;
  // gradients are left so.
  // The first call for a request tries engines until one can be enqueued, or takes products; it
  // stays.
  Tensor run(const ConvolutionRequest& request, const Tensor& first, const Tensor& second);
  // Likewise onto += the gradient of data, of a request that accumulates; false where no engine
  // does so, or onto is not of the type that they write.
  bool add(Tensor& onto, const ConvolutionRequest& request, const Tensor& dy, const Tensor& w);
  // run() by products alone: exact on integer-valued floats.
  Tensor run_as_products(const ConvolutionRequest& request, const Tensor& first,
                         const Tensor& second);
  // What has computed a request, for traces and logs.
  std::string name_for(const ConvolutionRequest& request) {
    return names().of(request, chosen_.of(request, [] { return std::nullopt; }));
  }
  // As Library's engine_choices and take_engines.
  EngineChoices choices() const { return chosen_.choices(names()); }
  void take(const EngineChoices& choices) { chosen_.take(choices); }

 private:
  EngineNames names() const { return {*products_, convolutions_.get()}; }
  // The result of an engine.
  Tensor run_by(size_t engine, const ConvolutionRequest& request, const Tensor& first,
                const Tensor& second);
  size_t chosen_for(const ConvolutionRequest& request, const std::function<void(size_t)>& run);

  std::shared_ptr<MatrixProducts> products_;
  std::shared_ptr<Convolutions> convolutions_;
  int64_t column_bytes_;
  ChosenEngines chosen_;
};

}  // namespace qt
