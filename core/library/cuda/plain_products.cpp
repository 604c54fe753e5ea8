// core/library/cuda/plain_products.cpp -- sums of products of codes, one thread each.
#include "core/library/cuda/plain_products.h"

#include "core/base/error.h"
#include "core/kernel/launch.h"

namespace qt {
namespace {

struct Sum {
  const int8_t *a, *b;
  int64_t m, n, k, row_a, row_b, batch_a, batch_b;
  QT_HD int32_t operator()(int64_t i) const {
    const int64_t line = quotient(i, n), column = i - line * n, matrix = quotient(line, m),
                  row = line - matrix * m;
    const int8_t* const x = a + matrix * batch_a + row * row_a;
    const int8_t* const y = b + matrix * batch_b + column * row_b;
    int32_t sum = 0;
    for (int64_t j = 0; j < k; ++j) sum += int32_t(x[j]) * int32_t(y[j]);
    return sum;
  }
};

}  // namespace

void plain_integer_product(const MatrixProduct& p, const void* a, const void* b, void* c) {
  QT_CHECK(
      p.suits_int8() && !p.accumulate && p.row_c == p.n && (p.batch == 1 || p.batch_c == p.m * p.n),
      "plain_integer_product cannot compute " + p.text());
  const Sum sum{static_cast<const int8_t*>(a),
                static_cast<const int8_t*>(b),
                p.m,
                p.n,
                p.k,
                p.row_a,
                p.row_b,
                p.batch_a,
                p.batch_b};
  generate(current_stream(), p.batch * p.m * p.n, sum, static_cast<int32_t*>(c));
}

}  // namespace qt
