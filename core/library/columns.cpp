// core/library/columns.cpp -- windows as rows, packed weights and finished sums, as functors
// over the index of what is written.
#include "core/library/columns.h"

#include "core/kernel/launch.h"

namespace qt {
namespace {

// How an element of From becomes one of To.
template <class From, class To>
struct Written {
  static QT_HD To of(From v) { return To(float(v)); }
};
template <class T>
struct Written<T, T> {
  static QT_HD T of(T v) { return v; }
};
template <>
struct Written<uint8_t, int8_t> {
  static QT_HD int8_t of(uint8_t v) { return int8_t(int(v) - 128); }
};

template <class T>
struct alignas(16) Packet {
  T v[packet_size<T>];
};

// The i-th packet of the columns.
template <class From, class To>
struct WindowPacket {
  const From* x;
  int64_t h, w, c, out_h, out_w, s, stride, padding, dilation, depth, products;
  int64_t rows, packets;  // per group; per row

  QT_HD Packet<To> operator()(int64_t i) const {
    const int64_t line = quotient(i, packets), group = quotient(line, rows),
                  row = line - group * rows;
    const int64_t first = (i - line * packets) * packet_size<To>;
    const int64_t image_row = quotient(row, out_w), ox = row - image_row * out_w;
    const int64_t image = quotient(image_row, out_h), oy = image_row - image * out_h;
    const From* const from = x + image * h * w * c + group * depth;
    const int64_t top = oy * stride - padding, left = ox * stride - padding;
    int64_t tap = quotient(first, depth), channel = first - tap * depth;
    Packet<To> packet;
    for (int64_t j = 0; j < packet_size<To>; ++j) {
      const int64_t r = quotient(tap, s), y = top + r * dilation,
                    z = left + (tap - r * s) * dilation;
      const bool inside = first + j < products && y >= 0 && y < h && z >= 0 && z < w;
      packet.v[j] = Written<From, To>::of(inside ? from[(y * w + z) * c + channel] : From(0));
      if (++channel == depth) {
        channel = 0;
        ++tap;
      }
    }
    return packet;
  }
};

// One element of dx.
struct TapsAdded {
  const float* columns;
  int64_t h, w, c, out_h, out_w, r, s, stride, padding, dilation, depth, rows, width;

  QT_HD float operator()(int64_t i) const {
    const int64_t pixel = quotient(i, c), channel = i - pixel * c;
    const int64_t image_row = quotient(pixel, w), x = pixel - image_row * w;
    const int64_t image = quotient(image_row, h), y = image_row - image * h;
    const int64_t group = quotient(channel, depth);
    const float* const from = columns + group * rows * width + channel - group * depth;
    float sum = 0;
    for (int64_t tap_y = 0; tap_y < r; ++tap_y) {
      const int64_t down = y + padding - tap_y * dilation;
      const int64_t oy = down < 0 ? -1 : quotient(down, stride);
      if (oy < 0 || oy >= out_h || oy * stride != down) continue;
      for (int64_t tap_x = 0; tap_x < s; ++tap_x) {
        const int64_t right = x + padding - tap_x * dilation;
        const int64_t ox = right < 0 ? -1 : quotient(right, stride);
        if (ox < 0 || ox >= out_w || ox * stride != right) continue;
        sum += from[((image * out_h + oy) * out_w + ox) * width + (tap_y * s + tap_x) * depth];
      }
    }
    return sum;
  }
};

template <class Code>
struct PackedCode {
  const Code* w;
  PackedWeights shape;
  CodePart part;

