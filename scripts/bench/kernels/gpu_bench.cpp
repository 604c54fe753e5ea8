// scripts/bench/kernels/gpu_bench.cpp -- on a GPU: each convolution of four networks, int8 and
// bf16, at batch 256 or another, and the passes between them beside the bandwidth of a copy.
//
//   build/cuda/gpu_bench --benchmark_filter='imagenet_resnet50.*forward_codes' [--batch=N]
//
// A row is one measurement: a recorded graph of ten calls, as a step replays it, launched twice to
// warm up and once between events. Exit code 3 where there is no GPU. scripts/bench/gpu --kernels
// makes tables of it.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/autograd/tape.h"
#include "core/base/error.h"
#include "core/device/gpu.h"
#include "core/library/convert.h"
#include "core/library/library.h"
#include "core/tensor/transfer.h"
#include "layers/model.h"
#include "scripts/bench/kernels/fused_case.h"
#include "tests/support/tensors.h"

namespace qt::bench {
namespace {

int64_t batch = 256;

const GpuStream& gpu() {
  static const GpuStream stream;
  return stream;
}
// On the GPU; pictures, of which there is one, as a whole batch of it.
Tensor placed(const Tensor& t) {
  Tensor one = to_gpu(t, gpu().stream());
  if (one.shape().rank() != 4 || one.dim(0) != 1) return one;
  const UseStream use(gpu().stream());
  Tensor all = Tensor::empty({batch, one.dim(1), one.dim(2), one.dim(3)}, one.dtype());
  for (int64_t i = 0; i < batch; ++i)
    copy_on_gpu(static_cast<char*>(all.raw()) + i * int64_t(one.bytes()), one.raw(), one.bytes(),
                gpu().stream());
  return one.has_scale() ? all.with_scale(one.step(), one.lo(), one.hi()) : all;
}
Shape one_of(const Shape& pictures) { return {1, pictures[1], pictures[2], pictures[3]}; }

// What `call` allocates it gives back.
double seconds_of(const std::function<void()>& call) {
  constexpr int calls = 10;
  call();
  const GpuGraph graph(gpu().stream(), [&] {
    for (int i = 0; i < calls; ++i) call();
  });
  GpuEvent begin(true), end(true);
  graph.launch(gpu().stream());
  graph.launch(gpu().stream());
  begin.record(gpu().stream());
  graph.launch(gpu().stream());
  end.record(gpu().stream());
  end.synchronize();
  return end.seconds_since(begin) / calls;
}

// Bytes read plus bytes written per second.
double copy_bandwidth() {
  static const double measured = [] {
    const size_t size = size_t(batch) << 22;  // far more than caches hold
    const auto from = allocate_on_gpu(size, gpu().stream()),
               to = allocate_on_gpu(size, gpu().stream());
    set_bytes_on_gpu(from.get(), 1, size, gpu().stream());
    return 2 * double(size) /
           seconds_of([&] { copy_on_gpu(to.get(), from.get(), size, gpu().stream()); });
  }();
  return measured;
}

void add(const std::string& name, const std::function<void(benchmark::State&)>& body) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [body](benchmark::State& state) {
                                 const UseLibrary library(library_by_name("cuda"));
                                 try {
                                   body(state);
                                 } catch (const Error& error) {
                                   Tape::current().forget();
                                   state.SkipWithError(error.what());
                                 }
                                 release_cached_gpu_memory();
                               })
      ->UseManualTime()
      ->Iterations(1)
      ->Unit(benchmark::kMillisecond);
}

// The label names the kernels and their arithmetic.
void measure(benchmark::State& state, const Conv2dShape& shape,
             const std::function<Tensor()>& call) {
  const UseStream use(gpu().stream());
  std::string kernels;
  {
    const LibraryTrace trace;
    call();
    for (const LibraryCall& c : trace.calls())
      kernels += (kernels.empty() ? "" : ", ") + c.kernel + " " + c.arithmetic;
  }
  for (auto _ : state) state.SetIterationTime(seconds_of([&] { call(); }));
  state.SetLabel(kernels);
  const double operations =
      2.0 * double(shape.y_shape().elements()) * double(shape.r * shape.s * shape.c);
  state.counters["TFLOP/s"] = {operations / 1e12, benchmark::Counter::kIsIterationInvariantRate};
}

