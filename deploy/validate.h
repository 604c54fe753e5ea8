// deploy/validate.h -- the rules that make an integer program safe and exact to run.
#pragma once
#include <string>

#include "deploy/program.h"

namespace qt {

// CheckpointError, opening with `what` and naming the instruction, for anything an engine relies on
// and does not find: inputs that are not earlier registers, shapes that do not fit, codes outside
// lo..hi, sums that may leave int32, constants that are not finite or whose products are not, a
// residual ratio of more than 16 significant bits.
void validate(const Program& program, const std::string& what);

// Whether q * r is exact in f32 for every 8 bit code q.
bool has_16_significant_bits(float r);

}  // namespace qt
