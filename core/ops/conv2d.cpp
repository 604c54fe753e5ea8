// core/ops/conv2d.cpp -- convolution and matrix product, of real numbers and of integer codes.
#include <utility>

#include "core/kernel/launch.h"
#include "core/ops/ops.h"

namespace qt {
namespace {

struct Product {
  QT_HD float operator()(float a, float b) const { return a * b; }
};

// The scale of sums over products of x's and w's codes: f32 [k].
Tensor product_scale(const Tensor& x, const Tensor& w, int64_t k) {
  const Tensor &s = x.step(), &t = w.step();
  QT_CHECK(s.elements() == 1,
           "products of codes need one step for all of x, not " + s.shape().text());
  QT_CHECK(t.elements() == 1 || t.elements() == k,
           "weights of " + std::to_string(k) + " outputs cannot carry steps " + t.shape().text());
  Tensor scale = Tensor::empty({k}, DType::f32);
  const auto to = out(scale.data<float>());
  if (t.elements() == k)
    map(current_stream(), k, 1, Product{}, in(t.data<float>()), scalar(s.data<float>()), to);
  else
    map(current_stream(), k, 1, Product{}, scalar(t.data<float>()), scalar(s.data<float>()), to);
  return scale;
}

// Codes meet codes, plain numbers meet plain numbers: anything else would lose a scale.
bool both_codes(const std::string& operation, const Tensor& x, const Tensor& w) {
  if (x.is_codes() && w.is_codes()) return true;
  QT_CHECK(x.dtype() == DType::f32 && w.dtype() == DType::f32 && !x.has_scale() && !w.has_scale(),
           operation + " takes two code tensors or two f32 tensors without scale, got " +
               name_of(x.dtype()) + (x.has_scale() ? " with" : " without") + " and " +
               name_of(w.dtype()) + (w.has_scale() ? " with" : " without") + " scale");
  return false;
}

// What the product passes back to x, on top of what x's other readers did.
void add_gradient_of_data(const Var& x, const Tensor& dy, const Tensor& w, const Conv2dShape& shape,
                          Precision precision) {
  Library& library = current_library();
  Tensor so_far = x.take_grad();
  const bool added =
      so_far.defined() && library.add_conv2d_backward_data(so_far, dy, w, shape, precision);
  x.set_grad(std::move(so_far));
  if (!added) x.add_grad(library.conv2d_backward_data(dy, w, shape, precision));
}

}  // namespace

Var conv2d(const Var& x, const Var& w, const ConvOptions& options) {
  const Tensor &xv = x.value(), &wv = w.value();
  QT_CHECK(xv.shape().rank() == 4 && wv.shape().rank() == 4,
           "conv2d takes x [n, h, w, c] and w [k, r, s, c / groups], got " + xv.shape().text() +
               " and " + wv.shape().text());
  const Conv2dShape shape{.n = xv.dim(0),
                          .h = xv.dim(1),
                          .w = xv.dim(2),
                          .c = xv.dim(3),
                          .k = wv.dim(0),
                          .r = wv.dim(1),
                          .s = wv.dim(2),
                          .stride = options.stride,
                          .padding = options.padding,
                          .dilation = options.dilation,
                          .groups = options.groups};
  Tensor y = both_codes("conv2d", xv, wv)
                 ? current_library()
                       .conv2d_codes(xv, wv, shape, options.path)
                       .with_scale(product_scale(xv, wv, shape.k))
                 : current_library().conv2d(xv, wv, shape, options.forward);
  const auto backward = [x, w, shape, precision = options.backward](const Tensor& dy) {
    if (x.wants_grad()) add_gradient_of_data(x, dy, w.value(), shape, precision);
    if (w.wants_grad())
      w.add_grad(current_library().conv2d_backward_weights(x.value(), dy, shape, precision));
  };
  Var result = record(y, {x, w}, backward);
  result.set_gradient_type(current_library().gradient_type(options.backward));
  return result;
}

Var linear(const Var& x, const Var& w, const ConvOptions& options) {
  const Tensor &xv = x.value(), &wv = w.value();
  QT_CHECK(
      xv.shape().rank() == 2 && wv.shape().rank() == 2 && xv.dim(1) == wv.dim(1),
      "linear takes x [n, c] and w [k, c], got " + xv.shape().text() + " and " + wv.shape().text());
  Tensor y = both_codes("linear", xv, wv) ? current_library()
                                                .linear_codes(xv, wv, options.path)
                                                .with_scale(product_scale(xv, wv, wv.dim(0)))
                                          : current_library().matmul(xv, false, wv, true);
  return record(y, {x, w}, [x, w](const Tensor& dy) {
    Library& library = current_library();
    if (x.wants_grad()) x.add_grad(library.matmul(dy, false, to_float(w.value()), false));
    if (w.wants_grad()) w.add_grad(library.matmul(dy, true, to_float(x.value()), false));
  });
}

}  // namespace qt
