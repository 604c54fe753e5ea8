// core/autograd/gradcheck.cpp -- central differences, one element at a time and all at once.
#include "core/autograd/gradcheck.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/device/memory.h"
#include "core/library/library.h"

namespace qt {
namespace {

// One move of an input: element `index`, or along all of `direction` (-1 or 1 each) where index is
// negative.
struct Move {
  size_t input = 0;
  int64_t index = -1;
};

float direction_of(int64_t i) {
  return (uint64_t(i) * 0x9e3779b97f4a7c15u >> 60) & 1 ? 1.0f : -1.0f;
}

Tensor moved(const Tensor& x, int64_t index, float by) {
  Tensor y = x.clone();
  const int64_t first = index < 0 ? 0 : index, end = index < 0 ? x.elements() : index + 1;
  for (int64_t i = first; i < end; ++i) {
    const float change = index < 0 ? by * direction_of(i) : by;
    if (x.dtype() == DType::i8)
      y.data<int8_t>()[i] = int8_t(y.data<int8_t>()[i] + int(change));
    else
      y.data<float>()[i] += change;
  }
  return y;
}

Tensor evaluate(const Function& f, const std::vector<Tensor>& inputs) {
  const Tape::Pause pause;
  std::vector<Var> vars;
  for (const Tensor& t : inputs) vars.emplace_back(t);
  return to_float(f(vars).value());
}

// The change of sum(dy * y) per unit of the move. Outputs that do not change cancel exactly.
double difference(const Function& f, std::vector<Tensor> inputs, const Tensor& dy, Move move,
                  double step) {
  const Tensor x = inputs[move.input];
  if (x.dtype() == DType::i8) step = 1;
  inputs[move.input] = moved(x, move.index, float(step));
  const Tensor above = evaluate(f, inputs);
  inputs[move.input] = moved(x, move.index, -float(step));
  const Tensor below = evaluate(f, inputs);
  double sum = 0;
  for (int64_t i = 0; i < dy.elements(); ++i)
    sum += double(dy.data<float>()[i]) *
           (double(above.data<float>()[i]) - double(below.data<float>()[i]));
  return sum / (2 * step);
}

double along(const Tensor& gradient, int64_t index) {
  if (index >= 0) return gradient.data<float>()[index];
  double sum = 0;
  for (int64_t i = 0; i < gradient.elements(); ++i)
    sum += double(gradient.data<float>()[i]) * direction_of(i);
  return sum;
}

std::string input_error(const Function& f, const std::vector<Tensor>& inputs, const Tensor& dy,
                        size_t input, const Tensor& gradient, const GradientCheck& check) {
  const std::string name = "input " + std::to_string(input);
  if (!gradient.defined()) return name + " got no gradient";
  if (!(gradient.shape() == inputs[input].shape()))
    return name + " " + inputs[input].shape().text() + " got a gradient " + gradient.shape().text();
  double largest = 0, norm = 0;
  for (int64_t i = 0; i < gradient.elements(); ++i) {
    const double g = gradient.data<float>()[i];
    if (!std::isfinite(g))
      return name + ": the gradient of element " + std::to_string(i) + " is not finite";
    largest = std::max(largest, std::abs(g));
    norm += g * g;
  }
  const int64_t every = std::max<int64_t>(1, gradient.elements() / check.at_most);
  for (int64_t i = -1; i < gradient.elements(); i += i < 0 ? 1 : every) {
    const double wanted = difference(f, inputs, dy, {input, i}, check.step),
                 got = along(gradient, i);
    const double allowed = check.tolerance * (i < 0 ? std::sqrt(norm) : largest) + 1e-6;
    if (!(std::abs(got - wanted) <= allowed))
      return name + (i < 0 ? ", all elements together" : ", element " + std::to_string(i)) +
             ": gradient " + std::to_string(got) + ", difference " + std::to_string(wanted) +
             ", allowed " + std::to_string(allowed);
  }
  return "";
}

}  // namespace

Tensor weights_for(const Shape& shape, uint64_t seed) {
  Tensor t = Tensor::empty(shape, DType::f32);
  for (int64_t i = 0; i < t.elements(); ++i) {
    uint64_t z =
        (uint64_t(i) + 1) * 0x9e3779b97f4a7c15u + seed * 0xd1342543de82ef95u;  // splitmix64
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    t.data<float>()[i] = float(int64_t(z >> 40)) / float(1 << 23) - 1.0f;
  }
  return t;
}

std::vector<Tensor> gradients(const Function& f, const std::vector<Tensor>& inputs,
                              const Tensor& dy) {
  std::vector<Var> vars;
  for (const Tensor& t : inputs) vars.emplace_back(t, true);
  const Var y = f(vars);
  Tape::current().backward(y, dy);
  std::vector<Tensor> result;
  for (const Var& v : vars) result.push_back(v.grad());
  return result;
}

std::string gradient_error(const Function& f, const std::vector<Tensor>& inputs,
                           const GradientCheck& check) {
  poison_free_memory();
  const Tensor dy = weights_for(evaluate(f, inputs).shape(), 7);
  const std::vector<Tensor> found = gradients(f, inputs, dy);
  for (size_t i = 0; i < inputs.size(); ++i) {
    const std::string error = input_error(f, inputs, dy, i, found[i], check);
    if (!error.empty()) return error;
  }
  return "";
}

void poison_free_memory() {
  std::vector<std::shared_ptr<void>> blocks;
  for (size_t bytes = 64; bytes <= size_t{64} << 10;
       bytes += std::max<size_t>(64, std::bit_floor(bytes) / 8))
    for (int i = 0; i < 6; ++i) {
      blocks.push_back(allocate(bytes));
      memset(blocks.back().get(), 0xff, bytes);
    }
}

}  // namespace qt
