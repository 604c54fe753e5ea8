// tests/quant/rounded_gradient_test.cpp -- gradients that the fused op stores as bf16 because the
// convolution behind it rounds them anyway: fewer bytes, the same bits.
#include <gtest/gtest.h>

#include <memory>
#include <set>

#include "core/library/convert.h"
#include "core/library/library.h"
#include "core/ops/ops.h"
#include "quant/norm_act.h"
#include "quant/quantizer.h"
#include "tests/support/tensors.h"

namespace qt {
namespace {

// Plain loops whose gradient passes round dy and dx to bf16, as a GPU's do; it says so, or does
// not.
class RoundingLibrary final : public Library {
 public:
  explicit RoundingLibrary(bool says_so) : says_so_(says_so) {}
  DType data_gradient_type(Precision precision) const override { return gradient_type(precision); }
  std::string name() const override { return "rounding"; }
  DType gradient_type(Precision precision) const override {
    return says_so_ && precision == Precision::bf16 ? DType::bf16 : DType::f32;
  }
  Tensor conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape, Precision) override {
    return plain_->conv2d(x, w, shape);
  }
  Tensor direct_conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape) override {
    return plain_->conv2d(x, w, shape);
  }
  Tensor conv2d_backward_data(const Tensor& dy, const Tensor& w, const Conv2dShape& shape,
                              Precision precision) override {
    seen.insert(dy.dtype());
    const Tensor dx = to_bf16(plain_->conv2d_backward_data(rounded(dy), w, shape, Precision::f32));
    return data_gradient_type(precision) == DType::bf16 ? dx : to_float(dx);
  }
  Tensor conv2d_backward_weights(const Tensor& x, const Tensor& dy, const Conv2dShape& shape,
                                 Precision) override {
    seen.insert(dy.dtype());
    return plain_->conv2d_backward_weights(x, rounded(dy), shape, Precision::f32);
  }
  Tensor matmul(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b) override {
    return plain_->matmul(a, transpose_a, b, transpose_b);
  }

  std::set<DType> seen;  // types of dy

 protected:
  Tensor integer_conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape) override {
    return plain_->conv2d_codes(x, w, shape, CodePath::integer);
  }
  Tensor integer_linear(const Tensor& x, const Tensor& w) override {
    return plain_->linear_codes(x, w, CodePath::integer);
  }

 private:
  static Tensor rounded(const Tensor& dy) { return to_float(to_bf16(dy)); }
  bool says_so_;
  std::unique_ptr<Library> plain_ = make_reference_library();
};

struct Outcome {
  std::vector<std::vector<float>> gradients;  // of x, w, gamma, beta, residual, step
  std::set<DType> seen;
};

Outcome outcome_of(bool says_so, bool codes, bool with_residual, Precision precision) {
  const auto library = std::make_shared<RoundingLibrary>(says_so);
  const UseLibrary use(library);
  const Var x(floats({2, 6, 5, 3}, 1), true), w(floats({8, 3, 3, 3}, 2), true);
  const Var residual(floats({2, 6, 5, 8}, 3), true);
  BatchNormState norm;
  norm.gamma.var = Var(floats({8}, 4, 1.5f), true);
  norm.beta.var = Var(floats({8}, 5), true);
  norm.running_mean = Tensor::zeros({8}, DType::f32);
  norm.running_var = Tensor::full({8}, 1);
  const auto quantizer = make_quantizer({.bits = 8, .is_signed = false}, 1);
  quantizer->step()->set(Tensor::full({1}, 0.02f));
  const NormAct args{.name = "unit",
                     .y = conv2d(x, w, {.padding = 1, .backward = precision}),
                     .norm = &norm,
                     .residual = with_residual ? residual : Var()};
  const Pass pass{.mode = codes ? ForwardMode::int8 : ForwardMode::float32, .training = true};
  const Var result = codes ? quantizer->norm_act(args, pass) : norm_act_real(args, pass);
  Tape::current().backward(result, floats({2, 6, 5, 8}, 6));
  Outcome outcome{{}, library->seen};
  for (const Var& var : {x, w, norm.gamma.var, norm.beta.var, residual, quantizer->step()->var})
    if (var.grad().defined()) outcome.gradients.push_back(var.grad().to_vector<float>());
  return outcome;
}

