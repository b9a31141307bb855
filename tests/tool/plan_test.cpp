// `plan`: placement and figures from loads.

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "tool/run_tool.hpp"

namespace swiftbalancer::testing {
namespace {

// The example in DeepSeek's README of EPLB: 12 experts, 16 slots, 4 groups, 2 nodes, 8 ranks.
constexpr const char* kPublishedLoads =
    "[[90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86], [20, 107, 104, 64, 19, 197, 187, 157, "
    "172, 86, 16, 27]]";
constexpr const char* kPublishedShape =
    " --num-ranks 8 --num-slots 16 --num-nodes 2 --num-expert-groups 4 --policy eplb";

std::string npy(const char* descr, const char* shape, const std::string& data) {
  std::string header = std::string("{'descr': '") + descr +
                       "', 'fortran_order': False, 'shape': (" + shape + "), }\n";
  const auto length = static_cast<std::uint16_t>(header.size());
  std::string file("\x93NUMPY\x01\x00", 8);
  file.append(reinterpret_cast<const char*>(&length), sizeof length);
  return file + header + data;
}

template <typename T>
std::string raw(std::initializer_list<T> values) {
  std::string bytes(values.size() * sizeof(T), '\0');
  std::memcpy(bytes.data(), values.begin(), bytes.size());
  return bytes;
}

TEST(PlanCommand, BalancesThePublishedExample) {
  const TemporaryFolder folder;
  folder.write("loads.json", kPublishedLoads);
  const ToolResult result =
      run_tool(folder, std::string("plan loads.json --out placement.json") + kPublishedShape);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  // The published placement has imbalance 1.2081 in layer 0 and 1.2422 in layer 1.
  const auto line = [&](const char* name) {
    const std::size_t begin = result.out.find(name);
    return begin == std::string::npos
               ? ""
               : result.out.substr(begin, result.out.find('\n', begin) - begin);
  };
  EXPECT_TRUE(line("mean over layers").ends_with(" 1.2252")) << result.out;
  EXPECT_TRUE(line("worst layer").ends_with(" 1.2422")) << result.out;
  EXPECT_NE(result.out.find("planning time: "), std::string::npos);
  EXPECT_NE(read_file(folder.file("placement.json")).find("\"physical_to_logical_map\""),
            std::string::npos);
}

TEST(PlanCommand, ReadsItsOwnPlacementAndThenFindsNothingToMove) {
  const TemporaryFolder folder;
  folder.write("loads.json", kPublishedLoads);
  ASSERT_EQ(
      run_tool(folder, std::string("plan loads.json --out first.json") + kPublishedShape).exit_code,
      0);
  const ToolResult again = run_tool(
      folder, "plan loads.json --placement first.json --policy eplb --out sub/second.json");
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_NE(again.out.find("moves: 0 "), std::string::npos) << again.out;
  EXPECT_EQ(read_file(folder.file("first.json")), read_file(folder.file("sub/second.json")));
}

TEST(PlanCommand, ReadsNumpyFilesOfEveryTypeAlike) {
  const TemporaryFolder folder;
  folder.write("i8.npy", npy("<i8", "1, 4", raw<std::int64_t>({9, 1, 1, 1})));
  folder.write("i4.npy", npy("<i4", "1, 4", raw<std::int32_t>({9, 1, 1, 1})));
  folder.write("f4.npy", npy("<f4", "1, 4", raw<float>({9, 1, 1, 1})));
  folder.write("f8.npy", npy("<f8", "1, 4", raw<double>({9, 1, 1, 1})));
  folder.write("windows.npy", npy("<i8", "2, 1, 4", raw<std::int64_t>({5, 0, 1, 1, 4, 1, 0, 0})));
  std::string expected;
  for (const char* file : {"i8.npy", "i4.npy", "f4.npy", "f8.npy", "windows.npy"}) {
    const ToolResult result =
        run_tool(folder, std::string("plan ") + file +
                             " --num-ranks 2 --num-slots 6 --policy eplb --out out.json");
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const std::string placement = read_file(folder.file("out.json"));
    if (expected.empty()) expected = placement;
    EXPECT_EQ(placement, expected) << file;
  }
}

TEST(PlanCommand, OtherNumpyFilesAreRefused) {
  const TemporaryFolder folder;
  const struct {
    std::string file;
    const char* mentioned;
  } cases[] = {
      {npy("<i2", "1, 2", raw<std::int16_t>({1, 2})), "'<i2'"},
      {npy("<i8", "1, 2", raw<std::int64_t>({1})), "8 bytes"},
      {npy("<i8", "1, 2", raw<std::int64_t>({1, 2, 3})), "24 bytes"},
      {npy("<f8", "1, 2", raw<double>({1.5, 2})), "1.5"},
      {npy("<f8", "1, 2", raw<double>({-1, 2})), "-1"},
      {npy("<i8", "99999, 99999, 99999", ""), "too large"},
      {npy("<i8", "4294967296, 4294967296", ""), "too large"},  // the product is 2^64
      {npy("<i8', 'fortran_order': True, 'x': '", "1, 2", raw<std::int64_t>({1, 2})), "Fortran"},
  };
  for (const auto& c : cases) {
    folder.write("bad.npy", c.file);
    const ToolResult result = run_tool(folder, "plan bad.npy --num-ranks 1 --num-slots 2");
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_NE(result.err.find(c.mentioned), std::string::npos) << result.err;
    EXPECT_NE(result.err.find("bad.npy"), std::string::npos) << result.err;
  }
}

TEST(PlanCommand, SaysWhenNothingIsWorthMoving) {
  const TemporaryFolder folder;
  folder.write("even.json", "[[1000, 1000, 1000, 1000]]");
  const ToolResult result = run_tool(folder, "plan even.json --num-ranks 2 --num-slots 4");
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.out.find("nothing is worth moving"), std::string::npos) << result.out;
}

}  // namespace
}  // namespace swiftbalancer::testing
