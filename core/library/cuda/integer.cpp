// core/library/cuda/integer.cpp -- products of codes as int8 matrix products.
//
// cuBLASLt multiplies s8 by s8. u8 codes above 127 are handed to it
//   - as x - 128; 128 * sum(w) per output channel is added to its sums;
//   - as weights: 2 * upper + lower, two products.
// Both are exact: what is wanted fits int32 (check_accumulator), and int32 sums wrap.
#include "core/library/cuda/integer.h"

#include <algorithm>

#include "core/library/columns.h"
#include "core/library/cuda/products_of_tensors.h"

namespace qt {
namespace {

bool exceeds_int8(const Tensor& codes) { return codes.dtype() == DType::u8 && codes.hi() > 127; }

// The codes as int8 where they are that already, whatever they are called.
const int8_t* as_int8(const Tensor& codes) { return static_cast<const int8_t*>(codes.raw()); }

class IntegerConvolution {
 public:
  IntegerConvolution(MatrixProducts& products, const Tensor& x, const Tensor& w,
                     const Conv2dShape& shape, int64_t column_bytes)
      : products_(products),
        x_(x),
        w_(w),
        shape_(shape),
        shifted_(exceeds_int8(x)),
        halved_(exceeds_int8(w)) {
    const int64_t per_group = shape.k / shape.groups;
    columns_.conv = shape;
    columns_.width = rounded_up(columns_.products(), packet_size<int8_t>);
    is_matrix_ = is_dense(shape) && shape.c == columns_.width && !shifted_;
    columns_.images =
        is_matrix_ ? shape.n
                   : std::min(shape.n, images_at_once(shape, columns_.width, 1, column_bytes));
    weights_ = {.groups = shape.groups,
                .per_group = per_group,
                .products = columns_.products(),
                .padded_per_group = rounded_up(per_group, 4),
                .width = columns_.width};
  }

  Tensor run() {
    const Tensor upper = packed(halved_ ? CodePart::upper : CodePart::all);
    const Tensor lower = halved_ ? packed(CodePart::lower) : Tensor();
    const Tensor offsets = shifted_ ? offsets_of_weights() : Tensor();
    Tensor y = Tensor::empty(shape_.y_shape(), DType::f32);
    const int64_t x_image = shape_.h * shape_.w * shape_.c, images = columns_.images;
    const int64_t y_image = shape_.out_h() * shape_.out_w() * shape_.k;
    for (int64_t first = 0; first < shape_.n; first += images) {
      columns_.images = std::min(images, shape_.n - first);
      const Tensor columns = windows(first * x_image);
      const int8_t* const rows =
          columns.defined() ? columns.data<int8_t>() : as_int8(x_) + first * x_image;
      const Tensor sums = sums_of(rows, upper);
      const Tensor lower_sums = halved_ ? sums_of(rows, lower) : Tensor();
      sums_to_floats({.rows = columns_.rows(),
                      .groups = shape_.groups,
                      .per_group = weights_.per_group,
                      .padded_per_group = weights_.padded_per_group,
                      .sums = sums.data<int32_t>(),
                      .lower = halved_ ? lower_sums.data<int32_t>() : nullptr,
                      .offsets = shifted_ ? offsets.data<int32_t>() : nullptr},
                     y.data<float>() + first * y_image);
    }
    return y;
  }

 private:
  // Undefined where x itself is the matrix.
  Tensor windows(int64_t offset) const {
    if (is_matrix_) return {};
    Tensor columns = Tensor::empty({columns_.elements()}, DType::i8);
    if (shifted_)
      write_columns(columns_, x_.data<uint8_t>() + offset, columns.data<int8_t>());
    else
      write_columns(columns_, as_int8(x_) + offset, columns.data<int8_t>());
    return columns;
  }

  Tensor packed(CodePart part) const {
    if (part == CodePart::all && weights_.padded_per_group == weights_.per_group &&
        weights_.width == weights_.products)
      return w_;
    Tensor packed =
        Tensor::empty({weights_.groups * weights_.padded_per_group, weights_.width}, DType::i8);
    if (w_.dtype() == DType::u8)
      pack_weights(weights_, w_.data<uint8_t>(), part, packed.data<int8_t>());
    else
      pack_weights(weights_, w_.data<int8_t>(), part, packed.data<int8_t>());
    return packed;
  }

  Tensor offsets_of_weights() const {
    Tensor offsets = Tensor::empty({shape_.k}, DType::i32);
    if (w_.dtype() == DType::u8)
      weight_offsets(shape_.k, weights_.products, w_.data<uint8_t>(), offsets.data<int32_t>());
    else
      weight_offsets(shape_.k, weights_.products, w_.data<int8_t>(), offsets.data<int32_t>());
    return offsets;
  }

  Tensor sums_of(const int8_t* rows, const Tensor& weights) const {
    const int64_t m = columns_.rows(), n = weights_.padded_per_group, k = columns_.width;
    Tensor sums = Tensor::empty({shape_.groups * m * n}, DType::i32);
    multiply(products_,
             {.type = ProductType::i8,
              .m = m,
              .n = n,
              .k = k,
              .transpose_b = true,
              .row_a = k,
              .row_b = k,
              .row_c = n,
              .batch = shape_.groups,
              .batch_a = m * k,
              .batch_b = n * k,
              .batch_c = m * n},
             rows, weights.raw(), sums.raw());
    return sums;
  }

  MatrixProducts& products_;
  const Tensor &x_, &w_;
  Conv2dShape shape_;
  bool shifted_, halved_, is_matrix_ = false;
  ColumnShape columns_;
  PackedWeights weights_;
};

}  // namespace

int64_t images_at_once(const Conv2dShape& shape, int64_t width, int64_t element_bytes,
                       int64_t column_bytes) {
  const int64_t image = shape.groups * shape.out_h() * shape.out_w() * width * element_bytes;
  return std::max<int64_t>(1, column_bytes / image);
}

bool is_dense(const Conv2dShape& shape) {
  return shape.r == 1 && shape.s == 1 && shape.stride == 1 && shape.padding == 0 &&
         shape.groups == 1;
}

Tensor integer_conv2d_as_products(MatrixProducts& products, const Tensor& x, const Tensor& w,
                                  const Conv2dShape& shape, int64_t column_bytes) {
  return IntegerConvolution(products, x, w, shape, column_bytes).run();
}

}  // namespace qt
