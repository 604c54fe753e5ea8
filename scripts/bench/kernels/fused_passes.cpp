// scripts/bench/kernels/fused_passes.cpp -- what runs between two convolutions: normalization,
// residual, ReLU and codes, forward and backward.
#include <algorithm>
#include <memory>

#include "quant/norm_act.h"
#include "scripts/bench/kernels/rows.h"
#include "tests/support/tensors.h"

namespace qt::bench {
namespace {

struct Case {
  Shape shape;
  bool quantized = true, residual = false;
};

// A unit's operands with all gradients wanted, as in training.
struct Operands {
  explicit Operands(const Case& c)
      : y(c.quantized ? floats(c.shape, 1, 100)
                            .with_scale(Tensor::full({c.shape[3]}, 0.01f), -(1 << 24), 1 << 24)
                      : floats(c.shape, 1),
          true),
        pass{.mode = c.quantized ? ForwardMode::int8 : ForwardMode::float32, .training = true} {
    const int64_t channels = c.shape[3];
    norm.gamma.var = Var(Tensor::full({channels}, 1), true);
    norm.beta.var = Var(Tensor::full({channels}, 0), true);
    norm.running_mean = Tensor::full({channels}, 0);
    norm.running_var = Tensor::full({channels}, 1);
    if (c.residual)
      residual = Var(c.quantized ? codes(c.shape, 2, 0, 127) : floats(c.shape, 2), true);
    if (!c.quantized) return;
    quantizer = make_quantizer({.is_signed = false}, 1);
    quantizer->step()->set(Tensor::full({1}, 0.02f));
  }
  Var run() {
    const NormAct args{.name = "unit", .y = y, .norm = &norm, .residual = residual};
    return quantizer ? quantizer->norm_act(args, pass) : norm_act_real(args, pass);
  }
  Var y, residual;
  BatchNormState norm;
  std::unique_ptr<Quantizer> quantizer;
  Pass pass;
};

// Read for the statistics and to emit, and what is emitted.
double forward_bytes(const Case& c) {
  const double elements = double(c.shape.elements()), stored = c.quantized ? 1 : 4;
  return elements * (4 + 4 + stored + (c.residual ? stored : 0));
}
// dout and y (and the residual) read twice, dy (and the residual's gradient) written.
double backward_bytes(const Case& c) {
  const double elements = double(c.shape.elements()), stored = c.quantized ? 1 : 4;
  return elements * (2 * (4 + 4 + (c.residual ? stored : 0)) + 4 + (c.residual ? 4 : 0));
}

void forward(benchmark::State& state, const Case& c) {
  Operands operands(c);
  const Tape::Pause pause;
  for (auto _ : state) benchmark::DoNotOptimize(operands.run());
  report_bytes(state, forward_bytes(c));
}

void backward(benchmark::State& state, const Case& c) {
  Operands operands(c);
  const Tensor dout = floats(c.shape, 3);
  for (auto _ : state) {
    state.PauseTiming();
    operands.y.clear_grad();
    if (c.residual) operands.residual.clear_grad();
    const Var result = operands.run();
    state.ResumeTiming();
    Tape::current().backward(result, dout);
  }
  report_bytes(state, backward_bytes(c));
}

}  // namespace

void add_fused_passes() {
  for (const Net& net : nets()) {
    std::vector<Shape> seen;
    for (const Conv2dShape& layer : net.layers) {
      const Shape shape = layer.y_shape();
      if (std::find(seen.begin(), seen.end(), shape) != seen.end()) continue;
      seen.push_back(shape);
      for (const bool quantized : {true, false})
        for (const bool residual : {false, true}) {
          const Case c{shape, quantized, residual};
          const std::string row = net.name + "/norm_act " + shape.text() +
                                  (quantized ? " codes" : " f32") + (residual ? " residual" : "") +
                                  "/";
          add(row + "forward", forward, c);
          add(row + "backward", backward, c);
        }
    }
  }
}

}  // namespace qt::bench
