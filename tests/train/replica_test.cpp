// tests/train/replica_test.cpp -- several copies of a network that train as one.
#include "train/replica.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "core/base/philox.h"
#include "core/ops/ops.h"
#include "distributed/buckets.h"
#include "tests/support/memory_transport.h"
#include "tests/support/places.h"
#include "train/experiment.h"
#include "train/network.h"
#include "train/optimizer.h"
#include "train/simulation.h"

namespace qt {
namespace {

constexpr int64_t side = 16, classes = 4;

std::unique_ptr<Model> network(uint64_t seed = 1) {
  ModelSpec spec;
  spec.name = "resnet20";
  spec.image_size = side;
  spec.classes = classes;
  spec.seed = seed;
  return make_model(spec);
}

// Images [begin, end) of a batch that is the same on every rank.
Batch part_of_batch(int64_t begin, int64_t end) {
  Batch batch;
  const int64_t n = end - begin, bytes = side * side * 3;
  batch.images = Tensor::empty({n, side, side, 3}, DType::u8);
  batch.labels = Tensor::empty({n}, DType::i64);
  for (int64_t i = 0; i < n; ++i) {
    Philox draws(7, DrawKind::init_weights, uint32_t(begin + i));
    for (int64_t j = 0; j < bytes; ++j)
      batch.images.data<uint8_t>()[i * bytes + j] = uint8_t(draws.below(256));
    batch.labels.data<int64_t>()[i] = (begin + i) % classes;
  }
  return batch;
}

// What one synchronized step gives, seen from one rank.
struct Seen {
  std::vector<float> steps;         // after calibration
  std::vector<int8_t> first_codes;  // of this rank's part
  std::vector<float> gradients;
  std::vector<float> statistics;
  double loss = 0;
};

Seen first_step(Communicator& ranks, int64_t samples, ForwardMode mode, bool keep = false) {
  Seen seen;
  const auto model = network();
  observe_on(*model, ranks);
  const int64_t begin = samples * ranks.rank() / ranks.world(),
                end = samples * (ranks.rank() + 1) / ranks.world();
  const Batch batch = part_of_batch(begin, end);
  {
    const Tape::Pause pause;
    model->forward(batch.images, {.mode = mode, .calibrate = true, .synchronize = &ranks});
  }
  const auto parameters = parameters_of(*model);
  std::vector<NamedVar> trained;
  for (const auto& [name, parameter] : parameters) {
    trained.push_back({name, parameter->var});
    if (parameter->kind != Parameter::Kind::step) continue;
    for (float step : parameter->var.value().to_vector<float>()) seen.steps.push_back(step);
  }
  const Pass pass{.mode = mode,
                  .training = true,
                  .keep_16_bits = keep,
                  .synchronize = &ranks,
                  .samples_per_sample = float(double(samples) / double(end - begin))};
  if (mode != ForwardMode::float32) {
    const Tape::Pause pause;
    const auto& steps = model->steps();
    const Var image = steps.at(0).layer->forward({Var(batch.images)}, pass);
    const Var codes = steps.at(1).layer->forward({image}, pass);
    seen.first_codes = codes.value().to_vector<int8_t>();
  }
  GradientBuckets buckets(trained, ranks, {});
  buckets.arm();
  const Var loss = softmax_cross_entropy(model->forward(batch.images, pass), batch.labels, 0);
  const double share = double(end - begin) / double(samples);
  Tape::current().backward(loss, Tensor::full({1}, float(share)));
  buckets.finish();
  seen.loss = summed(ranks, {loss.value().data<float>()[0] * share}, "loss")[0];
  for (const auto& [name, parameter] : parameters)
    if (parameter->var.grad().defined())
      for (float g : parameter->var.grad().to_vector<float>()) seen.gradients.push_back(g);
  for (const BatchNormState* norm : norms_of(*model))
    for (float v : norm->running_var.to_vector<float>()) seen.statistics.push_back(v);
  return seen;
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0, length = 0;
  for (size_t i = 0; i < a.size(); ++i)
    difference += std::pow(double(a[i]) - double(b[i]), 2), length += std::pow(double(a[i]), 2);
  return std::sqrt(difference / length);
}

std::vector<Seen> first_step_on(int world, int64_t samples, ForwardMode mode, bool keep = false) {
  std::vector<Seen> parts{size_t(world)};
  on_ranks(world, [&](Communicator& ranks) {
    parts[size_t(ranks.rank())] = first_step(ranks, samples, mode, keep);
  });
  for (const Seen& part : parts) {  // bit for bit
    EXPECT_EQ(part.gradients, parts[0].gradients);
    EXPECT_EQ(part.statistics, parts[0].statistics);
    EXPECT_EQ(part.steps, parts[0].steps);
    EXPECT_EQ(part.loss, parts[0].loss);
  }
  return parts;
}

TEST(Replicas, SynchronizedRanksTakeTheFloatStepOfOneProcess) {
  constexpr int64_t samples = 10;  // parts of 5 and 5; of 3, 3 and 4
  const auto single = make_single_communicator();
  const Seen alone = first_step(*single, samples, ForwardMode::float32);
  ASSERT_GT(alone.gradients.size(), 200000u);
  for (int world : {2, 3}) {
    const Seen part = first_step_on(world, samples, ForwardMode::float32)[0];
    EXPECT_LT(distance(alone.statistics, part.statistics), 1e-5) << world;
    EXPECT_LT(distance(alone.gradients, part.gradients), 1e-3) << world;
    EXPECT_NEAR(alone.loss, part.loss, 1e-5) << world;
  }
}

// With whole chunks of rows on every rank nothing is rounded but what one process rounds: steps,
// statistics and so all codes of the first step have its bits. Only gradients of weights are sums
// of products in another order.
TEST(Replicas, SynchronizedRanksTakeTheQuantizedStepOfOneProcess) {
  constexpr int64_t samples = 32;  // the last layers' 4 x 4 pixels: 128 rows on each of four ranks
  const auto single = make_single_communicator();
  for (const bool keep : {false, true}) {
    SCOPED_TRACE(keep ? "16 bits kept" : "f32 sums kept");
    const Seen alone = first_step(*single, samples, ForwardMode::int8, keep);
    for (int world : {2, 4}) {
      const std::vector<Seen> parts = first_step_on(world, samples, ForwardMode::int8, keep);
      std::vector<int8_t> codes;
      for (const Seen& part : parts)
        codes.insert(codes.end(), part.first_codes.begin(), part.first_codes.end());
      EXPECT_TRUE(codes == alone.first_codes) << world;
      EXPECT_EQ(alone.steps, parts[0].steps) << world;
      EXPECT_EQ(alone.statistics, parts[0].statistics) << world;
      EXPECT_NEAR(alone.loss, parts[0].loss, 1e-6) << world;
      EXPECT_LT(distance(alone.gradients, parts[0].gradients), 1e-5) << world;
    }
  }
}

// The recipe's own batch of real pictures: codes of the first two layers in the first step.
std::vector<int8_t> first_codes_of_recipe(Communicator& ranks, const Experiment& experiment,
                                          const std::shared_ptr<const Dataset>& set) {
  const auto model = build_model(experiment, *set);
  observe_on(*model, ranks);
  LoaderSpec spec = train_loader_spec(experiment);
  spec.rank = ranks.rank(), spec.world = ranks.world(), spec.workers = 0;
  Loader calibration(set, spec), loader(set, spec);
  calibrate(*model, calibration, 1, ForwardMode::int8, &ranks);
  loader.start_epoch(0);
  Batch batch;
  loader.next(batch);
  const Tape::Pause pause;
  const Pass pass{.mode = ForwardMode::int8, .training = true, .synchronize = &ranks};
  const auto& steps = model->steps();
  Var x = steps.at(0).layer->forward({Var(batch.images)}, pass);
  std::vector<int8_t> codes;
  for (size_t layer = 1; layer <= 2; ++layer) {
    x = steps.at(layer).layer->forward({x}, pass);
    const auto of_layer = x.value().to_vector<int8_t>();
    codes.insert(codes.end(), of_layer.begin(), of_layer.end());
  }
  return codes;
}

TEST(Replicas, GiveTheFirstStepOfTheCifar10RecipeTheCodesOfOneProcess) {
  const char* const data = std::getenv("QATTRAIN_DATA");
  if (!data || !std::filesystem::exists(std::string(data) + "/cifar10-jpeg/train"))
    GTEST_SKIP() << "*** NOT TESTED on real pictures: QATTRAIN_DATA names no folder with "
                    "cifar10-jpeg ***";
  Experiment experiment;
  load_config(experiment, source_folder() + "/configs/cifar10_resnet20_w8a8.yaml",
              std::vector<std::string>{});
  const std::shared_ptr<const Dataset> set = make_dataset(dataset_spec(experiment), Split::train);
  const auto single = make_single_communicator();
  const std::vector<int8_t> alone = first_codes_of_recipe(*single, experiment, set);
  ASSERT_EQ(alone.size(), size_t(2 * experiment.train.batch * 32 * 32 * 16));
  for (const int world : {2, 4}) {
    std::vector<std::vector<int8_t>> parts{size_t(world)};
    on_ranks(world, [&](Communicator& ranks) {
      parts[size_t(ranks.rank())] = first_codes_of_recipe(ranks, experiment, set);
    });
    std::vector<int8_t> together;  // layer by layer, each rank's part after that of the one before
    for (size_t layer = 0; layer < 2; ++layer)
      for (const auto& part : parts)
        together.insert(together.end(), part.begin() + int64_t(layer * part.size() / 2),
                        part.begin() + int64_t((layer + 1) * part.size() / 2));
    EXPECT_TRUE(together == alone) << world << " ranks";
  }
}

// Parts that cut through a chunk of rows: its sums are rounded in another order, codes jump where a
// value lies at their border, and twenty layers with untrained weights and noise for pictures make
// the most of each jump.
TEST(Replicas, SynchronizedRanksOfOddPartsStayClose) {
  constexpr int64_t samples = 10;
  const auto single = make_single_communicator();
  const Seen alone = first_step(*single, samples, ForwardMode::int8);
  for (int world : {2, 3}) {
    const std::vector<Seen> parts = first_step_on(world, samples, ForwardMode::int8);
    std::vector<int8_t> codes;
    for (const Seen& part : parts)
      codes.insert(codes.end(), part.first_codes.begin(), part.first_codes.end());
    EXPECT_TRUE(codes == alone.first_codes) << world;
    EXPECT_LT(distance(alone.steps, parts[0].steps), 5e-3) << world;
    EXPECT_LT(distance(alone.statistics, parts[0].statistics), 1e-2) << world;
    EXPECT_NEAR(alone.loss, parts[0].loss, 0.05) << world;
  }
}

TEST(Replicas, LocalStatisticsAreAveraged) {
  on_ranks(2, [](Communicator& ranks) {
    BatchNormState a, b;
    a.running_mean = Tensor::of<float>({2}, {float(ranks.rank()), 4});
    a.running_var = Tensor::of<float>({2}, {1, float(3 * ranks.rank())});
    b.running_mean = Tensor::of<float>({1}, {-1});
    b.running_var = Tensor::of<float>({1}, {float(ranks.rank())});
    StatisticsAverage average({&a, &b}, ranks);
    average.start();
    average.finish();
    EXPECT_EQ(a.running_mean.to_vector<float>(), (std::vector<float>{0.5f, 4}));
    EXPECT_EQ(a.running_var.to_vector<float>(), (std::vector<float>{1, 1.5f}));
    EXPECT_EQ(b.running_var.to_vector<float>(), (std::vector<float>{0.5f}));
  });
}

TEST(Replicas, AgreeOnTheEndOfAStep) {
  on_ranks(3, [](Communicator& ranks) {
    const bool last = ranks.rank() == 2, middle = ranks.rank() == 1;
    const StepEnd end = agreed(ranks, {.loss = 0.5,
                                       .correct = ranks.rank(),
                                       .images = 4,
                                       .bad = last     ? "loss"
                                              : middle ? "layer1.0.conv1"
                                                       : "",
                                       .stop = last ? "SIGUSR2" : ""});
    EXPECT_EQ(end.loss, 1.5);
    EXPECT_EQ(end.correct, 3);
    EXPECT_EQ(end.images, 12);
    EXPECT_EQ(end.bad, "layer1.0.conv1");
    EXPECT_EQ(end.stop, "SIGUSR2");
    EXPECT_EQ(agreed_reason(ranks, last ? "SIGTERM" : ""), "SIGTERM");
    EXPECT_EQ(agreed_reason(ranks, ""), "");
  });
}

TEST(Replicas, ATensorThatDiffersIsNamed) {
  on_ranks(3, [](Communicator& ranks) {
    NamedTensors state = {{"conv1.weight", Tensor::full({4}, 1)},
                          {"fc.bias", Tensor::full({2}, 0)}};
    check_same(ranks, state, 7);
    if (ranks.rank() == 1) state[1].second = Tensor::of<float>({2}, {0, -0.0f});
    try {
      check_same(ranks, state, 8);
      ADD_FAILURE() << "not found";
    } catch (const PeerError& e) {
      const std::string text = e.what();
      EXPECT_NE(text.find("step 8"), std::string::npos) << text;
      EXPECT_NE(text.find("'fc.bias'"), std::string::npos) << text;
      EXPECT_NE(text.find("rank 1 of 3"), std::string::npos) << text;
    }
  });
}

TEST(Replicas, WhatTheWriterMeetsEveryoneThrows) {
  on_ranks(2, [](Communicator& ranks) {
    int calls = 0;
    by_writer(ranks, "saving", [&] { ++calls; });
    EXPECT_EQ(calls, ranks.writes() ? 1 : 0);
    try {
      by_writer(ranks, "saving", [] { throw CheckpointError("No space left on device"); });
      ADD_FAILURE() << "nothing thrown";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::checkpoint);
      EXPECT_STREQ(e.what(), "No space left on device");
    }
  });
}

TEST(Replicas, GetTheCheckpointAndTheWeightsOfTheFirst) {
  on_ranks(2, [](Communicator& ranks) {
    std::optional<LoadedCheckpoint> checkpoint;
    share_checkpoint(ranks, checkpoint);
    EXPECT_FALSE(checkpoint);
    if (ranks.writes()) {
      checkpoint.emplace();
      checkpoint->step = 12, checkpoint->folder = "runs/x/checkpoints/step-00000012";
      checkpoint->content.state_json = "{}";
      checkpoint->content.files["model.safetensors"] = {
          {"a", Tensor::of<float>({2, 2}, {1, 2, 3, 4})}, {"b", Tensor::full({1}, 5)}};
    }
    share_checkpoint(ranks, checkpoint);
    ASSERT_TRUE(checkpoint);
    EXPECT_EQ(checkpoint->step, 12);
    const NamedTensors& tensors = checkpoint->content.tensors("model.safetensors");
    EXPECT_EQ(tensors.at(0).second.shape(), (Shape{2, 2}));
    EXPECT_EQ(tensors.at(0).second.to_vector<float>(), (std::vector<float>{1, 2, 3, 4}));
    EXPECT_EQ(tensors.at(1).second.to_vector<float>(), std::vector<float>{5});

    const auto model = network(ranks.writes() ? 1 : 2);
    share_state(ranks, *model);
    check_same(ranks, saved_state(*model), 0);
  });
}

TEST(Simulation, IsReadAsWritten) {
  const Simulation killed = simulation_from("rank_killed@step=100");
  EXPECT_EQ(killed.accident, Simulation::Accident::killed);
  EXPECT_EQ(killed.step, 100);
  EXPECT_EQ(simulation_from("rank_hung@save").place, Simulation::Place::save);
  for (const char* bad :
       {"", "rank_killed", "rank_killed@", "rank_killed@step=0", "@init", "rank_eaten@init",
        "rank_hung@step=1x", "rank_hung@lunch", "rank_differs@eval"})
    EXPECT_THROW(simulation_from(bad), ConfigError) << bad;
}

}  // namespace
}  // namespace qt
