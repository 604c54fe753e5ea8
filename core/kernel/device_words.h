// core/kernel/device_words.h -- what a kernel file may use of CUDA, in words that a test can give
// another meaning.
//
//   launch(kernel, grid, block, dynamic shared bytes, cudaStream_t, arguments...)
//   SHARED(type, name, count);            an array in the block's shared memory
//   dynamic_shared<T>()                   the shared memory that the launch asked for
//   store_vector(to, value)               one store of up to 16 bytes, to global memory
//   UNROLLED for (...)                    an array that it indexes may stay in registers
//   AS_WRITTEN for (...)                  not unrolled: code for the rare case
//   threadIdx, blockIdx, blockDim, gridDim, __syncthreads, __syncwarp, __shfl_*_sync, __ballot_sync
//
// Under nvcc these are CUDA. QT_DEVICE_WORDS names a header that gives them to another compiler:
// tests/emulation executes the kernels with it. With neither there is no device code.
#pragma once
#if defined(__CUDACC__)
#define QT_DEVICE_CODE 1
#include <cuda_runtime.h>

#include <cstddef>

#define SHARED(type, name, count) __shared__ type name[count]
#define UNROLLED _Pragma("unroll")
#define AS_WRITTEN _Pragma("unroll 1")

namespace qt::kernel {

template <class T>
__device__ T* dynamic_shared() {
  extern __shared__ uint4 dynamic_shared_memory[];
  return reinterpret_cast<T*>(dynamic_shared_memory);
}

template <class Scalar>
__device__ void store_vector(Scalar* to, Scalar value) {
  *to = value;
}
__device__ inline void store_vector(uint2* to, uint2 v) {
  asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(to)), "r"(v.x),
               "r"(v.y)
               : "memory");
}
__device__ inline void store_vector(uint4* to, uint4 v) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
               "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
            cudaStream_t stream, Arguments... arguments) {
  kernel<<<grid, block, shared, stream>>>(arguments...);
}

}  // namespace qt::kernel
#elif defined(QT_DEVICE_WORDS)
#define QT_DEVICE_CODE 1
#include QT_DEVICE_WORDS
#endif
