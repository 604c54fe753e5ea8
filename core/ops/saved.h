// core/ops/saved.h -- what the operations' backward closures keep of their inputs.
#pragma once
#include "core/autograd/tape.h"

namespace qt {

// The Var without its value: where a gradient goes. A closure that needs no value then keeps no
// memory alive.
inline Var slot_of(Var x) {
  x.set_value(Tensor());
  return x;
}

}  // namespace qt
