// `plan` and `compare`: placements and figures from loads.

#include <cstring>
#include <filesystem>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "io/npy_bytes.hpp"
#include "tool/run_tool.hpp"

namespace swiftbalancer::testing {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

// The example in DeepSeek's README of EPLB: 12 experts, 16 slots, 4 groups, 2 nodes, 8 ranks.
constexpr const char* kPublishedLoads =
    "[[90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86], [20, 107, 104, 64, 19, 197, 187, 157, "
    "172, 86, 16, 27]]";
constexpr const char* kPublishedShape =
    " --num-ranks 8 --num-redundant-experts 4 --num-nodes 2 --num-expert-groups 4";

TEST(PlanCommand, BalancesThePublishedExample) {
  const TemporaryFolder folder;
  folder.write("loads.json", kPublishedLoads);
  const std::string plan =
      std::string("plan --loads loads.json --policy eplb -o placement.json") + kPublishedShape;
  const ToolResult result = run_tool(folder, plan);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  EXPECT_THAT(result.out, HasSubstr("full plan for the sum of 1 windows of loads.json"));
  // The published placement has imbalance 1.2081 in layer 0 and 1.2422 in layer 1.
  EXPECT_THAT(result.out, HasSubstr("1.2252"));
  EXPECT_THAT(result.out, HasSubstr("1.2422"));
  EXPECT_THAT(result.out, HasSubstr("wrote placement.json (swiftbalancer)"));

  const Json json = json_of(folder, plan);
  EXPECT_EQ(json.size(), 7U) << json;
  EXPECT_GT(json.at("plan_ms").get<double>(), 0.0);
  EXPECT_NEAR(json.at("imbalance_mean").get<double>(), 1.2252, 5e-5);
  EXPECT_NEAR(json.at("imbalance_worst").get<double>(), 1.2422, 5e-5);
  EXPECT_NEAR(json.at("balancedness_mean").get<double>(), (1 / 1.2081 + 1 / 1.2422) / 2, 5e-5);
  EXPECT_TRUE(json.at("moves_per_layer").is_null());
  EXPECT_GE(json.at("lower_bound_gap_mean").get<double>(), 0.0);
  EXPECT_EQ(json.at("same_rank_duplicates"), 0);
}

TEST(PlanCommand, ReadsItsOwnPlacementAndThenFindsNothingToMove) {
  const TemporaryFolder folder;
  folder.write("loads.json", kPublishedLoads);
  ASSERT_EQ(run_tool(folder, std::string("plan --loads loads.json --policy eplb --model m "
                                         "--model-layers 3,5 -o first.json") +
                                 kPublishedShape)
                .exit_code,
            0);
  const Json json =
      json_of(folder, "plan --loads loads.json --from first.json --policy eplb -o sub/second.json");
  EXPECT_EQ(json.at("moves_per_layer"), 0.0);
  EXPECT_EQ(read_file(folder.file("first.json")), read_file(folder.file("sub/second.json")));
}

TEST(PlanCommand, EveryFormatIsWrittenAndPlannedFrom) {
  const TemporaryFolder folder;
  folder.write("loads.json", kPublishedLoads);
  for (const char* format : {"swiftbalancer", "vllm-ascend", "sglang", "tensorrt-llm", "npy"}) {
    SCOPED_TRACE(format);
    ASSERT_EQ(run_tool(folder, std::string("plan --loads loads.json --policy eplb -o file "
                                           "--format ") +
                                   format + kPublishedShape)
                  .exit_code,
              0);
    const Json json = json_of(folder, std::string("plan --loads loads.json --policy eplb --from "
                                                  "file --format ") +
                                          format + kPublishedShape);
    EXPECT_EQ(json.at("moves_per_layer"), 0.0);
    EXPECT_NEAR(json.at("imbalance_mean").get<double>(), 1.2252, 5e-5);
  }
}

// A window is planned for, and a later one tells how long that holds.
TEST(PlanCommand, ScoresThePlanOnAnotherWindow) {
  const TemporaryFolder folder;
  folder.write("loads.json", "[[[60, 20, 10, 10]], [[10, 10, 20, 60]]]");
  const std::string plan =
      "plan --loads loads.json --window 0 --num-ranks 2 --num-redundant-experts 2 --policy eplb";
  const Json same = json_of(folder, plan + " --score-window 0");
  EXPECT_EQ(same.size(), 9U) << same;
  EXPECT_EQ(same.at("next_imbalance_even"), same.at("imbalance_mean"));
  EXPECT_LE(same.at("next_imbalance_split").get<double>(),
            same.at("next_imbalance_even").get<double>() + 1e-9);
  const Json other = json_of(folder, plan + " --score-window 1");
  EXPECT_GT(other.at("next_imbalance_even").get<double>(),
            same.at("next_imbalance_even").get<double>());
}

// 60 tokens that half the ranks could take alone: by shares the ranks are level, evenly not.
TEST(PlanCommand, SharesLevelWhatEvenTokensCannot) {
  const TemporaryFolder folder;
  folder.write("loads.json", "[[90, 10, 40, 60]]");
  const std::string plan =
      "plan --loads loads.json --num-ranks 2 --num-redundant-experts 2 --policy eplb";
  const double even = json_of(folder, plan).at("imbalance_mean").get<double>();
  const double split =
      json_of(folder, plan + " --dispatch split -o split.json").at("imbalance_mean").get<double>();
  EXPECT_LE(split, even);
  EXPECT_NEAR(split, 1.0, 1e-3);
  EXPECT_THAT(read_file(folder.file("split.json")), HasSubstr("\"shares\""));
  EXPECT_THAT(run_tool(folder, plan + " --dispatch split -o split.npy").out,
              HasSubstr("wrote split.npy (npy: it has no place for the planned shares)"));
}

TEST(PlanCommand, ReadsNumpyFilesOfEveryTypeAlike) {
  const TemporaryFolder folder;
  folder.write("i8.npy", npy("<i8", "1, 4", raw<std::int64_t>({9, 1, 1, 1})));
  folder.write("u1.npy", npy("|u1", "1, 4", raw<std::uint8_t>({9, 1, 1, 1})));
  folder.write("big.npy", npy(">i4", "1, 4", raw<std::int32_t>({9, 1, 1, 1}, true)));
  folder.write("fractions.npy", npy("<f4", "1, 4", raw<float>({4.5, 0.5, 0.5, 0.5})));
  folder.write("windows.npy", npy("<i8", "2, 1, 4", raw<std::int64_t>({5, 0, 1, 1, 4, 1, 0, 0})));
  std::string expected;
  for (const char* file : {"i8.npy", "u1.npy", "big.npy", "fractions.npy", "windows.npy"}) {
    const ToolResult result =
        run_tool(folder, std::string("plan --loads ") + file +
                             " --num-ranks 2 --num-redundant-experts 2 --policy eplb -o out.json");
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const std::string placement = read_file(folder.file("out.json"));
    if (expected.empty()) expected = placement;
    EXPECT_EQ(placement, expected) << file;
  }
}

TEST(PlanCommand, SaysWhenNothingIsWorthMoving) {
  const TemporaryFolder folder;
  folder.write("even.json", "[[1000, 1000, 1000, 1000]]");
  folder.write("placement.npy", npy("<i4", "1, 4", raw<std::int32_t>({0, 1, 2, 3})));
  const ToolResult result =
      run_tool(folder, "plan --loads even.json --num-ranks 2 --from placement.npy");
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("nothing is worth moving"));
}

