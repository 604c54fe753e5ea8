// scripts/bench/kernels/rows.h -- the convolutions and activations of the three networks, and how a
// benchmark reports.
#pragma once
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "core/library/library.h"

namespace qt::bench {

struct Net {
  std::string name;
  std::vector<Conv2dShape> layers;  // each shape once, stem first
};

// CIFAR ResNet-20 at batch 128, CIFAR ResNet-18 at 64, ImageNet ResNet-18 at 16.
const std::vector<Net>& nets();

// Rates beside the machine's peak: GFLOP/s (nominal: two operations a multiply-add of the direct
// algorithm), GB/s (each operand counted once).
void report_operations(benchmark::State& state, double operations);
void report_bytes(benchmark::State& state, double bytes);

double operations(const Conv2dShape& shape);

// Registers function(state, argument); times are of the clock, since kernels use several threads.
template <class Function, class... Arguments>
void add(const std::string& name, Function function, const Arguments&... arguments) {
  benchmark::RegisterBenchmark(name.c_str(), function, arguments...)
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
}

// Which kernel the library runs on this machine for each operation of each layer.
void print_choices();

// Each registers its benchmarks.
void add_convolutions();
void add_fused_passes();
void add_op_rows();

}  // namespace qt::bench
