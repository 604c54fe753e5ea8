// tests/emulation/cuda_header_check.cpp -- compiled where CUDA's toolkit is installed: the numbers
// in our cuda_runtime_api.h are the toolkit's.
#include <cuda_runtime_api.h>

static_assert(cudaErrorInvalidValue == 1 && cudaErrorMemoryAllocation == 2 &&
              cudaErrorInvalidConfiguration == 9 && cudaErrorNoDevice == 100 &&
              cudaErrorInvalidResourceHandle == 400 && cudaErrorNotReady == 600 &&
              cudaErrorIllegalAddress == 700 && cudaErrorLaunchOutOfResources == 701 &&
              cudaErrorLaunchFailure == 719 && cudaErrorNotSupported == 801 &&
              cudaErrorStreamCaptureUnsupported == 900 &&
              cudaErrorStreamCaptureInvalidated == 901 && cudaErrorStreamCaptureUnjoined == 904 &&
              cudaErrorStreamCaptureIsolation == 905);
static_assert(cudaMemcpyHostToHost == 0 && cudaMemcpyHostToDevice == 1 &&
              cudaMemcpyDeviceToHost == 2 && cudaMemcpyDeviceToDevice == 3 &&
              cudaMemcpyDefault == 4);
static_assert(cudaStreamCaptureModeGlobal == 0 && cudaStreamCaptureModeThreadLocal == 1 &&
              cudaStreamCaptureModeRelaxed == 2 && cudaStreamCaptureStatusNone == 0 &&
              cudaStreamCaptureStatusActive == 1 && cudaStreamCaptureStatusInvalidated == 2);
static_assert(cudaMemPoolAttrReleaseThreshold == 4 && cudaMemPoolAttrReservedMemCurrent == 5 &&
              cudaGraphMemAttrReservedMemCurrent == 2 && cudaStreamNonBlocking == 1 &&
              cudaEventDisableTiming == 2);
