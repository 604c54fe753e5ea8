// quant/uniform.cpp -- uniform codes: the plain quantizer, its gradients, and the fused op for rule
// UniformCode.
#include "quant/uniform.h"

#include <cstring>
#include <limits>
#include <type_traits>

#include "core/kernel/elements.h"
#include "core/kernel/launch.h"
#include "core/tensor/transfer.h"
#include "quant/norm_act_kernels.h"
#include "quant/rules.h"

namespace qt {
namespace {

// A tensor of the host's numbers, where current_stream() works.
Tensor in_this_memory(const Shape& shape, const std::vector<float>& values) {
  const auto in_host_memory = [&] {
    const UseStream host(Stream{});
    return Tensor::of<float>(shape, values);
  };
  return here(in_host_memory());
}

// All ranks' values, in the order of ranks: that of a batch that one rank sees whole.
Tensor values_of_all(Communicator& ranks, const Tensor& mine) {
  const auto values = on_host(mine).to_vector<float>();
  const std::string bytes(reinterpret_cast<const char*>(values.data()),
                          values.size() * sizeof(float));
  std::string all;
  for (const std::string& theirs : gathered(ranks, bytes, "calibration")) all += theirs;
  std::vector<float> together(all.size() / sizeof(float));
  std::memcpy(together.data(), all.data(), all.size());
  return in_this_memory({int64_t(together.size())}, together);
}
Tensor largest_over(Communicator& ranks, const Tensor& values) {
  if (ranks.alone()) return values;
  const auto mine = on_host(values).to_vector<float>();
  const std::vector<double> most = largest(ranks, {mine.begin(), mine.end()}, "calibration");
  return in_this_memory(values.shape(), {most.begin(), most.end()});
}

struct Encode {
  UniformCode rule;
  QT_HD float operator()(float x, float step) const { return rule.code(x / step); }
};
struct EncodeReal {
  UniformCode rule;
  QT_HD float operator()(float x, float step) const { return rule.code(x / step) * step; }
};
// The same of sums that carry a scale: v = x * multiplier.
struct EncodeSum {
  UniformCode rule;
  QT_HD float operator()(float x, float multiplier) const { return rule.code(x * multiplier); }
};

// Gradient to x of v = x / step, or v = x * multiplier for sums. unit makes dout the gradient of
// the code.
struct Back {
  UniformCode rule;
  QT_HD float operator()(float dout, float x, float unit, float step) const {
    return rule.passes(x / step) ? dout * unit / step : 0.0f;
  }
};
struct BackSum {
  UniformCode rule;
  QT_HD float operator()(float dout, float x, float multiplier) const {
    return rule.passes(x * multiplier) ? dout * multiplier : 0.0f;
  }
};
// The same, and what is summed for the step's gradient.
struct BackWithStep {
  UniformCode rule;
  QT_HD Values<2> operator()(float dout, float x, float unit, float step) const {
    return {{Back{rule}(dout, x, unit, step), dout * unit * rule.step_gradient(x / step)}};
  }
};
struct BackSumWithStep {
  UniformCode rule;
  QT_HD Values<2> operator()(float dout, float x, float multiplier) const {
    return {{BackSum{rule}(dout, x, multiplier), dout * rule.step_gradient(x * multiplier)}};
  }
};
struct FinishStep {
  float factor;
  QT_HD float operator()(float sum, float step) const { return sum / step * factor; }
};
struct Multiplier {
  QT_HD float operator()(float scale, float step) const {
    return float(double(scale) / double(step));
  }
};
struct Magnitude {
  float factor;
  QT_HD Values<1> operator()(float x) const { return {{(x < 0 ? -x : x) * factor}}; }
};
struct PlainMagnitude {
  QT_HD float operator()(float x) const { return x < 0 ? -x : x; }
};
struct Same {
  QT_HD float operator()(float x) const { return x; }
};

// x seen as one row per step, [channels, rest]; where there is one step for all, as rows of
// pictures: long enough for a GPU's blocks, few enough to be added by one, and the same on every
// rank.
struct Rows {
  int64_t rows, length;
};
Rows rows_of(const Tensor& x, int64_t steps) {
  if (steps == 1) {
    const int64_t rows = x.shape().rank() == 4 ? x.dim(0) * x.dim(1) : x.rows();
    return {rows, rows > 0 ? x.elements() / rows : 0};
  }
  QT_CHECK(x.dim(0) == steps,
           "a quantizer with " + std::to_string(steps) + " steps got shape " + x.shape().text());
  return {steps, x.elements() / steps};
}

// Calls use(operand) with the step as a per-row value, or as a scalar.
template <class Use>
void with_step(const Tensor& step, Use use) {
  if (step.elements() > 1)
    use(per_row(step.data<float>()));
  else
    use(scalar(step.data<float>()));
}

// The gradient of the step that `By` gives to each row, or to all: sum(to) calls sum_rows with
// where the row sums go, a finish where each row has its step.
template <class By, class Sum>
Tensor step_gradient(int64_t rows, const Tensor& step, float factor, Sum sum) {
  Tensor gradient = Tensor::empty(step.shape(), DType::f32);
  const auto to_gradient =
      finish(FinishStep{factor}, in(step.data<float>()), out(gradient.data<float>()));
  if constexpr (std::is_same_v<By, PerRow<float>>) {
    sum(to_gradient);
  } else {
    Tensor row_sums = Tensor::empty({rows}, DType::f32);
    sum(row_sums.data<float>());
    sum_rows<1>(current_stream(), 1, rows, kernel::Identity{}, to_gradient,
                in(std::as_const(row_sums).data<float>()));
  }
  return gradient;
}

Var quantize_sums(const Var& x, const Var& step, const UniformCode& rule, float factor) {
  const Tensor sums = x.value();
  Tensor multiplier = Tensor::empty({1}, DType::f32),
         codes = Tensor::empty(sums.shape(), DType::i8);
  map(current_stream(), 1, 1, Multiplier{}, in(sums.step().data<float>()),
      in(step.value().data<float>()), out(multiplier.data<float>()));
  const auto by = scalar(std::as_const(multiplier).data<float>());
  map(current_stream(), sums.rows(), sums.channels(), EncodeSum{rule}, in(sums.data<float>()), by,
      out(codes.data<int8_t>()));
  return record(
      codes.with_scale(step.value(), int(rule.lo), int(rule.hi)), {x, step},
      [=](const Tensor& dout) {
        const int64_t rows = sums.rows(), channels = sums.channels();
        const auto d = in(dout.data<float>()), v = in(sums.data<float>());
        const auto by_multiplier = scalar(multiplier.data<float>());
        Tensor dx = Tensor::empty(sums.shape(), DType::f32);
        const auto to_dx = out(dx.data<float>());
        if (step.wants_grad())
          step.add_grad(step_gradient<Scalar<float>>(rows, step.value(), factor, [&](auto to) {
            sum_rows<1>(current_stream(), rows, channels, BackSumWithStep{rule}, to, d, v,
                        by_multiplier, to_dx);
          }));
        else
          map(current_stream(), rows, channels, BackSum{rule}, d, v, by_multiplier, to_dx);
        x.add_grad(dx);
      });
}

}  // namespace

UniformQuantizer::UniformQuantizer(const QuantSpec& spec, int64_t channels, bool trained)
    : Quantizer(spec), trained_(trained) {
  step_.var = Var(Tensor::zeros({spec.per_channel ? channels : 1}, DType::f32), trained);
  step_.kind = Parameter::Kind::step;
}

// A step that follows the largest magnitude has it at hi itself, where it must go on learning: what
// rounds to a code passes, as in PyTorch's fake_quantize. Not so below 0 of unsigned codes: there
// an activation has cut.
UniformCode UniformQuantizer::rule() const {
  const auto lo = float(spec_.lo()), hi = float(spec_.hi());
  if (trained_) return {lo, hi};
  return {lo, hi, spec_.is_signed ? lo - 0.5f : lo, hi + 0.5f};
}

bool UniformQuantizer::ready() const {
  if (ready_) return true;
  ready_ = on_host(step_.var.value()).data<float>()[0] > 0;
  return ready_;
}

void UniformQuantizer::set_step(const Tensor& step) { step_.set(step); }

void UniformQuantizer::require_step(const std::string& what) const {
  QT_CHECK(ready(), what +
                        ": its quantizer has no step yet: calibrate first or load a checkpoint of "
                        "a quantized network");
}

// LSQ's N: numbers per step for weights, features per sample for activations.
float UniformQuantizer::step_count(const Tensor& x, const Pass& pass) const {
  const bool all = spec_.per_channel || spec_.count_elements;
  return all ? float(x.elements()) * pass.samples_per_sample / float(steps())
             : float(x.elements()) / float(x.dim(0));
}

Var UniformQuantizer::quantize(const Var& x, const Pass& pass) {
  require_step("a tensor " + x.value().shape().text());
  const UniformCode rule = this->rule();
  const Var step = step_.var;
  const Tensor value = x.value(), s = step.value();
  const float factor = 1.0f / sqrtf(step_count(value, pass) * rule.hi);
  if (value.has_scale()) return quantize_sums(x, step, rule, factor);
  const Rows view = rows_of(value, s.elements());
  const bool codes = pass.mode != ForwardMode::fake_quant;
  Tensor y = Tensor::empty(value.shape(), codes ? DType::i8 : DType::f32);
  with_step(s, [&](auto by) {
    if (codes)
      map(current_stream(), view.rows, view.length, Encode{rule}, in(value.data<float>()), by,
          out(y.data<int8_t>()));
    else
      map(current_stream(), view.rows, view.length, EncodeReal{rule}, in(value.data<float>()), by,
          out(y.data<float>()));
  });
  if (codes) y = y.with_scale(s, int(rule.lo), int(rule.hi));
  const auto backward = [=](const Tensor& dout) {
    Tensor dx = Tensor::empty(value.shape(), DType::f32);
    const auto v = in(value.data<float>());
    const auto to_dx = out(dx.data<float>());
    const auto back = [&](auto d, auto unit, auto by) {
      if (step.wants_grad())
        step.add_grad(step_gradient<decltype(by)>(view.rows, s, factor, [&](auto to) {
          sum_rows<1>(current_stream(), view.rows, view.length, BackWithStep{rule}, to, d, v, unit,
                      by, to_dx);
        }));
      else
        map(current_stream(), view.rows, view.length, Back{rule}, d, v, unit, by, to_dx);
    };
    with_elements(dout, [&](const auto* d) {
      with_step(s, [&](auto by) {
        if (codes)
          back(in(d), constant(1.0f), by);
        else
          back(in(d), by, by);
      });
    });
    x.add_grad(dx);
  };
  Var quantized = record(y, {x, step}, backward);
  quantized.set_gradient_type(current_library().data_gradient_type(pass.backward));
  return quantized;
}

Var UniformQuantizer::norm_act(const NormAct& args, const Pass& pass) {
  require_step(args.name);
  const Emission<UniformCode> to{.rule = rule(),
                                 .step = step_.var,
                                 .step_count = step_count(args.y.value(), pass),
                                 .emit_codes = pass.mode != ForwardMode::fake_quant};
  return fused_norm_act(args, to, pass);
}

Tensor UniformQuantizer::mean_magnitude(const Tensor& real) const {
  const Rows view = rows_of(real, steps());
  Tensor means = Tensor::empty({view.rows}, DType::f32);
  sum_rows<1>(current_stream(), view.rows, view.length, Magnitude{1.0f / float(view.length)},
              means.data<float>(), in(real.data<float>()));
  if (steps() > 1) return means;  // of weights, which every rank has whole
  if (ranks_ && !ranks_->alone()) means = values_of_all(*ranks_, means);
  Tensor mean = Tensor::empty({1}, DType::f32);
  sum_rows<1>(current_stream(), 1, means.elements(), Magnitude{1.0f / float(means.elements())},
              mean.data<float>(), in(std::as_const(means).data<float>()));
  return mean;
}

Tensor UniformQuantizer::largest_magnitude(const Tensor& real) const {
  const Rows view = rows_of(real, steps());
  Tensor largest = Tensor::empty({view.rows}, DType::f32);
  max_rows(current_stream(), view.rows, view.length, PlainMagnitude{}, largest.data<float>(),
           in(real.data<float>()));
  if (steps() > 1) return ranks_ ? largest_over(*ranks_, largest) : largest;
  Tensor most = Tensor::empty({1}, DType::f32);
  max_rows(current_stream(), 1, view.rows, Same{}, most.data<float>(),
           in(std::as_const(largest).data<float>()));
  return ranks_ ? largest_over(*ranks_, most) : most;
}

}  // namespace qt
