// scripts/bench/kernels/loader_bench.cpp -- pictures a second that one core prepares: CIFAR from
// memory and from JPEG files, photographs at 224 pixels.
//
//   taskset -c 0 build/cpu/loader_bench --cifar=$QATTRAIN_DATA/cifar10-jpeg --imagefolder=PICTURES
//
// The work is done inside Loader::next() (workers 0), so that it is one thread's. Both folders hold
// train/<class>/* and test/<class>/*.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <string>

#include "core/base/error.h"
#include "data/loader.h"

namespace qt {
namespace {

void batches(benchmark::State& state, const std::shared_ptr<const Dataset>& dataset,
             const LoaderSpec& spec) {
  Loader loader(dataset, spec);
  int epoch = 0;
  int64_t pictures = 0;
  loader.start_epoch(epoch);
  for (auto _ : state) {
    Batch batch;
    if (!loader.next(batch)) {
      loader.start_epoch(++epoch);
      loader.next(batch);
    }
    pictures += batch.labels.elements();
  }
  state.counters["pictures/s"] = benchmark::Counter(double(pictures), benchmark::Counter::kIsRate);
}

void add(const std::string& name, const DatasetSpec& pictures, int64_t batch,
         const AugmentSpec& augment) {
  const auto dataset = make_dataset(pictures, Split::train);
  const LoaderSpec spec{
      .batch = batch, .shuffle = true, .drop_last = true, .augment = augment, .workers = 0};
  benchmark::RegisterBenchmark(name.c_str(), batches, dataset, spec)
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
}

// "" where the option is not among the arguments, from which it is taken away.
std::string option(const std::string& name, int& argc, char** argv) {
  const std::string start = "--" + name + "=";
  for (int i = 1; i < argc; ++i) {
    const std::string text = argv[i];
    if (!text.starts_with(start)) continue;
    for (int j = i; j + 1 < argc; ++j) argv[j] = argv[j + 1];
    --argc;
    return text.substr(start.size());
  }
  return "";
}

}  // namespace
}  // namespace qt

int main(int argc, char** argv) {
  using namespace qt;
  const std::string cifar = option("cifar", argc, argv),
                    pictures = option("imagefolder", argc, argv);
  if (cifar.empty() && pictures.empty()) {
    std::fputs("loader_bench: give --cifar=FOLDER, --imagefolder=FOLDER or both\n", stderr);
    return 2;
  }
  try {
    const AugmentSpec shifted{.crop = AugmentSpec::Crop::padded, .crop_padding = 4, .flip = true};
    DatasetSpec folder{.kind = "imagefolder", .path = cifar, .image_size = 32};
    if (!cifar.empty()) {
      add("cifar from JPEG files, crop and flip, batch 128", folder, 128, shifted);
      folder.cache_bytes = int64_t{1} << 30;
      add("cifar from memory, crop and flip, batch 128", folder, 128, shifted);
    }
    if (!pictures.empty())
      add("JPEG files, random resized crop to 224 and flip, batch 16",
          {.kind = "imagefolder", .path = pictures, .image_size = 224}, 16,
          {.crop = AugmentSpec::Crop::random_resized, .flip = true});
  } catch (const Error& e) {
    std::fprintf(stderr, "loader_bench: %s\n", e.what());
    return int(e.code());
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
