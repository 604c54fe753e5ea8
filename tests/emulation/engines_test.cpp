// tests/emulation/engines_test.cpp -- which engine the CUDA library convolves with, with plain
// loops on the emulated GPU in cuDNN's place: some of them wrong, each as fast as it claims.
#include <gmock/gmock.h>

#include <algorithm>
#include <set>

#include "core/library/convert.h"
#include "core/library/cuda/code_engines.h"
#include "core/library/cuda/engine_runs.h"
#include "core/library/cuda/real_engines.h"
#include "core/library/cuda/trial.h"
#include "core/ops/ops.h"
#include "tests/core/library/cases.h"
#include "tests/emulation/emulated_gpu.h"
#include "tests/emulation/plain_convolutions.h"

namespace qt {
namespace {

class Engines : public EmulatedGpu {
 protected:
  static std::unique_ptr<CodeEngines> engines_with(
      const std::shared_ptr<PlainConvolutions>& plain) {
    return std::make_unique<CodeEngines>(open_matrix_products(), plain, int64_t{1} << 20,
                                         claimed_by(plain));
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

// Sums beyond 2^24: random signs keep partial sums far below.
TEST_F(Engines, AnEngineThatAddsInF32IsRefusedWhereSumsLeaveItsBits) {
  const auto plain = std::make_shared<PlainConvolutions>(
      std::vector<PlainEngine>{{.name = "in f32", .seconds = 1, .mistake = PlainEngine::in_f32},
                               {.name = "exact", .seconds = 2}});
  const auto engines = engines_with(plain);
  const Conv2dShape few{.n = 2, .h = 3, .w = 3, .c = 1024, .k = 8, .r = 1, .s = 1};
  Conv2dShape many = few;
  many.c = 1152;
  EXPECT_EQ(convolve(*engines, few), "loops in f32") << "its sums are exact";
  EXPECT_EQ(convolve(*engines, many), "loops exact");
}

TEST_F(Engines, OneThatCannotBeHadOrFailsOrWantsTooMuchIsPassedOver) {
  const auto plain = std::make_shared<PlainConvolutions>(
      std::vector<PlainEngine>{{.name = "gone", .mistake = PlainEngine::not_there},
                               {.name = "large", .workspace = most_workspace + 1},
                               {.name = "failing", .mistake = PlainEngine::fails},
                               {.name = "right", .seconds = 3}});
  EXPECT_EQ(convolve(*engines_with(plain), shape), "loops right");
  EXPECT_THAT(plain->ran, ::testing::Each("right"));

  plain->ran.clear();
  const Tensor x = codes_of(shape.x_shape(), {-7, 7}, Fill::uniform, 1),
               w = codes_of(shape.w_shape(), {-7, 7}, Fill::uniform, 2);
  const Tensor wanted = library_by_name("reference")->conv2d(to_float(x), to_float(w), shape);
  RealEngines reals(open_matrix_products(), plain, int64_t{1} << 20);
  const ConvolutionRequest request{ConvolutionPass::forward, ProductType::f32, shape};
  const GpuStream gpu;
  Tensor y;
  {
    const UseStream use(gpu.stream());
    y = reals.run(request, to_gpu(x, gpu.stream()), to_gpu(w, gpu.stream()));
  }
  EXPECT_EQ(difference_in_bits(to_host(y, gpu.stream()), wanted), "");
  EXPECT_THAT(plain->ran, ::testing::ElementsAre("right"));
  const EngineChoices kept{{text_of(request), "loops right"}};
  EXPECT_EQ(reals.choices(), kept);
}

TEST_F(Engines, ProductsDoWhereAllEnginesFail) {
  const auto plain = std::make_shared<PlainConvolutions>(
      std::vector<PlainEngine>{{.name = "one", .mistake = PlainEngine::fails},
                               {.name = "two", .mistake = PlainEngine::fails}});
  EXPECT_THAT(convolve(*engines_with(plain), shape), ::testing::StartsWith("cuBLASLt"));
  RealEngines reals(open_matrix_products(), plain, int64_t{1} << 20);
  const ConvolutionRequest request{ConvolutionPass::forward, ProductType::f32, shape};
  reals.take({{text_of(request), "loops two"}});
  const GpuStream gpu;
  const Tensor x = to_gpu(numbers(shape.x_shape(), 1), gpu.stream()),
               w = to_gpu(numbers(shape.w_shape(), 2), gpu.stream());
  const UseStream use(gpu.stream());
  reals.run(request, x, w);
  EXPECT_THAT(reals.choices().at(text_of(request)), ::testing::StartsWith("cuBLASLt"));
  gpu.synchronize();
}

// Each engine that is made ready may cost a compilation.
TEST_F(Engines, OnlyThoseThatAreNeededAreMadeReady) {
  const auto plain = std::make_shared<PlainConvolutions>(
      std::vector<PlainEngine>{{.name = "first"}, {.name = "second"}, {.name = "third"}});
  const ConvolutionRequest request{ConvolutionPass::forward, ProductType::f32, shape};
  const GpuStream gpu;
  const Tensor x = to_gpu(numbers(shape.x_shape(), 1), gpu.stream()),
               w = to_gpu(numbers(shape.w_shape(), 2), gpu.stream());
  const auto made_ready = [&](const EngineChoices& earlier) {
    plain->prepared.clear();
    RealEngines reals(open_matrix_products(), plain, int64_t{1} << 20);
    reals.take(earlier);
    const UseStream use(gpu.stream());
    reals.run(request, x, w);
    gpu.synchronize();
    return plain->prepared;
  };
  EXPECT_THAT(made_ready({}), ::testing::ElementsAre("first"));
  EXPECT_THAT(made_ready({{text_of(request), "loops third"}}), ::testing::ElementsAre("third"));

  const auto earlier = engines_with(plain);
  convolve(*earlier, shape);
  EXPECT_EQ(plain->prepared.size(), 3u) << "codes try them all";
  plain->prepared.clear();
  const auto resumed = engines_with(plain);
  resumed->take({{earlier->choices().begin()->first, "loops second"}});
  EXPECT_EQ(convolve(*resumed, shape), "loops second");
  EXPECT_THAT(plain->prepared, ::testing::ElementsAre("second"));
}

// The last batch of an evaluation, say: no further compilations, and no timing.
TEST_F(Engines, AnotherBatchTakesTheEngineOfTheFirst) {
  const auto plain = std::make_shared<PlainConvolutions>(
      std::vector<PlainEngine>{{.name = "first", .seconds = 2}, {.name = "second", .seconds = 1}});
  const auto engines = engines_with(plain);
  EXPECT_EQ(convolve(*engines, shape), "loops second");
  ASSERT_EQ(plain->kept.size(), 1u) << "the others are forgotten";
  EXPECT_EQ(plain->kept[0].second, 1u);
  plain->prepared.clear(), plain->ran.clear();
  Conv2dShape fewer = shape;
  fewer.n = 1;
  EXPECT_EQ(convolve(*engines, fewer), "loops second");
  EXPECT_THAT(plain->prepared, ::testing::ElementsAre("second"));
  EXPECT_THAT(plain->ran, ::testing::Each("second"));
  Conv2dShape other = shape;
  other.k = 12;
  convolve(*engines, other);
  EXPECT_EQ(plain->prepared.size(), 2u) << "another layer tries them all";
}

// Whichever allocation of a trial fails.
TEST_F(Engines, ATrialThatFindsNoMemoryLeavesAnotherEngineOrProducts) {
  const Tensor x = codes_of(shape.x_shape(), {-127, 127}, Fill::uniform, 1),
               w = codes_of(shape.w_shape(), {-127, 127}, Fill::uniform, 2);
  std::set<std::string> chosen;
  for (int nth = 1; nth < 60; ++nth) {
    start(unsigned(nth));
    const auto plain =
        std::make_shared<PlainConvolutions>(std::vector<PlainEngine>{{.name = "right"}});
    const auto engines = engines_with(plain);
    const GpuStream gpu;
    const Tensor there = to_gpu(x, gpu.stream()), weights = to_gpu(w, gpu.stream());
    const UseStream use(gpu.stream());
    emulator::fail_allocation(nth);
    EXPECT_NO_THROW(chosen.insert(engines->name_for(there, weights, shape))) << nth;
    emulator::fail_allocation(0);
    EXPECT_EQ(cudaGetLastError(), cudaSuccess) << nth;
    gpu.synchronize();
  }
  EXPECT_EQ(chosen.size(), 2u) << "the engine, and products where it could not be tried";
}

TEST_F(Engines, ATimeIsThatOfAGraphsWork) {
  const GpuStream gpu;
  const UseStream use(gpu.stream());
  int calls = 0;
  const double seconds = measured_on_stream([&] {
    ++calls;
    const Tensor passing = Tensor::zeros({100}, DType::f32);
  });
  EXPECT_GT(seconds, 0);
  EXPECT_EQ(calls, 11) << "one before, ten recorded; the graph runs twice";
  EXPECT_EQ(gpu_reserved_bytes(), 400u) << "the first call's; the graph's are given back";
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

// In a run that is continued: however fast another is now.
TEST_F(Engines, AnEngineOfAnEarlierRunIsTakenAgainWithoutTiming) {
  const auto before = std::make_shared<PlainConvolutions>(
      std::vector<PlainEngine>{{.name = "first", .seconds = 3}, {.name = "second", .seconds = 2}});
  const auto earlier = engines_with(before);
  EXPECT_EQ(convolve(*earlier, shape), "loops second");
  const EngineChoices choices = earlier->choices();
  ASSERT_EQ(choices.size(), 1u);
  EXPECT_EQ(choices.begin()->second, "loops second");

  const auto now = std::make_shared<PlainConvolutions>(
      std::vector<PlainEngine>{{.name = "first", .seconds = 1}, {.name = "second", .seconds = 9}});
  const auto resumed = engines_with(now);
  resumed->take(choices);
  EXPECT_EQ(resumed->choices(), choices) << "kept for the next checkpoint before it is met";
  EXPECT_EQ(convolve(*resumed, shape), "loops second");
  EXPECT_THAT(now->ran, ::testing::Each("second"));
  EXPECT_EQ(resumed->choices(), choices);
}

TEST_F(Engines, ProductsOfAnEarlierRunAreTakenAgain) {
  const auto plain = std::make_shared<PlainConvolutions>(
      std::vector<PlainEngine>{{.name = "right", .seconds = 9}});
  const auto earlier = engines_with(plain);
  convolve(*earlier, shape);
  const auto faster =
      std::make_shared<PlainConvolutions>(std::vector<PlainEngine>{{.name = "right"}});
  const auto resumed = engines_with(faster);
  resumed->take(earlier->choices());
  EXPECT_THAT(convolve(*resumed, shape), ::testing::StartsWith("cuBLASLt"));
  EXPECT_TRUE(faster->ran.empty());
}

TEST_F(Engines, AnEngineOfAnEarlierRunThatIsNotHereOrWrongNowIsChosenAnew) {
  const std::string what =
      text_of(ConvolutionRequest{ConvolutionPass::forward, ProductType::i8, [] {
                                   Conv2dShape padded = shape;
                                   padded.c = 16;
                                   return padded;
                                 }()});
  for (const auto mistake : {PlainEngine::right, PlainEngine::adds_one}) {
    const auto plain = std::make_shared<PlainConvolutions>(std::vector<PlainEngine>{
        {.name = "other"}, {.name = "wrong now", .mistake = PlainEngine::adds_one}});
    const auto resumed = engines_with(plain);
    resumed->take({{what, mistake == PlainEngine::right ? "loops gone" : "loops wrong now"}});
    EXPECT_EQ(convolve(*resumed, shape), "loops other");
    EXPECT_EQ(resumed->choices().at(what), "loops other");
  }
}

TEST_F(Engines, RealsTakeTheEngineOfAnEarlierRun) {
  const auto plain = std::make_shared<PlainConvolutions>(
      std::vector<PlainEngine>{{.name = "first"}, {.name = "second"}});
  const ConvolutionRequest request{ConvolutionPass::forward, ProductType::f32, shape};
  RealEngines engines(open_matrix_products(), plain, int64_t{1} << 20);
  engines.take({{text_of(request), "loops second"}});
  const GpuStream gpu;
  const Tensor x = to_gpu(numbers(shape.x_shape(), 1), gpu.stream()),
               w = to_gpu(numbers(shape.w_shape(), 2), gpu.stream());
  const UseStream use(gpu.stream());
  engines.run(request, x, w);
  EXPECT_THAT(plain->ran, ::testing::ElementsAre("second"));
  const EngineChoices wanted{{text_of(request), "loops second"}};
  EXPECT_EQ(engines.choices(), wanted);
  gpu.synchronize();
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
    EXPECT_EQ(got_dx.dtype(), type == ProductType::bf16 ? DType::bf16 : DType::f32);
    EXPECT_EQ(difference_in_bits(to_float(to_host(got_dx, gpu.stream())), expected(dx)), "");
    EXPECT_EQ(got_dw.dtype(), got_dx.dtype());
    EXPECT_EQ(difference_in_bits(to_float(to_host(got_dw, gpu.stream())), expected(dw)), "");
  }
  EXPECT_THAT(plain->ran, ::testing::Each("first"));
  EXPECT_EQ(plain->ran.size(), 4u);
}

// onto, after a gradient was added to it; undefined where no engine adds.
Tensor sum_by(RealEngines& engines, const ConvolutionRequest& request, const Tensor& onto,
              const Tensor& dy, const Tensor& w) {
  const GpuStream gpu;
  Tensor sum;
  bool added = false;
  {
    const UseStream use(gpu.stream());
    sum = to_gpu(onto, gpu.stream());
    if (request.type == ProductType::bf16) sum = to_bf16(sum);
    const void* const before = sum.raw();
    added = engines.add(sum, request, to_gpu(dy, gpu.stream()), to_gpu(w, gpu.stream()));
    EXPECT_EQ(sum.raw(), before) << "no other handle: in its own memory";
  }
  return added ? to_float(to_host(sum, gpu.stream())) : Tensor();
}

TEST_F(Engines, AGradientIsAddedByTheFirstThatDoesAdd) {
  const auto plain = std::make_shared<PlainConvolutions>(
      std::vector<PlainEngine>{{.name = "failing", .mistake = PlainEngine::fails},
                               {.name = "overwriting", .mistake = PlainEngine::overwrites},
                               {.name = "adding"}});
  RealEngines engines(open_matrix_products(), plain, int64_t{1} << 20);
  const Tensor w = codes_of(shape.w_shape(), {-7, 7}, Fill::uniform, 2),
               dy = to_float(codes_of(shape.y_shape(), {-7, 7}, Fill::uniform, 3)),
               onto = numbers(shape.x_shape(), 4);
  const Tensor dx =
      library_by_name("reference")->conv2d_backward_data(dy, w, shape, Precision::f32);
  for (const ProductType type : {ProductType::f32, ProductType::bf16}) {
    const ConvolutionRequest request{ConvolutionPass::backward_data, type, shape, true};
    const auto rounded = [&](const Tensor& t) {
      return type == ProductType::bf16 ? to_float(to_bf16(t)) : t;
    };
    for (int turn = 0; turn < 2; ++turn)
      EXPECT_EQ(difference_in_bits(sum_by(engines, request, onto, dy, w),
                                   rounded(add(rounded(onto), dx))),
                "")
          << "rounded once";
    EXPECT_EQ(engines.name_for(request), "loops adding");
  }
  EXPECT_EQ(std::count(plain->ran.begin(), plain->ran.end(), "overwriting"), 2) << "a trial each";
}

TEST_F(Engines, AGradientThatNoneAddsIsLeftToAPassOfItsOwn) {
  const auto plain = std::make_shared<PlainConvolutions>(
      std::vector<PlainEngine>{{.name = "overwriting", .mistake = PlainEngine::overwrites}});
  const ConvolutionRequest request{ConvolutionPass::backward_data, ProductType::f32, shape, true};
  const Tensor w = numbers(shape.w_shape(), 2), dy = numbers(shape.y_shape(), 3),
               onto = numbers(shape.x_shape(), 4);
  RealEngines engines(open_matrix_products(), plain, int64_t{1} << 20),
      alone(open_matrix_products(), nullptr, int64_t{1} << 20),
      resumed(open_matrix_products(), plain, int64_t{1} << 20);
  EXPECT_FALSE(sum_by(engines, request, onto, dy, w).defined());
  EXPECT_FALSE(sum_by(alone, request, onto, dy, w).defined());
  const EngineChoices wanted{{text_of(request), added_apart}};
  EXPECT_EQ(engines.choices(), wanted);
  plain->ran.clear();
  resumed.take(wanted);
  EXPECT_FALSE(sum_by(resumed, request, onto, dy, w).defined());
  EXPECT_TRUE(plain->ran.empty()) << "an earlier run knew";
}

// The trial's memory is not needed again: where there is none, nothing is said about the engines.
TEST_F(Engines, ATrialOfAddingThatFindsNoMemoryIsMadeAgain) {
  const ConvolutionRequest request{ConvolutionPass::backward_data, ProductType::f32, shape, true};
  const Tensor onto = numbers(shape.x_shape(), 4);
  int not_added = 0;
  for (int nth = 1; nth < 8; ++nth) {
    start(unsigned(nth));
    const auto plain =
        std::make_shared<PlainConvolutions>(std::vector<PlainEngine>{{.name = "adding"}});
    RealEngines engines(open_matrix_products(), plain, int64_t{1} << 20);
    const GpuStream gpu;
    const Tensor dy = to_gpu(numbers(shape.y_shape(), 3), gpu.stream()),
                 w = to_gpu(numbers(shape.w_shape(), 2), gpu.stream());
    Tensor sum = to_gpu(onto, gpu.stream());
    const UseStream use(gpu.stream());
    emulator::fail_allocation(nth, 2);  // and when unused memory was given back
    bool added = true;
    try {
      added = engines.add(sum, request, dy, w);
    } catch (const OutOfMemory&) {  // of the run, not of the trial
    }
    emulator::fail_allocation(0);
    EXPECT_EQ(cudaGetLastError(), cudaSuccess) << nth;
    gpu.synchronize();
    if (added) continue;
    ++not_added;
    EXPECT_TRUE(engines.choices().empty()) << nth;
    EXPECT_TRUE(engines.add(sum, request, dy, w)) << nth;
    gpu.synchronize();
  }
  EXPECT_GT(not_added, 2);
}

TEST_F(Engines, AGradientThatOthersHoldIsNotChangedByASum) {
  const auto plain =
      std::make_shared<PlainConvolutions>(std::vector<PlainEngine>{{.name = "adding"}});
  RealEngines engines(open_matrix_products(), plain, int64_t{1} << 20);
  const ConvolutionRequest request{ConvolutionPass::backward_data, ProductType::f32, shape, true};
  const Tensor onto = numbers(shape.x_shape(), 4);
  const GpuStream gpu;
  const Tensor dy = to_gpu(numbers(shape.y_shape(), 3), gpu.stream()),
               w = to_gpu(numbers(shape.w_shape(), 2), gpu.stream()),
               held = to_gpu(onto, gpu.stream());
  Tensor sum = held;
  {
    const UseStream use(gpu.stream());
    EXPECT_TRUE(engines.add(sum, request, dy, w));
  }
  EXPECT_NE(sum.raw(), held.raw());
  EXPECT_EQ(difference_in_bits(to_host(held, gpu.stream()), onto), "");
  EXPECT_NE(difference_in_bits(to_host(sum, gpu.stream()), onto), "");
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
  for (const DType type : {DType::f32, DType::bf16}) {
    const Tensor ones = ones_for_trial({40, 3}, type);
    EXPECT_TRUE(are_ones(ones));
    set_bytes(static_cast<char*>(ones.raw()) + ones.bytes() - 2, 0xff, 2);
    EXPECT_FALSE(are_ones(ones));
  }
}

}  // namespace
}  // namespace qt
