// tests/emulation/cuda_library_test.cpp -- core/library/cuda on the emulated GPU and the emulated
// cuBLASLt, beyond the rows of tests/gpu/library_test.cpp. No GPU and nothing of NVIDIA's runs.
#include <cublasLt.h>
#include <gmock/gmock.h>

#include "core/library/cuda/library.h"
#include "tests/core/library/gpu_rows.h"
#include "tests/emulation/emulated_gpu.h"

namespace qt {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

std::string name_of(const Conv2dShape& shape) {
  std::string name;
  for (const char c : shape.text())
    name += isalnum(static_cast<unsigned char>(c)) ? c : c == '>' ? 'k' : '_';
  return name;
}

std::shared_ptr<Library> cuda() { return library_by_name("cuda"); }
// One image's windows at a time.
std::shared_ptr<Library> cuda_in_parts() {
  return make_cuda_library(open_matrix_products(), nullptr, {.column_bytes = 1});
}

class EmulatedConvolution : public EmulatedGpu,
                            public ::testing::WithParamInterface<Conv2dShape> {};

TEST_P(EmulatedConvolution, OfCodesIsTheSameInEveryThreadOrder) {
  for (const emulator::Order order : all_orders) {
    start(unsigned(order));
    emulator::set_order(order, 3);
    expect_exact(*cuda(), GetParam(), {0, 255}, {-127, 127}, Fill::ends);
  }
}

TEST_P(EmulatedConvolution, OfRealsHasTheSumsOfThePlainLoops) {
  for (const auto& library : {cuda(), cuda_in_parts()}) {
    const Conv2dShape& shape = GetParam();
    const Tensor x = random_floats(shape.x_shape(), 1), w = random_floats(shape.w_shape(), 2);
    const auto y = on_both(
        *library, [&](Library& l, auto place) { return l.conv2d(place(x), place(w), shape); });
    EXPECT_EQ(difference_in_bits(y.got, y.wanted), "") << "one product each: the very sums";
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, EmulatedConvolution, ::testing::ValuesIn(convolution_cases()),
                         [](const auto& info) { return name_of(info.param); });

class EmulatedCudaLibrary : public EmulatedGpu {};

// Recorded in a graph, with its temporary memory, and launched again on new codes.
TEST_F(EmulatedCudaLibrary, ConvolutionsAreRecordedInGraphs) {
  const Conv2dShape shape{.n = 2, .h = 7, .w = 6, .c = 5, .k = 6, .r = 3, .s = 3, .padding = 1};
  const Tensor w = codes_of(shape.w_shape(), {-127, 127}, Fill::uniform, 2);
  const auto library = cuda();
  for (unsigned seed = 0; seed < 6; ++seed) {
    start(seed);
    const GpuStream gpu;
    const UseStream use(gpu.stream());
    Tensor y, x_there, w_there;
    Tensor x;
    {
      const UseStream host(Stream{});
      x = codes_of(shape.x_shape(), {0, 255}, Fill::uniform, 3);
    }
    x_there = to_gpu(x, gpu.stream());
    w_there = to_gpu(w, gpu.stream());
    y = Tensor::zeros(shape.y_shape(), DType::f32);
    const GpuGraph graph(gpu.stream(), [&] {
      const Tensor sums = library->conv2d_codes(x_there, w_there, shape, CodePath::integer);
      copy_on_gpu(y.raw(), sums.raw(), y.bytes(), gpu.stream());
    });
    for (unsigned turn = 0; turn < 2; ++turn) {
      const UseStream host(Stream{});
      x = codes_of(shape.x_shape(), {0, 255}, Fill::uniform, 10 + turn);
      copy_to_gpu(x_there.raw(), x.raw(), x.bytes(), gpu.stream());
      graph.launch(gpu.stream());
      EXPECT_EQ(difference_in_bits(
                    to_host(y, gpu.stream()),
                    library_by_name("reference")->conv2d_codes(x, w, shape, CodePath::integer)),
                "");
    }
  }
}

TEST_F(EmulatedCudaLibrary, MultipliesCodesThatTheLibraryHasNoAlgorithmFor) {
  emulator::offer_products_from(1 << 20);
  const auto library = cuda();
  for (const Conv2dShape& shape :
       {Conv2dShape{.n = 2, .h = 5, .w = 4, .c = 6, .k = 8, .r = 3, .s = 3, .groups = 2},
        Conv2dShape{.n = 3, .h = 1, .w = 1, .c = 16, .k = 4}})
    expect_exact_on_all_codes(*library, shape);
  emulator::offer_products_from(0);
}

TEST_F(EmulatedCudaLibrary, NotesWhatItComputed) {
  const GpuStream gpu;
  const Tensor a = to_gpu(random_floats({3, 4}, 1), gpu.stream());
  const LibraryTrace trace;
  const UseStream use(gpu.stream());
  cuda()->matmul(a, false, a, true);
  ASSERT_EQ(trace.calls().size(), 1u);
  EXPECT_EQ(trace.calls()[0].library, "cuda");
  EXPECT_EQ(trace.calls()[0].operation, "matmul");
  EXPECT_EQ(trace.calls()[0].arithmetic, "f32");
}

TEST_F(EmulatedCudaLibrary, ConvolvesRealsInThePrecisionAskedFor) {
  const Conv2dShape shape{.n = 1, .h = 4, .w = 4, .c = 3, .k = 4, .r = 3, .s = 3, .padding = 1};
  const GpuStream gpu;
  const Tensor x = to_gpu(random_floats(shape.x_shape(), 1), gpu.stream()),
               w = to_gpu(random_floats(shape.w_shape(), 2), gpu.stream()),
               dy = to_gpu(random_floats(shape.y_shape(), 3), gpu.stream());
  const UseStream use(gpu.stream());
  for (const Precision precision : {Precision::f32, Precision::tf32, Precision::bf16}) {
    const LibraryTrace trace;
    cuda()->conv2d(x, w, shape, precision);
    cuda()->conv2d_backward_data(dy, w, shape, precision);
    cuda()->conv2d_backward_weights(x, dy, shape, precision);
    ASSERT_EQ(trace.calls().size(), 3u);
    for (const LibraryCall& call : trace.calls()) EXPECT_EQ(call.arithmetic, name_of(precision));
  }
}

TEST_F(EmulatedCudaLibrary, RefusesTheCpusStreamAndTheCpusPath) {
  const Tensor a = random_floats({3, 4}, 1);
  EXPECT_THAT([&] { cuda()->matmul(a, false, a, true); },
              ThrowsMessage<InternalError>(HasSubstr("needs a GPU's stream")));
  const Tensor x = codes_of({3, 4}, {-7, 7}, Fill::uniform);
  const GpuStream gpu;
  const UseStream use(gpu.stream());
  EXPECT_THAT([&] { cuda()->linear_codes(x, x, CodePath::exact_float); },
              ThrowsMessage<ConfigError>(HasSubstr("train.forward=int8")));
}

// ---- planted: what the emulated cuBLASLt refuses ----
class EmulatedProducts : public EmulatedGpu {
 protected:
  void SetUp() override {
    EmulatedGpu::SetUp();
    gpu_ = std::make_unique<GpuStream>();
    memory_ = allocate_on_gpu(bytes, gpu_->stream());
    products_ = open_matrix_products();
  }
  void TearDown() override {
    memory_ = nullptr;
    gpu_ = nullptr;
    EmulatedGpu::TearDown();
  }
  static MatrixProduct right(ProductType type = ProductType::i8) {
    return {.type = type,
            .m = 5,
            .n = 8,
            .k = 16,
            .transpose_b = true,
            .row_a = 16,
            .row_b = 16,
            .row_c = 8};
  }
  // a, b, c at these distances in the memory, each moved by `shift` bytes.
  void run(const MatrixProduct& p, size_t alignment = 16, size_t shift_a = 0, size_t c = 2048) {
    char* const at = static_cast<char*>(memory_.get());
    products_->run(p, alignment, at + shift_a, at + 1024, at + c, at + 3072, gpu_->stream());
    gpu_->synchronize();
  }
  template <class Change>
  void expect_refused(const char* status, ProductType type, Change change) {
    MatrixProduct p = right(type);
    change(p);
    EXPECT_THAT([&] { run(p); }, ThrowsMessage<InternalError>(HasSubstr(status))) << p.text();
  }
  static constexpr size_t bytes = 4096;
  std::unique_ptr<GpuStream> gpu_;
  std::shared_ptr<void> memory_;
  std::shared_ptr<MatrixProducts> products_;
};

TEST_F(EmulatedProducts, RunWhatHopperSupports) {
  for (const ProductType type :
       {ProductType::i8, ProductType::bf16, ProductType::tf32, ProductType::f32})
    EXPECT_NO_THROW(run(right(type))) << qt::name_of(type);
}

TEST_F(EmulatedProducts, RefuseBytesThatAreNotTransposedAndMultiplesOfFour) {
  const char* const no = "CUBLAS_STATUS_NOT_SUPPORTED";
  const auto i8 = ProductType::i8;
  expect_refused(no, i8, [](auto& p) { p.transpose_b = false; });
  expect_refused(no, i8, [](auto& p) { p.transpose_a = true; });
  expect_refused(no, i8, [](auto& p) { p.n = 6; });
  expect_refused(no, i8, [](auto& p) { p.k = 14; });
  expect_refused(no, i8, [](auto& p) { p.row_a = 18; });
  expect_refused(no, i8, [](auto& p) { p.row_c = 9; });
  expect_refused(no, i8, [](auto& p) {  // the second matrix of a batch is not aligned
    p.batch = 2, p.batch_a = 24, p.batch_b = 128, p.batch_c = 40;
  });
  EXPECT_THAT([&] { run(right(), 4); }, ThrowsMessage<InternalError>(HasSubstr(no)));
  expect_refused("CUBLAS_STATUS_INVALID_VALUE", ProductType::f32, [](auto& p) { p.row_a = 15; });
}

TEST_F(EmulatedProducts, RefuseAddressesThatAreNotAlignedAsAnnounced) {
  EXPECT_THAT([&] { run(right(ProductType::f32), 16, 4); },
              ThrowsMessage<InternalError>(HasSubstr("CUBLAS_STATUS_INVALID_VALUE")));
  EXPECT_NO_THROW(run(right(ProductType::f32), 4, 4));
}

TEST_F(EmulatedProducts, CatchMatricesThatLeaveTheirMemoryOrOverlap) {
  MatrixProduct longer = right(ProductType::f32);
  longer.m = 1000;
  EXPECT_THROW(run(longer), emulator::Violation);
  EXPECT_THROW(run(right(ProductType::f32), 16, 0, 1024), emulator::Violation);
  const Tensor on_host = Tensor::zeros({256}, DType::f32);
  char* const at = static_cast<char*>(memory_.get());
  EXPECT_THROW(
      products_->run(right(), 16, on_host.raw(), at + 1024, at + 2048, at + 3072, gpu_->stream()),
      emulator::Violation);
}

TEST_F(EmulatedProducts, RefuseAnAlgorithmMadeForAnotherProduct) {
  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t square = nullptr, wide = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  cublasLtCreate(&handle);
  cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  cublasLtMatrixLayoutCreate(&square, CUDA_R_32F, 8, 8, 8);
  cublasLtMatrixLayoutCreate(&wide, CUDA_R_32F, 8, 16, 8);
  cublasLtMatmulPreferenceCreate(&preference);
  const uint64_t workspace = 1 << 20;
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                       &workspace, sizeof workspace);
  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  ASSERT_EQ(cublasLtMatmulAlgoGetHeuristic(handle, operation, square, wide, wide, wide, preference,
                                           1, &result, &found),
            CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(found, 1);
  const float one = 1, zero = 0;
  char* const at = static_cast<char*>(memory_.get());
  const auto multiply = [&](cublasLtMatrixLayout_t layout, size_t workspace_bytes) {
    return cublasLtMatmul(handle, operation, &one, at, square, at + 256, layout, &zero, at + 1024,
                          layout, at + 1024, layout, &result.algo, at + 2048, workspace_bytes,
                          static_cast<cudaStream_t>(gpu_->stream().cuda));
  };
  EXPECT_EQ(multiply(wide, result.workspaceSize), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(multiply(square, result.workspaceSize), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(multiply(wide, result.workspaceSize - 1), CUBLAS_STATUS_INVALID_VALUE);
  gpu_->synchronize();
  cublasLtMatmulPreferenceDestroy(preference);
  cublasLtMatrixLayoutDestroy(square);
  cublasLtMatrixLayoutDestroy(wide);
  cublasLtMatmulDescDestroy(operation);
  cublasLtDestroy(handle);
}

}  // namespace
}  // namespace qt