TEST(PlanCommand, PlansForTheRanksThatAreLeft) {
  const TemporaryFolder folder;
  folder.write("loads.json", "[[40, 30, 20, 10]]");
  folder.write("placement.npy", npy("<i4", "1, 6", raw<std::int32_t>({0, 1, 2, 3, 1, 0})));
  const Json json = json_of(folder,
                            "plan --loads loads.json --num-ranks 3 --from placement.npy --policy "
                            "static --dead-ranks 1 -o left.json");
  // Experts 2 and 3 lived on the dead rank alone.
  EXPECT_EQ(json.at("moves_per_layer"), 2.0);
  EXPECT_THAT(read_file(folder.file("left.json")), HasSubstr("\"num_ranks\": 2"));
}

// 6 slots of 16 experts on each of 4 ranks, rank 1 dead.
constexpr const char* kSixteenOnFour =
    "[[0,1,2,3,4,5, 6,7,8,9,10,11, 12,13,14,15,0,1, 2,3,4,5,6,12]]";

TEST(PlanCommand, PinnedExpertsStayWhereRanksAreDead) {
  const TemporaryFolder folder;
  folder.write("loads.json", "[[9, 1, 1, 1, 1, 1, 40, 90, 80, 70, 60, 50, 1, 1, 1, 1]]");
  folder.write("from.json", std::string("{\"physical_to_logical_map\": ") + kSixteenOnFour + "}");
  json_of(folder,
          "plan --loads loads.json --num-ranks 4 --from from.json --dead-ranks 1 "
          "--pinned-experts 0,2 -o left.json --format sglang");
  const Json row =
      Json::parse(read_file(folder.file("left.json"))).at("physical_to_logical_map")[0];
  ASSERT_EQ(row.size(), 18U);
  // Experts 0 and 2 on ranks 0, 2 and 3.
  EXPECT_EQ(row[0], 0);
  EXPECT_EQ(row[2], 2);
  EXPECT_EQ(row[10], 0);
  EXPECT_EQ(row[12], 2);
}

