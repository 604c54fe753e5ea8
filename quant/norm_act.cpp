// quant/norm_act.cpp -- per-channel constants of the fused op, its gradients of gamma, beta and
// step, and the real form.
#include "quant/norm_act.h"

#include <cmath>

#include "core/kernel/launch.h"
#include "core/ops/ops.h"
#include "core/tensor/transfer.h"
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

struct Ratio {
  QT_HD float operator()(float residual_step, float step) const {
    return residual_ratio(residual_step, step);
  }
};
struct Reciprocal {
  QT_HD float operator()(float step) const { return 1.0f / step; }
};

// Sums -> dgamma, dbeta, slope, k1, k2. g and gy are what this rank brings to the gradients of
// gamma and beta, all_g and all_gy are of whoever shares the statistics.
struct FinishReduction {
  float rows;
  bool batch_statistics;
  QT_HD Values<5> operator()(float g, float gy, float all_g, float all_gy, float live, float m,
                             float rstd, float step) const {
    const float slope = live * m, n = batch_statistics ? rows : INFINITY;
    return {
        {gy * rstd / step, g / step, slope, slope * all_g / n, slope * (rstd * rstd) * all_gy / n}};
  }
};
struct StepTerm {
  float factor;
  QT_HD Values<1> operator()(float sum, float step) const { return {{sum / step * factor}}; }
};

Tensor rounded(const Shape& shape, const std::vector<double>& values) {
  const auto in_host_memory = [&] {
    const UseStream host(Stream{});
    return Tensor::of<float>(shape, {values.begin(), values.end()});
  };
  return here(in_host_memory());
}

// Mean and biased variance over all ranks' rows.
struct Moments {
  int64_t rows;
  Tensor mean, var;
};
// From each rank's f64 means and squared deviations [2, C], merged in the order of ranks (Chan,
// Golub & LeVeque 1983) and rounded once: the bits that one rank with all the rows would have, as
// long as each rank's rows are whole chunks.
Moments merge_ranks(Communicator& ranks, const std::string& name, int64_t rows,
                    const Tensor& moments) {
  const size_t channels = size_t(moments.channels()), record = 1 + 2 * channels;
  std::vector<double> mine = on_host(moments).to_vector<double>(),
                      all(record * size_t(ranks.world()));
  mine.insert(mine.begin(), double(rows));
  ranks.gather(mine.data(), record * sizeof(double), all.data(), "the statistics of " + name);
  std::vector<double> m(channels, 0.0), m2(channels, 0.0);
  double before = 0;
  for (size_t r = 0; r < size_t(ranks.world()); ++r) {
    const double* const theirs = all.data() + r * record;
    const double n = theirs[0];
    if (n == 0) continue;
    const double share = n / (before + n), weight = before * share;
    for (size_t c = 0; c < channels; ++c) {
      const double delta = theirs[1 + c] - m[c];
      m[c] += delta * share;
      m2[c] += theirs[1 + channels + c] + delta * delta * weight;
    }
    before += n;
  }
  for (double& squares : m2) squares /= before;
  const Shape shape{moments.channels()};
  return {int64_t(before), rounded(shape, m), rounded(shape, m2)};
}

// The sums [3, C] over all ranks, from f64 and rounded once.
Tensor shared_sums(Communicator& ranks, const std::string& name, const Tensor& sums) {
  return rounded(sums.shape(),
                 summed(ranks, on_host(sums).to_vector<double>(), "the gradient sums of " + name));
}

ChannelConstants from_batch(const NormAct& args, const Tensor& y, const Tensor& scale,
                            const Tensor& step, Communicator* ranks) {
  BatchNormState& norm = *args.norm;
  const int64_t channels = y.channels();
  int64_t rows = y.rows();
  const auto vector = [&] { return Tensor::empty({channels}, DType::f32); };
  ChannelConstants k{vector(), vector(), vector(), vector(), vector(), true, rows, ranks};
  Tensor var = vector(), running_mean = vector(), running_var = vector();
  if (ranks) {
    Tensor moments = Tensor::empty({2, channels}, DType::f64);
    column_moments(current_stream(), rows, channels, y.data<float>(), moments.data<double>(),
                   moments.data<double>() + channels);
    const Moments all = merge_ranks(*ranks, args.name, rows, moments);
    k.rows = rows = all.rows, k.mean = all.mean, var = all.var;
  } else {
    column_moments(current_stream(), rows, channels, y.data<float>(), k.mean.data<float>(),
                   var.data<float>());
  }
  if (rows < 2)
    throw ConfigError(args.name + ": batch statistics need more than one value per channel, got " +
                      y.shape().text() + ": a larger batch is needed");
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
    k = from_batch(args, y, scale, step, pass.synchronize);
  } else {
    const auto vector = [&] { return Tensor::empty({channels}, DType::f32); };
    k = {vector(), vector(), vector(), vector(), vector(), false, y.rows(), nullptr};
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
                        const Var& step, float step_factor) {
  const int64_t channels = sums.channels();
  const Tensor shared = k.ranks ? shared_sums(*k.ranks, args.name, sums) : sums;
  // Sums that are of all ranks already: one rank brings them to the sum of gradients, whole, and
  // the others nothing. So they are rounded as those of a single rank.
  const Tensor brought =
      k.ranks && !k.ranks->writes() ? Tensor::zeros(sums.shape(), DType::f32) : shared;
  const float *const all = shared.data<float>(), *const s = brought.data<float>();
  const auto unit = step.defined() ? scalar(step.value().data<float>()) : constant(1.0f);
  Tensor dgamma = Tensor::empty({channels}, DType::f32),
         dbeta = Tensor::empty({channels}, DType::f32);
  Tensor apply = Tensor::empty({3, channels}, DType::f32);
  map(current_stream(), 1, channels, FinishReduction{float(k.rows), k.batch_statistics}, in(s),
      in(s + channels), in(all), in(all + channels), in(k.live.data<float>()),
      in(k.m.data<float>()), in(k.rstd.data<float>()), unit, out(dgamma.data<float>()),
      out(dbeta.data<float>()), out(apply.data<float>()), out(apply.data<float>() + channels),
      out(apply.data<float>() + 2 * channels));
  if (args.norm) {
    args.norm->gamma.var.add_grad(dgamma);
    args.norm->beta.var.add_grad(dbeta);
  }
  if (step.defined() && step.wants_grad()) {
    Tensor dstep = Tensor::empty({1}, DType::f32);
    sum_rows<1>(current_stream(), 1, channels, StepTerm{step_factor}, dstep.data<float>(),
                in(s + 2 * channels), unit);
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
