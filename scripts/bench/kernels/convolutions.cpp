// scripts/bench/kernels/convolutions.cpp -- every layer shape through the compute library: codes
// and floats forward, both gradients.
#include <cstdio>

#include "core/autograd/gradcheck.h"
#include "core/library/code_convolution.h"
#include "core/library/convert.h"
#include "core/library/direct/direct.h"
#include "core/library/onednn_integer.h"
#include "core/library/winograd/winograd.h"
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

// One of our own kernels, whatever the library would choose; its weights are made ready before.
void own_forward_codes(benchmark::State& state, const Conv2dShape& shape, int64_t tile) {
  const CodeRange range{shape.c == 3 ? -127 : 0, 127};
  const Tensor x = codes(shape.x_shape(), 1, range.lo, range.hi),
               w = codes(shape.w_shape(), 2, -127, 127, true);
  const auto own =
      tile == 0 ? direct::prepare_codes(range, w, shape) : winograd::prepare_codes(w, shape, tile);
  measure(state, shape, [&] { return own->rounded_sums(x); });
}

void forward(benchmark::State& state, const Conv2dShape& shape, Precision precision) {
  const Tensor x = floats(shape.x_shape(), 1), w = floats(shape.w_shape(), 2);
  measure(state, shape, [&] { return current_library().conv2d(x, w, shape, precision); });
}

// As the passes between convolutions store it.
Tensor gradient(const Shape& shape, Precision precision) {
  const Tensor dy = floats(shape, 3);
  return current_library().gradient_type(precision) == DType::bf16 ? to_bf16(dy) : dy;
}

void backward_data(benchmark::State& state, const Conv2dShape& shape, Precision precision) {
  const Tensor dy = gradient(shape.y_shape(), precision),
               w = codes(shape.w_shape(), 2, -127, 127, true);
  measure(state, shape,
          [&] { return current_library().conv2d_backward_data(dy, w, shape, precision); });
}

void backward_weights(benchmark::State& state, const Conv2dShape& shape, Precision precision) {
  const Tensor x = codes(shape.x_shape(), 1, 0, 127), dy = gradient(shape.y_shape(), precision);
  measure(state, shape,
          [&] { return current_library().conv2d_backward_weights(x, dy, shape, precision); });
}

template <class Call>
std::string kernel_of(Call call) {
  const LibraryTrace trace;
  call();
  const LibraryCall& last = trace.calls().back();
  return last.library + " " + last.kernel + " " + last.arithmetic;
}

}  // namespace

void print_choices() {
  for (const Net& net : nets())
    for (const Conv2dShape& shape : net.layers) {
      const Tensor x = codes(shape.x_shape(), 1, shape.c == 3 ? -127 : 0, 127);
      const Tensor w = codes(shape.w_shape(), 2, -127, 127, true);
      const Tensor x_real = to_float(x), w_real = to_float(w), dy = floats(shape.y_shape(), 3);
      Library& library = current_library();
      std::printf("%s %s\n", net.name.c_str(), shape.text().c_str());
      const auto print = [](const char* operation, const std::string& kernel) {
        std::printf("  %-26s %s\n", operation, kernel.c_str());
      };
      print("codes", kernel_of([&] { library.conv2d_codes(x, w, shape, CodePath::integer); }));
      if (const auto own = library.prepare_conv2d_codes(x, w, shape))
        print("codes, integer program", own->library() + " " + own->kernel());
      print("f32", kernel_of([&] { library.conv2d(x_real, w_real, shape); }));
      if (shape.c != 3)
        print("gradient of x",
              kernel_of([&] { library.conv2d_backward_data(dy, w, shape, Precision::f32); }));
      print("gradient of w",
            kernel_of([&] { library.conv2d_backward_weights(x, dy, shape, Precision::f32); }));
    }
}

void add_convolutions() {
  for (const Net& net : nets())
    for (const Conv2dShape& shape : net.layers) {
      const std::string row = net.name + "/" + shape.text() + "/";
      add(row + "forward_codes", forward_codes, shape);
      if (has_avx2()) {
        add(row + "forward_codes_direct", own_forward_codes, shape, 0);
        for (const int64_t tile : {2, 4})
          if (winograd::computes(shape))
            add(row + "forward_codes_tile" + std::to_string(tile), own_forward_codes, shape, tile);
      }
      add(row + "forward_f32", forward, shape, Precision::f32);
      if (shape.c != 3)  // nobody asks for the gradient of pixels
        add(row + "backward_data_f32", backward_data, shape, Precision::f32);
      add(row + "backward_weights_f32", backward_weights, shape, Precision::f32);
      if (!has_native_bf16()) continue;
      add(row + "forward_bf16", forward, shape, Precision::bf16);
      if (shape.c != 3) add(row + "backward_data_bf16", backward_data, shape, Precision::bf16);
      add(row + "backward_weights_bf16", backward_weights, shape, Precision::bf16);
    }
}

}  // namespace qt::bench
