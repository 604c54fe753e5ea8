// deploy/program.cpp -- names, register lifetimes and sizes of an integer program.
#include "deploy/program.h"

#include "core/tensor/transfer.h"

namespace qt {

const char* name_of(const Operation& operation) {
  return std::visit([](const auto& op) { return op.name; }, operation);
}

Program with_tensors(const Program& program, const std::function<Tensor(const Tensor&)>& placed) {
  Program result = program;
  for (Instruction& at : result.instructions)
    std::visit([&](auto& op) { for_each_tensor(op, [&](Tensor& t) { t = placed(t); }); },
               at.operation);
  return result;
}

Program program_here(const Program& program) { return with_tensors(program, here); }

std::vector<int> last_uses(const Program& program) {
  std::vector<int> last(program.instructions.size());
  for (size_t i = 0; i < last.size(); ++i) {
    last[i] = int(i);
    for (const int input : program.instructions[i].inputs) last.at(size_t(input)) = int(i);
  }
  return last;
}

int64_t multiplications(const Instruction& instruction) {
  const int64_t outputs = instruction.output.elements();
  if (const auto* conv = std::get_if<Conv>(&instruction.operation))
    return outputs * conv->shape.r * conv->shape.s * (conv->shape.c / conv->shape.groups);
  if (const auto* classifier = std::get_if<Classifier>(&instruction.operation))
    return outputs * classifier->codes.dim(1);
  return 0;
}

void check_images(const Program& program, const Tensor& images) {
  const Preprocessing& wanted = program.preprocessing;
  QT_CHECK(images.defined() && images.dtype() == DType::u8 && images.shape().rank() == 4 &&
               images.dim(0) > 0 && images.dim(1) == wanted.height &&
               images.dim(2) == wanted.width && images.dim(3) == 3,
           "the program takes u8 images [n, " + std::to_string(wanted.height) + ", " +
               std::to_string(wanted.width) + ", 3], got " + images.shape().text() + " of " +
               name_of(images.dtype()));
}

}  // namespace qt
