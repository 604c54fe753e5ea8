// quant/norm_act_kernels.h -- the fused op for any rule: one memory pass forward, two backward. For
// kernel files only: include core/kernel/launch.h first.
#pragma once
#include <cmath>
#include <utility>

#include "core/kernel/elements.h"
#include "core/ops/saved.h"
#include "quant/kept.h"
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

// v as backward sees it.
QT_HD inline float seen(float kept, float slope, float shift) {
  return standardized(kept) * slope + shift;
}

// The same, and what backward reads of it. unit: the step of reals, 1 for codes. Where the rounding
// of x would change the code that v has, and so the step's gradient by a whole step, the next
// number on the other side of x is kept.
template <class Rule>
struct EmitAndKeep {
  Rule rule;
  // again(kept): v as backward will see it.
  template <class Again>
  QT_HD Values<2> at(float v, float x, float slope, float unit, const Again& again) const {
    const float code = rule.code(v);
    const bool passes = rule.passes(v);
    float k = kept(x, passes);
    if constexpr (Rule::codes) {
      const float w = again(k);
      k = passes && rintf(w) != code ? next_kept(k, w - code, slope) : k;
    }
    return {{code * unit, k}};
  }
  QT_HD Values<2> operator()(float y, float live, float b, float m, float mean, float rstd,
                             float slope, float shift, float unit) const {
    return at(normalized(y, live, b, m), (y - mean) * rstd, slope, unit,
              [=](float k) { return seen(k, slope, shift); });
  }
  QT_HD Values<2> operator()(float y, float live, float b, float m, float mean, float rstd,
                             float slope, float shift, float unit, float q, float r) const {
    const float skip = q * r;
    return at(normalized(y, live, b, m) + skip, (y - mean) * rstd, slope, unit,
              [=](float k) { return seen(k, slope, shift) + skip; });
  }
};
// As ReduceGradient, of what was kept: g, g x, step gradient, with v = x slope + shift.
template <class Rule>
struct ReduceKept {
  Rule rule;
  QT_HD Values<3> at(float v, float dout, float kept, float unit) const {
    const float dcode = dout * unit, g = passed(kept) ? dcode : 0.0f;
    return {{g, g * standardized(kept), dcode * rule.step_gradient(v, passed(kept))}};
  }
  QT_HD Values<3> operator()(float dout, float kept, float slope, float shift, float unit) const {
    return at(seen(kept, slope, shift), dout, kept, unit);
  }
  QT_HD Values<3> operator()(float dout, float kept, float slope, float shift, float unit, float q,
                             float r) const {
    return at(seen(kept, slope, shift) + q * r, dout, kept, unit);
  }
};
// Everything per channel that forward computes and backward needs; f32 [C] each, mean and rstd in
// raw units. Of batch statistics: v = slope x + shift of standardized values x, without a residual.
struct ChannelConstants {
  Tensor live, b, m, mean, rstd, slope, shift;
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
  bool standardized;  // gy and all_gy are sums of g x
  float step_factor;
  QT_HD Values<6> operator()(float g, float gy, float steps, float all_g, float all_gy, float live,
                             float m, float rstd, float step) const {
    const float slope = live * m, n = batch_statistics ? rows : INFINITY;
    const float by = standardized ? 1.0f : rstd;
    return {{gy * by / step, g / step, steps / step * step_factor, slope, slope * all_g / n,
             slope * (by * by) * all_gy / n}};
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

// The unit of what is emitted, in v's: 1 for codes.
template <class Rule>
Scalar<float> unit_of(const Emission<Rule>& to) {
  return to.emit_codes || !to.step.defined()
             ? constant(1.0f)
             : scalar(std::as_const(to.step.value()).template data<float>());
}

// kept: u16 of y's shape, filled for backward; undefined where backward reads y.
template <class Rule, class... Residual>
Tensor emit(const Emission<Rule>& to, const Tensor& y, const ChannelConstants& k,
            const Tensor& step, Tensor& kept, Residual... residual) {
  const int64_t rows = y.rows(), channels = y.channels();
  const auto from = in(y.data<float>());
  const auto live = per_channel(std::as_const(k.live).data<float>()),
             b = per_channel(std::as_const(k.b).data<float>()),
             m = per_channel(std::as_const(k.m).data<float>());
  const auto run = [&](auto emit_only, auto to_result, auto... units) {
    if (kept.defined())
      map(current_stream(), rows, channels, EmitAndKeep<Rule>{to.rule}, from, live, b, m,
          per_channel(k.mean.data<float>()), per_channel(k.rstd.data<float>()),
          per_channel(k.slope.data<float>()), per_channel(k.shift.data<float>()), unit_of(to),
          residual..., to_result, out(kept.data<Kept>()));
    else
      map(current_stream(), rows, channels, emit_only, from, live, b, m, units..., residual...,
          to_result);
  };
  if constexpr (Rule::codes)
    if (to.emit_codes) {
      Tensor codes = Tensor::empty(y.shape(), DType::i8);
      run(EmitCode<Rule>{to.rule}, out(codes.data<int8_t>()));
      return codes.with_scale(step, int(to.rule.lo), int(to.rule.hi));
    }
  Tensor reals = Tensor::empty(y.shape(), DType::f32);
  run(EmitReal<Rule>{to.rule}, out(reals.data<float>()), scalar(step.data<float>()));
  return reals;
}

// use(functor, operands...): how the three sums come from what was saved, y or what was kept.
template <class Rule, class Use, class... Residual>
void with_reduction(const Emission<Rule>& to, const Tensor& saved, const ChannelConstants& k,
                    const Tensor& dout, const Use& use, Residual... residual) {
  const auto unit = unit_of(to);
  with_elements(dout, [&](const auto* d) {
    if (saved.dtype() == DType::u16)
      use(ReduceKept<Rule>{to.rule}, in(d), in(saved.data<Kept>()),
          per_channel(k.slope.data<float>()), per_channel(k.shift.data<float>()), unit,
          residual...);
    else
      use(ReduceGradient<Rule>{to.rule}, in(d), in(saved.data<float>()),
          per_channel(k.live.data<float>()), per_channel(k.b.data<float>()),
          per_channel(k.m.data<float>()), per_channel(k.mean.data<float>()), unit, residual...);
  });
}

// The sums of all rows, made into gradients and constants in the same launch. Where ranks share the
// statistics their f64 sums meet in between: one rank brings them to the sum of gradients, whole,
// and the others nothing, so that they are rounded as those of a single rank.
template <class Rule, class... Residual>
ReducedGradient reduced_gradient(const NormAct& args, const Emission<Rule>& to, const Tensor& saved,
                                 const ChannelConstants& k, const Tensor& dout,
                                 Residual... residual) {
  const int64_t rows = saved.rows(), channels = saved.channels();
  const auto vector = [&] { return Tensor::empty({channels}, DType::f32); };
  ReducedGradient r{vector(), vector(), vector(), Tensor::empty({3, channels}, DType::f32)};
  const float factor = Rule::codes ? 1.0f / sqrtf(to.step_count * to.rule.hi) : 0.0f;
  float* const slope = r.apply.data<float>();
  const auto finished = [&](auto compute) {
    compute(FinishReduction{float(k.rows), k.batch_statistics, saved.dtype() == DType::u16, factor},
            in(k.live.data<float>()), in(k.m.data<float>()), in(k.rstd.data<float>()),
            to.step.defined() ? scalar(std::as_const(to.step.value()).template data<float>())
                              : constant(1.0f),
            out(r.dgamma.data<float>()), out(r.dbeta.data<float>()), out(r.dstep.data<float>()),
            out(slope), out(slope + channels), out(slope + 2 * channels));
  };
  const auto reduce = [&](auto sums) {
    const auto add = [&](auto f, auto... operands) {
      sum_columns<3>(current_stream(), rows, channels, f, sums, operands...);
    };
    with_reduction(to, saved, k, dout, add, residual...);
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

// use(functor, operands...): how dy and the residual's gradient come from y. apply: the constants,
// [3, C].
template <class Rule, class Use, class... Residual>
void with_application(const Emission<Rule>& to, const Tensor& y, const ChannelConstants& k,
                      const Tensor& apply, const Tensor& dout, const Use& use,
                      Residual... residual) {
  const float* const constants = apply.data<float>();
  const int64_t channels = y.channels();
  with_elements(dout, [&](const auto* d) {
    use(ApplyGradient<Rule>{to.rule}, in(d), in(y.data<float>()), per_channel(k.live.data<float>()),
        per_channel(k.b.data<float>()), per_channel(k.m.data<float>()),
        per_channel(k.mean.data<float>()), unit_of(to), per_channel(constants),
        per_channel(constants + channels), per_channel(constants + 2 * channels), residual...);
  });
}

// quant/norm_act.cpp: the same of what was kept, for any rule; dresidual and its factor are
// undefined where there is no residual.
void apply_kept(const Tensor& kept, const Tensor& apply, const Tensor& dout, Scalar<float> unit,
                const Tensor& factor, Tensor& dy, Tensor& dresidual);

// The gradient of y, and of the residual where there is one, in the types they may be given in.
template <class Rule, class... Residual>
void push_back(const NormAct& args, const Emission<Rule>& to, const Tensor& saved,
               const ChannelConstants& k, const Tensor& factor, const Tensor& dout,
               Residual... residual) {
  const int64_t rows = saved.rows(), channels = saved.channels();
  const ReducedGradient reduced = reduced_gradient(args, to, saved, k, dout, residual...);
  add_gradients(args, to.step, reduced);
  Tensor dy = Tensor::empty(saved.shape(), args.y.gradient_type()), dresidual;
  if (factor.defined()) dresidual = Tensor::empty(saved.shape(), args.residual.gradient_type());
  const auto apply = [&](auto f, auto... operands) {
    const auto run = [&](auto... outputs) {
      map(current_stream(), rows, channels, f, operands..., outputs...);
    };
    with_elements(dy, [&](auto* to_dy) {
      if constexpr (sizeof...(Residual) > 0)
        with_elements(dresidual, [&](auto* to_dresidual) { run(out(to_dy), out(to_dresidual)); });
      else
        run(out(to_dy));
    });
  };
  if (saved.dtype() == DType::u16)
    apply_kept(saved, reduced.apply, dout, unit_of(to), factor, dy, dresidual);
  else
    with_application(to, saved, k, reduced.apply, dout, apply, residual...);
  if (dresidual.defined()) args.residual.add_grad(dresidual);
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
  const bool keeps = pass.keep_16_bits && pass.training && constants.batch_statistics &&
                     constants.rows < most_rows_kept;
  Tensor result, kept = keeps ? Tensor::empty(y.shape(), DType::u16) : Tensor();
  fused::with_residual(residual, factor, [&](auto... operands) {
    result = fused::emit(to, y, constants, step, kept, operands...);
  });
  std::vector<Var> inputs{args.y, args.residual, to.step};
  if (args.norm) inputs.insert(inputs.end(), {args.norm->gamma.var, args.norm->beta.var});
  NormAct slots = args;
  slots.y = slot_of(args.y), slots.residual = slot_of(args.residual);
  const auto backward = [=, saved = keeps ? kept : y](const Tensor& dout) {
    fused::with_residual(residual, factor, [&](auto... operands) {
      fused::push_back(slots, to, saved, constants, factor, dout, operands...);
    });
  };
  Var emitted = record(result, std::move(inputs), backward);
  emitted.set_gradient_type(current_library().data_gradient_type(pass.backward));
  return emitted;
}

}  // namespace qt
