// deploy/validate.cpp -- checks of an integer program, one instruction after the other.
#include "deploy/validate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <set>

#include "core/base/text.h"

namespace qt {
namespace {

constexpr int64_t largest_extent = int64_t(1) << 24;
constexpr int64_t largest_register = int64_t(1) << 31;  // codes of one image
constexpr double int32_bound = 2147483648.0;

class Checker {
 public:
  Checker(const Program& program, const std::string& what) : program_(program), what_(what) {}

  void check() {
    check_header();
    for (number_ = 0; number_ < program_.instructions.size(); ++number_) {
      at_ = &program_.instructions[number_];
      require(!at_->name.empty() && names_.insert(at_->name).second,
              "has an empty name or one that is taken");
      require(number_ + 1 < program_.instructions.size() ||
                  std::holds_alternative<Classifier>(at_->operation),
              "is the last instruction; the last must be a classifier");
      check_output_extents();
      std::visit([&](const auto& operation) { check(operation); }, at_->operation);
    }
    const int64_t classes = program_.classes();
    if (!program_.class_names.empty() && int64_t(program_.class_names.size()) != classes)
      refuse("has " + std::to_string(classes) + " classes and " +
             std::to_string(program_.class_names.size()) + " class names");
  }

 private:
  [[noreturn]] void refuse(const std::string& cause) const {
    throw CheckpointError(what_ + ": the integer program " + cause);
  }
  [[noreturn]] void refuse_instruction(const std::string& cause) const {
    throw CheckpointError(what_ + ": instruction " + std::to_string(number_) + " " +
                          in_quotes(at_->name) + " (" + name_of(at_->operation) + ") " + cause);
  }
  void require(bool condition, const std::string& cause) const {
    if (!condition) refuse_instruction(cause);
  }

  void check_header() const {
    const Preprocessing& p = program_.preprocessing;
    if (program_.instructions.size() < 2) refuse("needs an image table and a classifier");
    if (p.height < 1 || p.width < 1 || p.height > largest_extent || p.width > largest_extent ||
        p.resize < 0 || p.resize > largest_extent)
      refuse("takes images of " + std::to_string(p.height) + " x " + std::to_string(p.width) +
             " after a resize to " + std::to_string(p.resize) +
             "; extents from 1 to 2^24 are allowed");
    if (p.resize != 0 && p.resize < std::min(p.height, p.width))
      refuse("crops " + std::to_string(p.height) + " x " + std::to_string(p.width) +
             " from pictures whose shorter side is " + std::to_string(p.resize));
    for (size_t c = 0; c < 3; ++c)
      if (!std::isfinite(p.mean[c]) || !std::isfinite(p.std[c]) || p.std[c] <= 0)
        refuse("has a mean that is not finite or a standard deviation that is not positive");
  }

  void check_output_extents() const {
    require(at_->output.rank() == 3,
            "has the output shape " + at_->output.text() + "; wanted [h, w, c]");
    int64_t elements = 1;
    for (int i = 0; i < 3; ++i) {
      require(
          at_->output[i] >= 1 && at_->output[i] <= largest_extent,
          "has the output shape " + at_->output.text() + "; extents from 1 to 2^24 are allowed");
      elements = elements > largest_register ? elements : elements * at_->output[i];
    }
    require(elements <= largest_register,
            "has the output shape " + at_->output.text() + ", more than 2^31 codes");
  }

  const Instruction& input(size_t i) const { return program_.instructions[size_t(at_->inputs[i])]; }

  void check_inputs(size_t least, size_t most) const {
    require(at_->inputs.size() >= least && at_->inputs.size() <= most,
            "has " + std::to_string(at_->inputs.size()) + " inputs; " + std::to_string(least) +
                (least == most ? "" : " or " + std::to_string(most)) + " are allowed");
    for (const int i : at_->inputs) {
      require(i >= 0 && size_t(i) < number_,
              "reads register " + std::to_string(i) + "; only earlier ones, 0 to " +
                  std::to_string(int64_t(number_) - 1) + ", may be read");
      require(!std::holds_alternative<Classifier>(program_.instructions[size_t(i)].operation),
              "reads the logits of " + in_quotes(program_.instructions[size_t(i)].name) +
                  ", which are not codes");
    }
  }

  void check_range() const {
    require(at_->lo < at_->hi && at_->lo >= -128 && at_->hi <= 127 && at_->lo <= 0 && at_->hi >= 0,
            "has the code range " + std::to_string(at_->lo) + ".." + std::to_string(at_->hi) +
                "; it must hold 0 and another code and lie in -128..127");
    require(std::isnormal(at_->step) && at_->step > 0,
            fmt::format("has the step {:g}; it must be positive, finite and normal", at_->step));
  }
  void check_same_codes() const {
    require(at_->lo == input(0).lo && at_->hi == input(0).hi && at_->step == input(0).step,
            "changes no codes, but its range or step differs from its input's");
  }
  void check_shape(const Shape& wanted) const {
    require(at_->output == wanted,
            "has the output shape " + at_->output.text() + "; its input gives " + wanted.text());
  }

