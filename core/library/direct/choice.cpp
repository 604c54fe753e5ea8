// core/library/direct/choice.cpp -- which convolutions these kernels take.
#include <algorithm>

#include "core/library/direct/direct.h"

namespace qt::direct {

bool computes(const Conv2dShape& s) { return s.groups == 1 && s.c % 16 == 0 && s.k % 16 == 0; }

// Without a stride Winograd and oneDNN are ahead, and for pointwise kernels oneDNN. The gradient of
// the weights copies its operands, which few channels do not pay for.
bool is_faster(Operation operation, const Conv2dShape& s) {
  const int64_t fewest = operation == Operation::conv2d_backward_weights ? 64 : 32;
  return computes(s) && s.stride > 1 && s.r * s.s > 1 && std::min(s.c, s.k) >= fewest;
}

}  // namespace qt::direct
