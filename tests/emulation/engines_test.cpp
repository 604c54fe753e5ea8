// tests/emulation/engines_test.cpp -- which engine the CUDA library convolves with, with plain
// loops on the emulated GPU in cuDNN's place: some of them wrong, each as fast as it claims.
#include <gmock/gmock.h>

#include <cstring>

#include "core/library/convert.h"
#include "core/library/cuda/code_engines.h"
#include "core/library/cuda/real_engines.h"
#include "core/library/cuda/trial.h"
#include "tests/core/library/cases.h"
#include "tests/emulation/emulated_gpu.h"

namespace qt {
namespace {

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
  std::vector<std::string> ran;
  double last = 0;  // what the latest work takes; 0: not ours

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

class Engines : public EmulatedGpu {
 protected:
  static std::unique_ptr<CodeEngines> engines_with(
      const std::shared_ptr<PlainConvolutions>& plain) {
    return std::make_unique<CodeEngines>(open_matrix_products(), plain, int64_t{1} << 20,
                                         [plain](const std::function<void()>& enqueue) {
                                           plain->last = 0;
                                           enqueue();
                                           return plain->last ? plain->last : seconds_of_products;
                                         });
  }
  // Computes codes twice and compares with the plain loops; returns the engine's name.
  static std::string convolve(CodeEngines& engines, const Conv2dShape& shape,
                              const CodeRange& x_range = {-127, 127}) {
    const Tensor x = codes_of(shape.x_shape(), x_range, Fill::uniform, 1),
                 w = codes_of(shape.w_shape(), {-127, 127}, Fill::uniform, 2);
    const Tensor wanted =
        library_by_name("reference")->conv2d_codes(x, w, shape, CodePath::integer);
    const GpuStream gpu;
    Tensor got;
    std::string name;
    for (int turn = 0; turn < 2; ++turn) {
      {
        const UseStream use(gpu.stream());
        const Tensor there = to_gpu(x, gpu.stream()), weights = to_gpu(w, gpu.stream());
        got = engines.conv2d(there, weights, shape);
        name = engines.name_for(there, weights, shape);
      }
      EXPECT_EQ(difference_in_bits(to_host(got, gpu.stream()), wanted), "") << name;
    }
    return name;
  }
  static constexpr Conv2dShape shape{
      .n = 2, .h = 5, .w = 6, .c = 3, .k = 8, .r = 3, .s = 3, .padding = 1};
};

TEST_F(Engines, TheFastestOfTheRightOnesConvolvesCodes) {
  const auto plain = std::make_shared<PlainConvolutions>(std::vector<PlainEngine>{
      {.name = "wrong", .seconds = 1, .mistake = PlainEngine::adds_one},
      {.name = "slow", .seconds = 4},
      {.name = "right", .seconds = 3},
      {.name = "short", .seconds = 2, .mistake = PlainEngine::forgets_the_last}});
  EXPECT_EQ(convolve(*engines_with(plain), shape), "loops right");
  EXPECT_EQ(plain->asked[0].shape.c, 16) << "channels are padded to what engines read at a time";
  EXPECT_EQ(plain->ran.back(), "right");
}

TEST_F(Engines, ProductsConvolveWhereTheyAreFastestOrAlone) {
  for (const auto& list :
       {std::vector<PlainEngine>{{.name = "slow", .seconds = 6}},
        std::vector<PlainEngine>{{.name = "wrong", .mistake = PlainEngine::adds_one}},
        std::vector<PlainEngine>{}}) {
    const auto plain = std::make_shared<PlainConvolutions>(list);
    EXPECT_THAT(convolve(*engines_with(plain), shape), ::testing::StartsWith("cuBLASLt"));
  }
}

TEST_F(Engines, AShapeIsTriedOnce) {
  const auto plain =
      std::make_shared<PlainConvolutions>(std::vector<PlainEngine>{{.name = "right"}});
  const auto engines = engines_with(plain);
  convolve(*engines, shape);
  const size_t first = plain->ran.size();
  convolve(*engines, shape);
  EXPECT_EQ(plain->ran.size(), first + 2) << "its two results, no trial";
}

TEST_F(Engines, WhatOnlyProductsCanDoNeverReachesAnother) {
  const auto plain =
      std::make_shared<PlainConvolutions>(std::vector<PlainEngine>{{.name = "right"}});
  const auto engines = engines_with(plain);
  convolve(*engines, shape, {0, 255});
  Conv2dShape other = shape;
  other.k = 6;
  convolve(*engines, other);
  other = {.n = 1, .h = 4, .w = 4, .c = 8, .k = 8, .r = 3, .s = 3, .groups = 2};
  convolve(*engines, other);
  EXPECT_TRUE(plain->ran.empty());
}

TEST_F(Engines, NothingIsTriedWhileAGraphIsRecorded) {
  const auto plain =
      std::make_shared<PlainConvolutions>(std::vector<PlainEngine>{{.name = "right"}});
  const auto engines = engines_with(plain);
  const Tensor x = codes_of(shape.x_shape(), {-127, 127}, Fill::uniform, 1),
               w = codes_of(shape.w_shape(), {-127, 127}, Fill::uniform, 2);
  {
    const GpuStream gpu;
    const Tensor there = to_gpu(x, gpu.stream()), weights = to_gpu(w, gpu.stream());
    Tensor y;
    {
      const UseStream use(gpu.stream());
      y = unwritten_floats(shape.y_shape());
    }
    const GpuGraph graph(gpu.stream(), [&] {
      const UseStream use(gpu.stream());
      const Tensor sums = engines->conv2d(there, weights, shape);
      copy_on_gpu(y.raw(), sums.raw(), y.bytes(), gpu.stream());
    });
    EXPECT_TRUE(plain->ran.empty());
    graph.launch(gpu.stream());
    EXPECT_EQ(difference_in_bits(
                  to_host(y, gpu.stream()),
                  library_by_name("reference")->conv2d_codes(x, w, shape, CodePath::integer)),
              "");
  }
  EXPECT_EQ(convolve(*engines, shape), "loops right") << "later it is tried all the same";
}

TEST_F(Engines, RealsTakeTheFirstEngineInTheirOwnType) {
  const auto plain = std::make_shared<PlainConvolutions>(
      std::vector<PlainEngine>{{.name = "first", .seconds = 9}, {.name = "second"}});
  RealEngines engines(open_matrix_products(), plain, int64_t{1} << 20);
  const Tensor x = codes_of(shape.x_shape(), {-7, 7}, Fill::uniform, 1),
               w = codes_of(shape.w_shape(), {-7, 7}, Fill::uniform, 2),
               dy = to_float(codes_of(shape.y_shape(), {-7, 7}, Fill::uniform, 3));
  Library& reference = *library_by_name("reference");
  const Tensor dx = reference.conv2d_backward_data(dy, w, shape, Precision::f32),
               dw = reference.conv2d_backward_weights(x, dy, shape, Precision::f32);
  const GpuStream gpu;
  for (const ProductType type : {ProductType::f32, ProductType::bf16}) {
    Tensor got_dx, got_dw;
    {
      const UseStream use(gpu.stream());
      got_dx = engines.run({ConvolutionPass::backward_data, type, shape}, to_gpu(dy, gpu.stream()),
                           to_gpu(w, gpu.stream()));
      got_dw = engines.run({ConvolutionPass::backward_weights, type, shape},
                           to_gpu(x, gpu.stream()), to_gpu(dy, gpu.stream()));
    }
    const auto expected = [&](const Tensor& t) {
      return type == ProductType::bf16 ? to_float(to_bf16(t)) : t;
    };
    EXPECT_EQ(difference_in_bits(to_host(got_dx, gpu.stream()), expected(dx)), "");
    EXPECT_EQ(difference_in_bits(to_host(got_dw, gpu.stream()), expected(dw)), "");
  }
  EXPECT_THAT(plain->ran, ::testing::Each("first"));
  EXPECT_EQ(plain->ran.size(), 4u);
}

TEST_F(Engines, TrialsSeeNumbersThatWereNotWritten) {
  const GpuStream gpu;
  const UseStream use(gpu.stream());
  const Tensor zeros = Tensor::zeros({40, 3}, DType::f32),
               same = Tensor::zeros({40, 3}, DType::f32);
  EXPECT_TRUE(are_equal(zeros, same));
  EXPECT_FALSE(are_equal(unwritten_floats({40, 3}), unwritten_floats({40, 3})));
  Tensor other = Tensor::zeros({40, 3}, DType::f32);
  set_bytes(static_cast<char*>(other.raw()) + 119 * 4, 0x3f, 4);
  EXPECT_FALSE(are_equal(zeros, other));
}

}  // namespace
}  // namespace qt
