// `inspect`, --help and --version.

#include <gtest/gtest.h>

#include "tool/run_tool.hpp"

namespace swiftbalancer::testing {
namespace {

void expect_shows(const ToolResult& result, std::initializer_list<const char*> texts) {
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  for (const char* text : texts)
    EXPECT_NE(result.out.find(text), std::string::npos) << "no '" << text << "' in:\n"
                                                        << result.out;
}

TEST(InspectCommand, ShowsACheckpointFolder) {
  const TemporaryFolder folder;
  expect_shows(run_tool(folder, "inspect " + data_path("models/tiny_qwen3_moe")),
               {"family qwen3_moe", "6, of them 6 MoE", "64 a layer, top 4, 36864 bytes each",
                "1208 tensors", "BF16 14.9 MB"});
}

TEST(InspectCommand, ShowsATensorFile) {
  const TemporaryFolder folder;
  expect_shows(
      run_tool(folder, "inspect " + data_path("models/reference/tiny_qwen3_moe.safetensors")),
      {"40 tensors", "I32", "english.greedy", "... and 16 more"});
}

TEST(InspectCommand, ShowsLoadsAndPlacements) {
  const TemporaryFolder folder;
  folder.write("loads.json", R"({"expert_load": [[[6, 2, 2, 2]], [[1, 1, 1, 1]]]})");
  expect_shows(run_tool(folder, "inspect loads.json"),
               {"2 windows, 1 layers of 4 experts", "2.00", "1.00"});
  ASSERT_EQ(
      run_tool(folder,
               "plan --loads loads.json --num-ranks 2 --num-redundant-experts 2 --policy eplb -o "
               "placement.json")
          .exit_code,
      0);
  expect_shows(run_tool(folder, "inspect placement.json"),
               {"1 layers of 4 experts on 6 slots, 2 ranks", "same-rank duplicates"});
}

TEST(Help, EverySubcommandHasExamplesAndItsSettings) {
  const TemporaryFolder folder;
  expect_shows(run_tool(folder, "--help"), {"serve", "plan", "inspect", "--version"});
  expect_shows(
      run_tool(folder, "serve --help"),
      {"Examples:", "--num-ranks", "an integer from 1 to 256; default 8", "--stress", "--config"});
  expect_shows(run_tool(folder, "plan --help"),
               {"Examples:", "--num-redundant-experts", "--from", "--loads", "-o,--out"});
  expect_shows(run_tool(folder, "compare --help"), {"Examples:", "FROM", "TO", "--expert-bytes"});
  expect_shows(run_tool(folder, "inspect --help"), {"Examples:", "PATH"});
  expect_shows(run_tool(folder, "--version"), {"swiftbalancer 0."});
}

}  // namespace
}  // namespace swiftbalancer::testing
