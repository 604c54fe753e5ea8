// deploy/engine.cpp -- choosing an engine, and the short way to logits and hits.
#include "deploy/engine.h"

#include <algorithm>

namespace qt {

EngineResult Engine::run(const Program& program, const Tensor& images,
                         const RunOptions& options) const {
  check_images(program, images);
  const std::vector<int> last = last_uses(program);
  std::vector<Tensor> registers(program.instructions.size());
  EngineResult result;
  for (size_t i = 0; i < registers.size(); ++i) {
    const Instruction& at = program.instructions[i];
    registers[i] = execute({at, registers, images, options.path});
    if (options.after) options.after(at);
    if (std::holds_alternative<Classifier>(at.operation))
      result.logits = registers[i];
    else if (options.keep_codes)
      result.codes.emplace_back(at.name, registers[i]);
    for (const int read : at.inputs)
      if (last[size_t(read)] == int(i)) registers[size_t(read)] = Tensor();
    if (last[i] == int(i)) registers[i] = Tensor();
  }
  return result;
}

std::unique_ptr<Engine> make_engine(const std::string& name) {
  return EngineRegistry::make("engine", name);
}

Tensor run_logits(const Program& program, const Tensor& images, CodePath path) {
  return make_library_engine(current_library(), false)->run(program, images, {.path = path}).logits;
}

int64_t count_top(const Tensor& logits, const Tensor& labels, int64_t k) {
  QT_CHECK(logits.shape().rank() == 2 && labels.elements() == logits.dim(0) && logits.dim(1) > 0,
           "count_top takes logits [n, classes] and labels [n], got " + logits.shape().text() +
               " and " + labels.shape().text());
  const float* row = logits.data<float>();
  const int64_t* label = labels.data<int64_t>();
  int64_t hits = 0;
  for (int64_t n = 0; n < logits.dim(0); ++n, row += logits.dim(1)) {
    const float own = row[label[n]];
    const auto before =
        std::count_if(row, row + label[n], [&](float x) { return !(x < own); }) +
        std::count_if(row + label[n], row + logits.dim(1), [&](float x) { return !(x <= own); });
    hits += before < k;
  }
  return hits;
}

}  // namespace qt
