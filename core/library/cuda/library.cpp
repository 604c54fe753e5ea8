// core/library/cuda/library.cpp -- the library on an NVIDIA GPU.
#include "core/library/cuda/library.h"

#include <utility>

#include "core/base/registry.h"
#include "core/library/arguments.h"
#include "core/library/cuda/code_engines.h"
#include "core/library/cuda/products_of_tensors.h"
#include "core/library/cuda/real_engines.h"

namespace qt {
namespace {

class CudaLibrary final : public Library {
 public:
  CudaLibrary(const std::shared_ptr<MatrixProducts>& products,
              const std::shared_ptr<Convolutions>& convolutions, const CudaLibraryOptions& options)
      : products_(products),
        codes_(products, convolutions, options.column_bytes, options.measure),
        reals_(products, convolutions, options.column_bytes) {}
  std::string name() const override { return "cuda"; }

  Tensor conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape,
                Precision precision) override {
    check_conv2d(x, w, shape);
    return real("conv2d", {ConvolutionPass::forward, type_for(precision), shape}, x, w);
  }

  Tensor direct_conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape) override {
    check_place("conv2d");
    note("conv2d", products_->name(), "f32", shape.text());
    return reals_.run_as_products({ConvolutionPass::forward, ProductType::f32, shape}, x, w);
  }

  DType gradient_type(Precision precision) const override {
    return precision == Precision::bf16 ? DType::bf16 : DType::f32;
  }
  DType data_gradient_type(Precision precision) const override { return gradient_type(precision); }

  Tensor conv2d_backward_data(const Tensor& dy, const Tensor& w, const Conv2dShape& shape,
                              Precision precision) override {
    check_conv2d_backward_data(dy, w, shape);
    return real("conv2d_backward_data",
                {ConvolutionPass::backward_data, type_for(precision), shape}, dy, w);
  }

  bool add_conv2d_backward_data(Tensor& onto, const Tensor& dy, const Tensor& w,
                                const Conv2dShape& shape, Precision precision) override {
    check_conv2d_backward_data(dy, w, shape);
    check_extents("conv2d_backward_data's sum", onto, shape.x_shape());
    check_place("conv2d_backward_data");
    const ConvolutionRequest request{ConvolutionPass::backward_data, type_for(precision), shape,
                                     true};
    if (!reals_.add(onto, request, dy, w)) return false;
    note_real("add_conv2d_backward_data", request);
    return true;
  }

  Tensor conv2d_backward_weights(const Tensor& x, const Tensor& dy, const Conv2dShape& shape,
                                 Precision precision) override {
    check_conv2d_backward_weights(x, dy, shape);
    return real("conv2d_backward_weights",
                {ConvolutionPass::backward_weights, type_for(precision), shape}, x, dy);
  }

  Tensor matmul(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b) override {
    const MatmulExtents e = matmul_extents(a, transpose_a, b, transpose_b);
    check_place("matmul");
    note("matmul", products_->name(), "f32", e.text());
    if (e.m == 0 || e.n == 0 || e.k == 0) return Tensor::zeros({e.m, e.n}, DType::f32);
    Tensor c = Tensor::empty({e.m, e.n}, DType::f32);
    multiply(*products_,
             {.m = e.m,
              .n = e.n,
              .k = e.k,
              .transpose_a = transpose_a,
              .transpose_b = transpose_b,
              .row_a = a.dim(1),
              .row_b = b.dim(1),
              .row_c = e.n},
             a.raw(), b.raw(), c.raw());
    return c;
  }

  EngineChoices engine_choices() const override {
    EngineChoices all = codes_.choices();
    all.merge(reals_.choices());
    return all;
  }
  void take_engines(const EngineChoices& choices) override {
    codes_.take(choices);
    reals_.take(choices);
  }

 protected:
  Tensor integer_conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape) override {
    return codes("conv2d_codes", x, w, shape);
  }

  Tensor integer_linear(const Tensor& x, const Tensor& w) override {
    const Conv2dShape shape = linear_as_conv2d(x, w);
    check_place("linear_codes");
    note("linear_codes", products_->name(), qt::name_of(ProductType::i8), shape.text());
    return codes_.conv2d_as_products(x, w, shape).reshaped({x.dim(0), w.dim(0)});
  }

 private:
  static void check_place(const std::string& operation) {
    QT_CHECK(current_stream().on_gpu,
             operation + " of the library 'cuda' needs a GPU's stream; the CPU's is current");
  }
  static ProductType type_for(Precision precision) {
    return precision == Precision::bf16   ? ProductType::bf16
           : precision == Precision::tf32 ? ProductType::tf32
                                          : ProductType::f32;
  }
  Tensor real(const std::string& operation, const ConvolutionRequest& request, const Tensor& first,
              const Tensor& second) {
    check_place(operation);
    Tensor result = reals_.run(request, first, second);
    note_real(operation, request);
    return result;
  }
  void note_real(const std::string& operation, const ConvolutionRequest& request) {
    if (LibraryTrace::active())
      note(operation, reals_.name_for(request), qt::name_of(request.type), request.shape.text());
  }
  Tensor codes(const std::string& operation, const Tensor& x, const Tensor& w,
               const Conv2dShape& shape) {
    check_place(operation);
    if (LibraryTrace::active())
      note(operation, codes_.name_for(x, w, shape), qt::name_of(ProductType::i8), shape.text());
    return codes_.conv2d(x, w, shape);
  }
  static void note(const std::string& operation, const std::string& kernel,
                   const std::string& arithmetic, const std::string& shape) {
    if (LibraryTrace::active()) LibraryTrace::note({"cuda", operation, kernel, arithmetic, shape});
  }

  std::shared_ptr<MatrixProducts> products_;
  CodeEngines codes_;
  RealEngines reals_;
};

const Registry<Library>::Add add{"cuda", [] {
                                   auto products = open_matrix_products();
                                   return make_cuda_library(products, open_convolutions());
                                 }};

}  // namespace

std::unique_ptr<Library> make_cuda_library(const std::shared_ptr<MatrixProducts>& products,
                                           const std::shared_ptr<Convolutions>& convolutions,
                                           const CudaLibraryOptions& options) {
  QT_CHECK(products != nullptr, "the library 'cuda' was given no products");
  return std::make_unique<CudaLibrary>(products, convolutions, options);
}

}  // namespace qt
