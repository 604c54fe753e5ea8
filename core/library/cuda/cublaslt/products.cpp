// core/library/cuda/cublaslt/products.cpp -- matrix products by cuBLASLt: one plan per product,
// chosen by its heuristic with a workspace.
#include <cublasLt.h>

#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "core/base/error.h"
#include "core/device/cuda/handle.h"
#include "core/library/cuda/matrix_products.h"

namespace qt {
namespace {

// Enough for every algorithm that splits sums on Hopper; what an algorithm does not need is not
// allocated.
constexpr uint64_t workspace_limit = uint64_t{32} << 20;

void check(cublasStatus_t status, const char* call, const MatrixProduct& product) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw InternalError(std::string(call) + " for the product " + product.text() + ": " +
                      cublasLtGetStatusString(status));
}

struct Types {
  cublasComputeType_t compute;
  cudaDataType_t scale, operand, result;
};
Types types_of(ProductType type) {
  switch (type) {
    case ProductType::i8: return {CUBLAS_COMPUTE_32I, CUDA_R_32I, CUDA_R_8I, CUDA_R_32I};
    case ProductType::bf16: return {CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_16BF, CUDA_R_32F};
    case ProductType::tf32:
      return {CUBLAS_COMPUTE_32F_FAST_TF32, CUDA_R_32F, CUDA_R_32F, CUDA_R_32F};
    default:
      // Pedantic: no environment variable and no later version may put TF32 or emulated sums here.
      return {CUBLAS_COMPUTE_32F_PEDANTIC, CUDA_R_32F, CUDA_R_32F, CUDA_R_32F};
  }
}

// cuBLASLt counts matrices by columns. A row-major matrix is, by columns, its own transpose, so c =
// op(a) op(b) is asked for as c' = op(b)' op(a)': its first factor is our b, its m our n.
class Plan {
 public:
  Plan(cublasLtHandle_t handle, const MatrixProduct& p, size_t alignment) : product_(p) {
    const Types types = types_of(p.type);
    cublasLtMatmulDesc_t operation = nullptr;
    check(cublasLtMatmulDescCreate(&operation, types.compute, types.scale),
          "cublasLtMatmulDescCreate", p);
    operation_ = owned(operation, cublasLtMatmulDescDestroy);
    set_transpose(CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_b);
    set_transpose(CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_a);
    first_ = layout(types.operand, p.transpose_b ? p.k : p.n, p.transpose_b ? p.n : p.k, p.row_b,
                    p.batch_b);
    second_ = layout(types.operand, p.transpose_a ? p.m : p.k, p.transpose_a ? p.k : p.m, p.row_a,
                     p.batch_a);
    result_ = layout(types.result, p.n, p.m, p.row_c, p.batch_c);
    choose(handle, alignment);
  }

  bool is_offered() const { return offered_; }
  size_t workspace() const { return choice_.workspaceSize; }
  void run(cublasLtHandle_t handle, const void* a, const void* b, void* c, void* workspace,
           cudaStream_t stream) const {
    union Factor {
      float real;
      int32_t whole;
    };
    Factor one, more;
    if (product_.type == ProductType::i8) {
      one.whole = 1;
      more.whole = product_.accumulate;
    } else {
      one.real = 1;
      more.real = product_.accumulate ? 1 : 0;
    }
    check(cublasLtMatmul(handle, as<cublasLtMatmulDesc_t>(operation_), &one, b,
                         as<cublasLtMatrixLayout_t>(first_), a, as<cublasLtMatrixLayout_t>(second_),
                         &more, c, as<cublasLtMatrixLayout_t>(result_), c,
                         as<cublasLtMatrixLayout_t>(result_), &choice_.algo, workspace,
                         choice_.workspaceSize, stream),
          "cublasLtMatmul", product_);
  }

 private:
  void set_transpose(cublasLtMatmulDescAttributes_t which, bool transpose) {
    const cublasOperation_t operation = transpose ? CUBLAS_OP_T : CUBLAS_OP_N;
    check(cublasLtMatmulDescSetAttribute(as<cublasLtMatmulDesc_t>(operation_), which, &operation,
                                         sizeof operation),
          "cublasLtMatmulDescSetAttribute", product_);
  }

