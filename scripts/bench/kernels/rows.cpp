// scripts/bench/kernels/rows.cpp -- the networks' layers, counted off as layers/resnet.cpp builds
// them.
#include "scripts/bench/kernels/rows.h"

#include <algorithm>

#include "scripts/bench/kernels/peak.h"

namespace qt::bench {
namespace {

Net residual_net(const std::string& name, Conv2dShape stem, int64_t side_after_stem,
                 const std::vector<int64_t>& widths) {
  Net net{name, {stem}};
  const auto add = [&](const Conv2dShape& shape) {
    if (std::find(net.layers.begin(), net.layers.end(), shape) == net.layers.end())
      net.layers.push_back(shape);
  };
  int64_t side = side_after_stem, channels = widths.front();
  for (const int64_t width : widths) {
    const int64_t stride = width == channels ? 1 : 2;
    Conv2dShape first{.n = stem.n, .h = side, .w = side, .c = channels, .k = width};
    if (stride == 2) {
      first.stride = 2;
      add(first);  // the projection, 1x1
    }
    first.r = first.s = 3, first.padding = 1;
    add(first);
    side /= stride, channels = width;
    add({.n = stem.n, .h = side, .w = side, .c = width, .k = width, .r = 3, .s = 3, .padding = 1});
  }
  return net;
}

Conv2dShape stem(int64_t n, int64_t side, int64_t out, int64_t kernel, int64_t stride) {
  return {.n = n,
          .h = side,
          .w = side,
          .c = 3,
          .k = out,
          .r = kernel,
          .s = kernel,
          .stride = stride,
          .padding = kernel / 2};
}

benchmark::Counter rate(double per_iteration) {
  return {per_iteration, benchmark::Counter::kIsIterationInvariantRate};
}

}  // namespace

const std::vector<Net>& nets() {
  static const std::vector<Net> all{
      residual_net("cifar_resnet20", stem(128, 32, 16, 3, 1), 32, {16, 32, 64}),
      residual_net("cifar_resnet18", stem(64, 32, 64, 3, 1), 32, {64, 128, 256, 512}),
      residual_net("imagenet_resnet18", stem(16, 224, 64, 7, 2), 56, {64, 128, 256, 512})};
  return all;
}

double operations(const Conv2dShape& shape) {
  return 2.0 * double(shape.y_shape().elements()) *
         double(shape.r * shape.s * shape.c / shape.groups);
}

void report_operations(benchmark::State& state, double operations) {
  state.counters["GFLOP/s"] = rate(operations / 1e9);
  state.counters["of_peak"] = rate(operations / peak().flops);
}

void report_bytes(benchmark::State& state, double bytes) {
  state.counters["GB/s"] = rate(bytes / 1e9);
  state.counters["of_copy"] = rate(bytes / peak().bytes);
}

}  // namespace qt::bench
