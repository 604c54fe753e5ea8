// tests/train/real_images_test.cpp -- on real pictures: plain loops, oneDNN's int8 and
// integer-valued floats give the same codes in every layer.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <memory>

#include "core/ops/ops.h"
#include "data/dataset.h"
#include "deploy/build_program.h"
#include "deploy/compare.h"
#include "tests/core/base/temporary_folder.h"
#include "train/network.h"

namespace qt {
namespace {

namespace fs = std::filesystem;

// CIFAR-10's test pictures as JPEG: an unpacked folder, or the archive, of which 1,000 are
// unpacked.
class RealImages : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    const char* const data = std::getenv("QATTRAIN_DATA");
    const fs::path root = data ? data : "";
    if (data && fs::exists(root / "cifar10-jpeg/test")) {
      open((root / "cifar10-jpeg").string());
    } else if (data && fs::exists(root / "cifar10-jpeg.tar.xz")) {
      const std::string command = "tar -xJf '" + (root / "cifar10-jpeg.tar.xz").string() +
                                  "' -C '" + folder_.path() +
                                  "' --wildcards 'train/*/0000.jpg' 'test/*/00??.jpg'";
      ASSERT_EQ(std::system(command.c_str()), 0);
      open(folder_.path());
    } else {
      GTEST_SKIP() << "*** NOT TESTED on real pictures: QATTRAIN_DATA names no folder with "
                      "cifar10-jpeg or cifar10-jpeg.tar.xz ***";
    }
  }

  struct Pictures {
    Tensor images, labels;
  };
  // count pictures of the set, from all classes: number `first` of `parts` interleaved portions.
  Pictures pictures(int64_t count, int64_t first, int64_t parts) const {
    Pictures p{Tensor::empty({count, 32, 32, 3}, DType::u8), Tensor::empty({count}, DType::i64)};
    for (int64_t i = 0; i < count; ++i) {
      const int64_t index = (i * parts + first) * set_->size() / (count * parts);
      set_->read(index, p.images.data<uint8_t>() + i * 32 * 32 * 3);
      p.labels.data<int64_t>()[i] = set_->label(index);
    }
    return p;
  }

  // A ResNet-20 after a little training on the pictures: in float, then calibrated, then with
  // codes.
  std::unique_ptr<Model> trained(int bits) const {
    constexpr int64_t batch = 32, batches = 12;
    ModelSpec spec;
    spec.name = "resnet20";
    spec.image_size = 32;
    spec.quant.weights.bits = spec.quant.activations.bits = bits;
    spec.quant.weights.per_channel = true;
    auto model = make_model(spec);
    const auto parameters = parameters_of(*model);
    const auto optimizer = make_optimizer({}, parameters);
    for (int64_t i = 0; i < batches; ++i) {
      const Pictures p = pictures(batch, i, batches);
      const bool quantized = i >= batches - 4;
      const Pass pass{.mode = quantized ? ForwardMode::int8 : ForwardMode::float32,
                      .training = true};
      if (i == batches - 4) {
        const Tape::Pause pause;
        model->forward(p.images, {.mode = ForwardMode::int8, .calibrate = true});
        set_missing_floors(*model);
      }
      const Var loss = softmax_cross_entropy(model->forward(p.images, pass), p.labels, 0);
      Tape::current().backward(loss, Tensor::full({1}, 1));
      optimizer->step(quantized ? 0.01 : 0.1);
    }
    return model;
  }

