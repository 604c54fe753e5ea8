// train/gpu_input.h -- training pictures on their way to a GPU: copied from pinned memory by a
// stream of their own while the step before computes.
#pragma once
#include <array>
#include <exception>
#include <optional>

#include "core/device/gpu.h"
#include "data/loader.h"

namespace qt {

// The pictures of one forward pass, in the GPU's memory.
struct GpuBatch {
  Tensor images;  // u8 [n, height, width, 3]: cropped and mirrored
  Tensor labels;  // i64 [n]
  int64_t global_samples = 0;
};

// The loader's workers write pictures into pinned memory, from where they are copied as they are.
// Two buffers, each GPU memory for one batch, and pinned memory for its labels and windows. Three
// orders hold: the copy waits until the pass that last read the GPU's buffer has done so, that pass
// waits for the copy, and the host waits for the copy before it fills the buffer again.
class GpuInput {
 public:
  // The loader must have LoaderSpec::windows_later; labels must be 0 .. classes - 1, as DataError
  // says where they are not.
  GpuInput(Loader& loader, int64_t classes);
  ~GpuInput();
  GpuInput(const GpuInput&) = delete;
  GpuInput& operator=(const GpuInput&) = delete;

  void start_epoch(int epoch, int64_t first_batch);
  // The next batch, for what current_stream() (a GPU's) is given from now on; false at the end of
  // the epoch. Written over the tensors in `batch` where they have its extents, which so keep their
  // addresses.
  bool next(GpuBatch& batch);
  // Begins to copy the batch after: to be called when the work on this one has been enqueued. What
  // the loader throws comes out of next().
  void prefetch();

 private:
  struct Buffer {
    Tensor pictures;               // pinned, of the batch that is copied
    std::shared_ptr<void> pinned;  // windows and labels
    Tensor memory;                 // u8, on the GPU: pictures, windows, labels
    GpuEvent copied, read;         // on the copying stream, and on the one that computes
    bool in_use = false, full = false;
    int64_t samples = 0, global_samples = 0;
    size_t windows_at = 0, labels_at = 0, bytes = 0;
  };
  void fill(Buffer& buffer, const Batch& batch);
  void check_labels(const Batch& batch) const;

  Loader& loader_;
  int64_t classes_;
  GpuStream copying_;
  Stream computing_;
  std::array<Buffer, 2> buffers_;
  size_t next_ = 0;  // the buffer that next() hands out
  std::exception_ptr failure_;
};

}  // namespace qt
