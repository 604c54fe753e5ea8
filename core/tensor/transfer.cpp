// core/tensor/transfer.cpp -- copies of tensors between the host's memory and a GPU's.
#include "core/tensor/transfer.h"

#include <cstring>

#include "core/device/gpu.h"

namespace qt {

Tensor to_gpu(const Tensor& x, Stream stream) {
  const UseStream use(stream);
  Tensor t = Tensor::empty(x.shape(), x.dtype());
  copy_to_gpu(t.raw(), x.raw(), x.bytes(), stream);
  return x.has_scale() ? t.with_scale(to_gpu(x.step(), stream), x.lo(), x.hi()) : t;
}

Tensor to_host(const Tensor& x, Stream stream) {
  const UseStream use({});
  Tensor t = Tensor::empty(x.shape(), x.dtype());
  copy_to_host(t.raw(), x.raw(), x.bytes(), stream);
  return x.has_scale() ? t.with_scale(to_host(x.step(), stream), x.lo(), x.hi()) : t;
}

Tensor here(const Tensor& x) {
  return current_stream().on_gpu && x.defined() ? to_gpu(x, current_stream()) : x;
}

Tensor on_host(const Tensor& x) {
  return current_stream().on_gpu && x.defined() ? to_host(x, current_stream()) : x;
}

void overwrite(const Tensor& to, const float* values) {
  QT_CHECK(to.dtype() == DType::f32, "overwrite is for f32, got " + to.shape().text());
  if (current_stream().on_gpu) return copy_to_gpu(to.raw(), values, to.bytes(), current_stream());
  memcpy(to.raw(), values, to.bytes());
}

}  // namespace qt
