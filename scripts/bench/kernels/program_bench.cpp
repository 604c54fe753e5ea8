// scripts/bench/kernels/program_bench.cpp -- Google Benchmark over whole integer programs: the
// three networks on pictures drawn at random, and where their time goes.
//
//   build/cpu/program_bench --benchmark_filter=imagenet
//
// The columns after the time of a batch are ms in it, by the kind of instruction. Steps are chosen
// as in calibration; the weights are those of initialization, on which no kernel's time depends.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <random>

#include "core/autograd/tape.h"
#include "core/device/cpu.h"
#include "deploy/build_program.h"
#include "deploy/engine.h"
#include "layers/model.h"

namespace qt::bench {
namespace {

struct Case {
  const char* name;
  const char* model;
  int64_t side, classes, batch;
  bool imagenet_stem;
};

Tensor pictures(int64_t n, int64_t side) {
  std::mt19937_64 random(1);
  Tensor images = Tensor::empty({n, side, side, 3}, DType::u8);
  for (int64_t i = 0; i < images.elements(); ++i) images.data<uint8_t>()[i] = uint8_t(random());
  return images;
}

Program program_of(const Case& c) {
  ModelSpec spec;
  spec.name = c.model;
  spec.image_size = c.side;
  spec.classes = c.classes;
  if (c.imagenet_stem) spec.stem = "imagenet";
  spec.mean = {0.49, 0.48, 0.45};
  spec.std = {0.25, 0.24, 0.26};
  spec.quant.weights.per_channel = true;
  spec.quant.residual = ResidualPolicy::identity;
  const auto model = make_model(spec);
  const Tape::Pause pause;
  std::map<std::string, Tensor> weights;
  Visitor visitor;
  visitor.parameter = [&](const std::string& name, Parameter& p) { weights[name] = p.var.value(); };
  model->visit(visitor);
  Visitor choose_steps;
  choose_steps.quantizer = [&](const std::string& name, Quantizer& quantizer) {
    const size_t at = name.find(".weight_quant");
    if (at != std::string::npos) quantizer.observe(weights.at(name.substr(0, at) + ".weight"));
  };
  model->visit(choose_steps);
  model->forward(pictures(4, c.side), {.mode = ForwardMode::int8, .calibrate = true});
  return build_program(*model, {});
}

std::string kind_of(const Instruction& at) {
  const auto* conv = std::get_if<Conv>(&at.operation);
  if (!conv) return name_of(at.operation);
  const Conv2dShape& s = conv->shape;
  return "conv" + std::to_string(s.r) + "x" + std::to_string(s.s) +
         (s.stride > 1 ? "/" + std::to_string(s.stride) : "") + (s.c == 3 ? " stem" : "");
}

void run(benchmark::State& state, const Case& c) {
  using Clock = std::chrono::steady_clock;
  const Program program = program_of(c);
  const Tensor images = pictures(c.batch, c.side);
  const auto engine = make_engine("onednn");
  engine->run(program, images);  // chooses kernels, packs weights
  std::map<std::string, double> ms;
  for (auto _ : state) {
    auto began = Clock::now();
    engine->run(program, images, {.after = [&](const Instruction& at) {
                  const auto now = Clock::now();
                  ms[kind_of(at)] += std::chrono::duration<double, std::milli>(now - began).count();
                  began = now;
                }});
  }
  for (const auto& [kind, sum] : ms) state.counters[kind] = sum / double(state.iterations());
  state.counters["img/s"] =
      benchmark::Counter(double(state.iterations() * c.batch), benchmark::Counter::kIsRate);
}

constexpr std::array<Case, 3> cases{{{"cifar-resnet20", "resnet20", 32, 10, 128, false},
                                     {"cifar-resnet18", "resnet18", 32, 10, 64, false},
                                     {"imagenet-resnet18", "resnet18", 224, 1000, 16, true}}};

}  // namespace
}  // namespace qt::bench

int main(int argc, char** argv) {
  using namespace qt::bench;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::AddCustomContext("instruction set", qt::name_of(qt::cpu_isa()));
  for (const Case& c : cases)
    benchmark::RegisterBenchmark(c.name, run, c)->UseRealTime()->Unit(benchmark::kMillisecond);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
