// tests/core/ops/op_table.h -- one row per operation and odd size. A row buys: comparison with an
// oracle, a numeric gradient check over poisoned memory, the same bits on 1, 2 and 3 threads, and a
// micro-benchmark.
#pragma once
#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "core/tensor/transfer.h"
#include "tests/core/ops/oracles.h"

namespace qt {

struct OpCase {
  std::string name;
  std::function<std::vector<Tensor>(int64_t n)> inputs;  // for a batch of n
  Function op;
  std::function<oracle::Numbers(const std::vector<Tensor>&)> wanted;
  double tolerance = 1e-5;  // of the largest output; 0 for integers
  GradientCheck gradient = {};
  int64_t batch = 3;           // what tests run
  bool launchers_only = true;  // the library promises equal bits for equal threads only
};

inline std::ostream& operator<<(std::ostream& to, const OpCase& c) { return to << c.name; }

using Inputs = std::vector<Tensor>;
using Vars = std::vector<Var>;

// What make() gives on the host, placed where the current stream computes.
template <class Make>
Tensor placed(Make make) {
  const Stream stream = current_stream();
  const UseStream host(Stream{});
  const Tensor t = make();
  return stream.on_gpu ? to_gpu(t, stream) : t;
}

struct ConvRow {
  int64_t h, w, c, k, r;
  ConvOptions options;
  bool codes = false;
};

inline OpCase conv_case(const ConvRow& row) {
  const Shape w_shape{row.k, row.r, row.r, row.c / row.options.groups};
  OpCase c;
  c.name = std::string("conv2d_") + (row.codes ? "codes_" : "") + std::to_string(row.h) + "x" +
           std::to_string(row.w) + "x" + std::to_string(row.c) + "_to_" + std::to_string(row.k) +
           "_kernel" + std::to_string(row.r) + "_stride" + std::to_string(row.options.stride) +
           "_padding" + std::to_string(row.options.padding) + "_dilation" +
           std::to_string(row.options.dilation) + "_groups" + std::to_string(row.options.groups) +
           (row.options.path == CodePath::exact_float ? "_exact_float" : "");
  c.inputs = [row, w_shape](int64_t n) -> Inputs {
    const Shape x_shape{n, row.h, row.w, row.c};
    if (row.codes) return {codes(x_shape, 1, 0, 127), codes(w_shape, 2, -127, 127, true)};
    return {floats(x_shape, 1), floats(w_shape, 2)};
  };
  c.op = [o = row.options](const Vars& v) { return conv2d(v[0], v[1], o); };
  c.wanted = [o = row.options](const Inputs& in) { return oracle::conv2d(in[0], in[1], o); };
  c.tolerance = row.codes ? 0 : 1e-5;
  c.gradient = {.step = 0.25, .tolerance = 1e-4, .at_most = 12};
  c.launchers_only = false;
  return c;
}

inline OpCase linear_case(int64_t channels, int64_t k, bool as_codes) {
  OpCase c;
  c.name = std::string("linear_") + (as_codes ? "codes_" : "") + std::to_string(channels) + "_to_" +
           std::to_string(k);
  c.inputs = [=](int64_t n) -> Inputs {
    if (as_codes)
      return {codes({n, channels}, 1, 0, 127), codes({k, channels}, 2, -127, 127, true)};
    return {floats({n, channels}, 1), floats({k, channels}, 2)};
  };
  c.op = [](const Vars& v) { return linear(v[0], v[1], {}); };
  c.wanted = [](const Inputs& in) { return oracle::linear(in[0], in[1]); };
  c.tolerance = as_codes ? 0 : 1e-5;
  c.gradient = {.step = 0.25, .tolerance = 1e-4};
  c.launchers_only = false;
  return c;
}

// scales: 0 none, 1 one for all, 2 per channel. Without a scale gradients and outputs are of real
// numbers.
inline OpCase scale_bias_case(int64_t channels, int scales) {
  OpCase c;
  c.name = "scale_bias_" + std::to_string(channels) + "_scales" + std::to_string(scales);
  c.inputs = [=](int64_t n) -> Inputs {
    const Tensor x = floats({n, channels}, 1, 100);
    const Tensor step = floats({scales == 1 ? 1 : channels}, 3);
    return {scales ? x.with_scale(step) : x, floats({channels}, 2)};
  };
  c.op = [](const Vars& v) { return scale_bias(v[0], v[1]); };
  c.wanted = [](const Inputs& in) {
    oracle::Numbers y = doubles(in[0]);
    const oracle::Numbers b = doubles(in[1]);
    const oracle::Numbers s = in[0].has_scale() ? doubles(in[0].step()) : oracle::Numbers{1.0};
    for (size_t i = 0; i < y.size(); ++i)
      y[i] = y[i] * s[i % b.size() % s.size()] + b[i % b.size()];
    return y;
  };
  c.tolerance = 1e-6;
  c.gradient.step = 0.5;
  return c;
}

inline OpCase batch_norm_case(int64_t h, int64_t w, int64_t channels, bool training) {
  OpCase c;
  c.name = std::string("batch_norm_") + (training ? "training_" : "evaluation_") +
           std::to_string(h) + "x" + std::to_string(w) + "x" + std::to_string(channels);
  c.inputs = [=](int64_t n) -> Inputs {
    return {floats({n, h, w, channels}, 1, 2), floats({channels}, 2), floats({channels}, 3)};
  };
  const auto running = [channels] {
    Tensor mean = floats({channels}, 4, 0.5f), var = floats({channels}, 5, 0.4f);
    for (int64_t i = 0; i < channels; ++i) var.data<float>()[i] += 1;
    return std::pair{mean, var};
  };
  c.op = [=](const Vars& v) {
    Tensor mean = placed([&] { return running().first; });
    Tensor var = placed([&] { return running().second; });
    return batch_norm(v[0], v[1], v[2], mean, var, {.training = training});
  };
  c.wanted = [=](const Inputs& in) {
    auto [mean, var] = training ? oracle::moments(in[0])
                                : std::pair{doubles(running().first), doubles(running().second)};
    return oracle::batch_norm(in[0], doubles(in[1]), doubles(in[2]), mean, var, 1e-5);
  };
  c.gradient = {.step = 1e-2, .tolerance = 5e-3};
  return c;
}

inline OpCase unary_case(const std::string& name, const Shape& one, Var (*op)(const Var&),
                         double (*wanted)(double), double tolerance = 0) {
  OpCase c;
  c.name = name + "_" + std::to_string(one.elements());
  c.inputs = [=](int64_t n) -> Inputs {
    std::vector<int64_t> extents = one.vector();
    extents[0] *= n;
    return {floats_between(Shape(extents), 1, 9, 6, 0.1f)};
  };
  c.op = [op](const Vars& v) { return op(v[0]); };
  c.wanted = [wanted](const Inputs& in) {
    oracle::Numbers y = doubles(in[0]);
    for (double& v : y) v = wanted(v);
    return y;
  };
  c.tolerance = tolerance;
  c.gradient.tolerance = 1e-4;
  return c;
}

inline OpCase add_case(int64_t h, int64_t channels) {
  OpCase c;
  c.name = "add_" + std::to_string(h) + "x" + std::to_string(channels);
  c.inputs = [=](int64_t n) -> Inputs {
    return {floats({n, h, h, channels}, 1), floats({n, h, h, channels}, 2)};
  };
  c.op = [](const Vars& v) { return add(v[0], v[1]); };
  c.wanted = [](const Inputs& in) {
    oracle::Numbers y = doubles(in[0]);
    const oracle::Numbers b = doubles(in[1]);
    for (size_t i = 0; i < y.size(); ++i) y[i] += b[i];
    return y;
  };
  c.tolerance = 1e-7;
  c.gradient = {.step = 0.25, .tolerance = 1e-4};
  return c;
}

enum class Pool { max, average };

inline OpCase pool_case(Pool kind, const Shape& one, const PoolOptions& o, bool as_codes = false) {
  OpCase c;
  c.name = std::string(kind == Pool::max ? "max" : "average") + "_pool2d_" +
           (as_codes ? "codes_" : "") + std::to_string(one[1]) + "x" + std::to_string(one[2]) +
           "x" + std::to_string(one[3]) + "_kernel" + std::to_string(o.kernel) + "_stride" +
           std::to_string(o.stride) + "_padding" + std::to_string(o.padding);
  c.inputs = [=](int64_t n) -> Inputs {
    const Shape shape{n, one[1], one[2], one[3]};
    if (!as_codes) return {kind == Pool::max ? distinct_floats(shape) : floats(shape, 1)};
    Tensor t = Tensor::empty(shape, DType::i8);  // neighbours differ by at least 3
    for (int64_t i = 0; i < t.elements(); ++i)
      t.data<int8_t>()[i] = int8_t((i / one[3] * 17 + i % one[3] * 5) % 41 * 3 - 60);
    return {t.with_scale(Tensor::full({1}, 0.125f), -127, 127)};
  };
  c.op = [=](const Vars& v) {
    return kind == Pool::max ? max_pool2d(v[0], o) : average_pool2d(v[0], o);
  };
  c.wanted = [=](const Inputs& in) {
    return kind == Pool::max ? oracle::max_pool(in[0], o) : oracle::average_pool(in[0], o);
  };
  c.tolerance = kind == Pool::max ? 0 : 1e-6;
  c.gradient = {.step = 0.02, .tolerance = kind == Pool::max ? 3e-3 : 1e-4};
  return c;
}

inline OpCase global_average_pool_case(int64_t h, int64_t w, int64_t channels, bool as_codes) {
  OpCase c;
  c.name = std::string("global_average_pool_") + (as_codes ? "codes_" : "") + std::to_string(h) +
           "x" + std::to_string(w) + "x" + std::to_string(channels);
  c.inputs = [=](int64_t n) -> Inputs {
    const Shape shape{n, h, w, channels};
    return {as_codes ? codes(shape, 1, 0, 127) : floats(shape, 1)};
  };
  c.op = [](const Vars& v) { return global_average_pool(v[0]); };
  c.wanted = [=](const Inputs& in) {
    return oracle::global_sum(in[0], as_codes ? 1 : double(h * w));
  };
  c.tolerance = as_codes ? 0 : 1e-6;
  c.gradient = {.step = 0.25, .tolerance = 1e-4};
  return c;
}

inline OpCase cross_entropy_case(int64_t n, int64_t classes, float smoothing) {
  OpCase c;
  c.name = "softmax_cross_entropy_" + std::to_string(n) + "x" + std::to_string(classes) +
           "_smoothing" + std::to_string(int(smoothing * 10));
  c.inputs = [=](int64_t rows) -> Inputs { return {floats({rows, classes}, 1, 5)}; };
  const auto labels = [classes](int64_t rows) {
    Tensor t = Tensor::empty({rows}, DType::i64);
    for (int64_t i = 0; i < rows; ++i) t.data<int64_t>()[i] = (i * 7 + classes - 1) % classes;
    return t;
  };
  c.op = [=](const Vars& v) {
    const int64_t rows = v[0].value().dim(0);
    return softmax_cross_entropy(v[0], placed([&] { return labels(rows); }), smoothing);
  };
  c.wanted = [=](const Inputs& in) {
    return oracle::cross_entropy(in[0], labels(in[0].dim(0)), smoothing);
  };
  c.tolerance = 2e-6;
  c.gradient = {.step = 0.05, .tolerance = 4e-3};
  c.batch = n;
  return c;
}

inline OpCase reshape_case() {
  OpCase c;
  c.name = "reshape_flatten";
  c.inputs = [](int64_t n) -> Inputs { return {codes({n, 3, 5, 7}, 1, 0, 127)}; };
  c.op = [](const Vars& v) { return reshape(v[0], {v[0].value().dim(0), 105}); };
  c.wanted = [](const Inputs& in) { return doubles(in[0]); };
  c.tolerance = 0;
  return c;
}

inline std::vector<ConvRow> conv_rows() {
  const CodePath exact = CodePath::exact_float;
  return {{5, 7, 3, 16, 3, {.padding = 1}},
          {8, 8, 16, 17, 3, {.stride = 2, .padding = 1}},
          {7, 5, 5, 4, 1, {.stride = 2}},
          {9, 9, 4, 5, 3, {.padding = 2, .dilation = 2}},
          {6, 6, 6, 10, 3, {.padding = 1, .groups = 2}},
          {6, 6, 8, 8, 3, {.padding = 1, .groups = 8}},
          {13, 11, 3, 8, 7, {.stride = 2, .padding = 3}},
          {5, 7, 3, 16, 3, {.padding = 1}, true},
          {8, 8, 16, 17, 3, {.stride = 2, .padding = 1}, true},
          {8, 8, 16, 17, 3, {.stride = 2, .padding = 1, .path = exact}, true},
          {7, 5, 5, 4, 1, {.stride = 2}, true},
          {9, 9, 4, 5, 3, {.padding = 2, .dilation = 2}, true},
          {6, 6, 6, 10, 3, {.padding = 1, .groups = 2}, true},
          {6, 6, 8, 8, 3, {.padding = 1, .groups = 8, .path = exact}, true}};
}

inline std::vector<OpCase> op_table() {
  std::vector<OpCase> table;
  for (const ConvRow& row : conv_rows()) table.push_back(conv_case(row));
  for (const auto& [c, k] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {17, 5}, {64, 10}, {129, 100}}) {
    table.push_back(linear_case(c, k, false));
    table.push_back(linear_case(c, k, true));
  }
  for (int64_t channels : {1, 10, 17, 300})
    for (int scales : {0, 1, 2}) table.push_back(scale_bias_case(channels, scales));
  for (bool training : {true, false}) {
    table.push_back(batch_norm_case(1, 1, 1, training));
    table.push_back(batch_norm_case(5, 7, 3, training));
    table.push_back(batch_norm_case(8, 8, 16, training));
    table.push_back(batch_norm_case(9, 9, 17, training));
    table.push_back(batch_norm_case(3, 3, 129, training));
  }
  for (const Shape& one : std::vector<Shape>{{1, 1}, {1, 5, 7, 3}, {1, 17}, {1, 30, 30, 64}}) {
    table.push_back(unary_case("relu", one, relu, [](double x) { return std::max(x, 0.0); }));
    table.push_back(
        unary_case("relu6", one, relu6, [](double x) { return std::clamp(x, 0.0, 6.0); }));
  }
  table.push_back(add_case(1, 1));
  table.push_back(add_case(5, 17));
  table.push_back(add_case(30, 64));
  for (const PoolOptions& o :
       std::vector<PoolOptions>{{2, 2, 0}, {3, 2, 1}, {3, 1, 1}, {3, 3, 0}, {2, 3, 1}})
    for (const Shape& one : std::vector<Shape>{{1, 5, 7, 3}, {1, 8, 8, 16}, {1, 9, 6, 65}}) {
      table.push_back(pool_case(Pool::max, one, o));
      table.push_back(pool_case(Pool::average, one, o));
      if (one[3] < 65) table.push_back(pool_case(Pool::max, one, o, true));
    }
  for (bool as_codes : {false, true}) {
    table.push_back(global_average_pool_case(1, 1, 3, as_codes));
    table.push_back(global_average_pool_case(8, 8, 64, as_codes));
    table.push_back(global_average_pool_case(5, 7, 17, as_codes));
    table.push_back(global_average_pool_case(9, 2, 129, as_codes));
  }
  for (float smoothing : {0.0f, 0.1f}) {
    table.push_back(cross_entropy_case(1, 1, smoothing));
    table.push_back(cross_entropy_case(3, 10, smoothing));
    table.push_back(cross_entropy_case(130, 17, smoothing));
    table.push_back(cross_entropy_case(2, 1000, smoothing));
  }
  table.push_back(reshape_case());
  return table;
}

}  // namespace qt
