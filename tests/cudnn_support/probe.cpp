// tests/cudnn_support/probe.cpp -- asks cuDNN which engines it has for the convolutions of a
// network on a described GPU. Answers only: there need be no GPU and no driver, and nothing runs.
//
//   cudnn_support_probe NETWORK SM TYPE PASS
//       NETWORK  resnet18, resnet50, cifar_resnet18, cifar_resnet20
//       SM       80, 90
//       TYPE     s8, bf16, tf32, f32
//       PASS     forward, backward_data, backward_weights, added_data (backward_data, added to what
//       is there)
//
// Exit code: 0 where each convolution has an engine that the CUDA library would use and that
// becomes a plan, 1 where one has none, 2 for arguments that mean nothing.
#include <cstdio>
#include <string>
#include <vector>

#include "core/library/columns.h"
#include "core/library/cuda/cudnn/graph.h"
#include "tests/cudnn_support/networks.h"

namespace qt {
namespace {

struct Sm {
  int version, processors, shared_memory, clock, memory_clock, cache;
  const char* name;
};
constexpr Sm known[] = {
    {800, 108, 166912, 1410000, 1215000, 41943040, "NVIDIA A100-SXM4-80GB"},
    {900, 132, 232448, 1980000, 2619000, 52428800, "NVIDIA H100 80GB HBM3"},
};

// As cuDNN writes the properties of a device.
std::string described(const Sm& sm) {
  const auto number = [](const char* key, long long value) {
    return std::string("\"") + key + "\":" + std::to_string(value);
  };
  return "{\"cudaDeviceId\":0," + number("deviceVer", sm.version) + "," +
         number("driverVer", 13000) + ",\"maxGridSize\":[2147483647,65535,65535]," +
         "\"maxBlockSize\":[1024,1024,64]," + number("regsPerBlock", 65536) + "," +
         number("multiProcessorCount", sm.processors) + "," + number("warpSize", 32) + "," +
         number("maxSharedMemoryPerBlock", 49152) + "," +
         number("maxSharedMemoryPerBlockOptin", sm.shared_memory) + "," +
         number("reservedSharedMemoryPerBlock", 1024) + "," + number("maxRegistersPerSM", 65536) +
         "," + number("maxCtasPerSM", 32) + "," + number("maxThreadsPerBlock", 1024) + "," +
         number("maxThreadsPerSM", 2048) + "," + number("pciDeviceId", 0) +
         ",\"isTccDriver\":0,\"supportCoopLaunch\":1," + number("smClockRateKHz", sm.clock) + "," +
         number("memClockRateKHz", sm.memory_clock) + "," + number("l2CacheSize", sm.cache) + "," +
         number("totalGlobalMem", 85899345920) + ",\"deviceName\":\"" + sm.name + "\"}";
}

// What the CUDA library asks for: channels of codes are padded
// (core/library/cuda/code_engines.cpp).
ConvolutionRequest requested(const std::string& pass, ProductType type, Conv2dShape shape) {
  if (type == ProductType::i8) shape.c = rounded_up(shape.c, 16);
  const bool accumulate = pass == "added_data";
  return {pass == "forward"                       ? ConvolutionPass::forward
          : accumulate || pass == "backward_data" ? ConvolutionPass::backward_data
                                                  : ConvolutionPass::backward_weights,
          type, shape, accumulate};
}

// The first candidate that becomes a plan, in words; "" where none does. What NVRTC compiles for
// the described device is compiled: something in the driver's place must load it (driver.cmake).
std::string first_plan_of(const std::vector<cudnn::Candidate>& candidates,
                          const cudnn::Descriptor& device) {
  for (const cudnn::Candidate& candidate : candidates)
    if (const auto plan = cudnn::plan_of(candidate, device))
      return candidate.name + (candidate.compiled_when_asked_for ? ", compiled" : "") +
             ", workspace " + std::to_string(plan->workspace);
  return "";
}

int probe(const std::vector<Conv2dShape>& layers, const Sm& sm, ProductType type,
          const std::string& pass) {
  const auto device = cudnn::device(described(sm));
  int without = 0;
  for (const Conv2dShape& layer : layers) {
    const ConvolutionRequest request = requested(pass, type, layer);
    std::vector<std::string> refused;
    const auto candidates = cudnn::candidates(request, device, &refused);
    const std::string first = first_plan_of(candidates, device);
    without += first.empty();
    printf("%s: %zu engines, %zu may not be used, %s%s\n", layer.text().c_str(), candidates.size(),
           refused.size(), first.empty() ? "NO PLAN" : "first plan: ", first.c_str());
    if (first.empty())
      for (const std::string& line : refused) printf("    %s\n", line.c_str());
  }
  printf("%zu convolutions, %d without a plan (answers of cuDNN %zu for sm_%d; nothing ran)\n",
         layers.size(), without, cudnnGetVersion(), sm.version / 10);
  return without ? 1 : 0;
}

int run(const std::vector<std::string>& arguments) {
  if (arguments.size() < 4) return 2;
  const auto layers = convolutions_of(arguments[0], 256);
  const Sm* sm = nullptr;
  for (const Sm& candidate : known)
    if (std::to_string(candidate.version / 10) == arguments[1]) sm = &candidate;
  const std::string &type = arguments[2], &pass = arguments[3];
  if (layers.empty() || !sm) return 2;
  return probe(layers, *sm,
               type == "s8"     ? ProductType::i8
               : type == "bf16" ? ProductType::bf16
               : type == "tf32" ? ProductType::tf32
                                : ProductType::f32,
               pass);
}

}  // namespace
}  // namespace qt

int main(int count, char** values) {
  try {
    return qt::run({values + 1, values + count});
  } catch (const std::exception& error) {
    fprintf(stderr, "cudnn_support_probe: %s\n", error.what());
    return 1;
  }
}
