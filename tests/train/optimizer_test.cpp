// tests/train/optimizer_test.cpp -- SGD against PyTorch's numbers, and the special rules for
// weights and quantizer steps.
#include "train/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "train/optimizer_kernels.h"

namespace qt {
namespace {

Parameter parameter(const std::vector<float>& values, Parameter::Kind kind) {
  Parameter p;
  p.var = Var(Tensor::of(Shape{int64_t(values.size())}, values), true);
  p.kind = kind;
  return p;
}

void set_grad(Parameter& p, const std::vector<float>& values) {
  p.var.set_grad(Tensor::of(Shape{int64_t(values.size())}, values));
}

// Three steps of torch.optim.SGD with gradients that change, on [1, -2, 0.5].
std::vector<float> three_steps(const OptimizerOptions& options,
                               Parameter::Kind kind = Parameter::Kind::weight) {
  Parameter p = parameter({1, -2, 0.5f}, kind);
  const auto optimizer = make_optimizer(options, {{"w", &p}});
  for (const auto& grad : std::vector<std::vector<float>>{
           {0.1f, 0.2f, -0.3f}, {0.4f, -0.5f, 0.6f}, {-0.7f, 0.8f, 0.9f}}) {
    set_grad(p, grad);
    optimizer->step(0.1);
  }
  return p.var.value().to_vector<float>();
}

void expect_near(const std::vector<float>& got, const std::vector<double>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_NEAR(got[i], want[i], 2e-7 * std::max(1.0, std::fabs(want[i]))) << i;
}

// The golden numbers: PyTorch's rule of three steps, computed in decimal arithmetic.
TEST(Sgd, PlainIsGradientTimesRate) {
  expect_near(three_steps({.momentum = 0}), {1.02, -2.05, 0.38});
}

TEST(Sgd, MomentumAccumulatesAsPyTorchDoes) {
  // v: .1, .49, -.259 | .2, -.32, .512 | -.3, .33, 1.197
  expect_near(three_steps({.momentum = 0.9}), {0.9669, -2.0392, 0.3773});
}

TEST(Sgd, NesterovLooksAheadAsPyTorchDoes) {
  // d = g + 0.9 v: .19, .841, -.9331 | .38, -.788, 1.2608 | -.57, .897, 1.9773
  expect_near(three_steps({.momentum = 0.9, .nesterov = true}), {0.99021, -2.08528, 0.26957});
}

TEST(Sgd, WeightDecayIsForWeightsAlone) {
  const OptimizerOptions decayed{.momentum = 0, .weight_decay = 0.5}, plain{.momentum = 0};
  // w <- w - 0.1 (g + 0.5 w)
  expect_near(three_steps(decayed), {0.880350, -1.765300, 0.3087625});
  for (auto kind : {Parameter::Kind::bias, Parameter::Kind::norm, Parameter::Kind::step})
    EXPECT_EQ(three_steps(decayed, kind), three_steps(plain, kind));
}

TEST(Sgd, StepsHaveTheirOwnRate) {
  Parameter step = parameter({1}, Parameter::Kind::step),
            weight = parameter({1}, Parameter::Kind::weight);
  const auto optimizer =
      make_optimizer({.momentum = 0, .step_lr_multiplier = 0.25}, {{"s", &step}, {"w", &weight}});
  set_grad(step, {1}), set_grad(weight, {1});
  optimizer->step(0.4);
  EXPECT_FLOAT_EQ(step.var.value().data<float>()[0], 0.9f);
  EXPECT_FLOAT_EQ(weight.var.value().data<float>()[0], 0.6f);
}

TEST(Sgd, KeepsStepsAtOrAboveTheirFloorAndCounts) {
  Parameter p = parameter({0.5f, 0.5f, 0.5f}, Parameter::Kind::step);
  p.floor = Tensor::full({1}, 0.01f);
  const auto optimizer = make_optimizer({.momentum = 0}, {{"s", &p}});
  set_grad(p, {1, 0.1f, 2});
  optimizer->step(1);
  const auto after = p.var.value().to_vector<float>();
  EXPECT_EQ(after[0], 0.01f);
  EXPECT_FLOAT_EQ(after[1], 0.4f);
  EXPECT_EQ(after[2], 0.01f);
  EXPECT_EQ(optimizer->take_lifted().to_vector<float>(), std::vector<float>{2});
}

TEST(Sgd, DoesNotHideNaNInAStepBehindTheFloor) {
  const Tensor x = lift_to_floor({{Tensor::of(Shape{1}, std::vector<float>{NAN}), 0.1f}}).w[0];
  EXPECT_TRUE(std::isnan(x.data<float>()[0]));
}

TEST(Sgd, WritesNewTensorsAndForgetsTheGradient) {
  Parameter p = parameter({1}, Parameter::Kind::weight);
  const Tensor before = p.var.value();
  const auto optimizer = make_optimizer({}, {{"w", &p}});
  set_grad(p, {1});
  optimizer->step(0.5);
  EXPECT_EQ(before.data<float>()[0], 1);
  EXPECT_EQ(p.var.value().data<float>()[0], 0.5f);
  EXPECT_FALSE(p.var.grad().defined());
}

TEST(Sgd, LeavesParametersWithoutGradientAlone) {
  Parameter p = parameter({1}, Parameter::Kind::weight);
  const auto optimizer = make_optimizer({.weight_decay = 0.5}, {{"w", &p}});
  optimizer->step(1);
  EXPECT_EQ(p.var.value().data<float>()[0], 1);
  EXPECT_TRUE(optimizer->state().empty());
}

TEST(Sgd, GoesOnFromItsStateWithTheSameBits) {
  const OptimizerOptions options{.momentum = 0.9, .nesterov = true, .weight_decay = 0.01};
  Parameter a = parameter({1, 2}, Parameter::Kind::weight),
            b = parameter({1, 2}, Parameter::Kind::weight);
  const auto one = make_optimizer(options, {{"w", &a}});
  set_grad(a, {0.3f, -0.7f});
  one->step(0.1);
  b.set(a.var.value());
  const auto other = make_optimizer(options, {{"w", &b}});
  other->load(one->state());
  for (Parameter* p : {&a, &b}) set_grad(*p, {-0.2f, 0.9f});
  one->step(0.1), other->step(0.1);
  EXPECT_EQ(a.var.value().to_vector<float>(), b.var.value().to_vector<float>());
}

TEST(Sgd, RefusesTheStateOfAnotherNetwork) {
  Parameter p = parameter({1, 2}, Parameter::Kind::weight);
  const auto optimizer = make_optimizer({}, {{"w", &p}});
  EXPECT_THROW(optimizer->load({{"x.velocity", Tensor::zeros({2}, DType::f32)}}), CheckpointError);
  EXPECT_THROW(optimizer->load({{"w.velocity", Tensor::zeros({3}, DType::f32)}}), CheckpointError);
}

// A kind with two moments: what all optimizers share keeps them, names them and takes them back.
class Twofold : public Optimizer {
 public:
  Twofold(const OptimizerOptions& options, const std::vector<NamedParameter>& parameters)
      : Optimizer(options, parameters, {"first", "second"}) {}

