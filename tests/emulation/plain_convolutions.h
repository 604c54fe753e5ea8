// tests/emulation/plain_convolutions.h -- plain loops on the emulated GPU in cuDNN's place: as many
// engines as asked for, each as fast as it claims, some of them wrong.
#pragma once
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/library/cuda/convolutions.h"
#include "core/library/cuda/library.h"
#include "tests/emulation/runtime.h"

namespace qt {

struct PlainEngine {
  std::string name;
  double seconds = 1;
  enum { right, adds_one, forgets_the_last } mistake = right;
};

class PlainConvolutions final : public Convolutions {
 public:
  explicit PlainConvolutions(std::vector<PlainEngine> engines) : plain_(std::move(engines)) {
    for (const PlainEngine& engine : plain_) engines_.push_back({engine.name, 64});
  }
  std::string name() const override { return "loops"; }
  const std::vector<ConvolutionEngine>& engines(const ConvolutionRequest& request) override {
    asked.push_back(request);
    return engines_;
  }
  void run(const ConvolutionRequest& request, size_t engine, const void* first, const void* second,
           void* result, void* workspace, Stream stream) override {
    last = plain_[engine].seconds;
    ran.push_back(plain_[engine].name);
    types.push_back(request.type);
    const auto mistake = plain_[engine].mistake;
    emulator::enqueue_library_work(stream, [=] {
      const UseStream on_host(Stream{});
      memset(workspace, 0x11, 64);
      const Tensor y = computed(request, first, second);
      if (request.type == ProductType::bf16) {
        for (int64_t i = 0; i < y.elements(); ++i)
          static_cast<BFloat16*>(result)[i] = BFloat16(y.data<float>()[i]);
        return;
      }
      float* const to = static_cast<float*>(result);
      memcpy(to, y.raw(), y.bytes() - (mistake == PlainEngine::forgets_the_last ? 4 : 0));
      if (mistake == PlainEngine::adds_one) to[y.elements() / 2] += 1;
    });
  }

  std::vector<ConvolutionRequest> asked;
  std::vector<std::string> ran;    // names, a call each
  std::vector<ProductType> types;  // of the same calls
  double last = 0;                 // what the latest work takes; 0: not ours

 private:
  static Tensor computed(const ConvolutionRequest& request, const void* first, const void* second) {
    const Conv2dShape& s = request.shape;
    Library& plain = *library_by_name("reference");
    const DType type = request.type == ProductType::i8     ? DType::i8
                       : request.type == ProductType::bf16 ? DType::bf16
                                                           : DType::f32;
    const auto host = [&](const Shape& shape, const void* from) {
      Tensor t = Tensor::empty(shape, type);
      memcpy(t.raw(), from, t.bytes());
      if (type == DType::i8) return t.with_scale(Tensor::full({1}, 1), -127, 127);
      if (type == DType::f32) return t;
      Tensor real = Tensor::empty(shape, DType::f32);
      for (int64_t i = 0; i < t.elements(); ++i)
        real.data<float>()[i] = float(t.data<BFloat16>()[i]);
      return real;
    };
    if (request.pass == ConvolutionPass::backward_data)
      return plain.conv2d_backward_data(host(s.y_shape(), first), host(s.w_shape(), second), s,
                                        Precision::f32);
    if (request.pass == ConvolutionPass::backward_weights)
      return plain.conv2d_backward_weights(host(s.x_shape(), first), host(s.y_shape(), second), s,
                                           Precision::f32);
    const Tensor x = host(s.x_shape(), first), w = host(s.w_shape(), second);
    return type == DType::i8 ? plain.conv2d_codes(x, w, s, CodePath::integer)
                             : plain.conv2d(x, w, s);
  }
  std::vector<PlainEngine> plain_;
  std::vector<ConvolutionEngine> engines_;
};

constexpr double seconds_of_products = 5;

// The seconds that an engine claims.
inline Measure claimed_by(const std::shared_ptr<PlainConvolutions>& plain) {
  return [plain](const std::function<void()>& enqueue) {
    plain->last = 0;
    enqueue();
    return plain->last ? plain->last : seconds_of_products;
  };
}

}  // namespace qt
