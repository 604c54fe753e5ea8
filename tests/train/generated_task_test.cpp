// tests/train/generated_task_test.cpp -- the built-in pictures need a network: a linear model of
// the pixels fails on them.
#include <gtest/gtest.h>

#include <string>

#include "tests/core/base/temporary_folder.h"
#include "train/trainer.h"

namespace qt {
namespace {

// Top-1 on the test pictures after float training.
double top1_after(const std::string& model, const std::string& training) {
  Experiment experiment;
  load_config_text(experiment,
                   "model: " + model +
                       "\ndata: {kind: generated, image_size: 32, train_images: 12288, "
                       "test_images: 2000, augmentation: {crop: none, flip: false}}\n"
                       "train: {batch: 64, qat: {epochs: 0}, float: " +
                       training + "}\n",
                   "test.yaml");
  const test::TemporaryFolder folder;
  const RunFolder run = RunFolder::create({.dir = folder.path(), .name = "run"});
  Trainer trainer(experiment, {.show_progress = false});
  trainer.open(&run, {});
  const StopRequests requests;
  EXPECT_EQ(trainer.run(requests), Trainer::Outcome::done);
  return trainer.last_evaluation()->top1;
}

// 14.2 when it was written, and 40 on the training pictures.
TEST(GeneratedTaskLong, ALinearModelLearnsSomethingAndFails) {
  const double top1 = top1_after("{name: mlp, hidden: []}", "{epochs: 20, lr: 0.002}");
  EXPECT_GT(top1, 12) << "chance is 10, three standard deviations of 2,000 pictures are 2";
  EXPECT_LT(top1, 60);
}

}  // namespace
}  // namespace qt
