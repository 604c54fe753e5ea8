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
// units; of a batch also slope and shift of v over standardized values, and the running statistics.
struct FromBatch {
  float eps, momentum, unbiased;  // unbiased: n / (n - 1)
  QT_HD Values<9> operator()(float mean, float var, float scale, float gamma, float beta,
                             float running_mean, float running_var, float step) const {
    const double s = scale, real_mean = s * mean, real_var = s * s * var;
    const FoldedConstants k = fold_constants(s, gamma, beta, real_mean, real_var, eps, step);
    const float rstd = float(s / sqrt(real_var + double(eps)));
    return {{k.live, k.b, k.m, mean, rstd, float(double(gamma) / double(step)),
             float(double(beta) / double(step)),
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

// As ApplyGradient: dy = slope g - k1 - x k2, and the residual's g r.
struct ApplyKept {
  QT_HD float operator()(float dout, float kept, float unit, float slope, float k1,
                         float k2) const {
    const float g = passed(kept) ? dout * unit : 0.0f;
    return slope * g - k1 - standardized(kept) * k2;
  }
  QT_HD Values<2> operator()(float dout, float kept, float unit, float slope, float k1, float k2,
                             float r) const {
    const float g = passed(kept) ? dout * unit : 0.0f;
    return {{slope * g - k1 - standardized(kept) * k2, g * r}};
  }
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

ChannelConstants from_batch(const NormAct& args, const Tensor& y, const Tensor& scale,
                            const Tensor& step, Communicator* ranks) {
  BatchNormState& norm = *args.norm;
  const int64_t channels = y.channels();
  Moments all{y.rows(), {}, {}};
  if (ranks) {
    Tensor mine = Tensor::empty({2, channels}, DType::f64);
    column_moments(current_stream(), y.rows(), channels, y.data<float>(), mine.data<double>(),
                   mine.data<double>() + channels);
    all = merge_ranks(*ranks, args.name, y.rows(), mine);
  }
  if (all.rows < 2)
    throw ConfigError(args.name + ": batch statistics need more than one value per channel, got " +
                      y.shape().text() + ": a larger batch is needed");
  const auto vector = [&] { return Tensor::empty({channels}, DType::f32); };
  ChannelConstants k{vector(), vector(), vector(), vector(), vector(),
                     vector(), vector(), true,     all.rows, ranks};
  Tensor running_mean = vector(), running_var = vector();
  const auto constants = [&](auto compute) {
    compute(FromBatch{norm.eps, norm.momentum, float(double(all.rows) / double(all.rows - 1))},
            in(scale.data<float>()), in(norm.gamma.var.value().data<float>()),
            in(norm.beta.var.value().data<float>()),
            in(std::as_const(norm.running_mean).data<float>()),
            in(std::as_const(norm.running_var).data<float>()), scalar(step.data<float>()),
            out(k.live.data<float>()), out(k.b.data<float>()), out(k.m.data<float>()),
            out(k.mean.data<float>()), out(k.rstd.data<float>()), out(k.slope.data<float>()),
            out(k.shift.data<float>()), out(running_mean.data<float>()),
            out(running_var.data<float>()));
  };
  if (ranks)
    constants([&](const FromBatch& f, auto... operands) {
      map(current_stream(), 1, channels, f, in(std::as_const(all.mean).data<float>()),
          in(std::as_const(all.var).data<float>()), operands...);
    });
  else
    constants([&](const FromBatch& f, auto... operands) {
      column_moments(current_stream(), y.rows(), channels, y.data<float>(), finish(f, operands...));
    });
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
    k = {vector(), vector(), vector(), vector(), vector(), {}, {}, false, y.rows(), nullptr};
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

Tensor shared_sums(const NormAct& args, const ChannelConstants& k, const Tensor& sums) {
  return rounded(sums.shape(), summed(*k.ranks, on_host(sums).to_vector<double>(),
                                      "the gradient sums of " + args.name));
}

void add_gradients(const NormAct& args, const Var& step, const ReducedGradient& reduced) {
  if (args.norm) {
    args.norm->gamma.var.add_grad(reduced.dgamma);
    args.norm->beta.var.add_grad(reduced.dbeta);
  }
  if (!step.defined() || !step.wants_grad()) return;
  Tensor dstep = Tensor::empty({1}, DType::f32);
  sum_rows<1>(current_stream(), 1, reduced.dstep.elements(), kernel::Identity{},
              dstep.data<float>(), in(reduced.dstep.data<float>()));
  step.add_grad(dstep);
}

void apply_kept(const Tensor& kept, const Tensor& apply, const Tensor& dout, Scalar<float> unit,
                const Tensor& factor, Tensor& dy, Tensor& dresidual) {
  const int64_t channels = kept.channels();
  const float* const constants = apply.data<float>();
  const auto run = [&](auto... operands_and_outputs) {
    map(current_stream(), kept.rows(), channels, ApplyKept{}, operands_and_outputs...);
  };
  with_elements(dout, [&](const auto* d) {
    with_elements(dy, [&](auto* to_dy) {
      const auto with = [&](auto... rest) {
        run(in(d), in(kept.data<Kept>()), unit, per_channel(constants),
            per_channel(constants + channels), per_channel(constants + 2 * channels), rest...);
      };
      if (!dresidual.defined()) return with(out(to_dy));
      with_elements(dresidual, [&](auto* to_dresidual) {
        with(scalar(factor.data<float>()), out(to_dy), out(to_dresidual));
      });
    });
  });
}

}  // namespace fused

Var norm_act_real(const NormAct& args, const Pass& pass) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const Emission<Bounded> to{
      .rule = {args.relu ? 0.0f : -infinity, infinity}, .step = {}, .emit_codes = false};
  return fused_norm_act(args, to, pass);
}

}  // namespace qt
