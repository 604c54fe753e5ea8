// quant/lsq.cpp -- learned step size quantization (Esser et al., ICLR 2020, arXiv 1902.08153).
#include <algorithm>
#include <cmath>

#include "core/tensor/transfer.h"
#include "quant/uniform.h"

namespace qt {
namespace {

// The step starts at 2 mean(|v|) / sqrt(hi), for activations averaged over the calibration batches,
// and is then trained with the gradient of UniformCode scaled by 1 / sqrt(N hi).
class Lsq : public UniformQuantizer {
 public:
  Lsq(const QuantSpec& spec, int64_t channels) : UniformQuantizer(spec, channels, true) {
    const UseStream host(Stream{});
    step()->floor = Tensor::zeros({1}, DType::f32);
  }

  // Weights (signed, seen whole) are observed once; activations in every calibration batch.
  bool observes(const Pass& pass) const override { return pass.calibrate && pass.quantized(); }

  void observe(const Tensor& real) override {
    const Tensor mean = on_host(mean_magnitude(real)), step = on_host(this->step()->var.value());
    set_step(here(chosen_from(mean, step)));
  }

 private:
  // All in the host's memory.
  Tensor chosen_from(const Tensor& mean, const Tensor& now) {
    const UseStream host(Stream{});
    const float* magnitude = mean.data<float>();
    const float largest = *std::max_element(magnitude, magnitude + mean.elements());
    const float least =
        std::max(largest * 1e-6f, 1e-8f);  // a channel of zeros still needs a positive step
    Tensor step = Tensor::empty(mean.shape(), DType::f32);
    ++observations_;
    for (int64_t i = 0; i < mean.elements(); ++i) {
      const float chosen = std::max(2 * magnitude[i] / std::sqrt(float(spec().hi())), least);
      const float before = now.data<float>()[i];
      step.data<float>()[i] =
          observations_ == 1 ? chosen : before + (chosen - before) / float(observations_);
    }
    this->step()->floor = floor_of_step(step);
    return step;
  }

  int observations_ = 0;
};

const QuantizerRegistry::Add add{"lsq", [](const QuantSpec& spec, int64_t channels) {
                                   return std::make_unique<Lsq>(spec, channels);
                                 }};

}  // namespace
}  // namespace qt
