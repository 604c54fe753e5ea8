// core/tensor/tensor.h -- dense, row-major tensors on pooled storage; images are NHWC, convolution
// weights KRSC.
#pragma once
#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/tensor/dtype.h"

namespace qt {

// Up to five extents; the last varies fastest.
class Shape {
 public:
  static constexpr int max_rank = 5;
  Shape() = default;
  Shape(std::initializer_list<int64_t> extents) : Shape(std::vector<int64_t>(extents)) {}
  explicit Shape(const std::vector<int64_t>& extents);

  int rank() const { return rank_; }
  int64_t operator[](int i) const { return extent_[size_t(i < 0 ? i + rank_ : i)]; }
  int64_t elements() const;
  bool operator==(const Shape& other) const = default;
  std::string text() const;  // "[64, 3, 3, 16]"
  std::vector<int64_t> vector() const { return {extent_.begin(), extent_.begin() + rank_}; }

 private:
  std::array<int64_t, max_rank> extent_{};
  int rank_ = 0;
};

class Tensor;

// What an integer tensor, or the raw sums of a convolution of two, stands for: value = number *
// scale. scale is f32, [1] (one for all) or [C] (per last-axis channel for activations and sums,
// per first-axis output channel for weights). lo..hi are the codes that occur (0, 0 for raw sums:
// not codes).
struct Scale {
  std::shared_ptr<const Tensor> step;
  int lo = 0, hi = 0;
};

// A handle: copies share storage; the last handle returns it to the pool. An undefined tensor has
// no storage. Operations never write to their inputs; only whoever created a tensor fills it
// through data(), or who has its only handle.
class Tensor {
 public:
  Tensor() = default;
  static Tensor empty(const Shape& shape, DType type);
  // In memory that the caller has: enough bytes, aligned for the type.
  static Tensor over(std::shared_ptr<void> memory, const Shape& shape, DType type);
  static Tensor zeros(const Shape& shape, DType type);
  template <class T>
  static Tensor of(const Shape& shape, const std::vector<T>& values);
  static Tensor full(const Shape& shape, float value);  // f32

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int64_t dim(int i) const { return shape_[i]; }
  DType dtype() const { return type_; }
  int64_t elements() const { return elements_; }
  size_t bytes() const { return size_t(elements_) * size_of(type_); }
  // Channels (last extent) and rows (all others), as the launchers see a tensor.
  int64_t channels() const { return shape_.rank() ? shape_[-1] : 1; }
  int64_t rows() const { return channels() ? elements_ / channels() : 0; }

  // InternalError where T is not the element type.
  template <class T>
  T* data() {
    check_type(DTypeOf<T>::value);
    return static_cast<T*>(raw());
  }
  template <class T>
  const T* data() const {
    check_type(DTypeOf<T>::value);
    return static_cast<const T*>(raw());
  }
  void* raw() const { return storage_.get(); }
  // Whether no other handle shares the storage.
  bool is_only_handle() const { return storage_.use_count() == 1; }
  template <class T>
  std::vector<T> to_vector() const {
    return {data<T>(), data<T>() + elements_};
  }

  // The same storage under another shape with as many elements; keeps a one-for-all scale only.
  Tensor reshaped(const Shape& shape) const;
  Tensor clone() const;  // new storage, same scale

  bool has_scale() const { return scale_.step != nullptr; }
  bool is_codes() const { return has_scale() && (type_ == DType::i8 || type_ == DType::u8); }
  const Tensor& step() const;  // InternalError where there is none
  int lo() const { return scale_.lo; }
  int hi() const { return scale_.hi; }
  Tensor with_scale(const Tensor& step, int lo = 0, int hi = 0) const;
  Tensor without_scale() const;

 private:
  void check_type(DType wanted) const;
  std::shared_ptr<void> storage_;
  Shape shape_;
  DType type_ = DType::f32;
  int64_t elements_ = 0;
  Scale scale_;
};

template <class T>
Tensor Tensor::of(const Shape& shape, const std::vector<T>& values) {
  Tensor t = empty(shape, DTypeOf<T>::value);
  QT_CHECK(t.elements() == int64_t(values.size()),
           "Tensor::of: " + std::to_string(values.size()) + " values for shape " + shape.text());
  if (!values.empty()) memcpy(t.raw(), values.data(), t.bytes());
  return t;
}

}  // namespace qt
