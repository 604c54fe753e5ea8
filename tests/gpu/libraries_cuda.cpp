// tests/gpu/libraries_cuda.cpp -- the CUDA library with NVIDIA's own cuBLASLt and cuDNN.
#include "tests/gpu/libraries.h"

namespace qt {

std::vector<LibraryUnderTest> libraries_under_test() {
  const auto products = open_matrix_products();
  return {
      {"cuda", library_by_name("cuda"), 1e-5, 1.0 / 256},  // cuDNN writes bf16
      {"products", make_cuda_library(products, nullptr), 1e-5, 0},
      {"products in parts", make_cuda_library(products, nullptr, {.column_bytes = 1}), 1e-5, 0}};
}

}  // namespace qt
