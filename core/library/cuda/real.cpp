// core/library/cuda/real.cpp -- convolutions of real numbers as matrix products: windows times
// weights, and the two gradients. Groups are a batch of products that lie side by side.
#include "core/library/cuda/real.h"

#include <algorithm>

#include "core/library/columns.h"
#include "core/library/convert.h"
#include "core/library/cuda/integer.h"
#include "core/library/cuda/products_of_tensors.h"

namespace qt {
namespace {

DType operand_type(ProductType type) {
  return type == ProductType::bf16 ? DType::bf16 : DType::f32;
}
Tensor operand(const Tensor& t, ProductType type) {
  return type == ProductType::bf16 ? to_bf16(t) : to_float(t);
}
// The address of element `offset`.
char* at(const Tensor& t, int64_t offset) {
  return static_cast<char*>(t.raw()) + offset * int64_t(size_of(t.dtype()));
}

class Products {
 public:
  Products(MatrixProducts& products, const RealConvolution& convolution)
      : products_(products),
        shape_(convolution.shape),
        type_(convolution.type),
        per_group_(shape_.k / shape_.groups) {
    const auto bytes = int64_t(size_of(operand_type(type_)));
    columns_.conv = shape_;
    columns_.width = rounded_up(columns_.products(), 16 / bytes);
    // Of gradients the windows are f32 whatever is multiplied.
    at_once_ = is_dense(shape_)
                   ? shape_.n
                   : images_at_once(shape_, columns_.width, 4, convolution.column_bytes);
  }

  Tensor forward(const Tensor& x, const Tensor& w) {
    const Tensor weights = operand(w, type_);
    Tensor y = Tensor::empty(shape_.y_shape(), DType::f32);
    each_part([&](int64_t first) {
      const Tensor windows = windows_of(x, first);
      MatrixProduct p = product(columns_.rows(), per_group_, columns_.products());
      p.transpose_b = true;
      a_is_windows(p);
      p.row_b = columns_.products(), p.batch_b = per_group_ * columns_.products();
      p.row_c = shape_.k, p.batch_c = per_group_;
      multiply(products_, p, windows.raw(), weights.raw(), at(y, first * y_image()));
    });
    return y;
  }

  Tensor backward_data(const Tensor& dy, const Tensor& w) {
    const Tensor gradient = operand(dy, type_), weights = operand(w, type_);
    Tensor dx = Tensor::empty(shape_.x_shape(), DType::f32);
    each_part([&](int64_t first) {
      MatrixProduct p = product(columns_.rows(), columns_.products(), per_group_);
      p.row_a = shape_.k, p.batch_a = per_group_;
      p.row_b = columns_.products(), p.batch_b = per_group_ * columns_.products();
      float* const to = dx.data<float>() + first * x_image();
      const char* const from = at(gradient, first * y_image());
      if (is_dense(shape_)) {
        p.row_c = shape_.c;
        multiply(products_, p, from, weights.raw(), to);
        return;
      }
      const Tensor windows = Tensor::empty({columns_.elements()}, DType::f32);
      p.row_c = columns_.width, p.batch_c = columns_.rows() * columns_.width;
      multiply(products_, p, from, weights.raw(), windows.raw());
      add_columns(columns_, windows.data<float>(), to);
    });
    return dx;
  }

  Tensor backward_weights(const Tensor& x, const Tensor& dy) {
    const Tensor gradient = operand(dy, type_);
    Tensor dw = Tensor::empty(shape_.w_shape(), DType::f32);
    each_part([&](int64_t first) {
      const Tensor windows = windows_of(x, first);
      MatrixProduct p = product(per_group_, columns_.products(), columns_.rows());
      p.transpose_a = true;
      p.row_a = shape_.k, p.batch_a = per_group_;
      p.row_b = row_of_windows(), p.batch_b = columns_.rows() * columns_.width;
      p.row_c = columns_.products(), p.batch_c = per_group_ * columns_.products();
      p.accumulate = first > 0;
      multiply(products_, p, at(gradient, first * y_image()), windows.raw(), dw.raw());
    });
    return dw;
  }

 private:
  int64_t x_image() const { return shape_.h * shape_.w * shape_.c; }
  int64_t y_image() const { return shape_.out_h() * shape_.out_w() * shape_.k; }
  int64_t row_of_windows() const { return is_dense(shape_) ? shape_.c : columns_.width; }

  MatrixProduct product(int64_t m, int64_t n, int64_t k) const {
    return {.type = type_, .m = m, .n = n, .k = k, .batch = shape_.groups};
  }
  void a_is_windows(MatrixProduct& p) const {
    p.row_a = row_of_windows();
    p.batch_a = columns_.rows() * columns_.width;
  }

  // Calls body(first image) for one part of the batch after another.
  template <class Body>
  void each_part(Body body) {
    for (int64_t first = 0; first < shape_.n; first += at_once_) {
      columns_.images = std::min(at_once_, shape_.n - first);
      body(first);
    }
  }

  // The windows of columns_.images images, or all images themselves where that is the same.
  Tensor windows_of(const Tensor& x, int64_t first) const {
    if (is_dense(shape_)) return operand(x, type_);
    Tensor windows = Tensor::empty({columns_.elements()}, operand_type(type_));
    const int64_t offset = first * x_image();
    switch (x.dtype()) {
      case DType::i8: write(x.data<int8_t>() + offset, windows); break;
      case DType::u8: write(x.data<uint8_t>() + offset, windows); break;
      default: write(x.data<float>() + offset, windows);
    }
    return windows;
  }
  template <class From>
  void write(const From* from, Tensor& windows) const {
    if (type_ == ProductType::bf16)
      write_columns(columns_, from, windows.data<BFloat16>());
    else
      write_columns(columns_, from, windows.data<float>());
  }
  MatrixProducts& products_;
  Conv2dShape shape_;
  ProductType type_;
  int64_t per_group_, at_once_ = 1;
  ColumnShape columns_;
};

}  // namespace

Tensor conv2d_as_products(MatrixProducts& products, const RealConvolution& convolution,
                          const Tensor& x, const Tensor& w) {
  return Products(products, convolution).forward(x, w);
}
Tensor backward_data_as_products(MatrixProducts& products, const RealConvolution& convolution,
                                 const Tensor& dy, const Tensor& w) {
  return Products(products, convolution).backward_data(dy, w);
}
Tensor backward_weights_as_products(MatrixProducts& products, const RealConvolution& convolution,
                                    const Tensor& x, const Tensor& dy) {
  return Products(products, convolution).backward_weights(x, dy);
}

}  // namespace qt
