// quant/norm_act_kernels.h -- the fused op for any rule: one memory pass forward, two backward. For
// kernel files only: include core/kernel/launch.h first.
#pragma once
#include <cmath>
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

// From the three sums of a channel: its gradients of gamma and beta, what it brings to the step's,
// and the apply pass's slope, k1 and k2. g, gy and steps are what this rank brings to the
// gradients; all_g and all_gy are of whoever shares the statistics.
struct FinishReduction {
  float rows;
  bool batch_statistics;
  float step_factor;
  QT_HD Values<6> operator()(float g, float gy, float steps, float all_g, float all_gy, float live,
                             float m, float rstd, float step) const {
    const float slope = live * m, n = batch_statistics ? rows : INFINITY;
    return {{gy * rstd / step, g / step, steps / step * step_factor, slope, slope * all_g / n,
             slope * (rstd * rstd) * all_gy / n}};
  }
  QT_HD Values<6> operator()(float g, float gy, float steps, float live, float m, float rstd,
                             float step) const {
    return (*this)(g, gy, steps, g, gy, live, m, rstd, step);
  }
};

// Of each channel: f32 [C]; apply: slope, k1 and k2 as rows of [3, C].
struct ReducedGradient {
  Tensor dgamma, dbeta, dstep, apply;
};

// quant/norm_act.cpp: the sums [3, C] over all ranks, from f64 and rounded once.
Tensor shared_sums(const NormAct& args, const ChannelConstants& constants, const Tensor& sums);
// quant/norm_act.cpp: gradients of gamma, beta and step added to their Vars.
void add_gradients(const NormAct& args, const Var& step, const ReducedGradient& reduced);

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

// The sums of all rows, made into gradients and constants in the same launch. Where ranks share the
// statistics their f64 sums meet in between: one rank brings them to the sum of gradients, whole,
// and the others nothing, so that they are rounded as those of a single rank.
template <class Rule, class... Residual>
ReducedGradient reduced_gradient(const NormAct& args, const Emission<Rule>& to, const Tensor& y,
                                 const ChannelConstants& k, const Tensor& dout,
                                 Residual... residual) {
  const int64_t rows = y.rows(), channels = y.channels();
  const auto vector = [&] { return Tensor::empty({channels}, DType::f32); };
  ReducedGradient r{vector(), vector(), vector(), Tensor::empty({3, channels}, DType::f32)};
  const float factor = Rule::codes ? 1.0f / sqrtf(to.step_count * to.rule.hi) : 0.0f;
  float* const slope = r.apply.data<float>();
  const auto finished = [&](auto compute) {
    compute(FinishReduction{float(k.rows), k.batch_statistics, factor}, in(k.live.data<float>()),
            in(k.m.data<float>()), in(k.rstd.data<float>()),
            to.step.defined() ? scalar(std::as_const(to.step.value()).template data<float>())
                              : constant(1.0f),
            out(r.dgamma.data<float>()), out(r.dbeta.data<float>()), out(r.dstep.data<float>()),
            out(slope), out(slope + channels), out(slope + 2 * channels));
  };
  const auto reduce = [&](auto sums) {
    with_gradient_operands(to, y, k, dout, [&](auto... o) {
      sum_columns<3>(current_stream(), rows, channels, ReduceGradient<Rule>{to.rule}, sums, o...,
                     residual...);
    });
  };
  if (!k.ranks) {
    finished([&](auto f, auto... operands) { reduce(finish(f, operands...)); });
    return r;
  }
  Tensor mine = Tensor::empty({3, channels}, DType::f64);
  reduce(mine.data<double>());
  const Tensor all = shared_sums(args, k, mine),
               brought = k.ranks->writes() ? all : Tensor::zeros(all.shape(), DType::f32);
  const float *const a = all.data<float>(), *const b = brought.data<float>();
  finished([&](auto f, auto... operands) {
    map(current_stream(), 1, channels, f, in(b), in(b + channels), in(b + 2 * channels), in(a),
        in(a + channels), operands...);
  });
  return r;
}

// The gradient of y, and of the residual where there is one, in the types they may be given in.
template <class Rule, class... Residual>
void push_back(const NormAct& args, const Emission<Rule>& to, const Tensor& y,
               const ChannelConstants& k, const Tensor& dout, Residual... residual) {
  const int64_t rows = y.rows(), channels = y.channels();
  const ReducedGradient reduced = reduced_gradient(args, to, y, k, dout, residual...);
  add_gradients(args, to.step, reduced);
  const float* const slope = reduced.apply.data<float>();
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
