// core/library/cuda/cudnn/graph.cpp -- operation graphs of convolutions by cuDNN's backend API.
#include "core/library/cuda/cudnn/graph.h"

#include <algorithm>
#include <utility>

namespace qt::cudnn {
namespace {

using Extents = std::vector<int64_t>;

cudnnDataType_t operand_of(ProductType type) {
  return type == ProductType::i8     ? CUDNN_DATA_INT8
         : type == ProductType::bf16 ? CUDNN_DATA_BFLOAT16
                                     : CUDNN_DATA_FLOAT;
}

// Four extents as cuDNN names them, [n, c, h, w], of a tensor whose channels lie side by side.
Descriptor channels_last(int64_t uid, const Extents& extents, cudnnDataType_t type,
                         bool is_virtual = false) {
  const int64_t c = extents[1], h = extents[2], w = extents[3];
  Descriptor tensor(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  tensor.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, uid)
      .set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, type)
      .set(CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, extents)
      .set(CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, Extents{h * w * c, 1, w * c, c})
      .set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, int64_t{16})
      .set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, is_virtual);
  return tensor.finalize("a tensor");
}

Descriptor window(const Conv2dShape& shape, cudnnDataType_t sums) {
  Descriptor convolution(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  convolution.set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, sums)
      .set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, CUDNN_CROSS_CORRELATION)
      .set(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, int64_t{2})
      .set(CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64,
           Extents{shape.dilation, shape.dilation})
      .set(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64,
           Extents{shape.stride, shape.stride})
      .set(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64,
           Extents{shape.padding, shape.padding})
      .set(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64,
           Extents{shape.padding, shape.padding});
  return convolution.finalize("a convolution");
}

struct Names {
  cudnnBackendDescriptorType_t operation;
  cudnnBackendAttributeName_t first, second, result, window, alpha, beta;
};
Names names_of(ConvolutionPass pass) {
  switch (pass) {
    case ConvolutionPass::forward:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA};
    case ConvolutionPass::backward_data:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA};
    default:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA};
  }
}

Descriptor convolution_operation(const ConvolutionRequest& request, const Descriptor& first,
                                 const Descriptor& second, const Descriptor& result) {
  const Names names = names_of(request.pass);
  const cudnnDataType_t sums =
      request.type == ProductType::i8 ? CUDNN_DATA_INT32 : CUDNN_DATA_FLOAT;
  Descriptor operation(names.operation);
  operation.refer(names.window, window(request.shape, sums))
      .refer(names.first, first)
      .refer(names.second, second)
      .refer(names.result, result)
      .set(names.alpha, CUDNN_TYPE_FLOAT, 1.0f)
      .set(names.beta, CUDNN_TYPE_FLOAT, request.accumulate ? 1.0f : 0.0f);
  return operation.finalize("the operation " + request.shape.text());
}

// Int32 sums as f32, rounded to nearest.
Descriptor conversion(const Descriptor& sums, const Descriptor& result) {
  Descriptor identity(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  identity.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, CUDNN_POINTWISE_IDENTITY)
      .set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
  Descriptor operation(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  operation.refer(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, identity.finalize("the identity"))
      .refer(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, sums)
      .refer(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, result);
  return operation.finalize("the conversion of sums");
}

// Why an engine may not be used; "" where it may.
std::string objection(const Descriptor& engine, ProductType type) {
  const auto notes = engine.get_many<cudnnBackendNumericalNote_t>(
      CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT);
  for (const auto note : notes) switch (note) {
      case CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC: return "not deterministic";
      case CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION: return "sums of lower precision";
      case CUDNN_NUMERICAL_NOTE_FFT: return "FFT";
      case CUDNN_NUMERICAL_NOTE_WINOGRAD:
      case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_4x4:
      case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6:
      case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13: return "Winograd";
      case CUDNN_NUMERICAL_NOTE_TENSOR_CORE:
        if (type == ProductType::f32) return "TF32 for f32";
        break;
      case CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS:
        if (type != ProductType::tf32) return "operands of lower precision";
        break;
      default: break;
    }
  const auto behavior = engine.get_many<cudnnBackendBehaviorNote_t>(
      CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, CUDNN_TYPE_BEHAVIOR_NOTE, CUDNN_BEHAVIOR_NOTE_TYPE_COUNT);
  for (const auto note : behavior)
    if (note == CUDNN_BEHAVIOR_NOTE_REQUIRES_FILTER_INT8x32_REORDER ||
        note == CUDNN_BEHAVIOR_NOTE_REQUIRES_BIAS_INT8x32_REORDER)
      return "weights in an order of its own";
  return "";
}

bool is_compiled_when_asked_for(const Descriptor& engine) {
  const auto notes = engine.get_many<cudnnBackendBehaviorNote_t>(
      CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, CUDNN_TYPE_BEHAVIOR_NOTE, CUDNN_BEHAVIOR_NOTE_TYPE_COUNT);
  return std::count(notes.begin(), notes.end(), CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION) > 0;
}

// The engine of a configuration; none where cuDNN left it empty, because the device lacks it.
std::vector<Descriptor> engine_of(const Descriptor& configuration) {
  Descriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  cudnnBackendDescriptor_t handle = engine.get();
  int64_t count = 0;
  const cudnnStatus_t status =
      cudnnBackendGetAttribute(configuration.get(), CUDNN_ATTR_ENGINECFG_ENGINE,
                               CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, &handle);
  return status == CUDNN_STATUS_SUCCESS && count == 1 ? std::vector<Descriptor>{engine}
                                                      : std::vector<Descriptor>{};
}

// What the heuristics name for the device, best first, with its engine.
std::vector<std::pair<Descriptor, Descriptor>> configurations(const Descriptor& graph,
                                                              const Descriptor& device,
                                                              std::string* silence) {
  std::vector<std::pair<Descriptor, Descriptor>> all;
  for (const cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK}) {
    Descriptor heuristics(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    heuristics.refer(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph)
        .refer(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, device)
        .set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, mode);
    const cudnnStatus_t status = heuristics.try_finalize();
    if (status != CUDNN_STATUS_SUCCESS) {  // it has nothing to say
      if (silence) *silence = "heuristics: " + text_of(status);
      continue;
    }
    int64_t count = 0;
    check(cudnnBackendGetAttribute(heuristics.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                   CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, &count, nullptr),
          "count of engine configurations");
    for (Descriptor& found : heuristics.get_descriptors(
             CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, size_t(count)))
      for (const Descriptor& engine : engine_of(found)) all.push_back({found.keep(graph), engine});
  }
  return all;
}

}  // namespace

