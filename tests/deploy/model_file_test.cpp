// tests/deploy/model_file_test.cpp -- model.qat: what was written comes back, and nothing else is
// believed.
#include "deploy/model_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>

#include "core/tensor/safetensors.h"
#include "deploy/compare.h"
#include "tests/deploy/programs.h"

namespace qt::test {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;

// Without the fsync that files::write_atomically adds.
void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

class ModelFile : public testing::Test {
 protected:
  const TemporaryFolder folder_;
  const std::string path_ = folder_ / "model.qat";
  const Program program_ = small_resnet(41, {4, 4, true, 5});

  // Saves, lets `change` rewrite the file's parts, and gives the message load_program refuses the
  // result with.
  std::string refusal(const std::function<void(SafetensorsFile&)>& change) const {
    save_program(path_, program_);
    SafetensorsFile file = read_safetensors(path_);
    change(file);
    const std::string changed = folder_ / "changed.qat";
    write_safetensors(changed, file.tensors, file.metadata);
    return refusal_of(changed);
  }
  std::string refusal_of(const std::string& path) const {
    try {
      load_program(path);
    } catch (const CheckpointError& error) {
      EXPECT_THAT(error.what(), HasSubstr(path)) << "the file is not named";
      return error.what();
    }
    return "accepted";
  }
  // The same for the JSON of the graph.
  std::string graph_refusal(const std::function<void(Json&)>& change) const {
    return refusal([&](SafetensorsFile& file) {
      Json graph = Json::parse(file.metadata["program"]);
      change(graph);
      file.metadata["program"] = graph.dump();
    });
  }
  static Tensor& tensor(SafetensorsFile& file, const std::string& name) {
    for (auto& [key, t] : file.tensors)
      if (key == name) return t;
    throw InternalError("no tensor " + name);
  }
};

TEST_F(ModelFile, ADamagedNumberIsNoticed) {
  EXPECT_THAT(refusal([](SafetensorsFile& file) {
                for (auto& [name, tensor] : file.tensors)
                  if (name.ends_with(".codes")) return void(tensor.data<int8_t>()[3] ^= 1);
              }),
              HasSubstr("damaged: the checksum"));
  EXPECT_THAT(refusal([](SafetensorsFile& file) { file.metadata["notes"] = "{}"; }),
              HasSubstr("damaged: the checksum"));
  EXPECT_EQ(refusal([](SafetensorsFile& file) { file.metadata.erase("checksum"); }), "accepted")
      << "other programs need not write one";
}

TEST_F(ModelFile, ComesBackAndRunsTheSame) {
  save_program(path_, program_);
  const Program loaded = load_program(path_);
  EXPECT_EQ(loaded.class_names, program_.class_names);
  EXPECT_EQ(loaded.notes, program_.notes);
  EXPECT_EQ(loaded.preprocessing.height, 13);
  EXPECT_EQ(loaded.preprocessing.mean, program_.preprocessing.mean);
  EXPECT_EQ(loaded.preprocessing.std, program_.preprocessing.std);
  ASSERT_EQ(loaded.instructions.size(), program_.instructions.size());
  for (size_t i = 0; i < loaded.instructions.size(); ++i) {
    EXPECT_EQ(loaded.instructions[i].name, program_.instructions[i].name);
    EXPECT_EQ(loaded.instructions[i].step, program_.instructions[i].step);
    EXPECT_EQ(loaded.instructions[i].lo, program_.instructions[i].lo);
  }
  const Tensor images = random_images(program_, 3, 1);
  const auto engine = make_engine("reference");
  const CodeDifference difference =
      compare_codes(engine->run(program_, images, {.keep_codes = true}),
                    engine->run(loaded, images, {.keep_codes = true}));
  EXPECT_TRUE(difference.equal) << difference.text();
}

TEST_F(ModelFile, IsByteEqualAfterARoundTrip) {
  const files::Stamp first = save_program(path_, program_);
  const std::string again = folder_ / "again.qat";
  EXPECT_EQ(save_program(again, load_program(path_)), first);
  EXPECT_EQ(files::read_all(again), files::read_all(path_));
  EXPECT_EQ(first.bytes, std::filesystem::file_size(path_));
}

TEST_F(ModelFile, IsRefusedAtEveryTruncation) {
  save_program(path_, program_);
  const std::string bytes = files::read_all(path_);
  const std::string cut = folder_ / "cut.qat";
  for (size_t length = 0; length < bytes.size(); length += length < 64 ? 1 : 97) {
    write_bytes(cut, bytes.substr(0, length));
    EXPECT_NE(refusal_of(cut), "accepted") << length;
  }
  write_bytes(cut, bytes + "x");
  EXPECT_NE(refusal_of(cut), "accepted");
}

// A flipped bit inside a code or a constant may give another valid program; anything else must be
// refused, nothing may crash.
TEST_F(ModelFile, SurvivesFlippedBits) {
  save_program(path_, program_);
  const std::string bytes = files::read_all(path_);
  const std::string flipped = folder_ / "flipped.qat";
  std::mt19937_64 random(5);
  int refused = 0;
  for (int i = 0; i < 600; ++i) {
    std::string damaged = bytes;
    // Two of three in the header, where the structure is.
    const size_t range = i % 3 ? std::min<size_t>(bytes.size(), 6000) : bytes.size();
    damaged[random() % range] ^= char(1 << (random() % 8));
    write_bytes(flipped, damaged);
    refused += refusal_of(flipped) != "accepted";
  }
  EXPECT_GT(refused, 300);
}

TEST_F(ModelFile, IsRefusedWhereItIsMissing) {
  EXPECT_THAT(refusal_of(folder_ / "nothing.qat"), HasSubstr("No such file"));
}

TEST_F(ModelFile, IsRefusedInAnotherFormatOrVersion) {
  EXPECT_THAT(refusal([](auto& f) { f.metadata["format_version"] = "2"; }),
              HasSubstr("the format version is '2'; this build reads '1'"));
  EXPECT_THAT(refusal([](auto& f) { f.metadata["format"] = "pt"; }),
              HasSubstr("the format is 'pt'"));
  EXPECT_THAT(refusal([](auto& f) { f.metadata.clear(); }),
              HasSubstr("metadata 'format' is missing"));
  for (const char* key : {"format_version", "program", "preprocessing", "class_names", "notes"})
    EXPECT_THAT(refusal([&](auto& f) { f.metadata.erase(key); }),
                HasSubstr(std::string("metadata '") + key + "' is missing"));
  EXPECT_THAT(refusal([](auto& f) { f.metadata["more"] = ""; }),
              HasSubstr("unknown metadata 'more'"));
}

TEST_F(ModelFile, IsRefusedWithBadJson) {
  EXPECT_THAT(refusal([](auto& f) { f.metadata["program"].pop_back(); }),
              HasSubstr("'program' is not valid JSON"));
  EXPECT_THAT(refusal([](auto& f) { f.metadata["program"] = "{}"; }), HasSubstr("is not a list"));
  EXPECT_THAT(refusal([](auto& f) { f.metadata["program"] = "[]"; }),
              HasSubstr("needs an image table and a classifier"));
  EXPECT_THAT(refusal([](auto& f) { f.metadata["program"] = "[]", f.tensors.clear(); }),
              HasSubstr("needs an image table"));
  EXPECT_THAT(refusal([](auto& f) { f.metadata["program"] = "[3]"; }),
              HasSubstr("instruction 0 is not a JSON object"));
  EXPECT_THAT(refusal([](auto& f) { f.metadata["program"] = std::string(1 << 20, '['); }),
              HasSubstr("nested too deeply"));
  EXPECT_THAT(refusal([](auto& f) { f.metadata["program"] = std::string((16 << 20) + 1, ' '); }),
              HasSubstr("longer than 16 MiB"));
  EXPECT_THAT(refusal([](auto& f) { f.metadata["class_names"] = "[1]"; }),
              HasSubstr("not a string"));
  EXPECT_THAT(refusal([](auto& f) { f.metadata["notes"] = "[]"; }), HasSubstr("not an object"));
  EXPECT_THAT(refusal([](auto& f) { f.metadata["preprocessing"] = "{\"height\": \"tall\"}"; }),
              HasSubstr("'height' \"tall\", wanted an integer"));
}

TEST_F(ModelFile, IsRefusedWithABadGraph) {
  EXPECT_THAT(graph_refusal([](Json& g) { g[3]["op"] = "convolve"; }),
              HasSubstr("unknown op 'convolve'; known: image_table"));
  EXPECT_THAT(graph_refusal([](Json& g) { g[3].erase("op"); }),
              HasSubstr("instruction 3 'conv3' has no 'op'"));
  EXPECT_THAT(graph_refusal([](Json& g) { g[3].erase("name"); }),
              HasSubstr("instruction 3 has no 'name'"));
  EXPECT_THAT(graph_refusal([](Json& g) { g[3]["strange"] = 1; }),
              HasSubstr("unknown key 'strange'"));
  EXPECT_THAT(graph_refusal([](Json& g) { g[3]["inputs"] = {7}; }),
              HasSubstr("reads register 7; only earlier ones"));
  EXPECT_THAT(graph_refusal([](Json& g) { g[3]["inputs"] = {3}; }), HasSubstr("reads register 3"));
  EXPECT_THAT(graph_refusal([](Json& g) { g[3]["inputs"] = {-1}; }),
              HasSubstr("reads register -1"));
  EXPECT_THAT(graph_refusal([](Json& g) { g[3]["inputs"] = {4294967298}; }),
              HasSubstr("reads register 4294967298"));
  EXPECT_THAT(graph_refusal([](Json& g) { g[3]["inputs"] = {1.5}; }),
              HasSubstr("'inputs' [1.5], wanted a list of at most 2 integers"));
  EXPECT_THAT(graph_refusal([](Json& g) { g[3]["inputs"] = Json::array(); }),
              HasSubstr("has no inputs"));
  EXPECT_THAT(graph_refusal([](Json& g) { std::swap(g[3], g[4]); }),
              HasSubstr("only earlier ones"));
  EXPECT_THAT(graph_refusal([](Json& g) {
                g[3]["output"] = {7, 6};
              }),
              HasSubstr("wanted [h, w, c]"));
  EXPECT_THAT(graph_refusal([](Json& g) {
                g[3]["output"] = {7, 6, -5};
              }),
              HasSubstr("output extent -5"));
  EXPECT_THAT(graph_refusal([](Json& g) {
                g[3]["output"] = {70000000000, 6, 5};
              }),
              HasSubstr("extents from 1 to 2^24"));
  EXPECT_THAT(graph_refusal([](Json& g) { g[3]["stride"] = 4000000000000; }),
              HasSubstr("4000000000000"));
  EXPECT_THAT(graph_refusal([](Json& g) { g[3]["padding"] = 18446744073709551615u; }),
              HasSubstr("'padding' 18446744073709551615, wanted an integer"));
  EXPECT_THAT(graph_refusal([](Json& g) { g[3]["hi"] = 5000000000; }),
              HasSubstr("'hi' 5000000000"));
  EXPECT_THAT(graph_refusal([](Json& g) { g[3]["weight_lo"] = -3; }), HasSubstr("outside -3..7"));
  EXPECT_THAT(graph_refusal([](Json& g) { g.erase(g.size() - 1); }),
              HasSubstr("the last must be a classifier"));
}

TEST_F(ModelFile, IsRefusedWithBadTensors) {
  EXPECT_THAT(refusal([](auto& f) { f.tensors.erase(f.tensors.begin()); }),
              HasSubstr("misses its tensor 'image0.step'"));
  EXPECT_THAT(refusal([](auto& f) { f.tensors.emplace_back("more", Tensor::full({1}, 1)); }),
              HasSubstr("tensor 'more' belongs to no instruction"));
  EXPECT_THAT(refusal([](auto& f) { tensor(f, "conv3.m") = Tensor::zeros({5}, DType::i32); }),
              HasSubstr("'conv3.m' of type i32, wanted f32"));
  EXPECT_THAT(refusal([](auto& f) { tensor(f, "conv3.m") = Tensor::full({6}, 1); }),
              HasSubstr("has m of shape [6]"));
  EXPECT_THAT(refusal([](auto& f) {
                tensor(f, "conv3.codes") = Tensor::zeros({5, 45}, DType::i8);
              }),
              HasSubstr("has codes of shape [5, 45], wanted 4 extents"));
  EXPECT_THAT(refusal([](auto& f) { tensor(f, "conv3.step") = Tensor::full({2}, 1); }),
              HasSubstr("of shape [2], wanted [1]"));
  EXPECT_THAT(refusal([](auto& f) { tensor(f, "conv3.b").template data<float>()[0] = INFINITY; }),
              HasSubstr("b[0] is not finite"));
  EXPECT_THAT(refusal([](auto& f) { tensor(f, "conv3.codes").template data<int8_t>()[4] = 100; }),
              HasSubstr("codes[4] is 100"));
  EXPECT_THAT(refusal([](auto& f) { tensor(f, "conv4.residual_ratio") = Tensor::full({1}, 0.3f); }),
              HasSubstr("16 significant bits"));
}

TEST_F(ModelFile, LeavesTheOldFileWhereWritingFails) {
  save_program(path_, program_);
  const std::string before = files::read_all(path_);
  Program broken = program_;
  broken.instructions[3].step = 0;
  EXPECT_THROW(save_program(path_, broken), CheckpointError);
  files::set_fault_hook([](files::Operation operation, const std::string&) {
    return operation == files::Operation::write ? files::Fault{ENOSPC, 100} : files::Fault{};
  });
  EXPECT_THROW(save_program(path_, program_), CheckpointError);
  files::set_fault_hook({});
  EXPECT_EQ(files::read_all(path_), before);
  Program not_text = program_;
  not_text.class_names[0] = "\xff\xfe";
  EXPECT_THROW(save_program(path_, not_text), CheckpointError);
}

}  // namespace
}  // namespace qt::test
