// tests/bench/ops_bench.cpp -- the rows of the op table as micro-benchmarks: forward, and forward
// with backward.
//
//   build/bench/ops_bench --benchmark_filter=batch_norm
// bytes_per_second counts each input and output once.
#include <benchmark/benchmark.h>

#include "tests/core/ops/op_table.h"

namespace qt {
namespace {

constexpr int64_t batch = 64;

size_t bytes_of(const Inputs& in) {
  size_t bytes = 0;
  for (const Tensor& t : in) bytes += t.bytes();
  return bytes;
}

void forward(benchmark::State& state, const OpCase& c) {
  const Inputs in = c.inputs(batch);
  Vars vars;
  for (const Tensor& t : in) vars.emplace_back(t);
  size_t bytes = 0;
  for (auto _ : state) bytes = bytes_of(in) + c.op(vars).value().bytes();
  state.SetBytesProcessed(int64_t(state.iterations()) * int64_t(bytes));
}

void backward(benchmark::State& state, const OpCase& c) {
  const Inputs in = c.inputs(batch);
  Vars vars;
  for (const Tensor& t : in) vars.emplace_back(t);
  const Tensor dy = weights_for(c.op(vars).value().shape(), 1);
  for (auto _ : state) benchmark::DoNotOptimize(gradients(c.op, in, dy));
  state.SetBytesProcessed(int64_t(state.iterations()) * int64_t(2 * (bytes_of(in) + dy.bytes())));
}

}  // namespace
}  // namespace qt

int main(int argc, char** argv) {
  for (const qt::OpCase& c : qt::op_table()) {
    benchmark::RegisterBenchmark((c.name + "/forward").c_str(), qt::forward, c);
    benchmark::RegisterBenchmark((c.name + "/with_backward").c_str(), qt::backward, c);
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
