// train/eval_verb.cpp -- `qattrain eval RUN`, `inspect RUN`, `data CONFIG` and `doctor`.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <thread>

#include "core/base/log.h"
#include "core/device/cpu.h"
#include "core/library/library.h"
#include "deploy/engine.h"
#include "deploy/report.h"
#include "distributed/collectives.h"
#include "distributed/launch.h"
#include "train/cli.h"
#include "train/device.h"
#include "train/evaluate.h"
#include "train/network.h"
#include "train/statistics.h"
#include "train/stored_run.h"
#include "train/threads.h"
#include "train/version.h"

namespace qt {
namespace {

struct Runner {
  LogitsOf logits_of;
  std::shared_ptr<const Engine> engine;  // null without an integer program
  CodePath path = CodePath::integer;
};

// The stored network by the engine and arithmetic that the command line asks for.
Runner runner_of(const StoredRun& run, const CommandLine& command,
                 const std::shared_ptr<const Device>& device) {
  const bool exact_float = command.forward == "exact_float";
  if (!run.program) {
    for (const auto& [option, value] :
         {std::pair{"--forward ", command.forward}, {"--vectors ", command.vectors}})
      if (!value.empty())
        throw ConfigError(option + value + ": the " + run.what + " has no integer program");
    const auto section = device->enter();
    place_here(*run.model);
    return {.logits_of =
                [device, of = logits_of_model(*run.model, run.mode)](const Tensor& images) {
                  const auto section = device->enter();
                  return of(images);
                },
            .engine = nullptr};
  }
  const CodePath path = exact_float ? CodePath::exact_float : CodePath::integer;
  if (exact_float && command.engine != "onednn")
    throw ConfigError("--engine " + command.engine +
                      " knows integers only; --forward exact_float needs onednn");
  const std::shared_ptr<const Engine> engine = make_engine(command.engine);
  return {.logits_of =
              [engine, path, &run](const Tensor& images) {
                return engine->run(*run.program, images, {.path = path}).logits;
              },
          .engine = engine,
          .path = path};
}

// What another implementation of the program can be held against.
NamedTensors test_vectors(const StoredRun& run, const Runner& runner) {
  constexpr int64_t pictures = 8;
  const Tensor images = pictures_over(*run.test_set, pictures);
  const EngineResult result =
      runner.engine->run(*run.program, images, {.path = runner.path, .keep_codes = true});
  NamedTensors list{{"images", images}, {"logits", result.logits}};
  for (const auto& [name, codes] : result.codes) list.emplace_back("codes/" + name, codes);
  return list;
}

// --device, else what the config says. The engines of the CPU alone say it by their names.
std::string device_of(const CommandLine& command, const Experiment& experiment) {
  if (command.device != "auto") return command.device;
  if (command.engine == "reference" || command.forward == "exact_float") return "cpu";
  const std::string& configured = experiment.device;
  return command.engine == "cuda" && !is_gpu_name(configured) ? "cuda" : configured;
}

std::string table_line(const std::string& name, int64_t count) {
  return "  " + name + std::string(name.size() < 24 ? 24 - name.size() : 1, ' ') +
         std::to_string(count) + "\n";
}

struct CheckedSplit {
  Split split;
  std::shared_ptr<const Dataset> set;
  int64_t bad = 0;
};

// Reads every picture and names all that cannot be read, whatever the config does with them.
CheckedSplit check_split(DatasetSpec spec, Split split) {
  spec.on_error = OnError::skip, spec.max_bad_fraction = 1, spec.log_bad = false;
  const auto set = make_dataset(spec, split);
  std::vector<int64_t> counts(set->classes().size());
  std::vector<uint8_t> pixels(set->picture_bytes());
  for (int64_t i = 0; i < set->size(); ++i) {
    ++counts.at(size_t(set->label(i)));
    set->read(i, pixels.data());
  }
  const std::vector<BadSample> bad = set->bad_samples();
  std::string text =
      std::string(name_of(split)) + ": " + std::to_string(set->size()) + " pictures of " +
      std::to_string(set->height()) + "x" + std::to_string(set->width()) + ", " +
      std::to_string(counts.size()) + " classes" +
      (bad.empty() ? "" : "; " + std::to_string(bad.size()) + " cannot be read") + "\n";
  for (size_t k = 0; k < counts.size(); ++k) text += table_line(set->classes()[k], counts[k]);
  for (const BadSample& sample : bad) text += "  bad: " + sample.cause + "\n";
  print(text);
  return {split, set, int64_t(bad.size())};
}

// The kernel that a small integer convolution runs where current_stream() works.
std::string integer_kernel() {
  const Conv2dShape shape{.n = 1, .h = 8, .w = 8, .c = 32, .k = 32, .r = 3, .s = 3, .padding = 1};
  const Tensor step = Tensor::full({1}, 1.0f);
  const Tensor x = Tensor::zeros(shape.x_shape(), DType::i8).with_scale(step, 0, 127);
  const Tensor w = Tensor::zeros(shape.w_shape(), DType::i8).with_scale(step, -127, 127);
  const LibraryTrace trace;
  current_library().conv2d_codes(x, w, shape, CodePath::integer);
  std::string text;
  for (const LibraryCall& call : trace.calls())
    text += (text.empty() ? "" : ", ") + call.library + " " + call.kernel + " (" + call.arithmetic +
            ")";
  return text;
}

std::string instruction_sets() {
  const std::string here = name_of(detected_isa()), used = name_of(cpu_isa());
  if (!isa_limit()) return here + " (QATTRAIN_MAX_ISA may lower it)";
  return used + " (QATTRAIN_MAX_ISA; this CPU has " + here + ")";
}

}  // namespace

ExitCode eval_verb(const CommandLine& given) {
  CommandLine command = given;
  std::shared_ptr<const Device> device;  // outlives the network that is placed there
  const StoredRun run = open_run(
      {.path = command.config, .config = command.data_config, .overrides = command.overrides});
  device = open_device(device_of(command, *run.experiment));
  if (device->on_gpu()) command.engine = "cuda";
  pin_threads(run.experiment->train.threads);
  const UseLibrary library(library_by_name(device->on_gpu() ? "onednn" : command.engine));
  for (const std::string& file : {command.predictions, command.vectors})
    if (!file.empty()) files::check_writable(file);
  const Runner runner = runner_of(run, command, device);
  Predictions predictions;
  const Evaluation result =
      evaluate(run.test_set, runner.logits_of,
               {.loader = eval_loader_spec(*run.experiment),
                .limit = command.limit,
                .predictions = command.predictions.empty() ? nullptr : &predictions,
                .fill_batches = device->on_gpu()});
  const std::string top5 = result.top5 ? fmt::format(", top-5 {:.2f} %", *result.top5) : "";
  std::array<char, 256> text{};
  std::snprintf(text.data(), text.size(),
                "%s top-1 %.2f %%%s, loss %.4f, %lld pictures, %.0f a second (%.0f in the network)",
                run.program                        ? "integer-program"
                : run.mode == ForwardMode::float32 ? "float"
                                                   : "simulated",
                result.top1, top5.c_str(), std::fabs(result.loss),
                static_cast<long long>(result.images), result.rate, result.network_rate);
  // None is lost where another cannot be written.
  std::optional<CheckpointError> unwritten;
  const auto write = [&](const std::string& file, const std::function<NamedTensors()>& tensors) {
    if (!file.empty()) try {
        write_safetensors(file, tensors());
      } catch (const CheckpointError& error) {
        unwritten = error;
      }
  };
  write(command.predictions, [&] { return predictions.tensors(); });
  write(command.vectors, [&] { return test_vectors(run, runner); });
  print(std::string(text.data()) + "; " + run.what);
  if (unwritten) throw CheckpointError(*unwritten);
  if (!std::isfinite(result.loss))
    throw DivergenceError("the logits of the " + run.what + " are not all finite numbers");
  return ExitCode::done;
}

ExitCode inspect_verb(const CommandLine& command) {
  const StoredRun run = open_run({.path = command.config,
                                  .config = command.data_config,
                                  .overrides = command.overrides,
                                  .needs_data = false});
  if (run.program) {
    print(inspect(*run.program));
    return ExitCode::done;
  }
  std::string text = run.what + "\n";
  for (const auto& [name, tensor] : state_of(*run.model))
    if (tensor.defined())
      text += "  " + name + " " + name_of(tensor.dtype()) + tensor.shape().text() + "\n";
  print(text);
  return ExitCode::done;
}

ExitCode data_verb(const CommandLine& command) {
  Experiment experiment;
  load_config(experiment, command.config, command.overrides);
  const DatasetSpec spec = dataset_spec(experiment);
  const CheckedSplit train = check_split(spec, Split::train), test = check_split(spec, Split::test);
  const int64_t bad = train.bad + test.bad;
  std::string too_many;
  for (const CheckedSplit* of : {&train, &test})
    if (too_many.empty() && double(of->bad) > spec.max_bad_fraction * double(of->set->size()))
      too_many = fmt::format(
          "{} of the {} {} pictures cannot be read, more than data.max_bad_fraction = {} allows",
          of->bad, of->set->size(), name_of(of->split), spec.max_bad_fraction);
  if (bad > 0 && spec.on_error == OnError::stop)
    throw DataError(std::to_string(bad) +
                    " pictures cannot be read; data.on_error=skip would leave them out");
  if (!too_many.empty()) throw DataError(too_many);
  check_alike(*train.set, *test.set, spec.path);
  if (bad > 0)
    print(std::to_string(bad) + " pictures cannot be read and are skipped (data.on_error)");
  return ExitCode::done;
}

ExitCode doctor_verb(const CommandLine& command) {
  const auto device = open_device(command.device);
  const auto section = device->enter();
  print(std::string("qattrain ") + version_number + " (" + version_commit +
        ")\ncores: " + std::to_string(std::thread::hardware_concurrency()) + ", threads used: " +
        std::to_string(pin_threads(0)) + "\ninstruction set: " + instruction_sets() +
        "\nlibrary: " + current_library().name() + "\ninteger convolution: " + integer_kernel() +
        "\ndevice: " + device->name() + "\nCUDA: " + cuda_description() +
        "\nMPI: " + mpi_description() + "\nNCCL: " + nccl_description());
  return ExitCode::done;
}

}  // namespace qt
