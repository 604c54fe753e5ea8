// train/step_kernels.h -- what a step decides and notes without the host: whether its numbers are
// finite, whether its results are kept, its loss and hits. All tensors lie where current_stream()
// works.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor/tensor.h"

namespace qt {

// A tensor (f32) that must be finite, and greater than 0 where `positive`.
struct CheckedTensor {
  std::string name;
  Tensor values;
  bool positive = false;
};
// f32 [1]: 0 where all are as they must be, else 1 + the number of the first that is not.
Tensor first_bad(const std::vector<CheckedTensor>& watched);

// kept = fresh where bad is 0, and stays as it is otherwise. f32 of one shape each.
struct Replacement {
  Tensor fresh, kept;
};
void replace_if_good(const Tensor& bad, const std::vector<Replacement>& list);

// Rows whose first greatest value is at the label (i64 [n]), f32 [1]: count_top of 1 without the
// host.
Tensor hits(const Tensor& logits, const Tensor& labels);

// row[position] = value; row: f32 [n], position: i32 [1], value: f32 [1].
void note_at(const Tensor& row, const Tensor& position, const Tensor& value);
// position += 1.
void advance(const Tensor& position);

}  // namespace qt
