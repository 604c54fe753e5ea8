// tests/core/tensor/safetensors_test.cpp -- round trips, exact bytes, and what a hostile file is
// answered.
#include "core/tensor/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>

#include "core/device/memory.h"
#include "tests/core/base/temporary_folder.h"

namespace qt {
namespace {

using test::message_of;
using test::slurp;
using test::spill;
using test::TemporaryFolder;
using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

std::string file_of(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header +
         std::string(data_bytes, '\1');
}

std::string refusal(const std::string& bytes) {
  return message_of<CheckpointError>([&] { parse_safetensors(bytes, "some.safetensors"); });
}

NamedTensors sample() {
  return {{"first.weight", Tensor::of<float>({2, 1, 3}, {1.5f, -0.0f, INFINITY, NAN, 3e-41f, -7})},
          {"codes", Tensor::of<int8_t>({3}, {-128, 0, 127})},
          {"unsigned \"codes\" \xc3\xa9", Tensor::of<uint8_t>({5, 1}, {0, 1, 2, 254, 255})},
          {"half", Tensor::of<BFloat16>({2}, {BFloat16(1.0f), BFloat16(-3.5f)})},
          {"counts", Tensor::of<int64_t>({1, 2}, {INT64_MIN, INT64_MAX})},
          {"sums", Tensor::of<int32_t>({2}, {INT32_MIN, 5})},
          {"scalar", Tensor::of<float>(Shape(), {42})},
          {"nothing", Tensor::empty({0, 3}, DType::f32)},
          {"five", Tensor::of<uint8_t>({1, 1, 1, 1, 2}, {8, 9})}};
}

void expect_equal(const NamedTensors& a, const NamedTensors& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].first, b[i].first);
    EXPECT_EQ(a[i].second.shape(), b[i].second.shape()) << a[i].first;
    ASSERT_EQ(a[i].second.dtype(), b[i].second.dtype()) << a[i].first;
    EXPECT_EQ(memcmp(a[i].second.raw(), b[i].second.raw(), a[i].second.bytes()), 0) << a[i].first;
  }
}

TEST(Safetensors, GivesBackTheSameTensorsInOrderBitForBit) {
  const TemporaryFolder folder;
  const Metadata metadata{{"format", "pt"}, {"note", "line\nbreak"}};
  write_safetensors(folder / "a", sample(), metadata);
  const SafetensorsFile read = read_safetensors(folder / "a");
  expect_equal(read.tensors, sample());
  EXPECT_EQ(read.metadata, metadata);
  ASSERT_NE(read.find("sums"), nullptr);
  EXPECT_EQ(read.find("sums")->to_vector<int32_t>()[1], 5);
  EXPECT_EQ(read.find("none"), nullptr);
}

TEST(Safetensors, SameTensorsGiveSameBytesAndTheStampIsTheirs) {
  const TemporaryFolder folder;
  const auto stamp = write_safetensors(folder / "a", sample(), {{"k", "v"}});
  write_safetensors(folder / "b", sample(), {{"k", "v"}});
  EXPECT_EQ(slurp(folder / "a"), slurp(folder / "b"));
  EXPECT_EQ(stamp, files::stamp_of(folder / "a"));
}

TEST(Safetensors, EveryTensorIsAligned) {
  const TemporaryFolder folder;
  // An odd number of bytes first: without sorting, the float would lie at byte 3.
  write_safetensors(folder / "a",
                    {{"i", Tensor::of<int8_t>({3}, {1, 2, 3})}, {"f", Tensor::full({1}, 2)}});
  const std::string bytes = slurp(folder / "a");
  EXPECT_EQ(bytes[0] % 8, 0);
  EXPECT_THAT(bytes, AllOf(HasSubstr(R"("i":{"dtype":"I8","shape":[3],"data_offsets":[4,7]})"),
                           HasSubstr(R"("f":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})")));
}

TEST(Safetensors, AnEmptyListIsAFile) {
  const TemporaryFolder folder;
  write_safetensors(folder / "a", {});
  EXPECT_TRUE(read_safetensors(folder / "a").tensors.empty());
  EXPECT_EQ(slurp(folder / "a"), file_of("{}      ", 0));
}

