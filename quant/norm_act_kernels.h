// quant/norm_act_kernels.h -- the fused op for any rule: one memory pass forward, two backward. For
// kernel files only: include core/kernel/launch.h first.
#pragma once
#include <utility>

#include "core/kernel/elements.h"
#include "quant/norm_act.h"

namespace qt {

// What the fused op emits.
template <class Rule>
struct Emission {
  Rule rule;
  Var step;                // f32 [1]; undefined for reals, which are in units of 1
  float step_count = 1;    // LSQ: the step's gradient is scaled by 1 / sqrt(step_count * hi)
  bool emit_codes = true;  // i8 codes that carry the step; otherwise f32 code * step
};

namespace fused {

// A constant 1 in tensor form, for operands that have nothing to scale; in the memory of the
// current stream, so that a GPU gets one of its own.
inline Tensor one() { return Tensor::full({1}, 1.0f); }

QT_HD inline float normalized(float y, float live, float b, float m) { return (y * live + b) * m; }

template <class Rule>
struct EmitCode {
  Rule rule;
  QT_HD float operator()(float y, float live, float b, float m) const {
    return rule.code(normalized(y, live, b, m));
  }
  QT_HD float operator()(float y, float live, float b, float m, float q, float r) const {
    return rule.code(normalized(y, live, b, m) + q * r);
  }
};
template <class Rule>
struct EmitReal {
  Rule rule;
  QT_HD float operator()(float y, float live, float b, float m, float step) const {
    return rule.code(normalized(y, live, b, m)) * step;
  }
  QT_HD float operator()(float y, float live, float b, float m, float step, float q,
                         float r) const {
    return rule.code(normalized(y, live, b, m) + q * r) * step;
  }
};

// dout is the gradient of what was stored; unit makes it the gradient of the code. Sums: g, g (y -
// mean), step gradient.
template <class Rule>
struct ReduceGradient {
  Rule rule;
  QT_HD Values<3> at(float v, float dout, float y, float mean, float unit) const {
    const float dcode = dout * unit, g = rule.passes(v) ? dcode : 0.0f;
    return {{g, g * (y - mean), dcode * rule.step_gradient(v)}};
  }
  QT_HD Values<3> operator()(float dout, float y, float live, float b, float m, float mean,
                             float unit) const {
    return at(normalized(y, live, b, m), dout, y, mean, unit);
  }
  QT_HD Values<3> operator()(float dout, float y, float live, float b, float m, float mean,
                             float unit, float q, float r) const {
    return at(normalized(y, live, b, m) + q * r, dout, y, mean, unit);
  }
};

// dy = slope g - k1 - (y - mean) k2, and the residual's g r.
template <class Rule>
struct ApplyGradient {
  Rule rule;
  QT_HD float operator()(float dout, float y, float live, float b, float m, float mean, float unit,
                         float slope, float k1, float k2) const {
    const float g = rule.passes(normalized(y, live, b, m)) ? dout * unit : 0.0f;
    return slope * g - k1 - (y - mean) * k2;
  }
  QT_HD Values<2> operator()(float dout, float y, float live, float b, float m, float mean,
                             float unit, float slope, float k1, float k2, float q, float r) const {
    const float g = rule.passes(normalized(y, live, b, m) + q * r) ? dout * unit : 0.0f;
    return {{slope * g - k1 - (y - mean) * k2, g * r}};
  }
};

// Everything per channel that forward computes and backward needs; f32 [C] each, mean and rstd in
// raw units.
struct ChannelConstants {
  Tensor live, b, m, mean, rstd;
  bool batch_statistics = false;
  // Of the statistics: rows over all ranks, and who shares them (null: this rank alone).
  int64_t rows = 0;
  Communicator* ranks = nullptr;
};

// quant/norm_act.cpp: constants from batch or running statistics (which are updated in training).
ChannelConstants channel_constants(const NormAct& args, const Tensor& step, const Pass& pass);
// quant/norm_act.cpp: r as a tensor [1]; undefined where there is no residual.
Tensor residual_factor(const Tensor& residual, const Tensor& step);

// quant/norm_act.cpp: from the three sums [3, C], f64 where ranks share them: gradients of gamma,
// beta and step added to their Vars, and the apply pass's constants slope, k1, k2 as rows of [3,
// C].
Tensor finish_reduction(const NormAct& args, const ChannelConstants& constants, const Tensor& sums,
                        const Var& step, float step_factor);

template <class Rule, class... Residual>
Tensor emit(const Emission<Rule>& to, const Tensor& y, const ChannelConstants& k,
            const Tensor& step, Residual... residual) {
  const int64_t rows = y.rows(), channels = y.channels();
  const auto live = per_channel(std::as_const(k.live).data<float>()),
             b = per_channel(std::as_const(k.b).data<float>());
  const auto m = per_channel(std::as_const(k.m).data<float>());
  if (to.emit_codes) {
    Tensor codes = Tensor::empty(y.shape(), DType::i8);
    map(current_stream(), rows, channels, EmitCode<Rule>{to.rule}, in(y.data<float>()), live, b, m,
        residual..., out(codes.data<int8_t>()));
    return codes.with_scale(step, int(to.rule.lo), int(to.rule.hi));
  }
  Tensor reals = Tensor::empty(y.shape(), DType::f32);
  map(current_stream(), rows, channels, EmitReal<Rule>{to.rule}, in(y.data<float>()), live, b, m,
      scalar(step.data<float>()), residual..., out(reals.data<float>()));
  return reals;
}

// use(operands...): what both backward passes read of each element before the residual.
template <class Rule, class Use>
void with_gradient_operands(const Emission<Rule>& to, const Tensor& y, const ChannelConstants& k,
                            const Tensor& dout, const Use& use) {
  const auto unit = to.emit_codes || !to.step.defined()
                        ? constant(1.0f)
                        : scalar(std::as_const(to.step.value()).template data<float>());
  with_elements(dout, [&](const auto* d) {
    use(in(d), in(y.data<float>()), per_channel(k.live.data<float>()),
        per_channel(k.b.data<float>()), per_channel(k.m.data<float>()),
        per_channel(k.mean.data<float>()), unit);
  });
}

// The three sums, f32 [3, C], or f64 where ranks share them.
template <class Rule, class... Residual>
Tensor gradient_sums(const Emission<Rule>& to, const Tensor& y, const ChannelConstants& k,
                     const Tensor& dout, Residual... residual) {
  Tensor sums = Tensor::empty({3, y.channels()}, k.ranks ? DType::f64 : DType::f32);
  with_gradient_operands(to, y, k, dout, [&](auto... o) {
    const auto reduce = [&](auto* to_sums) {
      sum_columns<3>(current_stream(), y.rows(), y.channels(), ReduceGradient<Rule>{to.rule},
                     to_sums, o..., residual...);
    };
    if (k.ranks)
      reduce(sums.data<double>());
    else
      reduce(sums.data<float>());
  });
  return sums;
}

// The gradient of y, and of the residual where there is one, in the types they may be given in.
template <class Rule, class... Residual>
void push_back(const NormAct& args, const Emission<Rule>& to, const Tensor& y,
               const ChannelConstants& k, const Tensor& dout, Residual... residual) {
  const int64_t rows = y.rows(), channels = y.channels();
  const Tensor sums = gradient_sums(to, y, k, dout, residual...);
  const float factor = Rule::codes ? 1.0f / sqrtf(to.step_count * to.rule.hi) : 0.0f;
  const Tensor apply = finish_reduction(args, k, sums, to.step, factor);
  const float* const slope = apply.data<float>();
  Tensor dy = Tensor::empty(y.shape(), args.y.gradient_type());
  with_gradient_operands(to, y, k, dout, [&](auto... o) {
    const auto run = [&](auto... outputs) {
      map(current_stream(), rows, channels, ApplyGradient<Rule>{to.rule}, o..., per_channel(slope),
          per_channel(slope + channels), per_channel(slope + 2 * channels), residual...,
          outputs...);
    };
    if constexpr (sizeof...(Residual) > 0) {
      Tensor dresidual = Tensor::empty(y.shape(), args.residual.gradient_type());
      with_elements(dy, [&](auto* to_dy) {
        with_elements(dresidual, [&](auto* to_dresidual) { run(out(to_dy), out(to_dresidual)); });
      });
      args.residual.add_grad(dresidual);
    } else {
      with_elements(dy, [&](auto* to_dy) { run(out(to_dy)); });
    }
  });
  args.y.add_grad(dy);
}

// Calls use() with the residual's operands: none, codes and r, or reals and r.
template <class Use>
void with_residual(const Tensor& residual, const Tensor& factor, Use use) {
  if (!residual.defined())
    use();
  else if (residual.dtype() == DType::i8)
    use(in(residual.data<int8_t>()), scalar(factor.data<float>()));
  else
    use(in(residual.data<float>()), scalar(factor.data<float>()));
}

}  // namespace fused

template <class Rule>
Var fused_norm_act(const NormAct& args, const Emission<Rule>& to, const Pass& pass) {
  const Tensor y = to_float(args.y.value()),
               residual = args.residual.defined() ? args.residual.value() : Tensor();
  QT_CHECK(
      !residual.defined() || residual.shape() == y.shape(),
      args.name + ": residual " + residual.shape().text() + " does not fit " + y.shape().text());
  const Tensor step = to.step.defined() ? to.step.value() : fused::one();
  const fused::ChannelConstants constants = fused::channel_constants(args, step, pass);
  const Tensor factor = fused::residual_factor(residual, step);
  Tensor result;
  fused::with_residual(residual, factor, [&](auto... operands) {
    result = fused::emit(to, y, constants, step, operands...);
  });
  std::vector<Var> inputs{args.y, args.residual, to.step};
  if (args.norm) inputs.insert(inputs.end(), {args.norm->gamma.var, args.norm->beta.var});
  Var emitted = record(result, std::move(inputs), [=](const Tensor& dout) {
    fused::with_residual(residual, factor, [&](auto... operands) {
      fused::push_back(args, to, y, constants, dout, operands...);
    });
  });
  emitted.set_gradient_type(current_library().data_gradient_type(pass.backward));
  return emitted;
}

}  // namespace qt
