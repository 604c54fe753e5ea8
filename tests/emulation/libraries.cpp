// tests/emulation/libraries.cpp -- libraries of the emulated GPU: the CUDA library over the
// emulated cuBLASLt, and plain loops.
#include "tests/gpu/libraries.h"

#include "tests/emulation/plain_library.h"

namespace qt {

std::vector<LibraryUnderTest> libraries_under_test() {
  return {{"cuda", library_by_name("cuda"), 2e-6, 0},
          {"products in parts",
           make_cuda_library(open_matrix_products(), nullptr, {.column_bytes = 1}), 2e-6, 0},
          {"plain loops", make_emulated_library(), 0, 0}};
}

}  // namespace qt
