// core/library/reference.cpp -- the library as plain loops: what every other library is tested
// against.
#include <algorithm>
#include <vector>

#include "core/base/registry.h"
#include "core/library/arguments.h"
#include "core/library/library.h"
#include "core/library/plain.h"

namespace qt {
namespace {

// Calls visit(ih, iw, tap) for each kernel tap of the output pixel (oh, ow) that lies inside the
// input; tap = r * S + s.
template <class Visit>
void for_each_tap(const Conv2dShape& shape, int64_t oh, int64_t ow, Visit visit) {
  for (int64_t r = 0; r < shape.r; ++r) {
    const int64_t ih = oh * shape.stride - shape.padding + r * shape.dilation;
    if (ih < 0 || ih >= shape.h) continue;
    for (int64_t s = 0; s < shape.s; ++s) {
      const int64_t iw = ow * shape.stride - shape.padding + s * shape.dilation;
      if (iw >= 0 && iw < shape.w) visit(ih, iw, r * shape.s + s);
    }
  }
}

// The product-sum of one output over channels and taps: codes in int64 (each tap in int32: 65,536
// products of bytes fit), floats in double.
template <class Sum, class TapSum, class X, class W>
Sum sum_of_output(const X* x, const W* w, const Conv2dShape& shape, int64_t n, int64_t oh,
                  int64_t ow, int64_t k) {
  const int64_t depth = shape.c / shape.groups;
  const int64_t first_channel = k / (shape.k / shape.groups) * depth;
  Sum sum = 0;
  for_each_tap(shape, oh, ow, [&](int64_t ih, int64_t iw, int64_t tap) {
    const X* xs = x + ((n * shape.h + ih) * shape.w + iw) * shape.c + first_channel;
    const W* ws = w + (k * shape.r * shape.s + tap) * depth;
    for (int64_t from = 0; from < depth; from += 65536) {
      const int64_t to = std::min(depth, from + 65536);
      TapSum tap_sum = 0;
      for (int64_t c = from; c < to; ++c) tap_sum += TapSum(xs[c]) * TapSum(ws[c]);
      sum += Sum(tap_sum);
    }
  });
  return sum;
}

template <class Sum, class TapSum, class X, class W>
Tensor forward(const X* x, const W* w, const Conv2dShape& shape) {
  Tensor y = Tensor::empty(shape.y_shape(), DType::f32);
  float* out = y.data<float>();
  for (int64_t n = 0; n < shape.n; ++n)
    for (int64_t oh = 0; oh < shape.out_h(); ++oh)
      for (int64_t ow = 0; ow < shape.out_w(); ++ow)
        for (int64_t k = 0; k < shape.k; ++k)
          *out++ = float(sum_of_output<Sum, TapSum>(x, w, shape, n, oh, ow, k));
  return y;
}

// Calls f(pointer to x, pointer to w) with the codes' own types.
template <class F>
auto with_code_types(const Tensor& x, const Tensor& w, F f) {
  const auto with_w = [&](auto* xs) {
    return w.dtype() == DType::i8 ? f(xs, w.data<int8_t>()) : f(xs, w.data<uint8_t>());
  };
  return x.dtype() == DType::i8 ? with_w(x.data<int8_t>()) : with_w(x.data<uint8_t>());
}

Tensor rounded(const std::vector<double>& values, const Shape& shape) {
  Tensor t = Tensor::empty(shape, DType::f32);
  std::transform(values.begin(), values.end(), t.data<float>(), [](double v) { return float(v); });
  return t;
}

class Reference final : public Library {
 public:
  std::string name() const override { return "reference"; }

  Tensor conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape, Precision) override {
    check_conv2d(x, w, shape);
    note("conv2d", "f32", shape.text());
    return forward<double, double>(x.data<float>(), w.data<float>(), shape);
  }

  Tensor direct_conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape) override {
    return conv2d(x, w, shape, Precision::f32);
  }

  Tensor conv2d_backward_data(const Tensor& dy, const Tensor& w, const Conv2dShape& shape,
                              Precision) override {
    check_conv2d_backward_data(dy, w, shape);
    note("conv2d_backward_data", "f32", shape.text());
    const Tensor w_float = to_float(w);
    const float* ws = w_float.data<float>();
    const float* dys = dy.data<float>();
    const int64_t depth = shape.c / shape.groups, per_group = shape.k / shape.groups;
    std::vector<double> dx(size_t(shape.x_shape().elements()), 0.0);
    for (int64_t n = 0; n < shape.n; ++n)
      for (int64_t oh = 0; oh < shape.out_h(); ++oh)
        for (int64_t ow = 0; ow < shape.out_w(); ++ow, dys += shape.k)
          for_each_tap(shape, oh, ow, [&](int64_t ih, int64_t iw, int64_t tap) {
            double* pixel = dx.data() + ((n * shape.h + ih) * shape.w + iw) * shape.c;
            for (int64_t k = 0; k < shape.k; ++k) {
              const float* taps = ws + (k * shape.r * shape.s + tap) * depth;
              double* channels = pixel + k / per_group * depth;
              for (int64_t c = 0; c < depth; ++c) channels[c] += double(dys[k]) * double(taps[c]);
            }
          });
    return rounded(dx, shape.x_shape());
  }

