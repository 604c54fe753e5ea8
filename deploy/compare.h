// deploy/compare.h -- whether two runs of a program gave the same codes, and where they first part.
#pragma once
#include <string>

#include "deploy/engine.h"

namespace qt {

struct CodeDifference {
  bool equal = true;
  std::string layer;      // the first that differs, in program order; "logits" for the logits
  int64_t element = -1;   // its first differing element, counted over [n, h, w, c]; -1: missing or
                          // of another shape
  double a = 0, b = 0;    // what the two runs have there
  int64_t differing = 0;  // elements that differ, over all layers
  int64_t compared = 0;   // elements that were compared
  std::string text() const;  // one line for people
};

// Codes by name, then the logits bit for bit. A layer that one side lacks, and two results without
// codes, are differences: run both with keep_codes.
CodeDifference compare_codes(const EngineResult& a, const EngineResult& b);

}  // namespace qt
