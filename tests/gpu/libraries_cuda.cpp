// tests/gpu/libraries_cuda.cpp -- the CUDA library with NVIDIA's own cuBLASLt and cuDNN.
#include "tests/gpu/libraries.h"

namespace qt {

// Made once: cuBLASLt's and cuDNN's handles have memory of their own.
std::vector<LibraryUnderTest> libraries_under_test() {
  static const auto libraries = [] {
    const auto products = open_matrix_products();
    return std::vector<LibraryUnderTest>{
        {"cuda", library_by_name("cuda"), 1e-5, 1.0 / 256,  // cuDNN writes bf16
         open_convolutions() != nullptr},
        {"products", make_cuda_library(products, nullptr), 1e-5, 0},
        {"products in parts", make_cuda_library(products, nullptr, {.column_bytes = 1}), 1e-5, 0}};
  }();
  return libraries;
}

}  // namespace qt
