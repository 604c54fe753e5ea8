// deploy/report.cpp -- the table of `qattrain inspect`.
#include "deploy/report.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/base/text.h"

namespace qt {
namespace {

const Tensor* weights_of(const Operation& operation) {
  if (const auto* conv = std::get_if<Conv>(&operation)) return &conv->codes;
  if (const auto* classifier = std::get_if<Classifier>(&operation)) return &classifier->codes;
  return nullptr;
}

std::string does(const Instruction& at) {
  std::string text = name_of(at.operation);
  if (const auto* conv = std::get_if<Conv>(&at.operation)) {
    const Conv2dShape& s = conv->shape;
    text += fmt::format(" {}x{}", s.r, s.s);
    if (s.stride != 1) text += fmt::format(" /{}", s.stride);
    if (s.padding != 0) text += fmt::format(" pad {}", s.padding);
    if (s.dilation != 1) text += fmt::format(" dilation {}", s.dilation);
    if (s.groups != 1) text += fmt::format(" groups {}", s.groups);
  }
  if (const auto* pool = std::get_if<MaxPoolCodes>(&at.operation))
    text +=
        fmt::format(" {}x{} /{} pad {}", pool->kernel, pool->kernel, pool->stride, pool->padding);
  return text;
}

std::string extents(const Shape& shape) {
  return fmt::format("{}x{}x{}", shape[0], shape[1], shape[2]);
}

int64_t packed_bytes(const Tensor& weights) {
  return (weights.elements() * bits_of(weights.lo(), weights.hi()) + 7) / 8;
}

std::string reads(const Program& program, size_t i) {
  std::string text;
  for (const int input : program.instructions[i].inputs) {
    if (program.instructions[i].inputs.size() == 1 && input == int(i) - 1)
      continue;  // the line above
    text += (text.empty() ? "" : " + ") + one_line(program.instructions[size_t(input)].name);
  }
  return text;
}

// Codes of one image that are held at once, when each register is freed after its last reader.
int64_t most_held(const Program& program) {
  const std::vector<int> last = last_uses(program);
  int64_t held = 0, most = 0;
  for (size_t i = 0; i < last.size(); ++i) {
    const Instruction& at = program.instructions[i];
    if (!std::holds_alternative<Classifier>(at.operation)) held += at.output.elements();
    most = std::max(most, held);
    for (const int read : at.inputs)
      if (last[size_t(read)] == int(i))
        held -= program.instructions[size_t(read)].output.elements();
  }
  return most;
}

}  // namespace

int bits_of(int lo, int hi) {
  int bits = 1;
  if (lo >= 0) {
    while (hi >= 1 << bits) ++bits;
    return bits;
  }
  while (lo < -(1 << (bits - 1)) || hi >= 1 << (bits - 1)) ++bits;
  return bits;
}

std::string inspect(const Program& program) {
  size_t widest = 5;
  for (const Instruction& at : program.instructions) widest = std::max(widest, at.name.size());
  std::string text =
      fmt::format("{:<{}}  {:<22} {:>12}  {:>9}  {:>9}  {:>11} {:>12} {:>12}  {}\n", "layer",
                  widest, "does", "output", "weights", "codes", "step", "MACs", "bytes", "reads");
  int64_t total_macs = 0, total_bytes = 0;
  for (size_t i = 0; i < program.instructions.size(); ++i) {
    const Instruction& at = program.instructions[i];
    const Tensor* weights = weights_of(at.operation);
    const bool codes = !std::holds_alternative<Classifier>(at.operation);
    const int64_t macs = multiplications(at), bytes = weights ? packed_bytes(*weights) : 0;
    total_macs += macs;
    total_bytes += bytes;
    std::string line =
        fmt::format("{:<{}}  {:<22} {:>12}  {:>9}  {:>9}  {:>11} {:>12} {:>12}  {}",
                    one_line(at.name), widest, does(at), extents(at.output),
                    weights ? fmt::format("{}..{}", weights->lo(), weights->hi()) : "",
                    codes ? fmt::format("{}..{}", at.lo, at.hi) : "logits",
                    codes ? fmt::format("{:.5g}", at.step) : "", macs ? std::to_string(macs) : "",
                    bytes ? std::to_string(bytes) : "", reads(program, i));
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  const Preprocessing& p = program.preprocessing;
  text += fmt::format("total: {} multiply-accumulates an image, {} bytes of packed weights\n",
                      total_macs, total_bytes);
  text += fmt::format("largest sum of registers that are held at once: {} codes an image\n",
                      most_held(program));
  text += fmt::format(
      "input: {} x {} RGB bytes{}, mean {:g} {:g} {:g}, std {:g} {:g} {:g}\n", p.height, p.width,
      p.resize
          ? fmt::format(" after a resize of the shorter side to {} and a centre crop", p.resize)
          : std::string(),
      p.mean[0], p.mean[1], p.mean[2], p.std[0], p.std[1], p.std[2]);
  text += fmt::format("classes: {}{}\n", program.classes(),
                      program.class_names.empty()
                          ? std::string()
                          : one_line(fmt::format(" ({})", fmt::join(program.class_names, ", "))));
  for (const auto& [key, value] : program.notes)
    text += one_line(fmt::format("{}: {}", key, value)) + "\n";
  return text;
}

}  // namespace qt
