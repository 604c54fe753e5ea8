// scripts/bench/kernels/fused_passes.cpp -- what runs between two convolutions: normalization,
// residual, ReLU and codes, forward and backward.
#include <algorithm>

#include "scripts/bench/kernels/fused_case.h"
#include "scripts/bench/kernels/rows.h"

namespace qt::bench {
namespace {

void forward(benchmark::State& state, const FusedCase& c) {
  FusedOperands operands(c);
  const Tape::Pause pause;
  for (auto _ : state) benchmark::DoNotOptimize(operands.run());
  report_bytes(state, forward_bytes(c));
}

void backward(benchmark::State& state, const FusedCase& c) {
  FusedOperands operands(c);
  const Tensor dout = floats(c.shape, 3);
  for (auto _ : state) {
    state.PauseTiming();
    operands.clear_gradients();
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
          const FusedCase c{shape, quantized, residual};
          const std::string row = net.name + "/" + c.text() + "/";
          add(row + "forward", forward, c);
          add(row + "backward", backward, c);
        }
    }
  }
}

}  // namespace qt::bench
