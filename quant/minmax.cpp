// quant/minmax.cpp -- the step follows a moving average of the largest magnitude (Jacob et al.,
// CVPR 2018).
#include <algorithm>

#include "quant/uniform.h"

namespace qt {
namespace {

// step = average / hi, average += momentum * (max|v| - average) with every pass that trains or
// calibrates. Weights use momentum 1.
class MinMax : public UniformQuantizer {
 public:
  MinMax(const QuantSpec& spec, int64_t channels) : UniformQuantizer(spec, channels, false) {}

  bool observes(const Pass& pass) const override {
    return pass.quantized() && (pass.training || pass.calibrate);
  }

  void observe(const Tensor& real) override {
    const Tensor seen = largest_magnitude(real);
    const bool first = !ready();
    Tensor step = Tensor::empty(seen.shape(), DType::f32);
    for (int64_t i = 0; i < seen.elements(); ++i) {
      const float newest = std::max(seen.data<float>()[i] / float(spec().hi()), 1e-8f);
      const float before = this->step()->var.value().data<float>()[i];
      step.data<float>()[i] = first ? newest : before + float(spec().momentum) * (newest - before);
    }
    set_step(step);
  }
};

const QuantizerRegistry::Add add{"minmax", [](const QuantSpec& spec, int64_t channels) {
                                   return std::make_unique<MinMax>(spec, channels);
                                 }};

}  // namespace
}  // namespace qt
