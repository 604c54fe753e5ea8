// core/library/cuda/trial.cpp -- codes to try engines on, and the comparison of results.
#include "core/library/cuda/trial.h"

#include "core/device/memory.h"
#include "core/kernel/elements.h"
#include "core/kernel/launch.h"
#include "core/tensor/transfer.h"

namespace qt {
namespace {

struct TrialCode {
  uint32_t seed;
  bool upper_end;
  QT_HD int8_t operator()(int64_t i) const {
    uint32_t u = (uint32_t(i) + seed) * 2654435769u;
    u ^= u >> 15;
    u *= 2246822519u;
    u ^= u >> 13;
    if (upper_end) return u % 8 == 0 ? int8_t(126) : int8_t(127);
    if (u % 8 == 0) return int8_t(int(u >> 8) % 255 - 127);
    return u & 64u ? int8_t(127) : int8_t(-127);
  }
};

struct Differs {
  QT_HD float operator()(float a, float b) const { return a == b ? 0.0f : 1.0f; }
};

struct One {
  QT_HD float operator()() const { return 1; }
};

struct IsNotOne {
  QT_HD float operator()(float v) const { return v == 1 ? 0.0f : 1.0f; }
};

// Of f32; waits for the stream.
bool is_zero(const Tensor& t) {
  const Tensor host = to_host(t, current_stream());
  for (int64_t i = 0; i < host.elements(); ++i)
    if (host.data<float>()[i] != 0) return false;
  return true;
}

}  // namespace

Tensor codes_for_trial(const Shape& shape, TrialCodes codes, uint32_t seed) {
  Tensor made = Tensor::empty(shape, DType::i8);
  generate(current_stream(), made.elements(), TrialCode{seed, codes == TrialCodes::upper_end},
           made.data<int8_t>());
  return made;
}

Tensor unwritten_floats(const Shape& shape) {
  Tensor t = Tensor::empty(shape, DType::f32);
  set_bytes(t.raw(), 0xff, t.bytes());
  return t;
}

Tensor ones_for_trial(const Shape& shape, DType type) {
  Tensor t = Tensor::empty(shape, type);
  with_elements(t,
                [&](auto* to) { map(current_stream(), t.rows(), t.channels(), One{}, out(to)); });
  return t;
}

bool are_ones(const Tensor& t) {
  Tensor differing = Tensor::empty({t.rows()}, DType::f32);
  with_elements(t, [&](const auto* from) {
    max_rows(current_stream(), t.rows(), t.channels(), IsNotOne{}, differing.data<float>(),
             in(from));
  });
  return is_zero(differing);
}

bool are_equal(const Tensor& a, const Tensor& b) {
  Tensor differing = Tensor::empty({a.rows()}, DType::f32);
  max_rows(current_stream(), a.rows(), a.channels(), Differs{}, differing.data<float>(),
           in(a.data<float>()), in(b.data<float>()));
  return is_zero(differing);
}

}  // namespace qt
