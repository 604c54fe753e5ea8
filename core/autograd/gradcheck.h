// core/autograd/gradcheck.h -- the tape's gradients against differences of the function itself.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "core/autograd/tape.h"

namespace qt {

// A pure function: the same inputs give the same output, and nothing else changes.
using Function = std::function<Var(const std::vector<Var>&)>;

struct GradientCheck {
  double step = 1e-2;  // by which an f32 input is moved to either side; codes move by 1
  double tolerance =
      2e-3;  // of a gradient's error, as a share of the largest gradient of that input
  int64_t at_most =
      48;  // elements of an input that are moved one at a time; all are moved together
};

// Numbers in [-1, 1] that depend on seed and position alone.
Tensor weights_for(const Shape& shape, uint64_t seed);

// d(sum of dy * y) / d(each input) by the tape, y = f(inputs). Undefined where nothing flows.
std::vector<Tensor> gradients(const Function& f, const std::vector<Tensor>& inputs,
                              const Tensor& dy);

// "" where the tape's gradients agree with central differences of f, else the first disagreement.
// Free memory is filled with NaN before, so that a gradient which is not wholly written shows.
// Inputs are f32 or i8; f must be smooth within `step` of them; codes must lie at least 1 inside
// their range.
std::string gradient_error(const Function& f, const std::vector<Tensor>& inputs,
                           const GradientCheck& check = {});

// Fills the pool's free blocks of up to 64 KiB with NaN (all bits set), making some of each size.
void poison_free_memory();

}  // namespace qt