// Bound groups are placed anew, so that experts which the dead rank held may end up elsewhere than
// where they were first brought back: each counts once.
TEST(PlanCommand, ALostExpertIsOneMoveForEachRankThatGetsIt) {
  const TemporaryFolder folder;
  folder.write("loads.json", "[[9, 1, 1, 1, 1, 1, 40, 90, 80, 70, 60, 50, 1, 1, 1, 1]]");
  folder.write("from.json", std::string("{\"physical_to_logical_map\": ") + kSixteenOnFour + "}");
  const Json json = json_of(
      folder,
      "plan --loads loads.json --num-ranks 4 --num-nodes 2 --num-expert-groups 4 --from from.json "
      "--dead-ranks 1 --max-cross-node-replicas 0 -o left.json --format sglang");
  const Json row =
      Json::parse(read_file(folder.file("left.json"))).at("physical_to_logical_map")[0];
  const std::set<int> held[] = {{0, 1, 2, 3, 4, 5}, {12, 13, 14, 15, 0, 1}, {2, 3, 4, 5, 6, 12}};
  int moves = 0;
  for (std::size_t rank = 0; rank < 3; ++rank) {
    std::set<int> gets;
    for (std::size_t slot = 6 * rank; slot < 6 * rank + 6; ++slot)
      gets.insert(row[slot].get<int>());
    for (const int expert : gets) moves += held[rank].contains(expert) ? 0 : 1;
  }
  EXPECT_EQ(json.at("moves_per_layer"), moves);
}

// A rank of half the speed gets half the load: 3 experts of 20 on ranks of speed 2 and 1.
TEST(PlanCommand, SlowRanksGetLess) {
  const TemporaryFolder folder;
  folder.write("loads.json", "[[20, 20, 20]]");
  const Json json = json_of(folder,
                            "plan --loads loads.json --num-ranks 2 --slots-per-rank 2,1 "
                            "--rank-speeds 2,1");
  EXPECT_NEAR(json.at("imbalance_mean").get<double>(), 1.0, 1e-12);
  EXPECT_NEAR(json.at("lower_bound_gap_mean").get<double>(), 0.0, 1e-12);
}

// Layer 0 is far from level, layer 1 is nearly so: the budget goes to layer 0.
TEST(PlanCommand, ABudgetOfAllLayersGoesWhereItWinsMost) {
  const TemporaryFolder folder;
  folder.write("loads.json", "[[90000, 80000, 10000, 1000], [50000, 52000, 45000, 46000]]");
  folder.write("served.npy", npy("<i4", "2, 4", raw<std::int32_t>({0, 1, 2, 3, 0, 1, 2, 3})));
  const std::string plan = "plan --loads loads.json --num-ranks 2 --from served.npy";
  EXPECT_GT(json_of(folder, plan).at("moves_per_layer"), 1.0);
  const std::string bytes = " --expert-bytes 1000 --max-bytes-per-";
  for (const std::string& budget : {std::string(" --max-moves-per-rebalance 2"),
                                    bytes + "rebalance 2999", bytes + "rank 1000"}) {
    const Json json = json_of(folder, plan + budget + " -o planned.json");
    EXPECT_EQ(json.at("moves_per_layer"), 1.0) << budget;
    const Json kept = json_of(folder, "compare served.npy planned.json --num-ranks 2");
    EXPECT_EQ(kept.at("changed_layers"), 1) << budget;
    EXPECT_LT(json.at("imbalance_mean"), 1.1) << budget;
  }
}

