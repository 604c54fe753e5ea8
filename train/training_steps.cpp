// train/training_steps.cpp -- what passes are told, on a CPU and on a GPU alike.
#include "train/training_steps.h"

namespace qt {

Pass training_pass(const StepOptions& options, const BatchShare& share, Health& health) {
  return {.mode = options.mode,
          .training = true,
          .float_forward = options.float_forward,
          .backward = options.backward,
          .keep_16_bits = options.keep_16_bits,
          .health = &health,
          .synchronize = options.synchronize,
          .samples_per_sample = float(double(share.of_all_ranks) / double(share.pictures))};
}

Tensor loss_gradient(const StepOptions& options, const BatchShare& share) {
  const double of_batch = double(share.pictures) / double(share.of_all_ranks);
  return Tensor::full({1}, float(of_batch / double(options.accumulate)));
}

}  // namespace qt
