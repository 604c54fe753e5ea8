// tests/core/library/gpu_rows.h -- what is expected of the CUDA library, on whatever GPU the test
// has: rows of its operations against the plain loops.
#pragma once
#include <gtest/gtest.h>

#include "core/device/gpu.h"
#include "core/library/convert.h"
#include "core/ops/ops.h"
#include "core/tensor/transfer.h"
#include "tests/core/library/cases.h"

namespace qt {

struct GotAndWanted {
  Tensor got, wanted;
};

// compute(library, place) with the plain loops on the host, and with `library` on a GPU's stream;
// place() puts a tensor where the computation is.
template <class Compute>
GotAndWanted on_both(Library& library, Compute compute) {
  Tensor wanted = compute(*library_by_name("reference"), [](const Tensor& t) { return t; });
  const GpuStream gpu;
  Tensor got;
  {
    const UseStream use(gpu.stream());
    got = compute(library, [&](const Tensor& t) { return to_gpu(t, gpu.stream()); });
  }
  return {to_float(to_host(got, gpu.stream())), wanted};
}

inline void expect_exact(Library& library, const Conv2dShape& shape, const CodeRange& x_range,
                         const CodeRange& w_range, Fill fill) {
  const Tensor x = codes_of(shape.x_shape(), x_range, fill, 1),
               w = codes_of(shape.w_shape(), w_range, fill, 2);
  const auto y = on_both(library, [&](Library& l, auto place) {
    return l.conv2d_codes(place(x), place(w), shape, CodePath::integer);
  });
  EXPECT_EQ(count_differences(y.got, y.wanted), 0)
      << shape.text() << " x " << x_range.lo << ".." << x_range.hi << " w " << w_range.lo << ".."
      << w_range.hi;
}

// i8 and u8, with weights that need every value of int8 and of u8.
inline void expect_exact_on_all_codes(Library& library, const Conv2dShape& shape) {
  for (const CodeRange& x : {CodeRange{-127, 127}, CodeRange{0, 127}, CodeRange{0, 255}})
    expect_exact(library, shape, x, {-128, 127}, Fill::uniform);
  expect_exact(library, shape, {-128, 127}, {0, 255}, Fill::uniform);
  expect_exact(library, shape, {0, 255}, {0, 255}, Fill::uniform);
  expect_exact(library, shape, {0, 255}, {-127, 127}, Fill::all_high);
  expect_exact(library, shape, {0, 255}, {-128, 127}, Fill::all_low);
}

inline void expect_close_on_reals(Library& library, const Conv2dShape& shape, double tolerance) {
  const Tensor x = random_floats(shape.x_shape(), 1), w = random_floats(shape.w_shape(), 2),
               dy = random_floats(shape.y_shape(), 3);
  const auto y =
      on_both(library, [&](Library& l, auto place) { return l.conv2d(place(x), place(w), shape); });
  EXPECT_LE(relative_error(y.got, y.wanted), tolerance) << shape.text();
  const auto dx = on_both(library, [&](Library& l, auto place) {
    return l.conv2d_backward_data(place(dy), place(w), shape, Precision::f32);
  });
  EXPECT_LE(relative_error(dx.got, dx.wanted), tolerance) << shape.text();
  const auto dw = on_both(library, [&](Library& l, auto place) {
    return l.conv2d_backward_weights(place(x), place(dy), shape, Precision::f32);
  });
  EXPECT_LE(relative_error(dw.got, dw.wanted), tolerance) << shape.text();
}

// The gradient of data on top of another one, in a pass of its own where the library does not add.
inline Tensor added_gradient(Library& library, const Tensor& onto, const Tensor& dy,
                             const Tensor& w, const Conv2dShape& shape, Precision precision) {
  Tensor sum = library.data_gradient_type(precision) == DType::bf16 ? to_bf16(onto) : onto.clone();
  if (library.add_conv2d_backward_data(sum, dy, w, shape, precision)) return sum;
  return add(to_float(sum), to_float(library.conv2d_backward_data(dy, w, shape, precision)));
}

// Integer-valued gradients make every sum exact, with bf16 operands too: no rounding can hide a
// wrong element. rounding_to_bf16: what results may lose where the library's engines write bf16.
inline void expect_exact_gradients(Library& library, const Conv2dShape& shape,
                                   double rounding_to_bf16 = 0) {
  const Tensor w = codes_of(shape.w_shape(), {-7, 7}, Fill::uniform, 2),
               dy = to_float(codes_of(shape.y_shape(), {-7, 7}, Fill::uniform, 3)),
               onto = to_float(codes_of(shape.x_shape(), {-7, 7}, Fill::uniform, 4));
  for (const Precision precision : {Precision::f32, Precision::tf32, Precision::bf16}) {
    const double tolerance = precision == Precision::bf16 ? rounding_to_bf16 : 0;
    const auto dx = on_both(library, [&](Library& l, auto place) {
      return l.conv2d_backward_data(place(dy), place(w), shape, precision);
    });
    EXPECT_LE(relative_error(dx.got, dx.wanted), tolerance) << shape.text();
    const auto sum = on_both(library, [&](Library& l, auto place) {
      return added_gradient(l, place(onto), place(dy), place(w), shape, precision);
    });
    EXPECT_LE(relative_error(sum.got, sum.wanted), tolerance) << shape.text();
    for (const CodeRange& range : {CodeRange{0, 15}, CodeRange{-7, 7}, CodeRange{0, 255}}) {
      const Tensor x = codes_of(shape.x_shape(), range, Fill::uniform, 1);
      const auto dw = on_both(library, [&](Library& l, auto place) {
        return l.conv2d_backward_weights(place(x), place(dy), shape, precision);
      });
      EXPECT_LE(relative_error(dw.got, dw.wanted), tolerance) << shape.text();
    }
  }
}

// Likewise the forward pass.
inline void expect_exact_forward(Library& library, const Conv2dShape& shape,
                                 double rounding_to_bf16 = 0) {
  const Tensor x = to_float(codes_of(shape.x_shape(), {-7, 7}, Fill::uniform, 1)),
               w = to_float(codes_of(shape.w_shape(), {-7, 7}, Fill::uniform, 2));
  for (const Precision precision : {Precision::f32, Precision::tf32, Precision::bf16}) {
    const auto y = on_both(library, [&](Library& l, auto place) {
      return l.conv2d(place(x), place(w), shape, precision);
    });
    EXPECT_LE(relative_error(y.got, y.wanted), precision == Precision::bf16 ? rounding_to_bf16 : 0)
        << shape.text() << " in " << name_of(precision);
  }
}

inline void expect_exact_products(Library& library) {
  for (const auto& [m, n, k] :
       {std::tuple{1, 1, 1}, {5, 10, 64}, {7, 3, 33}, {16, 100, 512}, {3, 1000, 16}})
    for (const CodeRange& x_range : {CodeRange{-127, 127}, CodeRange{0, 255}}) {
      const Tensor x = codes_of({m, k}, x_range, Fill::uniform, 1),
                   w = codes_of({n, k}, {-127, 127}, Fill::uniform, 2);
      const auto y = on_both(library, [&](Library& l, auto place) {
        return l.linear_codes(place(x), place(w), CodePath::integer);
      });
      EXPECT_EQ(count_differences(y.got, y.wanted), 0) << m << " " << n << " " << k;
    }
}

// Sums beyond 2^24 are rounded once, to the nearest float.
inline void expect_long_sums_rounded_once(Library& library) {
  const int64_t k = 40000;
  Tensor high = codes_of({3, k}, {0, 255}, Fill::all_high, 1);
  for (int64_t i = 0; i < 3; ++i) high.data<uint8_t>()[i * k] = uint8_t(7 * i + 1);
  const Tensor w = codes_of({4, k}, {-127, 127}, Fill::all_high, 2);
  for (const Tensor& x : {codes_of({3, k}, {-127, 127}, Fill::ends, 1), high}) {
    const auto y = on_both(library, [&](Library& l, auto place) {
      return l.linear_codes(place(x), place(w), CodePath::integer);
    });
    EXPECT_EQ(count_differences(y.got, y.wanted), 0);
  }
}

inline void expect_matrix_products(Library& library, double tolerance) {
  for (const bool ta : {false, true})
    for (const bool tb : {false, true}) {
      const Tensor a = random_floats(ta ? Shape{9, 5} : Shape{5, 9}, 1),
                   b = random_floats(tb ? Shape{7, 9} : Shape{9, 7}, 2);
      const auto c = on_both(
          library, [&](Library& l, auto place) { return l.matmul(place(a), ta, place(b), tb); });
      EXPECT_LE(relative_error(c.got, c.wanted), tolerance) << ta << tb;
    }
  const auto empty = on_both(library, [&](Library& l, auto place) {
    return l.matmul(place(Tensor::empty({3, 0}, DType::f32)), false,
                    place(Tensor::empty({0, 4}, DType::f32)), false);
  });
  EXPECT_EQ(count_differences(empty.got, empty.wanted), 0);
}

}  // namespace qt