void add_convolution(const std::string& row, const Conv2dShape& shape) {
  const auto code = [](const Shape& s, uint64_t seed, int lo, bool per_channel) {
    return placed(codes(s, seed, lo, 127, per_channel));
  };
  const int lowest = shape.c == 3 ? -127 : 0;  // pixels are signed
  add(row + "forward_codes", [=](benchmark::State& state) {
    const Tensor x = code(one_of(shape.x_shape()), 1, lowest, false),
                 w = code(shape.w_shape(), 2, -127, true);
    measure(state, shape,
            [&] { return current_library().conv2d_codes(x, w, shape, CodePath::integer); });
  });
  // From and to f32, as the library does it in a step; conversions count.
  add(row + "forward_bf16", [=](benchmark::State& state) {
    const Tensor x = placed(floats(one_of(shape.x_shape()), 1)),
                 w = placed(floats(shape.w_shape(), 2));
    measure(state, shape, [&] { return current_library().conv2d(x, w, shape, Precision::bf16); });
  });
  if (shape.c != 3)
    add(row + "backward_data_bf16", [=](benchmark::State& state) {
      const Tensor dy = placed(to_bf16(floats(one_of(shape.y_shape()), 1))),
                   w = code(shape.w_shape(), 2, -127, true);
      measure(state, shape, [&] {
        return current_library().conv2d_backward_data(dy, w, shape, Precision::bf16);
      });
    });
  add(row + "backward_weights_bf16", [=](benchmark::State& state) {
    const Tensor x = code(one_of(shape.x_shape()), 1, lowest, false),
                 dy = placed(to_bf16(floats(one_of(shape.y_shape()), 2)));
    measure(state, shape, [&] {
      return current_library().conv2d_backward_weights(x, dy, shape, Precision::bf16);
    });
  });
}

void add_fused_pass(const std::string& net, const FusedCase& c) {
  const auto report = [](benchmark::State& state, double bytes) {
    state.counters["of_copy"] = {bytes / copy_bandwidth(),
                                 benchmark::Counter::kIsIterationInvariantRate};
  };
  FusedCase one = c;
  one.shape = one_of(c.shape);
  add(net + "/" + c.text() + "/forward", [=](benchmark::State& state) {
    FusedOperands operands(one, placed);
    const UseStream use(gpu().stream());
    const Tape::Pause pause;
    for (auto _ : state) state.SetIterationTime(seconds_of([&] { operands.run(); }));
    report(state, forward_bytes(c));
  });
  // Forward and backward together, without what forward alone takes.
  add(net + "/" + c.text() + "/backward", [=](benchmark::State& state) {
    FusedOperands operands(one, placed);
    const Tensor dout = placed(to_bf16(floats(one.shape, 3)));
    const UseStream use(gpu().stream());
    for (auto _ : state) {
      const double both = seconds_of([&] {
        Tape::current().backward(operands.run(), dout);
        operands.clear_gradients();
      });
      const Tape::Pause pause;
      state.SetIterationTime(std::max(both - seconds_of([&] { operands.run(); }), 1e-9));
    }
    report(state, backward_bytes(c));
  });
}

// Each shape of a network once.
void add_network(const std::string& name, const std::string& model, const std::string& stem,
                 int64_t side) {
  ModelSpec spec;
  spec.name = model, spec.stem = stem, spec.image_size = side;
  const auto net = make_model(spec);
  std::vector<Conv2dShape> seen;
  std::vector<Shape> emitted;
  for (const Model::Step& step : net->steps()) {
    const auto* unit = dynamic_cast<const ConvUnit*>(step.layer.get());
    if (!unit) continue;
    const Shape x = net->steps().at(size_t(step.inputs.at(0))).output;
    const Conv2dShape shape = unit->conv_shape({batch, x[1], x[2], x[3]});
    if (std::find(seen.begin(), seen.end(), shape) == seen.end()) {
      seen.push_back(shape);
      add_convolution(name + "/" + shape.text() + "/", shape);
    }
    if (std::find(emitted.begin(), emitted.end(), shape.y_shape()) != emitted.end()) continue;
    emitted.push_back(shape.y_shape());
    for (const bool residual : {false, true})
      add_fused_pass(name, {.shape = shape.y_shape(), .residual = residual, .bf16 = true});
  }
}

}  // namespace
}  // namespace qt::bench

int main(int argc, char** argv) {
  using namespace qt;
  benchmark::Initialize(&argc, argv);
  const std::string_view option = "--batch=", last = argc > 1 ? argv[argc - 1] : "";
  if (last.starts_with(option)) {
    bench::batch = std::atoll(last.substr(option.size()).data());
    --argc;
  }
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  if (bench::batch < 1) {
    std::fprintf(stderr, "gpu_bench: %s: want a number of pictures, at least 1\n", argv[argc]);
    return 2;
  }
  try {
    library_by_name("cuda");
    bench::gpu().synchronize();
  } catch (const Error& error) {
    std::fprintf(stderr, "gpu_bench: nothing can be measured: %s\n", error.what());
    return 3;
  }
  benchmark::AddCustomContext("device", "cuda");
  benchmark::AddCustomContext("copy bandwidth, GB/s",
                              std::to_string(bench::copy_bandwidth() / 1e9));
  bench::add_network("imagenet_resnet50", "resnet50", "imagenet", 224);
  bench::add_network("imagenet_resnet18", "resnet18", "imagenet", 224);
  bench::add_network("cifar_resnet18", "resnet18", "cifar", 32);
  bench::add_network("cifar_resnet20", "resnet20", "cifar", 32);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