// Written by the Python package (safetensors.numpy.save), byte for byte.
TEST(Safetensors, ReadsAFileOfThePythonPackage) {
  std::string bytes = file_of(
      R"({"__metadata__":{"made":"by python"},)"
      R"("e":{"dtype":"I64","shape":[0,3],"data_offsets":[0,0]},)"
      R"("b":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"s":{"dtype":"I32","shape":[],)"
      R"("data_offsets":[16,20]},"a":{"dtype":"I8","shape":[3],"data_offsets":[20,23]}})",
      0);
  bytes.resize((bytes.size() + 7) / 8 * 8, ' ');
  ASSERT_EQ(bytes.size(), 264u);
  bytes[0] = 0, bytes[1] = 1;
  bytes += std::string("\0\0\xc0?\0\0\0\xc0\0\0@@\0\0\x80@\7\0\0\0\1\xfe\3", 23);
  const SafetensorsFile file = parse_safetensors(bytes, "python");
  EXPECT_EQ(file.metadata.at("made"), "by python");
  EXPECT_EQ(file.find("b")->to_vector<float>(), (std::vector<float>{1.5f, -2, 3, 4}));
  EXPECT_EQ(file.find("s")->shape(), Shape());
  EXPECT_EQ(file.find("a")->to_vector<int8_t>(), (std::vector<int8_t>{1, -2, 3}));
  EXPECT_EQ(file.find("e")->shape(), Shape({0, 3}));
}

TEST(Safetensors, RefusesToWriteWhatItCouldNotRead) {
  const TemporaryFolder folder;
  const Tensor t = Tensor::full({1}, 1);
  const auto message = [&](const NamedTensors& list, const Metadata& metadata = {}) {
    return message_of<CheckpointError>([&] { write_safetensors(folder / "a", list, metadata); });
  };
  EXPECT_THAT(message({{"x", t}, {"x", t}}),
              AllOf(HasSubstr("'x' occurs twice"), HasSubstr(folder / "a")));
  EXPECT_THAT(message({{"__metadata__", t}}), HasSubstr("reserved"));
  EXPECT_THAT(message({{"x", Tensor()}}), HasSubstr("'x' is undefined"));
  EXPECT_THAT(message({{"\xff", t}}), HasSubstr("not UTF-8"));
  EXPECT_THAT(message({{"x", t}}, {{"k", "\xff"}}), HasSubstr("not UTF-8"));
  EXPECT_TRUE(files::list_folder(folder.path()).empty());
}

TEST(Safetensors, ReadsWhatOthersMayWrite) {
  const auto good = [](const std::string& header, size_t data) {
    EXPECT_NO_THROW(parse_safetensors(file_of(header, data), "x")) << header;
  };
  good("{}", 0);
  good("{}   \n", 0);
  good(R"({"a":{"data_offsets":[0,1],"shape":[1],"dtype":"U8"}})", 1);
  good(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},)"
       R"("b":{"dtype":"I8","shape":[],"data_offsets":[0,1]}})",
       2);
  good(R"({"a":{"dtype":"U8","shape":[0,9223372036854775807],"data_offsets":[0,0]}})", 0);
  good(R"({"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1);
  good(R"({"__metadata__":{}})", 0);
  good(R"({"\u00e9\n":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1);
}

struct Hostile {
  const char* header;
  size_t data;
  const char* cause;
};

