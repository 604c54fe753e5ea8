// core/library/onednn_self_test.h -- every int8 primitive is compared with plain loops once before
// its results count.
#pragma once
#include <mutex>
#include <vector>

#include "core/library/arguments.h"
#include "core/library/library.h"
#include "core/library/onednn_plans.h"

namespace qt {

// Sampled outputs of the plan on codes at the ends of their ranges, against plain loops.
class IntegerSelfTests {
 public:
  // True where the plan was exact on all patterns; tested at the first call for these ranges, which
  // overwrites y (any tensor of the plan's output shape). A failure is logged once.
  bool passed(const ConvolutionPlan& plan, const Conv2dShape& shape, const CodeRange& x,
              const CodeRange& w, Tensor& y);

 private:
  struct Verdict {
    const ConvolutionPlan* plan;
    CodeRange x, w;
    bool passed;
  };
  std::mutex mutex_;
  std::vector<Verdict> verdicts_;
};

}  // namespace qt