TEST(PlanCommand, LimitsAreKeptWithFewMovesFromAPlacement) {
  const TemporaryFolder folder;
  folder.write("loads.json", "[[90000, 80000, 10000, 1000]]");
  folder.write("served.npy", npy("<i4", "1, 4", raw<std::int32_t>({0, 1, 2, 3})));
  const std::string plan =
      "plan --loads loads.json --num-ranks 2 --from served.npy --pinned-experts 0 -o planned.npy";
  EXPECT_EQ(json_of(folder, plan).at("moves_per_layer"), 2.0);
  EXPECT_EQ(json_of(folder, plan + " --max-moves-per-layer 0").at("moves_per_layer"), 0.0);
  EXPECT_EQ(json_of(folder, plan + " --rank-speeds 20,1").at("moves_per_layer"), 0.0);
}

TEST(PlanCommand, ASweepComparesCountsOfRedundantExperts) {
  const TemporaryFolder folder;
  folder.write("loads.json", "[[60, 20, 10, 10]]");
  const std::string sweep =
      "plan --loads loads.json --num-ranks 2 --sweep 0,2 --expert-bytes 1000000000";
  const Json json = json_of(folder, sweep);
  ASSERT_EQ(json.at("sweep").size(), 2U);
  // Without replicas the hot expert's rank has 60 + 10 of 100; with two it is level.
  EXPECT_NEAR(json.at("sweep")[0].at("imbalance_even_mean").get<double>(), 1.4, 1e-12);
  EXPECT_NEAR(json.at("sweep")[1].at("imbalance_split_mean").get<double>(), 1.0, 1e-3);
  EXPECT_EQ(json.at("recommended_redundant_experts"), 2);
  EXPECT_THAT(run_tool(folder, sweep).out, HasSubstr("<- recommended"));
}

TEST(CompareCommand, CountsMovesBytesAndBalance) {
  const TemporaryFolder folder;
  folder.write("loads.json", "[[60, 20, 10, 10]]");
  folder.write("a.npy", npy("<i4", "1, 6", raw<std::int32_t>({0, 1, 2, 3, 2, 1})));
  // Rank 1 gets expert 0 in place of 2; rank 0 reorders, which moves nothing.
  folder.write("b.json", R"({"physical_to_logical_map": [[2, 1, 0, 3, 0, 1]]})");
  const std::string compare = "compare a.npy b.json --num-ranks 2 --loads loads.json";
  const Json json = json_of(folder, compare + " --expert-bytes 1000");
  EXPECT_EQ(json.at("moves"), 1);
  EXPECT_EQ(json.at("changed_layers"), 1);
  EXPECT_EQ(json.at("moves_to_rank"), Json({0, 1}));
  EXPECT_EQ(json.at("bytes"), 1000);
  EXPECT_EQ(json.at("bytes_to_rank"), Json({0, 1000}));
  // Rank 0: 60 + 20 / 2 + 10 / 2 = 75 of 100; then 30 + 10 + 10 = 50.
  EXPECT_NEAR(json.at("from").at("imbalance_mean_even").get<double>(), 1.5, 1e-12);
  EXPECT_NEAR(json.at("to").at("imbalance_mean_even").get<double>(), 1.0, 1e-12);
  EXPECT_EQ(json.at("to").at("format"), "sglang");

  const ToolResult table = run_tool(folder, compare + " --expert-bytes 1000000");
  EXPECT_EQ(table.exit_code, 0) << table.err;
  EXPECT_THAT(table.out, HasSubstr("moves: 1 in 1 of 1 layers"));
  EXPECT_THAT(table.out, HasSubstr("1.0 MB to the one with most"));
  EXPECT_THAT(table.out, HasSubstr("1.5000   1.0000"));
}

}  // namespace
}  // namespace swiftbalancer::testing
