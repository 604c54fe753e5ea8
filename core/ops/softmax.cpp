// core/ops/softmax.cpp -- the loss: softmax cross entropy with label smoothing.
#include <cmath>

#include "core/kernel/launch.h"
#include "core/ops/ops.h"
#include "core/ops/saved.h"

namespace qt {
namespace {

struct Itself {
  QT_HD float operator()(float x) const { return x; }
};

// Per row, with d = x - max: sum of exp(d), sum of d, and the d of the label.
struct RowSums {
  QT_HD Values<3> operator()(float x, float most, int64_t label, int32_t column) const {
    const float d = x - most;
    return {{expf(d), d, label == column ? d : 0.0f}};
  }
};

// -sum over classes of target log softmax, target = (1 - smoothing) onehot + smoothing / classes.
struct RowLoss {
  float smoothing, classes;
  QT_HD Values<1> operator()(float sum, float d_sum, float d_label) const {
    const float log_sum = logf(sum);
    return {{(1 - smoothing) * (log_sum - d_label) + smoothing * (log_sum - d_sum / classes)}};
  }
};

struct Quotient {
  float divisor;
  QT_HD float operator()(float x) const { return x / divisor; }
};

struct Backward {
  float smoothing, classes, rows;
  QT_HD float operator()(float x, float most, float sum, int64_t label, int32_t column,
                         float dy) const {
    const float target = smoothing / classes + (label == column ? 1 - smoothing : 0.0f);
    return (expf(x - most) / sum - target) * (dy / rows);
  }
};

// A wrong label would only make the loss wrong. Labels in a GPU's memory are checked where they are
// made.
void check_labels(const Tensor& labels, int64_t rows, int64_t classes) {
  QT_CHECK(labels.elements() == rows && labels.dtype() == DType::i64,
           "softmax_cross_entropy takes i64 labels [" + std::to_string(rows) + "], got " +
               name_of(labels.dtype()) + " " + labels.shape().text());
  if (current_stream().on_gpu) return;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t label = labels.data<int64_t>()[i];
    if (label < 0 || label >= classes)
      throw DataError("label " + std::to_string(label) + " of sample " + std::to_string(i) +
                      " in the batch is not one of the " + std::to_string(classes) +
                      " classes 0 .. " + std::to_string(classes - 1));
  }
}

}  // namespace

Var softmax_cross_entropy(const Var& logits, const Tensor& labels, float smoothing) {
  const Tensor& x = logits.value();
  QT_CHECK(
      x.shape().rank() == 2 && x.elements() > 0 && !x.has_scale(),
      "softmax_cross_entropy takes f32 logits [n, classes] without scale, got " + x.shape().text());
  const int64_t rows = x.rows(), classes = x.channels();
  check_labels(labels, rows, classes);
  const Stream stream = current_stream();
  Tensor most = Tensor::empty({rows}, DType::f32), sums = Tensor::empty({3, rows}, DType::f32);
  max_rows(stream, rows, classes, Itself{}, most.data<float>(), in(x.data<float>()));
  sum_rows<3>(stream, rows, classes, RowSums{}, sums.data<float>(), in(x.data<float>()),
              per_row(most.data<float>()), per_row(labels.data<int64_t>()), Column{});
  const float* const s = sums.data<float>();
  Tensor total = Tensor::empty({1}, DType::f32), loss = Tensor::empty({1}, DType::f32);
  sum_columns<1>(stream, rows, 1, RowLoss{smoothing, float(classes)}, total.data<float>(), in(s),
                 in(s + rows), in(s + 2 * rows));
  map(stream, 1, 1, Quotient{float(rows)}, in(total.data<float>()), out(loss.data<float>()));
  return record(loss, {logits}, [logits, labels, most, sums, smoothing](const Tensor& dy) {
    const Tensor& x = logits.value();
    const int64_t rows = x.rows(), classes = x.channels();
    Tensor dx = Tensor::empty(x.shape(), DType::f32);
    map(current_stream(), rows, classes, Backward{smoothing, float(classes), float(rows)},
        in(x.data<float>()), per_row(most.data<float>()), per_row(sums.data<float>()),
        per_row(labels.data<int64_t>()), Column{}, scalar(dy.data<float>()), out(dx.data<float>()));
    logits.add_grad(dx);
  });
}

}  // namespace qt
