// tests/emulation/plain_convolutions.h -- plain loops on the emulated GPU in cuDNN's place: as many
// engines as asked for, each as fast as it claims, some of them wrong.
#pragma once
#include <cuda_runtime_api.h>

#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/library/cuda/convolutions.h"
#include "core/library/cuda/library.h"
#include "tests/emulation/runtime.h"

namespace qt {

struct PlainEngine {
  std::string name;
  double seconds = 1;
  // not_there: it cannot be made ready; fails: it cannot be enqueued, which CUDA notes; in_f32: for
  // codes, every partial sum is rounded to f32; overwrites: a result that it should add to.
  enum { right, adds_one, forgets_the_last, in_f32, not_there, fails, overwrites } mistake = right;
  size_t workspace = 64;
};

class PlainConvolutions final : public Convolutions {
 public:
  explicit PlainConvolutions(std::vector<PlainEngine> engines) : plain_(std::move(engines)) {
    for (const PlainEngine& engine : plain_) names_.push_back(engine.name);
  }
  std::string name() const override { return "loops"; }
  const std::vector<std::string>& engines(const ConvolutionRequest& request) override {
    asked.push_back(request);
    return names_;
  }
  std::optional<size_t> prepare(const ConvolutionRequest&, size_t engine) override {
    const std::lock_guard lock(mutex_);
    prepared.insert(plain_[engine].name);
    if (plain_[engine].mistake == PlainEngine::not_there) return {};
    return plain_[engine].workspace;
  }
  void keep_only(const ConvolutionRequest& request, size_t engine) override {
    kept.emplace_back(request, engine);
  }
  void run(const ConvolutionRequest& request, size_t engine, const void* first, const void* second,
           void* result, void* workspace, Stream stream) override {
    if (plain_[engine].mistake == PlainEngine::fails) {
      static_cast<void>(cudaSetDevice(99));
      throw InternalError("loops fail on purpose");
    }
    last = plain_[engine].seconds;
    ran.push_back(plain_[engine].name);
    types.push_back(request.type);
    const auto mistake = plain_[engine].mistake;
    emulator::enqueue_library_work(stream, [=] {
      const UseStream on_host(Stream{});
      memset(workspace, 0x11, 64);
      Tensor y = mistake == PlainEngine::in_f32 ? added_in_f32(request.shape, first, second)
                                                : computed(request, first, second);
      const bool accumulate = request.accumulate && mistake != PlainEngine::overwrites;
      if (request.type == ProductType::bf16) {
        auto* const to = static_cast<BFloat16*>(result);
        for (int64_t i = 0; i < y.elements(); ++i)
          to[i] = BFloat16(y.data<float>()[i] + (accumulate ? float(to[i]) : 0.0f));
        return;
      }
      float* const to = static_cast<float*>(result);
      if (accumulate)
        for (int64_t i = 0; i < y.elements(); ++i) y.data<float>()[i] += to[i];
      memcpy(to, y.raw(), y.bytes() - (mistake == PlainEngine::forgets_the_last ? 4 : 0));
      if (mistake == PlainEngine::adds_one) to[y.elements() / 2] += 1;
    });
  }

  std::vector<ConvolutionRequest> asked;
  std::set<std::string> prepared;  // names
  std::vector<std::pair<ConvolutionRequest, size_t>> kept;
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
  // A 1x1 convolution of codes.
  static Tensor added_in_f32(const Conv2dShape& s, const void* x, const void* w) {
    Tensor y = Tensor::empty(s.y_shape(), DType::f32);
    for (int64_t pixel = 0; pixel < s.n * s.h * s.w; ++pixel)
      for (int64_t k = 0; k < s.k; ++k) {
        float& sum = y.data<float>()[pixel * s.k + k] = 0;
        for (int64_t c = 0; c < s.c; ++c)
          sum += float(static_cast<const int8_t*>(x)[pixel * s.c + c]) *
                 float(static_cast<const int8_t*>(w)[k * s.c + c]);
      }
    return y;
  }
  std::vector<PlainEngine> plain_;
  std::vector<std::string> names_;
  std::mutex mutex_;
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
