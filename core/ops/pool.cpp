// core/ops/pool.cpp -- pooling over windows and over whole images.
#include <algorithm>
#include <limits>

#include "core/kernel/elements.h"
#include "core/kernel/launch.h"
#include "core/ops/ops.h"
#include "core/ops/saved.h"

namespace qt {
namespace {

// State: largest value so far, its tap (-1 before the first). The first of equals wins; NaN wins
// always.
struct Largest {
  QT_HD Values<2> start() const { return {{-std::numeric_limits<float>::infinity(), -1.0f}}; }
  QT_HD Values<2> operator()(Values<2> best, float x, float tap) const {
    const bool wins = x > best.v[0] || x != x || best.v[1] < 0;
    return {{wins ? x : best.v[0], wins ? tap : best.v[1]}};
  }
  QT_HD Values<2> finish(Values<2> best) const { return best; }
};
struct LargestBackward {
  QT_HD float operator()(float dy, float winner, float tap) const {
    return winner == tap ? dy : 0.0f;
  }
};

// Sum of a window divided by count; taps in the padding add nothing.
struct Average {
  float count;
  QT_HD Values<2> start() const { return {{0.0f, 0.0f}}; }
  QT_HD Values<2> operator()(Values<2> sum, float x, float) const { return {{sum.v[0] + x, 0.0f}}; }
  QT_HD Values<2> finish(Values<2> sum) const { return {{sum.v[0] / count, 0.0f}}; }
};
struct AverageBackward {
  float count;
  QT_HD float operator()(float dy, float, float) const { return dy / count; }
};

struct StepOfMean {
  double pixels;
  QT_HD float operator()(float step) const { return float(double(step) / pixels); }
};

WindowShape window_shape(const std::string& name, const Shape& x, const PoolOptions& o) {
  QT_CHECK(x.rank() == 4, name + " takes [n, h, w, c], got " + x.text());
  QT_CHECK(o.kernel >= 1 && o.stride >= 1 && o.padding >= 0 && 2 * o.padding <= o.kernel,
           name + ": kernel " + std::to_string(o.kernel) + ", stride " + std::to_string(o.stride) +
               ", padding " + std::to_string(o.padding) +
               "; kernel and stride are at least 1, padding at most half the kernel");
  const int64_t out_h = window_positions(x[1], o.padding, o.kernel, o.stride),
                out_w = window_positions(x[2], o.padding, o.kernel, o.stride);
  QT_CHECK(out_h > 0 && out_w > 0,
           name + ": a window of " + std::to_string(o.kernel) + " is larger than x " + x.text());
  return {.n = x[0],
          .h = x[1],
          .w = x[2],
          .c = x[3],
          .out_h = out_h,
          .out_w = out_w,
          .kernel = o.kernel,
          .stride = o.stride,
          .padding = o.padding};
}

template <class T>
void fold_largest(const WindowShape& shape, const Tensor& x, Tensor& y, Tensor& winners) {
  if (winners.defined())
    fold_windows(current_stream(), shape, Largest{}, x.data<T>(), out(y.data<T>()),
                 out(winners.data<uint8_t>()));
  else
    fold_windows(current_stream(), shape, Largest{}, x.data<T>(), out(y.data<T>()));
}

template <class T>
void fold_average(const WindowShape& shape, float count, const Tensor& x, Tensor& y) {
  fold_windows(current_stream(), shape, Average{count}, x.data<T>(), out(y.data<float>()));
}

// y = window sums / count of f32, i8 or u8; the gradient is with respect to x's stored numbers.
Var average(const Var& x, const WindowShape& shape, float count, const Tensor* scale) {
  const Tensor& xv = x.value();
  Tensor y = Tensor::empty({shape.n, shape.out_h, shape.out_w, shape.c}, DType::f32);
  switch (xv.dtype()) {
    case DType::i8: fold_average<int8_t>(shape, count, xv, y); break;
    case DType::u8: fold_average<uint8_t>(shape, count, xv, y); break;
    default: fold_average<float>(shape, count, xv, y);
  }
  if (scale) y = y.with_scale(*scale);
  return record(y, {x}, [x = slot_of(x), shape, count](const Tensor& dy) {
    Tensor dx = Tensor::empty({shape.n, shape.h, shape.w, shape.c}, x.gradient_type());
    with_elements(dx, [&](auto* to) {
      gather_windows(current_stream(), shape, AverageBackward{count}, dy.data<float>(),
                     dy.data<float>(), to);
    });
    x.add_grad(dx);
  });
}

}  // namespace

Var max_pool2d(const Var& x, const PoolOptions& options) {
  const Tensor& xv = x.value();
  const WindowShape shape = window_shape("max_pool2d", xv.shape(), options);
  QT_CHECK(options.kernel <= 16, "max_pool2d: kernel " + std::to_string(options.kernel) +
                                     " is above 16 (winners are kept in a byte)");
  const Shape y_shape{shape.n, shape.out_h, shape.out_w, shape.c};
  Tensor y = Tensor::empty(y_shape, xv.dtype());
  Tensor winners = x.wants_grad() ? Tensor::empty(y_shape, DType::u8) : Tensor();
  switch (xv.dtype()) {
    case DType::i8: fold_largest<int8_t>(shape, xv, y, winners); break;
    case DType::u8: fold_largest<uint8_t>(shape, xv, y, winners); break;
    default: fold_largest<float>(shape, xv, y, winners);
  }
  if (xv.has_scale()) y = y.with_scale(xv.step(), xv.lo(), xv.hi());
  const auto backward = [x = slot_of(x), shape, winners](const Tensor& dy) {
    Tensor dx = Tensor::empty({shape.n, shape.h, shape.w, shape.c}, dy.dtype());
    with_elements(dx, [&]<class T>(T* to) {
      gather_windows(current_stream(), shape, LargestBackward{}, dy.data<T>(),
                     winners.data<uint8_t>(), to);
    });
    x.add_grad(dx);
  };
  Var result = record(y, {x}, backward);
  // Not of sums that are rounded on their way into a convolution only.
  const bool stays = current_library().data_gradient_type(Precision::bf16) == x.gradient_type();
  if (stays) result.set_gradient_type(x.gradient_type());
  return result;
}

Var average_pool2d(const Var& x, const PoolOptions& options) {
  QT_CHECK(x.value().dtype() == DType::f32 && !x.value().has_scale(),
           "average_pool2d takes f32 without scale");
  const WindowShape shape = window_shape("average_pool2d", x.value().shape(), options);
  return average(x, shape, float(options.kernel * options.kernel), nullptr);
}

Var global_average_pool(const Var& x) {
  const Tensor& xv = x.value();
  QT_CHECK(xv.shape().rank() == 4 && xv.elements() > 0,
           "global_average_pool takes [n, h, w, c], got " + xv.shape().text());
  QT_CHECK(xv.is_codes() || (xv.dtype() == DType::f32 && !xv.has_scale()),
           std::string("global_average_pool takes codes or f32 without scale, got ") +
               name_of(xv.dtype()));
  // One square window over the image: taps beyond its edge are skipped.
  const WindowShape shape{.n = xv.dim(0),
                          .h = xv.dim(1),
                          .w = xv.dim(2),
                          .c = xv.dim(3),
                          .out_h = 1,
                          .out_w = 1,
                          .kernel = std::max(xv.dim(1), xv.dim(2)),
                          .stride = 1,
                          .padding = 0};
  const int64_t pixels = shape.h * shape.w;
  if (!xv.is_codes()) return average(x, shape, float(pixels), nullptr);
  QT_CHECK(pixels * std::max(-xv.lo(), xv.hi()) <= 1 << 24,
           "global_average_pool: sums over " + xv.shape().text() +
               " may exceed 2^24 and lose exactness");
  Tensor scale = Tensor::empty(xv.step().shape(), DType::f32);
  map(current_stream(), 1, scale.elements(), StepOfMean{double(pixels)},
      in(xv.step().data<float>()), out(scale.data<float>()));
  return average(x, shape, 1.0f, &scale);
}

}  // namespace qt
