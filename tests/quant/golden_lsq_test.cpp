// tests/quant/golden_lsq_test.cpp -- learned step size quantization against the paper's formulas in
// PyTorch.
#include <gtest/gtest.h>

#include "quant/quantizer.h"
#include "tests/support/golden.h"
#include "tests/support/tensors.h"

namespace qt {
namespace {

struct LsqCase {
  std::string name;
  QuantSpec spec;
};

std::vector<LsqCase> cases() {
  std::vector<LsqCase> all;
  for (int bits : {2, 4, 8}) {
    const std::string suffix = "_" + std::to_string(bits) + "bit";
    all.push_back({"weights" + suffix, {.bits = bits, .per_channel = true}});
    all.push_back({"activations" + suffix, {.bits = bits, .is_signed = false}});
  }
  // One step for all weights: N counts them all.
  all.push_back({"weights_4bit_one_step", {.bits = 4, .count_elements = true}});
  return all;
}

// The file's gradient is of the real value code * step, the tape's of the code.
Tensor code_gradient(const Tensor& dy, const Tensor& step) {
  Tensor d = dy.clone();
  const int64_t per_step = dy.elements() / step.elements();
  for (int64_t i = 0; i < d.elements(); ++i) d.data<float>()[i] *= step.data<float>()[i / per_step];
  return d;
}

TEST(GoldenLsq, CodesAndGradientsEqualPyTorch) {
  const Golden golden("lsq.safetensors");
  for (const LsqCase& c : cases()) {
    SCOPED_TRACE(c.name);
    const auto at = [&](const std::string& key) { return golden[c.name + "." + key]; };
    ASSERT_EQ(c.spec.lo(), at("range").data<int64_t>()[0]);
    ASSERT_EQ(c.spec.hi(), at("range").data<int64_t>()[1]);
    const auto quantizer = make_quantizer(c.spec, at("step").elements());
    ASSERT_NE(quantizer->step(), nullptr);
    quantizer->step()->set(at("step"));
    const Var x(at("x"), true);
    const Var codes = quantizer->quantize(x, {.mode = ForwardMode::int8, .training = true});
    ASSERT_EQ(codes.value().dtype(), DType::i8);
    EXPECT_EQ(difference_of(doubles(codes.value()), doubles(at("codes")), 0), "");
    EXPECT_EQ(codes.value().step().to_vector<float>(), at("step").to_vector<float>());
    Tape::current().backward(codes, code_gradient(at("dy"), at("step")));
    ASSERT_TRUE(x.grad().defined());
    ASSERT_TRUE(quantizer->step()->var.grad().defined());
    EXPECT_EQ(difference_of(doubles(x.grad()), doubles(at("dx")), 1e-6), "");
    EXPECT_EQ(difference_of(doubles(quantizer->step()->var.grad()), doubles(at("dstep")), 1e-5),
              "");
  }
}

}  // namespace
}  // namespace qt
