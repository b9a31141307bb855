#include "io/checkpoint.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <swiftbalancer/error.hpp>

#include "io/safetensors_writer.hpp"
#include "io/temporary_folder.hpp"

namespace swiftbalancer::io {
namespace {

using ::swiftbalancer::testing::file_with_header;
using ::swiftbalancer::testing::safetensors_file;
using ::swiftbalancer::testing::TemporaryFolder;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string error_of_opening(const std::string& path) {
  try {
    Checkpoint::open(path);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    return error.what();
  }
  return "opened without an error";
}

std::string text_of(const Tensor& tensor) {
  return {reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size()};
}

TEST(Checkpoint, ReadsEveryTensorOfAllFilesOfAFolder) {
  const TemporaryFolder folder;
  folder.write("config.json", R"({"model_type": "x"})");
  folder.write("model-1.safetensors",
               safetensors_file({{"a", "BF16", {2, 1}, "abcd"}, {"empty", "F32", {0, 7}, ""}}));
  folder.write("model-2.safetensors",
               safetensors_file({{"b", "I64", {}, "12345678"}, {"c", "F8_E4M3", {3}, "xyz"}}));
  folder.write("notes.txt", "not a tensor");

  const Checkpoint checkpoint = Checkpoint::open(folder.path());

  EXPECT_EQ(checkpoint.path(), folder.path());
  EXPECT_EQ(checkpoint.config_json(), R"({"model_type": "x"})");
  ASSERT_EQ(checkpoint.tensors().size(), 4U);
  EXPECT_EQ(checkpoint.tensor("a").dtype, DType::kBF16);
  EXPECT_EQ(checkpoint.tensor("a").shape, (std::vector<std::int64_t>{2, 1}));
  EXPECT_EQ(text_of(checkpoint.tensor("a")), "abcd");
  EXPECT_EQ(checkpoint.tensor("a").file, folder.file("model-1.safetensors"));
  EXPECT_EQ(checkpoint.tensor("empty").bytes.size(), 0U);
  EXPECT_EQ(text_of(checkpoint.tensor("b")), "12345678");
  EXPECT_EQ(checkpoint.tensor("c").dtype, DType::kOther);
  EXPECT_EQ(checkpoint.tensor("c").dtype_name, "F8_E4M3");
}

TEST(Checkpoint, ReadsASingleFileWithoutAConfig) {
  const TemporaryFolder folder;
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}  )";
  const std::string file = folder.write("one.safetensors", file_with_header(header, "wxyz"));

  const Checkpoint checkpoint = Checkpoint::open(file);

  EXPECT_EQ(checkpoint.config_json(), "");
  ASSERT_EQ(checkpoint.tensors().size(), 1U);
  EXPECT_EQ(text_of(checkpoint.tensor("a")), "wxyz");
}

TEST(Checkpoint, KeepsItsBytesWhenMoved) {
  const TemporaryFolder folder;
  Checkpoint first =
      Checkpoint::open(folder.write("a.safetensors", safetensors_file({{"a", "U8", {3}, "abc"}})));
  Checkpoint second =
      Checkpoint::open(folder.write("b.safetensors", safetensors_file({{"b", "U8", {1}, "z"}})));

  second = std::move(first);

  EXPECT_EQ(text_of(second.tensor("a")), "abc");
}

TEST(Checkpoint, NamesAMissingTensor) {
  const TemporaryFolder folder;
  const std::string file = folder.write("a.safetensors", safetensors_file({{"a", "U8", {1}, "z"}}));
  const Checkpoint checkpoint = Checkpoint::open(file);

  try {
    checkpoint.tensor("model.norm.weight");
    FAIL() << "found a tensor that is not there";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    EXPECT_THAT(error.what(),
                AllOf(HasSubstr("\"model.norm.weight\" is missing"), HasSubstr(file)));
  }
}

TEST(Checkpoint, NamesWhatAPathLacks) {
  const TemporaryFolder folder;
  EXPECT_THAT(error_of_opening(folder.file("nowhere")),
              AllOf(HasSubstr("nowhere"), HasSubstr("does not exist")));
  EXPECT_THAT(error_of_opening(folder.path()), HasSubstr("has no config.json"));
  EXPECT_THAT(error_of_opening(folder.write("model.bin", "x")), HasSubstr("model.bin: is neither"));
  folder.write("config.json", "{}");
  EXPECT_THAT(error_of_opening(folder.path()), HasSubstr("has no .safetensors file"));
  std::filesystem::create_directory(folder.file("odd.safetensors"));
  EXPECT_THAT(error_of_opening(folder.path()), HasSubstr("odd.safetensors: is not a regular file"));
}

TEST(Checkpoint, RefusesATensorThatTwoFilesHold) {
  const TemporaryFolder folder;
  folder.write("config.json", "{}");
  folder.write("1.safetensors", safetensors_file({{"twice", "U8", {1}, "x"}}));
  folder.write("2.safetensors", safetensors_file({{"twice", "U8", {1}, "y"}}));

  EXPECT_THAT(error_of_opening(folder.path()),
              AllOf(HasSubstr("2.safetensors"), HasSubstr("\"twice\" is already in"),
                    HasSubstr("1.safetensors")));
}

struct BrokenFile {
  std::string name;
  std::string content;
  std::vector<std::string> message;  ///< Parts that the error must hold.
};

/// A file of one tensor "t" whose fields are written by hand.
std::string one_tensor(const std::string& dtype, const std::string& shape,
                       const std::string& offsets, const std::string& data) {
  return file_with_header(
      R"({"t":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}",
      data);
}

