// deploy/gpu_engine.cpp -- the integer program on a GPU, for callers in the host's memory.
#include <map>

#include "core/tensor/transfer.h"
#include "deploy/engine.h"

namespace qt {
namespace {

class GpuEngine final : public Engine {
 public:
  GpuEngine(const GpuStream& stream, std::shared_ptr<Library> library)
      : stream_(stream), library_(std::move(library)), engine_(make_library_engine(*library_)) {}
  std::string name() const override { return library_->name(); }

  EngineResult run(const Program& program, const Tensor& images,
                   const RunOptions& options) const override {
    const UseStream on_gpu(stream_.stream());
    const UseLibrary library(library_);
    std::map<const void*, Copy> copies;
    const Program placed = with_tensors(program, [&](const Tensor& t) {
      const auto known = copies_.find(t.raw());
      const bool same = known != copies_.end() && is_alike(known->second.host, t);
      return copies.insert_or_assign(t.raw(), same ? known->second : Copy{t, here(t)})
          .first->second.placed;
    });
    copies_ = std::move(copies);
    EngineResult result = engine_->run(placed, here(images), options);
    result.logits = on_host(result.logits);
    for (auto& [name, codes] : result.codes) codes = on_host(codes);
    return result;
  }

 protected:
  Tensor execute(const Step&) const override {
    throw InternalError("a GPU's engine runs whole programs");
  }

 private:
  GpuStream stream_;
  std::shared_ptr<Library> library_;
  std::unique_ptr<Engine> engine_;
  // Of the last program, by storage: nobody writes into its tensors, and `host` keeps the storage,
  // so that no other tensor can have it.
  struct Copy {
    Tensor host, placed;
  };
  static bool is_alike(const Tensor& a, const Tensor& b) {
    return a.shape() == b.shape() && a.dtype() == b.dtype() && a.has_scale() == b.has_scale() &&
           (!a.has_scale() ||
            (a.step().raw() == b.step().raw() && a.lo() == b.lo() && a.hi() == b.hi()));
  }
  mutable std::map<const void*, Copy> copies_;
};

}  // namespace

std::unique_ptr<Engine> make_gpu_engine(const GpuStream& stream, std::shared_ptr<Library> library) {
  return std::make_unique<GpuEngine>(stream, std::move(library));
}

}  // namespace qt
