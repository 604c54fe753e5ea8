// tests/gpu/launchers_test.cpp -- every launcher's device code against its CPU code: the same bits,
// on the emulated GPU in three thread orders.
#include <gtest/gtest.h>

#include <utility>

#include "core/kernel/launch.h"
#include "core/kernel/segments.h"
#include "tests/gpu/on_gpu.h"
#include "tests/support/chunks.h"

namespace qt {
namespace {

using Tensors = std::vector<Tensor>;

struct Extents {
  int64_t rows, channels;
};

// ThreadSanitizer needs a millisecond for each CUDA thread, so it sees small cases, in one order.
// Around every boundary of tiles, blocks and chunks of rows.
std::vector<Extents> all_extents() {
  if (build == Build::thread) return {{3, 5}, {130, 3}};
  if (build == Build::address) return {{1, 1}, {5, 3}, {130, 33}, {2, 257}};
  std::vector<Extents> all;
  for (int64_t channels : {1, 3, 31, 32, 33, 64, 129, 257})
    for (int64_t rows : {1, 3, 5, 127, 128, 129, 260}) all.push_back({rows, channels});
  return all;
}
// For launchers that give each row a block: around lanes and warps.
std::vector<Extents> row_extents() {
  if (build == Build::thread) return {{3, 257}};
  if (build == Build::address) return {{1, 1}, {2, 33}, {2, 257}};
  std::vector<Extents> all;
  for (int64_t channels : {1, 2, 31, 32, 33, 64, 255, 256, 257, 600})
    for (int64_t rows : {1, 3, 5}) all.push_back({rows, channels});
  all.push_back({4099, 3});  // more rows than blocks
  return all;
}

Tensor unwritten_of(const Tensor& t) {
  const UseStream host(Stream{});
  return unwritten(t.shape(), t.dtype());
}

// Runs `launch` on the CPU's tensors and on copies in the GPU's memory: body(stream, inputs,
// outputs) must leave the same bits in the outputs, which are full of NaN before.
template <class Body>
void expect_same_on_gpu(const Tensors& inputs, const Tensors& outputs, Body body) {
  body(Stream{}, inputs, outputs);
  const bool one_order = build == Build::thread || inputs[0].dim(0) > 1000;
  for (int order = 0; order < gpu_under_test::orders(); ++order) {
    if (one_order && order != gpu_under_test::orders() / 2) continue;
    gpu_under_test::start(order);
    const GpuStream gpu;
    Tensors in, out;
    for (const Tensor& t : inputs) in.push_back(to_gpu(t, gpu.stream()));
    const UseStream use(gpu.stream());
    for (const Tensor& t : outputs) out.push_back(to_gpu(unwritten_of(t), gpu.stream()));
    body(gpu.stream(), in, out);
    for (size_t i = 0; i < out.size(); ++i)
      EXPECT_EQ(difference_in_bits(to_host(out[i], gpu.stream()), outputs[i]), "")
          << "output " << i << ", " << gpu_under_test::name_of_order(order);
  }
}

template <class Body>
void on_all(const std::vector<Extents>& extents, Body body) {
  for (const Extents& e : extents) {
    SCOPED_TRACE(std::to_string(e.rows) + " x " + std::to_string(e.channels));
    body(e.rows, e.channels);
    if (::testing::Test::HasFailure()) return;  // one report is enough
  }
}

Tensor bytes(const Shape& shape, int64_t seed) {
  Tensor t = Tensor::empty(shape, DType::i8);
  for (int64_t i = 0; i < t.elements(); ++i) t.data<int8_t>()[i] = int8_t((i + seed) * 37);
  return t;
}

Tensor halves(const Shape& shape, int64_t seed) {
  const Tensor reals = numbers(shape, seed);
  Tensor t = Tensor::empty(shape, DType::bf16);
  for (int64_t i = 0; i < t.elements(); ++i)
    t.data<BFloat16>()[i] = BFloat16(reals.data<float>()[i]);
  return t;
}

class Launchers : public OnGpu {};

struct Mixed {
  QT_HD Values<2> operator()(float x, int8_t code, float b, float scale) const {
    return {{rintf(x * scale + float(code) * b), x - b}};
  }
};

TEST_F(Launchers, MapOfElementsChannelsAndScalars) {
  on_all(all_extents(), [](int64_t rows, int64_t channels) {
    const Shape shape{rows, channels};
    expect_same_on_gpu(
        {numbers(shape, 1), bytes(shape, 2), numbers({channels}, 3, 0.2f), numbers({1}, 4)},
        {unwritten(shape, DType::i8), unwritten(shape, DType::bf16)},
        [=](Stream stream, const Tensors& x, Tensors y) {
          map(stream, rows, channels, Mixed{}, in(x[0].data<float>()), in(x[1].data<int8_t>()),
              per_channel(x[2].data<float>()), scalar(x[3].data<float>()), out(y[0].data<int8_t>()),
              out(y[1].data<BFloat16>()));
        });
  });
}

struct Sum {
  QT_HD float operator()(float x, int8_t code) const { return x + float(code); }
};
// While alive maps have so many blocks at most.
struct FewBlocks {
  explicit FewBlocks(int64_t blocks) : before(std::exchange(kernel::most_blocks, blocks)) {}
  ~FewBlocks() { kernel::most_blocks = before; }
  int64_t before;
};

struct OfRowAndChannel {
  QT_HD Values<2> operator()(float x, int8_t code, float m, float row, float scale) const {
    return {{rintf(x * scale + float(code) * m), x * row - m}};
  }
};

// A thread has many packets one after another, an even or odd number, in whole rows or not.
TEST_F(Launchers, MapOfMorePacketsThanThreads) {
  const FewBlocks one(1);
  std::vector<Extents> extents{{600, 8}, {773, 12}, {350, 24}, {9, 1040}, {40, 99}, {1, 9000}};
  if (build == Build::thread) extents = {{1030, 4}};
  on_all(extents, [](int64_t rows, int64_t channels) {
    const Shape shape{rows, channels};
    expect_same_on_gpu(
        {numbers(shape, 1), bytes(shape, 2), numbers({channels}, 3, 0.2f), numbers({rows}, 4),
         numbers({1}, 5)},
        {unwritten(shape, DType::i8), unwritten(shape, DType::bf16), unwritten(shape, DType::bf16)},
        [=](Stream stream, const Tensors& x, Tensors y) {
          const auto reals = in(x[0].data<float>());
          const auto codes = in(x[1].data<int8_t>());
          map(stream, rows, channels, OfRowAndChannel{}, reals, codes,
              per_channel(x[2].data<float>()), per_row(x[3].data<float>()),
              scalar(x[4].data<float>()), out(y[0].data<int8_t>()), out(y[1].data<BFloat16>()));
          map(stream, 1, rows * channels, Sum{}, reals, codes, out(y[2].data<BFloat16>()));
        });
  });
}

struct Placed {
  QT_HD float operator()(float x, float row, int32_t column, float from_table) const {
    return x * row + float(column) + from_table;
  }
};

TEST_F(Launchers, MapOfRowsColumnsAndLookups) {
  on_all(all_extents(), [](int64_t rows, int64_t channels) {
    const Shape shape{rows, channels};
    Tensor index = Tensor::empty(shape, DType::u8);
    for (int64_t i = 0; i < rows * channels; ++i) index.data<uint8_t>()[i] = uint8_t(i * 37);
    expect_same_on_gpu({numbers(shape, 1), numbers({rows}, 2), index, numbers({channels, 256}, 3)},
                       {unwritten(shape)}, [=](Stream stream, const Tensors& x, Tensors y) {
                         map(stream, rows, channels, Placed{}, in(x[0].data<float>()),
                             per_row(x[1].data<float>()), Column{},
                             lookup(x[2].data<uint8_t>(), x[3].data<float>(), channels),
                             out(y[0].data<float>()));
                       });
  });
}

struct Pixel {
  QT_HD uint8_t operator()(uint8_t pixel) const { return pixel; }
};

TEST_F(Launchers, MapOfPicturesThroughWindows) {
  for (const int64_t channels : {1, 3, 300}) {
    const int64_t n = 5, height = 4, width = 7;
    const Shape shape{n, height, width, channels};
    Tensor pictures = Tensor::empty(shape, DType::u8);
    for (int64_t i = 0; i < pictures.elements(); ++i)
      pictures.data<uint8_t>()[i] = uint8_t(i % 255 + 1);
    const Tensor windows =
        Tensor::of<int32_t>({n, 3}, {0, 0, 0, -2, 3, 0, 1, -1, 1, 0, 0, 1, 9, -9, 1});
    expect_same_on_gpu({pictures, windows}, {unwritten(shape, DType::u8)},
                       [=](Stream stream, const Tensors& x, Tensors y) {
                         map(stream, n * height * width, channels, Pixel{},
                             Windowed<uint8_t>{x[0].data<uint8_t>(), x[1].data<int32_t>(), height,
                                               width, channels},
                             out(y[0].data<uint8_t>()));
                       });
  }
}

struct ThreeSums {
  QT_HD Values<3> operator()(float x, float m) const { return {{x, x * m, x - m}}; }
};

TEST_F(Launchers, SumColumns) {
  on_all(all_extents(), [](int64_t rows, int64_t channels) {
    expect_same_on_gpu({numbers({rows, channels}, 1), numbers({channels}, 2)},
                       {unwritten({3, channels})}, [=](Stream stream, const Tensors& x, Tensors y) {
                         sum_columns<3>(stream, rows, channels, ThreeSums{}, y[0].data<float>(),
                                        in(x[0].data<float>()), per_channel(x[1].data<float>()));
                       });
    expect_same_on_gpu({numbers({rows, channels}, 1), numbers({channels}, 2)},
                       {unwritten({3, channels}, DType::f64)},
                       [=](Stream stream, const Tensors& x, Tensors y) {
                         sum_columns<3>(stream, rows, channels, ThreeSums{}, y[0].data<double>(),
                                        in(x[0].data<float>()), per_channel(x[1].data<float>()));
                       });
  });
}

// What depends on all results, on the channel, and on a number for all.
struct FinishThree {
  QT_HD Values<2> operator()(float a, float b, float c, float of_channel, float of_all) const {
    return {{a * of_channel - c, b / of_all}};
  }
};
struct FinishTwo {
  QT_HD Values<2> operator()(float a, float b, float of_channel, float of_all) const {
    return {{a * of_channel, b / of_all}};
  }
};
// f with what `with` holds, [channels] and then one number; to f32 and bf16.
template <class F>
auto finish_by(F f, const Tensor& with, Tensor& reals, Tensor& rounded) {
  const float* const numbers = with.data<float>();
  return finish(f, in(numbers), scalar(numbers + with.elements() - 1), out(reals.data<float>()),
                out(rounded.data<BFloat16>()));
}

void expect_finished_columns(int64_t rows, int64_t channels, const Tensor& x) {
  expect_same_on_gpu({x, numbers({channels}, 2), numbers({channels + 1}, 3)},
                     {unwritten({channels}), unwritten({channels}, DType::bf16),
                      unwritten({channels}), unwritten({channels}, DType::bf16)},
                     [=](Stream stream, const Tensors& from, Tensors y) {
                       sum_columns<3>(stream, rows, channels, ThreeSums{},
                                      finish_by(FinishThree{}, from[2], y[0], y[1]),
                                      in(from[0].data<float>()),
                                      per_channel(from[1].data<float>()));
                       column_moments(stream, rows, channels, from[0].data<float>(),
                                      finish_by(FinishTwo{}, from[2], y[2], y[3]));
                     });
}

TEST_F(Launchers, FinishColumns) {
  on_all(all_extents(), [](int64_t rows, int64_t channels) {
    expect_finished_columns(rows, channels, numbers({rows, channels}, 1));
  });
}

// ---- packets ----

TEST_F(Launchers, PacketsAreMadeWhereAddressesAndExtentsAllow) {
  using kernel::packets_of;
  alignas(16) float reals[64] = {};
  alignas(16) int8_t codes[64] = {};
  EXPECT_EQ(packets_of<4>(5, 8, in(reals), in(codes), per_channel(reals), out(reals)), 10);
  EXPECT_EQ(packets_of<4>(5, 6, in(reals), per_channel(reals), out(reals)), 0);
  EXPECT_EQ(packets_of<4>(5, 7, in(reals), scalar(reals + 1), out(codes)), 8)
      << "no row, no channel: all but the last three elements";
  EXPECT_EQ(packets_of<4>(5, 8, in(reals + 1), out(reals)), 0);
  EXPECT_EQ(packets_of<4>(5, 8, in(reals), out(reals + 2)), 0);
  EXPECT_EQ(packets_of<4>(5, 8, in(reals), per_channel(reals + 3)), 0);
  EXPECT_EQ(packets_of<4>(5, 8, in(reals), in(codes + 2)), 0);
  EXPECT_EQ(packets_of<4>(5, 8, in(reals), in(codes + 4)), 10) << "four codes are four bytes";
  EXPECT_EQ(packets_of<4>(5, 8, lookup(codes + 1, reals, 8), out(reals)), 0);
  EXPECT_EQ((kernel::packet_elements<Element<float>, Output<int8_t>>), 4);
  EXPECT_EQ((kernel::packet_elements<Element<int8_t>, Output<int8_t>, Scalar<float>>), 16);
  EXPECT_EQ((kernel::packet_elements<Element<BFloat16>, PerChannel<float>>), 8);
  EXPECT_EQ((kernel::packet_elements<Element<float>, Output<double>>), 2);
}

// Where tensors begin, in elements off a packet.
std::vector<int64_t> shifts() {
  if (build == Build::thread) return {0, 1};
  return {0, 1, 2, 4, 7};
}

struct Flat {
  QT_HD Values<2> operator()(float x, int8_t code, float scale) const {
    return {{rintf(x * scale) + float(code), x - scale}};
  }
};

TEST_F(Launchers, MapOfAnyCountAtAnyAddress) {
  const int64_t most = 1060;
  for (const int64_t shift : shifts())
    for (const int64_t n : {1, 3, 4, 5, 15, 16, 17, 1023, 1050}) {
      if (build == Build::thread && n > 20) continue;
      SCOPED_TRACE(std::to_string(n) + " elements, " + std::to_string(shift) + " off");
      expect_same_on_gpu({numbers({most}, 1, 3), bytes({most}, 2), numbers({1}, 4)},
                         {unwritten({most}, DType::i8), unwritten({most}, DType::bf16)},
                         [=](Stream stream, const Tensors& x, Tensors y) {
                           map(stream, n, 1, Flat{}, in(x[0].data<float>() + shift),
                               in(x[1].data<int8_t>() + shift), scalar(x[2].data<float>()),
                               out(y[0].data<int8_t>() + shift),
                               out(y[1].data<BFloat16>() + shift));
                         });
      if (HasFailure()) return;
    }
}

struct Code {
  QT_HD int8_t operator()(int8_t code) const { return code; }
};
struct OfTable {
  QT_HD int8_t operator()(int8_t code, int8_t from_table) const { return code ^ from_table; }
};

// Sixteen codes at a time.
TEST_F(Launchers, MapOfCodesAtAnyAddress) {
  for (const int64_t channels : {8, 16, 48, 50})
    for (const int64_t shift : shifts()) {
      const int64_t rows = 7, n = rows * channels;
      SCOPED_TRACE(std::to_string(channels) + " channels, " + std::to_string(shift) + " off");
      expect_same_on_gpu({bytes({n + 8}, 1), bytes({n + 8}, 2), bytes({channels, 256}, 3)},
                         {unwritten({n + 8}, DType::i8)},
                         [=](Stream stream, const Tensors& x, Tensors y) {
                           map(stream, rows, channels, OfTable{}, in(x[0].data<int8_t>() + shift),
                               lookup(x[1].data<int8_t>() + shift, x[2].data<int8_t>(), channels),
                               out(y[0].data<int8_t>() + shift));
                         });
      if (HasFailure()) return;
    }
}

// Three channels, as pictures have: packets that go over the ends of pixels.
TEST_F(Launchers, MapOfPixelsInPackets) {
  const FewBlocks one(1);
  const int64_t n = 3, height = 9, width = build == Build::thread ? 40 : 211,
                rows = n * height * width;
  Tensor pictures = Tensor::empty({n, height, width, 3}, DType::u8);
  for (int64_t i = 0; i < pictures.elements(); ++i) pictures.data<uint8_t>()[i] = uint8_t(i * 37);
  const Tensor windows = Tensor::of<int32_t>({n, 3}, {0, 0, 0, -2, 3, 0, 1, -1, 1});
  EXPECT_EQ(kernel::packets_of<16>(rows, 3,
                                   lookup(pictures.data<uint8_t>(), pictures.data<uint8_t>(), 3)),
            rows * 3 / 16);
  expect_same_on_gpu(
      {pictures, windows, bytes({3, 256}, 4)},
      {unwritten({n, height, width, 3}, DType::u8), unwritten({n, height, width, 3}, DType::i8)},
      [=](Stream stream, const Tensors& x, Tensors y) {
        map(stream, rows, 3, Pixel{},
            Windowed<uint8_t>{x[0].data<uint8_t>(), x[1].data<int32_t>(), height, width, 3},
            out(y[0].data<uint8_t>()));
        map(stream, rows, 3, Code{}, lookup(x[0].data<uint8_t>(), x[2].data<int8_t>(), 3),
            out(y[1].data<int8_t>()));
      });
}

TEST_F(Launchers, SumsAndMomentsOfColumnsAtAnyAddress) {
  const int64_t rows = build == Build::thread ? 5 : 131, most = 40 * rows + 8;
  for (const int64_t channels : {4, 30, 36})
    for (const int64_t shift : shifts()) {
      SCOPED_TRACE(std::to_string(channels) + " channels, " + std::to_string(shift) + " off");
      expect_same_on_gpu({numbers({most}, 1), numbers({channels + 8}, 2)},
                         {unwritten({3, channels}), unwritten({channels}), unwritten({channels})},
                         [=](Stream stream, const Tensors& x, Tensors y) {
                           sum_columns<3>(stream, rows, channels, ThreeSums{}, y[0].data<float>(),
                                          in(x[0].data<float>() + shift),
                                          per_channel(x[1].data<float>() + shift));
                           column_moments(stream, rows, channels, x[0].data<float>() + shift,
                                          y[1].data<float>(), y[2].data<float>());
                         });
      if (HasFailure()) return;
    }
}

// Several groups of chunks, of more columns than a block merges.
TEST_F(Launchers, SumsAndMomentsOfManyRows) {
  if (build != Build::plain) GTEST_SKIP() << "takes long under a sanitizer";
  const int64_t rows = 2 * group_rows + 5 * chunk_rows + 5, channels = 13;
  const Tensor sizes = with_chunks_of_many_sizes(numbers({rows, channels}, 1));
  expect_same_on_gpu({sizes, numbers({channels}, 2)},
                     {unwritten({3, channels}), unwritten({channels}), unwritten({channels}),
                      unwritten({3, channels}, DType::f64), unwritten({2, channels}, DType::f64)},
                     [=](Stream stream, const Tensors& x, Tensors y) {
                       const auto sums_to = [&](auto* to) {
                         sum_columns<3>(stream, rows, channels, ThreeSums{}, to,
                                        in(x[0].data<float>()), per_channel(x[1].data<float>()));
                       };
                       const auto moments_to = [&](auto* mean, auto* spread) {
                         column_moments(stream, rows, channels, x[0].data<float>(), mean, spread);
                       };
                       sums_to(y[0].data<float>());
                       moments_to(y[1].data<float>(), y[2].data<float>());
                       sums_to(y[3].data<double>());
                       moments_to(y[4].data<double>(), y[4].data<double>() + channels);
                     });
}

TEST_F(Launchers, FinishColumnsOfManyRows) {
  if (build != Build::plain) GTEST_SKIP() << "takes long under a sanitizer";
  for (const int64_t rows : {group_rows, 2 * group_rows + 5 * chunk_rows + 5, 18 * group_rows})
    expect_finished_columns(rows, 37, with_chunks_of_many_sizes(numbers({rows, 37}, 1)));
}

struct TwoRowSums {
  QT_HD Values<2> operator()(float x, float row, int32_t column) const {
    return {{x * row, x * float(column % 3)}};
  }
};

TEST_F(Launchers, SumRows) {
  on_all(row_extents(), [](int64_t rows, int64_t channels) {
    expect_same_on_gpu({numbers({rows, channels}, 1), numbers({rows}, 2)}, {unwritten({2, rows})},
                       [=](Stream stream, const Tensors& x, Tensors y) {
                         sum_rows<2>(stream, rows, channels, TwoRowSums{}, y[0].data<float>(),
                                     in(x[0].data<float>()), per_row(x[1].data<float>()), Column{});
                       });
  });
}

// An element each to two outputs, and two sums.
struct StoredAndSummed {
  QT_HD Values<4> operator()(float x, float row) const {
    return {{x * row, x - row, x, x * x * row}};
  }
};

TEST_F(Launchers, SumRowsOfWhatIsAlsoStored) {
  on_all(row_extents(), [](int64_t rows, int64_t channels) {
    expect_same_on_gpu({numbers({rows, channels}, 1), numbers({rows}, 2), numbers({rows + 1}, 3)},
                       {unwritten({2, rows}), unwritten({rows, channels}),
                        unwritten({rows, channels}, DType::bf16), unwritten({rows}),
                        unwritten({rows}, DType::bf16), unwritten({rows, channels})},
                       [=](Stream stream, const Tensors& x, Tensors y) {
                         sum_rows<2>(stream, rows, channels, StoredAndSummed{}, y[0].data<float>(),
                                     in(x[0].data<float>()), per_row(x[1].data<float>()),
                                     out(y[1].data<float>()), out(y[2].data<BFloat16>()));
                         sum_rows<3>(stream, rows, channels, StoredAndSummed{},
                                     finish_by(FinishThree{}, x[2], y[3], y[4]),
                                     in(x[0].data<float>()), per_row(x[1].data<float>()),
                                     out(y[5].data<float>()));
                       });
  });
}

struct Negative {
  QT_HD float operator()(float x) const { return -x; }
};

TEST_F(Launchers, MaxRows) {
  on_all(row_extents(), [](int64_t rows, int64_t channels) {
    expect_same_on_gpu({numbers({rows, channels}, 1)}, {unwritten({rows})},
                       [=](Stream stream, const Tensors& x, Tensors y) {
                         max_rows(stream, rows, channels, Negative{}, y[0].data<float>(),
                                  in(x[0].data<float>()));
                       });
  });
}

TEST_F(Launchers, ColumnMoments) {
  on_all(all_extents(), [](int64_t rows, int64_t channels) {
    expect_same_on_gpu({numbers({rows, channels}, 1, 3)},
                       {unwritten({channels}), unwritten({channels})},
                       [=](Stream stream, const Tensors& x, Tensors y) {
                         column_moments(stream, rows, channels, x[0].data<float>(),
                                        y[0].data<float>(), y[1].data<float>());
                       });
    expect_same_on_gpu({numbers({rows, channels}, 1, 3)}, {unwritten({2, channels}, DType::f64)},
                       [=](Stream stream, const Tensors& x, Tensors y) {
                         double* const moments = y[0].data<double>();
                         column_moments(stream, rows, channels, x[0].data<float>(), moments,
                                        moments + channels);
                       });
  });
}

// Depends on the order of taps.
struct Seen {
  QT_HD Values<2> start() const { return {{0, 0}}; }
  QT_HD Values<2> operator()(Values<2> s, float x, float tap) const {
    return {{s.v[0] * 2 + x, tap}};
  }
  QT_HD Values<2> finish(Values<2> s) const { return s; }
};
struct Gathered {
  QT_HD float operator()(float dy, float aux, float tap) const { return dy * (tap + 1) + aux; }
};

std::vector<WindowShape> all_windows() {
  if (build == Build::thread) return {{1, 5, 7, 3, 3, 4, 3, 2, 1}};
  return {{2, 5, 7, 3, 5, 7, 3, 1, 1},
          {2, 8, 8, 65, 4, 4, 2, 2, 0},
          {1, 9, 6, 16, 5, 3, 3, 2, 1},
          {3, 4, 9, 130, 1, 1, 9, 1, 0},
          {1, 8, 8, 4, 3, 3, 2, 3, 0}};
}

TEST_F(Launchers, FoldWindows) {
  for (const WindowShape& s : all_windows()) {
    const Shape outputs{s.n, s.out_h, s.out_w, s.c};
    expect_same_on_gpu({numbers({s.n, s.h, s.w, s.c}, 1)},
                       {unwritten(outputs), unwritten(outputs, DType::u8)},
                       [&](Stream stream, const Tensors& x, Tensors y) {
                         fold_windows(stream, s, Seen{}, x[0].data<float>(),
                                      out(y[0].data<float>()), out(y[1].data<uint8_t>()));
                       });
  }
}

TEST_F(Launchers, GatherWindows) {
  for (const WindowShape& s : all_windows()) {
    const Shape outputs{s.n, s.out_h, s.out_w, s.c};
    expect_same_on_gpu({numbers(outputs, 2), bytes(outputs, 3)}, {unwritten({s.n, s.h, s.w, s.c})},
                       [&](Stream stream, const Tensors& x, Tensors dx) {
                         gather_windows(stream, s, Gathered{}, x[0].data<float>(),
                                        x[1].data<int8_t>(), dx[0].data<float>());
                       });
    expect_same_on_gpu({halves(outputs, 2), bytes(outputs, 3)},
                       {unwritten({s.n, s.h, s.w, s.c}, DType::bf16)},
                       [&](Stream stream, const Tensors& x, Tensors dx) {
                         gather_windows(stream, s, Gathered{}, x[0].data<BFloat16>(),
                                        x[1].data<int8_t>(), dx[0].data<BFloat16>());
                       });
  }
}

TEST_F(Launchers, WindowsAtAnyAddress) {
  for (const WindowShape& s : {WindowShape{1, 5, 7, 8, 3, 4, 3, 2, 1}, {1, 4, 4, 6, 2, 2, 2, 2, 0}})
    for (const int64_t shift : shifts()) {
      const int64_t inputs = s.n * s.h * s.w * s.c, outputs = s.n * s.out_h * s.out_w * s.c;
      SCOPED_TRACE(std::to_string(s.c) + " channels, " + std::to_string(shift) + " off");
      expect_same_on_gpu(
          {numbers({inputs + 8}, 1), numbers({outputs + 8}, 2), bytes({outputs + 8}, 3)},
          {unwritten({outputs + 8}), unwritten({outputs + 8}, DType::u8), unwritten({inputs + 8})},
          [=](Stream stream, const Tensors& x, Tensors y) {
            fold_windows(stream, s, Seen{}, x[0].data<float>() + shift,
                         out(y[0].data<float>() + shift), out(y[1].data<uint8_t>() + shift));
            gather_windows(stream, s, Gathered{}, x[1].data<float>() + shift,
                           x[2].data<int8_t>() + shift, y[2].data<float>() + shift);
          });
      if (HasFailure()) return;
    }
}

struct ScaledSum {
  float by;
  QT_HD Values<2> operator()(float x, float y, float scale) const {
    return {{x * by + y * scale, x - y}};
  }
};
struct AtLeast {
  float limit;
  QT_HD bool operator()(float x) const { return x >= limit; }
};

// More segments than one launch takes, among them empty ones and one of more than all blocks.
std::vector<int64_t> segment_lengths() {
  std::vector<int64_t> lengths;
  if (build == Build::thread) return {5, 0, 130, 1};
  for (int64_t i = 0; i < 90; ++i) lengths.push_back(i % 7 == 3 ? 0 : 1 + i * i % 700);
  lengths[50] = 9000;
  return lengths;
}

TEST_F(Launchers, MapOfSegments) {
  Tensors inputs, outputs;
  const std::vector<int64_t> lengths = segment_lengths();
  for (size_t i = 0; i < lengths.size(); ++i) {
    inputs.push_back(numbers({lengths[i] + 2}, uint32_t(i)));
    inputs.push_back(numbers({lengths[i] + 2}, uint32_t(i) + 1000));
    outputs.push_back(unwritten({lengths[i] + 2}));
    outputs.push_back(unwritten({lengths[i] + 2}));
  }
  inputs.push_back(numbers({1}, 5));
  expect_same_on_gpu(inputs, outputs, [&](Stream stream, const Tensors& x, Tensors y) {
    Segments<ScaledSum, Element<float>, Element<float>, Scalar<float>, Output<float>, Output<float>>
        list;
    for (size_t i = 0; i < lengths.size(); ++i) {
      const size_t off = i % 3;  // a packet, or not
      list.add(lengths[i], ScaledSum{float(i)}, in(x[2 * i].data<float>() + off),
               in(x[2 * i + 1].data<float>() + off), scalar(x.back().data<float>()),
               out(y[2 * i].data<float>() + off), out(y[2 * i + 1].data<float>() + off));
    }
    list.map(stream);
  });
}

TEST_F(Launchers, FirstAndCountOfSegments) {
  Tensors inputs;
  const std::vector<int64_t> lengths = segment_lengths();
  for (size_t i = 0; i < lengths.size(); ++i) inputs.push_back(numbers({lengths[i]}, uint32_t(i)));
  for (const float limit : {-2.0f, 0.5f, 0.999f, 0.9999f, 2.0f})
    expect_same_on_gpu(inputs, {unwritten({1}, DType::i32), unwritten({1}, DType::i32)},
                       [&](Stream stream, const Tensors& x, Tensors y) {
                         Segments<AtLeast, Element<float>> list;
                         for (size_t i = 0; i < lengths.size(); ++i)
                           list.add(lengths[i], AtLeast{limit}, in(x[i].data<float>()));
                         list.first_where(stream, y[0].data<int32_t>());
                         list.count_where(stream, y[1].data<int32_t>());
                       });
}

TEST_F(Launchers, AnEmptyTensorLaunchesNothing) {
  const GpuStream gpu;
  const UseStream use(gpu.stream());
  const Tensor x = Tensor::empty({0, 5}, DType::f32);
  Tensor y = Tensor::empty({0, 5}, DType::f32);
  map(gpu.stream(), 0, 5, Negative{}, in(x.data<float>()), out(y.data<float>()));
  gpu.synchronize();
}

}  // namespace
}  // namespace qt
