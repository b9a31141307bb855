// `replay`: schedules beside each other on steps sampled from a series of windows.

#include <algorithm>
#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tool/run_tool.hpp"

namespace swiftbalancer::testing {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

// Experts 0 to 3 on slots 0 1 2 | 3 0 1 of two ranks: even for the first window; the second one
// mirrors it.
constexpr const char* kSwitching = "[[[60, 20, 10, 10]], [[10, 10, 20, 60]]]";
constexpr const char* kReplay =
    "replay --loads loads.json --num-ranks 2 --num-redundant-experts 2 --top-k 2 --windows 0,1,0 "
    "--steps-per-window 100 --schedule ours,every:50:window:50";

TEST(ReplayCommand, FixedScheduleServesTheOldPlanUntilItsNextOne) {
  const TemporaryFolder folder;
  folder.write("loads.json", kSwitching);
  const Json peer = json_of(folder, kReplay).at("schedules").at(1);
  EXPECT_EQ(peer.at("policy"), "eplb");
  const Json& switched = peer.at("windows").at(1);
  // Rank 1 has experts 3, 0, 1: 60 + 5 + 5 of 100 tokens, 1.4 times the mean. After 50 steps
  // experts 3 and 2 have two replicas, one on each rank: two moves, and each rank has 50.
  EXPECT_EQ(switched.at("first_step"), 100);
  EXPECT_NEAR(switched.at("imbalance_at_first_even").get<double>(), 1.4, 1e-9);
  const auto over_time = switched.at("over_time_even").get<std::vector<double>>();
  ASSERT_EQ(over_time.size(), 5U);  // from steps 0, 5, 10, 20, 50
  for (std::size_t bin = 0; bin < 4; ++bin) EXPECT_NEAR(over_time[bin], 1.4, 1e-9);
  EXPECT_NEAR(over_time[4], 1.0, 1e-9);
  EXPECT_NEAR(switched.at("imbalance_even").get<double>(), 1.2, 1e-9);
  EXPECT_EQ(switched.at("moves"), 2);
  EXPECT_EQ(switched.at("steps_until_decided"), 50);
  EXPECT_EQ(switched.at("steps_until_served"), 50);
  EXPECT_TRUE(switched.at("changes_seen").is_null());
  EXPECT_NEAR(peer.at("excess").get<double>(), 0.2, 1e-9);
  EXPECT_NEAR(peer.at("next_imbalance_even").get<double>(), 1.4, 1e-9);
}

TEST(ReplayCommand, OursAnswersASwitchWithinTenStepsByTheOneMoveThatItTakes) {
  const TemporaryFolder folder;
  folder.write("loads.json", kSwitching);
  for (int seed = 0; seed < 5; ++seed) {
    SCOPED_TRACE(seed);
    const Json replay = json_of(folder, std::string(kReplay) + " --seed " + std::to_string(seed));
    EXPECT_EQ(replay.at("bins_from_step"), Json({0, 5, 10, 20, 50}));
    const Json& ours = replay.at("schedules").at(0);
    EXPECT_EQ(ours.at("policy"), "swift");
    EXPECT_EQ(ours.at("windows").at(0).at("changes_seen"), 0);
    for (const std::size_t window : {1U, 2U}) {
      const Json& switched = ours.at("windows").at(window);
      EXPECT_EQ(switched.at("changes_seen"), 1);
      EXPECT_LE(switched.at("steps_until_decided").get<int>(), 10);
      EXPECT_GT(switched.at("steps_until_served").get<int>(),
                switched.at("steps_until_decided").get<int>())
          << "copies and agreement take steps";
      // Expert 3 beside 0 and 2, or the like, on both ranks: shares do the rest.
      EXPECT_EQ(switched.at("moves"), 1);
      EXPECT_NEAR(switched.at("hindsight").get<double>(), 1.0, 1e-6);
      EXPECT_LE(switched.at("over_time_split").back().get<double>(), 1.02);
    }
    EXPECT_LT(ours.at("excess").get<double>(), 0.1);
  }
}

TEST(ReplayCommand, SeesNoChangeInTenThousandStationarySteps) {
  const TemporaryFolder folder;
  folder.write("loads.json", kSwitching);
  const Json replay = json_of(folder,
                              "replay --loads loads.json --num-ranks 2 --num-redundant-experts 2 "
                              "--windows 0 --steps-per-window 10000");
  const Json& window = replay.at("schedules").at(0).at("windows").at(0);
  EXPECT_EQ(window.at("changes_seen"), 0);
  EXPECT_EQ(window.at("moves"), 0) << "the first placement is even for these loads";
}

TEST(ReplayCommand, RepeatsItselfAndFollowsItsSeed) {
  const TemporaryFolder folder;
  folder.write("loads.json", kSwitching);
  const Json once = json_of(folder, kReplay);
  EXPECT_EQ(once, json_of(folder, kReplay));
  const Json other = json_of(folder, std::string(kReplay) + " --seed 1");
  EXPECT_NE(once.at("schedules").at(1).at("imbalance_sampled_steps"),
            other.at("schedules").at(1).at("imbalance_sampled_steps"));
}

TEST(ReplayCommand, PrintsTablesAndWritesTheSameObject) {
  const TemporaryFolder folder;
  folder.write("loads.json", kSwitching);
  const ToolResult table = run_tool(folder, std::string(kReplay) + " -o sub/replay.json");
  ASSERT_EQ(table.exit_code, 0) << table.err;
  EXPECT_EQ(table.err, "");
  EXPECT_THAT(table.out, HasSubstr("1 layers of 4 experts on 6 slots, 2 ranks; 4096 tokens a step, "
                                   "top-2; 3 windows of 100 steps"));
  EXPECT_THAT(table.out, HasSubstr("every:50:window:50        eplb       1.400  1.2000  1.2000"));
  EXPECT_THAT(table.out, HasSubstr("wrote sub/replay.json"));
  EXPECT_EQ(Json::parse(read_file(folder.file("sub/replay.json"))), json_of(folder, kReplay));
}

TEST(ReplayCommand, RefusesWhatItCannotReplay) {
  const TemporaryFolder folder;
  folder.write("loads.json", kSwitching);
  folder.write("cut.json", "[[[60, 20, 10");
  folder.write("negative.json", "[[[60, -1]]]");
  const struct {
    const char* arguments;
    const char* mentioned;
  } cases[] = {
      {"--num-ranks 2", "--loads is needed"},
      {"--loads loads.json", "--num-ranks is needed"},
      {"--loads gone.json --num-ranks 2", "gone.json"},
      {"--loads cut.json --num-ranks 2", "cut.json"},
      {"--loads negative.json --num-ranks 2", "-1"},
      {"--loads loads.json --num-ranks 0", "--num-ranks is '0'"},
      {"--loads loads.json --num-ranks 5", "5"},
      {"--loads loads.json --num-ranks 2 --schedule now",
       "--schedule is 'now'; allowed: ours, every:K or every:K:window:W"},
      {"--loads loads.json --num-ranks 2 --schedule every:0", "--schedule is 'every:0'"},
      {"--loads loads.json --num-ranks 2 --schedule every:9:window:10",
       "--schedule is 'every:9:window:10'"},
      {"--loads loads.json --num-ranks 2 --schedule every:9:windows:9", "every:9:windows:9"},
      {"--loads loads.json --num-ranks 2 --schedule ours,", "--schedule is 'ours,'"},
      {"--loads loads.json --num-ranks 2 --windows 0,2", "loads.json has windows 0 to 1"},
      {"--loads loads.json --num-ranks 2 --windows first", "--windows is 'first'"},
      {"--loads loads.json --num-ranks 2 --policy best", "unknown policy 'best'"},
      {"--loads loads.json --num-ranks 2 --steps-per-window 0", "--steps-per-window is '0'"},
      {"--loads loads.json --num-ranks 2 --tokens-per-step 1e3", "--tokens-per-step is '1e3'"},
      {"--loads loads.json --num-ranks 2 -o loads.json/out", "loads.json/out"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.arguments);
    const ToolResult result = run_tool(folder, std::string("replay -o out ") + c.arguments);
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_THAT(result.err, ::testing::StartsWith("swiftbalancer: error: "));
    EXPECT_THAT(result.err, HasSubstr(c.mentioned));
    EXPECT_FALSE(std::filesystem::exists(folder.file("out")));
  }
}

}  // namespace
}  // namespace swiftbalancer::testing