 protected:
  std::vector<AfterUpdate> updated(const std::vector<BeforeUpdate>& list) override {
    std::vector<AfterUpdate> after;
    for (const BeforeUpdate& before : list) {
      const auto sum = [](const Tensor& a, const Tensor& b, float factor) {
        Tensor out = Tensor::empty(b.shape(), DType::f32);
        for (int64_t i = 0; i < b.elements(); ++i)
          out.data<float>()[i] =
              (a.defined() ? a.data<float>()[i] : 0) + factor * b.data<float>()[i];
        return out;
      };
      const Tensor first = sum(before.moments[0], before.gradient, 1),
                   second = sum(before.moments[1], first, 1);
      after.push_back({sum(before.value, second, -before.rate.data<float>()[0]), {first, second}});
    }
    return after;
  }
};

TEST(Optimizer, KeepsAllMomentsOfItsKindAtAddressesThatStay) {
  Parameter a = parameter({1, 2}, Parameter::Kind::weight),
            b = parameter({1, 2}, Parameter::Kind::weight);
  Twofold one({}, {{"w", &a}}), other({}, {{"w", &b}});
  const std::vector<Tensor*> addresses = one.tensors();
  ASSERT_EQ(addresses.size(), 2u);
  set_grad(a, {0.5f, -1});
  one.step(0.5);
  EXPECT_EQ(a.var.value().to_vector<float>(), (std::vector<float>{0.75f, 2.5f}));
  EXPECT_EQ(one.tensors(), addresses);
  EXPECT_EQ(addresses[1]->to_vector<float>(), (std::vector<float>{0.5f, -1}));
  const NamedTensors state = one.state();
  ASSERT_EQ(state.size(), 2u);
  EXPECT_EQ(state[0].first, "w.first");
  EXPECT_EQ(state[1].first, "w.second");
  b.set(a.var.value());
  const std::vector<Tensor*> others = other.tensors();
  other.load(state);
  EXPECT_EQ(other.tensors(), others);
  for (Parameter* p : {&a, &b}) set_grad(*p, {1, 1});
  one.step(0.5), other.step(0.5);
  EXPECT_EQ(a.var.value().to_vector<float>(), (std::vector<float>{-0.25f, 3}));
  EXPECT_EQ(a.var.value().to_vector<float>(), b.var.value().to_vector<float>());
}

TEST(Optimizer, UnknownKindsListWhatIsKnown) {
  try {
    make_optimizer({.kind = "adamant"}, {});
    FAIL();
  } catch (const ConfigError& e) {
    EXPECT_NE(std::string(e.what()).find("sgd"), std::string::npos);
  }
}

TEST(Gradients, FindsTheFirstThatIsNotFinite) {
  Parameter good = parameter({1, 2}, Parameter::Kind::weight),
            bad = parameter({1, 2}, Parameter::Kind::weight);
  set_grad(good, {1e38f, -1e38f});
  set_grad(bad, {1, 2});
  const std::vector<NamedParameter> all = {{"good", &good}, {"bad", &bad}};
  EXPECT_EQ(first_bad_gradient(all), "");
  for (float value : {NAN, INFINITY, -INFINITY}) {
    set_grad(bad, {1, value});
    EXPECT_EQ(first_bad_gradient(all), "bad");
  }
}

}  // namespace
}  // namespace qt
