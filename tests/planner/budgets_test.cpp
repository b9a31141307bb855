// Plans of a whole rebalance within its budgets.

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <swiftbalancer/error.hpp>
#include <swiftbalancer/placement.hpp>
#include <swiftbalancer/policy.hpp>

#include "generated_loads.hpp"
#include "planner/plan_job.hpp"
#include "planner/rank_moves.hpp"

namespace swiftbalancer {
namespace {

using testing::generated_distribution;
using ::testing::HasSubstr;
using testing::interpolated;
using testing::sampled;
using testing::Skew;

constexpr int kLayers = 6;
constexpr int kRanks = 8;

ClusterShape shape_of() {
  return ClusterShape({.num_moe_layers = kLayers,
                       .num_logical_experts = 64,
                       .num_ranks = kRanks,
                       .num_slots = 80,
                       .num_nodes = 2});
}

// Layer 0 has changed most, the last layer least.
ExpertLoad drifted_load() {
  const auto before = generated_distribution(kLayers, 64, Skew::kLognormal, 1);
  const auto after = generated_distribution(kLayers, 64, Skew::kLognormal, 2);
  ExpertLoad load = sampled(before, 1e6, 7);
  for (int layer = 0; layer < kLayers; ++layer) {
    const auto row = sampled(interpolated(before, after, 1.0 / (1 + layer)), 1e6, 9);
    std::ranges::copy(row.layer(layer), load.layer(layer).begin());
  }
  return load;
}

ServedState balanced_before(const ClusterShape& shape) {
  Placement placement = Placement::initial(shape);
  const ExpertLoad load = sampled(generated_distribution(kLayers, 64, Skew::kLognormal, 1), 1e6, 3);
  for (int layer = 0; layer < kLayers; ++layer) {
    const LayerPlan plan = make_policy("swift")->plan_layer({.shape = &shape,
                                                             .load = load.layer(layer),
                                                             .placement = placement.layer(layer),
                                                             .from_scratch = true});
    std::ranges::copy(plan.placement, placement.layer(layer).begin());
  }
  return ServedState::even(placement, shape);
}

// What single moves win on few counts is mostly noise: fewer are made of the same shares.
TEST(Price, IsLessWhereLoadsAreKnownWell) {
  const ClusterShape shape = shape_of();
  const ServedState served = balanced_before(shape);
  const ExpertLoad load = sampled(generated_distribution(kLayers, 64, Skew::kLognormal, 2), 1e6, 9);
  const auto plan_of = [&](double unit, double min_gain) {
    PlannerConfig config;
    config.min_gain = min_gain;
    const auto job = make_plan_job({.shape = shape,
                                    .config = config,
                                    .served = served,
                                    .load = load,
                                    .unit = unit,
                                    .dispatch = Dispatch::kEven});
    while (!job->advance()) {
    }
    return job->take();
  };
  constexpr double kFew = 1100.0;  // some 900 tokens a layer, a noise of 0.125
  const Plan well = plan_of(1.0, 0.01), badly = plan_of(kFew, 0.01);
  EXPECT_LT(badly.moves, well.moves);
  EXPECT_LT(well.imbalance_after.mean_over_layers, badly.imbalance_after.mean_over_layers);
  EXPECT_EQ(badly.moves, plan_of(1.0, 0.04).moves) << "the least price is a quarter";
}

class Budgets : public ::testing::TestWithParam<Dispatch> {
 protected:
  Plan planned(const PlanLimits& limits, const std::string& policy = "swift") const {
    PlannerConfig config;
    config.policy = policy;
    config.min_gain = 0.001;
    config.limits = limits;
    for (int layer = 0; layer < kLayers; ++layer) config.expert_bytes.push_back(bytes_of(layer));
    const auto job = make_plan_job({.shape = shape_,
                                    .config = config,
                                    .served = served_,
                                    .load = load_,
                                    .dispatch = GetParam()});
    int advances = 1;
    while (!job->advance()) ++advances;
    EXPECT_LE(advances, most_advances(shape_));
    return job->take();
  }

  // Fewer moves than are wanted; shares make many unnecessary.
  static int some() { return GetParam() == Dispatch::kSplit ? 4 : 8; }

  static std::int64_t bytes_of(int layer) { return 100 + 10 * layer; }

  static std::int64_t bytes_of(const Plan& plan) {
    std::int64_t bytes = 0;
    for (const LayerChange& change : plan.changes)
      bytes += change.plan.moves * bytes_of(change.moe_layer_id);
    return bytes;
  }

