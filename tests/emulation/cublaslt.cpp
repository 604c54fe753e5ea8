// tests/emulation/cublaslt.cpp -- cuBLASLt on the emulated GPU: matrix products by plain loops over
// the layouts it is given, refused where NVIDIA's documentation of cublasLtMatmul() says that
// Hopper does not do them.
#include <cublasLt.h>

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/emulation/emulator.h"
#include "tests/emulation/gpu.h"
#include "tests/emulation/runtime.h"

namespace emulator {
namespace {

// ---- what descriptors hold ----
struct Operation {
  cublasComputeType_t compute;
  cudaDataType_t scale;
  int32_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
};
struct Layout {
  cudaDataType_t type;
  int64_t rows, columns, leading;
  int32_t batch = 1;
  int64_t distance = 0;
  bool operator==(const Layout&) const = default;
};
struct Preference {
  uint64_t workspace = 0;
  uint32_t alignment[4] = {256, 256, 256, 256};  // of A, B, C, D
};
struct Context {};

template <class Handle, class Thing>
class Things {
 public:
  template <class... Values>
  cublasStatus_t create(Handle* handle, Values... values) {
    auto made = std::make_unique<Thing>(Thing{values...});
    *handle = reinterpret_cast<Handle>(made.get());
    all_.emplace(*handle, std::move(made));
    return CUBLAS_STATUS_SUCCESS;
  }
  cublasStatus_t destroy(Handle handle) {
    return all_.erase(handle) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
  }
  Thing* find(Handle handle) {
    const auto found = all_.find(handle);
    return found == all_.end() ? nullptr : found->second.get();
  }

