#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

#include <swiftbalancer/load.hpp>
#include <swiftbalancer/placement.hpp>
#include <swiftbalancer/policy.hpp>

#include "planner/swift_state.hpp"

namespace swiftbalancer {
namespace {

std::vector<std::int64_t> lognormal_load(int experts, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<std::int64_t> load(static_cast<std::size_t>(experts));
  for (auto& tokens : load) tokens = static_cast<std::int64_t>(1000.0 * std::exp(normal(random)));
  return load;
}

TEST(SwiftState, LevellingFillsTheLowerRanksFirst) {
  // Expert 0 (load 12) on all three ranks, which carry 2, 4 and 9 besides: 27 / 3 = 9 each, nothing
  // for the third.
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 4, .num_ranks = 3, .num_slots = 6});
  const std::vector<std::int64_t> load = {12, 2, 4, 9};
  const std::vector<std::int32_t> slots = {0, 1, 0, 2, 0, 3};
  SwiftState state({.shape = &shape, .load = load, .placement = slots});
  state.level(1);
  EXPECT_DOUBLE_EQ(state.amount_at(0), 7.0);
  EXPECT_DOUBLE_EQ(state.amount_at(2), 5.0);
  EXPECT_DOUBLE_EQ(state.amount_at(4), 0.0);
  for (int rank = 0; rank < 3; ++rank) EXPECT_DOUBLE_EQ(state.rank_load(rank), 9.0);
}

TEST(SwiftState, TrialsPredictWhatTheChangeBrings) {
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 32, .num_ranks = 4, .num_slots = 44});
  const auto load = lognormal_load(32, 3);
  const Placement initial = Placement::initial(shape);
  const LayerProblem problem{.shape = &shape, .load = load, .placement = initial.layer(0)};
  SwiftState state(problem);
  state.level(3);
  const auto potential = [&](const SwiftState& s) {
    double sum = 0.0;
    for (int rank = 0; rank < 4; ++rank)
      sum += std::pow(std::max(0.0, s.rank_load(rank) - s.mean()), 2);
    return sum;
  };
  int tried = 0;
  for (int slot = 0; slot < 44; ++slot) {
    if (state.replicas(state.expert_at(slot)) < 2) continue;
    for (int expert = 0; expert < 32; ++expert) {
      if (state.holds(shape.rank_of_slot(slot), expert)) continue;
      const double predicted = state.gain_of_replace(slot, expert, state.mean());
      SwiftState changed = state;
      changed.replace(slot, expert);
      EXPECT_NEAR(predicted, potential(state) - potential(changed),
                  1e-6 * state.mean() * state.mean());
      ++tried;
    }
  }
  EXPECT_GT(tried, 100);
}

TEST(SwiftState, LowerBoundIsTheMeanOrTheSmallestLargestPiece) {
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 4, .num_ranks = 4, .num_slots = 5});
  const Placement initial = Placement::initial(shape);
  const std::vector<std::int64_t> even = {10, 10, 10, 10}, hot = {100, 1, 1, 1};
  EXPECT_NEAR(
      SwiftState({.shape = &shape, .load = even, .placement = initial.layer(0)}).lower_bound(),
      10.0, 0.1);
  EXPECT_NEAR(
      SwiftState({.shape = &shape, .load = hot, .placement = initial.layer(0)}).lower_bound(), 50.0,
      0.1);
}

TEST(Swift, ReachesTheBalanceOfEplbWithAThirdOfItsMoves) {
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 64, .num_ranks = 8, .num_slots = 80});
  const Placement initial = Placement::initial(shape);
  const auto swift = make_policy("swift"), eplb = make_policy("eplb");
  for (unsigned seed = 0; seed < 30; ++seed) {
    SCOPED_TRACE(seed);
    const auto load = lognormal_load(64, seed);
    const LayerProblem problem{.shape = &shape, .load = load, .placement = initial.layer(0)};
    const LayerPlan ours = swift->plan_layer(problem), theirs = eplb->plan_layer(problem);
    EXPECT_LE(ours.imbalance_after, theirs.imbalance_after + 0.005);
    EXPECT_LE(3 * ours.moves, theirs.moves);
  }
}

TEST(Swift, EveryMoveIsWorthItsPrice) {
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 64, .num_ranks = 8, .num_slots = 80});
  const Placement initial = Placement::initial(shape);
  const auto swift = make_policy("swift");
  for (unsigned seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const auto load = lognormal_load(64, seed);
    LayerProblem problem{.shape = &shape, .load = load, .placement = initial.layer(0)};
    int previous = swift->plan_layer(problem).moves;
    EXPECT_GT(previous, 0);
    for (double price : {0.003, 0.03, 0.3}) {
      problem.min_gain = price;
      const LayerPlan plan = swift->plan_layer(problem);
      EXPECT_GE(plan.imbalance_before - plan.imbalance_after, price * plan.moves - 1e-3);
      EXPECT_LE(plan.moves, previous);
      previous = plan.moves;
    }
    problem.min_gain = 10.0;
    EXPECT_EQ(swift->plan_layer(problem).moves, 0);
  }
}

