// tests/deploy/programs.h -- hand-built integer programs for the tests of the deploy room.
#pragma once
#include <random>

#include "deploy/program.h"

namespace qt::test {

// A program grown instruction by instruction; every number is drawn from the seed.
class ProgramMaker {
 public:
  ProgramMaker(uint64_t seed, int64_t height, int64_t width);

  struct ConvChoice {
    int64_t out = 4, kernel = 3, stride = 1, padding = 1, dilation = 1, groups = 1;
    int weight_lo = -127, weight_hi = 127;
    int lo = 0, hi = 127;
    int residual = -1;     // the instruction that is added
    float gain = 1;        // 1: results fill about half of lo..hi; large: nearly all saturate
    bool extreme = false;  // weights at the ends of their range only
  };
  // Each returns the number of its instruction. Names: "conv3", "add5", ...
  int conv(int x, const ConvChoice& choice);
  int add(int a, int b, int lo, int hi);
  int max_pool(int x, int64_t kernel, int64_t stride, int64_t padding);
  int average_pool(int x, int lo, int hi);
  int flatten(int x);
  Program classifier(int x, int64_t classes);

  Program& program() { return program_; }

 private:
  Instruction& append(const std::string& kind, std::vector<int> inputs, Operation operation,
                      const Shape& output);
  Tensor weights(const Shape& shape, int lo, int hi, bool extreme);
  float uniform(float from, float to);
  Program program_;
  std::mt19937_64 random_;
};

// ResNet-like: stem, max pool, identity block, downsampling block, add, pool, classifier; odd
// channel counts, negative m, a channel whose gamma is zero.
struct Widths {
  int weight_bits = 8, activation_bits = 8;
  bool full_range = false;
  int64_t channels = 5;
};
Program small_resnet(uint64_t seed, const Widths& widths);

// u8 images for it; every byte value occurs where there is room.
Tensor random_images(const Program& program, int64_t n, uint64_t seed);

// A folder of its own, removed with the object.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace qt::test