// A tensor t with the given description of one byte of data; the cause has to name it.
#define QT_T(text) "{\"t\":" text "}"
const Hostile hostile[] = {
    {"", 0, "does not start with '{'"},
    {" {}", 0, "does not start with '{'"},
    {"[]", 0, "does not start with '{'"},
    {"{", 0, "not valid JSON"},
    {"{}{}", 0, "not valid JSON"},
    {"{}x", 0, "not valid JSON"},
    {"{} // c", 0, "not valid JSON"},
    {"{\"t\"}", 0, "not valid JSON"},
    {"{,}", 0, "not valid JSON"},
    {"{\"t\":}", 0, "not valid JSON"},
    {"{'t':1}", 0, "not valid JSON"},
    {"{\"\xff\":1}", 0, "not valid JSON"},
    {"{\"\xc0\xaf\":1}", 0, "not valid JSON"},
    {"{\"\\ud800\":1}", 0, "not valid JSON"},
    {QT_T("null"), 0, "'t' has null"},
    {QT_T("true"), 0, "'t' has a boolean"},
    {QT_T("1"), 0, "'t' has 1"},
    {QT_T("-1"), 0, "'t' has -1"},
    {QT_T("1.5"), 0, "'t' has 1.5"},
    {QT_T("\"U8\""), 0, "'t' has a string"},
    {QT_T("[]"), 0, "'t' has a list"},
    {QT_T("{}"), 0, "'t' has no dtype"},
    {QT_T(R"({"dtype":"U8","shape":[1]})"), 1, "'t' has no data_offsets"},
    {QT_T(R"({"dtype":"U8","data_offsets":[0,1]})"), 1, "'t' has no shape"},
    {QT_T(R"({"shape":[1],"data_offsets":[0,1]})"), 1, "'t' has no dtype"},
    {QT_T(R"({"dtype":"U8","shape":[1],"data_offsets":[]})"), 1,
     "'t' has fewer than two data_offsets"},
    {QT_T(R"({"dtype":"U8","shape":[1],"data_offsets":[1]})"), 1,
     "'t' has fewer than two data_offsets"},
    {QT_T(R"({"dtype":"U8","shape":[1],"data_offsets":[0,1,2]})"), 1,
     "'t' has more than two data_offsets"},
    {QT_T(R"({"dtype":"U8","shape":[1],"data_offsets":0})"), 1, "'t' has 0 as its 'data_offsets'"},
    {QT_T(R"({"dtype":"U8","shape":[1],"data_offsets":"0"})"), 1,
     "'t' has a string as its 'data_offsets'"},
    {QT_T(R"({"dtype":"U8","shape":[1],"data_offsets":[0,1.0]})"), 1, "'t' has 1.0"},
    {QT_T(R"({"dtype":"U8","shape":[1],"data_offsets":[-1,0]})"), 1, "'t' has -1"},
    {QT_T(R"({"dtype":"U8","shape":[1],"data_offsets":[[0],1]})"), 1, "'t' has a list"},
    {QT_T(R"({"dtype":"U8","shape":[1],"data_offsets":[{},1]})"), 1, "'t' has an object"},
    {QT_T(R"({"dtype":"U8","shape":[1],"data_offsets":[1,0]})"), 1, "'t' lies at bytes 1 to 0"},
    {QT_T(R"({"dtype":"U8","shape":[1],"data_offsets":[1,2]})"), 1,
     "'t' lies at bytes 1 to 2 of 1"},
    {QT_T(R"({"dtype":"U8","shape":[1],"data_offsets":[1,2]})"), 2, "'t' starts at byte 1"},
    {QT_T(R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})"), 0,
     "'t' lies at bytes 0 to 1 of 0"},
    {QT_T(R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})"), 2,
     "1 bytes after the last tensor"},
    {QT_T(R"({"dtype":"U8","shape":[2],"data_offsets":[0,1]})"), 1,
     "'t' has 1 bytes; its shape and type ask for 2"},
    {QT_T(R"({"dtype":"F32","shape":[1],"data_offsets":[0,1]})"), 1,
     "'t' has 1 bytes; its shape and type ask for 4"},
    {QT_T(R"({"dtype":"U8","shape":[0],"data_offsets":[0,1]})"), 1,
     "'t' has 1 bytes; its shape and type ask for 0"},
    {QT_T(R"({"dtype":"U8","shape":[-1],"data_offsets":[0,1]})"), 1, "'t' has -1 as its 'shape'"},
    {QT_T(R"({"dtype":"U8","shape":[1.0],"data_offsets":[0,1]})"), 1, "'t' has 1.0 as its 'shape'"},
    {QT_T(R"({"dtype":"U8","shape":[1e0],"data_offsets":[0,1]})"), 1, "'t' has 1e0 as its 'shape'"},
    {QT_T(R"({"dtype":"U8","shape":1,"data_offsets":[0,1]})"), 1, "'t' has 1 as its 'shape'"},
    {QT_T(R"({"dtype":"U8","shape":["1"],"data_offsets":[0,1]})"), 1,
     "'t' has a string as its 'shape'"},
    {QT_T(R"({"dtype":"U8","shape":[null],"data_offsets":[0,1]})"), 1,
     "'t' has null as its 'shape'"},
    {QT_T(R"({"dtype":"U8","shape":{},"data_offsets":[0,1]})"), 1,
     "'t' has an object as its 'shape'"},
    {QT_T(R"({"dtype":"U8","shape":[1,1,1,1,1,1],"data_offsets":[0,1]})"), 1,
     "'t' has more than 5 dimensions"},
    {QT_T(R"({"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,1]})"), 1,
     "'t' has the extent 18446744073709551615"},
    {QT_T(R"({"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,1]})"), 1,
     "'t' has 18446744073709551616"},
    {QT_T(R"({"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]})"), 0,
     "'t' is too large"},
    {QT_T(R"({"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]})"), 0,
     "'t' is too large"},
    {QT_T(R"({"dtype":"U8","shape":[0,4294967296,4294967296],"data_offsets":[0,0]})"), 0,
     "'t' is too large"},
    {QT_T(R"({"dtype":"F32","shape":[3,6148914691236517206],"data_offsets":[0,8]})"), 8,
     "'t' is too large"},
    {QT_T(R"({"dtype":"U8","shape":[1099511627776],"data_offsets":[0,1099511627776]})"), 1,
     "'t' lies at bytes"},
    {QT_T(R"({"dtype":"U8","shape":[1],"data_offsets":[18446744073709551615,0]})"), 1,
     "'t' lies at bytes"},
    {QT_T(R"({"dtype":"F64","shape":[1],"data_offsets":[0,8]})"), 8,
     "'t' has the unknown dtype 'F64'"},
    {QT_T(R"({"dtype":"u8","shape":[1],"data_offsets":[0,1]})"), 1,
     "'t' has the unknown dtype 'u8'"},
    {QT_T(R"({"dtype":5,"shape":[1],"data_offsets":[0,1]})"), 1, "'t' has 5 as its 'dtype'"},
    {QT_T(R"({"dtype":["U8"],"shape":[1],"data_offsets":[0,1]})"), 1,
     "'t' has a list as its 'dtype'"},
    {QT_T(R"({"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]})"), 1,
     "'t' has the key 'dtype' twice"},
    {QT_T(R"({"dtype":"U8","shape":[1],"shape":[],"data_offsets":[0,1]})"), 1,
     "'t' has the key 'shape' twice"},
    {QT_T(R"({"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":[]})"), 1,
     "'t' has the unknown key 'x'"},
    {R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
     R"("t":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
     2, "'t' occurs twice"},
    {R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
     R"("u":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
     1, "'u' starts at byte 0"},
    {R"({"t":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
     R"("u":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
     3, "'u' starts at byte 1"},
    {R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
     R"("u":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
     3, "'u' starts at byte 2"},
    {R"({"__metadata__":1})", 0, "'__metadata__' has 1"},
    {R"({"__metadata__":{"k":1}})", 0, "'__metadata__' has 1 as its 'k'"},
    {R"({"__metadata__":{"k":["v"]}})", 0, "'__metadata__' has a list as its 'k'"},
    {R"({"__metadata__":{"k":{}}})", 0, "'__metadata__' has an object as its 'k'"},
    {R"({"__metadata__":{"k":"a","k":"b"}})", 0, "'__metadata__' has the key 'k' twice"},
    {R"({"__metadata__":{},"__metadata__":{}})", 0, "'__metadata__' occurs twice"},
};
#undef QT_T

