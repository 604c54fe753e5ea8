// core/library/cuda/code_engines.h -- which engine convolves codes: cuDNN's, where it gives the
// bits of the exact int8 products and takes less time, or those products.
#pragma once
#include <memory>
#include <vector>

#include "core/library/cuda/engine_names.h"
#include "core/library/cuda/library.h"

namespace qt {

class CodeEngines {
 public:
  // convolutions: nullptr where there is no cuDNN.
  CodeEngines(std::shared_ptr<MatrixProducts> products, std::shared_ptr<Convolutions> convolutions,
              int64_t column_bytes, Measure measure = measured_on_stream);

  // As Library::conv2d_codes with CodePath::integer. The first call for a shape tries engines on
  // codes at the ends of int8's range (trial.h): those that fail, or differ from the exact products
  // in any bit, are out and named in the log; the fastest of the others stays, for the same layer
  // with other numbers of images too, where its bits are tried but not its time. Where nothing can
  // be tried, for lack of memory, products do. While a graph is recorded nothing is tried, and
  // shapes not yet met go through products.
  Tensor conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape);
  // The same by products alone.
  Tensor conv2d_as_products(const Tensor& x, const Tensor& w, const Conv2dShape& shape);
  // What computes a shape, for traces and logs.
  std::string name_for(const Tensor& x, const Tensor& w, const Conv2dShape& shape);
  // As Library's engine_choices and take_engines. An engine that is taken is not timed, but must
  // still be exact.
  EngineChoices choices() const { return chosen_.choices(names()); }
  void take(const EngineChoices& choices) { chosen_.take(choices); }

 private:
  static bool is_eligible(const Tensor& x, const Tensor& w, const Conv2dShape& shape);
  struct Trial;  // codes and their exact sums
  std::vector<Trial> trials_of(const Conv2dShape& shape);
  EngineNames names() const { return {*products_, convolutions_.get()}; }
  size_t choose(const Conv2dShape& shape);
  size_t chosen_for(const ConvolutionRequest& request, const Conv2dShape& shape);
  size_t tried(const ConvolutionRequest& request, const Conv2dShape& shape);
  size_t fastest(const ConvolutionRequest& request, const Conv2dShape& shape,
                 const std::vector<Trial>& trials);
  bool is_exact(const ConvolutionRequest& request, size_t engine, const std::vector<Trial>& trials);
  void run(const ConvolutionRequest& request, size_t engine, const Tensor& x, const Tensor& w,
           const Tensor& y);

  std::shared_ptr<MatrixProducts> products_;
  std::shared_ptr<Convolutions> convolutions_;
  int64_t column_bytes_;
  Measure measure_;
  ChosenEngines chosen_;
};

}  // namespace qt
