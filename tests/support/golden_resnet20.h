// tests/support/golden_resnet20.h -- the ResNet-20, images and training steps of
// tests/golden/resnet20.safetensors, by the formulas of scripts/make_golden_pytorch.py.
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "tests/support/golden.h"
#include "tests/support/tensors.h"

namespace qt::golden_resnet20 {

struct NamedShape {
  std::string name;
  Shape shape;
};

// In PyTorch's order, on which seeds depend.
inline std::vector<NamedShape> parameters() {
  std::vector<NamedShape> list;
  const auto conv = [&](const std::string& c, const std::string& bn, int64_t in, int64_t out,
                        int64_t kernel) {
    list.push_back({c + ".weight", {out, kernel, kernel, in}});
    list.push_back({bn + ".weight", {out}});
    list.push_back({bn + ".bias", {out}});
  };
  conv("conv1", "bn1", 3, 16, 3);
  int64_t in = 16;
  for (int stage = 1; stage <= 3; ++stage)
    for (int block = 0; block < 3; ++block) {
      const std::string name = "layer" + std::to_string(stage) + "." + std::to_string(block) + ".";
      const int64_t out = int64_t{8} << stage;
      conv(name + "conv1", name + "bn1", in, out, 3);
      conv(name + "conv2", name + "bn2", out, out, 3);
      if (in != out) conv(name + "downsample.0", name + "downsample.1", in, out, 1);
      in = out;
    }
  list.push_back({"fc.weight", {10, 64}});
  list.push_back({"fc.bias", {10}});
  return list;
}

inline std::map<std::string, Tensor> initial_values() {
  std::map<std::string, Tensor> values;
  const std::vector<NamedShape> list = parameters();
  for (size_t i = 0; i < list.size(); ++i) {
    const auto& [name, shape] = list[i];
    const bool weight = name.ends_with("weight");
    const int64_t fan_in = shape.elements() / shape[0];
    Tensor t = floats(shape, i, shape.rank() == 1 ? 0.25f : float(std::sqrt(6.0 / double(fan_in))));
    if (shape.rank() == 1 && weight)
      for (int64_t j = 0; j < t.elements(); ++j) t.data<float>()[j] += 1.0f;
    values[name] = t;
  }
  return values;
}

// u8 [4, 32, 32, 3]
inline Tensor pixels() {
  const Tensor u = weights_for({4, 32, 32, 3}, 1000);
  Tensor t = Tensor::empty(u.shape(), DType::u8);
  for (int64_t i = 0; i < t.elements(); ++i)
    t.data<uint8_t>()[i] = uint8_t((u.data<float>()[i] + 1.0f) * 127.5f);
  return t;
}
constexpr double pixel_mean = 0.5, pixel_std = 0.25;

constexpr double learning_rate = 0.1, momentum = 0.9,
                 weight_decay = 1e-4;  // decay of conv and fc weights alone

// Holds a tensor per parameter ("step0.gradient": what of it) against the file: dot product with a
// random tensor and norm of each, and the few that are stored in full. tolerance is a share of a
// tensor's norm.
inline void expect_equal(const Golden& golden, const std::string& prefix,
                         const std::map<std::string, Tensor>& tensors, double tolerance) {
  const std::vector<NamedShape> list = parameters();
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string& name = list[i].name;
    SCOPED_TRACE(prefix + " of " + name);
    ASSERT_TRUE(tensors.count(name));
    const Tensor& t = tensors.at(name);
    ASSERT_TRUE(t.defined());
    ASSERT_EQ(t.shape().text(), list[i].shape.text());
    const std::vector<double> v = doubles(t), probe = doubles(weights_for(t.shape(), 2000 + i));
    double dot = 0, norm = 0;
    for (size_t j = 0; j < v.size(); ++j) {
      dot += v[j] * probe[j];
      norm += v[j] * v[j];
    }
    norm = std::sqrt(norm);
    const std::vector<double> wanted = doubles(golden[prefix + "_probe." + name]);
    EXPECT_NEAR(dot, wanted[0], tolerance * wanted[1]);
    EXPECT_NEAR(norm, wanted[1], tolerance * wanted[1]);
    if (golden.has(prefix + "." + name)) {
      EXPECT_EQ(difference_of(v, doubles(golden[prefix + "." + name]), tolerance), "");
    }
  }
}

}  // namespace qt::golden_resnet20
