// train/statistics.cpp -- clipped shares, used codes, signal to noise and histograms.
#include "train/statistics.h"

#include <algorithm>
#include <array>
#include <bitset>
#include <cmath>
#include <limits>

#include "core/autograd/tape.h"
#include "core/tensor/transfer.h"

namespace qt {
namespace {

constexpr int bars = 48;

class Collector : public Observer {
 public:
  void quantized(const std::string& name, const Tensor& real, const Tensor& codes) override {
    list.push_back(statistics_of(name, on_host(real), on_host(codes)));
  }
  std::vector<LayerStatistics> list;
};

// Of the finite ones; no bars where there is none.
HistogramBars histogram_of(const float* values, int64_t count) {
  float least = std::numeric_limits<float>::infinity(), most = -least;
  for (int64_t i = 0; i < count; ++i)
    if (std::isfinite(values[i]))
      least = std::min(least, values[i]), most = std::max(most, values[i]);
  HistogramBars histogram;
  if (least > most) return histogram;
  const double width = std::max((double(most) - least) / bars, 1e-12);
  for (int k = 0; k < bars; ++k) {
    histogram.left.push_back(least + k * width);
    histogram.right.push_back(least + (k + 1) * width);
    histogram.count.push_back(0);
  }
  for (int64_t i = 0; i < count; ++i)
    if (std::isfinite(values[i]))
      ++histogram.count[size_t(std::min(bars - 1, int((double(values[i]) - least) / width)))];
  return histogram;
}

}  // namespace

LayerStatistics statistics_of(const std::string& name, const Tensor& real, const Tensor& codes) {
  LayerStatistics s;
  s.name = name;
  const auto steps = codes.step().to_vector<float>();
  for (float step : steps) s.step += double(step) / double(steps.size());
  s.codes_possible = codes.hi() - codes.lo() + 1;
  const int64_t count = real.elements();
  if (count == 0) return s;
  const int64_t per_channel = count / int64_t(steps.size());
  const bool is_signed = codes.dtype() == DType::i8;
  const float* values = real.data<float>();
  std::bitset<256> used;
  int64_t clipped = 0;
  double signal = 0, noise = 0;
  for (int64_t i = 0; i < count; ++i) {
    const float step = steps.size() == 1 ? steps[0] : steps[size_t(i / per_channel)];
    const int code = is_signed ? codes.data<int8_t>()[i] : codes.data<uint8_t>()[i];
    used.set(size_t(code - codes.lo()));
    const float v = values[i] / step;
    clipped += v > float(codes.hi()) + 0.5f || (codes.lo() < 0 && v < float(codes.lo()) - 0.5f);
    if (codes.lo() == 0 && v < 0) continue;  // ReLU's work, not the quantizer's
    if (!std::isfinite(values[i])) continue;
    const double error = double(values[i]) - double(code) * step;
    signal += double(values[i]) * values[i];
    noise += error * error;
  }
  s.clipped = double(clipped) / double(count);
  s.codes_used = int(used.count());
  s.sqnr = noise > 0 && signal > 0 ? 10 * std::log10(signal / noise) : 0;
  s.histogram = histogram_of(values, count);
  return s;
}

Tensor pictures_over(const Dataset& set, int64_t most) {
  const int64_t count = std::min(most, set.size());
  Tensor images = Tensor::empty({count, set.height(), set.width(), 3}, DType::u8);
  for (int64_t i = 0; i < count; ++i)
    set.read(i * set.size() / count, images.data<uint8_t>() + size_t(i) * set.picture_bytes());
  return images;
}

std::vector<LayerStatistics> layer_statistics(Model& model, const Tensor& images,
                                              ForwardMode mode) {
  const Tape::Pause pause;
  Collector collector;
  model.forward(here(images), {.mode = mode, .observer = &collector});
  return std::move(collector.list);
}

void write_statistics(MetricsLog& metrics, int64_t step, int64_t epoch,
                      const std::vector<LayerStatistics>& layers) {
  if (layers.empty()) return;
  NamedValues values;
  for (const LayerStatistics& layer : layers) {
    values.emplace_back("quant/step/" + layer.name, layer.step);
    values.emplace_back("quant/clipped/" + layer.name, layer.clipped);
    values.emplace_back("quant/codes_used/" + layer.name, layer.codes_used);
    values.emplace_back("quant/sqnr_db/" + layer.name, layer.sqnr);
    if (!layer.histogram.count.empty())
      metrics.events().histogram("values/" + layer.name, step, layer.histogram);
  }
  metrics.write(step, epoch, values);
}

}  // namespace qt
