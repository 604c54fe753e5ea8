// scripts/bench/kernels/kernel_bench.cpp -- Google Benchmark over layer shapes, fused passes and
// operations.
//
//   build/cpu/kernel_bench --benchmark_filter='cifar_resnet18.*backward_weights'
//   build/cpu/kernel_bench --choices     only says which kernel each layer gets
//
// of_peak and of_copy are shares of the multiply-add peak and the copy bandwidth in the heading,
// both measured by this program. Winograd kernels may exceed the peak: operations are those of the
// direct algorithm.
#include "core/device/cpu.h"
#include "scripts/bench/kernels/peak.h"
#include "scripts/bench/kernels/rows.h"
#include "train/threads.h"

int main(int argc, char** argv) {
  using namespace qt;
  const int threads = pin_threads(0);
  if (argc == 2 && argv[1] == std::string("--choices")) {
    bench::print_choices();
    return 0;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  const bench::Peak& peak = bench::peak();
  benchmark::AddCustomContext("threads", std::to_string(threads));
  benchmark::AddCustomContext("instruction set", name_of(cpu_isa()));
  benchmark::AddCustomContext("multiply-add peak, GFLOP/s", std::to_string(peak.flops / 1e9));
  benchmark::AddCustomContext("copy bandwidth, GB/s", std::to_string(peak.bytes / 1e9));
  bench::add_convolutions();
  bench::add_fused_passes();
  bench::add_op_rows();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
