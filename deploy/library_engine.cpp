// deploy/library_engine.cpp -- the integer program on a library's kernels and the launchers.
#include <map>
#include <tuple>

#include "core/library/code_convolution.h"
#include "deploy/engine.h"
#include "deploy/requantize_kernels.h"

namespace qt {
namespace {

class LibraryEngine final : public Engine {
 public:
  LibraryEngine(Library& library, bool keeps_weights)
      : library_(library), keeps_weights_(keeps_weights) {}
  std::string name() const override { return library_.name(); }

 protected:
  Tensor execute(const Step& step) const override {
    return std::visit([&](const auto& operation) { return run(operation, step); },
                      step.at.operation);
  }

 private:
  struct Prepared {
    Tensor weights;  // keeps the storage, so that no other weights can have it
    std::shared_ptr<const CodeConvolution> convolution;
  };
  Library& library_;
  const bool keeps_weights_;
  // By the weights' storage and the range of the codes that they meet: kernels rely on it.
  mutable std::map<std::tuple<const void*, int, int>, Prepared> prepared_;

  static CodeTarget target(const Step& step) {
    const Shape& y = step.at.output;
    return {Tensor::empty({step.images.dim(0), y[0], y[1], y[2]}, DType::i8), step.at.lo,
            step.at.hi};
  }
  static Tensor finished(const CodeTarget& y, const Step& step) {
    return y.codes.with_scale(Tensor::full({1}, step.at.step), y.lo, y.hi);
  }

  static Tensor run(const ImageTable& op, const Step& step) {
    const CodeTarget y = target(step);
    look_up_codes(step.images, op.table, y);
    return finished(y, step);
  }
  Tensor run(const Conv& op, const Step& step) const {
    Conv2dShape shape = op.shape;
    shape.n = step.images.dim(0);
    const Tensor residual = step.has_residual() ? step.input(1) : Tensor();
    if (const auto convolution = prepared(op, shape, step)) {
      const CodeTarget y = target(step);
      convolution->run(step.input(0), requantize_into(op.m, op.b, residual, op.residual_ratio, y));
      return finished(y, step);
    }
    const Tensor sums = library_.conv2d_codes(step.input(0), op.codes, shape, step.path);
    const CodeTarget y = target(step);
    requantize(sums, op.m, op.b, residual, op.residual_ratio, y);
    return finished(y, step);
  }
  // Null where the library has none for this convolution.
  std::shared_ptr<const CodeConvolution> prepared(const Conv& op, const Conv2dShape& shape,
                                                  const Step& step) const {
    if (step.path != CodePath::integer) return nullptr;
    const auto prepare = [&]() -> std::shared_ptr<const CodeConvolution> {
      return library_.prepare_conv2d_codes(step.input(0), op.codes, shape);
    };
    if (!keeps_weights_) return prepare();
    const Tensor& x = step.input(0);
    const auto [at, is_new] = prepared_.try_emplace({op.codes.raw(), x.lo(), x.hi()});
    if (is_new) at->second = {op.codes, prepare()};
    return at->second.convolution;
  }
  static Tensor run(const Add& op, const Step& step) {
    const CodeTarget y = target(step);
    add_codes(step.input(0), step.input(1), op.m, op.r, y);
    return finished(y, step);
  }
  static Tensor run(const MaxPoolCodes& op, const Step& step) {
    const CodeTarget y = target(step);
    max_pool_codes(step.input(0), op.kernel, op.stride, op.padding, y);
    return finished(y, step);
  }
  static Tensor run(const AveragePoolCodes& op, const Step& step) {
    const CodeTarget y = target(step);
    average_pool_codes(step.input(0), op.multiplier, y);
    return finished(y, step);
  }
  static Tensor run(const FlattenCodes&, const Step& step) {
    const Shape& y = step.at.output;
    return step.input(0).reshaped({step.images.dim(0), y[0], y[1], y[2]});
  }
  Tensor run(const Classifier& op, const Step& step) const {
    const Tensor x = step.input(0).reshaped({step.images.dim(0), op.codes.dim(1)});
    return logits_of(library_.linear_codes(x, op.codes, step.path), op.m, op.bias);
  }
};

const EngineRegistry::Add add_engine{"onednn", [] {
                                       static const auto onednn = library_by_name("onednn");
                                       return make_library_engine(*onednn);
                                     }};

}  // namespace

std::unique_ptr<Engine> make_library_engine(Library& library, bool keeps_weights) {
  return std::make_unique<LibraryEngine>(library, keeps_weights);
}

}  // namespace qt
