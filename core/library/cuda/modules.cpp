// core/library/cuda/modules.cpp -- opens the modules that are linked with NVIDIA's libraries. They
// lie beside the program; without them, and without a driver, the program runs on the CPU.
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <filesystem>

#include "core/base/log.h"
#include "core/device/cuda/handle.h"
#include "core/library/cuda/library.h"

namespace qt {
namespace {

void check_device() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  static_cast<void>(cudaGetLastError());
  if (status != cudaSuccess || count == 0)
    throw ConfigError(
        std::string("no CUDA device: ") +
        (status == cudaSuccess ? "the driver lists none" : cudaGetErrorString(status)) +
        "; the library 'cuda' needs an NVIDIA GPU and its driver, the CPU's is "
        "'onednn'");
}

void* symbol_of_module(const std::string& file, const char* symbol, const std::string& library) {
  const std::string path =
      (std::filesystem::read_symlink("/proc/self/exe").parent_path() / file).string();
  void* const module = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!module)
    throw ConfigError("the module for " + library + " cannot be loaded: " + dlerror() +
                      "; it was built where CMake found " + library +
                      ", and needs its shared library at run time (LD_LIBRARY_PATH)");
  void* const found = dlsym(module, symbol);
  if (!found) throw ConfigError(path + " is not this program's module for " + library);
  return found;
}

}  // namespace

// What a module makes is never destroyed: libraries live in static objects, and the driver may end
// before them.
std::shared_ptr<MatrixProducts> open_matrix_products() {
  check_device();
  const auto open = reinterpret_cast<MatrixProducts* (*)()>(
      symbol_of_module("qattrain_cublaslt.so", open_matrix_products_symbol, "cuBLASLt"));
  return {std::shared_ptr<void>(), open()};
}

std::shared_ptr<Convolutions> open_convolutions() {
  check_device();
  int device = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  try {
    const auto open = reinterpret_cast<Convolutions* (*)(int)>(
        symbol_of_module("qattrain_cudnn.so", open_convolutions_symbol, "cuDNN"));
    return {std::shared_ptr<void>(), open(device)};
  } catch (const Error& error) {
    log::warn(std::string(error.what()) + "; convolutions run as matrix products");
    return nullptr;
  }
}

}  // namespace qt
