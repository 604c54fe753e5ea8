// train/statistics.h -- what quantization does to each layer, measured on one batch.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "data/dataset.h"
#include "layers/model.h"
#include "train/metrics.h"

namespace qt {

struct LayerStatistics {
  std::string name;  // "layer1.0.conv1": what the unit emits, "layer1.0.conv1.weight"
  double step = 0;   // mean over channels
  double clipped =
      0;  // share of values that round to no code; of unsigned codes only those above hi
  int codes_used = 0;       // different codes that occur
  int codes_possible = 0;   // hi - lo + 1
  double sqnr = 0;          // signal to quantization noise of the finite values within reach, dB
  HistogramBars histogram;  // of the finite real values
};

// real: f32; codes: i8 or u8 of its shape with step [1], or [k] per first-axis channel.
LayerStatistics statistics_of(const std::string& name, const Tensor& real, const Tensor& codes);

// At most `most` pictures as evaluation takes them, from all over the set at even distances
// (folders list one class after the other): u8 [n, h, w, 3].
Tensor pictures_over(const Dataset& set, int64_t most);

// One evaluation pass over images (of the host's memory) with an observer: weights, what units and
// adds emit, and the pool, in the order of the pass.
std::vector<LayerStatistics> layer_statistics(Model& model, const Tensor& images, ForwardMode mode);

// Scalars quant/{step,clipped,codes_used,sqnr_db}/NAME, and for TensorBoard histograms values/NAME.
void write_statistics(MetricsLog& metrics, int64_t step, int64_t epoch,
                      const std::vector<LayerStatistics>& layers);

}  // namespace qt
