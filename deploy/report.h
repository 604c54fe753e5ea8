// deploy/report.h -- an integer program as a table for people.
#pragma once
#include <string>

#include "deploy/program.h"

namespace qt {

// One line per instruction: name, what it does, output, bits of weights and of codes, code range,
// step, multiply-accumulates, weight bytes (as bits * count, what a packed file would need);
// totals, preprocessing, classes and notes below.
std::string inspect(const Program& program);

// Bits that codes of this range need: 4 for 0..15 and for -7..7.
int bits_of(int lo, int hi);

}  // namespace qt
