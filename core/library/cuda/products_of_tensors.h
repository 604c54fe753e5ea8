// core/library/cuda/products_of_tensors.h -- matrix products on current_stream(), with their
// workspace from the pool.
#pragma once
#include <cstdint>
#include <string>

#include "core/library/cuda/matrix_products.h"
#include "core/library/cuda/plain_products.h"
#include "core/library/library.h"

namespace qt {

// The greatest power of two up to 16 that divides all of them.
inline size_t common_alignment(std::initializer_list<const void*> addresses) {
  uintptr_t bits = 16;
  for (const void* address : addresses) bits |= reinterpret_cast<uintptr_t>(address);
  return size_t(bits & (~bits + 1));
}

// Enqueues c = a b. The workspace goes back to the pool in the stream's order. Products of codes
// that the library has no algorithm for are computed all the same.
inline void multiply(MatrixProducts& products, const MatrixProduct& product, const void* a,
                     const void* b, void* c) {
  const size_t alignment = common_alignment({a, b, c});
  if (!products.offers(product, alignment)) return plain_integer_product(product, a, b, c);
  const auto bytes = int64_t(products.workspace(product, alignment));
  const Tensor workspace = bytes ? Tensor::empty({bytes}, DType::u8) : Tensor();
  products.run(product, alignment, a, b, c, workspace.raw(), current_stream());
}

}  // namespace qt
