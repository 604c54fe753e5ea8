// quant/uniform.h -- uniform codes with one step (or one per channel): what lsq and minmax share.
#pragma once
#include "quant/norm_act.h"
#include "quant/quantizer.h"
#include "quant/rules.h"

namespace qt {

// A quantizer whose codes are clamp(rint(v)), v = x / step; derived classes say where the step
// comes from.
class UniformQuantizer : public Quantizer {
 public:
  UniformQuantizer(const QuantSpec& spec, int64_t channels, bool trained);
  Var quantize(const Var& x, const Pass& pass) override;
  Var norm_act(const NormAct& args, const Pass& pass) override;
  bool ready() const override;
  Parameter* step() override { return &step_; }

 protected:
  void set_step(const Tensor& step);
  // f(|x|) per step: mean or largest absolute value, f32 [channels] or [1].
  Tensor mean_magnitude(const Tensor& real) const;
  Tensor largest_magnitude(const Tensor& real) const;
  int64_t steps() const { return step_.var.value().elements(); }

 private:
  UniformCode rule() const;
  float step_count(const Tensor& x, const Pass& pass) const;
  void require_step(const std::string& what) const;
  const bool trained_;
  Parameter step_;
  mutable bool ready_ = false;  // stays: steps do not become 0 again
};

}  // namespace qt
