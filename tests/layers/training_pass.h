// tests/layers/training_pass.h -- a network's first training pass: pictures, logits, gradients.
#pragma once
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "core/base/philox.h"
#include "core/ops/ops.h"
#include "layers/model.h"

namespace qt {

// Four pictures of noise, u8 [4, side, side, 3].
inline Tensor pictures(int64_t side) {
  Tensor images = Tensor::empty({4, side, side, 3}, DType::u8);
  Philox draws(5, DrawKind::test);
  for (int64_t i = 0; i < images.elements(); ++i)
    images.data<uint8_t>()[i] = uint8_t(draws.below(256));
  return images;
}

inline std::unique_ptr<Model> calibrated(const ModelSpec& spec) {
  auto model = make_model(spec);
  const Tape::Pause pause;
  model->forward(pictures(spec.image_size), {.mode = ForwardMode::int8, .calibrate = true});
  return model;
}

// One training pass of a calibrated network: logits, then every gradient.
inline std::vector<Tensor> logits_and_gradients(const ModelSpec& spec, ForwardMode mode) {
  const auto model = calibrated(spec);
  const Var logits = model->forward(pictures(spec.image_size), {.mode = mode, .training = true});
  const Var loss = softmax_cross_entropy(logits, Tensor::of<int64_t>({4}, {1, 2, 3, 4}), 0);
  Tape::current().backward(loss, Tensor::full({1}, 1));
  std::vector<Tensor> all{logits.value()};
  Visitor visitor;
  visitor.parameter = [&](const std::string& name, Parameter& p) {
    EXPECT_TRUE(p.var.grad().defined()) << name;
    if (p.var.grad().defined()) all.push_back(p.var.grad());
  };
  model->visit(visitor);
  return all;
}

}  // namespace qt