  // Bytes that each rank receives, and those that it alone can send.
  std::vector<std::int64_t> busiest_bytes(const Plan& plan) const {
    std::vector<std::int64_t> received(kRanks, 0), sent(kRanks, 0);
    for (const LayerChange& change : plan.changes) {
      const auto before = served_.placement.layer(change.moe_layer_id);
      std::vector<std::vector<int>> holders(64);
      for (int slot = 0; slot < shape_.num_slots(); ++slot)
        holders[static_cast<std::size_t>(before[static_cast<std::size_t>(slot)])].push_back(
            shape_.rank_of_slot(slot));
      for (int slot = 0; slot < shape_.num_slots(); ++slot) {
        const std::int32_t expert = change.plan.placement[static_cast<std::size_t>(slot)];
        const auto& from = holders[static_cast<std::size_t>(expert)];
        const int rank = shape_.rank_of_slot(slot);
        if (std::ranges::find(from, rank) != from.end()) continue;
        received[static_cast<std::size_t>(rank)] += bytes_of(change.moe_layer_id);
        if (from.size() == 1)
          sent[static_cast<std::size_t>(from[0])] += bytes_of(change.moe_layer_id);
      }
    }
    for (std::size_t rank = 0; rank < kRanks; ++rank)
      received[rank] = std::max(received[rank], sent[rank]);
    return received;
  }