std::vector<BrokenFile> broken_files() {
  const std::string whole = safetensors_file({{"t", "F32", {2}, "01234567"}});
  return {
      {"Empty", "", {"has 0 bytes"}},
      {"ShorterThanItsLength", "1234567", {"has 7 bytes"}},
      {"HeaderLargerThanFile",
       std::string("\x03\0\0\0\0\0\0\0{}", 10),
       {"claims 3 bytes", "has 10"}},
      {"HugeHeader", std::string(8, '\xff') + "{}", {"claims 18446744073709551615 bytes", "10"}},
      {"HeaderNotJson", file_with_header("{\"t\": nonsense}", ""), {"is not JSON"}},
      {"HeaderAList", file_with_header("[1]", ""), {"not a JSON object"}},
      {"HeaderNotUtf8", file_with_header("{\"\xff\":1}", ""), {"is not JSON"}},
      {"TruncatedData",
       whole.substr(0, whole.size() - 3),
       {"\"t\"", "[0,8]", "past the 5 bytes", "truncated"}},
      {"TensorNotAnObject", file_with_header(R"({"t":7})", ""), {"\"t\"", "no \"dtype\""}},
      {"NoShape",
       file_with_header(R"({"t":{"dtype":"F32","data_offsets":[0,0]}})", ""),
       {"no \"shape\""}},
      {"NoOffsets",
       file_with_header(R"({"t":{"dtype":"F32","shape":[0]}})", ""),
       {"no \"data_offsets\""}},
      {"UnknownDtype",
       one_tensor("\"F12\"", "[1]", "[0,4]", "0123"),
       {"\"t\"", "unknown dtype \"F12\""}},
      {"DtypeNotText", one_tensor("4", "[1]", "[0,4]", "0123"), {"unknown dtype 4"}},
      {"NegativeSize", one_tensor("\"F32\"", "[-1]", "[0,4]", "0123"), {"shape is [-1]"}},
      {"SizeBeyondInt64",
       one_tensor("\"F32\"", "[9223372036854775808]", "[0,4]", "0123"),
       {"9223372036854775808"}},
      {"SizeBeyondUint64",
       one_tensor("\"F32\"", "[99999999999999999999]", "[0,4]", "0123"),
       {"shape is [1e+20]"}},
      {"SizeNotWhole", one_tensor("\"F32\"", "[1.5]", "[0,4]", "0123"), {"shape is [1.5]"}},
      {"ShapeNotAList", one_tensor("\"F32\"", "1", "[0,4]", "0123"), {"shape is 1"}},
      {"ProductOverflows",
       one_tensor("\"F32\"", "[4294967296,4294967296]", "[0,0]", ""),
       {"too large"}},
      {"ProductWrapsToItsBytes",
       one_tensor("\"F32\"", "[4611686018427387905]", "[0,4]", "0123"),
       {"too large"}},
      {"BytesNotShapeTimesDtype",
       one_tensor("\"BF16\"", "[3]", "[0,4]", "0123"),
       {"span 4 bytes", "[3]", "needs 6"}},
      {"OffsetsReversed", one_tensor("\"F32\"", "[1]", "[4,0]", "0123"), {"[4,0] are reversed"}},
      {"OffsetsNegative",
       one_tensor("\"F32\"", "[1]", "[-4,0]", "0123"),
       {"data_offsets is [-4,0]"}},
      {"ThreeOffsets", one_tensor("\"F32\"", "[1]", "[0,4,8]", "0123"), {"[0,4,8]", "two numbers"}},
      {"OffsetsOutOfRange",
       one_tensor("\"F32\"", "[1]", "[9223372036854775803,9223372036854775807]", "0123"),
       {"9223372036854775807", "past the 4 bytes"}},
      {"Overlap",
       file_with_header(R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
                        R"("b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
                        "0123"),
       {"\"a\"", "\"b\"", "overlap at byte 2"}},
      {"Hole",
       file_with_header(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                        R"("b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}})",
                        "0123"),
       {"bytes 1 to 3", "\"b\""}},
      {"TrailingBytes",
       one_tensor("\"U8\"", "[2]", "[0,2]", "0123"),
       {"2 bytes after the last tensor"}},
      {"SameNameTwice",
       file_with_header(R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                        R"("t":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                        "01"),
       {"\"t\" twice"}},
      {"SameFieldTwice",
       file_with_header(R"({"t":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}})",
                        "0"),
       {"\"dtype\" twice"}},
      {"LineBreakInName",
       file_with_header("{\"a\\nb\":{\"dtype\":\"F12\"}}", ""),
       {"\"a\\nb\"", "F12"}},
  };
}

class BrokenCheckpoint : public ::testing::TestWithParam<BrokenFile> {};

TEST_P(BrokenCheckpoint, IsRefusedInOneLineThatNamesTheFileAndTheValue) {
  const TemporaryFolder folder;
  const std::string file = folder.write("broken.safetensors", GetParam().content);

  const std::string message = error_of_opening(file);

  EXPECT_EQ(message.rfind(file + ": ", 0), 0U) << message;
  EXPECT_THAT(message, Not(HasSubstr("\n")));
  for (const std::string& part : GetParam().message) EXPECT_THAT(message, HasSubstr(part));
}

INSTANTIATE_TEST_SUITE_P(All, BrokenCheckpoint, ::testing::ValuesIn(broken_files()),
                         [](const auto& test) { return test.param.name; });

TEST(Checkpoint, EveryTruncationOfAFileIsRefused) {
  const TemporaryFolder folder;
  const std::string whole =
      safetensors_file({{"a", "F32", {2}, "01234567"}, {"b", "BF16", {1}, "89"}});
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const std::string file =
        folder.write("cut.safetensors", std::string_view(whole).substr(0, size));
    EXPECT_THAT(error_of_opening(file), HasSubstr("cut.safetensors: ")) << size << " bytes";
  }
}

}  // namespace
}  // namespace swiftbalancer::io
