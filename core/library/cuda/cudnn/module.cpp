// core/library/cuda/cudnn/module.cpp -- convolutions by cuDNN: a list of plans per request, kept.
#include <map>
#include <memory>
#include <mutex>

#include "core/library/cuda/cudnn/graph.h"

namespace qt::cudnn {
namespace {

// How many engines are worth a timing; those further down were never the fastest in what NVIDIA
// publishes of its heuristics, and each costs a compilation.
constexpr size_t engines_per_request = 6;

class Cudnn final : public Convolutions {
 public:
  explicit Cudnn(int gpu) : device_(device(gpu)) {
    cudnnHandle_t handle = nullptr;
    check(cudnnCreate(&handle), "cudnnCreate");
    handle_ = {handle,
               [](void* h) { static_cast<void>(cudnnDestroy(static_cast<cudnnHandle_t>(h))); }};
  }

  std::string name() const override {
    const size_t version = cudnnGetVersion();
    return "cuDNN " + std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) +
           "." + std::to_string(version % 100);
  }

  const std::vector<ConvolutionEngine>& engines(const ConvolutionRequest& request) override {
    const std::lock_guard lock(mutex_);
    return prepared(request).engines;
  }

  void run(const ConvolutionRequest& request, size_t engine, const void* first, const void* second,
           void* result, void* workspace, Stream stream) override {
    const std::lock_guard lock(mutex_);
    const Prepared& found = prepared(request);
    QT_CHECK(engine < found.plans.size(), "cuDNN has no engine number " + std::to_string(engine) +
                                              " for " + request.shape.text());
    Descriptor arguments(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    arguments
        .set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64,
             std::vector<int64_t>{uid_first, uid_second, uid_result})
        .set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR,
             std::vector<void*>{const_cast<void*>(first), const_cast<void*>(second), result})
        .set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, workspace);
    arguments.finalize("the addresses of " + request.shape.text());
    const auto handle = static_cast<cudnnHandle_t>(handle_.get());
    check(cudnnSetStream(handle, static_cast<cudaStream_t>(stream.cuda)), "cudnnSetStream");
    check(cudnnBackendExecute(handle, found.plans[engine].descriptor.get(), arguments.get()),
          "cudnnBackendExecute of " + found.engines[engine].name + " for " + request.shape.text());
  }

 private:
  struct Prepared {
    std::vector<Plan> plans;
    std::vector<ConvolutionEngine> engines;
  };
  // Never dropped, so that a reference stays good.
  const Prepared& prepared(const ConvolutionRequest& request) {
    auto& entry = requests_[request];
    if (!entry) {
      auto made = std::make_unique<Prepared>();
      made->plans = plans(request, device_, engines_per_request);
      for (const Plan& plan : made->plans) made->engines.push_back(plan.engine);
      entry = std::move(made);
    }
    return *entry;
  }

  Descriptor device_;
  std::shared_ptr<void> handle_;
  std::mutex mutex_;
  std::map<ConvolutionRequest, std::unique_ptr<Prepared>> requests_;
};

}  // namespace
}  // namespace qt::cudnn

extern "C" qt::Convolutions* qattrain_open_convolutions(int gpu) {
  return std::make_unique<qt::cudnn::Cudnn>(gpu).release();
}
