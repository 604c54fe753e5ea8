// tests/gpu/libraries.h -- the compute libraries of the GPU under test, and how close to the plain
// loops they are.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "core/library/cuda/library.h"

namespace qt {

struct LibraryUnderTest {
  std::string name;
  std::shared_ptr<Library> library;
  // Products of codes have the plain loops' bits in all of them. Reals: at most so much of the
  // largest result is lost, 0 meaning equal bits; with bf16 operands, so much more.
  double of_reals = 0, in_bf16 = 0;
  bool has_cudnn = false;
};

// The one that trains comes first.
std::vector<LibraryUnderTest> libraries_under_test();

}  // namespace qt
