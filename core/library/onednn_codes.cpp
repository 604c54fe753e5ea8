// core/library/onednn_codes.cpp -- a few pictures at a time, whose int32 sums stay in cache until
// they are codes.
#include "core/library/onednn_codes.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include "core/kernel/parallel.h"
#include "core/library/onednn_integer.h"
#include "core/library/strided.h"

namespace qt {
namespace {

using Type = dnnl::memory::data_type;

// Sums of the pictures that are computed together, for each thread: what its second cache holds.
constexpr int64_t sums_bytes = 1 << 20;
// Pixels that a thread hands on together.
constexpr int64_t pixels_at_once = 64;

int64_t pictures_at_once(const Conv2dShape& s) {
  const int64_t bytes = s.out_h() * s.out_w() * s.k * int64_t(sizeof(int32_t));
  return std::clamp<int64_t>(workers() * sums_bytes / bytes, 1, s.n);
}

Conv2dShape with_pictures(Conv2dShape shape, int64_t n) {
  shape.n = n;
  return shape;
}

// The kernel for one number of pictures, and the weights as it reads them; no plan where it is not
// exact.
struct Group {
  const ConvolutionPlan* plan = nullptr;
  Tensor weights;
};

class Groups {
 public:
  Groups(std::shared_ptr<OneDnnKernels> kernels, const Tensor& x, const Tensor& w)
      : kernels_(std::move(kernels)),
        w_(w),
        x_range_(code_range("a convolution's x", x)),
        w_range_(code_range("a convolution's w", w)),
        kernel_(choose_integer_kernel(x_range_, w_range_, effective_byte_products())) {}
  IntegerKernel kernel() const { return kernel_; }

  const Group& get(const Conv2dShape& shape) {
    const std::lock_guard lock(mutex_);
    const auto [at, is_new] = groups_.try_emplace(shape.n);
    if (!is_new) return at->second;
    const ConvolutionPlan& plan =
        kernels_->plans.get({.shape = shape,
                             .images = kernel_ == IntegerKernel::u8s8 ? Type::u8 : Type::s8,
                             .weights = Type::s8,
                             .result = Type::s32});
    Tensor y = Tensor::empty(shape.y_shape(), DType::i32);
    if (kernels_->self_tests.passed(plan, shape, x_range_, w_range_, y))
      at->second = {&plan, plan.blocked_weights(w_)};
    return at->second;
  }

 private:
  std::shared_ptr<OneDnnKernels> kernels_;
  Tensor w_;
  CodeRange x_range_, w_range_;
  IntegerKernel kernel_;
  std::mutex mutex_;
  std::map<int64_t, Group> groups_;  // by the number of pictures
};

class OneDnnCodes final : public CodeConvolution {
 public:
  OneDnnCodes(const Conv2dShape& shape, std::unique_ptr<Groups> groups, const std::string& name)
      : CodeConvolution(shape, {"onednn", name, text_of(groups->kernel())}),
        groups_(std::move(groups)) {}

 protected:
  void compute(const int8_t* x, const Conv2dShape& shape, const TakeSums& take) const override {
    convolve(reinterpret_cast<const char*>(x), shape, take);
  }
  void compute(const uint8_t* x, const Conv2dShape& shape, const TakeSums& take) const override {
    convolve(reinterpret_cast<const char*>(x), shape, take);
  }

 private:
  void convolve(const char* x, const Conv2dShape& shape, const TakeSums& take) const {
    const int64_t pixels = shape.out_h() * shape.out_w(), x_bytes = shape.h * shape.w * shape.c;
    const int64_t most = pictures_at_once(shape);
    Tensor sums = Tensor::empty({most * pixels, shape.k}, DType::i32);
    const int32_t* const first = sums.data<int32_t>();
    for (int64_t n = 0; n < shape.n; n += most) {
      const Conv2dShape some = with_pictures(shape, std::min(most, shape.n - n));
      const Group& group = groups_->get(some);
      QT_CHECK(group.plan, "oneDNN's kernel is not exact for convolution " + some.text());
      group.plan->run_forward(x + n * x_bytes, group.weights, sums.raw());
      const int64_t all = some.n * pixels;
      parallel_for((all + pixels_at_once - 1) / pixels_at_once, [&](int64_t i, int) {
        const int64_t pixel = i * pixels_at_once;
        take({first + pixel * shape.k, n * pixels + pixel, std::min(pixels_at_once, all - pixel), 0,
              shape.k});
      });
    }
  }

  std::unique_ptr<Groups> groups_;
};

}  // namespace

std::unique_ptr<CodeConvolution> prepare_onednn_codes(std::shared_ptr<OneDnnKernels> kernels,
                                                      const Tensor& x, const Tensor& w,
                                                      const Conv2dShape& shape) {
  if (skips_pixels(shape)) return nullptr;
  auto groups = std::make_unique<Groups>(std::move(kernels), x, w);
  if (groups->kernel() == IntegerKernel::exact_float) return nullptr;
  const Group& group = groups->get(with_pictures(shape, pictures_at_once(shape)));
  if (!group.plan) return nullptr;
  return std::make_unique<OneDnnCodes>(shape, std::move(groups), group.plan->kernel());
}

}  // namespace qt
