// core/library/cuda/cudnn/graph.h -- a convolution as cuDNN's operation graph, and the engines that
// say they run it.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "core/library/cuda/convolutions.h"
#include "core/library/cuda/cudnn/descriptor.h"

namespace qt::cudnn {

// The tensors' numbers in a graph.
constexpr int64_t uid_first = 1, uid_second = 2, uid_result = 3, uid_sums = 4;

// Which GPU is asked: one that is there, by number or by a handle of it, or one described by
// cuDNN's JSON, which needs neither GPU nor driver.
Descriptor device(int number);
Descriptor device(cudnnHandle_t handle);
Descriptor device(const std::string& json);

// The graph; i8: convolution with int32 sums, then their conversion to f32. Finalized.
Descriptor operation_graph(const ConvolutionRequest& request);

// A configuration of an engine that says it runs the request on the device, and may be used: it is
// deterministic, in the arithmetic of the request's type, and wants weights as they are.
struct Candidate {
  std::string name;
  bool compiled_when_asked_for = false;  // NVRTC makes its kernel when the plan is made
  Descriptor configuration;
};
// What the heuristics expect to be fastest first. `refused` gets a line with the reason for each
// engine that the device has but that may not be used, `silence` what cuDNN says where its
// heuristics name none.
std::vector<Candidate> candidates(const ConvolutionRequest& request, const Descriptor& device,
                                  std::vector<std::string>* refused = nullptr,
                                  std::string* silence = nullptr);

struct Plan {
  size_t workspace = 0;
  Descriptor descriptor;  // CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, finalized
};
// A candidate's; nothing where cuDNN does not make one after all. It is for the device that it was
// made for, whose handle cudnnBackendExecute is given: a plan's own attribute for a handle is
// deprecated.
// `cause` is why not, in cuDNN's words.
std::optional<Plan> plan_of(const Candidate& candidate, const Descriptor& device,
                            std::string* cause = nullptr);

}  // namespace qt::cudnn
