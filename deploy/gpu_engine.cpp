// deploy/gpu_engine.cpp -- the integer program on a GPU, for callers in the host's memory.
#include "core/tensor/transfer.h"
#include "deploy/engine.h"

namespace qt {
namespace {

// The tensors whose storage tells whether two programs are one: nobody writes into them.
std::vector<const void*> constants_of(const Program& program) {
  std::vector<const void*> list;
  for (const Instruction& at : program.instructions) {
    if (const auto* image = std::get_if<ImageTable>(&at.operation))
      list.push_back(image->table.raw());
    if (const auto* conv = std::get_if<Conv>(&at.operation))
      list.insert(list.end(), {conv->codes.raw(), conv->m.raw(), conv->b.raw()});
    if (const auto* classifier = std::get_if<Classifier>(&at.operation))
      list.insert(list.end(),
                  {classifier->codes.raw(), classifier->m.raw(), classifier->bias.raw()});
  }
  return list;
}

class GpuEngine final : public Engine {
 public:
  GpuEngine(const GpuStream& stream, std::shared_ptr<Library> library)
      : stream_(stream), library_(std::move(library)), engine_(make_library_engine(*library_)) {}
  std::string name() const override { return library_->name(); }

  EngineResult run(const Program& program, const Tensor& images,
                   const RunOptions& options) const override {
    const UseStream on_gpu(stream_.stream());
    const UseLibrary library(library_);
    if (constants_of(program) != constants_of(host_)) {
      host_ = program;  // keeps the storage, so that no other program can have it
      placed_ = program_here(program);
    }
    EngineResult result = engine_->run(placed_, here(images), options);
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
  mutable Program host_, placed_;
};

}  // namespace

std::unique_ptr<Engine> make_gpu_engine(const GpuStream& stream, std::shared_ptr<Library> library) {
  return std::make_unique<GpuEngine>(stream, std::move(library));
}

}  // namespace qt
