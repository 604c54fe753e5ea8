// core/tensor/tensor.cpp -- shapes, storage and scales of tensors.
#include "core/tensor/tensor.h"

#include <algorithm>

#include "core/device/memory.h"

namespace qt {

void fill(float* to, int64_t n, float value);  // core/kernel/fill.cpp

Shape::Shape(const std::vector<int64_t>& extents) : rank_(int(extents.size())) {
  QT_CHECK(rank_ <= max_rank, "a shape has at most 5 extents, got " + std::to_string(rank_));
  for (int i = 0; i < rank_; ++i) {
    QT_CHECK(extents[size_t(i)] >= 0,
             "a shape has a negative extent: " + std::to_string(extents[size_t(i)]));
    extent_[size_t(i)] = extents[size_t(i)];
  }
}

int64_t Shape::elements() const {
  int64_t n = 1;
  for (int i = 0; i < rank_; ++i)
    QT_CHECK(!__builtin_mul_overflow(n, extent_[size_t(i)], &n),
             "shape " + text() + " is too large");
  return n;
}

std::string Shape::text() const {
  std::string s = "[";
  for (int i = 0; i < rank_; ++i) s += (i ? ", " : "") + std::to_string(extent_[size_t(i)]);
  return s + "]";
}

Tensor Tensor::empty(const Shape& shape, DType type) {
  size_t bytes = 0;
  QT_CHECK(!__builtin_mul_overflow(size_t(shape.elements()), size_of(type), &bytes),
           "tensor " + shape.text() + " is too large");
  return over(allocate(bytes), shape, type);
}

Tensor Tensor::over(std::shared_ptr<void> memory, const Shape& shape, DType type) {
  Tensor t;
  t.shape_ = shape;
  t.type_ = type;
  t.elements_ = shape.elements();
  t.storage_ = std::move(memory);
  return t;
}

Tensor Tensor::zeros(const Shape& shape, DType type) {
  Tensor t = empty(shape, type);
  set_bytes(t.raw(), 0, t.bytes());
  return t;
}

Tensor Tensor::full(const Shape& shape, float value) {
  Tensor t = empty(shape, DType::f32);
  fill(t.data<float>(), t.elements(), value);
  return t;
}

Tensor Tensor::reshaped(const Shape& shape) const {
  QT_CHECK(shape.elements() == elements_,
           "cannot reshape " + shape_.text() + " to " + shape.text());
  Tensor t = *this;
  t.shape_ = shape;
  if (has_scale() && step().elements() != 1 && shape[-1] != shape_[-1]) t.scale_ = {};
  return t;
}

Tensor Tensor::clone() const {
  Tensor t = empty(shape_, type_);
  copy_bytes(t.raw(), raw(), bytes());
  t.scale_ = scale_;
  return t;
}

const Tensor& Tensor::step() const {
  QT_CHECK(has_scale(), "tensor " + shape_.text() + " of " + name_of(type_) + " carries no scale");
  return *scale_.step;
}

Tensor Tensor::with_scale(const Tensor& step, int lo, int hi) const {
  Tensor t = *this;
  t.scale_ = {std::make_shared<const Tensor>(step.without_scale()), lo, hi};
  return t;
}

Tensor Tensor::without_scale() const {
  Tensor t = *this;
  t.scale_ = {};
  return t;
}

void Tensor::check_type(DType wanted) const {
  QT_CHECK(defined(), "data of an undefined tensor");
  QT_CHECK(type_ == wanted, std::string("tensor ") + shape_.text() + " holds " + name_of(type_) +
                                ", asked for " + name_of(wanted));
}

}  // namespace qt