  void check_tensor(const char* name, const Tensor& t, const Shape& shape, DType type) const {
    require(t.defined() && t.shape() == shape && t.dtype() == type,
            std::string("has ") + name + " of shape " + t.shape().text() + " and type " +
                name_of(t.dtype()) + "; wanted " + shape.text() + " of " + name_of(type));
  }

  void check_codes(const char* name, const Tensor& t, int lo, int hi) const {
    require(lo < hi && lo >= -128 && hi <= 127, std::string("has the range ") + std::to_string(lo) +
                                                    ".." + std::to_string(hi) + " of " + name +
                                                    "; allowed is -128..127");
    const int8_t* codes = t.data<int8_t>();
    const int8_t* bad = std::find_if(codes, codes + t.elements(),
                                     [=](int8_t code) { return code < lo || code > hi; });
    if (bad != codes + t.elements())
      require(false, std::string(name) + "[" + std::to_string(bad - codes) + "] is " +
                         std::to_string(*bad) + ", outside " + std::to_string(lo) + ".." +
                         std::to_string(hi));
  }

  void check_weights(const Tensor& codes, const Shape& shape) const {
    check_tensor("codes", codes, shape, DType::i8);
    require(codes.has_scale(), "has weight codes without a step");
    const Tensor& step = codes.step();
    require(step.dtype() == DType::f32 && step.shape().rank() == 1 &&
                (step.dim(0) == 1 || step.dim(0) == shape[0]),
            "has a weight step of shape " + step.shape().text() + "; wanted [1] or [" +
                std::to_string(shape[0]) + "]");
    for (int64_t i = 0; i < step.elements(); ++i)
      require(std::isnormal(step.data<float>()[i]) && step.data<float>()[i] > 0,
              "has weight_step[" + std::to_string(i) + "] that is not positive, finite and normal");
    check_codes("codes", codes, codes.lo(), codes.hi());
    const int64_t products = shape.elements() / shape[0];
    const double most =
        double(products) * std::max(-input(0).lo, input(0).hi) * std::max(-codes.lo(), codes.hi());
    require(most < int32_bound,
            "may sum codes to " + std::to_string(int64_t(most)) + ", beyond int32");
  }

  // (largest |t|) * |m| + skip stays below the largest float, so that no infinity and no NaN can
  // come up.
  void check_constants(const char* m_name, const Tensor& m, const char* b_name, const Tensor& b,
                       bool b_before_m, double skip) const {
    for (int64_t i = 0; i < m.elements(); ++i) {
      const float mi = m.data<float>()[i], bi = b.data<float>()[i];
      const std::string index = "[" + std::to_string(i) + "]";
      require(std::isfinite(mi), m_name + index + " is not finite");
      require(std::isfinite(bi), b_name + index + " is not finite");
      const double magnitude =
          b_before_m ? (int32_bound + std::abs(double(bi))) * std::abs(double(mi)) + skip
                     : int32_bound * std::abs(double(mi)) + std::abs(double(bi));
      require(magnitude < double(FLT_MAX) / 2, m_name + index + " and " + b_name + index +
                                                   " are so large that results may overflow f32");
    }
  }
  void check_multiplier(const char* name, float value) const {
    require(std::isfinite(value) && value > 0 && double(value) * int32_bound < double(FLT_MAX) / 2,
            fmt::format("{} is {:g}; it must be positive, finite and not huge", name, value));
  }
  void check_ratio(float r) const {
    check_multiplier("residual_ratio", r);
    require(has_16_significant_bits(r), "has a residual_ratio of more than 16 significant bits");
  }

  void check(const ImageTable& op) const {
    require(number_ == 0, "is not the first instruction");
    check_inputs(0, 0);
    check_range();
    check_shape({program_.preprocessing.height, program_.preprocessing.width, 3});
    check_tensor("table", op.table, {3, 256}, DType::i8);
    check_codes("table", op.table, at_->lo, at_->hi);
  }

