// core/ops/reshape.cpp -- the same numbers under another shape.
#include "core/ops/ops.h"
#include "core/ops/saved.h"

namespace qt {

Var reshape(const Var& x, const Shape& shape) {
  const Tensor y = x.value().reshaped(shape);
  QT_CHECK(y.has_scale() == x.value().has_scale(), "reshape of " + x.value().shape().text() +
                                                       " to " + shape.text() +
                                                       " would lose a scale per channel");
  return record(y, {x}, [x = slot_of(x), before = x.value().shape()](const Tensor& dy) {
    x.add_grad(dy.reshaped(before));
  });
}

}  // namespace qt
