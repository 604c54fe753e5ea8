// train/step_kernels.cpp -- checks, choices and notes of a step as kernels.
#include "train/step_kernels.h"

#include <limits>
#include <utility>

#include "core/kernel/launch.h"
#include "core/kernel/segments.h"

namespace qt {
namespace {

// x * 0 is zero for every finite x and NaN for all others.
struct IsBad {
  bool positive;
  QT_HD bool operator()(float x) const { return x * 0.0f != 0 || (positive && !(x > 0)); }
};
struct Verdict {
  QT_HD float operator()(int32_t first) const {
    return first == none_of_them ? 0.0f : float(first) + 1;
  }
};
struct Choose {
  QT_HD float operator()(float fresh, float kept, float bad) const {
    return bad == 0 ? fresh : kept;
  }
};
struct Itself {
  QT_HD float operator()(float x) const { return x; }
};
struct PlaceOfGreatest {
  QT_HD float operator()(float x, float greatest, int32_t column) const {
    return x == greatest ? -float(column) : -std::numeric_limits<float>::infinity();
  }
};
struct Hit {
  QT_HD Values<1> operator()(float place, int64_t label) const {
    return {{-place == float(label) ? 1.0f : 0.0f}};
  }
};
struct NoteAt {
  QT_HD float operator()(float now, int32_t column, int32_t position, float value) const {
    return column == position ? value : now;
  }
};
struct Next {
  QT_HD int32_t operator()(int32_t position) const { return position + 1; }
};

}  // namespace

Tensor first_bad(const std::vector<CheckedTensor>& watched) {
  Segments<IsBad, Element<float>> segments;
  for (const CheckedTensor& w : watched)
    segments.add(w.values.elements(), IsBad{w.positive}, in(w.values.data<float>()));
  Tensor first = Tensor::empty({1}, DType::i32), bad = Tensor::empty({1}, DType::f32);
  segments.first_where(current_stream(), first.data<int32_t>());
  map(current_stream(), 1, 1, Verdict{}, in(std::as_const(first).data<int32_t>()),
      out(bad.data<float>()));
  return bad;
}

void replace_if_good(const Tensor& bad, const std::vector<Replacement>& list) {
  Segments<Choose, Element<float>, Element<float>, Scalar<float>, Output<float>> segments;
  for (const auto& [fresh, kept] : list) {
    QT_CHECK(fresh.shape() == kept.shape(), "replace_if_good: " + fresh.shape().text() +
                                                " cannot take the place of " + kept.shape().text());
    Tensor to = kept;
    segments.add(fresh.elements(), Choose{}, in(fresh.data<float>()), in(kept.data<float>()),
                 scalar(bad.data<float>()), out(to.data<float>()));
  }
  segments.map(current_stream());
}

Tensor hits(const Tensor& logits, const Tensor& labels) {
  const int64_t rows = logits.rows(), classes = logits.channels();
  Tensor greatest = Tensor::empty({rows}, DType::f32), place = Tensor::empty({rows}, DType::f32),
         count = Tensor::empty({1}, DType::f32);
  max_rows(current_stream(), rows, classes, Itself{}, greatest.data<float>(),
           in(logits.data<float>()));
  max_rows(current_stream(), rows, classes, PlaceOfGreatest{}, place.data<float>(),
           in(logits.data<float>()), per_row(std::as_const(greatest).data<float>()), Column{});
  sum_rows<1>(current_stream(), 1, rows, Hit{}, count.data<float>(),
              in(std::as_const(place).data<float>()), in(labels.data<int64_t>()));
  return count;
}

void note_at(const Tensor& row, const Tensor& position, const Tensor& value) {
  Tensor to = row;
  map(current_stream(), 1, row.elements(), NoteAt{}, in(row.data<float>()), Column{},
      scalar(position.data<int32_t>()), scalar(value.data<float>()), out(to.data<float>()));
}

void advance(const Tensor& position) {
  Tensor to = position;
  map(current_stream(), 1, 1, Next{}, in(position.data<int32_t>()), out(to.data<int32_t>()));
}

}  // namespace qt