  const ClusterShape shape_ = shape_of();
  const ServedState served_ = balanced_before(shape_);
  const ExpertLoad load_ = drifted_load();
};

TEST_P(Budgets, AreNeverExceededAndEachMoreOfThemBalancesMore) {
  const Plan free = planned({});
  ASSERT_GT(free.moves, some());
  double before = free.imbalance_before.mean_over_layers;
  for (const int budget : {0, 1, 4, 12, 30}) {
    const Plan plan = planned({.max_moves_per_rebalance = budget});
    EXPECT_LE(plan.moves, budget);
    EXPECT_LE(plan.imbalance_after.mean_over_layers, before + 0.005) << budget;
    before = plan.imbalance_after.mean_over_layers;
    const Plan by_bytes = planned({.max_bytes_per_rebalance = budget * 120});
    EXPECT_LE(bytes_of(by_bytes), budget * 120);
  }
  EXPECT_LT(before, free.imbalance_before.mean_over_layers - 0.1);
}

TEST_P(Budgets, ThatAreLargeEnoughChangeNothing) {
  const Plan free = planned({});
  const Plan bound = planned({.max_moves_per_rebalance = free.moves,
                              .max_bytes_per_rebalance = bytes_of(free),
                              .max_bytes_per_rank = bytes_of(free) * kRanks});
  ASSERT_EQ(bound.changes.size(), free.changes.size());
  for (std::size_t i = 0; i < free.changes.size(); ++i) {
    EXPECT_EQ(bound.changes[i].moe_layer_id, free.changes[i].moe_layer_id);
    EXPECT_EQ(bound.changes[i].plan.placement, free.changes[i].plan.placement);
    EXPECT_EQ(bound.changes[i].plan.shares, free.changes[i].plan.shares);
  }
}

TEST_P(Budgets, OfARankHoldForWhatItReceivesAndSends) {
  const auto most = std::ranges::max(busiest_bytes(planned({})));
  for (const std::int64_t budget : {std::int64_t{0}, std::int64_t{150}, most / 3, most / 2, most}) {
    const Plan plan = planned({.max_bytes_per_rank = budget});
    EXPECT_LE(std::ranges::max(busiest_bytes(plan)), budget);
    if (budget == 0 || budget == most) {
      EXPECT_EQ(plan.moves > 0, budget > 0);
    }
  }
}

TEST_P(Budgets, GoToTheLayersThatWinMost) {
  const Plan plan = planned({.max_moves_per_rebalance = some()});
  int of_first_half = 0;
  for (const LayerChange& change : plan.changes)
    of_first_half += change.moe_layer_id < kLayers / 2 ? change.plan.moves : 0;
  EXPECT_GT(of_first_half, some() / 2);
  // The same moves spread evenly win less.
  double even = 0.0;
  for (int layer = 0; layer < kLayers; ++layer) {
    even +=
        make_policy("swift")
            ->plan_layer({.shape = &shape_,
                          .load = load_.layer(layer),
                          .placement = served_.placement.layer(layer),
                          .max_moves = (layer + 1) * some() / kLayers - layer * some() / kLayers,
                          .dispatch = GetParam()})
            .imbalance_after /
        kLayers;
  }
  EXPECT_LT(plan.imbalance_after.mean_over_layers, even);
}

TEST_P(Budgets, BindPoliciesThatCannotMakeSmallerPlansToo) {
  const Plan free = planned({}, "eplb");
  const int budget = free.moves / 2;
  const Plan plan = planned({.max_moves_per_rebalance = budget}, "eplb");
  EXPECT_LE(plan.moves, budget);
  EXPECT_GT(plan.moves, 0);
  EXPECT_EQ(planned({.max_bytes_per_rank = 99}, "eplb").moves, 0);
}

TEST_P(Budgets, GiveTheSamePlanAgain) {
  const PlanLimits limits{.max_moves_per_rebalance = 11, .max_bytes_per_rank = 600};
  const Plan first = planned(limits), second = planned(limits);
  ASSERT_EQ(first.changes.size(), second.changes.size());
  for (std::size_t i = 0; i < first.changes.size(); ++i)
    EXPECT_EQ(first.changes[i].plan.placement, second.changes[i].plan.placement);
}

INSTANTIATE_TEST_SUITE_P(Dispatches, Budgets, ::testing::Values(Dispatch::kEven, Dispatch::kSplit),
                         [](const auto& test) {
                           return test.param == Dispatch::kEven ? "Even" : "Split";
                         });

TEST(RankMoves, CountWhatComesAndEveryNearestSender) {
  const ClusterShape shape({.num_moe_layers = 1,
                            .num_logical_experts = 4,
                            .num_ranks = 4,
                            .num_slots = 8,
                            .num_nodes = 2});
  const std::vector<std::int32_t> before = {0, 1, 0, 2, 3, 1, 0, 3};
  const std::vector<std::int32_t> after = {0, 1, 0, 1, 3, 0, 2, 3};
  const RankMoves moves = rank_moves(shape, before, after);
  EXPECT_EQ(moves.received, (std::vector{0, 1, 1, 1}));
  EXPECT_EQ(moves.sent,
            (std::vector{1, 1, 0, 1}));  // 1 from its node, 0 from its node, 2 from afar
  EXPECT_EQ(moves.busiest(), 1);
  EXPECT_EQ(rank_moves(shape, before, before).busiest(), 0);
}

std::string refusal(const PlanLimits& limits, const std::string& policy = "swift") {
  try {
    check_plan_limits(limits, policy, shape_of());
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "accepted";
}

TEST(PlanLimits, AreRefusedByNameWhereTheyMakeNoSense) {
  EXPECT_EQ(refusal({}), "accepted");
  EXPECT_EQ(refusal({.max_moves_per_rebalance = 0, .max_bytes_per_rank = 5, .max_replicas = 2}),
            "accepted");
  EXPECT_THAT(refusal({.max_moves_per_rebalance = -2}), HasSubstr("max_moves_per_rebalance is -2"));
  EXPECT_THAT(refusal({.max_bytes_per_rebalance = -2}), HasSubstr("max_bytes_per_rebalance is -2"));
  EXPECT_THAT(refusal({.max_bytes_per_rank = -9}), HasSubstr("max_bytes_per_rank is -9"));
  EXPECT_THAT(refusal({.max_rank_moves = -2}), HasSubstr("max_rank_moves is -2"));
  EXPECT_THAT(refusal({.gate = CostGate{1.0, 1.0, 0.0}}), HasSubstr("horizon_steps is 0"));
  EXPECT_THAT(refusal({.rank_speeds = {1.0}}), HasSubstr("rank_speeds has 1 entries for 8 ranks"));
  EXPECT_THAT(refusal({.rank_speeds = {1, 1, 1, 0, 1, 1, 1, 1}}),
              HasSubstr("the speed of rank 3 is 0"));
  EXPECT_THAT(refusal({.rank_speeds = {1, 1, 1, 1e-7, 1, 1, 1, 1}}),
              HasSubstr("rank speeds are from 1e-07 to 1"));
  EXPECT_THAT(refusal({.pinned_experts = {3, 64}}), HasSubstr("expert 64 does not exist"));
  EXPECT_THAT(refusal({.max_replicas = 1}), HasSubstr("max_replicas is 1"));
  EXPECT_THAT(refusal({.max_replicas = 4}, "eplb"), HasSubstr("policy eplb does not go by"));
  EXPECT_EQ(refusal({.max_replicas = 4}, "static"), "accepted");
}

}  // namespace
}  // namespace swiftbalancer