Descriptor device(int number) {
  Descriptor device(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  device.set(CUDNN_ATTR_DEVICEPROP_DEVICE_ID, CUDNN_TYPE_INT32, int32_t(number));
  return device.finalize("the device");
}

Descriptor device(cudnnHandle_t handle) {
  Descriptor device(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  device.set(CUDNN_ATTR_DEVICEPROP_HANDLE, CUDNN_TYPE_HANDLE, handle);
  return device.finalize("the handle's device");
}

Descriptor device(const std::string& json) {
  Descriptor device(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  device.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
             std::vector<char>(json.begin(), json.end()));
  return device.finalize("a described device");
}

Descriptor operation_graph(const ConvolutionRequest& request) {
  const Conv2dShape& s = request.shape;
  const cudnnDataType_t operand = operand_of(request.type);
  const cudnnDataType_t to = request.type == ProductType::bf16 ? operand : CUDNN_DATA_FLOAT;
  const Extents image{s.n, s.c, s.h, s.w}, weights{s.k, s.c / s.groups, s.r, s.s},
      result{s.n, s.k, s.out_h(), s.out_w()};
  std::vector<Descriptor> operations;
  const auto one = [&](const Extents& first, const Extents& second, const Extents& extents) {
    operations.push_back(convolution_operation(request, channels_last(uid_first, first, operand),
                                               channels_last(uid_second, second, operand),
                                               channels_last(uid_result, extents, to)));
  };
  if (request.type == ProductType::i8) {
    const Descriptor sums = channels_last(uid_sums, result, CUDNN_DATA_INT32, true);
    operations.push_back(convolution_operation(request, channels_last(uid_first, image, operand),
                                               channels_last(uid_second, weights, operand), sums));
    operations.push_back(conversion(sums, channels_last(uid_result, result, to)));
  } else if (request.pass == ConvolutionPass::forward) {
    one(image, weights, result);
  } else if (request.pass == ConvolutionPass::backward_data) {
    one(result, weights, image);
  } else {
    one(image, result, weights);
  }
  Descriptor graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  return graph.refer(CUDNN_ATTR_OPERATIONGRAPH_OPS, operations)
      .finalize("the graph of " + s.text());
}

std::vector<Candidate> candidates(const ConvolutionRequest& request, const Descriptor& device,
                                  std::vector<std::string>* refused, std::string* silence) {
  std::vector<Candidate> all;
  for (const auto& [configuration, engine] :
       configurations(operation_graph(request), device, silence)) {
    const auto index = engine.get_one<int64_t>(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64);
    const std::string name = "engine " + std::to_string(index) + " (choice " +
                             std::to_string(all.size() + (refused ? refused->size() : 0) + 1) + ")";
    const std::string why = objection(engine, request.type);
    if (!why.empty()) {
      if (refused) refused->push_back(name + ": " + why);
      continue;
    }
    all.push_back({name, is_compiled_when_asked_for(engine), configuration});
  }
  return all;
}

std::optional<Plan> plan_of(const Candidate& candidate, const Descriptor& device,
                            std::string* cause) {
  Descriptor plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  plan.refer(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, candidate.configuration)
      .refer(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, device);
  if (const cudnnStatus_t status = plan.try_finalize(); status != CUDNN_STATUS_SUCCESS) {
    if (cause) *cause = text_of(status);
    return {};
  }
  const auto workspace =
      plan.get_one<int64_t>(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64);
  return Plan{size_t(workspace), plan};
}

}  // namespace qt::cudnn
