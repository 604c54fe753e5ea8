// tests/gpu/ops_test.cpp -- every row of the op table, and the fused op of quantized networks, on a
// GPU: outputs and gradients have the CPU's bits where the launchers compute them, and where a
// library adds reals are as close as it is.
#include <gtest/gtest.h>

#include <map>

#include "core/library/convert.h"
#include "quant/norm_act.h"
#include "quant/quantizer.h"
#include "tests/core/ops/op_table.h"
#include "tests/gpu/libraries.h"
#include "tests/gpu/on_gpu.h"

namespace qt {
namespace {

// What each op gave, by name. An undefined tensor is a gradient that nothing flowed to.
using Results = std::map<std::string, Tensor>;

// "" where it agrees; tolerance: of the largest number, 0 for equal bits.
std::string disagreement(const Tensor& got, const Tensor& wanted, double tolerance) {
  if (tolerance == 0 || got.dtype() != DType::f32) return difference_in_bits(got, wanted);
  return difference_of(doubles(got), doubles(wanted), tolerance);
}

// Runs on the CPU's plain loops and then, in every order, on the GPU. body(place) computes with
// tensors it has put through place(); tolerance(name, library): of a result.
template <class Body, class Tolerance>
void expect_same_with(const std::vector<LibraryUnderTest>& libraries, Tolerance tolerance,
                      Body body) {
  Results wanted;
  {
    const UseLibrary plain(library_by_name("reference"));
    wanted = body([](const Tensor& t) { return t; });
  }
  for (const LibraryUnderTest& under_test : libraries)
    for (int order = 0; order < gpu_under_test::orders(); ++order) {
      SCOPED_TRACE(under_test.name + ", " + gpu_under_test::name_of_order(order));
      gpu_under_test::start(order);
      const GpuStream gpu;
      const UseLibrary library(under_test.library);
      Results got;
      {
        const UseStream use(gpu.stream());
        got = body([&](const Tensor& t) { return to_gpu(t, gpu.stream()); });
      }
      ASSERT_EQ(got.size(), wanted.size());
      for (const auto& [name, tensor] : got) {
        ASSERT_EQ(tensor.defined(), wanted.at(name).defined()) << name;
        if (!tensor.defined()) continue;
        EXPECT_EQ(disagreement(to_host(tensor, gpu.stream()), wanted.at(name),
                               tolerance(name, under_test)),
                  "")
            << name;
      }
    }
}

// What launchers alone compute.
template <class Body>
void expect_same_on_gpu(Body body) {
  const auto exact = [](const std::string&, const LibraryUnderTest&) { return 0.0; };
  expect_same_with({libraries_under_test().front()}, exact, body);
}

// Tensors made on the host whatever the current stream.
template <class Make>
auto on_host(Make make) {
  const UseStream host(Stream{});
  return make();
}

class GpuOps : public OnGpu, public ::testing::WithParamInterface<OpCase> {};

// Of exp and log two units of the last place are allowed, which subtraction makes larger.
constexpr double of_exponentials = 1e-5;

TEST_P(GpuOps, HaveTheResultsOfTheCpu) {
  const OpCase& c = GetParam();
  const auto tolerance = [&](const std::string& result, const LibraryUnderTest& library) -> double {
    if (c.name.find("cross_entropy") != std::string::npos)
      return gpu_under_test::is_emulated() ? 0 : of_exponentials;
    const bool exact = c.launchers_only || (c.tolerance == 0 && result == "output");
    return exact ? 0 : library.of_reals;
  };
  const auto libraries = libraries_under_test();
  expect_same_with(
      c.launchers_only ? std::vector{libraries.front()} : libraries, tolerance, [&](auto place) {
        Inputs in;
        for (const Tensor& t : on_host([&] { return c.inputs(c.batch); })) in.push_back(place(t));
        Vars vars;
        for (const Tensor& t : in) vars.emplace_back(t, true);
        const Var y = c.op(vars);
        Results results{{"output", y.value()}};
        if (y.value().has_scale()) results["scale"] = y.value().step();
        const Shape shape = y.value().shape();
        Tape::current().backward(y, place(on_host([&] { return weights_for(shape, 9); })));
        for (size_t i = 0; i < vars.size(); ++i)
          results["gradient of input " + std::to_string(i)] = vars[i].grad();
        return results;
      });
}

// exact_float looks at the weights on the host: it is the way out of CPUs, no GPU takes it.
std::vector<OpCase> rows() {
  std::vector<OpCase> table = op_table();
  std::erase_if(table, [](const OpCase& c) { return c.name.ends_with("_exact_float"); });
  return table;
}

INSTANTIATE_TEST_SUITE_P(Table, GpuOps, ::testing::ValuesIn(rows()),
                         [](const auto& info) { return info.param.name; });

// ---- the fused op: normalize, residual, activation, codes ----
struct FusedRow {
  std::string name;
  Shape shape{3, 5, 4, 17};
  bool training = true, frozen = false, residual = false, sums = true, codes = true;
  bool in_bf16 = false;  // gradients
  bool kept = false;     // 16 bits for backward
  bool floats = false;   // no quantizer, as in float training
};
std::ostream& operator<<(std::ostream& to, const FusedRow& row) { return to << row.name; }

class GpuFusedOp : public OnGpu, public ::testing::WithParamInterface<FusedRow> {};

Tensor positive(const Shape& shape, uint64_t seed) {
  Tensor t = floats(shape, seed, 0.4f);
  for (int64_t i = 0; i < t.elements(); ++i) t.data<float>()[i] += 1;
  return t;
}

// Sums of codes as a convolution leaves them, or reals.
Tensor fused_input(const FusedRow& row) {
  Tensor y = floats(row.shape, 1, row.sums ? 300 : 2);
  if (!row.sums) return y;
  for (int64_t i = 0; i < y.elements(); ++i) y.data<float>()[i] = std::rint(y.data<float>()[i]);
  Tensor scale = positive({row.shape[-1]}, 2);
  for (int64_t i = 0; i < scale.elements(); ++i) scale.data<float>()[i] *= 0.01f;
  return y.with_scale(scale);
}

TEST_P(GpuFusedOp, HasTheBitsOfTheCpu) {
  const FusedRow& row = GetParam();
  const int64_t channels = row.shape[-1];
  expect_same_on_gpu([&](auto place) {
    BatchNormState norm;
    norm.frozen = row.frozen;
    Var residual;
    std::unique_ptr<Quantizer> quantizer;
    Tensor y, mean, var, step, dout;
    on_host([&] {
      y = fused_input(row);
      norm.gamma.var = Var(place(floats({channels}, 11)), true);  // some are negative
      norm.beta.var = Var(place(floats({channels}, 12)), true);
      norm.running_mean = place(floats({channels}, 13));
      norm.running_var = place(positive({channels}, 14));
      if (row.residual)
        residual = Var(place(row.codes ? codes(row.shape, 3, 0, 127) : floats(row.shape, 3)), true);
      quantizer = make_quantizer({.bits = 4, .is_signed = false}, 1);
      quantizer->step()->set(place(Tensor::full({1}, 0.3f)));
      dout = floats(row.shape, 4);
      dout = place(row.in_bf16 ? to_bf16(dout) : dout);
    });
    const DType gradients = row.in_bf16 ? DType::bf16 : DType::f32;
    const Var input(place(y), true);
    input.set_gradient_type(gradients);
    if (row.residual) residual.set_gradient_type(gradients);
    const NormAct args{.name = "unit", .y = input, .norm = &norm, .residual = residual};
    const Pass pass{.mode = row.floats  ? ForwardMode::float32
                            : row.codes ? ForwardMode::int8
                                        : ForwardMode::fake_quant,
                    .training = row.training,
                    .keep_16_bits = row.kept};
    const Var out = row.floats ? norm_act_real(args, pass) : quantizer->norm_act(args, pass);
    out.set_gradient_type(gradients);
    Tape::current().backward(out, dout);
    EXPECT_EQ(input.grad().dtype(), gradients);
    Results results{{"output", out.value()},
                    {"gradient of y", input.grad()},
                    {"gradient of gamma", norm.gamma.var.grad()},
                    {"gradient of beta", norm.beta.var.grad()},
                    {"running mean", norm.running_mean},
                    {"running variance", norm.running_var}};
    if (!row.floats) results["gradient of step"] = quantizer->step()->var.grad();
    if (row.residual) results["gradient of residual"] = residual.grad();
    return results;
  });
}

INSTANTIATE_TEST_SUITE_P(
    Rows, GpuFusedOp,
    ::testing::Values(FusedRow{.name = "Training"},
                      FusedRow{.name = "TrainingWithResidual", .residual = true},
                      FusedRow{.name = "FrozenStatistics", .frozen = true, .residual = true},
                      FusedRow{.name = "Evaluation", .training = false, .residual = true},
                      FusedRow{.name = "FakeQuantOfReals", .sums = false, .codes = false},
                      FusedRow{.name = "InPackets", .shape = {3, 7, 9, 24}, .residual = true},
                      FusedRow{.name = "GradientsInBf16", .in_bf16 = true},
                      FusedRow{.name = "GradientsInBf16InPackets",
                               .shape = {3, 7, 9, 24},
                               .residual = true,
                               .in_bf16 = true},
                      FusedRow{.name = "Kept", .kept = true},
                      FusedRow{.name = "KeptOfReals", .sums = false, .codes = false, .kept = true},
                      FusedRow{.name = "KeptOfRealsWithResidual",
                               .residual = true,
                               .sums = false,
                               .codes = false,
                               .kept = true},
                      FusedRow{.name = "KeptInFloatTraining",
                               .residual = true,
                               .sums = false,
                               .codes = false,
                               .in_bf16 = true,
                               .kept = true,
                               .floats = true},
                      FusedRow{.name = "KeptOfManyRows",
                               .shape = {2, 70, 65, 8},
                               .residual = true,
                               .in_bf16 = true,
                               .kept = true},
                      FusedRow{.name = "KeptInPackets",
                               .shape = {3, 7, 9, 24},
                               .residual = true,
                               .in_bf16 = true,
                               .kept = true},
                      FusedRow{.name = "OneChannel", .shape = {2, 9, 9, 1}},
                      FusedRow{.name = "ManyChannels", .shape = {2, 3, 3, 130}, .residual = true}),
    [](const auto& info) { return info.param.name; });

// Weights: codes with a step per output channel, and one for all.
class GpuQuantizer : public OnGpu {};
TEST_F(GpuQuantizer, OfWeightsHasTheBitsOfTheCpu) {
  for (const bool per_channel : {true, false})
    expect_same_on_gpu([&](auto place) {
      std::unique_ptr<Quantizer> quantizer;
      Tensor w, dout;
      on_host([&] {
        const int64_t steps = per_channel ? 5 : 1;
        quantizer = make_quantizer({.bits = 4, .per_channel = per_channel}, steps);
        quantizer->step()->set(place(positive({steps}, 3)));
        w = place(floats({5, 3, 3, 7}, 1, 9));
        dout = place(floats({5, 3, 3, 7}, 2));
      });
      const Var weights(w, true);
      const Var q = quantizer->quantize(weights, {.mode = ForwardMode::int8, .training = true});
      Tape::current().backward(q, dout);
      return Results{{"codes", q.value()},
                     {"gradient of weights", weights.grad()},
                     {"gradient of steps", quantizer->step()->var.grad()}};
    });
}

}  // namespace
}  // namespace qt
