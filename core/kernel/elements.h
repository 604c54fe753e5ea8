// core/kernel/elements.h -- tensors of real numbers that are f32 or bf16, as gradients are.
#pragma once
#include <string>

#include "core/base/error.h"
#include "core/tensor/tensor.h"

namespace qt {

// Calls use(pointer to the elements), float or BFloat16, const where the tensor is. InternalError
// for other types.
template <class AnyTensor, class Use>
void with_elements(AnyTensor& t, Use use) {
  QT_CHECK(t.dtype() == DType::f32 || t.dtype() == DType::bf16,
           std::string("f32 or bf16 is wanted here, got ") + name_of(t.dtype()) + " " +
               t.shape().text());
  if (t.dtype() == DType::bf16)
    use(t.template data<BFloat16>());
  else
    use(t.template data<float>());
}

}  // namespace qt
