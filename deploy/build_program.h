// deploy/build_program.h -- lowering a trained model to its integer program.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "deploy/program.h"
#include "layers/model.h"

namespace qt {

struct BuildOptions {
  std::vector<std::string> class_names;      // may be empty
  int64_t resize = 0;                        // Preprocessing::resize
  std::map<std::string, std::string> notes;  // accuracy, config hash, ...
};

// Whether the model can have an integer program: every layer emits codes and multiplies codes (no
// residual: none, no quantizer of kind none).
bool has_program(Model& model);

// Batch normalization is folded from its running statistics, in double, rounded to f32 once
// (fold_constants of quant/fold.h, the very constants of a forward pass with frozen batch
// normalization). ConfigError where the model has no integer program (residual: none, a quantizer
// of kind none, codes beyond int8, sums beyond int32); InternalError where a quantizer has no step
// yet (not calibrated); DivergenceError where a parameter, statistic, step or constant is not
// finite or a constant so large that results may overflow. Each names the layer or the tensor.
Program build_program(Model& model, const BuildOptions& options = {});

}  // namespace qt
