// core/library/cuda/code_engines.h -- which engine convolves codes: cuDNN's, where it gives the
// bits of the exact int8 products and takes less time, or those products.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <mutex>

#include "core/library/cuda/convolutions.h"
#include "core/library/cuda/library.h"

namespace qt {

// Seconds that the work takes, which is enqueued anew at each call.
using Measure = std::function<double(const std::function<void()>& enqueue)>;
// By the clock of the host, several at a time on current_stream(), after a first one.
double measured_on_stream(const std::function<void()>& enqueue);

class CodeEngines {
 public:
  // convolutions: nullptr where there is no cuDNN.
  CodeEngines(std::shared_ptr<MatrixProducts> products, std::shared_ptr<Convolutions> convolutions,
              int64_t column_bytes, Measure measure = measured_on_stream);

  // As Library::conv2d_codes with CodePath::integer. The first call for a shape tries all engines
  // on codes at the ends of int8's range: those that differ from the exact products in any bit are
  // out and named in the log; the fastest of the others stays. While a graph is recorded nothing is
  // tried, and shapes not yet met go through products.
  Tensor conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape);
  // The same by products alone.
  Tensor conv2d_as_products(const Tensor& x, const Tensor& w, const Conv2dShape& shape);
  // What computes a shape, for traces and logs.
  std::string name_for(const Tensor& x, const Tensor& w, const Conv2dShape& shape);

 private:
  static constexpr size_t as_products = ~size_t{0};
  static bool is_eligible(const Tensor& x, const Tensor& w, const Conv2dShape& shape);
  size_t choose(const Conv2dShape& shape);
  size_t fastest(const ConvolutionRequest& request, const Conv2dShape& shape);
  void run(const ConvolutionRequest& request, size_t engine, const Tensor& x, const Tensor& w,
           const Tensor& y);

  std::shared_ptr<MatrixProducts> products_;
  std::shared_ptr<Convolutions> convolutions_;
  int64_t column_bytes_;
  Measure measure_;
  std::mutex mutex_;
  std::map<ConvolutionRequest, size_t> chosen_;  // a number of Convolutions::engines
};

}  // namespace qt