TEST(Safetensors, EveryHostileHeaderIsRefusedWithFileTensorAndCause) {
  const size_t before = memory_stats().peak;
  for (const Hostile& h : hostile)
    EXPECT_THAT(refusal(file_of(h.header, h.data)),
                AllOf(HasSubstr("some.safetensors"), HasSubstr(h.cause)))
        << h.header;
  EXPECT_EQ(memory_stats().peak, before) << "a refused file must not get storage";
}

TEST(Safetensors, ClaimedHeaderLengthsAreCheckedBeforeMemoryIsTaken) {
  EXPECT_THAT(refusal(""), HasSubstr("too few"));
  EXPECT_THAT(refusal("1234567"), HasSubstr("too few"));
  EXPECT_THAT(refusal(std::string(8, '\xff')), HasSubstr("at most 100000000"));
  EXPECT_THAT(refusal(std::string("\x01\xe1\xf5\x05\0\0\0\0{}", 10)),
              HasSubstr("at most 100000000"));
  EXPECT_THAT(refusal(std::string("\0\xe1\xf5\x05\0\0\0\0{}", 10)), HasSubstr("truncated"));
  EXPECT_THAT(refusal(std::string("\3\0\0\0\0\0\0\0{}", 10)), HasSubstr("truncated"));
}