  Tensor conv2d_backward_weights(const Tensor& x, const Tensor& dy, const Conv2dShape& shape,
                                 Precision) override {
    check_conv2d_backward_weights(x, dy, shape);
    note("conv2d_backward_weights", "f32", shape.text());
    const Tensor x_float = to_float(x);
    const float* xs = x_float.data<float>();
    const float* dys = dy.data<float>();
    const int64_t depth = shape.c / shape.groups, per_group = shape.k / shape.groups;
    std::vector<double> dw(size_t(shape.w_shape().elements()), 0.0);
    for (int64_t n = 0; n < shape.n; ++n)
      for (int64_t oh = 0; oh < shape.out_h(); ++oh)
        for (int64_t ow = 0; ow < shape.out_w(); ++ow, dys += shape.k)
          for_each_tap(shape, oh, ow, [&](int64_t ih, int64_t iw, int64_t tap) {
            const float* pixel = xs + ((n * shape.h + ih) * shape.w + iw) * shape.c;
            for (int64_t k = 0; k < shape.k; ++k) {
              double* taps = dw.data() + (k * shape.r * shape.s + tap) * depth;
              const float* channels = pixel + k / per_group * depth;
              for (int64_t c = 0; c < depth; ++c) taps[c] += double(dys[k]) * double(channels[c]);
            }
          });
    return rounded(dw, shape.w_shape());
  }

  Tensor matmul(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b) override {
    const MatmulExtents e = matmul_extents(a, transpose_a, b, transpose_b);
    note("matmul", "f32", e.text());
    const float* as = a.data<float>();
    const float* bs = b.data<float>();
    std::vector<double> c(size_t(e.m * e.n), 0.0);
    for (int64_t i = 0; i < e.m; ++i)
      for (int64_t p = 0; p < e.k; ++p) {
        const double left = transpose_a ? as[p * e.m + i] : as[i * e.k + p];
        for (int64_t j = 0; j < e.n; ++j)
          c[size_t(i * e.n + j)] += left * double(transpose_b ? bs[j * e.k + p] : bs[p * e.n + j]);
      }
    return rounded(c, {e.m, e.n});
  }

 protected:
  Tensor integer_conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape) override {
    note("conv2d_codes", arithmetic(x, w), shape.text());
    return plain_conv2d_codes(x, w, shape);
  }

  Tensor integer_linear(const Tensor& x, const Tensor& w) override {
    const Conv2dShape shape = linear_as_conv2d(x, w);
    note("linear_codes", arithmetic(x, w), shape.text());
    return plain_conv2d_codes(x, w, shape).reshaped({x.dim(0), w.dim(0)});
  }

 private:
  static std::string arithmetic(const Tensor& x, const Tensor& w) {
    return std::string(x.dtype() == DType::i8 ? "s8" : "u8") +
           (w.dtype() == DType::i8 ? "s8" : "u8") + "s32";
  }
  static void note(const std::string& operation, const std::string& arithmetic,
                   const std::string& shape) {
    if (LibraryTrace::active())
      LibraryTrace::note({"reference", operation, "plain loops", arithmetic, shape});
  }
};

const Registry<Library>::Add add{"reference", make_reference_library};

}  // namespace

int64_t plain_sum(const Tensor& x, const Tensor& w, const Conv2dShape& shape, int64_t n, int64_t oh,
                  int64_t ow, int64_t k) {
  return with_code_types(x, w, [&](auto* xs, auto* ws) {
    return sum_of_output<int64_t, int32_t>(xs, ws, shape, n, oh, ow, k);
  });
}

Tensor plain_conv2d_codes(const Tensor& x, const Tensor& w, const Conv2dShape& shape) {
  return with_code_types(
      x, w, [&](auto* xs, auto* ws) { return forward<int64_t, int32_t>(xs, ws, shape); });
}

std::unique_ptr<Library> make_reference_library() { return std::make_unique<Reference>(); }

}  // namespace qt
