// tests/core/ops/oracles.h -- what the operations should give: plain loops in double.
#pragma once
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "core/ops/ops.h"
#include "tests/support/tensors.h"

namespace qt::oracle {

using Numbers = std::vector<double>;

// A view of [n, h, w, c] numbers that is zero outside the image.
struct Image {
  Numbers v;
  int64_t n, h, w, c;
  explicit Image(const Tensor& t)
      : v(doubles(t)), n(t.dim(0)), h(t.dim(1)), w(t.dim(2)), c(t.dim(3)) {}
  bool inside(int64_t y, int64_t x) const { return y >= 0 && y < h && x >= 0 && x < w; }
  double at(int64_t i, int64_t y, int64_t x, int64_t ch) const {
    return inside(y, x) ? v[size_t(((i * h + y) * w + x) * c + ch)] : 0.0;
  }
};

inline Numbers conv2d(const Tensor& x, const Tensor& w, const ConvOptions& o) {
  const Image in(x), weights(w);
  const int64_t k = weights.n, per_group = weights.c, outs = k / o.groups;
  const int64_t out_h = (in.h + 2 * o.padding - o.dilation * (weights.h - 1) - 1) / o.stride + 1;
  const int64_t out_w = (in.w + 2 * o.padding - o.dilation * (weights.w - 1) - 1) / o.stride + 1;
  Numbers y;
  for (int64_t i = 0; i < in.n; ++i)
    for (int64_t oy = 0; oy < out_h; ++oy)
      for (int64_t ox = 0; ox < out_w; ++ox)
        for (int64_t ko = 0; ko < k; ++ko) {
          double sum = 0;
          for (int64_t r = 0; r < weights.h; ++r)
            for (int64_t s = 0; s < weights.w; ++s)
              for (int64_t c = 0; c < per_group; ++c)
                sum +=
                    in.at(i, oy * o.stride - o.padding + r * o.dilation,
                          ox * o.stride - o.padding + s * o.dilation, ko / outs * per_group + c) *
                    weights.at(ko, r, s, c);
          y.push_back(sum);
        }
  return y;
}

inline Numbers linear(const Tensor& x, const Tensor& w) {
  const Numbers a = doubles(x), b = doubles(w);
  const int64_t n = x.dim(0), c = x.dim(1), k = w.dim(0);
  Numbers y;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < k; ++j) {
      double sum = 0;
      for (int64_t l = 0; l < c; ++l) sum += a[size_t(i * c + l)] * b[size_t(j * c + l)];
      y.push_back(sum);
    }
  return y;
}

inline Numbers batch_norm(const Tensor& x, const Numbers& gamma, const Numbers& beta,
                          const Numbers& mean, const Numbers& var, double eps) {
  Numbers y = doubles(x);
  for (size_t i = 0; i < y.size(); ++i) {
    const size_t c = i % gamma.size();
    y[i] = (y[i] - mean[c]) / std::sqrt(var[c] + eps) * gamma[c] + beta[c];
  }
  return y;
}

// Mean and biased variance per channel.
inline std::pair<Numbers, Numbers> moments(const Tensor& x) {
  const Numbers v = doubles(x);
  const size_t channels = size_t(x.channels());
  const double rows = double(x.rows());
  Numbers mean(channels), var(channels);
  for (size_t i = 0; i < v.size(); ++i) mean[i % channels] += v[i] / rows;
  for (size_t i = 0; i < v.size(); ++i)
    var[i % channels] += std::pow(v[i] - mean[i % channels], 2) / rows;
  return {mean, var};
}

// fold(state, x) over the window's pixels inside the image; `start` without any.
template <class Fold>
Numbers pool(const Tensor& x, const PoolOptions& o, double start, Fold fold) {
  const Image in(x);
  const int64_t out_h = (in.h + 2 * o.padding - o.kernel) / o.stride + 1;
  const int64_t out_w = (in.w + 2 * o.padding - o.kernel) / o.stride + 1;
  Numbers y;
  for (int64_t i = 0; i < in.n; ++i)
    for (int64_t oy = 0; oy < out_h; ++oy)
      for (int64_t ox = 0; ox < out_w; ++ox)
        for (int64_t c = 0; c < in.c; ++c) {
          double state = start;
          for (int64_t r = 0; r < o.kernel; ++r)
            for (int64_t s = 0; s < o.kernel; ++s) {
              const int64_t py = oy * o.stride - o.padding + r, px = ox * o.stride - o.padding + s;
              if (in.inside(py, px)) state = fold(state, in.at(i, py, px, c));
            }
          y.push_back(state);
        }
  return y;
}
inline Numbers max_pool(const Tensor& x, const PoolOptions& o) {
  return pool(x, o, -INFINITY, [](double a, double b) { return std::max(a, b); });
}
inline Numbers average_pool(const Tensor& x, const PoolOptions& o) {
  return pool(x, o, 0, [&](double a, double b) { return a + b / double(o.kernel * o.kernel); });
}

inline Numbers global_sum(const Tensor& x, double divisor) {
  const Image in(x);
  Numbers y(size_t(in.n * in.c));
  for (size_t i = 0; i < in.v.size(); ++i)
    y[i / size_t(in.h * in.w * in.c) * size_t(in.c) + i % size_t(in.c)] += in.v[i];
  for (double& v : y) v /= divisor;
  return y;
}

inline Numbers cross_entropy(const Tensor& logits, const Tensor& labels, double smoothing) {
  const Numbers x = doubles(logits);
  const int64_t n = logits.dim(0), c = logits.dim(1);
  double total = 0;
  for (int64_t i = 0; i < n; ++i) {
    double sum = 0;
    for (int64_t j = 0; j < c; ++j) sum += std::exp(x[size_t(i * c + j)]);
    for (int64_t j = 0; j < c; ++j) {
      const double target =
          smoothing / double(c) + (labels.data<int64_t>()[i] == j ? 1 - smoothing : 0);
      total -= target * (x[size_t(i * c + j)] - std::log(sum));
    }
  }
  return {total / double(n)};
}

}  // namespace qt::oracle
