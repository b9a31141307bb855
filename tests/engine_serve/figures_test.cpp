#include "engine/figures.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/run_json.hpp"

namespace swiftbalancer::engine::testing {
namespace {

// One layer, 4 experts on 2 ranks without spare slots, top-1, 10 tokens a step: rank 0 receives 8
// until step 40, then 5.
RunRecord run_of(const std::string& policy, bool answered) {
  RunRecord run;
  run.policy = policy;
  run.model.top_k = 1;
  run.expert_bytes = 100;
  run.shape.num_moe_layers = 1;
  run.shape.num_logical_experts = 4;
  run.shape.num_ranks = 2;
  run.shape.num_slots = 4;
  run.initial = Placement::initial(ClusterShape(run.shape));
  run.traffic.requests.resize(1);
  run.traffic.segments = {{"python", 1}, {"man_zh", 31}};
  run.outputs = {{65}};
  run.steps = 60;
  for (std::uint64_t step = 1; step <= run.steps; ++step) {
    const std::uint32_t hot = answered && step > 40 ? 5 : 8;
    run.step_tokens.push_back(10);
    for (const std::uint32_t tokens : {hot - 1, 1U, 10 - hot, 0U})
      run.slot_tokens.push_back(tokens);
    for (const std::uint32_t tokens : {4U, 4U, 1U, 1U}) run.expert_tokens.push_back(tokens);
    run.tokens += 10;
  }
  if (answered) run.commits = {{41, 36, 0, 0, 2, 200, {0, 2, 1, 3}}};
  return run;
}

TEST(Figures, GroupStepsIntoWindowsAndLeaveOutTheUnsettledOnes) {
  const std::vector<RunRecord> runs{run_of("static", false)};
  const Comparison c = compare(runs, 45);  // five steps
  ASSERT_EQ(c.windows.size(), 12U);
  EXPECT_EQ(c.windows[0].first_step, 1U);
  EXPECT_EQ(c.windows[0].last_step, 5U);
  EXPECT_EQ(c.windows[11].last_step, 60U);
  std::vector<bool> settled;
  for (const Window& window : c.windows) settled.push_back(window.settled);
  // The switch at step 31 lies in window 6.
  EXPECT_THAT(settled, ::testing::ElementsAre(false, false, true, true, true, true, false, false,
                                              true, true, true, true));
}

TEST(Figures, CompareRunsWithEachOtherAndWithHindsight) {
  const std::vector<RunRecord> runs{run_of("static", false), run_of("swift", true)};
  const Comparison c = compare(runs, 45);
  const RunFigures& none = c.runs[0];
  const RunFigures& swift = c.runs[1];
  EXPECT_TRUE(c.outputs_identical);
  EXPECT_DOUBLE_EQ(none.imbalance_per_step[0], 1.6);
  EXPECT_DOUBLE_EQ(none.mean_over_windows, 1.6);
  EXPECT_DOUBLE_EQ(swift.imbalance_per_window[8].mean_over_layers, 1.0);
  EXPECT_DOUBLE_EQ(swift.mean_over_windows, (8 * 1.6 + 4 * 1.0) / 12);
  EXPECT_DOUBLE_EQ(swift.mean_after_switch, (4 * 1.6 + 4 * 1.0) / 8);
  EXPECT_EQ(swift.moves, 2);
  EXPECT_EQ(swift.migrated_bytes, 200);
  // Experts 0 and 1 have 4 of 10 each: one on each rank is even.
  EXPECT_DOUBLE_EQ(c.hindsight_mean_over_windows, 1.0);
}

TEST(Figures, ShowWhatTheSharesServedWouldHaveGivenBesideWhatSlotsCounted) {
  std::vector<RunRecord> runs{run_of("swift", true)};
  // From step 41 on expert 0 is in two slots, one on each rank, with 3/4 of its tokens on rank 0.
  runs[0].commits[0].placement = {0, 2, 0, 3};
  runs[0].commits[0].shares = {kShareUnit / 4 * 3, kShareUnit, kShareUnit / 4, kShareUnit};
  for (std::size_t row = 40; row < 60; ++row) {
    const std::uint32_t tokens[] = {8, 0, 1, 1};
    std::copy_n(tokens, 4, runs[0].expert_tokens.begin() + static_cast<std::ptrdiff_t>(4 * row));
  }
  runs[0].generations = {{36, 38, 41, "committed", 2, 200, 1.6, 1.0}};
  const RunFigures figures = compare(runs, 45).runs[0];
  EXPECT_DOUBLE_EQ(figures.planned_per_window[7].mean_over_layers, 1.6);
  EXPECT_DOUBLE_EQ(figures.planned_per_window[8].mean_over_layers, 1.4);  // 6 + 1 of 10
  EXPECT_DOUBLE_EQ(figures.planned_mean_over_windows, (8 * 1.6 + 4 * 1.4) / 12);
  EXPECT_DOUBLE_EQ(figures.planned_mean_after_switch, (4 * 1.6 + 4 * 1.4) / 8);
  EXPECT_DOUBLE_EQ(figures.planned[0], 1.4);
  EXPECT_DOUBLE_EQ(figures.achieved[0], 1.0);
}

TEST(Figures, DoNotKnowWhatWasPlannedAfterAChangeOfTheMembership) {
  std::vector<RunRecord> runs{run_of("swift", true)};
  runs[0].memberships = {{0, 1, {0, 1}}, {1, 33, {0, 1}}};
  const RunFigures figures = compare(runs, 45).runs[0];
  EXPECT_DOUBLE_EQ(figures.planned_per_window[5].mean_over_layers, 1.6);  // up to step 30
  EXPECT_TRUE(std::isnan(figures.planned_per_window[6].mean_over_layers));
  EXPECT_TRUE(std::isnan(figures.planned_mean_over_windows));
}

TEST(Figures, ShowRankLoadsAroundTheFirstAnswer) {
  const std::vector<RunRecord> runs{run_of("swift", true)};
  const RunFigures figures = compare(runs, 45).runs[0];
  EXPECT_EQ(figures.before, (RankLoads{{40, 10}}));
  EXPECT_EQ(figures.after, (RankLoads{{25, 25}}));
  EXPECT_EQ(figures.first_window, (RankLoads{{40, 10}}));
  EXPECT_EQ(figures.last_window, (RankLoads{{25, 25}}));
}

TEST(Figures, SayWhenOutputsDiffer) {
  std::vector<RunRecord> runs{run_of("static", false), run_of("swift", true)};
  runs[1].outputs[0][0] = 66;
  EXPECT_FALSE(compare(runs, 45).outputs_identical);
}

TEST(Figures, RefuseRunsThatCannotBeCompared) {
  std::vector<RunRecord> runs{run_of("static", false), run_of("swift", true)};
  runs[1].traffic.requests[0].prompt = {1};
  EXPECT_THROW(compare(runs, 45), Error);
  EXPECT_THROW(compare({}, 45), Error);
}

TEST(Figures, AreNotANumberWithoutAWindow) {
  const std::vector<RunRecord> runs{run_of("static", false)};
  const Comparison c = compare(runs, 1'000'000);
  EXPECT_TRUE(c.windows.empty());
  EXPECT_TRUE(std::isnan(c.runs[0].mean_over_windows));
}

TEST(RunJson, HoldsTheRunsFiguresAndNullWhereThereIsNone) {
  std::vector<RunRecord> runs{run_of("static", false), run_of("swift", true)};
  runs[1].generations = {{36, 38, 0, "", 2, 200, 1.6, 1.0}};
  const std::string text =
      run_json(runs, compare(runs, 45),
               {"0.1.0", "2026-11-24T03:00:00Z", "swiftbalancer serve", "{\"seed\": 1}"});
  const auto json = nlohmann::json::parse(text);
  EXPECT_EQ(json["format"], "swiftbalancer.run");
  EXPECT_EQ(json["config"]["seed"], 1);
  EXPECT_TRUE(json["hardware"].is_null());
  EXPECT_EQ(json["windows"]["steps"].size(), 12U);
  EXPECT_EQ(json["windows"]["steps"][0], nlohmann::json({1, 5}));
  EXPECT_EQ(json["hindsight"]["imbalance"].size(), 12U);
  ASSERT_EQ(json["runs"].size(), 2U);
  const auto& swift = json["runs"][1];
  EXPECT_EQ(swift["imbalance"]["per_step"].size(), 60U);
  EXPECT_EQ(swift["commits"][0]["step"], 41);
  EXPECT_EQ(swift["generations"][0]["adopted_step"], 38);
  EXPECT_TRUE(swift["generations"][0]["finished_step"].is_null());
  EXPECT_TRUE(swift["step_time_us"].is_null());
  EXPECT_EQ(swift["rank_load"]["after"], nlohmann::json({{25.0, 25.0}}));
  EXPECT_EQ(json["checks"]["outputs_identical"], true);
  EXPECT_EQ(json["traffic"]["segments"][1]["domain"], "man_zh");
}

TEST(RunJson, TellsWhatRebalancesCameToAndHowBalancingFared) {
  std::vector<RunRecord> runs{run_of("swift", true)};
  RunRecord& run = runs.front();
  run.generations = {{5, 0, 7, "nothing_to_gain", 0, 0, 1.0, 1.0, 0.5},
                     {36, 38, 41, "committed", 2, 200, 1.6, 1.1, 0.25},
                     {58, 59, 60, "committed", 0, 0, 1.0, 1.0, 0.25},
                     {60, 0, 0, "", 0, 0, 1.0, 1.0, 0.0}};
  run.warm_start = true;
  run.balancing.mode = BalancingMode::kPlanOnly;
  run.balancing.dropped_samples = 3;
  run.balancing.planner_restarts = 2;
  run.balancing.membership = 1;
  run.balancing.plan_step = 38;
  const auto json =
      nlohmann::json::parse(run_json(runs, compare(runs, 45), {"", "", "", "{}"}))["runs"][0];
  EXPECT_EQ(json["warm_start"], true);
  EXPECT_EQ(json["rebalances"],
            nlohmann::json({{"nothing_to_gain", 1}, {"committed", 2}, {"under_way", 1}}));
  // From step 41 on the ranks receive alike; no window begins after step 60.
  EXPECT_EQ(json["generations"][1]["imbalance_achieved"], 1.0);
  EXPECT_EQ(json["generations"][1]["seconds"], 0.25);
  for (const int i : {0, 2, 3})
    EXPECT_TRUE(json["generations"][i]["imbalance_achieved"].is_null()) << i;
  const auto& health = json["health"];
  EXPECT_EQ(health["mode"], "plan-only");
  EXPECT_EQ(health["dropped_samples"], 3);
  EXPECT_EQ(health["planner_restarts"], 2);
  EXPECT_EQ(health["membership"], 1);
  EXPECT_EQ(health["plan_age_steps"], 22);
}

TEST(RunJson, RefusesAConfigurationThatIsNoObject) {
  const std::vector<RunRecord> runs{run_of("static", false)};
  EXPECT_THROW(run_json(runs, compare(runs, 45), {"", "", "", "[]"}), Error);
}

}  // namespace
}  // namespace swiftbalancer::engine::testing