TEST(RoundedGradient, StoredAsTheConvolutionReadsItChangesNoBit) {
  for (const bool codes : {false, true})
    for (const bool with_residual : {false, true}) {
      SCOPED_TRACE(testing::Message() << "codes " << codes << ", residual " << with_residual);
      const Outcome real = outcome_of(false, codes, with_residual, Precision::bf16),
                    half = outcome_of(true, codes, with_residual, Precision::bf16);
      EXPECT_EQ(real.seen, std::set{DType::f32});
      EXPECT_EQ(half.seen, std::set{DType::bf16});
      EXPECT_EQ(half.gradients.size(), 4u + with_residual + codes);
      EXPECT_EQ(half.gradients, real.gradients);
    }
}

TEST(RoundedGradient, IsAskedForByPrecision) {
  EXPECT_EQ(outcome_of(true, true, true, Precision::f32).seen, std::set{DType::f32});
  EXPECT_EQ(outcome_of(true, true, true, Precision::tf32).seen, std::set{DType::f32});
}

// convolution, unit, pool or not, convolution: the gradient of what lies between.
struct Between {
  std::vector<float> of_x;
  DType of_unit, of_pooled;
};
Between between(bool says_so, bool pools, Precision precision) {
  const auto library = std::make_shared<RoundingLibrary>(says_so);
  const UseLibrary use(library);
  const Var x(floats({2, 6, 6, 3}, 1), true), w(floats({8, 3, 3, 3}, 2)),
      v(floats({4, 3, 3, 8}, 3));
  const ConvOptions options{.padding = 1, .backward = precision};
  const Var unit = norm_act_real({.name = "unit", .y = conv2d(x, w, options), .residual = Var()},
                                 {.mode = ForwardMode::float32, .backward = precision});
  const Var pooled = pools ? max_pool2d(unit, {.kernel = 3, .stride = 2, .padding = 1}) : unit;
  Between result;
  unit.when_ready([&](const Var& var) { result.of_unit = var.grad().dtype(); });
  if (pools) pooled.when_ready([&](const Var& var) { result.of_pooled = var.grad().dtype(); });
  const Var y = conv2d(pooled, v, options);
  Tape::current().backward(y, floats(y.value().shape(), 4));
  result.of_x = to_float(x.grad()).to_vector<float>();
  if (!pools) result.of_pooled = result.of_unit;
  return result;
}

TEST(RoundedGradient, StaysRoundedBetweenConvolutions) {
  const Between real = between(false, false, Precision::bf16),
                half = between(true, false, Precision::bf16),
                pooled = between(true, true, Precision::bf16),
                exact = between(true, true, Precision::f32);
  EXPECT_EQ(real.of_unit, DType::f32);
  EXPECT_EQ(half.of_unit, DType::bf16);
  EXPECT_EQ(half.of_x, real.of_x) << "the library had rounded it anyway";
  EXPECT_EQ(pooled.of_pooled, DType::bf16);
  EXPECT_EQ(pooled.of_unit, DType::bf16);
  const std::vector<float> sums_of_floats = between(false, true, Precision::bf16).of_x;
  ASSERT_EQ(pooled.of_x.size(), sums_of_floats.size());
  for (size_t i = 0; i < sums_of_floats.size(); ++i)
    EXPECT_NEAR(pooled.of_x[i], sums_of_floats[i], 0.05) << i;
  EXPECT_EQ(exact.of_unit, DType::f32);
  EXPECT_EQ(exact.of_pooled, DType::f32);
}

TEST(RoundedGradient, OfAResidualIsGivenInTheTypeOfItsSlot) {
  const auto library = std::make_shared<RoundingLibrary>(true);
  const UseLibrary use(library);
  const Tensor y = floats({2, 4, 4, 8}, 1), r = floats({2, 4, 4, 8}, 2),
               dout = floats({2, 4, 4, 8}, 3);
  std::vector<std::vector<float>> gradients;
  for (const DType type : {DType::f32, DType::bf16}) {
    const Var residual(r, true);
    residual.set_gradient_type(type);
    const Var out = norm_act_real({.name = "unit", .y = Var(y, true), .residual = residual},
                                  {.mode = ForwardMode::float32});
    Tape::current().backward(out, dout);
    EXPECT_EQ(residual.grad().dtype(), type);
    gradients.push_back(to_float(to_bf16(residual.grad())).to_vector<float>());
  }
  EXPECT_EQ(gradients[0], gradients[1]);
}

// Two readers of one value: their gradients are added as floats, whatever type they came in.
TEST(RoundedGradient, OfTwoReadersAreAddedAsFloats) {
  const Var x(Tensor::full({3}, 1), true);
  x.add_grad(to_bf16(Tensor::full({3}, 1)));
  x.add_grad(Tensor::full({3}, 0.00390625f));  // half a last place of 1 in bf16
  EXPECT_EQ(x.grad().to_vector<float>(), std::vector<float>(3, 1.00390625f));
}

}  // namespace
}  // namespace qt
