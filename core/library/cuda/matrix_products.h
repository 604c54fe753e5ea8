// core/library/cuda/matrix_products.h -- products of matrices in GPU memory: what the CUDA library
// asks of the module that is linked with cuBLASLt. Nothing here is a tensor, so that the module
// needs nothing of the program.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "core/device/stream.h"

namespace qt {

// What is multiplied, and how it is added up.
enum class ProductType {
  i8,    // int8 operands, int32 sums and results, exact
  bf16,  // bf16 operands, f32 sums and results
  tf32,  // f32 operands rounded to 11 significant bits, f32 sums and results
  f32,   // f32 throughout: exact on integers while every partial sum stays below 2^24
};
constexpr const char* name_of(ProductType type) {
  return type == ProductType::i8     ? "s8s8s32"
         : type == ProductType::bf16 ? "bf16"
         : type == ProductType::tf32 ? "tf32"
                                     : "f32";
}
constexpr size_t operand_size(ProductType type) {
  return type == ProductType::i8 ? 1 : type == ProductType::bf16 ? 2 : 4;
}

// c [m, n] = op(a) op(b), all row-major, `batch` times. a is [m, k], or [k, m] where transpose_a;
// b is [k, n], or [n, k] where transpose_b. Rows are row_x elements apart, matrices batch_x.
//
// i8 asks for what cuBLASLt asks for: transpose_b and no transpose_a; n, k and all row_x multiples
// of 4; addresses and distances of matrices multiples of 16 bytes.
struct MatrixProduct {
  ProductType type = ProductType::f32;
  int64_t m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  int64_t row_a = 0, row_b = 0, row_c = 0;
  int64_t batch = 1, batch_a = 0, batch_b = 0, batch_c = 0;
  bool accumulate = false;  // c += instead of c =

  auto operator<=>(const MatrixProduct&) const = default;
  bool suits_int8() const {
    const bool apart = batch == 1 || (batch_a % 16 == 0 && batch_b % 16 == 0 && batch_c % 4 == 0);
    return type == ProductType::i8 && transpose_b && !transpose_a && apart &&
           (n | k | row_a | row_b | row_c) % 4 == 0;
  }
  std::string text() const {
    const auto number = [](int64_t i) { return std::to_string(i); };
    return std::string(name_of(type)) + " " + (batch > 1 ? number(batch) + " x " : "") + "[" +
           number(m) + ", " + number(k) + "]" + (transpose_a ? " stored transposed" : "") + " x [" +
           number(k) + ", " + number(n) + "]" + (transpose_b ? " stored transposed" : "");
  }
};

// Requires: k >= 1, and addresses in GPU memory. The work is enqueued; the same product on the same
// kind of GPU gives the same bits. InternalError names call and product. Thread safe.
class MatrixProducts {
 public:
  virtual ~MatrixProducts() = default;
  // "cuBLASLt 13.1.0"
  virtual std::string name() const = 0;
  // False where the library has no algorithm for a product of codes that is as it should be:
  // workspace() and run() are not for it then.
  virtual bool offers(const MatrixProduct& product, size_t alignment) = 0;
  // Bytes of GPU memory that run() needs beside the operands. Addresses that run() will be given
  // are multiples of `alignment` bytes, a power of two.
  virtual size_t workspace(const MatrixProduct& product, size_t alignment) = 0;
  virtual void run(const MatrixProduct& product, size_t alignment, const void* a, const void* b,
                   void* c, void* workspace, Stream stream) = 0;
};

// The function of the module: made with `new`, owned by the caller.
constexpr const char* open_matrix_products_symbol = "qattrain_open_matrix_products";

}  // namespace qt
