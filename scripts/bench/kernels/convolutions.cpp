// scripts/bench/kernels/convolutions.cpp -- every layer shape through the compute library: codes
// and floats forward, both gradients.
#include "core/autograd/gradcheck.h"
#include "core/library/onednn_integer.h"
#include "scripts/bench/kernels/rows.h"
#include "tests/support/tensors.h"

namespace qt::bench {
namespace {

// Runs call() once under a trace, so that the row names the kernel that computed it.
template <class Call>
void measure(benchmark::State& state, const Conv2dShape& shape, Call call) {
  std::string kernels;
  {
    const LibraryTrace trace;
    call();
    for (const LibraryCall& c : trace.calls())
      kernels += (kernels.empty() ? "" : ", ") + c.library + " " + c.kernel + " " + c.arithmetic;
  }
  for (auto _ : state) benchmark::DoNotOptimize(call());
  state.SetLabel(kernels);
  report_operations(state, operations(shape));
}

void forward_codes(benchmark::State& state, const Conv2dShape& shape) {
  const bool image = shape.c == 3;  // signed codes of pixels, as the networks' first layer has
  const Tensor x = codes(shape.x_shape(), 1, image ? -127 : 0, 127),
               w = codes(shape.w_shape(), 2, -127, 127, true);
  measure(state, shape,
          [&] { return current_library().conv2d_codes(x, w, shape, CodePath::integer); });
}

void forward_f32(benchmark::State& state, const Conv2dShape& shape) {
  const Tensor x = floats(shape.x_shape(), 1), w = floats(shape.w_shape(), 2);
  measure(state, shape, [&] { return current_library().conv2d(x, w, shape); });
}

void backward_data(benchmark::State& state, const Conv2dShape& shape, Precision precision) {
  const Tensor dy = floats(shape.y_shape(), 1), w = codes(shape.w_shape(), 2, -127, 127, true);
  measure(state, shape,
          [&] { return current_library().conv2d_backward_data(dy, w, shape, precision); });
}

void backward_weights(benchmark::State& state, const Conv2dShape& shape, Precision precision) {
  const Tensor x = codes(shape.x_shape(), 1, 0, 127), dy = floats(shape.y_shape(), 2);
  measure(state, shape,
          [&] { return current_library().conv2d_backward_weights(x, dy, shape, precision); });
}

}  // namespace

void add_convolutions() {
  for (const Net& net : nets())
    for (const Conv2dShape& shape : net.layers) {
      const std::string row = net.name + "/" + shape.text() + "/";
      add(row + "forward_codes", forward_codes, shape);
      add(row + "forward_f32", forward_f32, shape);
      if (shape.c != 3)  // nobody asks for the gradient of pixels
        add(row + "backward_data_f32", backward_data, shape, Precision::f32);
      add(row + "backward_weights_f32", backward_weights, shape, Precision::f32);
      if (!has_native_bf16()) continue;
      if (shape.c != 3) add(row + "backward_data_bf16", backward_data, shape, Precision::bf16);
      add(row + "backward_weights_bf16", backward_weights, shape, Precision::bf16);
    }
}

}  // namespace qt::bench
