// deploy/engine.h -- what runs an integer program. All engines give identical codes in every layer
// and identical logits.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/base/registry.h"
#include "core/device/gpu.h"
#include "deploy/program.h"

namespace qt {

struct RunOptions {
  CodePath path =
      CodePath::integer;    // how a library multiplies codes; `reference` knows one way only
  bool keep_codes = false;  // hand back every register
  std::function<void(const Instruction&)> after = {};  // called when an instruction is done
};

struct EngineResult {
  Tensor logits;  // f32 [n, classes]
  // With keep_codes: i8 codes [n, h, w, c] of every instruction but the classifier, by name, in
  // order; each carries its step.
  std::vector<std::pair<std::string, Tensor>> codes;
};

// Program, images and results lie in the host's memory; with an engine of make_library_engine they
// lie where current_stream() works.
//
// Requires: a program that validate() accepts (what build_program and load_program give); images u8
// [n, height, width, 3]. Ensures: the arithmetic of deploy/program.h, bit for bit; a register is
// freed after its last reader.
class Engine {
 public:
  virtual ~Engine() = default;
  virtual std::string name() const = 0;
  virtual EngineResult run(const Program& program, const Tensor& images,
                           const RunOptions& options = {}) const;

 protected:
  // What one instruction reads.
  struct Step {
    const Instruction& at;
    const std::vector<Tensor>& registers;
    const Tensor& images;
    CodePath path;
    const Tensor& input(size_t i) const { return registers.at(size_t(at.inputs.at(i))); }
    bool has_residual() const { return at.inputs.size() > 1; }
  };
  // The register (or the logits) that the instruction fills.
  virtual Tensor execute(const Step& step) const = 0;
};

// "reference": plain loops, the definition. "onednn": oneDNN's kernels. "cuda", in builds with
// CUDA: a GPU. ConfigError lists what is known.
using EngineRegistry = Registry<Engine>;
std::unique_ptr<Engine> make_engine(const std::string& name);
// The engine on this library's kernels and the launchers; its name is the library's. The library
// outlives it. With `keeps_weights` it keeps those of the convolutions that it has run in the form
// that their kernels read, which takes up to eight times their memory; one run at a time.
std::unique_ptr<Engine> make_library_engine(Library& library, bool keeps_weights = true);

// The engine on a library of a GPU, in the order of its stream; copies programs and pictures to the
// GPU and results back. The tensors of the program that ran last are not copied again.
std::unique_ptr<Engine> make_gpu_engine(const GpuStream& stream, std::shared_ptr<Library> library);

// Logits f32 [n, classes] on current_library()'s kernels; for once, so no weights are kept.
Tensor run_logits(const Program& program, const Tensor& images, CodePath path = CodePath::integer);

// How many rows have the label (i64 [n]) among their k greatest logits: in which fewer than k
// classes come before it, those of greater logits, of equal ones with a lower index, and of NaN.
int64_t count_top(const Tensor& logits, const Tensor& labels, int64_t k);

}  // namespace qt
