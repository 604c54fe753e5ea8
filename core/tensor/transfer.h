// core/tensor/transfer.h -- tensors between the host's memory and a GPU's.
//
// A tensor lies where current_stream() was when it was made. The host must not touch data() that
// lies in a GPU's memory, nor a GPU what lies in the host's.
#pragma once
#include "core/device/stream.h"
#include "core/tensor/tensor.h"

namespace qt {

// The same tensor, scale included, in the GPU's memory (in the order of its stream; x may be
// dropped at once), and back (this waits for the stream).
Tensor to_gpu(const Tensor& x, Stream stream);
Tensor to_host(const Tensor& x, Stream stream);

// x of the host's memory, where current_stream() works; and x of where current_stream() works, in
// the host's memory. On the CPU both are x itself.
Tensor here(const Tensor& x);
Tensor on_host(const Tensor& x);

// Puts other numbers into a tensor that lies where current_stream() works, in the order of that
// stream: for whoever created it.
void overwrite(const Tensor& to, const float* values);

}  // namespace qt
