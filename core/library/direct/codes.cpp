// core/library/direct/codes.cpp -- convolutions of integer codes, exact, for any kernel and stride.
//
// Under a window, each line of taps is one run of s * c neighbouring codes. A strip of padded input
// lines is copied first, so that every run lies in the picture; output pixels are then sums over
// runs of products with weights packed for them, four bytes of a run at a time:
//   shorts  two int16 codes; vpmaddwd adds their products in int32. Any codes of 8 bits.
//   bytes   four u8 codes; vpmaddubsw adds two products in int16, which saturates, so only codes of
//           which 2 max(x) max|w| fits int16 come here; vpmaddwd by ones adds those in int32.
// int32 holds every sum: Library::conv2d_codes refuses others.
#include <algorithm>
#include <cstring>
#include <vector>

#include "core/kernel/parallel.h"
#include "core/library/avx2/products.h"
#include "core/library/code_convolution.h"
#include "core/library/direct/direct.h"

namespace qt::direct {
namespace {

using namespace avx2;

struct Shorts {
  using Code = int16_t;
  static constexpr int64_t at_once = 2;
  static constexpr const char* name = "s16s16s32";
  QT_INLINE static U32x8 sum(__m256i x, __m256i w) { return U32x8(_mm256_madd_epi16(x, w)); }
};
struct Bytes {
  using Code = uint8_t;
  static constexpr int64_t at_once = 4;
  static constexpr const char* name = "u8s8s32";
  QT_INLINE static U32x8 sum(__m256i x, __m256i w) {
    return U32x8(_mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1)));
  }
};

constexpr int64_t word = 4;  // bytes of a run that are multiplied at once, whatever the form
constexpr int64_t register_bytes = 32, panel_bytes = 2 * register_bytes;
constexpr int64_t panels_at_a_time = 4;   // whose sums are handed on together
constexpr int64_t pixels_at_a_time = 48;  // at least, where the picture has as many

// How a picture is cut: `rows` output rows at a time from a strip of padded input lines.
template <class Form>
struct Geometry {
  Conv2dShape s;
  int64_t run, words;  // codes under a line of taps, and words of packed weights for them
  int64_t line;        // codes from one line of the strip to the next
  int64_t rows, blocks, strip_lines;

  explicit Geometry(const Conv2dShape& shape) : s(shape) {
    run = s.s * s.c;
    words = (run + Form::at_once - 1) / Form::at_once;
    line =
        (s.w + 2 * s.padding) * s.c + Form::at_once;  // the last run's last word may reach beyond
    rows = std::clamp<int64_t>((pixels_at_a_time + s.out_w() - 1) / s.out_w(), 1, s.out_h());
    blocks = (s.out_h() + rows - 1) / rows;
    strip_lines = (rows - 1) * s.stride + s.r;
  }
  int64_t panel_stride() const { return s.r * words * panel_bytes; }  // bytes
};

// w [k, r, s, c] as panels [k / 16][r][words][16][codes of a word]; beyond a run's end zeros.
template <class Form>
Tensor pack(const int8_t* w, const Conv2dShape& shape) {
  const Geometry<Form> g(shape);
  Tensor packed = Tensor::zeros({shape.k / panel, g.panel_stride()}, DType::u8);
  using Weight = std::make_signed_t<typename Form::Code>;
  auto* to = static_cast<Weight*>(packed.raw());
  for (int64_t k = 0; k < shape.k; ++k)
    for (int64_t r = 0; r < shape.r; ++r)
      for (int64_t i = 0; i < g.run; ++i, ++w)
        to[(((k / panel * shape.r + r) * g.words + i / Form::at_once) * panel + k % panel) *
               Form::at_once +
           i % Form::at_once] = Weight(*w);
  return packed;
}

// Input lines first .. first + strip_lines of picture n, with the zeros around them.
template <class Form, class Code>
void copy_strip(const Geometry<Form>& g, const Code* x, int64_t n, int64_t first,
                typename Form::Code* to) {
  const int64_t edge = g.s.padding * g.s.c, inside = g.s.w * g.s.c;
  for (int64_t i = 0; i < g.strip_lines; ++i, to += g.line) {
    const int64_t h = first + i;
    std::fill(to, to + g.line, typename Form::Code(0));
    if (h < 0 || h >= g.s.h) continue;
    const Code* from = x + (n * g.s.h + h) * inside;
    for (int64_t j = 0; j < inside; ++j) to[edge + j] = typename Form::Code(from[j]);
  }
}

QT_INLINE __m256i all_words(const char* p) {
  int32_t value;
  memcpy(&value, p, sizeof value);
  return _mm256_set1_epi32(value);
}