  // Runs `count` pictures through three ways of computing; then through a program in which one
  // weight code is one off.
  void expect_same_codes_on(int64_t count) const {
    const auto model = trained(GetParam());
    const Program program = build_program(*model);
    constexpr int64_t batch = 50;
    for (int64_t i = 0; i < count / batch; ++i) {
      const Tensor images = pictures(batch, i, count / batch).images;
      const EngineResult wanted = run("reference", program, images, CodePath::integer);
      ASSERT_EQ(wanted.codes.size(), program.instructions.size() - 1);
      for (const CodePath path : {CodePath::integer, CodePath::exact_float}) {
        const CodeDifference difference =
            compare_codes(wanted, run("onednn", program, images, path));
        ASSERT_TRUE(difference.equal) << "pictures of part " << i << ": " << difference.text();
      }
      if (i > 0) continue;
      const CodeDifference difference =
          compare_codes(wanted, run("onednn", one_off(program), images, CodePath::integer));
      EXPECT_FALSE(difference.equal) << "a wrong code goes unnoticed";
      EXPECT_EQ(difference.layer, "layer2.1.conv1");
    }
  }

  // Every picture of the set through int8 convolutions and through integer-valued floats.
  void expect_same_codes_from_floats() const {
    const Program program = build_program(*trained(GetParam()));
    constexpr int64_t batch = 100;
    const int64_t parts = set_->size() / batch;
    for (int64_t i = 0; i < parts; ++i) {
      const Tensor images = pictures(batch, i, parts).images;
      const EngineResult wanted = run("onednn", program, images, CodePath::integer);
      ASSERT_EQ(wanted.codes.size(), program.instructions.size() - 1);
      const CodeDifference difference =
          compare_codes(wanted, run("onednn", program, images, CodePath::exact_float));
      ASSERT_TRUE(difference.equal) << "pictures of part " << i << ": " << difference.text();
    }
  }

 private:
  void open(const std::string& path) {
    // Nothing is kept in memory: a test reads few of the pictures.
    set_ = make_dataset({.kind = "imagefolder", .path = path, .cache_bytes = 0}, Split::test);
    ASSERT_GE(set_->size(), 1000);
    ASSERT_EQ(set_->height(), 32);
  }

  // With int8, integer kernels must have run, and with floats float ones.
  static EngineResult run(const char* engine, const Program& program, const Tensor& images,
                          CodePath path) {
    const LibraryTrace trace;
    EngineResult result =
        make_engine(engine)->run(program, images, {.path = path, .keep_codes = true});
    int64_t integer_convolutions = 0;
    for (const LibraryCall& call : trace.calls())
      integer_convolutions += call.operation == "conv2d_codes" && call.arithmetic != "f32";
    const bool wants_integer = engine == std::string("onednn") && path == CodePath::integer;
    EXPECT_TRUE(wants_integer ? integer_convolutions >= 20 : integer_convolutions == 0)
        << engine << ": " << integer_convolutions
        << " integer convolutions; all but the first, whose codes are signed, can be";
    return result;
  }

  // The codes of layer2.1.conv1 with the one in the middle changed by one.
  static Program one_off(const Program& program) {
    Program changed = program;
    for (Instruction& at : changed.instructions) {
      if (at.name != "layer2.1.conv1") continue;
      Conv& conv = std::get<Conv>(at.operation);
      Tensor codes = conv.codes.clone();
      int8_t& code = codes.data<int8_t>()[codes.elements() / 2];
      code = int8_t(code > conv.codes.lo() ? code - 1 : code + 1);
      conv.codes = codes;
    }
    return changed;
  }

  test::TemporaryFolder folder_;
  std::shared_ptr<const Dataset> set_;
};

class RealImagesLong : public RealImages {};

TEST_P(RealImages, GiveTheSameCodesInEveryLayerByEveryWay) { expect_same_codes_on(100); }
TEST_P(RealImagesLong, AThousandGiveTheSameCodesInEveryLayerByEveryWay) {
  expect_same_codes_on(1000);
}
TEST_P(RealImagesLong, AllGiveTheSameCodesInEveryLayerFromIntegersAndFloats) {
  expect_same_codes_from_floats();
}

INSTANTIATE_TEST_SUITE_P(Bits, RealImages, testing::Values(2, 4, 8));
INSTANTIATE_TEST_SUITE_P(Bits, RealImagesLong, testing::Values(2, 4, 8));

}  // namespace
}  // namespace qt
