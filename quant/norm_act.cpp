// quant/norm_act.cpp -- per-channel constants of the fused op, its gradients of gamma, beta and
// step, and the real form.
#include "quant/norm_act.h"

#include "core/kernel/launch.h"
#include "quant/norm_act_kernels.h"
#include "quant/rules.h"

namespace qt {
namespace fused {
namespace {

// From statistics in raw units (batch) or real units (running): live, b, m, mean and rstd in raw
// units.
struct FromBatch {
  float eps, momentum, unbiased;  // unbiased: n / (n - 1)
  QT_HD Values<6> operator()(float mean, float var, float scale, float gamma, float beta,
                             float running_mean, float running_var, float step) const {
    const double s = scale, real_mean = s * mean, real_var = s * s * var;
    const FoldedConstants k = fold_constants(s, gamma, beta, real_mean, real_var, eps, step);
    const float rstd = float(s / sqrt(real_var + double(eps)));
    return {{k.live, k.b, k.m, rstd,
             float(running_mean + double(momentum) * (real_mean - running_mean)),
             float(running_var + double(momentum) * (real_var * unbiased - running_var))}};
  }
};
struct FromRunning {
  float eps;
  QT_HD Values<5> operator()(float scale, float gamma, float beta, float mean, float var,
                             float step) const {
    const double s = scale;
    const FoldedConstants k = fold_constants(s, gamma, beta, mean, var, eps, step);
    return {{k.live, k.b, k.m, float(mean / s), float(s / sqrt(double(var) + double(eps)))}};
  }
};
// No normalization: v = y * m, m = scale / step.
struct WithoutNorm {
  QT_HD Values<5> operator()(float scale, float step) const {
    return {{1.0f, 0.0f, float(double(scale) / double(step)), 0.0f, 1.0f}};
  }
};

struct Same {
  QT_HD float operator()(float x) const { return x; }
};

// The scale of raw sums as a per-channel vector.
Tensor channel_scale(const Tensor& y) {
  const int64_t channels = y.channels();
  if (!y.has_scale()) return Tensor::full({channels}, 1.0f);
  const Tensor& step = y.step();
  if (step.elements() == channels) return step;
  QT_CHECK(step.elements() == 1, "scale " + step.shape().text() + " of sums " + y.shape().text());
  Tensor scale = Tensor::empty({channels}, DType::f32);
  map(current_stream(), 1, channels, Same{}, scalar(step.data<float>()), out(scale.data<float>()));
  return scale;
}

struct Ratio {
  QT_HD float operator()(float residual_step, float step) const {
    return residual_ratio(residual_step, step);
  }
};
struct Reciprocal {
  QT_HD float operator()(float step) const { return 1.0f / step; }
};

// Sums -> dgamma, dbeta, slope, k1, k2.
struct FinishReduction {
  float rows;
  bool batch_statistics;
  QT_HD Values<5> operator()(float g, float gy, float live, float m, float rstd, float step) const {
    const float slope = live * m, n = batch_statistics ? rows : INFINITY;
    return {{gy * rstd / step, g / step, slope, slope * g / n, slope * (rstd * rstd) * gy / n}};
  }
};
struct StepTerm {
  float factor;
  QT_HD Values<1> operator()(float sum, float step) const { return {{sum / step * factor}}; }
};

ChannelConstants from_batch(const NormAct& args, const Tensor& y, const Tensor& scale,
                            const Tensor& step) {
  BatchNormState& norm = *args.norm;
  const int64_t rows = y.rows(), channels = y.channels();
  QT_CHECK(rows > 1, args.name +
                         ": batch statistics need more than one value per channel, got shape " +
                         y.shape().text());
  const auto vector = [&] { return Tensor::empty({channels}, DType::f32); };
  ChannelConstants k{vector(), vector(), vector(), vector(), vector(), true};
  Tensor var = vector(), running_mean = vector(), running_var = vector();
  column_moments(current_stream(), rows, channels, y.data<float>(), k.mean.data<float>(),
                 var.data<float>());
  map(current_stream(), 1, channels,
      FromBatch{norm.eps, norm.momentum, float(double(rows) / double(rows - 1))},
      in(std::as_const(k.mean).data<float>()), in(std::as_const(var).data<float>()),
      in(scale.data<float>()), in(norm.gamma.var.value().data<float>()),
      in(norm.beta.var.value().data<float>()), in(std::as_const(norm.running_mean).data<float>()),
      in(std::as_const(norm.running_var).data<float>()), scalar(step.data<float>()),
      out(k.live.data<float>()), out(k.b.data<float>()), out(k.m.data<float>()),
      out(k.rstd.data<float>()), out(running_mean.data<float>()), out(running_var.data<float>()));
  norm.running_mean = running_mean;
  norm.running_var = running_var;
  return k;
}

}  // namespace

ChannelConstants channel_constants(const NormAct& args, const Tensor& step, const Pass& pass) {
  const Tensor& y = args.y.value();
  const Tensor scale = channel_scale(y);
  const int64_t channels = y.channels();
  ChannelConstants k;
  if (args.norm && (pass.training || pass.calibrate) && !args.norm->frozen) {
    k = from_batch(args, y, scale, step);
  } else {
    const auto vector = [&] { return Tensor::empty({channels}, DType::f32); };
    k = {vector(), vector(), vector(), vector(), vector(), false};
    const auto compute = [&](auto f, auto... operands) {
      map(current_stream(), 1, channels, f, in(scale.data<float>()), operands...,
          scalar(step.data<float>()), out(k.live.data<float>()), out(k.b.data<float>()),
          out(k.m.data<float>()), out(k.mean.data<float>()), out(k.rstd.data<float>()));
    };
    if (args.norm)
      compute(FromRunning{args.norm->eps}, in(args.norm->gamma.var.value().data<float>()),
              in(args.norm->beta.var.value().data<float>()),
              in(std::as_const(args.norm->running_mean).data<float>()),
              in(std::as_const(args.norm->running_var).data<float>()));
    else
      compute(WithoutNorm{});
  }
  if (pass.health) {
    pass.health->watch(args.name, k.m);
    pass.health->watch(args.name, k.b);
  }
  return k;
}

Tensor residual_factor(const Tensor& residual, const Tensor& step) {
  if (!residual.defined()) return {};
  Tensor r = Tensor::empty({1}, DType::f32);
  if (residual.is_codes())
    map(current_stream(), 1, 1, Ratio{}, in(residual.step().data<float>()), in(step.data<float>()),
        out(r.data<float>()));
  else
    map(current_stream(), 1, 1, Reciprocal{}, in(step.data<float>()), out(r.data<float>()));
  return r;
}

Tensor finish_reduction(const NormAct& args, const ChannelConstants& k, const Tensor& sums,
                        const Var& step, float step_factor, int64_t rows) {
  const int64_t channels = sums.channels();
  const float* const s = sums.data<float>();
  const Tensor unit = step.defined() ? step.value() : one();
  Tensor dgamma = Tensor::empty({channels}, DType::f32),
         dbeta = Tensor::empty({channels}, DType::f32);
  Tensor apply = Tensor::empty({3, channels}, DType::f32);
  map(current_stream(), 1, channels, FinishReduction{float(rows), k.batch_statistics}, in(s),
      in(s + channels), in(k.live.data<float>()), in(k.m.data<float>()), in(k.rstd.data<float>()),
      scalar(unit.data<float>()), out(dgamma.data<float>()), out(dbeta.data<float>()),
      out(apply.data<float>()), out(apply.data<float>() + channels),
      out(apply.data<float>() + 2 * channels));
  if (args.norm) {
    args.norm->gamma.var.add_grad(dgamma);
    args.norm->beta.var.add_grad(dbeta);
  }
  if (step.defined() && step.wants_grad()) {
    Tensor dstep = Tensor::empty({1}, DType::f32);
    sum_rows<1>(current_stream(), 1, channels, StepTerm{step_factor}, dstep.data<float>(),
                in(s + 2 * channels), scalar(unit.data<float>()));
    step.add_grad(dstep);
  }
  return apply;
}

}  // namespace fused

Var norm_act_real(const NormAct& args, const Pass& pass) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const Emission<Bounded> to{
      .rule = {args.relu ? 0.0f : -infinity, infinity}, .step = {}, .emit_codes = false};
  return fused_norm_act(args, to, pass);
}

}  // namespace qt