// sums [Rows][16], `stride` apart, of the pixels whose runs begin at `pixels`.
template <class Form, int Rows>
QT_INLINE void multiply_pixels(const Geometry<Form>& g, const char* const* pixels, const char* w,
                               int32_t* sums, int64_t stride) {
  U32x8 left[Rows], right[Rows];
#pragma GCC unroll 6
  for (int i = 0; i < Rows; ++i) left[i] = right[i] = U32x8{};
  const int64_t line = g.line * int64_t(sizeof(typename Form::Code));
  for (int64_t r = 0; r < g.s.r; ++r) {
    const char* from[Rows];
#pragma GCC unroll 6
    for (int i = 0; i < Rows; ++i) from[i] = pixels[i] + r * line;
    for (int64_t j = 0; j < g.words; ++j, w += panel_bytes) {
      const __m256i w_left = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w));
      const __m256i w_right =
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + register_bytes));
#pragma GCC unroll 6
      for (int i = 0; i < Rows; ++i) {
        const __m256i x = all_words(from[i] + j * word);
        left[i] += Form::sum(x, w_left);
        right[i] += Form::sum(x, w_right);
      }
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < Rows; ++i) {
    store(sums + i * stride, left[i]);
    store(sums + i * stride + 8, right[i]);
  }
}

// What a thread works with: a strip, where each output pixel's first run begins, and sums.
template <class Form>
struct Scratch {
  std::vector<typename Form::Code> strip;
  std::vector<const char*> pixels;
  std::vector<int32_t> sums;
  explicit Scratch(const Geometry<Form>& g)
      : strip(size_t(g.strip_lines * g.line)),
        sums(size_t(g.rows * g.s.out_w() * panels_at_a_time * panel)) {
    for (int64_t i = 0; i < g.rows; ++i)
      for (int64_t j = 0; j < g.s.out_w(); ++j)
        pixels.push_back(reinterpret_cast<const char*>(strip.data() + i * g.s.stride * g.line +
                                                       j * g.s.stride * g.s.c));
  }
};

template <class Form, class Code>
void convolve(const Code* x, const Tensor& packed, const Conv2dShape& s, const TakeSums& take) {
  const Geometry<Form> g(s);
  const auto* weights = static_cast<const char*>(packed.raw());
  std::vector<Scratch<Form>> scratch;
  for (int i = 0; i < workers(); ++i) scratch.emplace_back(g);
  parallel_for(s.n * g.blocks, [&](int64_t unit, int worker) {
    Scratch<Form>& mine = scratch[size_t(worker)];
    const int64_t n = unit / g.blocks, row = unit % g.blocks * g.rows;
    copy_strip(g, x, n, row * s.stride - s.padding, mine.strip.data());
    const int64_t pixels = std::min(g.rows, s.out_h() - row) * s.out_w();
    for (int64_t k = 0; k < s.k; k += panels_at_a_time * panel) {
      const int64_t wide = std::min(panels_at_a_time * panel, s.k - k);
      for (int64_t column = 0; column < wide; column += panel)
        in_row_groups(pixels, [&](int64_t i, auto group) {
          multiply_pixels<Form, group()>(g, mine.pixels.data() + i,
                                         weights + (k + column) / panel * g.panel_stride(),
                                         mine.sums.data() + i * wide + column, wide);
        });
      take({mine.sums.data(), (n * s.out_h() + row) * s.out_w(), pixels, k, wide});
    }
  });
}

template <class Form>
class Convolution final : public CodeConvolution {
 public:
  Convolution(const Tensor& w, const Conv2dShape& shape)
      : CodeConvolution(shape, {"direct", "products of runs of codes", Form::name}),
        weights_(pack<Form>(w.data<int8_t>(), shape)) {}

 protected:
  void compute(const int8_t* x, const Conv2dShape& shape, const TakeSums& take) const override {
    convolve<Form>(x, weights_, shape, take);
  }
  void compute(const uint8_t* x, const Conv2dShape& shape, const TakeSums& take) const override {
    convolve<Form>(x, weights_, shape, take);
  }

 private:
  Tensor weights_;
};

}  // namespace

bool computes_codes(const Conv2dShape& s, const CodeRange& w) {
  return s.groups == 1 && s.dilation == 1 && s.k % panel == 0 && w.lo >= -128 && w.hi <= 127;
}

std::unique_ptr<CodeConvolution> prepare_codes(const CodeRange& x, const Tensor& w,
                                               const Conv2dShape& shape) {
  if (x.lo >= 0 && 2 * x.hi * code_range("a convolution's w", w).magnitude() <= INT16_MAX)
    return std::make_unique<Convolution<Bytes>>(w, shape);
  return std::make_unique<Convolution<Shorts>>(w, shape);
}

}  // namespace qt::direct
