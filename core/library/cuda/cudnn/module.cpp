// core/library/cuda/cudnn/module.cpp -- convolutions by cuDNN: a list of candidates per request,
// and the plans of those that were asked for, kept.
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/library/cuda/cudnn/graph.h"

namespace qt::cudnn {
namespace {

class Cudnn final : public Convolutions {
 public:
  explicit Cudnn(int gpu) : handle_(new_handle()), device_(device_of(gpu)) {}

  std::string name() const override {
    const size_t version = cudnnGetVersion();
    return "cuDNN " + std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) +
           "." + std::to_string(version % 100);
  }

  const std::vector<std::string>& engines(const ConvolutionRequest& request) override {
    const std::lock_guard lock(mutex_);
    return asked(request).names;
  }

  std::optional<size_t> prepare(const ConvolutionRequest& request, size_t engine) override {
    const auto plan = plan_for(request, engine);
    return plan ? std::optional(plan->workspace) : std::nullopt;
  }

  std::string cause(const ConvolutionRequest& request, std::optional<size_t> engine) override {
    const std::lock_guard lock(mutex_);
    const Asked& found = asked(request);
    const auto plan = engine ? found.no_plan.find(*engine) : found.no_plan.end();
    return !engine ? found.no_engine : plan == found.no_plan.end() ? "" : plan->second;
  }

  void keep_only(const ConvolutionRequest& request, size_t engine) override {
    const std::lock_guard lock(mutex_);
    std::erase_if(asked(request).plans, [&](const auto& entry) { return entry.first != engine; });
  }

  void run(const ConvolutionRequest& request, size_t engine, const void* first, const void* second,
           void* result, void* workspace, Stream stream) override {
    const auto plan = plan_for(request, engine);
    const std::lock_guard lock(mutex_);  // the handle has one stream at a time
    const std::string name = asked(request).names[engine] + " for " + request.shape.text();
    QT_CHECK(plan, "cuDNN has no plan of " + name);
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
    check(cudnnBackendExecute(handle, plan->descriptor.get(), arguments.get()),
          "cudnnBackendExecute of " + name);
  }

 private:
  struct Asked {
    std::vector<Candidate> candidates;
    std::vector<std::string> names;
    std::map<size_t, std::shared_ptr<const Plan>> plans;  // by number; null: there is none
    std::string no_engine;                                // why there are no candidates
    std::map<size_t, std::string> no_plan;                // and why one has no plan
  };
  static std::shared_ptr<void> new_handle() {
    cudnnHandle_t handle = nullptr;
    check(cudnnCreate(&handle), "cudnnCreate");
    return {handle,
            [](void* h) { static_cast<void>(cudnnDestroy(static_cast<cudnnHandle_t>(h))); }};
  }
  // By its number or, where cuDNN does not take that, as the handle's.
  Descriptor device_of(int gpu) const {
    try {
      return device(gpu);
    } catch (const InternalError&) {
      return device(static_cast<cudnnHandle_t>(handle_.get()));
    }
  }
  // Never dropped, so that a reference stays good.
  Asked& asked(const ConvolutionRequest& request) {
    auto& entry = requests_[request];
    if (entry) return *entry;
    auto made = std::make_unique<Asked>();
    try {
      made->candidates = candidates(request, device_, nullptr, &made->no_engine);
    } catch (const InternalError& error) {  // a graph that cuDNN refuses has no engines
      made->no_engine = error.what();
    }
    if (!made->candidates.empty()) made->no_engine.clear();  // one of two heuristics was silent
    for (const Candidate& candidate : made->candidates) made->names.push_back(candidate.name);
    entry = std::move(made);
    return *entry;
  }
  // What may compile is not locked: several threads make several engines ready.
  std::shared_ptr<const Plan> plan_for(const ConvolutionRequest& request, size_t engine) {
    std::unique_lock lock(mutex_);
    Asked& found = asked(request);
    QT_CHECK(
        engine < found.candidates.size(),
        "cuDNN has no engine number " + std::to_string(engine) + " for " + request.shape.text());
    const auto plan = found.plans.find(engine);
    if (plan != found.plans.end()) return plan->second;
    lock.unlock();
    std::shared_ptr<const Plan> made;
    std::string cause;
    if (auto plan_made = plan_of(found.candidates[engine], device_, &cause))
      made = std::make_shared<const Plan>(std::move(*plan_made));
    lock.lock();
    if (!made) found.no_plan[engine] = cause;
    return found.plans.try_emplace(engine, std::move(made)).first->second;
  }

  std::shared_ptr<void> handle_;
  Descriptor device_;
  std::mutex mutex_;
  std::map<ConvolutionRequest, std::unique_ptr<Asked>> requests_;
};

}  // namespace
}  // namespace qt::cudnn

extern "C" qt::Convolutions* qattrain_open_convolutions(int gpu) {
  return std::make_unique<qt::cudnn::Cudnn>(gpu).release();
}
