// tests/core/tensor/tensor_test.cpp -- shapes, storage, scales and bfloat16.
#include "core/tensor/tensor.h"

#include <gtest/gtest.h>

#include <cmath>

namespace qt {
namespace {

TEST(Shape, KnowsItsExtents) {
  const Shape s{64, 3, 3, 16};
  EXPECT_EQ(s.rank(), 4);
  EXPECT_EQ(s[0], 64);
  EXPECT_EQ(s[-1], 16);
  EXPECT_EQ(s.elements(), 64 * 9 * 16);
  EXPECT_EQ(s.text(), "[64, 3, 3, 16]");
  EXPECT_EQ(Shape{}.elements(), 1);
  EXPECT_EQ((Shape{3, 0, 2}).elements(), 0);
  EXPECT_FALSE((Shape{2, 3}) == (Shape{3, 2}));
  EXPECT_FALSE((Shape{2}) == (Shape{2, 1}));
}

TEST(Shape, RefusesWhatNoTensorHas) {
  EXPECT_THROW((Shape{1, 2, 3, 4, 5, 6}), InternalError);
  EXPECT_THROW((Shape{2, -1}), InternalError);
  EXPECT_THROW((Shape{int64_t{1} << 40, int64_t{1} << 40}).elements(), InternalError);
}

TEST(Tensor, HandlesShareStorageAndClonesDoNot) {
  Tensor a = Tensor::of<float>({2}, {1, 2});
  const Tensor b = a, c = a.clone();
  a.data<float>()[0] = 9;
  EXPECT_EQ(b.to_vector<float>(), (std::vector<float>{9, 2}));
  EXPECT_EQ(c.to_vector<float>(), (std::vector<float>{1, 2}));
}

TEST(Tensor, RefusesAnotherElementType) {
  const Tensor t = Tensor::zeros({2}, DType::i8);
  EXPECT_THROW(t.data<float>(), InternalError);
  EXPECT_THROW(t.data<uint8_t>(), InternalError);
  EXPECT_THROW(Tensor().data<float>(), InternalError);
  EXPECT_THROW(Tensor::of<float>({3}, {1, 2}), InternalError);
}

TEST(Tensor, SeesRowsAndChannels) {
  const Tensor t = Tensor::zeros({2, 3, 5}, DType::f32);
  EXPECT_EQ(t.rows(), 6);
  EXPECT_EQ(t.channels(), 5);
  EXPECT_EQ(t.bytes(), 120u);
  EXPECT_EQ(Tensor::zeros({4, 0}, DType::f32).rows(), 0);
}

TEST(Tensor, ReshapesWithoutCopying) {
  Tensor t = Tensor::of<int64_t>({2, 3}, {1, 2, 3, 4, 5, 6});
  const Tensor u = t.reshaped({3, 2});
  EXPECT_EQ(u.raw(), t.raw());
  EXPECT_EQ(u.shape(), (Shape{3, 2}));
  EXPECT_THROW(t.reshaped({4}), InternalError);
}

TEST(Tensor, CarriesAScaleThroughCopies) {
  const Tensor step = Tensor::full({1}, 0.5f);
  const Tensor q = Tensor::zeros({2, 3}, DType::i8).with_scale(step, -7, 7);
  EXPECT_TRUE(q.is_codes());
  EXPECT_EQ(q.lo(), -7);
  EXPECT_EQ(q.hi(), 7);
  EXPECT_EQ(q.clone().step().to_vector<float>(), std::vector<float>{0.5f});
  EXPECT_TRUE(q.reshaped({6}).is_codes());
  EXPECT_FALSE(q.without_scale().has_scale());
  EXPECT_THROW(q.without_scale().step(), InternalError);
  EXPECT_FALSE(Tensor::zeros({2}, DType::f32).with_scale(step).is_codes())
      << "raw sums are not codes";
}

TEST(Tensor, KeepsAScalePerChannelOnlyWithItsChannels) {
  const Tensor sums = Tensor::zeros({2, 2, 3}, DType::f32).with_scale(Tensor::full({3}, 0.5f));
  EXPECT_TRUE(sums.reshaped({4, 3}).has_scale());
  EXPECT_FALSE(sums.reshaped({3, 4}).has_scale());
}

TEST(BFloat16, RoundsToNearestEven) {
  EXPECT_EQ(float(BFloat16(1.0f)), 1.0f);
  EXPECT_EQ(float(BFloat16(1.0f + 0x1p-8f)), 1.0f);                // tie: to even
  EXPECT_EQ(float(BFloat16(1.0f + 3 * 0x1p-8f)), 1.0f + 0x1p-6f);  // tie: to even, upwards
  EXPECT_EQ(float(BFloat16(1.0f + 0x1.1p-8f)), 1.0f + 0x1p-7f);
  EXPECT_EQ(float(BFloat16(-3.0e38f)), -std::ldexp(float(0xe2), 120));
  EXPECT_TRUE(std::isinf(float(BFloat16(3.4e38f))));
  EXPECT_TRUE(std::isnan(float(BFloat16(NAN))));
  const uint32_t quiet_bits_low = 0x7f800001u;  // a NaN whose upper half alone would be infinity
  float nan;
  memcpy(&nan, &quiet_bits_low, 4);
  EXPECT_TRUE(std::isnan(float(BFloat16(nan))));
}

}  // namespace
}  // namespace qt
