// tests/emulation/modules.cpp -- stands in for core/library/cuda/modules.cpp: the module for
// cuBLASLt is part of the test, and cuBLASLt is the emulator's. cuDNN is not emulated.
#include "core/library/cuda/library.h"

extern "C" qt::MatrixProducts* qattrain_open_matrix_products();

namespace qt {

std::shared_ptr<MatrixProducts> open_matrix_products() {
  return std::shared_ptr<MatrixProducts>(qattrain_open_matrix_products());
}
std::shared_ptr<Convolutions> open_convolutions() { return nullptr; }

}  // namespace qt