  void check(const Conv& op) const {
    check_inputs(1, 2);
    check_range();
    const Conv2dShape& s = op.shape;
    const Shape& x = input(0).output;
    for (const int64_t extent : {s.k, s.r, s.s, s.stride, s.dilation, s.groups})
      require(extent >= 1 && extent <= largest_extent,
              "has an extent, stride, dilation or group count of " + std::to_string(extent) +
                  "; 1 to 2^24 are allowed");
    require(s.padding >= 0 && s.padding <= largest_extent,
            "has the padding " + std::to_string(s.padding));
    require(x == Shape({s.h, s.w, s.c}),
            "reads " + x.text() + ", but convolves " + Shape({s.h, s.w, s.c}).text());
    require(s.c % s.groups == 0 && s.k % s.groups == 0,
            "has " + std::to_string(s.groups) + " groups, which do not divide its channels");
    require(s.h + 2 * s.padding >= s.dilation * (s.r - 1) + 1 &&
                s.w + 2 * s.padding >= s.dilation * (s.s - 1) + 1,
            "has a kernel larger than its padded input");
    check_shape({s.out_h(), s.out_w(), s.k});
    check_weights(op.codes, s.w_shape());
    check_tensor("m", op.m, {s.k}, DType::f32);
    check_tensor("b", op.b, {s.k}, DType::f32);
    const bool residual = at_->inputs.size() > 1;
    if (residual) {
      check_ratio(op.residual_ratio);
      require(input(1).output == at_->output, "adds " + in_quotes(input(1).name) + " of shape " +
                                                  input(1).output.text() + " to " +
                                                  at_->output.text());
    }
    check_constants("m", op.m, "b", op.b, true, residual ? 128.0 * op.residual_ratio : 0);
  }

  void check(const Add& op) const {
    check_inputs(2, 2);
    check_range();
    check_multiplier("m", op.m);
    check_ratio(op.r);
    check_shape(input(0).output);
    require(input(1).output == at_->output,
            "adds shapes " + input(0).output.text() + " and " + input(1).output.text());
  }

  void check(const MaxPoolCodes& op) const {
    check_inputs(1, 1);
    check_range();
    check_same_codes();
    require(op.kernel >= 1 && op.kernel <= largest_extent && op.stride >= 1 &&
                op.stride <= largest_extent && op.padding >= 0 && op.padding < op.kernel,
            "has kernel " + std::to_string(op.kernel) + ", stride " + std::to_string(op.stride) +
                ", padding " + std::to_string(op.padding) +
                "; wanted kernel and stride of at least 1 and padding below the kernel");
    const Shape& x = input(0).output;
    require(x[0] + 2 * op.padding >= op.kernel && x[1] + 2 * op.padding >= op.kernel,
            "has a window larger than its padded input");
    const Shape y{window_positions(x[0], op.padding, op.kernel, op.stride),
                  window_positions(x[1], op.padding, op.kernel, op.stride), x[2]};
    check_shape(y);
    // A window that begins behind the picture would have no maximum.
    require(
        (y[0] - 1) * op.stride - op.padding < x[0] && (y[1] - 1) * op.stride - op.padding < x[1],
        "has a window that lies outside its input");
  }

  void check(const AveragePoolCodes& op) const {
    check_inputs(1, 1);
    check_range();
    check_multiplier("multiplier", op.multiplier);
    check_shape({1, 1, input(0).output[2]});
    require(double(input(0).output[0]) * double(input(0).output[1]) * 128 < int32_bound,
            "may sum codes beyond int32");
  }

  void check(const FlattenCodes&) const {
    check_inputs(1, 1);
    check_range();
    check_same_codes();
    check_shape({1, 1, input(0).output.elements()});
  }

  void check(const Classifier& op) const {
    check_inputs(1, 1);
    require(number_ + 1 == program_.instructions.size(), "is not the last instruction");
    require(input(0).output[0] == 1 && input(0).output[1] == 1,
            "reads " + input(0).output.text() + "; wanted [1, 1, c]");
    require(at_->lo == 0 && at_->hi == 0 && at_->step == 0,
            "gives logits, which have no code range and no step");
    require(at_->output[0] == 1 && at_->output[1] == 1,
            "has the output shape " + at_->output.text() + "; wanted [1, 1, classes]");
    check_weights(op.codes, {at_->output[2], input(0).output[2]});
    check_tensor("m", op.m, {at_->output[2]}, DType::f32);
    check_tensor("bias", op.bias, {at_->output[2]}, DType::f32);
    check_constants("m", op.m, "bias", op.bias, false, 0);
  }

  const Program& program_;
  const std::string& what_;
  size_t number_ = 0;
  const Instruction* at_ = nullptr;
  std::set<std::string> names_;
};

}  // namespace

bool has_16_significant_bits(float r) {
  int exponent = 0;
  const double scaled = std::ldexp(std::frexp(double(r), &exponent), 16);
  return std::isfinite(r) && scaled == std::rint(scaled);
}

void validate(const Program& program, const std::string& what) { Checker(program, what).check(); }

}  // namespace qt
