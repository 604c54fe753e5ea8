// core/library/cuda/library.h -- the library on an NVIDIA GPU: products of matrices, and
// convolutions as products of matrices.
#pragma once
#include <functional>
#include <memory>

#include "core/library/cuda/convolutions.h"
#include "core/library/cuda/matrix_products.h"
#include "core/library/library.h"

namespace qt {

// Seconds that the work takes, which is enqueued anew at each call.
using Measure = std::function<double(const std::function<void()>& enqueue)>;
// On current_stream(), between events: of a recorded graph of several, as steps replay it, so that
// what the host takes to enqueue them does not count.
double measured_on_stream(const std::function<void()>& enqueue);

struct CudaLibraryOptions {
  // At most so many bytes of windows are written out at once; at least one image's are. The number
  // of images at a time decides the order in which gradients of weights are added.
  int64_t column_bytes = int64_t{512} << 20;
  Measure measure = measured_on_stream;  // by which engines are chosen
};

// Tensors lie in GPU memory; all work is enqueued on current_stream(), which must be a GPU's.
// Results: codes exact, as all libraries'; f32 by sums in f32, in an order that is the same on the
// same kind of GPU with the same libraries. convolutions: nullptr where there is no cuDNN; then
// all convolutions are matrix products.
std::unique_ptr<Library> make_cuda_library(const std::shared_ptr<MatrixProducts>& products,
                                           const std::shared_ptr<Convolutions>& convolutions,
                                           const CudaLibraryOptions& options = {});

// The modules with cuBLASLt and cuDNN, which lie beside the program and stay open. ConfigError
// where there is no GPU, or the module or NVIDIA's library cannot be loaded; where that is cuDNN, a
// warning and nullptr.
std::shared_ptr<MatrixProducts> open_matrix_products();
std::shared_ptr<Convolutions> open_convolutions();

}  // namespace qt
