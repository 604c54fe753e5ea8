// deploy/program.h -- the integer program: what evaluation and deployment run, as a small typed
// graph.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "core/library/library.h"
#include "core/tensor/tensor.h"

namespace qt {

// Every instruction fills one register: i8 codes [n, h, w, c] in lo..hi that stand for code * step.
// Constants are f32, computed once; every step of a formula is rounded to f32, no fused
// multiply-add; rint rounds ties to even.

// code = table[channel][pixel] for u8 pixels [n, h, w, 3].
struct ImageTable {
  static constexpr const char* name = "image_table";
  Tensor table;  // i8 [3, 256]
};

// q = clamp(rint(((float(acc) + b[k]) * m[k]) + float(q_r) * r)); acc: exact int32 sum, q_r: the
// second input's codes (where there is none the last addition is left out). Padding is code 0.
struct Conv {
  static constexpr const char* name = "conv";
  Conv2dShape shape;         // n is 0: any
  Tensor codes;              // i8 [k, r, s, c / groups] with step [1] or [k] and lo..hi
  Tensor m, b;               // f32 [k]; m < 0 where gamma < 0
  float residual_ratio = 0;  // r: at most 16 significant bits, so that q_r * r is exact
};

// q = clamp(rint(float(q_a) * m + float(q_b) * r)).
struct Add {
  static constexpr const char* name = "add";
  float m = 1, r = 1;
};

// The greatest code under each window; padding never wins.
struct MaxPoolCodes {
  static constexpr const char* name = "max_pool";
  int64_t kernel = 2, stride = 2, padding = 0;
};

// q = clamp(rint(float(sum) * multiplier)); sum: exact int32 sum over h and w.
struct AveragePoolCodes {
  static constexpr const char* name = "global_average_pool";
  float multiplier = 1;
};

// [h, w, c] -> [1, 1, h w c]: the same codes in the same order.
struct FlattenCodes {
  static constexpr const char* name = "flatten";
};

// logits[k] = float(acc) * m[k] + bias[k], f32; always last.
struct Classifier {
  static constexpr const char* name = "classifier";
  Tensor codes;    // i8 [classes, c] with step [1] or [classes] and lo..hi
  Tensor m, bias;  // f32 [classes]
};

using Operation =
    std::variant<ImageTable, Conv, Add, MaxPoolCodes, AveragePoolCodes, FlattenCodes, Classifier>;
// Its `name`, which model files have.
const char* name_of(const Operation& operation);

// Calls f with each tensor of an operation.
template <class F>
void for_each_tensor(ImageTable& op, const F& f) {
  f(op.table);
}
template <class F>
void for_each_tensor(Conv& op, const F& f) {
  f(op.codes), f(op.m), f(op.b);
}
template <class F>
void for_each_tensor(Classifier& op, const F& f) {
  f(op.codes), f(op.m), f(op.bias);
}
template <class F>
void for_each_tensor(Add&, const F&) {}
template <class F>
void for_each_tensor(MaxPoolCodes&, const F&) {}
template <class F>
void for_each_tensor(AveragePoolCodes&, const F&) {}
template <class F>
void for_each_tensor(FlattenCodes&, const F&) {}

struct Instruction {
  std::string name;         // the layer's: "layer1.0.conv1"; no two are equal
  std::vector<int> inputs;  // numbers of earlier instructions; none for the image table
  Operation operation;
  Shape output;        // [h, w, c] for one image; [1, 1, classes] for logits
  int lo = 0, hi = 0;  // the codes that may occur; 0, 0 for logits
  float step = 0;      // code * step is the real value; 0 for logits
};

// How a picture becomes the program's input.
struct Preprocessing {
  int64_t height = 0, width = 0;  // of the input, after resize and centre crop
  int64_t resize =
      0;  // the shorter side becomes this before the crop; 0: pictures come in the right size
  std::array<double, 3> mean{}, std{};  // what the image table was made from, of pixels / 255
};

struct Program {
  std::vector<Instruction> instructions;
  Preprocessing preprocessing;
  std::vector<std::string> class_names;
  std::map<std::string, std::string>
      notes;  // "top1": "92.45", "config": ...: for people and reports

  int64_t classes() const { return instructions.empty() ? 0 : instructions.back().output[-1]; }
};

// The program with each tensor in place of which `placed` gives one.
Program with_tensors(const Program& program, const std::function<Tensor(const Tensor&)>& placed);
// The program with all tensors where current_stream() works, from the host's memory.
Program program_here(const Program& program);

// For each instruction the number of the last one that reads it (its own where none does): when its
// register is free.
std::vector<int> last_uses(const Program& program);

// Multiply-accumulates for one image.
int64_t multiplications(const Instruction& instruction);

// InternalError unless images are u8 [n, height, width, 3] with n > 0.
void check_images(const Program& program, const Tensor& images);

}  // namespace qt
