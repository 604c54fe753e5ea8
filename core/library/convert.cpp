// core/library/convert.cpp -- codes as f32 or bf16 numbers.
#include "core/library/convert.h"

#include "core/kernel/launch.h"
#include "core/library/library.h"

namespace qt {
namespace {

struct Number {
  template <class T>
  QT_HD float operator()(T value) const {
    return float(value);
  }
};

template <class To, class From>
Tensor numbers(const Tensor& x) {
  Tensor y = Tensor::empty(x.shape(), DTypeOf<To>::value);
  map(current_stream(), x.rows(), x.channels(), Number{}, in(x.data<From>()), out(y.data<To>()));
  return y;
}

[[noreturn]] void refuse(const char* operation, const Tensor& x) {
  throw InternalError(std::string(operation) + " takes f32, bf16, i8 or u8, got " +
                      name_of(x.dtype()) + " " + x.shape().text());
}

}  // namespace

Tensor to_float(const Tensor& x) {
  switch (x.dtype()) {
    case DType::f32: return x.without_scale();
    case DType::i8: return numbers<float, int8_t>(x);
    case DType::u8: return numbers<float, uint8_t>(x);
    case DType::bf16: return numbers<float, BFloat16>(x);
    default: refuse("to_float", x);
  }
}

Tensor to_bf16(const Tensor& x) {
  switch (x.dtype()) {
    case DType::f32: return numbers<BFloat16, float>(x);
    case DType::i8: return numbers<BFloat16, int8_t>(x);
    case DType::u8: return numbers<BFloat16, uint8_t>(x);
    case DType::bf16: return x.without_scale();
    default: refuse("to_bf16", x);
  }
}

}  // namespace qt
