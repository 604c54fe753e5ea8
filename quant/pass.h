// quant/pass.h -- what one walk through a network is for, handed from layer to layer.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "core/comm/communicator.h"
#include "core/library/library.h"
#include "core/tensor/tensor.h"

namespace qt {

// How a forward pass computes; numerics.md of the documentation has the contract.
enum class ForwardMode {
  float32,      // no quantization: float training
  int8,         // integer convolutions on codes: what is deployed
  exact_float,  // the same codes through float convolutions: the same bits
  fake_quant,   // the literature's simulation: code * scale in float, for comparison
};

// "float", "int8", "exact_float", "fake_quant"; ConfigError lists them.
ForwardMode forward_mode(const std::string& name);
const char* name_of(ForwardMode mode);

// Watches constants that must be finite. Codes are finite always, so NaN can only hide in
// per-channel constants, steps and gradients.
class Health {
 public:
  void watch(const std::string& name, const Tensor& constants) {
    watched_.emplace_back(name, constants);
  }
  // What was watched, which is forgotten: for whoever looks at it in another way.
  std::vector<std::pair<std::string, Tensor>> take() { return std::exchange(watched_, {}); }
  // The first watched name with a value that is NaN or infinite, "" where all are finite; forgets
  // all.
  std::string first_bad();

 private:
  std::vector<std::pair<std::string, Tensor>> watched_;
};

// What layers show of themselves while statistics are collected. For passes that do
// not train.
class Observer {
 public:
  virtual ~Observer() = default;
  // real: f32 values before quantization; codes: their i8 codes with step.
  virtual void quantized(const std::string& name, const Tensor& real, const Tensor& codes) = 0;
};

struct Pass {
  ForwardMode mode = ForwardMode::int8;
  bool training = false;   // batch statistics, running averages updated
  bool calibrate = false;  // quantizers choose their steps from what they see; nothing is recorded
  bool steps_follow = true;  // while training: quantizers that follow what they see (minmax) do so
  Precision float_forward = Precision::f32;  // of convolutions where mode is float32
  Precision backward = Precision::f32;
  // What backward reads of values that were standardized over the batch: 16 bits each instead of
  // the convolution's sums in f32 (quant/kept.h).
  bool keep_16_bits = false;
  Health* health = nullptr;
  Observer* observer = nullptr;
  // Where set, batch statistics are those of all ranks' parts of the batch together.
  Communicator* synchronize = nullptr;
  // Samples of the global batch for each sample of this rank's part of it.
  float samples_per_sample = 1;

  bool quantized() const { return mode != ForwardMode::float32; }
  Precision forward() const { return quantized() ? Precision::f32 : float_forward; }
  CodePath path() const {
    return mode == ForwardMode::exact_float ? CodePath::exact_float : CodePath::integer;
  }
};

}  // namespace qt
