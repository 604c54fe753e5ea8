// core/library/onednn_codes.h -- oneDNN's int8 kernels for weights that do not change.
#pragma once
#include <memory>

#include "core/library/code_convolution.h"
#include "core/library/onednn_plans.h"
#include "core/library/onednn_self_test.h"

namespace qt {

// What one library has made so far. Thread safe.
struct OneDnnKernels {
  ConvolutionPlans plans;
  IntegerSelfTests self_tests;
};

// Null where no int8 kernel is exact for these codes, or where pixels of x are skipped
// (core/library/strided.h). x: an example, as for Library::prepare_conv2d_codes.
std::unique_ptr<CodeConvolution> prepare_onednn_codes(std::shared_ptr<OneDnnKernels> kernels,
                                                      const Tensor& x, const Tensor& w,
                                                      const Conv2dShape& shape);

}  // namespace qt
