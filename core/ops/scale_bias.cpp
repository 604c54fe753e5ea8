// core/ops/scale_bias.cpp -- sums of codes become real numbers: the classifier's last step.
#include "core/kernel/launch.h"
#include "core/ops/ops.h"
#include "core/ops/saved.h"

namespace qt {
namespace {

// As the integer program: two roundings, no fused multiply-add.
struct ScaleBias {
  QT_HD float operator()(float x, float scale, float bias) const {
    const float p = x * scale;
    return p + bias;
  }
};
struct Product {
  QT_HD float operator()(float a, float b) const { return a * b; }
};
struct Itself {
  QT_HD float operator()(float x) const { return x; }
};
struct Sum {
  QT_HD Values<1> operator()(float x) const { return {{x}}; }
};

}  // namespace

Tensor channel_scale(const Tensor& sums) {
  if (!sums.has_scale()) return Tensor::full({sums.channels()}, 1.0f);
  const Tensor& step = sums.step();
  if (step.elements() == sums.channels()) return step;
  QT_CHECK(step.elements() == 1,
           "sums " + sums.shape().text() + " cannot carry scales " + step.shape().text());
  Tensor scale = Tensor::empty({sums.channels()}, DType::f32);
  map(current_stream(), 1, sums.channels(), Itself{}, scalar(step.data<float>()),
      out(scale.data<float>()));
  return scale;
}

Var scale_bias(const Var& x, const Var& bias) {
  const Tensor& xv = x.value();
  QT_CHECK(bias.value().elements() == xv.channels(),
           "bias " + bias.value().shape().text() + " does not fit x " + xv.shape().text());
  const Tensor scale = channel_scale(xv);
  Tensor y = Tensor::empty(xv.shape(), DType::f32);
  map(current_stream(), xv.rows(), xv.channels(), ScaleBias{}, in(xv.data<float>()),
      per_channel(scale.data<float>()), per_channel(bias.value().data<float>()),
      out(y.data<float>()));
  return record(y, {x, bias}, [x = slot_of(x), bias = slot_of(bias), scale](const Tensor& dy) {
    const int64_t rows = dy.rows(), channels = dy.channels();
    if (x.wants_grad()) {
      Tensor dx = Tensor::empty(dy.shape(), DType::f32);
      map(current_stream(), rows, channels, Product{}, in(dy.data<float>()),
          per_channel(scale.data<float>()), out(dx.data<float>()));
      x.add_grad(dx);
    }
    if (bias.wants_grad()) {
      Tensor db = Tensor::empty({channels}, DType::f32);
      sum_columns<1>(current_stream(), rows, channels, Sum{}, db.data<float>(),
                     in(dy.data<float>()));
      bias.add_grad(db);
    }
  });
}

}  // namespace qt
