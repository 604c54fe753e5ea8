// core/ops/batch_norm.cpp -- batch normalization of real numbers (Ioffe & Szegedy 2015), in the
// roles of PyTorch's.
#include <cmath>

#include "core/kernel/launch.h"
#include "core/ops/ops.h"
#include "core/ops/saved.h"

namespace qt {
namespace {

struct ReciprocalDeviation {
  float eps;
  QT_HD float operator()(float var) const { return 1.0f / sqrtf(var + eps); }
};

// The new running average; of the variance its unbiased value, n / (n - 1) times the batch's.
struct RunningAverage {
  float momentum, correction;
  QT_HD float operator()(float running, float batch) const {
    return (1 - momentum) * running + momentum * (batch * correction);
  }
};

struct Normalize {
  QT_HD float operator()(float x, float mean, float rstd, float gamma, float beta) const {
    return (x - mean) * rstd * gamma + beta;
  }
};

// Sums for dbeta and dgamma.
struct BackwardSums {
  QT_HD Values<2> operator()(float x, float dy, float mean, float rstd) const {
    return {{dy, dy * ((x - mean) * rstd)}};
  }
};

// In training the batch's mean and variance depend on x: their shares of the gradient are taken
// out.
struct BackwardTraining {
  float rows;
  QT_HD float operator()(float x, float dy, float mean, float rstd, float gamma, float dbeta,
                         float dgamma) const {
    const float normal = (x - mean) * rstd;
    return gamma * rstd * (dy - dbeta / rows - normal * (dgamma / rows));
  }
};
struct Itself {
  QT_HD float operator()(float x) const { return x; }
};
struct BackwardEvaluation {
  QT_HD float operator()(float dy, float rstd, float gamma) const { return gamma * rstd * dy; }
};

void check_arguments(const Tensor& x, std::initializer_list<const Tensor*> per_channel_values) {
  QT_CHECK(x.dtype() == DType::f32 && !x.has_scale(),
           std::string("batch_norm takes f32 without scale, got ") + name_of(x.dtype()) + " " +
               x.shape().text());
  for (const Tensor* t : per_channel_values)
    QT_CHECK(t->elements() == x.channels(), "batch_norm of x " + x.shape().text() + " needs " +
                                                std::to_string(x.channels()) +
                                                " values per channel, got " + t->shape().text());
}

Tensor running_average(const Tensor& running, const Tensor& batch, float momentum,
                       float correction) {
  Tensor next = Tensor::empty(running.shape(), DType::f32);
  map(current_stream(), 1, running.elements(), RunningAverage{momentum, correction},
      in(running.data<float>()), in(batch.data<float>()), out(next.data<float>()));
  return next;
}

Tensor x_gradient(bool training, const Tensor& x, const Tensor& dy, const Tensor& mean,
                  const Tensor& rstd, const Tensor& gamma, const Tensor& sums) {
  const int64_t rows = x.rows(), channels = x.channels();
  Tensor dx = Tensor::empty(x.shape(), DType::f32);
  const auto r = per_channel(rstd.data<float>()), g = per_channel(gamma.data<float>());
  const float* const s = sums.data<float>();
  if (training)
    map(current_stream(), rows, channels, BackwardTraining{float(rows)}, in(x.data<float>()),
        in(dy.data<float>()), per_channel(mean.data<float>()), r, g, per_channel(s),
        per_channel(s + channels), out(dx.data<float>()));
  else
    map(current_stream(), rows, channels, BackwardEvaluation{}, in(dy.data<float>()), r, g,
        out(dx.data<float>()));
  return dx;
}

// Row `row` of sums [2, C] as a tensor of its own.
Tensor copied_row(const Tensor& sums, int64_t row, const Shape& shape) {
  Tensor y = Tensor::empty(shape, DType::f32);
  map(current_stream(), 1, y.elements(), Itself{}, in(sums.data<float>() + row * y.elements()),
      out(y.data<float>()));
  return y;
}

}  // namespace

Var batch_norm(const Var& x, const Var& gamma, const Var& beta, Tensor& running_mean,
               Tensor& running_var, const BatchNormOptions& options) {
  const Tensor& xv = x.value();
  check_arguments(xv, {&gamma.value(), &beta.value(), &running_mean, &running_var});
  const int64_t rows = xv.rows(), channels = xv.channels();
  Tensor mean = running_mean, var = running_var;
  if (options.training) {
    if (rows < 2)
      throw ConfigError(
          "batch normalization in training needs at least 2 values per channel, got x " +
          xv.shape().text());
    mean = Tensor::empty({channels}, DType::f32);
    var = Tensor::empty({channels}, DType::f32);
    column_moments(current_stream(), rows, channels, xv.data<float>(), mean.data<float>(),
                   var.data<float>());
    running_mean = running_average(running_mean, mean, options.momentum, 1.0f);
    running_var =
        running_average(running_var, var, options.momentum, float(double(rows) / double(rows - 1)));
  }
  Tensor rstd = Tensor::empty({channels}, DType::f32), y = Tensor::empty(xv.shape(), DType::f32);
  map(current_stream(), 1, channels, ReciprocalDeviation{options.eps}, in(var.data<float>()),
      out(rstd.data<float>()));
  map(current_stream(), rows, channels, Normalize{}, in(xv.data<float>()),
      per_channel(mean.data<float>()), per_channel(rstd.data<float>()),
      per_channel(gamma.value().data<float>()), per_channel(beta.value().data<float>()),
      out(y.data<float>()));
  return record(
      y, {x, gamma, beta},
      [x, gamma, beta = slot_of(beta), mean, rstd, training = options.training](const Tensor& dy) {
        const Tensor& xv = x.value();
        Tensor sums = Tensor::empty({2, xv.channels()}, DType::f32);
        sum_columns<2>(current_stream(), xv.rows(), xv.channels(), BackwardSums{},
                       sums.data<float>(), in(xv.data<float>()), in(dy.data<float>()),
                       per_channel(mean.data<float>()), per_channel(rstd.data<float>()));
        if (x.wants_grad())
          x.add_grad(x_gradient(training, xv, dy, mean, rstd, gamma.value(), sums));
        if (beta.wants_grad()) beta.add_grad(copied_row(sums, 0, gamma.value().shape()));
        if (gamma.wants_grad()) gamma.add_grad(copied_row(sums, 1, gamma.value().shape()));
      });
}

}  // namespace qt
