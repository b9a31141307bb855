#include "io/load_file.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <swiftbalancer/error.hpp>

#include "io/npy_bytes.hpp"
#include "io/temporary_folder.hpp"

namespace swiftbalancer::io {
namespace {

using swiftbalancer::testing::npy;
using swiftbalancer::testing::raw;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<ExpertLoad> read(const std::string& content) {
  const testing::TemporaryFolder folder;
  return read_loads(folder.write("loads", content));
}

std::string refusal_of_load(const std::string& content) {
  try {
    read(content);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    EXPECT_THAT(error.what(), HasSubstr("loads"));
    return error.what();
  }
  return "nothing";
}

TEST(LoadFile, WholeNumbersAreTokensInEveryTypeAndLayout) {
  const std::string expected = "[[[1, 2], [3, 4]], [[5, 6], [7, 8]]]";
  const auto windows = read(expected);
  ASSERT_EQ(windows.size(), 2U);
  EXPECT_THAT(windows[1].layer(0), ElementsAre(5, 6));
  EXPECT_EQ(read("{\"expert_load\": " + expected + "}"), windows);
  EXPECT_EQ(read("[[[1.0, 2.0], [3.0, 4e0]], [[5, 6], [7, 8]]]"), windows);
  EXPECT_EQ(read(npy(">u2", "2, 2, 2", raw<std::uint16_t>({1, 2, 3, 4, 5, 6, 7, 8}, true))),
            windows);
  EXPECT_EQ(read(npy("<f4", "2, 2, 2", raw<float>({1, 5, 3, 7, 2, 6, 4, 8}), true)), windows);
  EXPECT_EQ(read(npy("<i8", "1, 2", raw<std::int64_t>({1, 2}))), read("[[1, 2]]"));
}

// Their proportions are kept: to the bit where a power of two makes them whole.
TEST(LoadFile, FractionsAreScaledUpToTokens) {
  const auto loads = read(npy("<f8", "2, 2", raw<double>({0.75, 0.25, 1.5, 2.0})));
  const std::int64_t unit = std::int64_t{1} << 38;  // 1.5 + 2 = 3.5 < 4 = 2^2
  EXPECT_THAT(loads[0].layer(0), ElementsAre(unit / 4 * 3, unit / 4));
  EXPECT_THAT(loads[0].layer(1), ElementsAre(unit / 2 * 3, unit * 2));
  // Shares that are no sum of powers of two, and as small as numbers get.
  const auto thirds = read("[[0.1, 0.3]]");
  EXPECT_NEAR(
      static_cast<double>(thirds[0].layer(0)[1]) / static_cast<double>(thirds[0].layer(0)[0]), 3.0,
      1e-10);
  const auto tiny = read(npy("<f8", "1, 2", raw<double>({5e-324, 1e-323})));
  EXPECT_EQ(tiny[0].layer(0)[1], 2 * tiny[0].layer(0)[0]);
  EXPECT_GT(tiny[0].layer(0)[0], 0);
  // Large means are rounded, not scaled.
  const auto large = read("[[2000000000000.25, 4000000000000.75]]");
  EXPECT_THAT(large[0].layer(0), ElementsAre(2000000000000, 4000000000001));
}

TEST(LoadFile, ValuesThatAreNoLoadsAreRefusedWithTheirPlace) {
  EXPECT_THAT(refusal_of_load(npy("<i8", "1, 2, 2", raw<std::int64_t>({1, 2, 3, -4}))),
              HasSubstr("value -4 of window, layer and expert [0, 1, 1]"));
  EXPECT_THAT(refusal_of_load(npy("<f4", "1, 2", raw<float>({-0.5F, 1}))), HasSubstr("-0.5"));
  EXPECT_THAT(refusal_of_load("[[1, 2], [3, -4]]"), HasSubstr("holds -4 at [1, 1]"));
  EXPECT_THAT(refusal_of_load("[[1, null]]"), HasSubstr("holds null at [0, 1]"));
  EXPECT_THAT(refusal_of_load("[[1, 9007199254740993]]"), HasSubstr("9007199254740993"));
  EXPECT_THAT(refusal_of_load("[[1, 18446744073709551615]]"), HasSubstr("18446744073709551615"));
  EXPECT_THAT(refusal_of_load("[[1, 1e400]]"), HasSubstr("too large"));
  EXPECT_THAT(refusal_of_load("[[1, NaN]]"), HasSubstr("loads:1:6: is not JSON"));
  EXPECT_THAT(refusal_of_load("[[1, 2], [6004799503160661, 6004799503160661]]"),
              HasSubstr("window and layer [0, 1]: the loads add up to 2^53 or more"));
}

TEST(LoadFile, ShapesThatAreNoLoadsAreRefused) {
  EXPECT_THAT(refusal_of_load(npy("<i8", "2", raw<std::int64_t>({1, 2}))), HasSubstr("shape [2]"));
  EXPECT_THAT(refusal_of_load(npy("<i8", "1, 1, 1, 2", raw<std::int64_t>({1, 2}))),
              HasSubstr("shape [1, 1, 1, 2]"));
  EXPECT_THAT(refusal_of_load(npy("<i8", "0, 3", "")), HasSubstr("none of them 0"));
  EXPECT_THAT(refusal_of_load(npy("<i8", "", raw<std::int64_t>({1}))), HasSubstr("shape []"));
  EXPECT_THAT(refusal_of_load("[]"), HasSubstr("none of them 0"));
  EXPECT_THAT(refusal_of_load("[[[[1]]]]"), HasSubstr("deeper than 3"));
  EXPECT_THAT(refusal_of_load("[[1, 2], [3]]"), HasSubstr("unequal length"));
  EXPECT_THAT(refusal_of_load("[[1, 2], 3]"), HasSubstr("unequal depth"));
  EXPECT_THAT(refusal_of_load("7"), HasSubstr("nested lists"));
}

TEST(LoadFile, KeysThatAreUnknownOrGivenTwiceAreRefused) {
  EXPECT_THAT(refusal_of_load(R"({"expert_load": [[1]], "expert_load": [[2]]})"),
              HasSubstr("\"expert_load\" is given twice"));
  EXPECT_THAT(refusal_of_load(R"({"expert_load": [[1]], "tokens": 3})"),
              HasSubstr("unknown key \"tokens\""));
  EXPECT_THAT(refusal_of_load("{}"), HasSubstr("no key expert_load"));
}

TEST(LoadFile, AFileCutAtAnyByteIsRefused) {
  for (const std::string& file : {std::string(R"({"expert_load": [[1, 25], [3, 4]]})"),
                                  npy("<f4", "2, 2", raw<float>({1, 2.5, 3, 4}))}) {
    ASSERT_EQ(refusal_of_load(file), "nothing");
    for (std::size_t size = 0; size < file.size(); ++size)
      EXPECT_NE(refusal_of_load(file.substr(0, size)), "nothing") << size << " of " << file;
  }
}

TEST(LoadFile, TheSumOfWindowsIsRefusedWhereItOverflows) {
  EXPECT_THAT(sum_of_windows(read("[[[1, 2], [3, 4]], [[5, 6], [7, 8]]]")).layer(1),
              ElementsAre(10, 12));
  const auto half = read("[[[1, 4503599627370495]], [[1, 4503599627370495]]]");
  try {
    sum_of_windows(half);
    ADD_FAILURE() << "nothing thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(error.what(), HasSubstr("layer 0"));
  }
}

}  // namespace
}  // namespace swiftbalancer::io
