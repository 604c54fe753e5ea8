// train/optimizer_kernels.cpp -- parameter updates as pure functors.
#include "train/optimizer_kernels.h"

#include "core/kernel/launch.h"
#include "core/kernel/segments.h"

namespace qt {
namespace {

struct SgdFunctor {
  SgdCoefficients by;
  QT_HD Values<2> operator()(float w, float g, float v, float lr) const {
    const float decayed = g + by.weight_decay * w;
    const float velocity = by.momentum * v + decayed;
    const float ahead = decayed + by.momentum * velocity;
    return {{w - lr * (by.nesterov ? ahead : velocity), velocity}};
  }
};

struct Lift {
  float floor;
  QT_HD float operator()(float w) const { return w < floor ? floor : w; }
};
struct IsLow {
  float floor;
  QT_HD bool operator()(float w) const { return w < floor; }
};
struct Number {
  QT_HD float operator()(int32_t n) const { return float(n); }
};

// x * 0 is zero for every finite x and NaN for all others, so one sum tells.
struct TimesZero {
  QT_HD Values<1> operator()(float x) const { return {{x * 0.0f}}; }
};

}  // namespace

std::vector<SgdResult> sgd_update(const std::vector<SgdArguments>& list) {
  using Read = Element<float>;
  using Written = Output<float>;
  Segments<SgdFunctor, Read, Read, Read, Scalar<float>, Written, Written> segments;
  std::vector<SgdResult> results;
  std::vector<Tensor> zeros;
  for (const SgdArguments& a : list) {
    QT_CHECK(a.gradient.shape() == a.w.shape(), "sgd_update: gradient of another shape");
    Tensor before = a.velocity;
    if (!before.defined()) zeros.push_back(before = Tensor::zeros(a.w.shape(), DType::f32));
    SgdResult result{Tensor::empty(a.w.shape(), DType::f32),
                     Tensor::empty(a.w.shape(), DType::f32)};
    segments.add(a.w.elements(), SgdFunctor{a.by}, in(a.w.data<float>()),
                 in(a.gradient.data<float>()), in(std::as_const(before).data<float>()),
                 scalar(a.lr.data<float>()), out(result.w.data<float>()),
                 out(result.velocity.data<float>()));
    results.push_back(std::move(result));
  }
  segments.map(current_stream());
  return results;
}

Lifted lift_to_floor(const std::vector<Lifting>& list) {
  Segments<Lift, Element<float>, Output<float>> lifts;
  Segments<IsLow, Element<float>> low;
  Lifted lifted{{}, Tensor::empty({1}, DType::f32)};
  for (const auto& [w, floor] : list) {
    Tensor high = Tensor::empty(w.shape(), DType::f32);
    low.add(w.elements(), IsLow{floor}, in(w.data<float>()));
    lifts.add(w.elements(), Lift{floor}, in(w.data<float>()), out(high.data<float>()));
    lifted.w.push_back(std::move(high));
  }
  Tensor count = Tensor::empty({1}, DType::i32);
  low.count_where(current_stream(), count.data<int32_t>());
  lifts.map(current_stream());
  map(current_stream(), 1, 1, Number{}, in(std::as_const(count).data<int32_t>()),
      out(lifted.count.data<float>()));
  return lifted;
}

bool all_finite(const Tensor& x) {
  if (x.elements() == 0) return true;
  Tensor sums = Tensor::empty({x.channels()}, DType::f32);
  sum_columns<1>(current_stream(), x.rows(), x.channels(), TimesZero{}, sums.data<float>(),
                 in(x.data<float>()));
  for (float sum : sums.to_vector<float>())
    if (!(sum == 0)) return false;
  return true;
}

}  // namespace qt
