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

// Batch normalization is folded from its running statistics, in double, rounded to f32 once
// (fold_constants of quant/norm_act.h, the very constants of a forward pass with frozen batch
// normalization). ConfigError where the model has no integer program (residual: none, a quantizer
// of kind none, codes beyond int8); InternalError where a quantizer has no step yet (not
// calibrated); DivergenceError where a constant is not finite. Each names the layer.
Program build_program(Model& model, const BuildOptions& options = {});

}  // namespace qt
