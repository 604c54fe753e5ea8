// train/metrics.h -- the numbers of a run: metrics.jsonl, and the same as TensorBoard scalars.
//
//   {"step":120,"epoch":3,"train/loss":1.25,"eval/top1":91.2}
//
// metrics.jsonl has one such object a line. JSON knows no NaN: those values are the strings "NaN",
// "Infinity" and "-Infinity", which Python's float() and JavaScript's Number() read.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/base/files.h"
#include "train/events.h"

namespace qt {

using NamedValues = std::vector<std::pair<std::string, double>>;

// Where a checkpoint stands: steps done, the epoch of the last one (from 1; 0: none), and whether
// that epoch has not ended: its evaluation is still to come.
struct MetricsEnd {
  int64_t step = 0, epoch = 0;
  bool within_epoch = false;
};

class MetricsLog {
 public:
  // Opens <run>/metrics.jsonl and a new event file in <run>. With resumed_from ({0, 0} where the
  // run starts over) lines behind it are cut off first, as are damaged ones, so that nothing is
  // listed twice. Without it the file must be new or empty. CheckpointError where that fails.
  explicit MetricsLog(const std::string& run_folder, std::optional<MetricsEnd> resumed_from = {});

  void write(int64_t step, int64_t epoch, const NamedValues& values);
  EventWriter& events() { return events_; }  // histograms, texts, pictures
  void sync();                               // to the disk; before each checkpoint

 private:
  files::RecordFile lines_;
  EventWriter events_;
};

std::string metrics_line(int64_t step, int64_t epoch,
                         const NamedValues& values);  // ends with a newline

}  // namespace qt
