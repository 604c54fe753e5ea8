// core/library/cuda/plain_products.h -- the way out where cuBLASLt has no algorithm for a product
// of codes: one thread for each sum. Slow, and for few rows only in practice.
#pragma once
#include "core/library/cuda/matrix_products.h"

namespace qt {

// Enqueues c = a b on current_stream(), int32 sums of int8 products. Requires
// MatrixProduct::suits_int8, c without gaps, and no accumulation.
void plain_integer_product(const MatrixProduct& product, const void* a, const void* b, void* c);

}  // namespace qt