  std::shared_ptr<void> layout(cudaDataType_t type, int64_t rows, int64_t columns, int64_t leading,
                               int64_t distance) {
    cublasLtMatrixLayout_t made = nullptr;
    check(cublasLtMatrixLayoutCreate(&made, type, uint64_t(rows), uint64_t(columns), leading),
          "cublasLtMatrixLayoutCreate", product_);
    auto layout = owned(made, cublasLtMatrixLayoutDestroy);
    if (product_.batch > 1) {
      const auto count = int32_t(product_.batch);
      const auto set = [&](cublasLtMatrixLayoutAttribute_t which, const auto& value) {
        check(cublasLtMatrixLayoutSetAttribute(made, which, &value, sizeof value),
              "cublasLtMatrixLayoutSetAttribute", product_);
      };
      set(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, count);
      set(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, distance);
    }
    return layout;
  }

  void choose(cublasLtHandle_t handle, size_t alignment) {
    cublasLtMatmulPreference_t made = nullptr;
    check(cublasLtMatmulPreferenceCreate(&made), "cublasLtMatmulPreferenceCreate", product_);
    const auto preference = owned(made, cublasLtMatmulPreferenceDestroy);
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t which, const auto& value) {
      check(cublasLtMatmulPreferenceSetAttribute(made, which, &value, sizeof value),
            "cublasLtMatmulPreferenceSetAttribute", product_);
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_limit);
    const auto bytes = uint32_t(alignment);
    for (const auto which :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      set(which, bytes);
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle, as<cublasLtMatmulDesc_t>(operation_), as<cublasLtMatrixLayout_t>(first_),
        as<cublasLtMatrixLayout_t>(second_), as<cublasLtMatrixLayout_t>(result_),
        as<cublasLtMatrixLayout_t>(result_), made, 1, &choice_, &found);
    const bool none =
        status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_SUCCESS && found == 0);
    if (none && product_.suits_int8() && alignment % 16 == 0) {
      offered_ = false;
      return;
    }
    check(status, "cublasLtMatmulAlgoGetHeuristic", product_);
    QT_CHECK(found == 1, "cuBLASLt has no algorithm for the product " + product_.text());
    check(choice_.state, "cublasLtMatmulAlgoGetHeuristic's choice", product_);
  }

  MatrixProduct product_;
  bool offered_ = true;
  std::shared_ptr<void> operation_, first_, second_, result_;
  cublasLtMatmulHeuristicResult_t choice_{};
};

class CublasLt final : public MatrixProducts {
 public:
  CublasLt() {
    cublasLtHandle_t handle = nullptr;
    const cublasStatus_t status = cublasLtCreate(&handle);
    QT_CHECK(status == CUBLAS_STATUS_SUCCESS,
             std::string("cublasLtCreate: ") + cublasLtGetStatusString(status));
    handle_ = owned(handle, cublasLtDestroy);
  }

  std::string name() const override {
    const size_t version = cublasLtGetVersion();
    return "cuBLASLt " + std::to_string(version / 10000) + "." +
           std::to_string(version / 100 % 100) + "." + std::to_string(version % 100);
  }
  bool offers(const MatrixProduct& product, size_t alignment) override {
    return plan(product, alignment).is_offered();
  }
  size_t workspace(const MatrixProduct& product, size_t alignment) override {
    return plan(product, alignment).workspace();
  }
  void run(const MatrixProduct& product, size_t alignment, const void* a, const void* b, void* c,
           void* workspace, Stream stream) override {
    plan(product, alignment)
        .run(as<cublasLtHandle_t>(handle_), a, b, c, workspace, qt::handle(stream));
  }

 private:
  // Plans are never dropped, so a reference stays good.
  const Plan& plan(const MatrixProduct& product, size_t alignment) {
    const std::lock_guard lock(mutex_);
    auto& plan = plans_[{product, alignment}];
    if (!plan) plan = std::make_unique<Plan>(as<cublasLtHandle_t>(handle_), product, alignment);
    return *plan;
  }

  std::shared_ptr<void> handle_;
  std::mutex mutex_;
  std::map<std::pair<MatrixProduct, size_t>, std::unique_ptr<Plan>> plans_;
};

}  // namespace
}  // namespace qt

extern "C" qt::MatrixProducts* qattrain_open_matrix_products() {
  return std::make_unique<qt::CublasLt>().release();
}