TEST(Swift, MoreMovesNeverBalanceWorse) {
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 64, .num_ranks = 8, .num_slots = 80});
  const Placement initial = Placement::initial(shape);
  const auto load = lognormal_load(64, 11);
  LayerProblem problem{.shape = &shape, .load = load, .placement = initial.layer(0)};
  problem.max_moves = 0;
  const auto swift = make_policy("swift");
  const LayerPlan none = swift->plan_layer(problem);
  EXPECT_EQ(none.moves, 0);
  EXPECT_LT(none.imbalance_after, none.imbalance_before);  // shares alone help
  problem.max_moves = 4;
  const LayerPlan four = swift->plan_layer(problem);
  EXPECT_LE(four.moves, 4);
  EXPECT_LT(four.imbalance_after, none.imbalance_after);
}

TEST(Swift, ItsCurveFallsWithEveryMoveAndHoldsThePlan) {
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 64, .num_ranks = 8, .num_slots = 80});
  const Placement initial = Placement::initial(shape);
  const auto load = lognormal_load(64, 5);
  const LayerPlan plan = make_policy("swift")->plan_layer(
      {.shape = &shape, .load = load, .placement = initial.layer(0), .min_gain = 0.01});
  ASSERT_GT(plan.moves, 0);
  ASSERT_GT(plan.trade_offs.size(), 2U);
  EXPECT_EQ(plan.trade_offs.front().moves, 0);
  EXPECT_LT(plan.trade_offs.front().imbalance, plan.imbalance_before);  // better shares alone
  bool held = false;
  for (std::size_t i = 0; i < plan.trade_offs.size(); ++i) {
    const TradeOff& point = plan.trade_offs[i];
    held = held ||
           (point.moves == plan.moves && std::abs(point.imbalance - plan.imbalance_after) < 1e-3);
    if (i == 0) continue;
    EXPECT_GT(point.moves, plan.trade_offs[i - 1].moves);
    EXPECT_LT(point.imbalance, plan.trade_offs[i - 1].imbalance);
  }
  EXPECT_TRUE(held);
}

TEST(Swift, KeepsItsBudgetThoughSlotsThatMovedMoveOnForFree) {
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 256, .num_ranks = 32, .num_slots = 320});
  const Placement initial = Placement::initial(shape);
  const auto swift = make_policy("swift");
  for (unsigned seed = 0; seed < 10; ++seed) {
    SCOPED_TRACE(seed);
    const auto load = lognormal_load(256, seed);
    const LayerPlan plan = swift->plan_layer(
        {.shape = &shape, .load = load, .placement = initial.layer(0), .max_moves = 12});
    EXPECT_LE(plan.moves, 12);
    EXPECT_EQ(plan.trade_offs.back().moves, plan.moves);
  }
}

TEST(Swift, LocalityFirstChangesTheSharesAloneAndMakesNoRankHotter) {
  const ClusterShape shape({.num_moe_layers = 1,
                            .num_logical_experts = 64,
                            .num_ranks = 8,
                            .num_slots = 96,
                            .num_nodes = 2});
  const Placement initial = Placement::initial(shape);
  const auto swift = make_policy("swift");
  int changed = 0;
  for (unsigned seed = 0; seed < 10; ++seed) {
    SCOPED_TRACE(seed);
    const auto load = lognormal_load(64, seed);
    LayerProblem problem{.shape = &shape, .load = load, .placement = initial.layer(0)};
    const LayerPlan plain = swift->plan_layer(problem);
    problem.locality_first = true;
    const LayerPlan near = swift->plan_layer(problem);
    EXPECT_EQ(near.placement, plain.placement);
    EXPECT_LE(near.imbalance_after, plain.imbalance_after + 2e-3);
    changed += near.shares != plain.shares ? 1 : 0;
  }
  EXPECT_GT(changed, 0);
}

TEST(Swift, AWorkBudgetBoundsTheSearch) {
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 256, .num_ranks = 32, .num_slots = 288});
  const Placement initial = Placement::initial(shape);
  const auto load = lognormal_load(256, 2);
  LayerProblem problem{
      .shape = &shape, .load = load, .placement = initial.layer(0), .max_work = 1000};
  const LayerPlan plan = make_policy("swift")->plan_layer(problem);
  EXPECT_GT(plan.work, 0);
  EXPECT_LT(plan.work, 1000 + 5000);  // checked between steps
  EXPECT_LT(plan.imbalance_after, plan.imbalance_before);
}

TEST(Swift, WastedSlotsAreUsedEvenWhereNothingElseIsWorthIt) {
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 4, .num_ranks = 2, .num_slots = 6});
  const std::vector<std::int64_t> load = {10, 10, 10, 10};
  const std::vector<std::int32_t> slots = {0, 1, 1, 2, 3, 3};
  const LayerPlan plan = make_policy("swift")->plan_layer(
      {.shape = &shape, .load = load, .placement = slots, .min_gain = 1.0});
  EXPECT_EQ(count_same_rank_duplicates(plan.placement, shape), 0);
  EXPECT_EQ(plan.moves, 2);
}

}  // namespace
}  // namespace swiftbalancer
