// train/events.h -- TensorBoard event files, written without protobuf or TensorFlow.
//
// A file is a sequence of records u64le length | u32le masked_crc32c(length) | data | u32le
// masked_crc32c(data), the data an Event message of tensorflow/core/util/event.proto. Each record
// is one write(), so a reader meets whole records and at worst one torn tail. Files are never
// appended to: a resumed run opens another one and calls session_start().
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/files.h"

namespace qt {

namespace tfrecord {

uint32_t crc32c(std::string_view bytes);    // Castagnoli; crc32c("123456789") = 0xe3069283
uint32_t masked(uint32_t crc);              // rotr(crc, 15) + 0xa282ead8
std::string framed(std::string_view data);  // one record

// Event messages without their frame. wall_time in seconds since 1970.
std::string file_version_event(double wall_time);
std::string scalar_event(double wall_time, int64_t step, const std::string& tag, float value);

}  // namespace tfrecord

// k bars: [left, right) holds count values. The three lists have the same length.
struct HistogramBars {
  std::vector<double> left, right, count;
};

// CheckpointError where the file cannot be written.
class EventWriter {
 public:
  static constexpr double now = -1;

  // A new file events.out.tfevents.<time>.<host>.<process>.<serial> in the folder, which is made if
  // needed.
  explicit EventWriter(const std::string& folder, double wall_time = now);

  // Tells readers that points from `step` on, written by earlier files of the run, no longer count.
  // TensorBoard takes the first such event of a run as its beginning and drops points from the
  // second on: a fresh run starts with 0.
  void session_start(int64_t step, double wall_time = now);
  void scalar(const std::string& tag, int64_t step, double value, double wall_time = now);
  void histogram(const std::string& tag, int64_t step, const HistogramBars& bars,
                 double wall_time = now);
  void text(const std::string& tag, int64_t step, const std::string& markdown,
            double wall_time = now);
  // One picture, already encoded (PNG, JPEG).
  void image(const std::string& tag, int64_t step, int width, int height,
             const std::string& encoded, double wall_time = now);
  void sync() { file_.sync(); }
  const std::string& path() const { return file_.path(); }

 private:
  void write(const std::string& event) { file_.append(tfrecord::framed(event)); }
  files::RecordFile file_;
};

}  // namespace qt
