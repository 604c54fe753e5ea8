// deploy/reference_engine.cpp -- the integer program as plain loops: the definition every other
// engine is held to.
//
// Self-contained on purpose: nothing here is shared with the kernels it judges. Sums are exact
// integers; a float expression is one rounded operation per statement (and the build never
// contracts them).
#include <algorithm>
#include <cmath>

#include "deploy/engine.h"

namespace qt {
namespace {

int8_t clamped_code(float v, const Instruction& at) {
  const float lo = float(at.lo), hi = float(at.hi);
  float q = std::nearbyint(v);  // ties to even: the default rounding mode
  q = q > lo ? q : lo;
  q = q < hi ? q : hi;
  return int8_t(q);
}

Tensor new_register(const Instruction& at, int64_t n) {
  Tensor codes = Tensor::empty({n, at.output[0], at.output[1], at.output[2]}, DType::i8);
  return codes.with_scale(Tensor::full({1}, at.step), at.lo, at.hi);
}

Tensor run_image_table(const ImageTable& op, const Instruction& at, const Tensor& images) {
  Tensor y = new_register(at, images.dim(0));
  const uint8_t* pixel = images.data<uint8_t>();
  const int8_t* table = op.table.data<int8_t>();
  int8_t* out = y.data<int8_t>();
  for (int64_t i = 0; i < images.elements(); ++i) out[i] = table[i % 3 * 256 + pixel[i]];
  return y;
}

// The sum of products of one output pixel and channel.
int64_t accumulate(const int8_t* image, const int8_t* weights, const Conv2dShape& shape, int64_t oh,
                   int64_t ow, int64_t k) {
  const int64_t depth = shape.c / shape.groups, first = k / (shape.k / shape.groups) * depth;
  int64_t acc = 0;
  for (int64_t r = 0; r < shape.r; ++r) {
    const int64_t ih = oh * shape.stride - shape.padding + r * shape.dilation;
    if (ih < 0 || ih >= shape.h) continue;
    for (int64_t s = 0; s < shape.s; ++s) {
      const int64_t iw = ow * shape.stride - shape.padding + s * shape.dilation;
      if (iw < 0 || iw >= shape.w) continue;
      const int8_t* x = image + (ih * shape.w + iw) * shape.c + first;
      const int8_t* w = weights + ((k * shape.r + r) * shape.s + s) * depth;
      int32_t tap = 0;  // validate() bounds the whole sum by int32
      for (int64_t c = 0; c < depth; ++c) tap += int32_t(x[c]) * int32_t(w[c]);
      acc += tap;
    }
  }
  return acc;
}

Tensor run_conv(const Conv& op, const Instruction& at, const Tensor& x, const Tensor* residual) {
  const Conv2dShape& shape = op.shape;
  Tensor y = new_register(at, x.dim(0));
  const float* m = op.m.data<float>();
  const float* b = op.b.data<float>();
  int8_t* out = y.data<int8_t>();
  int64_t i = 0;
  for (int64_t n = 0; n < x.dim(0); ++n) {
    const int8_t* image = x.data<int8_t>() + n * shape.h * shape.w * shape.c;
    for (int64_t oh = 0; oh < shape.out_h(); ++oh)
      for (int64_t ow = 0; ow < shape.out_w(); ++ow)
        for (int64_t k = 0; k < shape.k; ++k, ++i) {
          const float acc = float(accumulate(image, op.codes.data<int8_t>(), shape, oh, ow, k));
          const float t = acc + b[k];
          float v = t * m[k];
          if (residual) {
            const float skip = float(residual->data<int8_t>()[i]) * op.residual_ratio;
            v = v + skip;
          }
          out[i] = clamped_code(v, at);
        }
  }
  return y;
}

Tensor run_add(const Add& op, const Instruction& at, const Tensor& a, const Tensor& b) {
  Tensor y = new_register(at, a.dim(0));
  for (int64_t i = 0; i < y.elements(); ++i) {
    const float p = float(a.data<int8_t>()[i]) * op.m;
    const float skip = float(b.data<int8_t>()[i]) * op.r;
    y.data<int8_t>()[i] = clamped_code(p + skip, at);
  }
  return y;
}

Tensor run_max_pool(const MaxPoolCodes& op, const Instruction& at, const Tensor& x) {
  Tensor y = new_register(at, x.dim(0));
  const int64_t h = x.dim(1), w = x.dim(2), c = x.dim(3);
  int8_t* out = y.data<int8_t>();
  for (int64_t n = 0; n < x.dim(0); ++n)
    for (int64_t oh = 0; oh < at.output[0]; ++oh)
      for (int64_t ow = 0; ow < at.output[1]; ++ow)
        for (int64_t k = 0; k < c; ++k) {
          int8_t most = -128;
          for (int64_t ih = oh * op.stride - op.padding;
               ih < oh * op.stride - op.padding + op.kernel; ++ih)
            for (int64_t iw = ow * op.stride - op.padding;
                 iw < ow * op.stride - op.padding + op.kernel; ++iw)
              if (ih >= 0 && ih < h && iw >= 0 && iw < w)
                most = std::max(most, x.data<int8_t>()[((n * h + ih) * w + iw) * c + k]);
          *out++ = most;
        }
  return y;
}

Tensor run_average_pool(const AveragePoolCodes& op, const Instruction& at, const Tensor& x) {
  Tensor y = new_register(at, x.dim(0));
  const int64_t pixels = x.dim(1) * x.dim(2), c = x.dim(3);
  for (int64_t n = 0; n < x.dim(0); ++n)
    for (int64_t k = 0; k < c; ++k) {
      int64_t sum = 0;
      for (int64_t p = 0; p < pixels; ++p) sum += x.data<int8_t>()[(n * pixels + p) * c + k];
      y.data<int8_t>()[n * c + k] = clamped_code(float(sum) * op.multiplier, at);
    }
  return y;
}

Tensor run_flatten(const Instruction& at, const Tensor& x) {
  return x.reshaped({x.dim(0), at.output[0], at.output[1], at.output[2]});
}

Tensor run_classifier(const Classifier& op, const Tensor& x) {
  const int64_t classes = op.codes.dim(0), c = op.codes.dim(1);
  Tensor logits = Tensor::empty({x.dim(0), classes}, DType::f32);
  for (int64_t n = 0; n < x.dim(0); ++n)
    for (int64_t k = 0; k < classes; ++k) {
      int64_t acc = 0;
      for (int64_t i = 0; i < c; ++i)
        acc += int64_t(x.data<int8_t>()[n * c + i]) * int64_t(op.codes.data<int8_t>()[k * c + i]);
      const float p = float(acc) * op.m.data<float>()[k];
      logits.data<float>()[n * classes + k] = p + op.bias.data<float>()[k];
    }
  return logits;
}

class ReferenceEngine final : public Engine {
 public:
  std::string name() const override { return "reference"; }

 protected:
  Tensor execute(const Step& step) const override {
    return std::visit([&](const auto& operation) { return run(operation, step); },
                      step.at.operation);
  }

 private:
  static Tensor run(const ImageTable& op, const Step& step) {
    return run_image_table(op, step.at, step.images);
  }
  static Tensor run(const Conv& op, const Step& step) {
    return run_conv(op, step.at, step.input(0), step.has_residual() ? &step.input(1) : nullptr);
  }
  static Tensor run(const Add& op, const Step& step) {
    return run_add(op, step.at, step.input(0), step.input(1));
  }
  static Tensor run(const MaxPoolCodes& op, const Step& step) {
    return run_max_pool(op, step.at, step.input(0));
  }
  static Tensor run(const AveragePoolCodes& op, const Step& step) {
    return run_average_pool(op, step.at, step.input(0));
  }
  static Tensor run(const FlattenCodes&, const Step& step) {
    return run_flatten(step.at, step.input(0));
  }
  static Tensor run(const Classifier& op, const Step& step) {
    return run_classifier(op, step.input(0));
  }
};

const EngineRegistry::Add add_engine{"reference",
                                     [] { return std::make_unique<ReferenceEngine>(); }};

}  // namespace
}  // namespace qt
