// layers/image_input_kernels.cpp -- pixels to codes by table.
#include "core/kernel/launch.h"
#include "layers/heads.h"

namespace qt {
namespace {

struct Same {
  QT_HD float operator()(float v) const { return v; }
};

}  // namespace

Var ImageInput::forward(const std::vector<Var>& in, const Pass& pass) {
  const Tensor& images = in.at(0).value();
  QT_CHECK(images.dtype() == DType::u8 && images.channels() == 3,
           std::string("an image batch must be u8 [n, h, w, 3], got ") + name_of(images.dtype()) +
               " " + images.shape().text());
  const bool as_codes = pass.mode == ForwardMode::int8 || pass.mode == ForwardMode::exact_float;
  Tensor y = Tensor::empty(images.shape(), as_codes ? DType::i8 : DType::f32);
  const uint8_t* const pixels = images.data<uint8_t>();
  if (as_codes)
    map(current_stream(), images.rows(), 3, Same{},
        lookup(pixels, std::as_const(codes_).data<int8_t>(), 3), out(y.data<int8_t>()));
  else
    map(current_stream(), images.rows(), 3, Same{},
        lookup(pixels, std::as_const(reals_).data<float>(), 3), out(y.data<float>()));
  return Var(as_codes ? y.with_scale(codes_.step(), codes_.lo(), codes_.hi()) : y);
}

}  // namespace qt
