// tests/core/kernel/launch_test.cpp -- the launchers against scalar loops in the order that
// operands.h documents.
#include "core/kernel/launch.h"

#include <gtest/gtest.h>

#include <utility>

#include "core/kernel/segments.h"
#include "tests/support/chunks.h"
#include "tests/support/tensors.h"
#include "tests/support/threads.h"

namespace qt {
namespace {

struct Extents {
  int64_t rows, channels;
};

// Around every boundary: lanes of 4, chunks of 128, spans of 256, folding up to 128 channels.
std::vector<Extents> all_extents() {
  std::vector<Extents> all;
  for (int64_t channels : {1, 3, 4, 5, 16, 17, 64, 100, 128, 129, 255, 256, 257, 300, 600})
    for (int64_t rows : {1, 2, 3, 5, 127, 128, 129, 260}) all.push_back({rows, channels});
  all.push_back({20011, 3});
  return all;
}

std::string text(const Extents& e) {
  return std::to_string(e.rows) + " x " + std::to_string(e.channels);
}

template <class Body>
void on_all_extents_and_threads(Body body) {
  for (const Extents& e : all_extents())
    for (int threads : {1, 2, 3}) {
      const UseThreads use(threads);
      SCOPED_TRACE(text(e) + " on " + std::to_string(threads) + " threads");
      body(e.rows, e.channels);
      if (::testing::Test::HasFailure()) return;  // one report is enough
    }
}

// Fresh results full of NaN, so that an element nobody wrote shows.
Tensor unwritten(const Shape& shape) { return Tensor::full(shape, NAN); }

void expect_same(const Tensor& got, const std::vector<float>& wanted) {
  ASSERT_EQ(got.elements(), int64_t(wanted.size()));
  for (size_t i = 0; i < wanted.size(); ++i)
    if (memcmp(got.data<float>() + i, &wanted[i], sizeof(float)) != 0) {
      FAIL() << "element " << i << " is " << got.data<float>()[i] << ", wanted " << wanted[i];
    }
}

struct Mixed {
  QT_HD float operator()(float x, int8_t code, float b, float scale) const {
    return x * scale + float(code) * b;
  }
};

struct Doubled {
  QT_HD float operator()(float x, float by) const { return 2 * x * by; }
};
struct Above {
  float limit;
  QT_HD bool operator()(float x) const { return x > limit; }
};

TEST(Segments, MapEachWithItsOwn) {
  const Tensor a = floats({1000}, 1), b = floats({3, 5}, 2), by = floats({2}, 3);
  Tensor to_a = unwritten({1000}), to_b = unwritten({3, 5}),
         nothing = Tensor::empty({0}, DType::f32);
  Segments<Doubled, Element<float>, Scalar<float>, Output<float>> list;
  list.add(1000, {}, in(a.data<float>()), scalar(by.data<float>()), out(to_a.data<float>()));
  list.add(0, {}, in(std::as_const(nothing).data<float>()), scalar(by.data<float>()),
           out(nothing.data<float>()));
  list.add(15, {}, in(b.data<float>()), scalar(by.data<float>() + 1), out(to_b.data<float>()));
  list.map(Stream{});
  for (int64_t i = 0; i < 1000; ++i)
    ASSERT_EQ(to_a.data<float>()[i], 2 * a.data<float>()[i] * by.data<float>()[0]);
  for (int64_t i = 0; i < 15; ++i)
    ASSERT_EQ(to_b.data<float>()[i], 2 * b.data<float>()[i] * by.data<float>()[1]);
}

TEST(Segments, FindTheFirstAndCountAll) {
  const Tensor a = Tensor::of<float>({3}, {1, 2, 3}), b = Tensor::of<float>({2}, {4, 5});
  const auto look = [&](float limit) {
    Segments<Above, Element<float>> list;
    list.add(3, {limit}, in(a.data<float>()));
    list.add(0, {limit}, in(a.data<float>()));
    list.add(2, {limit}, in(b.data<float>()));
    int32_t first = -1, count = -1;
    list.first_where(Stream{}, &first);
    list.count_where(Stream{}, &count);
    return std::pair(first, count);
  };
  EXPECT_EQ(look(2.5f), std::pair(0, 3));
  EXPECT_EQ(look(3), std::pair(2, 2));
  EXPECT_EQ(look(5), std::pair(none_of_them, 0));
}

struct Pixel {
  QT_HD uint8_t operator()(uint8_t pixel) const { return pixel; }
};

TEST(Map, ShowsPicturesThroughWindows) {
  // A picture of 2 x 3 pixels of two channels; the second is the first's negative.
  Tensor pictures = Tensor::empty({3, 2, 3, 2}, DType::u8);
  for (int64_t i = 0; i < 18; ++i) {
    pictures.data<uint8_t>()[2 * i] = uint8_t(i % 6 + 1);
    pictures.data<uint8_t>()[2 * i + 1] = uint8_t(100 + i % 6 + 1);
  }
  const Tensor windows = Tensor::of<int32_t>({3, 3}, {0, 0, 0, 1, -1, 0, -1, 1, 1});
  Tensor shown = Tensor::empty(pictures.shape(), DType::u8);
  map(Stream{}, 18, 2, Pixel{},
      Windowed<uint8_t>{pictures.data<uint8_t>(), windows.data<int32_t>(), 2, 3, 2},
      out(shown.data<uint8_t>()));
  const std::vector<int> first = {1, 2, 3, 4, 5, 6,   // as it is
                                  0, 4, 5, 0, 0, 0,   // from one row below, one column to the left
                                  0, 0, 0, 0, 3, 2};  // from above and the right, mirrored
  for (size_t i = 0; i < first.size(); ++i) {
    EXPECT_EQ(shown.data<uint8_t>()[2 * i], first[i]) << i;
    EXPECT_EQ(shown.data<uint8_t>()[2 * i + 1], first[i] ? first[i] + 100 : 0) << i;
  }
}

TEST(Map, GivesFoldableOperandsToEveryElement) {
  on_all_extents_and_threads([](int64_t rows, int64_t channels) {
    const Tensor x = floats({rows, channels}, 1), b = floats({channels}, 2), s = floats({1}, 3);
    const Tensor q = codes({rows, channels}, 4, -127, 127);
    Tensor y = unwritten({rows, channels});
    map(current_stream(), rows, channels, Mixed{}, in(x.data<float>()), in(q.data<int8_t>()),
        per_channel(b.data<float>()), scalar(s.data<float>()), out(y.data<float>()));
    std::vector<float> wanted;
    for (int64_t i = 0; i < rows * channels; ++i)
      wanted.push_back(Mixed{}(x.data<float>()[i], q.data<int8_t>()[i],
                               b.data<float>()[i % channels], s.data<float>()[0]));
    expect_same(y, wanted);
  });
}

struct Placed {
  QT_HD float operator()(float x, float row, int64_t label, int32_t column,
                         float from_table) const {
    return x * row + (label == column ? 100.0f : 0.0f) + from_table;
  }
};

TEST(Map, GivesRowsColumnsAndLookupsToEveryElement) {
  on_all_extents_and_threads([](int64_t rows, int64_t channels) {
    const Tensor x = floats({rows, channels}, 1), r = floats({rows}, 2),
                 table = floats({channels, 256}, 3);
    Tensor labels = Tensor::empty({rows}, DType::i64),
           index = Tensor::empty({rows, channels}, DType::u8);
    for (int64_t i = 0; i < rows; ++i) labels.data<int64_t>()[i] = (i * 5) % channels;
    for (int64_t i = 0; i < rows * channels; ++i) index.data<uint8_t>()[i] = uint8_t(i * 37);
    Tensor y = unwritten({rows, channels});
    map(current_stream(), rows, channels, Placed{}, in(x.data<float>()), per_row(r.data<float>()),
        per_row(labels.data<int64_t>()), Column{},
        lookup(index.data<uint8_t>(), table.data<float>(), channels), out(y.data<float>()));
    std::vector<float> wanted;
    for (int64_t i = 0; i < rows * channels; ++i)
      wanted.push_back(
          Placed{}(x.data<float>()[i], r.data<float>()[i / channels],
                   labels.data<int64_t>()[i / channels], int32_t(i % channels),
                   table.data<float>()[i % channels * 256 + index.data<uint8_t>()[i]]));
    expect_same(y, wanted);
  });
}

struct TwoResults {
  QT_HD Values<2> operator()(float x) const { return {{rintf(x * 100), x + 1}}; }
};
struct ThreeResults {
  QT_HD Values<3> operator()(float x) const { return {{x, 2 * x, -x}}; }
};

TEST(Map, WritesSeveralOutputsOfSeveralTypes) {
  on_all_extents_and_threads([](int64_t rows, int64_t channels) {
    const Tensor x = floats({rows, channels}, 1);
    Tensor q = Tensor::empty({rows, channels}, DType::i8), y = unwritten({rows, channels});
    map(current_stream(), rows, channels, TwoResults{}, in(x.data<float>()), out(q.data<int8_t>()),
        out(y.data<float>()));
    Tensor a = unwritten({rows, channels}), b = unwritten({rows, channels});
    Tensor h = Tensor::empty({rows, channels}, DType::bf16);
    map(current_stream(), rows, channels, ThreeResults{}, in(x.data<float>()), out(a.data<float>()),
        out(h.data<BFloat16>()), out(b.data<float>()));
    for (int64_t i = 0; i < rows * channels; ++i) {
      const float v = x.data<float>()[i];
      ASSERT_EQ(q.data<int8_t>()[i], int8_t(rintf(v * 100)));
      ASSERT_EQ(y.data<float>()[i], v + 1);
      ASSERT_EQ(a.data<float>()[i], v);
      ASSERT_EQ(h.data<BFloat16>()[i].bits, BFloat16(2 * v).bits);
      ASSERT_EQ(b.data<float>()[i], -v);
    }
  });
}

TEST(Map, OfNothingDoesNothing) {
  map(current_stream(), 0, 5, ThreeResults{}, in(static_cast<const float*>(nullptr)),
      out(static_cast<float*>(nullptr)), out(static_cast<float*>(nullptr)),
      out(static_cast<float*>(nullptr)));
}

struct ThreeSums {
  QT_HD Values<3> operator()(float x, float m) const { return {{x, x * m, x - m}}; }
};

// The documented order: chunks of 128 rows; lane l adds rows l, l + 4, ...; lanes as a tree; 64
// chunks in double, and such groups.
std::vector<double> plain_sum_columns(const Tensor& x, const Tensor& m) {
  const int64_t rows = x.rows(), channels = x.channels();
  std::vector<double> sums(size_t(3 * channels));
  for (int k = 0; k < 3; ++k)
    for (int64_t c = 0; c < channels; ++c) {
      double total = 0, group = 0;
      for (int64_t first = 0; first < rows; first += chunk_rows) {
        if (first % group_rows == 0) total += std::exchange(group, 0);
        float lane[row_lanes] = {};
        for (int64_t r = first; r < std::min(rows, first + chunk_rows); ++r)
          lane[(r - first) % row_lanes] +=
              ThreeSums{}(x.data<float>()[r * channels + c], m.data<float>()[c]).v[k];
        group += double((lane[0] + lane[2]) + (lane[1] + lane[3]));
      }
      sums[size_t(k * channels + c)] = total + group;
    }
  return sums;
}

TEST(SumColumns, AddsInTheDocumentedOrder) {
  on_all_extents_and_threads([](int64_t rows, int64_t channels) {
    const Tensor x = floats({rows, channels}, 1), m = floats({channels}, 2);
    Tensor sums = unwritten({3, channels});
    sum_columns<3>(current_stream(), rows, channels, ThreeSums{}, sums.data<float>(),
                   in(x.data<float>()), per_channel(m.data<float>()));
    const std::vector<double> wanted = plain_sum_columns(x, m);
    expect_same(sums, {wanted.begin(), wanted.end()});
  });
}

// More chunks than a group has: in f64, where the order of groups shows.
constexpr int64_t rows_of_groups = 2 * group_rows + 3 * chunk_rows + 7;

TEST(SumColumns, AddsGroupsOfChunksInTheDocumentedOrder) {
  const int64_t channels = 3;
  const Tensor x = with_chunks_of_many_sizes(floats({rows_of_groups, channels}, 1)),
               m = floats({channels}, 2);
  Tensor sums = Tensor::empty({3, channels}, DType::f64);
  sum_columns<3>(current_stream(), rows_of_groups, channels, ThreeSums{}, sums.data<double>(),
                 in(x.data<float>()), per_channel(m.data<float>()));
  EXPECT_EQ(sums.to_vector<double>(), plain_sum_columns(x, m));
}

// Sums of parts, in f64, are the sums of the whole to the last bit where parts are whole chunks.
TEST(SumColumns, OfPartsAddUpToTheWhole) {
  const int64_t rows = 1000, channels = 70, first = 5 * chunk_rows;
  const Tensor x = floats({rows, channels}, 1, 3), m = floats({channels}, 2);
  std::vector<double> total(size_t(3 * channels), 0.0);
  for (const auto& [begin, end] : {std::pair{int64_t{0}, first}, std::pair{first, rows}}) {
    Tensor sums = Tensor::empty({3, channels}, DType::f64);
    sum_columns<3>(current_stream(), end - begin, channels, ThreeSums{}, sums.data<double>(),
                   in(x.data<float>() + begin * channels), per_channel(m.data<float>()));
    for (size_t i = 0; i < total.size(); ++i) total[i] += std::as_const(sums).data<double>()[i];
  }
  Tensor whole = unwritten({3, channels});
  sum_columns<3>(current_stream(), rows, channels, ThreeSums{}, whole.data<float>(),
                 in(x.data<float>()), per_channel(m.data<float>()));
  expect_same(whole, {total.begin(), total.end()});
}

struct TwoRowSums {
  QT_HD Values<2> operator()(float x, float row, int32_t column) const {
    return {{x * row, x * float(column % 3)}};
  }
};

// The documented order: lane l adds columns l, l + 256, ...; 8 groups of 32 lanes as trees, then
// the groups.
float plain_tree(std::vector<float> lanes) {
  const auto halve = [](std::vector<float> v) {
    while (v.size() > 1) {
      for (size_t i = 0; i < v.size() / 2; ++i) v[i] += v[i + v.size() / 2];
      v.resize(v.size() / 2);
    }
    return v[0];
  };
  std::vector<float> groups;
  for (size_t g = 0; g < lanes.size(); g += 32)
    groups.push_back(halve({lanes.begin() + long(g), lanes.begin() + long(g) + 32}));
  return halve(groups);
}

TEST(SumRows, AddsInTheDocumentedOrder) {
  on_all_extents_and_threads([](int64_t rows, int64_t channels) {
    const Tensor x = floats({rows, channels}, 1), r = floats({rows}, 2);
    Tensor sums = unwritten({2, rows});
    sum_rows<2>(current_stream(), rows, channels, TwoRowSums{}, sums.data<float>(),
                in(x.data<float>()), per_row(r.data<float>()), Column{});
    std::vector<float> wanted;
    for (int k = 0; k < 2; ++k)
      for (int64_t i = 0; i < rows; ++i) {
        std::vector<float> lanes(column_lanes);
        for (int64_t c = 0; c < channels; ++c)
          lanes[size_t(c % column_lanes)] +=
              TwoRowSums{}(x.data<float>()[i * channels + c], r.data<float>()[i], int32_t(c)).v[k];
        wanted.push_back(plain_tree(lanes));
      }
    expect_same(sums, wanted);
  });
}

struct StoredAndSummed {
  QT_HD Values<3> operator()(float x, float row) const { return {{x - row, x * row, x}}; }
};
struct ValueAlone {
  QT_HD float operator()(float x, float row) const { return x - row; }
};
struct SumsAlone {
  QT_HD Values<2> operator()(float x, float row) const { return {{x * row, x}}; }
};

TEST(SumRows, StoresWhatIsBeforeTheSums) {
  on_all_extents_and_threads([](int64_t rows, int64_t channels) {
    const Tensor x = floats({rows, channels}, 1), r = floats({rows}, 2);
    Tensor sums = unwritten({2, rows}), y = unwritten({rows, channels}),
           sums_alone = unwritten({2, rows}), y_alone = unwritten({rows, channels});
    const auto from = in(x.data<float>());
    const auto by = per_row(r.data<float>());
    sum_rows<2>(current_stream(), rows, channels, StoredAndSummed{}, sums.data<float>(), from, by,
                out(y.data<float>()));
    sum_rows<2>(current_stream(), rows, channels, SumsAlone{}, sums_alone.data<float>(), from, by);
    map(current_stream(), rows, channels, ValueAlone{}, from, by, out(y_alone.data<float>()));
    expect_same(sums, sums_alone.to_vector<float>());
    expect_same(y, y_alone.to_vector<float>());
  });
}

// A finish gets the very results that would have been stored, in their order.
struct Together {
  QT_HD Values<2> operator()(float a, float b, float of_channel) const {
    return {{a * of_channel - b, b}};
  }
};
template <class Reduce>
void expect_finished(int64_t n, Reduce reduce) {
  const Tensor with = floats({n}, 5);
  Tensor results = unwritten({2, n}), first = unwritten({n}), second = unwritten({n}),
         wanted_first = unwritten({n}), wanted_second = unwritten({n});
  reduce(results.data<float>());
  map(current_stream(), 1, n, Together{}, in(std::as_const(results).data<float>()),
      in(std::as_const(results).data<float>() + n), in(with.data<float>()),
      out(wanted_first.data<float>()), out(wanted_second.data<float>()));
  reduce(finish(Together{}, in(with.data<float>()), out(first.data<float>()),
                out(second.data<float>())));
  expect_same(first, wanted_first.to_vector<float>());
  expect_same(second, wanted_second.to_vector<float>());
}

TEST(Finish, GetsTheResultsOfEveryReduction) {
  on_all_extents_and_threads([](int64_t rows, int64_t channels) {
    const Tensor x = floats({rows, channels}, 1), r = floats({rows}, 2);
    const auto from = in(x.data<float>());
    expect_finished(rows, [&](auto to) {
      sum_rows<2>(current_stream(), rows, channels, SumsAlone{}, to, from,
                  per_row(r.data<float>()));
    });
    expect_finished(channels, [&](auto to) {
      sum_columns<2>(current_stream(), rows, channels, SumsAlone{}, to, from, constant(3.0f));
    });
    expect_finished(channels, [&](auto to) {
      if constexpr (std::is_pointer_v<decltype(to)>)
        column_moments(current_stream(), rows, channels, x.data<float>(), to, to + channels);
      else
        column_moments(current_stream(), rows, channels, x.data<float>(), to);
    });
  });
}

struct Negative {
  QT_HD float operator()(float x) const { return -x; }
};

TEST(MaxRows, FindsTheLargest) {
  on_all_extents_and_threads([](int64_t rows, int64_t channels) {
    const Tensor x = floats({rows, channels}, 1);
    Tensor most = unwritten({rows});
    max_rows(current_stream(), rows, channels, Negative{}, most.data<float>(), in(x.data<float>()));
    std::vector<float> wanted;
    for (int64_t i = 0; i < rows; ++i)
      wanted.push_back(
          -*std::min_element(x.data<float>() + i * channels, x.data<float>() + (i + 1) * channels));
    expect_same(most, wanted);
  });
}

struct Moments {
  double rows = 0, mean = 0, squares = 0;
  void merge(const Moments& other) {
    if (other.rows == 0) return;
    const double share = other.rows / (rows + other.rows), delta = other.mean - mean;
    mean += delta * share;
    squares += other.squares + delta * delta * (rows * share);
    rows += other.rows;
  }
};

// Chunk means and squared deviations in f32 by lanes, merged in double: 64 chunks, and such groups.
void plain_moments(const Tensor& x, std::vector<double>& mean, std::vector<double>& squares_of) {
  const int64_t rows = x.rows(), channels = x.channels();
  const auto chunk = [&](int64_t first, int64_t end, auto value) {
    float lane[row_lanes] = {};
    for (int64_t r = first; r < end; ++r) lane[(r - first) % row_lanes] += value(r);
    return (lane[0] + lane[2]) + (lane[1] + lane[3]);
  };
  for (int64_t c = 0; c < channels; ++c) {
    Moments all, group;
    for (int64_t first = 0; first < rows; first += chunk_rows) {
      if (first % group_rows == 0) all.merge(std::exchange(group, {}));
      const int64_t end = std::min(rows, first + chunk_rows);
      const auto at = [&](int64_t r) { return x.data<float>()[r * channels + c]; };
      const float middle = chunk(first, end, at) / float(end - first);
      const float squares =
          chunk(first, end, [&](int64_t r) { return (at(r) - middle) * (at(r) - middle); });
      group.merge({double(end - first), double(middle), double(squares)});
    }
    all.merge(group);
    mean.push_back(all.mean);
    squares_of.push_back(all.squares);
  }
}

TEST(ColumnMoments, AreMergedInTheDocumentedOrder) {
  on_all_extents_and_threads([](int64_t rows, int64_t channels) {
    const Tensor x = floats({rows, channels}, 1, 3);
    Tensor mean = unwritten({channels}), var = unwritten({channels});
    column_moments(current_stream(), rows, channels, x.data<float>(), mean.data<float>(),
                   var.data<float>());
    std::vector<double> wanted_mean, wanted_var;
    plain_moments(x, wanted_mean, wanted_var);
    for (double& v : wanted_var) v /= double(rows);
    expect_same(mean, {wanted_mean.begin(), wanted_mean.end()});
    expect_same(var, {wanted_var.begin(), wanted_var.end()});
  });
}

TEST(ColumnMoments, OfGroupsAreMergedInTheDocumentedOrder) {
  const int64_t channels = 3;
  const Tensor x = with_chunks_of_many_sizes(floats({rows_of_groups, channels}, 1, 3));
  Tensor moments = Tensor::empty({2, channels}, DType::f64);
  double* const m = moments.data<double>();
  column_moments(current_stream(), rows_of_groups, channels, x.data<float>(), m, m + channels);
  std::vector<double> wanted, squares;
  plain_moments(x, wanted, squares);
  wanted.insert(wanted.end(), squares.begin(), squares.end());
  EXPECT_EQ(moments.to_vector<double>(), wanted);
}

TEST(ColumnMoments, InDoubleAreThoseThatAreRounded) {
  on_all_extents_and_threads([](int64_t rows, int64_t channels) {
    const Tensor x = floats({rows, channels}, 1, 3);
    Tensor moments = Tensor::empty({2, channels}, DType::f64);
    double* const m = moments.data<double>();
    column_moments(current_stream(), rows, channels, x.data<float>(), m, m + channels);
    Tensor mean = unwritten({channels}), var = unwritten({channels});
    column_moments(current_stream(), rows, channels, x.data<float>(), mean.data<float>(),
                   var.data<float>());
    for (double* squares = m + channels; squares < m + 2 * channels; ++squares)
      *squares /= double(rows);
    expect_same(mean, {m, m + channels});
    expect_same(var, {m + channels, m + 2 * channels});
  });
}

TEST(ColumnMoments, AreAccurateWhereTheMeanIsThirtyDeviations) {
  const int64_t rows = 50000, channels = 5;
  Tensor x = floats({rows, channels}, 1, std::sqrt(3.0f));  // deviation 1
  for (int64_t i = 0; i < rows * channels; ++i) x.data<float>()[i] += 30;
  Tensor mean = unwritten({channels}), var = unwritten({channels});
  column_moments(current_stream(), rows, channels, x.data<float>(), mean.data<float>(),
                 var.data<float>());
  for (int64_t c = 0; c < channels; ++c) {
    double m = 0, v = 0;
    for (int64_t r = 0; r < rows; ++r)
      m += double(x.data<float>()[r * channels + c]) / double(rows);
    for (int64_t r = 0; r < rows; ++r)
      v += std::pow(double(x.data<float>()[r * channels + c]) - m, 2) / double(rows);
    EXPECT_NEAR(mean.data<float>()[c], m, 1e-6 * m);
    EXPECT_NEAR(var.data<float>()[c], v, 1e-6 * v);  // one pass in f32 is off by 3e-4
  }
}

// Records the sum and the number of taps, or the weighted taps: what a window saw.
struct Seen {
  QT_HD Values<2> start() const { return {{0, 0}}; }
  QT_HD Values<2> operator()(Values<2> s, float x, float tap) const {
    return {{s.v[0] * 2 + x, s.v[1] + tap + 1}};
  }
  QT_HD Values<2> finish(Values<2> s) const { return s; }
};
struct Gathered {
  QT_HD float operator()(float dy, float aux, float tap) const { return dy * (tap + 1) + aux; }
};

TEST(Windows, AreVisitedInOrderInsideTheImage) {
  for (const WindowShape& s : std::vector<WindowShape>{{2, 5, 7, 3, 5, 7, 3, 1, 1},
                                                       {2, 8, 8, 65, 4, 4, 2, 2, 0},
                                                       {1, 9, 6, 16, 5, 3, 3, 2, 1},
                                                       {3, 4, 9, 130, 1, 1, 9, 1, 0},
                                                       {1, 8, 8, 4, 3, 3, 2, 3, 0}})
    for (int threads : {1, 2, 3}) {
      const UseThreads use(threads);
      const Tensor x = floats({s.n, s.h, s.w, s.c}, 1),
                   dy = floats({s.n, s.out_h, s.out_w, s.c}, 2);
      const Tensor aux = codes(dy.shape(), 3, 0, 127);
      Tensor a = unwritten(dy.shape()), b = unwritten(dy.shape()), dx = unwritten(x.shape());
      fold_windows(current_stream(), s, Seen{}, x.data<float>(), out(a.data<float>()),
                   out(b.data<float>()));
      gather_windows(current_stream(), s, Gathered{}, dy.data<float>(), aux.data<int8_t>(),
                     dx.data<float>());
      std::vector<float> wanted_a, wanted_b, wanted_dx(size_t(x.elements()));
      for (int64_t i = 0; i < dy.elements(); ++i) {
        const int64_t c = i % s.c, ox = i / s.c % s.out_w, oy = i / s.c / s.out_w % s.out_h,
                      n = i / s.c / s.out_w / s.out_h;
        Values<2> state = Seen{}.start();
        for (int64_t tap = 0; tap < s.kernel * s.kernel; ++tap) {
          const int64_t py = oy * s.stride - s.padding + tap / s.kernel,
                        px = ox * s.stride - s.padding + tap % s.kernel;
          if (py < 0 || py >= s.h || px < 0 || px >= s.w) continue;
          const size_t at = size_t(((n * s.h + py) * s.w + px) * s.c + c);
          state = Seen{}(state, x.data<float>()[at], float(tap));
          wanted_dx[at] +=
              Gathered{}(dy.data<float>()[i], float(aux.data<int8_t>()[i]), float(tap));
        }
        wanted_a.push_back(state.v[0]);
        wanted_b.push_back(state.v[1]);
      }
      expect_same(a, wanted_a);
      expect_same(b, wanted_b);
      expect_same(dx, wanted_dx);
    }
}

}  // namespace
}  // namespace qt