 private:
  std::map<Handle, std::unique_ptr<Thing>> all_;
};
Things<cublasLtHandle_t, Context> contexts;
Things<cublasLtMatmulDesc_t, Operation> operations;
Things<cublasLtMatrixLayout_t, Layout> layouts;
Things<cublasLtMatmulPreference_t, Preference> preferences;

// An attribute of the documented type, or an error.
template <class T>
cublasStatus_t set(T& to, const void* value, size_t bytes) {
  if (!value || bytes != sizeof to) return CUBLAS_STATUS_INVALID_VALUE;
  memcpy(&to, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

size_t size_of(cudaDataType_t type) { return type == CUDA_R_8I ? 1 : type == CUDA_R_16BF ? 2 : 4; }

// ---- what is supported ----
// D = A B, column-major: D is m x n, op(A) m x k, op(B) k x n.
struct Product {
  Operation operation;
  Layout a, b, d;
  int64_t m() const { return d.rows; }
  int64_t n() const { return d.columns; }
  int64_t k() const { return operation.transpose_a == CUBLAS_OP_N ? a.columns : a.rows; }
  bool is_int8() const { return operation.compute == CUBLAS_COMPUTE_32I; }
};

cublasStatus_t check_types(const Product& p) {
  const Operation& o = p.operation;
  const bool same = p.a.type == p.b.type;
  bool known = false;
  switch (o.compute) {
    case CUBLAS_COMPUTE_32I:
      known = o.scale == CUDA_R_32I && p.a.type == CUDA_R_8I && p.d.type == CUDA_R_32I;
      break;
    case CUBLAS_COMPUTE_32F:
    case CUBLAS_COMPUTE_32F_PEDANTIC:
      known = o.scale == CUDA_R_32F && p.d.type == CUDA_R_32F &&
              (p.a.type == CUDA_R_32F || p.a.type == CUDA_R_16BF);
      break;
    case CUBLAS_COMPUTE_32F_FAST_TF32:
      known = o.scale == CUDA_R_32F && p.d.type == CUDA_R_32F && p.a.type == CUDA_R_32F;
      break;
    default: break;
  }
  return same && known ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

bool is_consistent(const Layout& l) {
  return l.rows > 0 && l.columns > 0 && l.leading >= l.rows && l.batch >= 1;
}

int64_t fewest_rows = 0;  // of products of codes

cublasStatus_t check_product(const Product& p) {
  const Operation& o = p.operation;
  if (!is_consistent(p.a) || !is_consistent(p.b) || !is_consistent(p.d))
    return CUBLAS_STATUS_INVALID_VALUE;
  const bool ta = o.transpose_a == CUBLAS_OP_T, tb = o.transpose_b == CUBLAS_OP_T;
  if ((ta ? p.a.columns : p.a.rows) != p.m() || (tb ? p.b.rows : p.b.columns) != p.n() ||
      (tb ? p.b.columns : p.b.rows) != p.k() || p.a.batch != p.d.batch || p.b.batch != p.d.batch)
    return CUBLAS_STATUS_INVALID_VALUE;
  if (const cublasStatus_t status = check_types(p)) return status;
  // "To use IMMA kernels ... using a regular data ordering": only TN; m, k and leading dimensions
  // multiples of 4.
  if (p.is_int8() && (!ta || tb || p.m() % 4 || p.k() % 4 || p.a.leading % 4 || p.b.leading % 4 ||
                      p.d.leading % 4))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  return CUBLAS_STATUS_SUCCESS;
}

// The alignment in bytes that addresses and distances of matrices need.
size_t needed_alignment(const Product& p, const Layout& l) {
  return p.is_int8() ? 16 : size_of(l.type);
}
bool is_aligned(const Product& p, const Layout& l, const void* address) {
  const size_t needed = needed_alignment(p, l);
  return reinterpret_cast<uintptr_t>(address) % needed == 0 &&
         (l.batch == 1 || size_t(l.distance) * size_of(l.type) % needed == 0);
}

// ---- algorithms ----
// What the heuristic hands out works for the product it was asked about, with the alignment it was
// told of and a workspace of this size, and for nothing else.
constexpr size_t algorithm_workspace = 768;
struct Algorithm {
  uint64_t product, alignment[4];
};
static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t));

uint64_t fingerprint(const Product& p) {
  uint64_t hash = 1469598103934665603u;
  const auto add = [&](int64_t number) { hash = (hash ^ uint64_t(number)) * 1099511628211u; };
  for (const int64_t number : {int64_t(p.operation.compute), int64_t(p.operation.scale),
                               int64_t(p.operation.transpose_a), int64_t(p.operation.transpose_b)})
    add(number);
  for (const Layout* l : {&p.a, &p.b, &p.d})
    for (const int64_t number :
         {int64_t(l->type), l->rows, l->columns, l->leading, int64_t(l->batch), l->distance})
      add(number);
  return hash;
}

// ---- arithmetic ----
float rounded_to_tf32(float v) {
  uint32_t u;
  memcpy(&u, &v, 4);
  if ((u & 0x7f800000u) != 0x7f800000u) u = (u + 0xfffu + ((u >> 13) & 1u)) & ~0x1fffu;
  memcpy(&v, &u, 4);
  return v;
}

double element(const char* base, const Layout& l, cublasComputeType_t compute, int64_t batch,
               int64_t row, int64_t column) {
  const int64_t at = batch * l.distance + column * l.leading + row;
  const char* const from = base + at * int64_t(size_of(l.type));
  if (l.type == CUDA_R_8I) return *reinterpret_cast<const int8_t*>(from);
  uint32_t bits = 0;
  if (l.type == CUDA_R_16BF) {
    uint16_t half;
    memcpy(&half, from, 2);
    bits = uint32_t(half) << 16;
  } else {
    memcpy(&bits, from, 4);
  }
  float value;
  memcpy(&value, &bits, 4);
  return compute == CUBLAS_COMPUTE_32F_FAST_TF32 ? rounded_to_tf32(value) : value;
}

// int8: whole numbers, exact in double while the sum fits int32. Floats: one double sum, rounded
// once: a GPU's f32 sums differ from it in the last bits.
void store(const Product& p, char* to, double sum, double alpha, double beta) {
  if (p.d.type == CUDA_R_32I) {
    int32_t before;
    memcpy(&before, to, 4);
    const auto value = int32_t(alpha * sum + (beta ? beta * before : 0));
    memcpy(to, &value, 4);
  } else {
    float before;
    memcpy(&before, to, 4);
    const auto value = float(alpha * sum + (beta ? beta * double(before) : 0));
    memcpy(to, &value, 4);
  }
}

struct Addresses {
  const char *a, *b;
  char *d, *workspace;
};

void multiply(const Product& p, const Addresses& at, double alpha, double beta) {
  const bool ta = p.operation.transpose_a == CUBLAS_OP_T,
             tb = p.operation.transpose_b == CUBLAS_OP_T;
  const auto compute = p.operation.compute;
  for (int64_t batch = 0; batch < p.d.batch; ++batch)
    for (int64_t j = 0; j < p.n(); ++j)
      for (int64_t i = 0; i < p.m(); ++i) {
        double sum = 0;
        for (int64_t q = 0; q < p.k(); ++q)
          sum += element(at.a, p.a, compute, batch, ta ? q : i, ta ? i : q) *
                 element(at.b, p.b, compute, batch, tb ? j : q, tb ? q : j);
        store(p, at.d + (batch * p.d.distance + j * p.d.leading + i) * 4, sum, alpha, beta);
      }
  memset(at.workspace, 0x5a, algorithm_workspace);
}

// ---- memory ----
size_t extent(const Layout& l) {
  return size_t((l.batch - 1) * l.distance + (l.columns - 1) * l.leading + l.rows) *
         size_of(l.type);
}
void check_block(const void* address, size_t bytes, const char* what) {
  if (!find_block(address, bytes))
    throw Violation(std::string("cublasLtMatmul: ") + what + " is not " + std::to_string(bytes) +
                    " bytes of device memory that is allocated");
}
void check_memory(const Product& p, const Addresses& at) {
  check_block(at.a, extent(p.a), "A");
  check_block(at.b, extent(p.b), "B");
  check_block(at.d, extent(p.d), "D");
  check_block(at.workspace, algorithm_workspace, "the workspace");
  const auto overlap = [](const char* x, size_t nx, const char* y, size_t ny) {
    return x < y + ny && y < x + nx;
  };
  for (const auto& [from, bytes] : {std::pair{at.a, extent(p.a)}, std::pair{at.b, extent(p.b)}})
    if (overlap(at.d, extent(p.d), from, bytes) ||
        overlap(at.workspace, algorithm_workspace, from, bytes))
      throw Violation("cublasLtMatmul: D or the workspace overlaps A or B");
}

double factor(const Product& p, const void* address) {
  if (p.operation.scale == CUDA_R_32I) return *static_cast<const int32_t*>(address);
  return double(*static_cast<const float*>(address));
}

}  // namespace

void offer_products_from(int64_t rows) { fewest_rows = rows; }

}  // namespace emulator

using namespace emulator;

extern "C" {  // NOLINTBEGIN(readability-identifier-naming)

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) { return contexts.create(handle); }
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return contexts.destroy(handle); }
size_t cublasLtGetVersion() { return 0; }
const char* cublasLtGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
    case CUBLAS_STATUS_EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
    default: return "a status the emulator does not know";
  }
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* operation,
                                        cublasComputeType_t compute, cudaDataType_t scale) {
  return operations.create(operation, compute, scale);
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation) {
  return operations.destroy(operation);
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation,
                                              cublasLtMatmulDescAttributes_t which,
                                              const void* value, size_t bytes) {
  Operation* const o = operations.find(operation);
  if (!o) return CUBLAS_STATUS_INVALID_VALUE;
  switch (which) {
    case CUBLASLT_MATMUL_DESC_TRANSA: return set(o->transpose_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB: return set(o->transpose_b, value, bytes);
    default: return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                          uint64_t rows, uint64_t columns, int64_t leading) {
  return layouts.create(layout, type, int64_t(rows), int64_t(columns), leading);
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  return layouts.destroy(layout);
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t which,
                                                const void* value, size_t bytes) {
  Layout* const l = layouts.find(layout);
  if (!l) return CUBLAS_STATUS_INVALID_VALUE;
  switch (which) {
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: return set(l->batch, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET: return set(l->distance, value, bytes);
    default: return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  return preferences.create(preference);
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  return preferences.destroy(preference);
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t which,
                                                    const void* value, size_t bytes) {
  Preference* const p = preferences.find(preference);
  if (!p) return CUBLAS_STATUS_INVALID_VALUE;
  switch (which) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return set(p->workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: return set(p->alignment[0], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: return set(p->alignment[1], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: return set(p->alignment[2], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return set(p->alignment[3], value, bytes);
    default: return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle,
                                              cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int* found) {
  *found = 0;
  const Preference* const want = preferences.find(preference);
  if (!contexts.find(handle) || !operations.find(operation) || !layouts.find(a) ||
      !layouts.find(b) || !layouts.find(c) || !layouts.find(d) || !want || wanted < 1)
    return CUBLAS_STATUS_INVALID_VALUE;
  const Product p{*operations.find(operation), *layouts.find(a), *layouts.find(b),
                  *layouts.find(d)};
  if (!(*layouts.find(c) == p.d)) return CUBLAS_STATUS_INVALID_VALUE;
  if (const cublasStatus_t status = check_product(p)) return status;
  if (p.is_int8() && p.n() < fewest_rows) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (want->workspace < algorithm_workspace) return CUBLAS_STATUS_NOT_SUPPORTED;
  Algorithm algorithm{fingerprint(p), {}};
  const Layout* const all[] = {&p.a, &p.b, &p.d, &p.d};
  for (int i = 0; i < 4; ++i) {
    algorithm.alignment[i] = want->alignment[i];
    if (want->alignment[i] < needed_alignment(p, *all[i])) return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  results[0] = {};
  memcpy(&results[0].algo, &algorithm, sizeof algorithm);
  results[0].workspaceSize = algorithm_workspace;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                              const void* alpha, const void* a, cublasLtMatrixLayout_t a_layout,
                              const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
                              const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo,
                              void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  if (before_call(stream)) return CUBLAS_STATUS_EXECUTION_FAILED;
  if (!contexts.find(handle) || !operations.find(operation) || !layouts.find(a_layout) ||
      !layouts.find(b_layout) || !layouts.find(c_layout) || !layouts.find(d_layout) || !algo)
    return CUBLAS_STATUS_INVALID_VALUE;
  const Product p{*operations.find(operation), *layouts.find(a_layout), *layouts.find(b_layout),
                  *layouts.find(d_layout)};
  if (c != d || !(*layouts.find(c_layout) == p.d)) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (const cublasStatus_t status = check_product(p)) return status;
  Algorithm algorithm;
  memcpy(&algorithm, algo, sizeof algorithm);
  const void* const addresses[] = {a, b, c, d};
  for (int i = 0; i < 4; ++i)
    if (reinterpret_cast<uintptr_t>(addresses[i]) % algorithm.alignment[i])
      return CUBLAS_STATUS_INVALID_VALUE;
  if (algorithm.product != fingerprint(p) || workspace_bytes < algorithm_workspace)
    return CUBLAS_STATUS_INVALID_VALUE;
  if (!is_aligned(p, p.a, a) || !is_aligned(p, p.b, b) || !is_aligned(p, p.d, d))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  const Addresses at{static_cast<const char*>(a), static_cast<const char*>(b),
                     static_cast<char*>(d), static_cast<char*>(workspace)};
  check_memory(p, at);
  // Memory that is not the graph's own may have been freed when the graph runs.
  std::vector<const void*> used{a, b, d, workspace};
  std::erase_if(used, [&](const void* address) {
    return !stream->capture || find_block(address, 0)->owner == stream->capture;
  });
  gpu().streams.enqueue(stream, [p, at, used, alpha = factor(p, alpha), beta = factor(p, beta)] {
    for (const void* address : used)
      if (!find_block(address, 0))
        throw Violation("cublasLtMatmul: a graph uses device memory that was freed");
    if (!gpu().sticky) multiply(p, at, alpha, beta);
  });
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C" NOLINTEND(readability-identifier-naming)
