// tests/support/golden_qat.h -- the networks and the training step of tests/golden/qat.safetensors,
// by the formulas of scripts/make_golden_pytorch.py.
#pragma once
#include <memory>
#include <set>
#include <string>

#include "layers/model.h"
#include "tests/support/golden_resnet20.h"
#include "train/network.h"

namespace qt::golden_qat {

constexpr float label_smoothing = 0.1f;
constexpr double learning_rate = 0.1, weight_decay = 0.05;
// A share of a tensor's norm or largest number. No number of these cases is so close to the middle
// between two codes or to the end of a range that roundings of f32 decide; what is left are those
// of sums.
constexpr double tolerance = 1e-4;
constexpr double step_tolerance = 1e-3;  // of gradients of steps, whose terms nearly cancel

inline ModelSpec network(const std::string& name) {
  const bool both = name == "w3a8_both";
  ModelSpec spec;
  spec.name = "resnet20";
  spec.image_size = 8;
  spec.mean.fill(golden_resnet20::pixel_mean);
  spec.std.fill(golden_resnet20::pixel_std);
  spec.quant.weights.bits = both ? 3 : 4;
  spec.quant.activations.bits = both ? 8 : 4;
  spec.quant.residual = both ? ResidualPolicy::both : ResidualPolicy::identity;
  spec.quant.weights.per_channel = !both;
  spec.quant.weights.narrow = spec.quant.activations.narrow = !both;
  spec.quant.activations.count_elements = both;
  return spec;
}

// u8 [4, 8, 8, 3]
inline Tensor pixels(const Golden& golden, const std::string& name) {
  const int64_t seed = golden[name + ".seed"].data<int64_t>()[0];
  const Tensor u = weights_for({4, 8, 8, 3}, uint64_t(seed));
  Tensor t = Tensor::empty(u.shape(), DType::u8);
  for (int64_t i = 0; i < t.elements(); ++i)
    t.data<uint8_t>()[i] = uint8_t((u.data<float>()[i] + 1.0f) * 127.5f);
  return t;
}

// The network before the step, in the host's memory.
inline std::unique_ptr<Model> model(const Golden& golden, const std::string& name) {
  auto model = make_model(network(name));
  const auto values = golden_resnet20::initial_values();
  for (const auto& [of, parameter] : parameters_of(*model)) {
    const bool is_step = parameter->kind == Parameter::Kind::step;
    parameter->set(is_step ? golden[name + ".step." + of].clone() : values.at(of));
    if (is_step) parameter->floor = golden[name + ".floor." + of].clone();
  }
  return model;
}

// Tensors of all parameters after backward ("gradient") or after the step ("new").
inline void expect_equal(const Golden& golden, const std::string& prefix,
                         const std::map<std::string, Tensor>& tensors) {
  size_t steps = 0, wanted = 0;
  for (const auto& [name, t] : tensors) {
    if (!golden.has(prefix + "." + name)) continue;
    ++steps;
    EXPECT_EQ(difference_of(doubles(t), doubles(golden[prefix + "." + name]), step_tolerance), "")
        << prefix << " of " << name;
  }
  for (const auto& [name, t] : golden.tensors()) wanted += name.starts_with(prefix + ".");
  EXPECT_EQ(steps, wanted);
  golden_resnet20::expect_equal(golden, prefix, tensors, tolerance);
}

}  // namespace qt::golden_qat