TEST(Safetensors, AnEnormousNameDoesNotMakeAnEnormousMessage) {
  const std::string message = refusal(file_of("{\"" + std::string(1'000'000, 'n') + "\":1}", 0));
  EXPECT_THAT(message, HasSubstr("nnn...' has 1"));
  EXPECT_LT(message.size(), 400u);
}

TEST(Safetensors, DeepNestingIsRefusedAtOnce) {
  EXPECT_THAT(refusal(file_of("{\"t\":" + std::string(5'000'000, '['), 0)),
              HasSubstr("'t' has a list"));
  std::string objects = "{";
  for (int i = 0; i < 500'000; ++i) objects += "\"t\":{";
  EXPECT_THAT(refusal(file_of(objects, 0)), HasSubstr("'t' has"));
}

TEST(Safetensors, RefusesATruncatedFileAtEveryLength) {
  const TemporaryFolder folder;
  write_safetensors(folder / "a", sample(), {{"k", "v"}});
  const std::string bytes = slurp(folder / "a");
  for (size_t length = 0; length < bytes.size(); ++length) {
    spill(folder / "b", bytes.substr(0, length));
    EXPECT_THAT(message_of<CheckpointError>([&] { read_safetensors(folder / "b"); }),
                HasSubstr(folder / "b"))
        << length;
  }
  EXPECT_THAT(refusal(bytes + "x"), HasSubstr("after the last tensor"));
}

TEST(Safetensors, FlippedBitsAreRefusedOrGiveAWellFormedFile) {
  const TemporaryFolder folder;
  write_safetensors(folder / "a", sample(), {{"k", "v"}});
  const std::string bytes = slurp(folder / "a");
  std::mt19937 random(1);
  int refused = 0;
  for (int i = 0; i < 5000; ++i) {
    std::string damaged = bytes;
    for (int flips = 1 + i % 3; flips > 0; --flips) {
      const uint32_t at = random() % uint32_t(damaged.size());
      damaged[at] = char(damaged[at] ^ (1 << random() % 8));
    }
    try {
      size_t total = 0;
      for (const auto& [name, tensor] : parse_safetensors(damaged, "x").tensors)
        total += tensor.bytes();
      EXPECT_LT(total, bytes.size());
    } catch (const CheckpointError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 2500);
}

TEST(Safetensors, MissingFilesAndFoldersAreNamed) {
  const TemporaryFolder folder;
  EXPECT_THAT(message_of<CheckpointError>([&] { read_safetensors(folder / "none"); }),
              AllOf(HasSubstr(folder / "none"), HasSubstr("No such file")));
  EXPECT_THAT(message_of<CheckpointError>([&] { read_safetensors(folder.path()); }),
              Not(IsEmpty()));
  EXPECT_THAT(message_of<CheckpointError>([&] { write_safetensors(folder / "no/a", sample()); }),
              HasSubstr("No such file"));
}

// tests/python/test_safetensors.py sets QATTRAIN_SAMPLE_DIR, reads what is written here with the
// Python package, and leaves a file of its own to be read and written again.
TEST(Safetensors, ExchangesFilesWithOtherPrograms) {
  const TemporaryFolder own;
  const char* given = std::getenv("QATTRAIN_SAMPLE_DIR");
  const std::string folder = given ? given : own.path();
  NamedTensors list = sample();
  list[1].first = "odd bytes before floats";
  write_safetensors(folder + "/written.safetensors", list, {{"written by", "qattrain"}});
  const std::string foreign = folder + "/foreign.safetensors";
  if (!files::exists(foreign)) write_safetensors(foreign, list);
  const SafetensorsFile read = read_safetensors(foreign);
  EXPECT_FALSE(read.tensors.empty());
  write_safetensors(folder + "/rewritten.safetensors", read.tensors, read.metadata);
  expect_equal(read_safetensors(folder + "/rewritten.safetensors").tensors, read.tensors);
}

}  // namespace
}  // namespace qt