  QT_HD int8_t operator()(int64_t i) const {
    const int64_t line = quotient(i, shape.width), column = i - line * shape.width;
    const int64_t group = quotient(line, shape.padded_per_group),
                  row = line - group * shape.padded_per_group;
    if (column >= shape.products || row >= shape.per_group) return 0;
    const int code = w[(group * shape.per_group + row) * shape.products + column];
    return int8_t(part == CodePart::all ? code : part == CodePart::upper ? code >> 1 : code & 1);
  }
};

template <class Code>
struct WeightOffset {
  const Code* w;
  int64_t products;
  QT_HD int32_t operator()(int64_t k) const {
    int32_t sum = 0;
    for (int64_t i = 0; i < products; ++i) sum += w[k * products + i];
    return 128 * sum;
  }
};

struct FinishedSum {
  IntegerSums in;
  // In unsigned numbers: the parts may leave int32 where the whole does not.
  QT_HD float operator()(int64_t i) const {
    const int64_t k = in.groups * in.per_group, row = quotient(i, k), channel = i - row * k;
    const int64_t group = quotient(channel, in.per_group);
    const int64_t at =
        (group * in.rows + row) * in.padded_per_group + channel - group * in.per_group;
    auto sum = uint32_t(in.sums[at]);
    if (in.lower) sum = 2 * sum + uint32_t(in.lower[at]);
    if (in.offsets) sum += uint32_t(in.offsets[channel]);
    return float(int32_t(sum));
  }
};

}  // namespace

template <class From, class To>
void write_columns(const ColumnShape& shape, const From* x, To* columns) {
  const Conv2dShape& conv = shape.conv;
  const int64_t packets = shape.width / packet_size<To>;
  QT_CHECK(packets * packet_size<To> == shape.width && shape.width >= shape.products(),
           "rows of " + std::to_string(shape.width) + " elements are not whole packets that hold " +
               std::to_string(shape.products()));
  const WindowPacket<From, To> f{.x = x,
                                 .h = conv.h,
                                 .w = conv.w,
                                 .c = conv.c,
                                 .out_h = conv.out_h(),
                                 .out_w = conv.out_w(),
                                 .s = conv.s,
                                 .stride = conv.stride,
                                 .padding = conv.padding,
                                 .dilation = conv.dilation,
                                 .depth = shape.depth(),
                                 .products = shape.products(),
                                 .rows = shape.rows(),
                                 .packets = packets};
  generate(current_stream(), conv.groups * shape.rows() * packets, f,
           reinterpret_cast<Packet<To>*>(columns));
}

void add_columns(const ColumnShape& shape, const float* columns, float* dx) {
  const Conv2dShape& conv = shape.conv;
  const TapsAdded f{.columns = columns,
                    .h = conv.h,
                    .w = conv.w,
                    .c = conv.c,
                    .out_h = conv.out_h(),
                    .out_w = conv.out_w(),
                    .r = conv.r,
                    .s = conv.s,
                    .stride = conv.stride,
                    .padding = conv.padding,
                    .dilation = conv.dilation,
                    .depth = shape.depth(),
                    .rows = shape.rows(),
                    .width = shape.width};
  generate(current_stream(), shape.images * conv.h * conv.w * conv.c, f, dx);
}

template <class Code>
void pack_weights(const PackedWeights& shape, const Code* w, CodePart part, int8_t* packed) {
  generate(current_stream(), shape.groups * shape.padded_per_group * shape.width,
           PackedCode<Code>{w, shape, part}, packed);
}

template <class Code>
void weight_offsets(int64_t k, int64_t products, const Code* w, int32_t* offsets) {
  generate(current_stream(), k, WeightOffset<Code>{w, products}, offsets);
}

void sums_to_floats(const IntegerSums& sums, float* y) {
  generate(current_stream(), sums.rows * sums.groups * sums.per_group, FinishedSum{sums}, y);
}

template void write_columns(const ColumnShape&, const int8_t*, int8_t*);
template void write_columns(const ColumnShape&, const uint8_t*, int8_t*);
template void write_columns(const ColumnShape&, const float*, float*);
template void write_columns(const ColumnShape&, const int8_t*, float*);
template void write_columns(const ColumnShape&, const uint8_t*, float*);
template void write_columns(const ColumnShape&, const float*, BFloat16*);
template void write_columns(const ColumnShape&, const int8_t*, BFloat16*);
template void write_columns(const ColumnShape&, const uint8_t*, BFloat16*);
template void pack_weights(const PackedWeights&, const int8_t*, CodePart, int8_t*);
template void pack_weights(const PackedWeights&, const uint8_t*, CodePart, int8_t*);
template void weight_offsets(int64_t, int64_t, const int8_t*, int32_t*);
template void weight_offsets(int64_t, int64_t, const uint8_t*, int32_t*);

}  // namespace qt
