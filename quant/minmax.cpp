// quant/minmax.cpp -- the step follows a moving average of the largest magnitude (Jacob et al.,
// CVPR 2018).
#include "core/kernel/launch.h"
#include "quant/uniform.h"

namespace qt {
namespace {

struct Follow {
  float hi, momentum;
  bool first;
  QT_HD float operator()(float largest, float before) const {
    const float seen = largest / hi, newest = seen < 1e-8f ? 1e-8f : seen;
    return first ? newest : before + momentum * (newest - before);
  }
};

// step = average / hi, average += momentum * (max|v| - average) with every pass that trains (and
// does not only measure statistics) or calibrates. Weights use momentum 1.
class MinMax : public UniformQuantizer {
 public:
  MinMax(const QuantSpec& spec, int64_t channels) : UniformQuantizer(spec, channels, false) {}

  bool observes(const Pass& pass) const override {
    return pass.quantized() && ((pass.training && pass.steps_follow) || pass.calibrate);
  }

  void observe(const Tensor& real) override {
    const Tensor seen = largest_magnitude(real), before = this->step()->var.value();
    Tensor step = Tensor::empty(seen.shape(), DType::f32);
    map(current_stream(), 1, seen.elements(),
        Follow{float(spec().hi()), float(spec().momentum), !ready()}, in(seen.data<float>()),
        in(before.data<float>()), out(step.data<float>()));
    set_step(step);
  }
};

const QuantizerRegistry::Add add{"minmax", [](const QuantSpec& spec, int64_t channels) {
                                   return std::make_unique<MinMax>(spec, channels);
                                 }};

}  // namespace
}  // namespace qt
