// train/optimizer_kernels.cpp -- parameter updates as pure functors.
#include "train/optimizer_kernels.h"

#include "core/kernel/launch.h"

namespace qt {
namespace {

struct SgdFunctor {
  SgdCoefficients by;
  QT_HD Values<2> operator()(float w, float g, float v) const {
    const float decayed = g + by.weight_decay * w;
    const float velocity = by.momentum * v + decayed;
    const float ahead = decayed + by.momentum * velocity;
    return {{w - by.lr * (by.nesterov ? ahead : velocity), velocity}};
  }
};

struct Lift {
  float floor;
  QT_HD Values<2> operator()(float w) const {
    const bool low = w < floor;
    return {{low ? floor : w, low ? 1.0f : 0.0f}};
  }
};

// x * 0 is zero for every finite x and NaN for all others, so one sum tells.
struct TimesZero {
  QT_HD Values<1> operator()(float x) const { return {{x * 0.0f}}; }
};

}  // namespace

SgdResult sgd_update(const Tensor& w, const Tensor& gradient, const Tensor& velocity,
                     const SgdCoefficients& by) {
  QT_CHECK(gradient.shape() == w.shape(), "sgd_update: gradient of another shape");
  const Tensor before = velocity.defined() ? velocity : Tensor::zeros(w.shape(), DType::f32);
  SgdResult result{Tensor::empty(w.shape(), DType::f32), Tensor::empty(w.shape(), DType::f32)};
  map(current_stream(), w.rows(), w.channels(), SgdFunctor{by}, in(w.data<float>()),
      in(gradient.data<float>()), in(before.data<float>()), out(result.w.data<float>()),
      out(result.velocity.data<float>()));
  return result;
}

Tensor lift_to_floor(const Tensor& w, float floor, int64_t& lifted) {
  Tensor high = Tensor::empty(w.shape(), DType::f32), flags = Tensor::empty(w.shape(), DType::f32);
  map(current_stream(), w.rows(), w.channels(), Lift{floor}, in(w.data<float>()),
      out(high.data<float>()), out(flags.data<float>()));
  lifted = 0;
  for (float flag : flags.to_vector<float>()) lifted += flag > 0;
  return high;
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
