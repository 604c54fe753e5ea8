// core/ops/elementwise.cpp -- addition and the activations.
#include "core/kernel/elements.h"
#include "core/kernel/launch.h"
#include "core/ops/ops.h"
#include "core/ops/saved.h"

namespace qt {
namespace {

struct Sum {
  QT_HD float operator()(float a, float b) const { return a + b; }
};

// Comparisons are written so that NaN passes, as in PyTorch: a hidden NaN is worse than a visible
// one.
struct Relu {
  QT_HD float operator()(float x) const { return x <= 0 ? 0.0f : x; }
};
struct ReluBackward {
  QT_HD float operator()(float y, float dy) const { return y <= 0 ? 0.0f : dy; }
};
struct Relu6 {
  QT_HD float operator()(float x) const { return x <= 0 ? 0.0f : x >= 6 ? 6.0f : x; }
};
struct Relu6Backward {
  QT_HD float operator()(float y, float dy) const { return y <= 0 || y >= 6 ? 0.0f : dy; }
};

void check_real(const std::string& operation, const Tensor& x) {
  QT_CHECK(x.dtype() == DType::f32 && !x.has_scale(),
           operation + " takes f32 without scale, got " + name_of(x.dtype()) + " " +
               x.shape().text() + (x.has_scale() ? " with scale" : ""));
}

template <class Forward, class Backward>
Var activation(const std::string& name, const Var& x) {
  check_real(name, x.value());
  const int64_t rows = x.value().rows(), channels = x.value().channels();
  Tensor y = Tensor::empty(x.value().shape(), DType::f32);
  map(current_stream(), rows, channels, Forward{}, in(x.value().data<float>()),
      out(y.data<float>()));
  const Tensor saved = y;
  return record(y, {x}, [x = slot_of(x), saved, rows, channels](const Tensor& dy) {
    Tensor dx = Tensor::empty(dy.shape(), DType::f32);
    map(current_stream(), rows, channels, Backward{}, in(saved.data<float>()), in(dy.data<float>()),
        out(dx.data<float>()));
    x.add_grad(dx);
  });
}

}  // namespace

// Of bf16 the sum is rounded once.
Tensor add(const Tensor& a, const Tensor& b) {
  if (a.dtype() != DType::bf16 || b.dtype() != DType::bf16) {
    check_real("add", a);
    check_real("add", b);
  }
  QT_CHECK(a.shape() == b.shape(), "cannot add " + a.shape().text() + " and " + b.shape().text());
  Tensor y = Tensor::empty(a.shape(), a.dtype());
  with_elements(y, [&]<class T>(T* to) {
    map(current_stream(), a.rows(), a.channels(), Sum{}, in(a.data<T>()), in(b.data<T>()), out(to));
  });
  return y;
}

Var add(const Var& a, const Var& b) {
  return record(add(a.value(), b.value()), {a, b},
                [a = slot_of(a), b = slot_of(b)](const Tensor& dy) {
                  a.add_grad(dy);
                  b.add_grad(dy);
                });
}

Var relu(const Var& x) { return activation<Relu, ReluBackward>("relu", x); }
Var relu6(const Var& x) { return activation<Relu6, Relu6Backward>("relu6", x); }

}  // namespace qt
