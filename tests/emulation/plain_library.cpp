// tests/emulation/plain_library.cpp -- "reference" on the emulated GPU's memory.
#include "tests/emulation/plain_library.h"

#include <cstring>
#include <functional>
#include <vector>

#include "core/device/stream.h"
#include "tests/emulation/runtime.h"

namespace qt {
namespace {

// A tensor on the GPU as a library sees it: an address that it is told, and no handle. host() is a
// copy that plain loops can read.
struct Argument {
  Shape shape;
  DType type;
  const void* address;
  int lo, hi;
  bool codes;

  explicit Argument(const Tensor& t)
      : shape(t.shape()),
        type(t.dtype()),
        address(t.raw()),
        lo(t.lo()),
        hi(t.hi()),
        codes(t.is_codes()) {}
  Tensor host() const {
    Tensor t = Tensor::empty(shape, type);
    if (t.bytes()) memcpy(t.raw(), address, t.bytes());
    return codes ? t.with_scale(Tensor::full({1}, 1), lo, hi) : t;
  }
};

class EmulatedLibrary final : public Library {
 public:
  std::string name() const override { return "emulated"; }

  Tensor conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape, Precision) override {
    return enqueue(shape.y_shape(), [x = Argument(x), w = Argument(w), shape](Library& plain) {
      return plain.conv2d(x.host(), w.host(), shape);
    });
  }
  Tensor direct_conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape) override {
    return conv2d(x, w, shape, Precision::f32);
  }

  Tensor conv2d_backward_data(const Tensor& dy, const Tensor& w, const Conv2dShape& shape,
                              Precision precision) override {
    return enqueue(shape.x_shape(),
                   [dy = Argument(dy), w = Argument(w), shape, precision](Library& plain) {
                     return plain.conv2d_backward_data(dy.host(), w.host(), shape, precision);
                   });
  }
  Tensor conv2d_backward_weights(const Tensor& x, const Tensor& dy, const Conv2dShape& shape,
                                 Precision precision) override {
    return enqueue(shape.w_shape(),
                   [x = Argument(x), dy = Argument(dy), shape, precision](Library& plain) {
                     return plain.conv2d_backward_weights(x.host(), dy.host(), shape, precision);
                   });
  }
  Tensor matmul(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b) override {
    const Shape y{a.dim(transpose_a ? 1 : 0), b.dim(transpose_b ? 0 : 1)};
    return enqueue(y, [a = Argument(a), b = Argument(b), transpose_a, transpose_b](Library& plain) {
      return plain.matmul(a.host(), transpose_a, b.host(), transpose_b);
    });
  }

 protected:
  Tensor integer_conv2d(const Tensor& x, const Tensor& w, const Conv2dShape& shape) override {
    return enqueue(shape.y_shape(), [x = Argument(x), w = Argument(w), shape](Library& plain) {
      return plain.conv2d_codes(x.host(), w.host(), shape, CodePath::integer);
    });
  }
  Tensor integer_linear(const Tensor& x, const Tensor& w) override {
    return enqueue({x.dim(0), w.dim(0)}, [x = Argument(x), w = Argument(w)](Library& plain) {
      return plain.linear_codes(x.host(), w.host(), CodePath::integer);
    });
  }

 private:
  Tensor enqueue(const Shape& result, std::function<Tensor(Library&)> compute) {
    Tensor y = Tensor::empty(result, DType::f32);
    emulator::enqueue_library_work(current_stream(), [plain = plain_, compute = std::move(compute),
                                                      to = y.raw(), bytes = y.bytes()] {
      const UseStream on_host(Stream{});
      const Tensor computed = compute(*plain);
      if (bytes) memcpy(to, computed.raw(), bytes);
    });
    return y;
  }
  std::shared_ptr<Library> plain_ = make_reference_library();
};

}  // namespace

std::shared_ptr<Library> make_emulated_library() { return std::make_shared<EmulatedLibrary>(); }

}  // namespace qt
